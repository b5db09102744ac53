"""An engine's socket hears its user's commands, whatever else comes to it."""

import contextlib
import gc
import json
import os
import random
import socket
import stat
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipper
from clipper import Engine, Tensor
from clipper.admin import AdminClient, AdminServer, CommandError, NotRunningError, messages, server
from clipper.admin.plain import to_plain

#: What takes longer hangs, however busy the machine is.
LONG_SECONDS = 30.0
PRINTING = '''
"""A model that says when it is loaded and what it was asked."""
import os

def load():
    print("loaded", flush=True)
    def run(batch):
        if batch.min() < 0:
            os._exit(3)
        print(f"asked for {batch[0]:g}", flush=True)
        return batch
    return run
'''


@pytest.fixture
def admin(engine: Engine, tmp_path: Path) -> AdminServer:
    scalar = Tensor("float64")
    engine.deploy("double", lambda batch: batch * 2, input=scalar, output=scalar)
    engine.create_application("app", models=["double"], slo=1.0, default=None)
    return engine.open_admin(tmp_path / "engine.sock")


@pytest.fixture
def client(admin: AdminServer) -> Iterator[AdminClient]:
    with AdminClient(admin.path, timeout=LONG_SECONDS) as made:
        yield made


def eventually(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + LONG_SECONDS
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def exchange(path: Path, sent: bytes) -> dict[str, Any] | None:
    """Send bytes and nothing more; return the answer, if there is one before the end."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        with contextlib.suppress(ConnectionError):  # refused before it has said anything
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            return messages.receive(connection, LONG_SECONDS)
    return None


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


# ---- commands ------------------------------------------------------------


def test_commands_see_and_ask_the_engine(client: AdminClient) -> None:
    assert client.call("hello")["pid"] == os.getpid()
    made = client.call("predict", application="app", input=2.5)
    assert (made["output"], made["is_default"], made["models"]) == (5.0, False, {"double": 1})
    brief = client.call("ps")
    assert [one["name"] for one in brief["models"]] == ["double"]
    assert brief["applications"][0]["answered"] == 1
    assert client.call("describe", name="app")["answered"] == 1
    assert set(client.call("describe")["models"]) == {"double"}


def test_commands_change_the_engine(client: AdminClient, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "admin_models.py").write_text("def triple():\n    return lambda batch: batch * 3\n")
    table = {"source": "admin_models:triple", "input": "float64", "output": "float64"}
    made = client.call("deploy", name="double", model=table, folder=str(tmp_path))
    assert made == {"model": "double", "version": 2}
    assert engine.application("app").predict(1.0).output == 3.0
    assert client.call("rollback", model="double")["version"] == 1
    assert engine.application("app").predict(1.0).output == 2.0
    assert client.call("undeploy", name="double")["linked_by"] == ["app"]
    assert engine.application("app").predict(1.0).is_default


@pytest.mark.parametrize(
    ("command", "given", "kind", "words"),
    [
        ("describe", {"name": "no"}, "ApplicationNotFoundError", "there are ['app', 'double']"),
        ("rollback", {"model": "double"}, "ClipperError", "no version before 1"),
        ("rollback", {"model": "nothing"}, "ModelNotFoundError", "no model 'nothing'"),
        ("rollback", {"model": 3}, "MessageError", "model is 3: give a name"),
        ("rollback", {}, "MessageError", "missing a required argument: 'model'"),
        ("rollback", {"model": "double", "x": 1}, "MessageError", "unexpected keyword argument"),
        ("format", {}, "MessageError", "no command 'format' is known here"),
        ("__init__", {}, "MessageError", "no command '__init__' is known here"),
        ("run", {"name": "hello", "given": {}}, "MessageError", "no command 'run'"),
        ("link", {"application": "double", "model": "double"}, "ClipperError", "is a model"),
        ("predict", {"application": "app", "input": "text"}, "ValueError", ""),
        ("predict", {"application": "app", "input": 1.0, "context": [1]}, "TypeError", ""),
        ("logs", {"model": "double", "lines": -1}, "MessageError", "lines is -1: give 0 or more"),
        ("stop", {}, "ClipperError", "embedded in another program"),
        ("deploy", {"name": "x", "model": {"source": "a:b", "slo": "20 s x"}, "folder": "/"},
         "ConfigError", "deploy: slo: '20 s x' is no duration"),
        ("deploy", {"name": "x", "model": {"source": "no.onnx"}, "folder": "/nowhere"},
         "ConfigError", "deploy: source: there is no file /nowhere/no.onnx"),
    ],
)  # fmt: skip
def test_what_the_engine_refuses_comes_through_in_its_words(
    client: AdminClient, command: str, given: dict[str, Any], kind: str, words: str
) -> None:
    with pytest.raises(CommandError) as caught:
        client.call(command, **given)
    assert (
        (caught.value.kind in (kind, "TypeError", "ValueError"))
        if not words
        else (caught.value.kind == kind)
    )
    assert words in str(caught.value)
    assert client.call("hello")["ready"]  # on the same connection


def test_a_deploy_that_takes_long_holds_up_nobody(
    admin: AdminServer, engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "slow_models.py").write_text(
        "import threading\ngo = threading.Event()\n"
        "def slow():\n    go.wait(60)\n    return lambda batch: batch\n"
    )
    table = {"source": "slow_models:slow", "input": "float64", "output": "float64"}

    def deploy() -> None:
        with AdminClient(admin.path) as deploying:
            deploying.call("deploy", name="slow", model=table, folder=str(tmp_path))

    thread = threading.Thread(target=deploy)
    thread.start()
    try:
        with AdminClient(admin.path, timeout=LONG_SECONDS) as other:
            assert other.call("predict", application="app", input=1.0)["output"] == 2.0
            assert thread.is_alive()
    finally:
        import sys

        eventually(lambda: "slow_models" in sys.modules)
        sys.modules["slow_models"].go.set()
        thread.join(LONG_SECONDS)
    assert engine.model("slow").predict(1.0).output == 1.0


def test_the_output_of_workers_is_followed_beyond_their_death(
    client: AdminClient, engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "printing_models.py").write_text(PRINTING)
    scalar = Tensor("float64")
    printing = engine.deploy(
        "printing", "printing_models:load", input=scalar, output=scalar, default=None,
        where=clipper.Isolated(paths=(tmp_path,)),
    )  # fmt: skip
    seen: list[str] = []

    def follow() -> None:
        for part in client.follow("logs", model="printing", following=True):
            seen.append(part["line"])

    thread = threading.Thread(target=follow)
    thread.start()
    eventually(lambda: "loaded" in seen)
    printing.predict(7.0)
    eventually(lambda: "asked for 7" in seen)
    printing.predict(-1.0, deadline=1.0)
    eventually(lambda: seen.count("loaded") == 2)
    engine.undeploy("printing")
    thread.join(LONG_SECONDS)
    assert not thread.is_alive()
    assert seen.count("asked for 7") == 1


def test_only_so_many_lines_are_shown_as_were_asked_for(
    client: AdminClient, engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "printing_models.py").write_text(PRINTING)
    scalar = Tensor("float64")
    printing = engine.deploy(
        "printing", "printing_models:load", input=scalar, output=scalar,
        where=clipper.Isolated(paths=(tmp_path,)),
    )  # fmt: skip
    for i in range(5):
        printing.predict(float(i))

    def lines(most: int) -> list[str]:
        return [part["line"] for part in client.follow("logs", model="printing", lines=most)]

    eventually(lambda: lines(2) == ["asked for 3", "asked for 4"])
    assert lines(0) == []
    assert lines(100) == ["loaded", *(f"asked for {i}" for i in range(5))]


def test_the_errors_of_a_model_are_told(client: AdminClient, engine: Engine) -> None:
    def failing(batch: Any) -> Any:
        raise LookupError("the weights are gone")

    scalar = Tensor("float64")
    engine.deploy("failing", failing, input=scalar, output=scalar, default=None).predict(1.0)
    (text,) = client.call("errors", model="failing")
    assert "LookupError: the weights are gone" in text


# ---- hostile peers ------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"", None),
        (b"\x00", "in the middle of a message"),
        (b"\x00\x00\x00\x00", "a message of 0 bytes was announced"),
        (b"\xff\xff\xff\xff", "a message of 4294967295 bytes was announced"),
        (struct.pack(">I", 10) + b"{}", "in the middle of a message"),
        (framed(b"{"), "no JSON"),
        (framed(b"\xff\xfe\xfd"), "no JSON"),
        (framed(b"[" * 200_000), "no JSON"),
        (framed(b"[]"), "a message is an object, not list"),
        (framed(b"{}"), "the message is of version None, but 1 is spoken here"),
        (framed(b'{"clipper": 2, "do": "hello"}'), "the message is of version 2"),
        (framed(b'{"clipper": 1}'), "no command None is known"),
        (framed(b'{"clipper": 1, "do": ["hello"]}'), "no command ['hello'] is known"),
        (framed(b'{"clipper": 1, "do": "hello", "with": 3}'), "no command 'hello' is known"),
        (framed(b'{"clipper": 1, "do": "hello", "with": {"": 1}}'), "unexpected keyword"),
        (b"GET / HTTP/1.1\r\n\r\n", "bytes was announced"),
    ],
)
def test_bytes_that_are_no_command_are_answered_and_hurt_nobody(
    admin: AdminServer, sent: bytes, words: str | None
) -> None:
    answer = exchange(admin.path, sent)
    assert (answer is None) if words is None else (words in answer["error"]["text"])  # type: ignore[index]
    with AdminClient(admin.path, timeout=LONG_SECONDS) as good:
        assert good.call("hello")["ready"]


def test_random_bytes_hurt_nobody(admin: AdminServer) -> None:
    seed = 20
    source = random.Random(seed)
    good = json.dumps({"clipper": 1, "do": "describe", "with": {"name": "app"}}).encode()
    for _ in range(200):
        body = bytearray(good)
        for _ in range(source.randrange(1, 6)):
            body[source.randrange(len(body))] = source.randrange(256)
        sent = framed(bytes(body)) if source.random() < 0.7 else source.randbytes(40)
        answer = exchange(admin.path, sent)
        assert answer is None or answer.keys() & {"value", "error"}, seed
    with AdminClient(admin.path, timeout=LONG_SECONDS) as client:
        assert client.call("predict", application="app", input=1.0)["output"] == 2.0
    eventually(lambda: not admin._connections)


def test_a_message_that_never_ends_is_given_up(
    admin: AdminServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "REST_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(admin.path))
        connection.sendall(struct.pack(">I", 100) + b"{")
        connection.settimeout(LONG_SECONDS)
        assert connection.recv(1) == b""


def test_connections_are_bounded(admin: AdminServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 3)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(AdminClient(admin.path)).call("hello")
        answer = exchange(admin.path, b"")
        assert answer is not None
        assert "3 connections are open already" in answer["error"]["text"]
    eventually(lambda: not admin._connections)
    with AdminClient(admin.path, timeout=LONG_SECONDS) as client:
        assert client.call("hello")["ready"]


def test_a_reader_that_has_gone_ends_what_it_followed(admin: AdminServer) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(admin.path))
        messages.send(connection, {"do": "logs", "with": {"model": "double", "following": True}})
        eventually(lambda: any(admin._connections.values()))
    eventually(lambda: not admin._connections)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_other_users_are_not_heard(admin: AdminServer, monkeypatch: pytest.MonkeyPatch) -> None:
    admin.path.parent.chmod(0o755)
    monkeypatch.chdir(admin.path.parent)  # what is above it they cannot pass
    admin.path.chmod(0o666)  # so that it is the server who refuses
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            os.seteuid(65534)
            connection.connect(admin.path.name)
        finally:
            os.seteuid(0)
        answer = messages.receive(connection, LONG_SECONDS)
    assert answer is not None
    assert answer["error"]["type"] == "PermissionError"
    assert "and of root only" in answer["error"]["text"]


# ---- the socket itself ------------------------------------------------------------


def test_only_its_user_may_open_the_socket(admin: AdminServer) -> None:
    mode = admin.path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_a_socket_is_one_engines(admin: AdminServer) -> None:
    with Engine() as second, pytest.raises(clipper.AlreadyExistsError, match="another engine"):
        second.open_admin(admin.path)
    with AdminClient(admin.path, timeout=LONG_SECONDS) as client:
        assert client.call("hello")["ready"]


def test_the_socket_of_an_engine_that_died_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with pytest.raises(NotRunningError, match="no engine listens"):
        AdminClient(path)
    with Engine() as engine:
        engine.open_admin(path)
        with AdminClient(path, timeout=LONG_SECONDS) as client:
            assert client.call("hello")["ready"]
    assert not path.exists()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    path.write_text("precious")
    with Engine() as engine, pytest.raises(FileExistsError, match="that is no socket"):
        engine.open_admin(path)
    assert path.read_text() == "precious"


def test_a_path_may_be_longer_than_the_kernel_takes(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 150)
    folder.mkdir()
    with Engine() as engine:
        engine.open_admin(folder / "engine.sock")
        with AdminClient(folder / "engine.sock", timeout=LONG_SECONDS) as client:
            assert client.call("hello")["ready"]


def test_it_ends_with_its_engine(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    engine = Engine()
    engine.open_admin(path)
    with AdminClient(path, timeout=LONG_SECONDS) as client:
        client.call("hello")
        engine.close()
        with pytest.raises(NotRunningError, match="ended before it answered"):
            client.call("hello")
    with pytest.raises(clipper.EngineClosedError):
        engine.open_admin(path)


def test_an_engine_that_is_dropped_takes_its_socket_along(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    engine = Engine()
    engine.open_admin(path)
    alive = weakref.ref(engine)
    del engine
    gc.collect()
    assert alive() is None
    eventually(lambda: not path.exists())


def test_nothing_is_left_of_a_server(admin: AdminServer, engine: Engine) -> None:
    def held() -> int:
        return len(os.listdir("/proc/self/fd"))

    engine.open_admin(admin.path.with_name("warm.sock")).close()
    before = held()
    for i in range(5):
        other = engine.open_admin(admin.path.with_name(f"{i}.sock"))
        with AdminClient(other.path, timeout=LONG_SECONDS) as client:
            client.call("hello")
        other.close()
    eventually(lambda: held() <= before)


def test_values_become_plain() -> None:
    given = {
        1: np.float32(0.5), "nan": float("nan"), "cause": clipper.Cause.DEADLINE, "raw": b"\x00",
        "rows": clipper.Ragged.from_rows([[1, 2], [3]]), "set": (np.array([True]), None),
        "path": Path("/x"),
    }  # fmt: skip
    assert json.loads(json.dumps(to_plain(given))) == {
        "1": 0.5, "nan": None, "cause": "DEADLINE", "raw": {"base64": "AA=="},
        "rows": [[1, 2], [3]], "set": [[True], None], "path": "/x",
    }  # fmt: skip
