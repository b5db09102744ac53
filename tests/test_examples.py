"""The examples, as processes: loaded, disconnected from, and ended."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
CLIENTS = 16
#: A clean end takes a fraction of it; what hangs takes for ever.
END_SECONDS = 8.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Service:
    """An example that runs, and how to talk to it."""

    process: subprocess.Popen[str]
    port: int

    def get(self) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.port}/describe"
        with urllib.request.urlopen(url, timeout=5) as reply:
            content: dict[str, Any] = json.load(reply)
            return content

    def post(self, content: object) -> tuple[int, dict[str, Any]]:
        url = f"http://127.0.0.1:{self.port}/predict"
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(url, json.dumps(content).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def counters(self) -> dict[str, Any]:
        engine = self.get()
        model: dict[str, Any] = engine["models"]["total"]
        (version,) = model["versions"].values()
        return {**version, **engine["applications"].get("totals", model)}

    def held(self) -> tuple[int, int, int]:
        """File descriptors, threads and resident bytes, its workers' included."""
        parent = psutil.Process(self.process.pid)
        processes = [parent, *parent.children(recursive=True)]
        return (
            sum(process.num_fds() for process in processes),
            sum(process.num_threads() for process in processes),
            sum(process.memory_info().rss for process in processes),
        )

    def end(self) -> None:
        """Ask it to end; it must, soon, without complaints and with all of its workers."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        try:
            _, errors = self.process.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.process.args} did not end within {END_SECONDS} s of SIGTERM")
        _, left = psutil.wait_procs(children, timeout=1)
        assert left == []
        assert self.process.returncode in {0, -signal.SIGTERM}, errors  # uvicorn raises it again
        assert "Traceback" not in errors, errors


@contextmanager
def serving(arguments: Sequence[str | Path], port: int) -> Iterator[Service]:
    """Start an example, wait until it answers, and leave nothing of it behind."""
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    service = Service(process, port)
    try:
        until = time.monotonic() + 30
        while True:
            with suppress(OSError):
                service.get()
                break
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < until, "it does not answer"
            time.sleep(0.05)
        yield service
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            process.kill()
        process.communicate()


def fastapi(port: int) -> list[str | Path]:
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    folder = EXAMPLES / "fastapi_service"
    return ["-m", "uvicorn", "--app-dir", folder, "app:app", "--port", str(port), "--no-access-log"]


def threaded(port: int) -> list[str | Path]:
    return [EXAMPLES / "threaded_service" / "service.py", str(port)]


def gunicorn(port: int, *options: str, folder: Path | None = None) -> list[str | Path]:
    pytest.importorskip("gunicorn")
    settings = EXAMPLES / "gunicorn_prefork" / "settings.py"
    folder = settings.parent if folder is None else folder
    return [
        "-m", "gunicorn", "-c", settings, "--chdir", folder, "--log-level", "warning",
        "--bind", f"127.0.0.1:{port}", *options, "app:app",
    ]  # fmt: skip


def prefork_fastapi(port: int) -> list[str | Path]:
    pytest.importorskip("uvicorn_worker")
    pytest.importorskip("gunicorn")
    return [
        "-m", "gunicorn", "--worker-class", "uvicorn_worker.UvicornWorker", "--workers", "1",
        "--graceful-timeout", "5", "--log-level", "warning",
        "--chdir", EXAMPLES / "fastapi_service", "--bind", f"127.0.0.1:{port}", "app:app",
    ]  # fmt: skip


# ---- clients -----------------------------------------------------------------------------------


async def ask(port: int, number: int) -> dict[str, Any]:
    """Ask for the total of a row that is this number's own; closes the connection if cancelled."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        body = json.dumps({"row": [number, 1, 2, 3]})
        writer.write(
            "POST /predict HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
        )
        head, _, content = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    assert b" 200 " in head.splitlines()[0], (head, content)
    answer: dict[str, Any] = json.loads(content)
    assert answer["output"] == number + 6, f"{number} was answered {answer}"
    return answer


