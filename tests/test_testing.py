"""The pytest plugin, in the hands of its users: each test runs pytest in a process of its own."""

import importlib.util
import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pytest_benchmark")

pytest_plugins = ["pytester"]

PRELUDE = """
import threading, time
import numpy as np
import pytest
import clipper

ROWS = np.arange(16, dtype=np.float32).reshape(4, 4)

def total(batch):
    return batch.sum(axis=1)

def after(seconds):
    def slow(batch):
        time.sleep(seconds)
        return total(batch)
    return slow
"""

GATE = """
def test_total_holds_its_objective(engine, serving_benchmark):
    model = engine.deploy("total", total, warmup=ROWS[0], slo=0.5)
    result = serving_benchmark(model, ROWS, rate=400.0, seconds=0.3, seed=3)
    assert result.in_time_share >= 0.9
    assert np.array_equal(result.outputs, ROWS.sum(axis=1)[result.chosen])
"""

# What pytest-benchmark finds out about the machine takes it seconds.
CONFTEST = "def pytest_benchmark_generate_machine_info():\n    return {}\n"


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeconftest(CONFTEST)
    ini = "[pytest]\nfilterwarnings =\n  error\n"
    if importlib.util.find_spec("_editable_skbc_clipper"):  # as pyproject.toml says
        ini += "  ignore:Module already imported:pytest.PytestAssertRewriteWarning\n"
    pytester.makeini(ini)
    return pytester


def run(project: pytest.Pytester, script: str, *options: str) -> pytest.RunResult:
    project.makepyfile(test_it=PRELUDE + textwrap.dedent(script))
    return project.runpytest_subprocess("-q", *options, timeout=60)


def saved(path: Path) -> dict[str, Any]:
    (benchmark,) = json.loads(path.read_text())["benchmarks"]
    found: dict[str, Any] = benchmark
    return found


# ---- engine ------------------------------------------------------------------------------------


def test_an_engine_is_fresh_for_each_test_and_closed_afterwards(project: pytest.Pytester) -> None:
    script = """
    seen = []

    @pytest.mark.parametrize("number", [1, 2])
    def test_once(engine, number):
        assert all(other is not engine and other.closed for other in seen)
        seen.append(engine)
        assert engine.deploy("total", total, warmup=ROWS[0]).predict(ROWS[number]).output > 0
    """
    run(project, script).assert_outcomes(passed=2)


def test_queries_left_open_fail_their_test_and_no_other(project: pytest.Pytester) -> None:
    script = """
    gate, futures = threading.Event(), []

    def gated(batch):
        gate.wait(20)
        return total(batch)

    def test_forgets(engine):
        rows, sums = clipper.Tensor("float32", (4,)), clipper.Tensor("float32")
        futures.append(engine.deploy("gated", gated, input=rows, output=sums).submit(ROWS[0]))
        threading.Timer(1.5, gate.set).start()

    def test_withdraws(engine):
        future = engine.deploy("total", total, warmup=ROWS[0]).submit(ROWS[0])
        future.cancel()

    def test_closes(engine):
        gate.clear()
        rows, sums = clipper.Tensor("float32", (4,)), clipper.Tensor("float32")
        futures.append(engine.deploy("gated", gated, input=rows, output=sums).submit(ROWS[0]))
        threading.Timer(0.2, gate.set).start()
        engine.close()
    """
    done = run(project, script)
    done.assert_outcomes(passed=3, errors=1)
    done.stdout.fnmatch_lines(["*the test left queries open: 1.*"])
    done.stdout.fnmatch_lines(["ERROR test_it.py::test_forgets*"])


# ---- serving_benchmark -------------------------------------------------------------------------


def test_a_load_is_a_benchmark_whose_rounds_are_its_arrivals(project: pytest.Pytester) -> None:
    done = run(project, GATE, "--benchmark-json=found.json", "--benchmark-columns=median,rounds")
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(["*Median*Rounds*", "test_total_holds_its_objective*"])
    benchmark = saved(project.path / "found.json")
    told, stats = benchmark["extra_info"], benchmark["stats"]
    assert told["arrivals"] == stats["rounds"]
    assert told["arrivals"] == pytest.approx(120, abs=50)
    assert told["slo"] == 0.5
    assert told["goodput"] == pytest.approx(told["offered"] * told["in_time_share"])
    assert told["p50"] == pytest.approx(stats["median"])  # all were answered
    assert told["p50"] <= told["p99"] <= told["p999"] <= stats["max"]
    assert 1 <= told["batch_rows_mean"] <= told["batch_rows_p99"] + 0.01 * told["arrivals"]
    assert told["batches"] * told["batch_rows_mean"] == pytest.approx(told["arrivals"])
    assert told["causes"] == {}
    assert 0 <= told["generator_late_p99"] <= told["generator_late_max"]


def test_a_model_that_misses_its_objective_fails_the_gate(project: pytest.Pytester) -> None:
    script = """
    def test_holds(engine, serving_benchmark):
        model = engine.deploy("slow", after(0.03), warmup=ROWS[0], default=-1)
        result = serving_benchmark(model, ROWS, rate=50.0, slo=0.01, seconds=0.4)
        assert result.in_time_share >= 0.99
    """
    done = run(project, script, "--benchmark-json=found.json")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["E *assert * >= 0.99", "*in_time=0.00%*"])
    benchmark = saved(project.path / "found.json")
    told = benchmark["extra_info"]
    assert (told["goodput"], told["p99"], told["in_time_share"]) == (0.0, None, 0.0)
    assert sum(told["causes"].values()) == told["arrivals"]
    assert benchmark["stats"]["min"] >= 0.01  # a refusal is no quick answer


