"""Configurations are read, refused in words that help, compared, and applied."""

import dataclasses
import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipper
from clipper import Engine, Tensor
from clipper.config import (
    ApplicationConfig,
    Applier,
    ConfigError,
    ModelConfig,
    ServerConfig,
    changed_keys,
    difference,
    keys_of,
    parse_config,
    read_config,
)
from clipper.config.kinds import BATCHING, LOSSES, PLACES, POLICIES

ROOT = Path(__file__).parents[1]
MODELS = """
import clipper

def double():
    return lambda batch: batch * 2

def triple():
    return lambda batch: batch * 3

def broken():
    raise RuntimeError("no weights")

def careful():
    return clipper.Thompson(memory=7.0)

def distance(output, label):
    return min(abs(float(output) - float(label)), 1.0)

not_a_function = 3
"""
TENSORS = {"input": "float32", "output": "float32"}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("configured")
    (made / "configured_models.py").write_text(MODELS)
    return made


def model(function: str = "double", **more: Any) -> dict[str, Any]:
    return {"source": f"configured_models:{function}", **{**TENSORS, **more}}


def problems(tables: dict[str, Any], folder: Path = Path("/nowhere")) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(tables, folder)
    return caught.value.problems


# ---- reading ------------------------------------------------------------


def test_a_file_is_read_into_what_the_engine_takes(tmp_path: Path) -> None:
    (tmp_path / "clipper.toml").write_text(
        """
        [server]
        data = "state"
        drain = "1.5min"
        [models.net]
        source = "nets/net.onnx"
        input = { image = "float32[3, 8, 8]", tokens = "int64[*]", note = "text" }
        output = "float32[10]"
        slo = "20ms"
        default = [0.0, 1.0]
        replicas = 2
        where = { kind = "isolated", python = "env/bin/python", timeout = false, env = { A = "1" } }
        batching = { kind = "deadline", max_batch = 64, delay = "500us" }
        cache = { ttl = "1h", bytes = "2GiB" }
        memory = "1.5MiB"
        warmup = false
        [models.plain]
        source = "team.models:load"
        where = "isolated"
        [applications.digits]
        models = ["net"]
        slo = 0.05
        policy = { kind = "exp3", eta = 0.2, failure_loss = false }
        default = -1
        loss = { kind = "squared", scale = 10 }
        """
    )
    config = read_config(tmp_path / "clipper.toml")
    net, plain = config.models["net"], config.models["plain"]
    assert config.server.data == str(tmp_path / "state")
    assert config.server.drain == 90.0
    assert net.source == str(tmp_path / "nets" / "net.onnx")
    assert net.input == {"image": Tensor("float32", (3, 8, 8)), "tokens": Tensor("int64", (None,)),
                         "note": Tensor("text")}  # fmt: skip
    assert (net.slo, net.default, net.replicas, net.warmup) == (0.02, [0.0, 1.0], 2, False)
    assert net.where == clipper.Isolated(
        python=str(tmp_path / "env/bin/python"), timeout=None, env={"A": "1"}
    )
    assert net.batching == clipper.Deadline(max_batch=64, delay=0.0005)
    assert net.cache == clipper.Cache(ttl=3600.0, bytes=2 << 30)
    assert net.memory == 3 << 19
    assert plain.where == clipper.Isolated(paths=(str(tmp_path),))
    digits = config.applications["digits"]
    assert digits.policy == clipper.Exp3(eta=0.2, failure_loss=None)
    assert digits.loss == clipper.Loss("squared", 10)
    assert (digits.slo, digits.default) == (0.05, -1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20ms", 0.02), ("500 us", 5e-4), ("1.5s", 1.5), ("2min", 120.0), ("1h", 3600.0), (3, 3.0)],
)
def test_durations_have_units_or_are_seconds(text: Any, seconds: float) -> None:
    config = parse_config({"models": {"a": model(slo=text)}}, Path("/"))
    assert config.models["a"].slo == pytest.approx(seconds)


