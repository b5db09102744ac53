"""Every command, against an engine that `clipper serve` runs."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from clipper.admin import AdminClient, CommandError, NotRunningError
from clipper.cli import main
from clipper.cli.commands import toml_value
from clipper.cli.tables import table, tree

ROOT = Path(__file__).parents[1]
LONG_SECONDS = 60.0
MODELS = """
import os, threading, time

def double():
    return lambda batch: batch * 2

def triple():
    return lambda batch: batch * 3

def slow():
    def run(batch):
        time.sleep(0.05)
        return batch * 2
    return run

def stuck():
    def run(batch):
        time.sleep(3600)
    return run

def sleepy():
    print("loading", flush=True)
    time.sleep(3600)

def printing():
    print("loaded", flush=True)
    return double()

def broken():
    raise RuntimeError("no weights")
"""
DECLARED = """
[server]
data = "state"
drain = "{drain}"
[models.double]
source = "served_models:{function}"
input = "float64"
output = "float64"
[applications.app]
models = ["double"]
slo = "30s"
default = -1.0
"""
PRINTING = """
[models.printing]
source = "served_models:printing"
input = "float64"
output = "float64"
where = "isolated"
"""


@dataclass
class Served:
    """A `clipper serve` that runs."""

    process: subprocess.Popen[str]
    folder: Path
    said: list[str] = field(default_factory=list)

    @property
    def socket(self) -> Path:
        return self.folder / "state" / "engine.sock"

    def client(self) -> AdminClient:
        return AdminClient(self.socket, timeout=LONG_SECONDS)

    def log(self) -> str:
        return "".join(self.said)

    def wait_for(self, words: str) -> None:
        eventually(lambda: words in self.log())

    def end(self) -> int:
        """Tell it to end, and return its status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LONG_SECONDS)


