"""Each public entry refuses what it cannot serve, and says what to do."""

import os
import subprocess
import sys

import numpy as np
import pytest

import clipper


@pytest.fixture
def model(engine: clipper.Engine) -> clipper.Model:
    return engine.deploy("m", lambda b: b.sum(axis=1), warmup=np.ones(4, np.float32))


@pytest.mark.parametrize(
    ("row", "error", "told"),
    [
        (np.ones(4), TypeError, "float64.*astype"),
        (np.ones(3, np.float32), ValueError, r"\(3,\).*\(4,\)"),
        (np.ones((1, 4), np.float32), ValueError, "predict_many"),
        ([], ValueError, r"\(0,\)"),
        ("text", TypeError, "float32"),
        (None, TypeError, "float32"),
    ],
)
def test_wrong_rows_are_refused(
    model: clipper.Model, row: object, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        model.predict(row)
    with pytest.raises(error, match=told):
        model.submit(row)
    assert model.predict([1, 2, 3, 4]).output == 10.0


def test_no_rows_and_a_lost_batch_axis_are_refused(model: clipper.Model) -> None:
    with pytest.raises(ValueError, match="no rows"):
        model.predict_many(np.empty((0, 4), np.float32))
    with pytest.raises(ValueError, match="predict for a single row"):
        model.predict_many(np.ones(4, np.float32))


@pytest.mark.parametrize("deadline", [0, -1, float("nan"), 1e12])
def test_impossible_deadlines_are_refused(model: clipper.Model, deadline: float) -> None:
    with pytest.raises(ValueError, match="deadline"):
        model.predict(np.ones(4, np.float32), deadline=deadline)


def test_strided_rows_are_copied(model: clipper.Model) -> None:
    wide = np.arange(8, dtype=np.float32)
    assert model.predict(wide[::2]).output == wide[::2].sum()


def test_unknown_names_list_the_known_ones(engine: clipper.Engine, model: clipper.Model) -> None:
    with pytest.raises(clipper.ModelNotFoundError, match="'m'"):
        engine.model("n")
    with pytest.raises(clipper.ApplicationNotFoundError, match="'m'"):
        engine.application("n")
    with pytest.raises(clipper.ModelNotFoundError):
        engine.create_application("a", models=["n"], slo=0.1)


def test_a_model_of_unknown_specs_is_refused(engine: clipper.Engine) -> None:
    with pytest.raises(ValueError, match="what does model 'f' take"):
        engine.deploy("f", lambda b: b)
    with pytest.raises(ValueError, match="what does model 'f' return"):
        engine.deploy("f", lambda b: b, input=clipper.Tensor("int64"))
    with pytest.raises(TypeError, match="cannot be called"):
        engine.deploy("f", 3)


def test_a_failing_warm_up_leaves_the_old_version_serving(
    engine: clipper.Engine, model: clipper.Model
) -> None:
    def broken(batch: np.ndarray) -> np.ndarray:
        raise OSError("no such weights")

    with pytest.raises(clipper.DeployError, match="no such weights"):
        engine.deploy("m", broken, warmup=np.ones(4, np.float32))
    assert model.version == 1
    assert model.predict([1, 1, 1, 1]).output == 4.0


def test_a_model_that_hangs_while_it_loads_is_reported(engine: clipper.Engine) -> None:
    import threading

    gate = threading.Event()
    with pytest.raises(clipper.DeployError, match="not ready in time"):
        engine.deploy("h", lambda b: gate.wait(10) and b, warmup=[1.0], ready_timeout=0.2)
    gate.set()


def test_an_objective_below_the_models_own_latency_is_refused(engine: clipper.Engine) -> None:
    import time

    def slow(batch: np.ndarray) -> np.ndarray:
        time.sleep(0.02)
        return batch

    engine.deploy("slow", slow, warmup=np.int64(0))
    with pytest.raises(ValueError, match=r"takes 2\d(\.\d+)? ms"):
        engine.create_application("a", models=["slow"], slo=0.005)


def test_several_models_need_a_policy(engine: clipper.Engine) -> None:
    for name in ("a", "b"):
        engine.deploy(name, lambda b: b, warmup=np.int64(0))
    with pytest.raises(ValueError, match="policy="):
        engine.create_application("ab", models=["a", "b"], slo=None)
    with pytest.raises(ValueError, match="WeightedSplit has weights"):
        engine.create_application(
            "ab", models=["a", "b"], slo=None, policy=clipper.WeightedSplit({"a": 1.0})
        )


def test_a_full_queue_refuses_at_once(engine: clipper.Engine) -> None:
    import threading

    gate = threading.Event()
    model = engine.deploy(
        "m", lambda b: gate.wait(10) and b, input=clipper.Tensor("int64"),
        output=clipper.Tensor("int64"), max_queue=4, caller_runs=False,
    )  # fmt: skip
    futures = [model.submit(i) for i in range(12)]
    refused = [f for f in futures if f.done()]
    assert len(refused) >= 7
    for future in refused:
        assert isinstance(future.exception(), clipper.OverloadedError)
    gate.set()
    assert all(f.exception(timeout=5) is None for f in futures if f not in refused)


FORK = """
import os, numpy as np, clipper
engine = clipper.Engine()
model = engine.deploy("m", lambda b: b, warmup=np.int64(0))
model.predict(1)
child = os.fork()
if child == 0:
    try:
        model.predict(1)
    except clipper.ForkedEngineError as error:
        os._exit(0 if "after the fork" in str(error) else 2)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert model.predict(2).output == 2
"""


def test_use_after_fork_is_refused_and_the_parent_goes_on() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], timeout=60, check=False, env=os.environ
    )
    assert run.returncode == 0
