"""Isolated replicas answer as threads do, whatever their processes do."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import clipper
from clipper import Isolated, Ragged, Tensor

MODELS = '''
"""Models of the tests, as a worker imports them."""
import os, signal, sys, time
import numpy as np


def double():
    return lambda batch: batch * 2


def pid():
    return lambda batch: np.full(len(batch), os.getpid())


def raising():
    raise LookupError("the weights are gone")


def blocking():
    time.sleep(600)


def exiting():
    print("about to leave", flush=True)
    os._exit(3)


def exits_in_warm_up():
    def model(batch):
        print("cannot go on", file=sys.stderr, flush=True)
        os._exit(4)
    return model


def not_a_model():
    return 7


def behaves_as_told():
    """The first value of a row says what to do."""
    def model(batch):
        for row in batch:
            if row[0] == 666:
                os.kill(os.getpid(), signal.SIGKILL)
            if row[0] == 777:
                os.kill(os.getpid(), signal.SIGSTOP)
            if row[0] == 888:
                raise ValueError(f"no answer to {row[1]:g}")
            if row[0] == 999:
                sum(range(20_000_000))  # holds the GIL throughout
            if row[0] == 555:
                time.sleep(row[1])
        return batch[:, 1] * 10
    return model


def loads_slowly():
    time.sleep(1.5)
    return behaves_as_told()


def dies_once():
    """Dies in the first batch that holds 666, and answers it the next time."""
    def model(batch):
        mark = os.environ["DEATH_MARK"]
        if (batch[:, 0] == 666).any() and not os.path.exists(mark):
            open(mark, "w").close()
            os._exit(9)
        return batch[:, 1] * 10
    return model


def numpy_version():
    version = [int(part) for part in np.__version__.split(".")[:2]]
    return lambda batch: np.tile(np.array(version), (len(batch), 1))
'''


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "worker_models.py").write_text(MODELS)
    return folder


@pytest.fixture
def isolated(models: Path) -> Callable[..., Isolated]:
    return lambda **options: Isolated(paths=(models,), **options)


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    yield
    until = time.monotonic() + 5
    while workers_of(os.getpid()) and time.monotonic() < until:
        time.sleep(0.01)
    assert workers_of(os.getpid()) == []


def workers_of(pid: int) -> list[int]:
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if any("clipper_worker" in part for part in child.cmdline()):
                found.append(child.pid)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.005)


def worker_state(engine: clipper.Engine, name: str, index: int = 0) -> dict[str, Any]:
    model = engine.describe()["models"][name]
    state: dict[str, Any] = model["versions"][str(model["version"])]["workers"][index]
    return state


TOLD = Tensor("float64", (2,))
OUT = Tensor("float64", ())


# ---- the same answers -------------------------------------------------------------------------


def reversed_rows(batch: Any) -> Any:
    return Ragged.from_rows([row[::-1] for row in batch])


ROW_KINDS: dict[str, tuple[Any, Any, Any, list[Any]]] = {
    "numbers": (lambda b: b + 1, Tensor("int16", (3,)), Tensor("int16", (3,)),
                [[1, 2, 3], [4, 5, 6]]),
    "booleans": (lambda b: ~b, Tensor("bool", (2,)), Tensor("bool", (2,)),
                 [[True, False], [False, False]]),
    "complex numbers": (lambda b: b.conj(), Tensor("complex64", ()), Tensor("complex64", ()),
                        [1 + 2j, 3 - 4j]),
    "text": (lambda b: [t.upper() for t in b], Tensor("text"), Tensor("text"),
             ["grün", "", "日本語"]),
    "bytes": (lambda b: [t[::-1] for t in b], Tensor("bytes"), Tensor("bytes"),
              [b"abc", b"", b"\xff\x00"]),
    "ragged": (reversed_rows, Tensor("int64", (None,)), Tensor("int64", (None,)),
               [[1, 2, 3], [9], [5, 6]]),
    "ragged items": (reversed_rows, Tensor("float32", (None, 2)), Tensor("float32", (None, 2)),
                     [[[1, 2], [3, 4]], [[5, 6]]]),
    "lengths of text": (lambda b: [len(t) for t in b], Tensor("text"), Tensor("int64", ()),
                        ["one", "three"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", ROW_KINDS)
def test_rows_of_every_kind_are_answered_as_by_a_thread(engine: clipper.Engine, kind: str) -> None:
    function, input, output, rows = ROW_KINDS[kind]
    here = engine.deploy("here", function, input=input, output=output)
    there = engine.deploy("there", function, input=input, output=output, where="isolated")

    for row in rows:
        np.testing.assert_array_equal(there.predict(row).output, here.predict(row).output)
    expected, got = here.predict_many(rows), there.predict_many(rows)
    assert [np.asarray(row).tolist() for row in got.output] == [
        np.asarray(row).tolist() for row in expected.output
    ]


def test_several_named_tensors_are_answered_as_by_a_thread(engine: clipper.Engine) -> None:
    input = {"x": Tensor("float32", (2,)), "words": Tensor("text"), "ids": Tensor("int32", (None,))}
    output = {"total": Tensor("float32", ()), "said": Tensor("text")}

    def model(x: Any, words: list[str], ids: Any) -> dict[str, Any]:
        totals = np.array([r.sum() + i.sum() for r, i in zip(x, ids, strict=True)], np.float32)
        return {"total": totals, "said": [word * 2 for word in words]}

    here = engine.deploy("here", model, input=input, output=output)
    there = engine.deploy("there", model, input=input, output=output, where="isolated")
    row = {"x": [1.0, 2.0], "words": "ab", "ids": [3, 4, 5]}

    assert there.predict(row).output == here.predict(row).output == {"total": 15.0, "said": "abab"}


def test_bfloat16_reaches_the_worker(engine: clipper.Engine) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    model = engine.deploy("b", lambda b: b + b, input=Tensor("bfloat16", (2,)),
                          output=Tensor("bfloat16", (2,)), where="isolated")  # fmt: skip
    answer = model.predict(np.array([1.5, 2.0], ml_dtypes.bfloat16)).output
    assert answer.astype(float).tolist() == [3.0, 4.0]


def test_many_callers_each_get_their_own_answer(
    engine: clipper.Engine, isolated: Callable[..., Isolated]
) -> None:
    model = engine.deploy("d", "worker_models:double", input=Tensor("float64", (3,)), output=Tensor(
        "float64", (3,)), where=isolated(), replicas=2)  # fmt: skip
    wrong = []

    def ask(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(200):
            row = random.random(3)
            if not (model.predict(row).output == row * 2).all():
                wrong.append(row)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    replicas = engine.describe()["models"]["d"]["versions"]["1"]["replicas"]
    assert sum(replica["rows"] for replica in replicas) == 1600


def test_large_ragged_rows_are_copied_and_counted(engine: clipper.Engine) -> None:
    """A row that no block holds lies on the heap, which no worker sees."""
    model = engine.deploy(
        "n",
        lambda batch: np.array([row.sum() for row in batch]),
        input=Tensor("float64", (None,)),
        output=OUT,
        where="isolated",
    )
    row = np.arange(700_000, dtype=np.float64)
    assert model.predict(row).output == row.sum()
    assert worker_state(engine, "n")["copied_batches"] >= 1


def test_the_rows_cannot_be_written_by_the_worker(engine: clipper.Engine) -> None:
    def vandal(batch: Any) -> Any:
        import mmap

        refused = 0
        for name in os.listdir("/proc/self/map_files"):
            path = f"/proc/self/map_files/{name}"
            if "memfd:clipper" in os.readlink(path):
                try:
                    file = os.open(path, os.O_RDWR)
                    mmap.mmap(file, 4096).close()
                except (PermissionError, OSError):
                    refused += 1
        try:
            batch[:] = 0
        except ValueError:
            refused += 1000
        return np.full(len(batch), refused)

    model = engine.deploy("v", vandal, input=Tensor("float64", (2,)), output=Tensor("int64", ()),
                          where="isolated")  # fmt: skip
    refused = int(model.predict([1.0, 2.0]).output)
    assert refused >= 1002  # the view, and the segments of rows and of staging


def test_an_adapter_is_loaded_in_the_worker(engine: clipper.Engine) -> None:
    torch = pytest.importorskip("torch")
    from clipper_adapters import TorchModel

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    here = engine.deploy("here", TorchModel(net))
    there = engine.deploy("there", TorchModel(net), where="isolated")
    row = np.linspace(-1, 1, 4, dtype=np.float32)
    np.testing.assert_array_equal(there.predict(row).output, here.predict(row).output)


def test_an_onnx_file_knows_what_it_takes(engine: clipper.Engine, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    node = helper.make_node("Add", ["x", "x"], ["y"])
    x = helper.make_tensor_value_info("x", kinds.FLOAT, ["n", 2])
    y = helper.make_tensor_value_info("y", kinds.FLOAT, ["n", 2])
    graph = helper.make_graph([node], "g", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, tmp_path / "add.onnx")

    model = engine.deploy("add", tmp_path / "add.onnx", where="isolated")
    assert model.input.tensors == Tensor("float32", (2,))
    assert model.predict([1.0, 2.0]).output.tolist() == [2.0, 4.0]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torchscript_and_joblib_files_are_served(engine: clipper.Engine, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    joblib = pytest.importorskip("joblib")
    linear_model = pytest.importorskip("sklearn.linear_model")
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 1), torch.zeros(1, 2)), tmp_path / "l.ts")
    script = engine.deploy("script", tmp_path / "l.ts", input=Tensor("float32", (2,)),
                           where="isolated")  # fmt: skip
    assert script.predict([0.0, 0.0]).output.shape == (1,)

    fitted = linear_model.LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
    joblib.dump(fitted, tmp_path / "fit.joblib")
    with pytest.raises(clipper.DeployError, match="may_unpickle=True"):
        engine.deploy("fit", tmp_path / "fit.joblib", where="isolated")
    model = engine.deploy("fit", tmp_path / "fit.joblib", where=Isolated(may_unpickle=True))
    assert float(model.predict([3.0]).output) == pytest.approx(6.0)


# ---- a model's own errors ---------------------------------------------------------------------


def test_what_a_model_raises_is_a_model_error_and_its_worker_lives(
    engine: clipper.Engine, isolated: Callable[..., Isolated]
) -> None:
    model = engine.deploy("m", "worker_models:behaves_as_told", input=TOLD, output=OUT,
                          where=isolated())  # fmt: skip
    pid = worker_state(engine, "m")["pid"]
    with pytest.raises(clipper.ModelError, match="ValueError: no answer to 5"):
        model.predict([888.0, 5.0])
    assert "worker_models.py" in model.errors[-1]
    assert "Traceback" in model.errors[-1]
    assert model.predict([1.0, 4.0]).output == 40.0
    assert worker_state(engine, "m")["pid"] == pid


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda batch: batch[:-1], "0 outputs for 1 inputs"),
        (lambda batch: batch[:, :1], "shape"),
        (lambda batch: None, "returned None"),
        (lambda batch: batch.astype(str), "dtype|<U|str"),
        (lambda batch: sys.exit(1), "SystemExit"),
    ],
)
def test_wrong_outputs_are_model_errors(engine: clipper.Engine, function: Any, says: str) -> None:
    spec = Tensor("float64", (2,))
    model = engine.deploy("w", function, input=spec, output=spec, where="isolated")
    with pytest.raises(clipper.ModelError, match=says):
        model.predict([1.0, 2.0])
    assert worker_state(engine, "w")["restarts"] == 0


def test_outputs_that_need_more_room_are_refused_with_what_to_do(engine: clipper.Engine) -> None:
    model = engine.deploy("r", lambda b: [t * 1000 for t in b], input=Tensor("text"),
                          output=Tensor("text"), where=Isolated(output_bytes="4KiB"))  # fmt: skip
    assert model.predict("ab").output == "ab" * 1000
    with pytest.raises(clipper.ModelError, match="larger output_bytes"):
        model.predict("abcde")


# ---- deaths -----------------------------------------------------------------------------------


def test_a_batch_whose_worker_dies_is_run_again_on_the_next_one(
    engine: clipper.Engine, isolated: Callable[..., Isolated], tmp_path: Path
) -> None:
    mark = str(tmp_path / "mark")
    model = engine.deploy("m", "worker_models:dies_once", input=TOLD, output=OUT,
                          where=isolated(env={"DEATH_MARK": mark}))  # fmt: skip
    rows = np.array([[i, i] for i in range(6)] + [[666.0, 7.0]])
    answers = model.predict_many(rows)
    assert os.path.exists(mark)
    assert answers.output.tolist() == [0, 10, 20, 30, 40, 50, 70]
    assert worker_state(engine, "m")["restarts"] == 1
    assert "ended with status 9" in worker_state(engine, "m")["last_death"]
    assert engine.describe()["models"]["m"]["versions"]["1"]["refused_inputs"] == []


def test_sigkill_in_mid_batch_loses_no_query(
    engine: clipper.Engine, isolated: Callable[..., Isolated]
) -> None:
    model = engine.deploy("m", "worker_models:behaves_as_told", input=TOLD, output=OUT, replicas=2,
                          where=isolated(restarts=50))  # fmt: skip
    stop = threading.Event()
    asked = 0
    wrong: list[Any] = []

    def ask() -> None:
        nonlocal asked
        while not stop.is_set():
            # No input twice: one that was often in flight when workers were killed is refused.
            delays = [0.001 + (asked + i) * 1e-7 for i in range(4)]
            futures = [model.submit([555.0, delay]) for delay in delays]
            asked += len(futures)
            for delay, future in zip(delays, futures, strict=True):
                got = future.result(timeout=30).output
                if got != delay * 10:
                    wrong.append((delay, got))

    thread = threading.Thread(target=ask)
    thread.start()
    for _ in range(6):
        wait_until(lambda: worker_state(engine, "m")["state"] == "serving")
        time.sleep(0.02)
        os.kill(worker_state(engine, "m")["pid"], signal.SIGKILL)
        wait_until(lambda: worker_state(engine, "m")["state"] != "serving")
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert wrong == []
    assert asked > 0
    assert engine.describe()["open_queries"] == 0


def test_rows_that_cannot_wait_for_a_new_worker_end_with_the_cause(
    engine: clipper.Engine, isolated: Callable[..., Isolated]
) -> None:
    model = engine.deploy("m", "worker_models:loads_slowly", input=TOLD, output=OUT,
                          default=-1.0, where=isolated())  # fmt: skip
    answer = model.predict([666.0, 1.0], deadline=1.0)
    assert answer.output == -1.0
    assert answer.why is clipper.Cause.CRASH


def test_a_worker_that_hangs_is_ended_and_its_rows_tried_again(
    engine: clipper.Engine, isolated: Callable[..., Isolated]
) -> None:
    model = engine.deploy("m", "worker_models:behaves_as_told", input=TOLD, output=OUT,
                          where=isolated(timeout=0.3))  # fmt: skip
    pid = worker_state(engine, "m")["pid"]
    with pytest.raises(clipper.PredictionError, match=r"within 0\.3 s"):
        model.predict([777.0, 1.0], deadline=20.0)
    wait_until(lambda: worker_state(engine, "m")["state"] == "serving")
    assert not psutil.pid_exists(pid)
    assert model.predict([1.0, 1.0]).output == 10.0


def test_a_long_run_that_holds_the_gil_is_not_taken_for_death(
    engine: clipper.Engine, isolated: Callable[..., Isolated]
) -> None:
    model = engine.deploy("m", "worker_models:behaves_as_told", input=TOLD, output=OUT,
                          where=isolated())  # fmt: skip
    pid = worker_state(engine, "m")["pid"]
    assert model.predict([999.0, 2.0]).output == 20.0
    assert worker_state(engine, "m")["pid"] == pid


def test_an_idle_worker_that_dies_is_started_again(
    engine: clipper.Engine, isolated: Callable[..., Isolated]
) -> None:
    model = engine.deploy("p", "worker_models:pid", input=TOLD, output=Tensor("int64", ()),
                          where=isolated())  # fmt: skip
    pid = int(model.predict([0.0, 0.0]).output)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: worker_state(engine, "p")["restarts"] == 1)
    assert int(model.predict([0.0, 0.0]).output) != pid


def test_an_input_that_kills_two_workers_is_refused_by_name(
    engine: clipper.Engine, isolated: Callable[..., Isolated], caplog: pytest.LogCaptureFixture
) -> None:
    model = engine.deploy("m", "worker_models:behaves_as_told", input=TOLD, output=OUT,
                          where=isolated())  # fmt: skip
    rows = np.array([[1.0, i] for i in range(5)] + [[666.0, 0.0]])
    with caplog.at_level(logging.ERROR, "clipper"):
        answers = model.predict_many(rows)
        wait_until(lambda: "is refused" in caplog.text)
    assert answers.output[:5].tolist() == [0, 10, 20, 30, 40]
    assert answers.why[5] is clipper.Cause.CRASH
    version = engine.describe()["models"]["m"]["versions"]["1"]
    (name,) = version["refused_inputs"]
    assert name in caplog.text
    # Two deaths, and no more: from now on it does not reach a worker.
    restarts = version["workers"][0]["restarts"]
    with pytest.raises(clipper.ReplicaCrashedError, match=f"input {name} .* is refused"):
        model.predict([666.0, 0.0])
    assert model.predict([1.0, 3.0]).output == 30.0
    many = model.predict_many(rows)
    assert many.why[5] is clipper.Cause.CRASH
    assert [why for why in many.why[:5] if why is not None] == []
    wait_until(lambda: worker_state(engine, "m")["state"] == "serving")
    assert worker_state(engine, "m")["restarts"] == max(restarts, 2) == 2


def test_rows_with_a_cache_are_tried_again_and_refused_as_others_are(
    engine: clipper.Engine, isolated: Callable[..., Isolated], tmp_path: Path
) -> None:
    mark = str(tmp_path / "mark")
    once = engine.deploy("once", "worker_models:dies_once", input=TOLD, output=OUT, cache=True,
                         where=isolated(env={"DEATH_MARK": mark}))  # fmt: skip
    same = [once.submit([666.0, 7.0]) for _ in range(8)]  # one evaluation for all of them
    assert [future.result(timeout=20).output for future in same] == [70.0] * 8
    assert once.predict([666.0, 7.0]).output == 70.0

    always = engine.deploy("always", "worker_models:behaves_as_told", input=TOLD, output=OUT,
                           cache=True, where=isolated())  # fmt: skip
    rows = np.array([[1.0, 1.0], [666.0, 0.0], [1.0, 2.0]])
    for _ in range(2):
        answers = always.predict_many(rows)
        assert answers.why[1] is clipper.Cause.CRASH
        assert answers.output[[0, 2]].tolist() == [10.0, 20.0]
    (name,) = always.describe()["versions"]["1"]["refused_inputs"]
    wait_until(lambda: worker_state(engine, "always")["state"] == "serving")
    with pytest.raises(clipper.ReplicaCrashedError, match=f"input {name} .* is refused"):
        always.predict([666.0, 0.0])
    assert worker_state(engine, "always")["restarts"] == 2


def test_a_stage_of_a_pipeline_may_be_isolated_and_die(
    engine: clipper.Engine, isolated: Callable[..., Isolated]
) -> None:
    engine.deploy("first", "worker_models:behaves_as_told", input=TOLD, output=OUT,
                  where=isolated())  # fmt: skip
    engine.deploy("second", lambda batch: batch + 1, input=OUT, output=OUT)
    stages = clipper.Pipeline({"first": clipper.INPUT, "second": "first"})
    both = engine.create_application("both", models=["first", "second"], slo=20.0, default=None,
                                     policy=stages)  # fmt: skip
    for _ in range(3):  # the third time the input is not even sent
        answer = both.predict([666.0, 1.0])
        assert answer.missing["first"] is clipper.Cause.CRASH
    wait_until(lambda: worker_state(engine, "first")["state"] == "serving")
    assert worker_state(engine, "first")["restarts"] == 2
    assert both.predict([1.0, 2.0]).output == 21.0


def test_a_crash_looping_model_is_reported_and_not_started_for_ever(
    engine: clipper.Engine, isolated: Callable[..., Isolated]
) -> None:
    model = engine.deploy("m", "worker_models:behaves_as_told", input=TOLD, output=OUT,
                          where=isolated(restarts=3))  # fmt: skip
    for _ in range(3):
        wait_until(lambda: worker_state(engine, "m")["state"] == "serving")
        os.kill(worker_state(engine, "m")["pid"], signal.SIGKILL)
        wait_until(lambda: worker_state(engine, "m")["state"] != "serving")
    wait_until(lambda: worker_state(engine, "m")["state"] in ("given up", "stopped"))
    assert worker_state(engine, "m")["restarts"] == 2
    with pytest.raises(clipper.NoReplicaError):
        model.predict([1.0, 1.0])


def test_while_a_worker_starts_again_short_deadlines_are_refused_at_once(
    engine: clipper.Engine, isolated: Callable[..., Isolated]
) -> None:
    model = engine.deploy("m", "worker_models:behaves_as_told", input=TOLD, output=OUT,
                          warmup=[1.0, 1.0], where=isolated())  # fmt: skip
    os.kill(worker_state(engine, "m")["pid"], signal.SIGKILL)
    wait_until(lambda: worker_state(engine, "m")["state"] == "restarting")
    with pytest.raises(clipper.NoReplicaError):
        model.predict([1.0, 1.0], deadline=0.02)
    assert model.predict([1.0, 1.0], deadline=20.0).output == 10.0


def test_no_worker_outlives_an_engine_that_is_killed(models: Path) -> None:
    code = textwrap.dedent(f"""
        import sys, time, clipper
        engine = clipper.Engine()
        tensor = clipper.Tensor("float64", (2,))
        for name in ("a", "b"):
            engine.deploy(name, "worker_models:double", input=tensor, output=tensor, replicas=2,
                          where=clipper.Isolated(paths=({str(models)!r},)))
        print("ready", flush=True)
        time.sleep(600)
    """)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        workers = workers_of(parent.pid)
        assert len(workers) == 4
        parent.kill()
        parent.wait()
    wait_until(lambda: not any(is_running(pid) for pid in workers))


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# ---- deploying --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("worker_models:raising", "LookupError: the weights are gone"),
        ("worker_models:exiting", "(?s)ended with status 3.*about to leave"),
        ("worker_models:exits_in_warm_up", "(?s)ended with status 4.*cannot go on"),
        ("worker_models:not_a_model", "gave a int, which cannot be called"),
        ("worker_models:nothing", "has no 'nothing'"),
        ("no_such_module:f", "no_such_module"),
        ("/nowhere/model.onnx", "there is no file /nowhere/model.onnx"),
    ],
)
def test_a_model_that_cannot_be_loaded_fails_the_deploy(
    engine: clipper.Engine, isolated: Callable[..., Isolated], model: str, says: str
) -> None:
    with pytest.raises(clipper.DeployError, match=says):
        engine.deploy("m", model, input=TOLD, output=OUT, warmup=[0.0, 0.0], where=isolated())
    assert engine.describe()["models"] == {}


def test_a_file_that_is_no_model_fails_the_deploy(engine: clipper.Engine, tmp_path: Path) -> None:
    for name, says in [("notes.txt", "is no model"), ("broken.onnx", "ONNX Runtime|cannot")]:
        (tmp_path / name).write_text("not a model")
        with pytest.raises(clipper.DeployError, match=says):
            engine.deploy("m", tmp_path / name, where="isolated")


def test_a_factory_that_blocks_fails_the_deploy_in_time(
    engine: clipper.Engine, isolated: Callable[..., Isolated]
) -> None:
    began = time.monotonic()
    with pytest.raises(clipper.DeployError, match="not ready in time"):
        engine.deploy("m", "worker_models:blocking", input=TOLD, output=OUT, where=isolated(),
                      ready_timeout=1.0)  # fmt: skip
    assert time.monotonic() - began < 5.0


def test_a_missing_interpreter_fails_the_deploy(engine: clipper.Engine) -> None:
    with pytest.raises(clipper.DeployError, match=r"/nowhere/python.*No such file"):
        engine.deploy("m", "worker_models:double", input=TOLD, output=TOLD,
                      where=Isolated(python="/nowhere/python"))  # fmt: skip
    with pytest.raises(clipper.DeployError, match="ended with status"):
        engine.deploy("m", "worker_models:double", input=TOLD, output=TOLD,
                      where=Isolated(python="/bin/false"))  # fmt: skip


def test_what_cannot_be_sent_is_refused_before_anything_starts(engine: clipper.Engine) -> None:
    lock = threading.Lock()
    with pytest.raises(TypeError, match="cannot be sent to another process"):
        engine.deploy("m", lambda b: (lock, b)[1], input=TOLD, output=TOLD, where="isolated")
    with pytest.raises(ValueError, match="where='moon'"):
        engine.deploy("m", lambda b: b, input=TOLD, output=TOLD, where="moon")  # type: ignore[arg-type]


# ---- versions ---------------------------------------------------------------------------------


def test_versions_change_roll_back_and_go_without_losing_a_query(
    engine: clipper.Engine,
) -> None:
    def times(factor: int) -> Any:
        return lambda batch: batch * factor

    def deploy(factor: int) -> Any:
        return engine.deploy("m", times(factor), input=Tensor("int64", ()),
                             output=Tensor("int64", ()), where="isolated")  # fmt: skip

    model = deploy(2)
    stop = threading.Event()
    seen: set[int] = set()
    failed: list[BaseException] = []

    def ask() -> None:
        while not stop.is_set():
            try:
                seen.add(int(model.predict(1).output))
            except BaseException as error:
                failed.append(error)
                return

    thread = threading.Thread(target=ask)
    thread.start()
    deploy(3)
    wait_until(lambda: 3 in seen)
    assert model.rollback() == 1
    seen.clear()
    wait_until(lambda: 2 in seen)
    deploy(5)
    wait_until(lambda: 5 in seen)
    stop.set()
    thread.join()
    assert failed == []
    engine.undeploy("m")
    assert workers_of(os.getpid()) == []
    with pytest.raises(clipper.NoReplicaError):
        model.predict(1)
