"""A service on the standard library alone: a thread per request, an engine for all of them.

    python examples/threaded_service/service.py 8000
    curl -d '{"row": [1, 2, 3, 4]}' localhost:8000/predict

Threads that ask at the same time share batches. SIGTERM ends it once open requests are answered.
"""

import json
import select
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from numpy.typing import NDArray

import clipper

GLANCE_SECONDS = 0.01  # how often a waiting thread looks whether its client is still there


def total(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stand in for your model: 20 ms, however many rows."""
    time.sleep(0.02)
    return np.asarray(batch.sum(axis=1), np.float32)


class Server(ThreadingHTTPServer):
    """Knows what its handlers need."""

    daemon_threads = False  # wait for those that still answer
    request_queue_size = 128

    def __init__(self, port: int, engine: clipper.Engine) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.engine = engine
        self.totals = engine.deploy("total", total, warmup=np.ones(4, np.float32), slo=5.0)


class Handler(BaseHTTPRequestHandler):
    """Answers one request, on a thread of its own."""

    server: Server

    def do_GET(self) -> None:
        """Show the engine's counters."""
        self._reply(200, self.server.engine.describe())

    def do_POST(self) -> None:
        """Answer one row."""
        with suppress(ConnectionError):  # nobody reads it
            self._reply(*self._answer())

    def _answer(self) -> tuple[int, dict[str, Any]]:
        try:
            question = json.loads(self.rfile.read(int(self.headers["content-length"])))
            row = np.asarray(question["row"], np.float32)
            prediction = unless_gone(self.connection, self.server.totals.submit(row))
        except (KeyError, TypeError, ValueError) as error:
            return 422, {"detail": str(error)}
        except clipper.ClipperError as error:
            return error.status, {"detail": str(error)}
        return 200, {"output": float(prediction.output), "latency": prediction.latency}

    def _reply(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Be silent."""


def unless_gone(connection: socket.socket, future: clipper.PredictionFuture) -> clipper.Prediction:
    """Wait for an answer; if the client hangs up first, withdraw the question."""
    while True:
        try:
            return future.result(timeout=GLANCE_SECONDS)
        except TimeoutError:
            readable, _, _ = select.select([connection], [], [], 0)
            if readable and not connection.recv(1, socket.MSG_PEEK):
                future.cancel()
                raise ConnectionAbortedError("the client has gone") from None


def main(port: int) -> None:
    """Serve until SIGTERM or an interrupt."""
    with clipper.Engine() as engine, Server(port, engine) as server:
        # shutdown() waits for the loop that the handler interrupts: it needs a thread.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
        server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