def test_every_policy_can_be_written() -> None:
    written = {
        "canary": {"model": "b", "share": 0.1, "min_count": 50, "z": 3},
        "cascade": {"thresholds": [0.9], "of": "scores"},
        "epsilon_greedy": {"epsilon": 0.2, "memory": False, "failure_loss": 0.5},
        "exp3": {"eta": 0.1, "gamma": 0.1, "floor": 0.1, "failure_loss": 1},
        "exp4": {
            "eta": 0.1,
            "floor": 0.1,
            "takes_mean": True,
            "failure_loss": 1,
            "fewest_under_load": 2,
        },
        "majority_vote": {"fewest_under_load": 3},
        "pipeline": {"stages": {"a": "INPUT", "b": "a"}, "answer": "b"},
        "shadow": {"of": "a", "models": ["b"]},
        "thompson": {"memory": 50, "failure_loss": False},
        "ucb1": {"memory": 50, "failure_loss": False},
        "weighted_ensemble": {
            "weights": {"a": 1, "b": 2},
            "takes_mean": False,
            "fewest_under_load": False,
        },
        "weighted_split": {"weights": {"a": 0.9, "b": 0.1}},
    }
    assert written.keys() == POLICIES.keys()
    for kind, parameters in written.items():
        read = _policy({"kind": kind, **parameters})
        assert type(read) is POLICIES[kind].make
        assert set(parameters) == set(POLICIES[kind].parameters)
    assert _policy("majority_vote") == clipper.MajorityVote()


def _policy(value: Any) -> Any:
    tables = {
        "models": {"a": model(), "b": model()},
        "applications": {"app": {"models": ["a", "b"], "slo": "1s", "policy": value}},
    }
    return parse_config(tables, Path("/")).applications["app"].policy


@pytest.mark.parametrize("kinds", [POLICIES, BATCHING, PLACES, LOSSES])
def test_every_parameter_of_every_kind_can_be_written(kinds: dict[str, Any]) -> None:
    for name, kind in kinds.items():
        made_by = clipper.Loss if kinds is LOSSES else kind.make
        fields = {f.name for f in dataclasses.fields(made_by) if not f.name.startswith("_")}
        # A function is no value of a file: a factory may give it to its policy.
        fields -= {"kind"} if kinds is LOSSES else {"combine"}
        assert set(kind.parameters) == fields, name


def test_stages_are_written_as_in_python() -> None:
    read = _policy(
        {
            "kind": "pipeline",
            "stages": {
                "a": {"inputs": {"x": "INPUT.image", "y": "INPUT"}},
                "b": {
                    "when": [
                        {"model": "a", "test": ">=", "value": 0.5, "of": "scores", "at": 1},
                        {"model": "a", "test": "in", "value": [1, 2], "of": "labels"},
                    ],
                    "then": {"first": ["a.boxes", "INPUT"]},
                },
            },
        }
    )
    first = clipper.when("a", ">=", 0.5, of="scores", at=1)
    second = clipper.when("a", "in", [1, 2], of="labels")
    assert read == clipper.Pipeline(
        {
            "a": {"x": clipper.INPUT["image"], "y": clipper.INPUT},
            "b": (first & second).then(clipper.first(clipper.Source("a", "boxes"), clipper.INPUT)),
        }
    )