def eventually(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + LONG_SECONDS
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def declare(folder: Path, function: str = "double", drain: str = "30s", more: str = "") -> Path:
    (folder / "served_models.py").write_text(MODELS)
    file = folder / "clipper.toml"
    # In one step: a server may read it at any moment.
    new = folder / "clipper.toml.new"
    new.write_text(DECLARED.format(function=function, drain=drain) + more)
    return new.replace(file)


@contextmanager
def serving(file: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[Served]:
    process = subprocess.Popen(
        [sys.executable, "-m", "clipper.cli", "serve", str(file), *options],
        stderr=subprocess.PIPE, text=True, cwd=file.parent, env={**os.environ, **(env or {})},
    )  # fmt: skip
    served = Served(process, file.parent)
    errors: Any = process.stderr
    reader = threading.Thread(target=lambda: served.said.extend(iter(errors.readline, "")))
    reader.start()
    try:
        yield served
    finally:
        process.kill()
        process.wait()
        reader.join()
        errors.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    file = declare(tmp_path_factory.mktemp("served"), more=PRINTING)
    with serving(file) as started:
        started.wait_for("ready: ")
        yield started


@pytest.fixture
def clipper(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command where the engine was started."""
    monkeypatch.chdir(served.folder)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


# ---- each command ------------------------------------------------------------


def test_ps_lists_models_and_applications(clipper: Any, served: Served) -> None:
    status, text, _ = clipper("ps")
    assert status == 0
    assert f"ready, process {served.process.pid}" in text
    assert re.search(r"^printing +1 +isolated +1/1", text, re.MULTILINE)
    assert re.search(r"^app +double +3e\+04 ms", text, re.MULTILINE)
    found = json.loads(clipper("ps", "--json")[1])
    assert [model["name"] for model in found["models"]][:2] == ["double", "printing"]


def test_describe_shows_everything(clipper: Any) -> None:
    assert "models: double" in clipper("describe", "app")[1]
    assert json.loads(clipper("describe", "--json")[1])["models"].keys() >= {"double", "printing"}
    status, _, errors = clipper("describe", "ap")
    assert (status, errors.count("\n")) == (1, 1)
    assert errors.startswith("clipper describe: no application 'ap' exists: there are ['app'")


def test_predict_asks_for_one(clipper: Any) -> None:
    assert "output: 4" in clipper("predict", "app", "2.0")[1]
    made = json.loads(clipper("predict", "app", "2.0", "--context", "me", "--json")[1])
    assert (made["output"], made["models"]) == (4.0, {"double": 1})
    status, _, errors = clipper("predict", "app", "two")
    assert status == 1
    assert errors.startswith("clipper predict: ")


def test_deploy_rollback_and_undeploy_change_a_model(clipper: Any) -> None:
    tensors = ("--input", "float64", "--output", "float64")
    batching = ("--batching", '{ kind = "fixed", rows = 8 }')
    assert clipper("deploy", "own", "served_models:double", *tensors)[:2] == (
        0, "model own version 1 serves\n",
    )  # fmt: skip
    made = clipper("deploy", "own", "served_models:triple", *tensors, *batching, "--json")[1]
    assert json.loads(made) == {"model": "own", "version": 2}
    assert "output: 3" in clipper("predict", "own", "1.0")[1]
    assert "Fixed(rows=8)" in clipper("describe", "own")[1]
    assert clipper("rollback", "own")[1] == "model own is at version 1 again\n"
    assert "no version before 1 loaded" in clipper("rollback", "own")[2]
    assert clipper("undeploy", "own")[1] == "model own is out of service\n"
    assert "no model 'own' is deployed" in clipper("undeploy", "own")[2]


def test_a_deploy_that_fails_says_why(clipper: Any) -> None:
    status, _, errors = clipper(
        "deploy", "own", "served_models:broken", "--input", "float64", "--where", "isolated"
    )
    assert status == 1
    assert "no weights" in errors
    assert "Traceback" not in errors
    wrong = clipper("deploy", "own", "served_models:double", "--replicas", "many")[2]
    assert "deploy: replicas: 'many' is no whole number from 1 to 256" in wrong
    nowhere = clipper("deploy", "own", "nets/net.onnx")[2]
    assert re.search(r"deploy: source: there is no file .*/nets/net\.onnx", nowhere)


def test_link_and_scale_work_or_say_that_this_engine_cannot(clipper: Any) -> None:
    for command, *arguments in (("link", "app", "printing"), ("scale", "printing", "2")):
        status, text, errors = clipper(command, *arguments)
        worked = status == 0 and ("app links" in text or "has 2 replicas" in text)
        cannot = status == 1 and ("this engine cannot" in errors or "policy" in errors)
        assert worked or cannot, (command, text, errors)
    assert "no model 'nothing'" in clipper("scale", "nothing", "2")[2]
    assert "no application 'nothing'" in clipper("link", "nothing", "double")[2]


def test_logs_show_what_workers_print(clipper: Any) -> None:
    status, text, _ = clipper("logs", "printing")
    assert status == 0
    assert re.search(r"^printing 1 #0 \(\d+\): loaded$", text, re.MULTILINE)
    first = json.loads(clipper("logs", "printing", "--json")[1].splitlines()[0])
    assert (first["line"], first["replica"], first["version"]) == ("loaded", 0, 1)
    assert clipper("logs", "double", "--errors")[1] == "no errors\n"


def test_ready_says_whether_it_is(clipper: Any, tmp_path: Path) -> None:
    assert clipper("ready")[:2] == (0, "ready\n")
    status, _, errors = clipper("ready", "--data", str(tmp_path), "--wait", "0.01")
    assert status == 1
    assert f"no engine listens at {tmp_path}/engine.sock" in errors


def test_where_nothing_runs_it_says_what_it_looked_for(
    clipper: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"{tmp_path}/clipper-data/engine.sock" in clipper("ps")[2]
    monkeypatch.setenv("CLIPPER_DATA", "elsewhere")
    assert f"{tmp_path}/elsewhere/engine.sock" in clipper("ps")[2]
    (tmp_path / "clipper.toml").write_text('[server]\ndata = "declared"')
    assert f"{tmp_path}/declared/engine.sock" in clipper("ps")[2]
    assert f"{tmp_path}/given/engine.sock" in clipper("ps", "--data", "given")[2]
    (tmp_path / "clipper.toml").write_text("[server")
    status, _, errors = clipper("ps")
    assert status == 1
    assert "or name the folder with --data" in errors


def test_a_second_server_in_one_folder_is_refused(served: Served) -> None:
    with serving(served.folder / "clipper.toml") as second:
        assert second.process.wait(LONG_SECONDS) == 1
    assert "Traceback" not in second.log()
    assert f"in use by an engine of process {served.process.pid}" in second.log()
    with served.client() as client:
        assert client.call("hello")["pid"] == served.process.pid


# ---- clipper serve -----------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("", "is good: 1 models, 1 applications"),
        ('[models.b]\nsource = "served_models:double"\nreplica = 2', "did you mean 'replicas'?"),
        ('[models.b]\nsource = "nowhere:double"', "no module 'nowhere' is found"),
        ("[models", "is no TOML"),
    ],
)
def test_check_says_whether_a_file_is_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str, words: str
) -> None:
    file = declare(tmp_path, more=wrong)
    assert main(["serve", str(file), "--check"]) == (1 if wrong else 0)
    said = capsys.readouterr()
    assert words in (said.err if wrong else said.out)
    assert not (tmp_path / "state").exists()


def test_what_cannot_start_says_so_and_ends(tmp_path: Path) -> None:
    with serving(declare(tmp_path, "broken")) as served:
        assert served.process.wait(LONG_SECONDS) == 1
    assert "model double: " in served.log()
    assert "no weights" in served.log()
    assert "Traceback" not in served.log()
    assert not served.socket.exists()


def test_a_server_that_is_still_loading_ends_at_once(tmp_path: Path) -> None:
    with serving(declare(tmp_path, "sleepy")) as served:
        eventually(served.socket.exists)
        with served.client() as client:
            assert client.call("hello")["state"] == "starting"
            assert not client.call("hello")["ready"]
        assert served.end() == 0
    assert "ended: 0 queries answered" in served.log()


def test_orders_that_come_while_a_file_is_applied_are_not_forgotten(tmp_path: Path) -> None:
    file = declare(tmp_path)
    with serving(file) as served:
        served.wait_for("ready: ")
        for function in ("triple", "double", "triple") * 3:
            declare(tmp_path, function)
            served.process.send_signal(signal.SIGHUP)
        with served.client() as client:
            eventually(
                lambda: (
                    client.call("predict", application="app", input=1.0)["output"] == 3.0
                    and client.call("hello")["state"] == "ready"
                )
            )
        assert served.end() == 0


class Load:
    """Clients that ask over the socket, one query after another, until they are told to stop."""

    def __init__(self, served: Served, clients: int) -> None:
        self.outputs: list[float] = []
        self.refused: list[str] = []
        self.cut_off: int = 0
        self._stopped = threading.Event()
        self._served = served
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        try:
            with self._served.client() as client:
                while not self._stopped.is_set():
                    made = client.call("predict", application="app", input=1.0)
                    assert not made["is_default"], made
                    self.outputs.append(made["output"])
        except CommandError as error:
            self.refused.append(str(error))
        except NotRunningError:
            self.cut_off += 1

    def end(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(LONG_SECONDS)
            assert not thread.is_alive()


def test_a_changed_file_is_applied_without_losing_a_query(tmp_path: Path) -> None:
    file = declare(tmp_path)
    with serving(file) as served:
        served.wait_for("ready: ")
        load = Load(served, 4)
        for i, function in enumerate(("triple", "double", "triple", "double", "triple"), 1):
            declare(tmp_path, function, more=f"priority = {i % 3}\n")
            before = len(load.outputs)
            served.process.send_signal(signal.SIGHUP)
            eventually(lambda i=i: served.log().count("the configuration is applied") == i)
            eventually(lambda before=before: len(load.outputs) > before + 20)
        file.write_text("[models")
        served.process.send_signal(signal.SIGHUP)
        served.wait_for("nothing was changed, as the file is not good")
        load.end()
        with served.client() as client:
            # An answer is counted when it has been sent, which may be after it was received.
            eventually(lambda: client.call("hello")["answered"] == len(load.outputs))
            assert client.call("predict", application="app", input=1.0)["output"] == 3.0
            assert client.call("describe", name="app")["priority"] == 2
            assert client.call("describe", name="double")["version"] == 6
    assert (load.refused, load.cut_off) == ([], 0)
    assert set(load.outputs) == {2.0, 3.0}


def test_a_server_that_is_told_to_end_answers_what_it_accepted(tmp_path: Path) -> None:
    with serving(declare(tmp_path, "slow")) as served:
        served.wait_for("ready: ")
        load = Load(served, 16)
        eventually(lambda: len(load.outputs) > 50)
        assert served.end() == 0
        load.end()
    assert f"ended: {len(load.outputs)} queries answered" in served.log()
    assert set(load.outputs) == {2.0}
    assert set(load.refused) <= {"this engine is ending and takes no new queries"}
    assert len(load.refused) + load.cut_off == 16
    assert not served.socket.exists()


def test_draining_has_a_limit(tmp_path: Path) -> None:
    with serving(declare(tmp_path, "stuck", drain="100ms")) as served:
        served.wait_for("ready: ")
        client = served.client()
        asked = threading.Thread(target=lambda: swallow(client))
        asked.start()
        with served.client() as other:
            eventually(lambda: other.call("describe")["open_queries"] == 1)
        assert served.end() == 0
        asked.join(LONG_SECONDS)
        client.close()
    assert "1 accepted queries are given up" in served.log()


def swallow(client: AdminClient) -> None:
    try:
        client.call("predict", application="app", input=1.0)
    except (CommandError, NotRunningError):
        return


def test_it_may_be_detached_and_stopped(tmp_path: Path) -> None:
    file, data = declare(tmp_path), str(tmp_path / "state")
    # The command as a process of its own, whose child it is then no more.
    command = [sys.executable, "-m", "clipper.cli", "serve", str(file), "--detach"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (pid,) = re.findall(r"process (\d+) is ready", said)
    try:
        assert main(["predict", "app", "2.0", "--data", data]) == 0
        assert main(["stop", "--data", data]) == 0
    except BaseException:
        os.kill(int(pid), signal.SIGKILL)
        raise
    eventually(lambda: "ended: 1 queries answered" in (tmp_path / "state/engine.log").read_text())


def test_what_does_not_start_detached_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(declare(tmp_path, "broken")), "--detach"]) == 1
    assert "no weights" in capsys.readouterr().err


def test_the_example_serves_and_tells_its_service_manager(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(LONG_SECONDS)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        file = ROOT / "examples" / "serve" / "clipper.toml"
        with serving(file, "--data", str(tmp_path / "data"), env=env) as served:
            assert manager.recv(100) == b"READY=1"
            with AdminClient(tmp_path / "data" / "engine.sock", timeout=LONG_SECONDS) as client:
                made = client.call("predict", application="digits", input=[0.0] * 64)
                assert made["models"].keys() == {"svm", "forest"}
            assert served.end() == 0
            assert manager.recv(100) == b"STOPPING=1"


# ---- what they are made of ---------------------------------------------------


def test_the_command_ends_with_its_status_and_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "clipper.cli", "ps", "--data", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1


def test_options_are_read_as_toml_or_text() -> None:
    written = ["2", "20ms", "true", '"4"', "[1, 2]", "float32[3]", "1\nx = 2", "{ a = 1 }"]
    read = [2, "20ms", True, "4", [1, 2], "float32[3]", "1\nx = 2", {"a": 1}]
    assert [toml_value(text) for text in written] == read


def test_tables_are_aligned() -> None:
    assert table(("NAME", "ROWS"), [("a", 5), ("longer", 1000)]) == (
        "NAME    ROWS\na          5\nlonger  1000"
    )
    assert table(("NAME", "ROWS"), []) == "NAME  ROWS"


def test_nested_values_are_written_one_under_the_other() -> None:
    given = {"a": {"b": [1, 2], "c": [{"d": None}]}, "e": "two\nlines"}
    assert tree(given) == "a:\n  b: 1, 2\n  c:\n    0:\n      d: -\ne: two\n  lines"
