"""A WSGI service under gunicorn, with an engine in each worker.

    gunicorn -c examples/gunicorn_prefork/settings.py --chdir examples/gunicorn_prefork app:app
    curl -d '{"row": [1, 2, 3, 4]}' localhost:8000/predict

settings.py starts the engine after the fork: one made before it, at import with
``--preload``, has lost its threads in the worker, and every use of it there is refused with
``ForkedEngineError``. A worker's threads share batches; workers share nothing. WSGI does not tell
of clients that leave: where that matters, serve the FastAPI example with gunicorn's uvicorn
workers.
"""

import json
import os
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

import numpy as np
from numpy.typing import NDArray

import clipper


def total(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stand in for your model: 5 ms, however many rows."""
    time.sleep(0.005)
    return np.asarray(batch.sum(axis=1), np.float32)


class Service:
    """A WSGI application with an engine of this process."""

    engine: clipper.Engine

    def start(self) -> None:
        """Make this worker's engine."""
        self.engine = clipper.Engine()
        self.engine.deploy("total", total, warmup=np.ones(4, np.float32), slo=5.0)

    def stop(self) -> None:
        """Close this worker's engine."""
        self.engine.close()

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer one request. A client that has gone is not seen here: the SLO bounds its row."""
        try:
            status, content = 200, self._answer(environ)
        except clipper.ClipperError as error:
            status, content = error.status, {"detail": str(error)}
        except (KeyError, TypeError, ValueError) as error:
            status, content = 422, {"detail": str(error)}
        body = json.dumps({"pid": os.getpid(), **content}).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
        start_response(f"{status} {HTTPStatus(status).phrase}", headers)
        return [body]

    def _answer(self, environ: dict[str, Any]) -> dict[str, Any]:
        if environ["REQUEST_METHOD"] == "GET":
            return self.engine.describe()
        row = np.asarray(json.loads(environ["wsgi.input"].read())["row"], np.float32)
        prediction = self.engine.model("total").predict(row)
        return {"output": float(prediction.output), "latency": prediction.latency}


app = Service()
