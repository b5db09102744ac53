"""State that lasts: what is there again after an engine has ended, in whatever way."""

import asyncio
import contextlib
import gc
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipper
from clipper import Engine, FeedbackStatus

APPLIED = FeedbackStatus.APPLIED

# Feeds back until it is killed, and says which contexts it was told are safe, one line each.
CHILD = """
import os, sys, threading
import numpy as np
import clipper
engine = clipper.Engine(data=sys.argv[1], durability=sys.argv[2])
for n in range(2):
    engine.deploy(str(n), lambda batch, n=n: np.full(len(batch), n), warmup=[1.0])
app = engine.create_application("app", models=["0", "1"], slo=None, context_memory="64KiB",
    policy=clipper.Ucb1())
def feed(number):
    i = 0
    while True:
        context = f"{number}-{i % 400}"
        made = app.predict([1.0], context=context)
        if app.feedback(made, loss=0.5) is clipper.FeedbackStatus.APPLIED:
            os.write(1, f"{context}\\n".encode())
        i += 1
for number in range(3):
    threading.Thread(target=feed, args=(number,), daemon=True).start()
threading.Event().wait()
"""


def serve(
    data: Any, policy: Any = None, *, memory: str = "64KiB", **options: Any
) -> tuple[Engine, clipper.Application]:
    engine = Engine(data=data, **options)
    for n in range(2):
        engine.deploy(str(n), lambda batch, n=n: np.full(len(batch), n), warmup=[1.0])
    app = engine.create_application(
        "app", models=["0", "1"], slo=None, policy=policy or clipper.Ucb1(), context_memory=memory
    )
    return engine, app


def teach(app: clipper.Application, contexts: Any) -> None:
    for context in contexts:
        made = app.predict([1.0], context=context)
        assert app.feedback(made, loss=0.5) is APPLIED


def counts_of(data: Path) -> dict[int, float]:
    """How often each context has observed, by what is in the database: Ucb1 counts per arm."""
    database = sqlite3.connect(data / "state.sqlite3")
    try:
        rows = database.execute("SELECT context, state FROM states").fetchall()
        assert database.execute("SELECT count(*) FROM journal").fetchone() == (0,)
    finally:
        database.close()
    numbers = {context: np.frombuffer(state[4:], np.float64) for context, state in rows}
    return {context: learned_of(state) for context, state in numbers.items()}


def learned_of(state: "np.ndarray[Any, Any]") -> float:
    # Whatever the layout, every observation has cost 0.5: the losses of both arms.
    return float(state[:-1].sum())


def context_number(context: Any) -> int:
    from clipper._core.contexts import hash_context

    number = hash_context(context)
    return number - (1 << 64) if number >= 1 << 63 else number


def test_what_was_learned_is_there_after_a_restart(tmp_path: Path) -> None:
    engine, app = serve(tmp_path)
    teach(app, [f"user-{i % 50}" for i in range(500)])
    engine.close()
    before = counts_of(tmp_path)
    assert len(before) == 50
    assert len(set(before.values())) == 1
    engine, app = serve(tmp_path)
    teach(app, [f"user-{i}" for i in range(50)])
    engine.close()
    after = counts_of(tmp_path)
    once = before[context_number("user-7")] / 10
    assert after == {context: count + once for context, count in before.items()}


def test_more_contexts_than_fit_are_spilled_and_none_is_lost(tmp_path: Path) -> None:
    engine, app = serve(tmp_path)
    for _ in range(3):
        teach(app, range(2500))
    contexts = app.describe()["contexts"]
    assert contexts["spilled"] > 1000
    assert contexts["bytes"] <= 64 << 10
    assert contexts["forgotten"] == app.describe()["feedback"]["refused"] == 0
    engine.close()
    counts = counts_of(tmp_path)
    assert len(counts) == 2500
    assert len(set(counts.values())) == 1


@pytest.mark.parametrize("durability", ["process", "power"])
def test_no_acknowledged_feedback_is_missing_after_kill_9(tmp_path: Path, durability: str) -> None:
    acknowledged: dict[int, int] = {}
    total = 0
    for _ in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), durability], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        try:
            lines = [child.stdout.readline() for _ in range(700)]
        finally:
            os.kill(child.pid, signal.SIGKILL)
        rest = child.stdout.read().split(b"\n")[:-1]
        child.stdout.close()
        child.wait(10)
        for line in [*lines, *rest]:
            context = context_number(line.strip().decode())
            acknowledged[context] = acknowledged.get(context, 0) + 1
            total += 1
    engine, app = serve(tmp_path)
    teach(app, ["yardstick"])
    engine.close()
    counts = counts_of(tmp_path)
    once = counts.pop(context_number("yardstick"))
    missing = {c: n for c, n in acknowledged.items() if round(counts.get(c, 0.0) / once) < n}
    assert not missing
    # Each once: three threads may each have had one on the way, twice.
    assert total <= sum(round(count / once) for count in counts.values()) <= total + 6