# ---- what is refused ------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"serve": {}}, "unknown key 'serve': did you mean 'server'?"),
        ({"server": {"drian": 1}}, "[server] unknown key 'drian': did you mean 'drain'?"),
        ({"server": {"zzz": 1}}, "[server] unknown key 'zzz': there are data, drain"),
        ({"server": 3}, "[server] is 3: make it a table"),
        ({"server": {"zmq": "tcp://*"}}, "[server] zmq: this engine serves no network ports yet"),
        ({"server": {"log": "loud"}}, "[server] log: 'loud' is none of 'debug'"),
        ({"models": 3}, "models is 3: write tables [models.NAME]"),
        ({"models": {"": model()}}, "[models] has a table without a name"),
        ({"models": {"a": {}}}, "[models.a] source is missing"),
        ({"models": {"a": model(sluo="1s")}}, "[models.a] unknown key 'sluo': did you mean 'slo'?"),
        ({"models": {"a": model(slo="20 sec")}}, "[models.a] slo: '20 sec' is no duration"),
        ({"models": {"a": model(slo=-1)}}, "[models.a] slo: -1 is no duration"),
        ({"models": {"a": model(slo=True)}}, "[models.a] slo: True is no duration"),
        ({"models": {"a": model(slo=math.nan)}}, "[models.a] slo: nan is no duration"),
        ({"models": {"a": model(memory="4GB")}}, "[models.a] memory: '4GB' is no size"),
        ({"models": {"a": model(replicas="two")}}, "replicas: 'two' is no whole number from 1 to"),
        ({"models": {"a": model(replicas=True)}}, "replicas: True is no whole number"),
        ({"models": {"a": model(priority=4)}}, "priority: 4 is no whole number from -3 to 3"),
        ({"models": {"a": model(caller_runs=1)}}, "caller_runs: 1 is neither true nor false"),
        ({"models": {"a": model(input="float32[2")}}, "input: 'float32[2' is no tensor"),
        ({"models": {"a": model(input="float32[2,x]")}}, "has 'x' in its shape"),
        ({"models": {"a": model(input="flaot32")}}, "[models.a] input: "),
        ({"models": {"a": model(where="isolatd")}}, "did you mean 'isolated'?"),
        ({"models": {"a": model(where={"kind": "isolated", "tiemout": 1})}},
         "place 'isolated': unknown key 'tiemout': did you mean 'timeout'?"),
        ({"models": {"a": model(where={"kind": "isolated", "in_flight": 3})}},
         "in_flight: 3 is no whole number from 1 to 2"),
        ({"models": {"a": model(batching={"kind": "fixed"})}}, "needs more than that: give 'rows'"),
        ({"models": {"a": model(batching={"kind": "fixed", "rows": 0})}}, "rows: 0 is no whole"),
        ({"models": {"a": model(batching=3)}}, "batching: 3 is no batching strategy"),
        ({"models": {"a": model(cache="yes")}}, "cache: 'yes' is no cache"),
        ({"models": {"a": model(cache={"tll": 1})}}, "unknown key 'tll': did you mean 'ttl'?"),
        ({"models": {"a": model(resources=3)}}, "[models.a] resources: "),
        ({"models": {"a": model(version=1.5)}}, "version: 1.5 is no version"),
        ({"models": {"a": model(length_buckets=4)}}, "length_buckets: 4 is no array of lengths"),
        ({"applications": {"x": {"models": ["a"]}}}, "[applications.x] slo is missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_what_is_right(tables: dict[str, Any], words: str) -> None:
    (problem,) = problems(tables)
    assert words in problem


@pytest.mark.parametrize(
    ("application", "words"),
    [
        ({"models": ["nte"]}, "models: there is no [models.nte]: did you mean 'net'?"),
        ({"models": []}, "models is empty: name at least one"),
        ({"models": ["net", "net"], "policy": "exp3"}, "names one twice"),
        ({"models": ["net", "svm"]}, "policy is missing: there are 2 models"),
        ({"models": ["net", "svm"], "policy": "exp5"}, "policy: 'exp5' is no policy: did you mean"),
        ({"models": ["net"], "policy": {"kind": "exp3", "eta": "fast"}}, "'fast' is no number"),
        ({"models": ["net"], "policy": {"kind": "exp3", "eta": -1}}, "give a number above 0"),
        ({"models": ["net"], "policy": {"eta": 0.1}}, "is no policy: give its name, or a table"),
        ({"models": ["net", "svm"], "policy": {"kind": "weighted_split", "weights": {"net": 1}}},
         "name exactly those"),
        ({"models": ["net", "svm"], "policy": {"kind": "shadow", "of": "net", "models": ["x"]}},
         "shadow 'x' is none of its models"),
        ({"models": ["net", "svm"], "policy": {"kind": "pipeline", "stages": {"net": "INPUT"}}},
         "stages and models differ in ['svm']"),
        ({"models": ["net"], "policy": {"kind": "pipeline", "stages": {"net": {"wen": 1}}}},
         "unknown key 'wen': did you mean 'when'?"),
        ({"models": ["net"], "policy": {"kind": "pipeline", "stages": {"net": {"when": {}}}}},
         "{} is no test"),
        ({"models": ["net"], "min_confidence": 2}, "2 is no confidence"),
        ({"models": ["net"], "loss": "zero"}, "loss: 'zero' is no loss: did you mean 'zero_one'?"),
        ({"models": ["net"], "context_memory": -1}, "context_memory: -1 is no size"),
    ],
)  # fmt: skip
def test_an_application_that_cannot_be_is_refused(application: dict[str, Any], words: str) -> None:
    tables = {
        "models": {"net": model(), "svm": model()},
        "applications": {"digits": {"slo": "1s", **application}},
    }
    (problem,) = problems(tables)
    assert words in problem
    assert problem.startswith("[applications.digits] ")


def test_all_problems_are_said_at_once() -> None:
    found = problems({"serve": {}, "models": {"a": {"slo": "x"}, "b": {"source": 3}}})
    assert len(found) == 4


def test_an_application_with_the_name_of_a_model_is_refused() -> None:
    tables = {"models": {"net": model()}, "applications": {"net": {"models": ["net"], "slo": 1}}}
    assert "an application needs a name of its own" in problems(tables)[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[server", "is no TOML"),
        (b"\xff\xfe", "is no TOML"),
        (b"a = 1\na = 2", "is no TOML"),
        (b"x = " + b"[" * 100_000, "is no TOML"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_is_no_toml_is_refused(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    file = tmp_path / "clipper.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        read_config(file)


@pytest.mark.parametrize(
    ("source", "more", "words"),
    [
        ("ent.onnx", {}, "did you mean 'net.onnx'?"),
        ("net.txt", {}, "is no model: give a factory"),
        ("net.joblib", {}, "is a pickle, and loading one runs whatever it holds"),
        ("no_such_module:load", {}, "no module 'no_such_module' is found"),
        ("configured_models.sub:load", {}, "cannot be imported"),
    ],
)
def test_sources_that_are_not_there_are_found_before_anything_is_loaded(
    folder: Path, source: str, more: dict[str, Any], words: str
) -> None:
    (folder / "net.onnx").touch()
    config = parse_config({"models": {"net": {"source": source, **more}}}, folder)
    with Engine() as engine, pytest.raises(ConfigError) as caught:
        Applier(engine, config.server).apply(config)
    assert words in str(caught.value)


def test_resources_are_those_of_the_engine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Resources:
        cpus: int | None = None
        memory: int | None = None

    monkeypatch.setattr(clipper, "Resources", Resources, raising=False)
    tables = {"models": {"a": model(resources={"cpus": 2, "memory": "4GiB"})}}
    assert parse_config(tables, folder).models["a"].resources == Resources(2, 4 << 30)
    tables = {"models": {"a": model(resources={"cpu": 2})}}
    assert "unknown key 'cpu': did you mean 'cpus'?" in problems(tables)[0]
    monkeypatch.delattr(clipper, "Resources")
    assert "this engine cannot set resources aside" in problems(tables)[0]


# ---- differences ------------------------------------------------------------


def compare(old: dict[str, Any], new: dict[str, Any]) -> Any:
    before, after = (parse_config(tables, Path("/")) for tables in (old, new))
    return difference(dict(before.models), dict(before.applications), before.server, after)


def application(*models: str, **more: Any) -> dict[str, Any]:
    return {"models": list(models), "slo": "1s", **more}


def test_equal_configurations_differ_in_nothing() -> None:
    tables = {
        "models": {"a": model(default=math.nan), "b": model()},
        "applications": {"x": application("a", "b", policy="exp4", default=math.nan)},
    }
    assert not compare(tables, tables)


def test_what_is_written_in_other_words_is_no_difference() -> None:
    old = {"models": {"a": model(slo="20ms", batching="deadline", cache=False)}}
    new = {"models": {"a": model(slo=0.02, memory="256MiB")}}
    assert not compare(old, new)


def test_each_difference_is_found() -> None:
    old = {
        "server": {"keep_versions": 2, "drain": "1s"},
        "models": {"same": model(), "gone": model(), "changed": model(), "live": model(),
                   "fixed": model()},
        "applications": {"kept": application("same"), "old": application("gone"),
                         "moved": application("changed")},
    }  # fmt: skip
    new = {
        "server": {"keep_versions": 3, "drain": "2s"},
        "models": {"same": model(ready_timeout="9s"), "new": model(), "changed": model("triple"),
                   "live": model(max_queue=7), "fixed": model(slo="1s")},
        "applications": {"kept": application("same"), "young": application("new"),
                         "moved": application("changed", default=1)},
    }  # fmt: skip
    found = compare(old, new)
    assert [m.name for m in found.deploy] == ["new", "changed"]
    assert [(m.name, keys) for m, keys in found.adjust] == [("live", {"max_queue"})]
    assert found.refused == {"fixed": {"slo"}}
    assert found.undeploy == ["gone"]
    assert [a.name for a in found.create] == ["young"]
    assert [a.name for a in found.replace] == ["moved"]
    assert found.remove == ["old"]
    assert found.restart == {"keep_versions"}


def test_a_file_that_has_changed_is_a_new_version(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    file.write_text("one")
    before = parse_config({"models": {"a": {"source": "net.onnx"}}}, tmp_path).models["a"]
    file.write_text("another")
    after = parse_config({"models": {"a": {"source": "net.onnx"}}}, tmp_path).models["a"]
    assert changed_keys(before, after) == {"fingerprint"}


# ---- applying ------------------------------------------------------------


@pytest.fixture
def applied(folder: Path) -> Iterator[Any]:
    with Engine() as engine:
        applier = Applier(engine, ServerConfig())

        def apply(models: dict[str, Any], applications: dict[str, Any] | None = None) -> Any:
            tables = {"models": models, "applications": applications or {}}
            return applier.apply(parse_config(tables, folder))

        apply.engine = engine  # type: ignore[attr-defined]
        yield apply


def test_a_configuration_is_applied_and_then_its_difference(applied: Any) -> None:
    engine = applied.engine
    first = applied({"a": model(), "b": model()}, {"x": application("a", default=-1.0)})
    assert first.failed == []
    assert len(first.done) == 3
    assert engine.application("x").predict(2.0).output == 4.0
    second = applied({"a": model("triple"), "c": model()}, {"y": application("c")})
    assert second.failed == []
    assert engine.model("a").predict(2.0).output == 6.0
    assert engine.model("a").version == 2
    assert engine.application("y").predict(2.0).output == 4.0
    assert set(engine.describe()["models"]) == {"a", "c"}
    assert set(engine.describe()["applications"]) == {"y"}
    assert applied({"a": model("triple"), "c": model()}, {"y": application("c")}).done == []


def test_limits_change_without_a_new_version(applied: Any) -> None:
    applied({"a": model()})
    done = applied({"a": model(max_queue=7, batching={"kind": "fixed", "rows": 8})})
    described = applied.engine.model("a").describe()["versions"]["1"]
    assert done.failed == []
    assert applied.engine.model("a").version == 1
    assert (described["max_queue"], described["batching"]) == (7, "Fixed(rows=8)")


def test_larger_batches_than_there_is_memory_for_need_a_new_version(applied: Any) -> None:
    large = {"input": "float32[1024]", "output": "float32[1024]", "memory": "64KiB"}
    applied({"a": model(**large, batching={"kind": "fixed", "rows": 8})})
    outcome = applied({"a": model(**large, batching={"kind": "fixed", "rows": 64})})
    assert outcome.failed == []
    assert applied.engine.model("a").version == 2


def test_replicas_change_however_the_engine_can(applied: Any) -> None:
    applied({"a": model()})
    assert applied({"a": model(replicas=2)}).failed == []
    current = applied.engine.model("a")
    version = current.describe()["versions"][str(current.version)]
    assert len(version["replicas"]) == 2


def test_what_fails_leaves_what_served_and_is_tried_again(applied: Any, folder: Path) -> None:
    applied({"a": model()}, {"x": application("a")})
    outcome = applied({"a": model("broken"), "b": model()}, {"x": application("a", priority=1)})
    assert len(outcome.failed) == 1
    assert "model a: " in outcome.failed[0]
    assert "no weights" in outcome.failed[0]
    assert len(outcome.done) == 2
    assert applied.engine.application("x").predict(1.0).output == 2.0
    assert applied.engine.application("x").priority == 1
    again = applied({"a": model("triple"), "b": model()}, {"x": application("a", priority=1)})
    assert (len(again.done), again.failed) == (1, [])
    assert applied.engine.application("x").predict(1.0).output == 3.0


def test_what_a_first_version_fixes_is_not_changed(applied: Any) -> None:
    applied({"a": model(slo="1s")})
    (failed,) = applied({"a": model("triple", slo="2s")}).failed
    assert "slo changed, which its first version fixes" in failed
    assert applied.engine.model("a").version == 1


def test_policies_and_losses_may_be_named(applied: Any) -> None:
    named = application(
        "a", "b", policy="configured_models:careful", loss="configured_models:distance"
    )
    assert applied({"a": model(), "b": model()}, {"x": named}).failed == []
    policy = applied.engine.application("x").describe()["policy"]
    assert policy["text"].startswith("Thompson(memory=7.0")


def test_a_policy_that_is_not_there_is_said(applied: Any) -> None:
    wrong = application("a", policy="configured_models:carefull")
    (failed,) = applied({"a": model()}, {"x": wrong}).failed
    assert "'configured_models:carefull' cannot be imported" in failed


def test_a_factory_that_is_no_function_is_said(applied: Any) -> None:
    (failed,) = applied({"a": model("not_a_function")}).failed
    assert "a factory is a function without arguments" in failed


def test_an_application_gives_way_in_one_step(applied: Any) -> None:
    applied({"a": model(), "b": model("triple")}, {"x": application("a")})
    held = applied.engine.application("x")
    applied({"a": model(), "b": model("triple")}, {"x": application("b")})
    assert applied.engine.application("x").predict(1.0).output == 3.0
    assert held.predict(1.0).output == 2.0
    with pytest.raises(clipper.AlreadyExistsError):
        applied.engine.create_application("x", models=["a"], slo=None)
    with pytest.raises(clipper.AlreadyExistsError):
        applied.engine.create_application("a", models=["b"], slo=None, replace=True)
    with pytest.raises(clipper.ApplicationNotFoundError, match="undeploy it"):
        applied.engine.remove_application("a")


def test_a_file_on_disk_serves_on_threads(applied: Any, folder: Path) -> None:
    joblib = pytest.importorskip("joblib")
    linear = pytest.importorskip("sklearn.linear_model").LinearRegression()
    joblib.dump(linear.fit(np.eye(2, dtype="float32"), [1.0, 2.0]), folder / "linear.joblib")
    where = {"kind": "thread", "may_unpickle": True}
    outcome = applied({"linear": {"source": "linear.joblib", "where": where}})
    assert outcome.failed == []
    row = np.array([1.0, 0.0], "float32")
    assert float(applied.engine.model("linear").predict(row).output) == pytest.approx(1.0)


def test_an_engine_is_made_from_a_file(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = folder / "clipper.toml"
    file.write_text(
        """
        [models.a]
        source = "configured_models:double"
        input = "float32[2]"
        output = "float32[2]"
        [applications.x]
        models = ["a"]
        slo = "1s"
        """
    )
    with caplog.at_level(logging.INFO, "clipper"), Engine.from_file(file) as engine:
        assert engine.application("x").predict([1.0, 2.0]).output.tolist() == [2.0, 4.0]
    assert any("model a serves" in record.getMessage() for record in caplog.records)
    file.write_text(file.read_text().replace("double", "broken"))
    with pytest.raises(clipper.DeployError, match="no weights"):
        Engine.from_file(file)


# ---- what is written of it ------------------------------------------------------------


@pytest.mark.parametrize("section", [ServerConfig, ModelConfig, ApplicationConfig])
def test_every_key_is_documented(section: type[Any]) -> None:
    heading = {ServerConfig: "server", ModelConfig: "models.NAME",
               ApplicationConfig: "applications.NAME"}[section]  # fmt: skip
    part = section_of(f"`[{heading}]`")
    documented = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", part, re.MULTILINE)
    assert [name for name, *_ in documented] == list(keys_of(section))
    assert all(cell.strip() for row in documented for cell in row)


@pytest.mark.parametrize(
    ("heading", "kinds"),
    [
        ("Kinds of policies", POLICIES),
        ("Kinds of batching strategies", BATCHING),
        ("Kinds of places", PLACES),
        ("Kinds of losses", LOSSES),
    ],
)
def test_every_kind_and_parameter_is_documented(heading: str, kinds: dict[str, Any]) -> None:
    part = section_of(heading)
    for name, kind in kinds.items():
        (row,) = re.findall(rf"^\| `{name}` \|(.*)$", part, re.MULTILINE)
        for parameter in kind.parameters:
            assert f"`{parameter}`" in row, (name, parameter)


def section_of(heading: str) -> str:
    text = (ROOT / "docs" / "configuration.md").read_text()
    pattern = rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)"
    (part,) = re.findall(pattern, text, re.MULTILINE | re.DOTALL)
    return str(part)
