"""What the stages of a pipeline take, as a configuration writes it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipper.pipelines import INPUT, First, Source, When, first, when

from .problems import unknown_keys
from .values import is_array, is_table

_TEST_KEYS = ("model", "test", "value", "of", "at")
_STAGE_KEYS = ("first", "inputs", "then", "when")


def stage(value: Any, folder: Path) -> Any:
    """Read one stage.

    A source is ``"INPUT"``, a stage's name, or either with a tensor's, ``"detector.boxes"``. A
    stage takes a source, ``{ first = [sources] }``, ``{ inputs = { name = source } }``, or
    ``{ when = { model, test, value }, then = one of those }``, where ``when`` may be an array.
    """
    try:
        return _stage(value)
    except TypeError as error:
        raise ValueError(str(error)) from None


def answer(value: Any, folder: Path) -> str | tuple[str, ...]:
    """Read the name of the stage that answers, or several."""
    if isinstance(value, str):
        return value
    if is_array(value) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise ValueError(f"{value!r} names no stages: give a name, or an array of names")


def _stage(value: Any) -> Any:
    if not is_table(value):
        return _source(value)
    wrong = unknown_keys(value, _STAGE_KEYS)
    if wrong:
        raise ValueError("; ".join(wrong))
    if "when" in value:
        return _conditional(value)
    if len(value) != 1 or "then" in value:
        raise ValueError(f"{dict(value)!r} is no stage: give first, inputs, or when and then")
    return _taken(value)


def _taken(value: Any) -> Source | First | dict[str, Any]:
    if not is_table(value):
        return _source(value)
    if "first" in value:
        return first(*map(_source, value["first"]))
    if is_table(value.get("inputs")):
        return {name: _taken(source) for name, source in value["inputs"].items()}
    raise ValueError(f"{dict(value)!r} is nothing to take: give a source, first, or inputs")


def _conditional(value: Mapping[str, Any]) -> When:
    if set(value) - {"when", "then"}:
        raise ValueError("beside 'when' a stage has 'then' and nothing else")
    tests = value["when"] if is_array(value["when"]) else [value["when"]]
    if not tests:
        raise ValueError("'when' has no tests: give { model = …, test = …, value = … }")
    condition = _test(tests[0])
    for test in tests[1:]:
        condition = condition & _test(test)
    return condition.then(_taken(value["then"])) if "then" in value else condition


def _test(value: Any) -> When:
    if not is_table(value) or not {"model", "test", "value"} <= set(value):
        raise ValueError(f"{value!r} is no test: give {{ model = …, test = …, value = … }}")
    wrong = unknown_keys(value, _TEST_KEYS)
    if wrong:
        raise ValueError("; ".join(wrong))
    return when(
        value["model"], value["test"], value["value"], of=value.get("of"), at=value.get("at")
    )


def _source(value: Any) -> Source:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no source: give 'INPUT' or the name of a stage")
    model, _, tensor = value.partition(".")
    if model == "INPUT":
        return INPUT[tensor] if tensor else INPUT
    return Source(model, tensor or None)
