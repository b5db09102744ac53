"""Replicas use what they were given and no more; a worker that takes more ends alone."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipper
from clipper import Isolated, Resources, Tensor
from clipper.resources import cgroups
from clipper.resources.cgroups import MemoryGroup, NoGroup
from clipper.resources.granting import book
from clipper.resources.placement import DoesNotFit, place_cpus
from clipper.resources.watching import Meter, watcher

ROW, OUT = Tensor("float64", ()), Tensor("int64", ())
MIB = 1 << 20
CPUS = sorted(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def everything_is_given_back() -> Iterator[None]:
    yield
    wait_until(lambda: book().grants == [] and groups_of_this_process() == [])
    wait_until(lambda: watcher()._meters == [] and watcher()._thread is None)


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.01)


def can_make_groups() -> bool:
    try:
        MemoryGroup.make(64 * MIB).remove()
    except NoGroup:
        return False
    return True


def groups_of_this_process() -> list[Path]:
    try:
        parent, _ = cgroups._parent(Path("/proc/self"))
    except NoGroup:
        return []
    return list(parent.glob(f"clipper-{os.getpid()}-*"))


needs_groups = pytest.mark.skipif(not can_make_groups(), reason="no control group can be written")


def resources_of(model: clipper.Model, index: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = model.describe()["versions"]["1"]["resources"][index]
    return found


def limits_here(batch: Any) -> Any:
    """What holds for the process or thread that runs it."""
    threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    cpus = sum(1 << cpu for cpu in os.sched_getaffinity(0))
    return np.tile(np.array([cpus, threads, nice], np.int64), (len(batch), 1))


THREE = Tensor("int64", (3,))


def eats_what_it_is_told(batch: Any) -> Any:
    """Allocates as many MiB as the largest value says, and answers their pages' sum."""
    for row in batch:
        if row > 0:
            held = [np.ones(MIB // 8) for _ in range(int(row))]
            time.sleep(0.5 if row > 100 else 0.0)  # long enough to be seen
            del held
    return batch.astype(np.int64)


# ---- asking -----------------------------------------------------------------------------------


def test_cpu_sets_are_read_as_the_system_writes_them() -> None:
    assert Resources(cpus="0-3,8").cpu_set == (0, 1, 2, 3, 8)
    assert Resources(cpus=[2, 0]).cpu_set == (0, 2)
    assert Resources(cpus=2).cpu_set is None
    assert [Resources(cpus="0-2").thread_count, Resources(cpus=2).thread_count] == [3, 2]
    assert Resources(cpus=2, threads=5).thread_count == 5


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"cpus": 0}, "cpus is 0: give a number of CPUs"),
        ({"cpus": True}, "cpus is True: give a number of CPUs"),
        ({"cpus": "3-1"}, "cpus is '3-1': give how many, or which"),
        ({"cpus": []}, r"cpus is \[\]: give how many, or which"),
        ({"cpus": [0, -1]}, r"cpus is \[0, -1\]"),
        ({"cpus": 1.5}, "cpus is 1.5: give how many"),
        ({"threads": 0}, "threads is 0: give 1 or more"),
        ({"nice": 20}, "nice is 20: give an integer from -20 to 19"),
        ({"memory": "2GB"}, "'2GB' is no size"),
        ({"memory": "1MiB"}, "a worker takes more than that to start"),
        ({"gpu": -1}, "gpu is -1: give an index"),
        ({"gpu": "first"}, "gpu is 'first': give 'auto', an index or a UUID"),
        ({"gpu_memory": 0}, "0 is no size"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Resources(**given)


def test_the_same_request_is_options_of_a_container() -> None:
    assert Resources(cpus="0-1", memory="1GiB").container_flags()[:3] == [
        "--cpuset-cpus=0,1", "--memory=1073741824", "--memory-swap=1073741824"
    ]  # fmt: skip
    flags = Resources(cpus=2).container_flags()
    assert flags[0] == "--cpus=2"
    assert "--env=OMP_NUM_THREADS=2" in flags
    assert Resources().container_flags() == []


@pytest.mark.parametrize("name", ["memory", "nice"])
def test_threads_of_this_process_cannot_have_memory_or_niceness_of_their_own(
    engine: clipper.Engine, name: str
) -> None:
    asked = Resources(**{name: {"memory": "1GiB", "nice": 5}[name]})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"resources\.{name} is .*Isolated\(\)"):
        engine.deploy("m", limits_here, input=ROW, output=THREE, resources=asked)