def test_the_application_s_own_state_is_kept(tmp_path: Path) -> None:
    engine, app = serve(tmp_path, clipper.EpsilonGreedy(epsilon=0.0, memory=None))
    for _ in range(40):
        made = app.predict([1.0])
        assert app.feedback(made, label=1) is APPLIED
    assert app.predict([1.0]).output == 1
    engine.close()
    engine, app = serve(tmp_path, clipper.EpsilonGreedy(epsilon=0.0, memory=None))
    assert [int(app.predict([1.0]).output) for _ in range(5)] == [1] * 5
    engine.close()


def test_another_policy_begins_afresh_and_the_old_state_is_kept_aside(tmp_path: Path) -> None:
    engine, app = serve(tmp_path)
    teach(app, range(10))
    engine.close()
    engine, app = serve(tmp_path, clipper.Exp4())
    assert "kept aside" in engine.describe()["state"]["set_aside"][0]
    engine.close()
    engine, app = serve(tmp_path)
    assert engine.describe()["state"]["set_aside"] == []
    teach(app, range(10))
    engine.close()
    counts = counts_of(tmp_path)
    assert len(counts) == 10


def test_versions_go_on_from_where_they_were(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        with Engine(data=tmp_path) as engine:
            model = engine.deploy("m", lambda batch: batch, warmup=[1.0])
            assert model.version == version
    with Engine(data=tmp_path) as engine:
        restored = engine.restore()
        assert restored.models == ()
        assert "deploy it again" in restored.missing["m"]


def test_named_models_and_their_applications_are_restored(tmp_path: Path) -> None:
    (tmp_path / "factories.py").write_text(
        "import numpy as np\ndef double():\n    return lambda batch: batch * 2\n"
    )
    where = clipper.Isolated(paths=(tmp_path,))
    with Engine(data=tmp_path / "data") as engine:
        engine.deploy(
            "double", "factories:double", where=where, input=clipper.Tensor("float32", (2,)),
            output=clipper.Tensor("float32", (2,)), batching=clipper.Fixed(8),
            warmup=np.ones(2, np.float32), default=None, version=4,
        )  # fmt: skip
        engine.create_application(
            "app", models=["double"], slo=None, policy=clipper.Exp3(eta=0.3), loss="squared"
        )
    with Engine(data=tmp_path / "data") as engine:
        restored = engine.restore()
        assert (restored.models, restored.applications) == (("double",), ("app",))
        assert engine.model("double").version == 4
        assert engine.model("double").describe()["versions"]["4"]["batching"] == "Fixed(rows=8)"
        app = engine.application("app")
        assert app.predict(np.array([1, 2], np.float32)).output.tolist() == [2.0, 4.0]
        assert app.describe()["policy"]["text"].startswith("Exp3(eta=0.3")
        engine.undeploy("double")
        engine.remove_application("app")
    with Engine(data=tmp_path / "data") as engine:
        restored = engine.restore()
        assert (restored.models, restored.applications, restored.missing) == ((), (), {})


def test_a_directory_in_use_is_refused_with_the_process_that_has_it(tmp_path: Path) -> None:
    with Engine(data=tmp_path):
        with pytest.raises(clipper.DataDirectoryInUseError, match=str(os.getpid())) as caught:
            Engine(data=tmp_path)
        assert caught.value.pid == os.getpid()
        child = subprocess.run(
            [sys.executable, "-c", f"import clipper; clipper.Engine(data={str(tmp_path)!r})"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "DataDirectoryInUseError" in child.stderr
        assert str(os.getpid()) in child.stderr
    Engine(data=tmp_path).close()


def test_a_forked_child_does_not_keep_the_directory(tmp_path: Path) -> None:
    code = (
        "import clipper, os, sys, time\n"
        "engine = clipper.Engine(data=sys.argv[1])\n"
        "pid = os.fork()\n"
        "if pid == 0: time.sleep(30); os._exit(0)\n"
        "print(pid, flush=True); os._exit(0)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, tmp_path], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    try:
        child.wait(20)
        Engine(data=tmp_path).close()
    finally:
        os.kill(grandchild, signal.SIGKILL)
        child.stdout.close()


@pytest.mark.parametrize("junk", [b"no database", b"SQLite format 3\0" + b"\xff" * 8192])
def test_a_damaged_file_is_set_aside_and_reported(tmp_path: Path, junk: bytes) -> None:
    engine, app = serve(tmp_path)
    teach(app, range(10))
    engine.close()
    (tmp_path / "state.sqlite3").write_bytes(junk)
    engine, app = serve(tmp_path)
    (damage,) = engine.describe()["state"]["damaged"]
    assert "damaged" in damage
    teach(app, range(5))
    engine.close()
    assert len(counts_of(tmp_path)) == 5
    (kept,) = (tmp_path / "damaged").glob("*/state.sqlite3")
    assert kept.read_bytes() == junk


def test_a_damaged_state_is_found_by_its_check_sum_and_kept_aside(tmp_path: Path) -> None:
    engine, app = serve(tmp_path)
    teach(app, [0, 1])
    engine.close()
    database = sqlite3.connect(tmp_path / "state.sqlite3")
    database.execute(
        "UPDATE states SET state = ? WHERE context = ?", (bytes(range(44)), context_number(0))
    )
    database.commit()
    database.close()
    engine, app = serve(tmp_path)
    teach(app, [0, 1])
    engine.save()
    assert len(engine.describe()["state"]["damaged"]) == 1
    engine.close()
    counts = counts_of(tmp_path)
    assert counts[context_number(1)] == 2 * counts[context_number(0)]


def test_where_no_state_can_be_kept_the_reason_is_given(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(clipper.StateError, match="Not a directory"):
        Engine(data=tmp_path / "file" / "data")
    with pytest.raises(ValueError, match="durability"):
        Engine(data=tmp_path, durability="forever")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="data is 7"):
        Engine(data=7)  # type: ignore[arg-type]
    with Engine() as engine, pytest.raises(ValueError, match="keeps no state"):
        engine.restore()


@pytest.fixture
def mounted(tmp_path: Path) -> Any:
    """Mount a small file system, or skip."""
    mounts: list[Path] = []

    def mount(options: str) -> Path:
        path = tmp_path / "mounted"
        path.mkdir(exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, check=False
        )
        if done.returncode != 0:
            pytest.skip("file systems cannot be mounted here")
        mounts.append(path)
        return path

    yield mount
    for path in mounts:
        subprocess.run(["umount", "-l", path], check=True)


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_read_only_directory_is_refused(mounted: Callable[[str], Path]) -> None:
    with pytest.raises(clipper.StateError, match="Read-only file system"):
        Engine(data=mounted("size=1m,ro") / "data")


def test_on_a_full_disk_serving_goes_on_and_feedback_says_that_it_does_not_last(
    mounted: Callable[[str], Path],
) -> None:
    path = mounted("size=2m")
    engine, app = serve(path / "data")
    teach(app, range(100))
    ballast = path / "ballast"
    fill(ballast)
    unsaved = 0
    for i in range(500):
        made = app.predict([1.0], context=i)
        assert not made.is_default
        status = app.feedback(made, loss=0.5)
        assert status in (APPLIED, FeedbackStatus.UNSAVED)
        unsaved += status is FeedbackStatus.UNSAVED
    assert unsaved > 0
    assert app.describe()["feedback"]["unsaved"] == unsaved
    state = engine.describe()["state"]
    assert "full" in state["last_failure"]
    assert not state["available"]
    ballast.unlink()
    waited = threading.Event()
    for _ in range(100):
        if engine.describe()["state"]["available"]:
            break
        waited.wait(0.1)
    teach(app, [7])
    engine.close()
    counts = counts_of(path / "data")
    assert len(counts) == 500  # what could not be written at first was, in the end
    once = counts[context_number(499)]
    assert counts[context_number(7)] == 3 * once


def test_feedback_from_an_event_loop_is_written_in_groups(tmp_path: Path) -> None:
    engine, app = serve(tmp_path)

    async def ask() -> list[FeedbackStatus]:
        made = [await app.predict_async([1.0], context=i) for i in range(300)]
        return list(await asyncio.gather(*(app.feedback_async(p, loss=0.5) for p in made)))

    assert set(asyncio.run(ask())) == {APPLIED}
    journal = engine.describe()["state"]["journal"]
    assert journal["written"] == journal["entries"] == 300
    engine.close()
    assert len(counts_of(tmp_path)) == 300


def test_in_memory_feedback_is_saved_on_close_only(tmp_path: Path) -> None:
    engine, app = serve(tmp_path, durability="memory")
    teach(app, range(100))
    assert engine.describe()["state"]["journal"]["entries"] == 0
    engine.close()
    assert len(counts_of(tmp_path)) == 100


def test_an_engine_that_is_forgotten_lets_go_of_its_directory(tmp_path: Path) -> None:
    engine = Engine(data=tmp_path)
    del engine
    gc.collect()
    Engine(data=tmp_path).close()