async def client(port: int, number: int, questions: int, *, leaves: bool) -> list[dict[str, Any]]:
    """Ask over and over; one that leaves hangs up in the middle of each second question."""
    answers = []
    for i in range(questions):
        asked = ask(port, 1000 * number + i)
        if leaves and i % 2:
            with suppress(TimeoutError):
                await asyncio.wait_for(asked, 0.01)
        else:
            answers.append(await asked)
    return answers


def load(service: Service, questions: int) -> list[dict[str, Any]]:
    """Let many clients ask at once, half of whom leave now and then; returns all answers."""

    async def run() -> list[dict[str, Any]]:
        everything = await asyncio.gather(
            *(client(service.port, n, questions, leaves=n % 2 == 1) for n in range(CLIENTS))
        )
        return [answer for answers in everything for answer in answers]

    return asyncio.run(run())


# ---- services ----------------------------------------------------------------------------------


@pytest.mark.parametrize("example", [fastapi, prefork_fastapi, threaded])
def test_a_service_answers_withdraws_and_keeps_nothing(example: Any) -> None:
    port = free_port()
    with serving(example(port), port) as service:
        assert len(load(service, 10)) >= CLIENTS * 7.5
        fds, threads, memory = service.held()
        load(service, 20)
        until = time.monotonic() + 5
        while service.get()["open_queries"] and time.monotonic() < until:
            time.sleep(0.01)
        counters = service.counters()
        assert service.get()["open_queries"] == 0
        assert counters["causes"]["cancelled"] > 0
        assert counters["withdrawn_rows"] > 0  # never run
        assert set(counters["causes"]) == {"cancelled"}
        ran = sum(replica["rows"] for replica in counters["replicas"])
        assert ran + counters["withdrawn_rows"] == counters["rows"]
        after = service.held()
        assert after[0] <= fds + 2
        assert after[1] <= threads + 2
        assert after[2] <= memory + (8 << 20)
        assert service.post({"row": [1, 2]})[0] == 422
        service.end()


def test_each_worker_of_gunicorn_has_an_engine_of_its_own() -> None:
    port = free_port()
    with serving(gunicorn(port), port) as service:
        answers = load(service, 10)
        assert len({answer["pid"] for answer in answers}) == 2
        fds, threads, memory = service.held()
        load(service, 10)
        after = service.held()
        assert after[0] <= fds + 2
        assert after[1] <= threads + 2
        assert after[2] <= memory + (8 << 20)
        assert service.post({"row": [1, 2]})[0] == 422
        service.end()


def test_an_engine_made_before_gunicorn_forks_is_refused_with_what_to_do(tmp_path: Path) -> None:
    mistake = """
    import importlib.util

    spec = importlib.util.spec_from_file_location("right", {path!r})
    right = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(right)

    class Mistaken(right.Service):
        def start(self):
            pass

    app = Mistaken()
    right.Service.start(app)  # at import: with --preload, in the parent
    """
    path = str(EXAMPLES / "gunicorn_prefork" / "app.py")
    (tmp_path / "app.py").write_text(textwrap.dedent(mistake).format(path=path))
    port = free_port()
    with serving(gunicorn(port, "--preload", folder=tmp_path), port) as service:
        status, content = service.post({"row": [1, 2, 3, 4]})
        assert status == 500
        assert "made before the process forked" in content["detail"]
        assert "make one engine in each process, after the fork" in content["detail"]
        service.end()