def test_a_run_is_gated_against_a_saved_one(project: pytest.Pytester) -> None:
    script = """
    import os

    @pytest.mark.benchmark(group="mine")
    def test_slows(engine, serving_benchmark):
        wait = float(os.environ["WAIT"])
        model = engine.deploy("slow", after(wait), warmup=ROWS[0], slo=5.0)
        serving_benchmark(model, ROWS, arrivals=np.arange(8) * 0.05)
    """
    monkeypatch = pytest.MonkeyPatch()
    gate = ["--benchmark-compare=0001", "--benchmark-compare-fail=min:400%"]
    with monkeypatch.context() as patched:
        patched.setenv("WAIT", "0.002")
        assert run(project, script, "--benchmark-save=first").ret == 0
        assert run(project, script, *gate).ret == 0
        patched.setenv("WAIT", "0.04")
        worse = run(project, script, *gate)
    assert worse.ret != 0
    worse.stderr.fnmatch_lines(["*Performance has regressed*"])
    (first,) = project.path.glob(".benchmarks/*/0001_first.json")
    assert saved(first)["group"] == "mine"
    assert saved(first)["stats"]["rounds"] == 8


def test_a_disabled_benchmark_still_asks_for_a_moment(project: pytest.Pytester) -> None:
    script = """
    def test_short(engine, serving_benchmark):
        model = engine.deploy("total", total, warmup=ROWS[0], slo=0.5)
        result = serving_benchmark(model, ROWS, rate=200.0, seconds=3600.0)
        assert len(result.arrivals) > 1
        assert result.arrivals[-1] <= 0.1

    def test_late(engine, serving_benchmark):
        model = engine.deploy("total", total, warmup=ROWS[0], slo=0.5)
        assert len(serving_benchmark(model, ROWS, arrivals=[0.2, 999.0]).arrivals) == 1
    """
    run(project, script, "--benchmark-disable").assert_outcomes(passed=2)


def test_benchmarks_are_chosen_by_pytest_benchmarks_own_options(project: pytest.Pytester) -> None:
    script = GATE + "\ndef test_other():\n    pass\n"
    run(project, script, "--benchmark-skip").assert_outcomes(passed=1, skipped=1)
    run(project, script, "--benchmark-only").assert_outcomes(passed=1, skipped=1)


def test_a_load_that_cannot_be_offered_is_refused_before_it_counts_as_the_benchmark(
    project: pytest.Pytester,
) -> None:
    script = """
    @pytest.mark.parametrize(
        ("options", "says"),
        [({}, "either a rate"), ({"rate": 1.0, "arrivals": [0.0]}, "either a rate"),
         ({"rate": 0.0}, "rate is 0"), ({"rate": 1e-8}, "nothing comes")],
    )
    def test_wrong(engine, serving_benchmark, options, says):
        model = engine.deploy("total", total, warmup=ROWS[0])
        with pytest.raises(ValueError, match=says):
            serving_benchmark(model, ROWS, **options)
        serving_benchmark(model, ROWS, arrivals=[0.0])
    """
    run(project, script).assert_outcomes(passed=4)


def test_a_load_that_fails_is_no_benchmark(project: pytest.Pytester) -> None:
    script = """
    def test_wrong(engine, serving_benchmark):
        model = engine.deploy("total", total, warmup=ROWS[0])
        with pytest.raises(ValueError, match="must ascend"):
            serving_benchmark(model, ROWS, arrivals=[2.0, 1.0])
    """
    run(project, script, "--benchmark-json=found.json").assert_outcomes(passed=1)
    assert json.loads((project.path / "found.json").read_text())["benchmarks"] == []


# ---- manners -----------------------------------------------------------------------------------


def test_without_pytest_benchmark_the_fixture_says_what_to_install(
    project: pytest.Pytester,
) -> None:
    project.makeconftest("")
    done = run(project, GATE, "-p", "no:benchmark")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*pip install pytest-benchmark*"])


def test_it_can_be_switched_off(project: pytest.Pytester) -> None:
    done = run(project, GATE, "-p", "no:clipper")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*fixture 'engine' not found*"])


def test_an_engine_of_ones_own_goes_first(project: pytest.Pytester) -> None:
    script = """
    @pytest.fixture
    def engine():
        return "a database's"

    def test_own(engine):
        assert engine == "a database's"
    """
    run(project, script).assert_outcomes(passed=1)


def test_a_start_of_pytest_imports_nothing_heavy(project: pytest.Pytester) -> None:
    project.makeconftest("")
    project.makepyfile(
        test_it="""
        import sys

        HEAVY = {"clipper", "numpy", "torch", "onnxruntime", "matplotlib", "rich"}

        def test_light():
            assert "clipper_pytest" in sys.modules
            assert not HEAVY & set(sys.modules)
        """
    )
    done = project.runpytest_subprocess("-q", "-p", "no:benchmark", timeout=60)
    done.assert_outcomes(passed=1)