def test_a_function_in_this_process_cannot_be_told_its_threads(engine: clipper.Engine) -> None:
    with pytest.raises(ValueError, match=r"takes no threads=\): deploy with where=clipper\.Iso"):
        engine.deploy("m", limits_here, input=ROW, output=THREE, resources=Resources(threads=2))
    wrong: Any = {"cpus": 2}
    with pytest.raises(TypeError, match=r"resources is a dict: give clipper\.Resources"):
        engine.deploy("m", limits_here, input=ROW, output=THREE, resources=wrong)


# ---- CPUs, threads, niceness ------------------------------------------------------------------


def test_a_worker_starts_on_its_cpus_with_its_threads_and_its_niceness(
    engine: clipper.Engine,
) -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    asked = Resources(cpus=CPUS[-1:], threads=3, nice=before + 2)
    model = engine.deploy("m", limits_here, input=ROW, output=THREE, where="isolated",
                          resources=asked)  # fmt: skip
    assert model.predict(0.0).output.tolist() == [1 << CPUS[-1], 3, before + 2]
    found = resources_of(model)
    assert (found["cpus"], found["threads"], found["nice"]) == (CPUS[-1:], 3, before + 2)
    assert found["asked"] == {"cpus": CPUS[-1:], "threads": 3, "nice": before + 2}
    assert sorted(os.sched_getaffinity(0)) == CPUS
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_a_thread_of_this_process_keeps_to_its_cpus_and_no_caller_runs_the_model(
    engine: clipper.Engine,
) -> None:
    model = engine.deploy("m", limits_here, input=ROW, output=THREE,
                          resources=Resources(cpus=1))  # fmt: skip
    (cpu,) = resources_of(model)["cpus"]
    for _ in range(3):
        assert model.predict(0.0).output[0] == 1 << cpu
    assert sorted(os.sched_getaffinity(0)) == CPUS


def test_adapters_are_told_the_threads(engine: clipper.Engine) -> None:
    torch = pytest.importorskip("torch")
    from clipper_adapters import TorchModel

    class Threads(torch.nn.Module):  # type: ignore[misc]
        def forward(self, input: Any) -> Any:
            return torch.full((len(input),), torch.get_num_threads())

    for where in ("thread", "isolated"):
        net = TorchModel(Threads(), input=Tensor("float32", (1,)), output=OUT)
        model = engine.deploy(where, net, where=where,  # type: ignore[arg-type]
                              resources=Resources(threads=1))  # fmt: skip
        assert model.predict([0.0]).output == 1


def test_a_model_of_several_inputs_keeps_to_its_threads(engine: clipper.Engine) -> None:
    torch = pytest.importorskip("torch")
    from clipper_adapters import TorchModel

    class Threads(torch.nn.Module):  # type: ignore[misc]
        def forward(self, a: Any, b: Any) -> Any:
            return (a + b)[:, 0].long() * 0 + torch.get_num_threads()

    one = Tensor("float32", (1,))
    net = TorchModel(Threads(), input={"a": one, "b": one}, output=OUT)
    model = engine.deploy("m", net, resources=Resources(cpus=1, threads=2))
    assert model.predict({"a": [0.0], "b": [1.0]}).output == 2


def test_each_replica_gets_cpus_that_no_other_has_until_they_are_given_back(
    engine: clipper.Engine,
) -> None:
    model = engine.deploy("m", limits_here, input=ROW, output=THREE, replicas=len(CPUS),
                          resources=Resources(cpus=1))  # fmt: skip
    each = [resources_of(model, i)["cpus"] for i in range(len(CPUS))]
    assert sorted(cpu for cpus in each for cpu in cpus) == CPUS
    with pytest.raises(clipper.DeployError, match=rf"0 of the {len(CPUS)} .*\n  CPU \d+: m-0"):
        engine.deploy("n", limits_here, input=ROW, output=THREE, resources=Resources(cpus=1))
    engine.undeploy("m")
    engine.deploy("n", limits_here, input=ROW, output=THREE, resources=Resources(cpus=1))
    with pytest.raises(clipper.DeployError, match=r"cpus names \[4000\], but this process may use"):
        engine.deploy("o", limits_here, input=ROW, output=THREE, resources=Resources(cpus=[4000]))


