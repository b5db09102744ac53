"""State in a real Redis server, which may be down, or go away."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipper
from clipper import Engine, FeedbackStatus

redis: Any = pytest.importorskip("redis")


class Server:
    """Debian's redis-server on a Unix socket."""

    fsync = "everysec"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/socket"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", f"{self.folder}/socket", "--dir",
             str(self.folder), "--appendonly", "yes", "--appendfsync", self.fsync, "--save", ""],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        client = redis.Redis.from_url(self.url)
        for _ in range(200):
            try:
                if client.ping():
                    break
            except redis.RedisError:
                time.sleep(0.05)
        client.close()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if shutil.which("redis-server") is None:
        subprocess.run(
            ["apt-get", "install", "-y", "-q", "redis-server"], capture_output=True, check=False
        )
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server, and it cannot be installed")
    server = Server(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


def serve(url: str, durability: Any = "process") -> tuple[Engine, clipper.Application]:
    engine = Engine(data=url, durability=durability)
    for n in range(2):
        engine.deploy(str(n), lambda batch, n=n: np.full(len(batch), n), warmup=[1.0])
    app = engine.create_application(
        "app", models=["0", "1"], slo=None, context_memory="64KiB", policy=clipper.Ucb1()
    )
    return engine, app


def teach(app: clipper.Application, contexts: Any) -> None:
    for context in contexts:
        made = app.predict([1.0], context=context)
        assert app.feedback(made, loss=0.5) is FeedbackStatus.APPLIED


def counts_of(server: Server) -> dict[bytes, float]:
    client = redis.Redis.from_url(server.url)
    try:
        assert client.zcard("clipper:default:journal:1") == 0
        states = client.hgetall("clipper:default:states:1")
    finally:
        client.close()
    return {
        context: float(np.frombuffer(state[4:], np.float64)[:-1].sum())
        for context, state in states.items()
    }


@pytest.mark.parametrize("durability", ["process", "memory"])
def test_what_was_learned_is_there_after_a_restart(server: Server, durability: str) -> None:
    for _ in range(2):
        engine, app = serve(server.url, durability)
        teach(app, range(1000))
        engine.close()
    counts = counts_of(server)
    assert len(counts) == 1000
    assert len(set(counts.values())) == 1


def test_power_needs_a_server_that_writes_everything(server: Server) -> None:
    with pytest.raises(clipper.StateError, match="appendfsync always"):
        Engine(data=server.url, durability="power")
    server.kill()
    server.fsync = "always"
    server.start()
    for _ in range(2):
        engine, app = serve(server.url, "power")
        teach(app, range(20))
        engine.close()
    assert len(counts_of(server)) == 20


def test_a_name_that_is_in_use_is_refused_and_another_is_not(server: Server) -> None:
    with Engine(data=server.url):
        with pytest.raises(clipper.DataDirectoryInUseError, match="in use by an engine of process"):
            Engine(data=server.url)
        Engine(data=server.url + "?name=other").close()
    Engine(data=server.url).close()


def test_a_server_that_is_down_at_the_start_is_named_as_the_reason(tmp_path: Path) -> None:
    with pytest.raises(clipper.StateError, match=r"cannot be used: .*socket"):
        Engine(data=f"unix://{tmp_path}/socket")


def test_serving_goes_on_without_the_server_and_what_was_learned_is_written_later(
    server: Server,
) -> None:
    engine, app = serve(server.url)
    teach(app, range(100))
    server.kill()
    unsaved = 0
    for i in range(100):
        made = app.predict([1.0], context=i)
        assert not made.is_default
        assert app.feedback(made, loss=0.5) is FeedbackStatus.UNSAVED
        unsaved += 1
    assert app.describe()["feedback"]["unsaved"] == unsaved
    assert not engine.describe()["state"]["available"]
    server.start()
    for _ in range(200):
        if engine.describe()["state"]["available"]:
            break
        time.sleep(0.05)
    teach(app, range(100))
    engine.close()
    counts = counts_of(server)
    assert len(counts) == 100
    assert len(set(counts.values())) == 1