# ---- programs ----------------------------------------------------------------------------------


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_batch_job_predicts_every_row_in_order(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    rows = np.arange(50_000, dtype=np.float32).reshape(10_000, 5)
    np.save(tmp_path / "rows.npy", rows)
    job = EXAMPLES / "batch_job" / "job.py"
    done = run(job, tmp_path / "rows.npy", tmp_path / "outputs.npy")
    assert (done.returncode, done.stdout) == (0, "0 rows failed\n"), done.stderr
    assert "10000/10000" in done.stderr
    outputs = np.load(tmp_path / "outputs.npy")
    np.testing.assert_array_equal(outputs, rows.sum(axis=1))
    assert run(job).returncode == 2


def test_the_ab_test_finds_the_better_model_by_its_share_of_the_users() -> None:
    done = run(EXAMPLES / "ab_test" / "ab_test.py")
    assert done.returncode == 0, done.stderr
    old, new, verdict = done.stdout.splitlines()
    users = {line.split()[0]: int(line.split()[1]) for line in (old, new)}
    errors = {line.split()[0]: float(line.split()[-1]) for line in (old, new)}
    assert sum(users.values()) == 4000
    assert 0.08 < users["new"] / 4000 < 0.12
    assert errors["new"] < errors["old"]
    assert verdict == "new is better"


def test_the_cascade_is_nearly_as_good_as_the_large_model_and_asks_it_for_a_part() -> None:
    pytest.importorskip("sklearn")
    done = run(EXAMPLES / "cascade" / "cascade.py")
    assert done.returncode == 0, done.stderr
    right = {
        name: float(share)
        for name, share in re.findall(r"(.+?)(?: alone)?: ([\d.]+)% right", done.stdout)
    }
    seen = dict(re.findall(r"(Cascade.+?): .*the large model saw (\d+)%", done.stdout))
    assert right["small"] <= right["Cascade(0.5)"] <= right["Cascade(0.99)"] <= right["large"] + 1
    assert right["Cascade(0.99)"] > right["large"] - 2
    assert int(seen["Cascade(0.5)"]) < int(seen["Cascade(0.9)"]) < int(seen["Cascade(0.99)"]) < 30


def test_the_pipeline_reads_digits_and_asks_again_where_it_is_in_doubt() -> None:
    pytest.importorskip("sklearn")
    done = run(EXAMPLES / "pipeline" / "pipeline.py")
    assert done.returncode == 0, done.stderr
    told = re.search(r"(\d+) images, ([\d.]+)% read right, (\d+) with", done.stdout)
    assert told is not None, done.stdout
    assert float(told[2]) > 85
    assert 0 < int(told[3]) < int(told[1])
    assert "the first is 'seven', by decode, model" in done.stdout


def numbers(example: str) -> list[list[float]]:
    """Run an example that prints; return the numbers that follow the name in each line."""
    done = run(EXAMPLES / example / f"{example}.py")
    assert done.returncode == 0, done.stderr
    lines = [line.partition(":")[2] if ": " in line else line for line in done.stdout.splitlines()]
    return [[float(number) for number in re.findall(r"[\d.]+", line)] for line in lines]


def test_the_bandits_follow_the_better_model_and_the_turn() -> None:
    policies = numbers("bandit")
    assert len(policies) == 3
    for before, after in policies:
        assert before > 75
        assert after < 25


def test_the_canary_keeps_a_sound_model_and_takes_back_a_broken_one() -> None:
    (sound_first, _, sound_last), (broken_first, _, broken_last) = numbers("canary")
    assert 10 < sound_first < 60
    assert 10 < sound_last < 60
    assert broken_first > 10
    assert broken_last == 0


def test_the_ensemble_is_sure_where_it_is_right() -> None:
    pytest.importorskip("sklearn")
    *alone, vote, all_agree, two_agree, none_agrees, left = numbers("ensemble")
    assert vote[0] > sum(right for (right,) in alone) / 3
    assert all_agree[1] > max(right for (right,) in alone) + 3
    assert all_agree[1] > two_agree[1] > none_agrees[1]
    assert left == none_agrees[:1]


def test_what_is_learned_for_each_context_beats_what_is_learned_for_all() -> None:
    (own, of), (shared, _), (static, _) = numbers("personalised")
    assert own < 0.05 * of
    assert own < 0.1 * min(shared, static)


def test_the_gate_passes_a_model_that_holds_its_objective() -> None:
    pytest.importorskip("pytest_benchmark")
    gate = EXAMPLES / "gate_your_model"
    done = run("-m", "pytest", "-q", "--benchmark-disable", "-p", "no:cacheprovider", gate)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