def test_cpus_are_placed_whole_or_not_at_all() -> None:
    assert place_cpus([3, 1, 2, 7], {1: "a"}, 1, 3) == [(2,), (3,), (7,)]
    assert place_cpus(range(8), {}, 3, 2) == [(0, 1, 2), (3, 4, 5)]
    with pytest.raises(DoesNotFit, match=r"2 replicas with 2 CPUs each need 4, but 3 of the 4"):
        place_cpus(range(4), {2: "x"}, 2, 2)


def test_a_limit_that_the_system_refuses_is_named(tmp_path: Path) -> None:
    from clipper.resources.grant import _LAUNCHER

    start = [sys.executable, "-I", "-S", str(_LAUNCHER)]
    run = subprocess.run([*start, "--cpus", "4000", "--", "/bin/true"], capture_output=True,
                         text=True, check=False)  # fmt: skip
    assert run.returncode == 1
    assert "clipper: the limit cpus 4000 cannot be set" in run.stderr
    run = subprocess.run([*start, "--", str(tmp_path / "none")], capture_output=True, text=True,
                         check=False)  # fmt: skip
    assert "cannot start" in run.stderr


# ---- memory -----------------------------------------------------------------------------------


@pytest.fixture(params=["kernel", "watchdog"])
def limiter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "kernel" and not can_make_groups():
        pytest.skip("no control group can be written")
    if request.param == "watchdog":

        def none(*_: Any) -> Any:
            raise NoGroup("it is for the test")

        monkeypatch.setattr(cgroups, "_parent", none)
    kind: str = request.param
    return kind


def test_a_worker_out_of_memory_ends_alone_and_its_rows_are_tried_again(
    engine: clipper.Engine, limiter: str
) -> None:
    """Under load: nobody else notices, and what was asked meanwhile is answered."""
    options: dict[str, Any] = {"input": ROW, "output": OUT, "where": Isolated(restarts=20)}
    hungry = engine.deploy("hungry", eats_what_it_is_told, replicas=2,
                           resources=Resources(memory="160MiB"), **options)  # fmt: skip
    calm = engine.deploy("calm", eats_what_it_is_told, **options)
    calm_pid = engine.describe()["models"]["calm"]["versions"]["1"]["workers"][0]["pid"]
    wrong: list[Any] = []
    stop = threading.Event()

    def ask(model: clipper.Model) -> None:
        while not stop.is_set():
            if model.predict(-7.0).output != -7:
                wrong.append(model.name)

    threads = [threading.Thread(target=ask, args=(model,)) for model in (hungry, hungry, calm)]
    for thread in threads:
        thread.start()
    try:
        with pytest.raises(clipper.PredictionError) as raised:
            hungry.predict(600.0)  # both workers die of it, then it is refused
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    assert raised.value.prediction.why is clipper.Cause.CRASH
    assert wrong == []
    workers = hungry.describe()["versions"]["1"]["workers"]
    deaths = [worker["last_death"] for worker in workers if worker["last_death"]]
    assert deaths
    for death in deaths:
        assert "MiB of 160.0 MiB allowed" in death
        assert "used " in death
    assert hungry.predict(5.0).output == 5
    assert calm.describe()["versions"]["1"]["workers"][0]["pid"] == calm_pid
    by = resources_of(hungry)["memory_by"]
    assert by.startswith("cgroup v") if limiter == "kernel" else by == "watchdog"


def test_a_model_that_does_not_fit_into_its_memory_is_not_deployed(
    engine: clipper.Engine, limiter: str
) -> None:
    with pytest.raises(clipper.DeployError, match=r"used .* of 100\.0 MiB allowed"):
        engine.deploy("m", eats_what_it_is_told, input=ROW, output=OUT, where="isolated",
                      warmup=400.0, resources=Resources(memory="100MiB"))  # fmt: skip


