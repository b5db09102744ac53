"""Pipelines that cannot work are refused when they are written, or when an application is made."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import clipper
from clipper import INPUT, Pipeline, Source, Tensor, first, when

LONG = 30.0  # seconds
Floats = NDArray[np.float32]

NUMBER = Tensor("float32")


@pytest.fixture
def engine() -> Iterator[clipper.Engine]:
    with clipper.Engine() as made:
        yield made


def deploy_numbers(engine: clipper.Engine, **functions: Any) -> None:
    """Deploy functions of one number."""
    for name, function in functions.items():
        engine.deploy(name, function, input=NUMBER, output=NUMBER, warmup=1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pipeline({"a": "b", "b": "c", "c": "a"}), "circle.*'a' → 'b' → 'c' → 'a'"),
        (lambda: Pipeline({"a": when("a", ">", 1)}), "circle.*'a' → 'a'"),
        (lambda: Pipeline({"a": INPUT, "b": "aa"}), "takes from 'aa'.*no such stage"),
        (lambda: Pipeline({"a": INPUT}, answer="b"), "answer names 'b'"),
        (lambda: Pipeline({"a": INPUT}, answer=[]), "answer is empty"),
        (lambda: Pipeline({"a": INPUT, "b": "a"}, answer="a"), "'b' leads to no answer"),
        (lambda: Pipeline({"a": {}}), "takes nothing"),
        (lambda: first("a"), "fewer than two"),
        (lambda: when("a", "~", 1), "give one of <"),
        (lambda: when("a", "in", []), "give a list of labels"),
        (lambda: when("a", "in", "abc"), "give a list of labels"),
        (lambda: when("a", ">", float("nan")), "finite"),
        (lambda: when("a", "<", "b"), "give '=='"),
        (lambda: when("a", ">", 1, at=-1), "at is -1"),
    ],
)
def test_pipelines_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("given", [{}, None, {"a": 3}, {"a": [INPUT]}, {3: INPUT}])
def test_pipelines_of_other_types_are_refused(given: Any) -> None:
    with pytest.raises(TypeError):
        Pipeline(given)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"number": INPUT}, "name exactly those"),
        ({"number": INPUT, "pair": "number"}, "'pair' takes.*but the output of 'number' is"),
        ({"number": INPUT, "pair": INPUT}, "both take the query's input"),
        ({"number": INPUT, "pair": {"x": INPUT}}, "has no input 'x'"),
        ({"number": INPUT, "pair": INPUT["image"]}, "as INPUT"),
        ({"pair": INPUT, "number": Source("pair", "left")}, "no tensor 'left'"),
        ({"pair": INPUT, "number": when("pair", ">", 1, at=2).then(INPUT)}, "both take|element 2"),
        ({"pair": INPUT, "number": when("pair", "==", "x").then("pair")}, "of its type"),
    ],
)
def test_pipelines_that_do_not_fit_their_models_are_refused(
    engine: clipper.Engine, stages: dict[str, Any], message: str
) -> None:
    deploy_numbers(engine, number=lambda x: x)
    pair = Tensor("float32", (2,))
    engine.deploy("pair", lambda x: x, input=pair, output=pair, warmup=[1.0, 2.0])
    with pytest.raises(ValueError, match=message):
        engine.create_application(
            "app", models=["number", "pair"], policy=Pipeline(stages), slo=LONG
        )
    assert engine.describe()["applications"] == {}


def test_answers_that_differ_are_refused(engine: clipper.Engine) -> None:
    deploy_numbers(engine, number=lambda x: x)
    engine.deploy("word", lambda x: ["w"] * len(x), input=NUMBER, output=Tensor("text"), warmup=1.0)
    with pytest.raises(ValueError, match="answers must be alike"):
        engine.create_application(
            "app", models=["number", "word"], slo=LONG,
            policy=Pipeline({"number": INPUT, "word": INPUT}),
        )  # fmt: skip


def test_a_loss_is_refused_as_stages_answer_different_questions(engine: clipper.Engine) -> None:
    deploy_numbers(engine, one=lambda x: x, two=lambda x: x)
    policy = Pipeline({"one": INPUT, "two": "one"})
    with pytest.raises(ValueError, match="loss= was given for a pipeline"):
        engine.create_application(
            "app", models=["one", "two"], policy=policy, slo=LONG, loss="absolute"
        )


def test_an_objective_below_what_all_stages_take_together_is_refused(
    engine: clipper.Engine,
) -> None:
    def slow(x: Floats) -> Floats:
        time.sleep(0.02)
        return x

    deploy_numbers(engine, one=slow, two=slow)
    with pytest.raises(ValueError, match=r"goes through 'one' → 'two'.*together"):
        engine.create_application(
            "app", models=["one", "two"], slo=0.035,
            policy=Pipeline({"one": INPUT, "two": "one"}),
        )  # fmt: skip


def test_a_pipeline_shows_itself_as_it_is_written() -> None:
    policy = Pipeline({
        "decode": INPUT,
        "detector": "decode",
        "model": (when("detector", ">=", 0.5, at=1) & when("detector", "<", 0.9)).then("decode"),
        "join": {"a": first("model", INPUT), "b": Source("decode", "pixels")},
    }, answer="join")  # fmt: skip
    assert repr(policy) == (
        "Pipeline({'decode': INPUT, 'detector': 'decode', 'model': (when('detector', '>=', 0.5, "
        "at=1) & when('detector', '<', 0.9)).then('decode'), 'join': {'a': first('model', INPUT), "
        "'b': Source('decode', 'pixels')}}, answer=['join'])"
    )
    names = {"Pipeline": Pipeline, "INPUT": INPUT, "when": when, "first": first, "Source": Source}
    assert eval(repr(policy), names) == policy