@needs_groups
def test_a_group_that_is_left_behind_by_a_dead_engine_is_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parent, _ = cgroups._parent(Path("/proc/self"))
    left = parent / "clipper-999999999-0"
    left.mkdir()
    group = MemoryGroup.make(64 * MIB)
    assert left.exists()  # it may be somebody's who is just starting
    monkeypatch.setattr(cgroups, "_STALE_SECONDS", -1.0)
    other = MemoryGroup.make(64 * MIB)
    assert not left.exists()
    group.remove()
    other.remove()


def a_system(folder: Path, *, groups: str, mounts: str) -> Path:
    proc = folder / "proc"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(groups)
    (proc / "mountinfo").write_text(mounts)
    return proc


def test_version_2_is_used_where_a_group_hands_memory_on(tmp_path: Path) -> None:
    """Only the files' names and contents: this is no kernel."""
    mounted = tmp_path / "cgroup"
    own = mounted / "app.service" / "engine"
    own.mkdir(parents=True)
    (own / "cgroup.subtree_control").write_text("")
    os.chmod(own / "cgroup.subtree_control", 0o400)
    (own.parent / "cgroup.subtree_control").write_text("cpu memory\n")
    proc = a_system(
        tmp_path, groups="0::/app.service/engine\n",
        mounts=f"30 23 0:26 / {mounted} rw,nosuid - cgroup2 cgroup2 rw\n",
    )  # fmt: skip

    parent, files = cgroups._parent(proc)
    assert files.version == 2
    # As root the own group can be told to; as anybody else its parent does already.
    assert parent in (own, own.parent)

    folder = parent / "made"
    folder.mkdir()
    (folder / "memory.swap.max").write_text("max")
    group = MemoryGroup(folder, files, 64 * MIB)
    group._set(64 * MIB)
    assert (folder / "memory.max").read_text() == str(64 * MIB)
    assert (folder / "memory.swap.max").read_text() == "0"
    (folder / "memory.events").write_text("low 0\nmax 12\noom 1\noom_kill 0\n")
    assert group.verdict() == ""
    (folder / "memory.events").write_text("low 0\nmax 12\noom 1\noom_kill 2\n")
    (folder / "memory.peak").write_text(str(64 * MIB))
    assert group.verdict().startswith("used 64.0 MiB of 64.0 MiB allowed")


def test_a_system_without_a_group_to_write_says_why(tmp_path: Path) -> None:
    proc = a_system(tmp_path, groups="0::/\n", mounts="")
    with pytest.raises(NoGroup, match=r"hands on memory \(v2\)"):
        MemoryGroup.make(64 * MIB, proc)
    with pytest.raises(NoGroup, match="there are no control groups"):
        MemoryGroup.make(64 * MIB, tmp_path / "none")


# ---- what is used -----------------------------------------------------------------------------


def test_usage_is_measured_per_replica(engine: clipper.Engine) -> None:
    def burns(batch: Any) -> Any:
        until = time.monotonic() + 0.05
        while time.monotonic() < until:
            pass
        return batch.astype(np.int64)

    here = engine.deploy("here", burns, input=ROW, output=OUT, resources=Resources(cpus=CPUS))
    there = engine.deploy("there", burns, input=ROW, output=OUT, where="isolated")
    idle = engine.deploy("idle", burns, input=ROW, output=OUT, where="isolated")

    def both_are_seen() -> bool:
        here.predict(0.0)
        there.predict(0.0)
        used = [resources_of(model)["used"]["cpu"] for model in (here, there)]
        return all(cpu is not None and 0.05 < cpu < 2.0 for cpu in used)

    wait_until(both_are_seen)
    used = resources_of(there)["used"]
    assert 5 * MIB < used["resident"] < 4096 * MIB
    assert resources_of(here)["used"]["resident"] is None  # a thread has no memory of its own
    wait_until(lambda: resources_of(idle)["used"]["cpu"] is not None)
    wait_until(lambda: resources_of(idle)["used"]["cpu"] < 0.05)


def test_a_meter_ends_what_has_too_much_once() -> None:
    ended: list[int] = []
    meter = Meter(pid=os.getpid(), memory=1, end=lambda: ended.append(1))
    meter.guard()
    meter.guard()
    assert ended == [1]
    assert "of 1 B allowed and was ended" in meter.verdict
    Meter(pid=os.getpid(), memory=1 << 50, end=lambda: ended.append(2)).guard()
    assert ended == [1]
