"""Cascades and pipelines, bound to an application's models: who takes which tensor from whom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._core.rows import RowSpec
from ._core.tensors import Spec
from .cascade import Cascade
from .model import Model
from .pipelines import First, Pipeline, Source, Taken, Test, When, sources_of
from .tensor import RowType, Tensor

#: Stage and column; None for the stage: the query's own input.
Place = tuple[int | None, int]

_MOST_STAGES = 32


@dataclass(frozen=True, slots=True)
class BoundReading:
    """Which number of an output counts."""

    column: int
    element: int | None  # None: the largest
    spec: Spec


@dataclass(frozen=True, slots=True)
class BoundCondition:
    """A test, ready for the core."""

    stage: int
    reading: BoundReading
    test: str
    threshold: float | int | None = None
    numbers: tuple[float | int, ...] = ()
    texts: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class BoundStage:
    """A model's part, ready for the core."""

    name: str
    model: int  # its place in the application's list
    input: RowSpec
    output: RowSpec
    inputs: list[list[Place]]  # of each input column
    conditions: list[BoundCondition]


@dataclass(frozen=True, slots=True)
class BoundPlan:
    """A plan, ready for the core: stages in an order in which each follows what it takes from."""

    input: RowSpec
    output: RowSpec
    stages: list[BoundStage]
    answers: list[int]  # stages, the most wanted first
    confidence: BoundReading | None = None
    answers_stand: bool = False


def bind_stages(
    policy: object, models: Sequence[Model], *, is_judged: bool = False
) -> BoundPlan | None:
    """Bind a cascade or a pipeline to the models; None for any other policy.

    is_judged: whether feedback will judge the models' outputs.

    Raises
    ------
    ValueError
        If they do not fit, naming what was found and what was expected.
    """
    if isinstance(policy, Cascade):
        return _bind_cascade(policy, models)
    if isinstance(policy, Pipeline):
        if is_judged:
            raise ValueError(
                "loss= was given for a pipeline, whose stages answer different questions and are "
                "not judged: leave it out"
            )
        return _bind_pipeline(policy, models)
    return None


def least_time(policy: object, models: Sequence[Model]) -> tuple[float, list[str]]:
    """Return the longest chain of stages that every query goes through, and its seconds.

    For a single row, as far as it was measured while the models were warmed up.
    """
    # Of those that no condition keeps from running.
    chains: dict[str, tuple[float, list[str]]] = {}
    nothing: tuple[float, list[str]] = (0.0, [])
    if not isinstance(policy, Pipeline):
        return nothing
    seconds = {
        model.name: model._current.single_row_seconds or 0.0
        for model in models
        if model._current is not None
    }
    for name in policy.order:
        before = policy.predecessors(name)
        if isinstance(policy.stages[name], When) or not all(each in chains for each in before):
            continue
        took, chain = max((chains[each] for each in before), default=nothing)
        chains[name] = (took + seconds.get(name, 0.0), [*chain, name])
    return max(chains.values(), default=nothing)


# ---- cascades -----------------------------------------------------------------------------------


def _bind_cascade(cascade: Cascade, models: Sequence[Model]) -> BoundPlan:
    most = len(models) - 1
    given = cascade.thresholds
    thresholds = given if isinstance(given, tuple) else (given,) * most
    if most < 1 or len(thresholds) != most:
        raise ValueError(
            f"{cascade!r} has {len(thresholds)} thresholds for {len(models)} models: link at least "
            "two models, and give a threshold for each but the last"
        )
    first = models[0]
    reading = _confidence_of(cascade, first)
    inputs: list[list[Place]] = [[(None, column)] for column in range(len(first.input.columns))]
    stages = [
        BoundStage(model.name, place, model.input, model.output, inputs, conditions)
        for place, (model, conditions) in enumerate(
            zip(models, [[], *_unsure(thresholds, reading)], strict=True)
        )
    ]
    answers = list(reversed(range(len(models))))
    return BoundPlan(first.input, first.output, stages, answers, reading, answers_stand=True)


def _unsure(thresholds: Sequence[float], reading: BoundReading) -> list[list[BoundCondition]]:
    """Return the conditions on which each stage but the first runs."""
    return [
        [BoundCondition(before, reading, "not >=", _rounded(threshold, reading))]
        for before, threshold in enumerate(thresholds)
    ]


def _confidence_of(cascade: Cascade, model: Model) -> BoundReading:
    column = _column_of(model.output, cascade.of, f"{cascade!r}: model {model.name!r}")
    spec = model.output.columns[column]
    tensor: Tensor = spec.tensor
    is_vector = tensor.is_ragged or sum(extent != 1 for extent in tensor.item_shape) == 1
    is_number = cascade.of is not None and tensor.shape == ()
    if tensor.kind != "array" or not _is_float(tensor) or not (is_vector or is_number):
        raise ValueError(
            f"{cascade!r} cannot tell how sure model {model.name!r} is from {tensor!r}: give "
            "models whose output is a vector of probabilities, or name one of several outputs "
            "with of="
        )
    return BoundReading(column, None, spec)


# ---- pipelines ----------------------------------------------------------------------------------


def _bind_pipeline(pipeline: Pipeline, models: Sequence[Model]) -> BoundPlan:
    by_name = {model.name: model for model in models}
    _check_same_names(pipeline, list(by_name))
    query = RowSpec(_input_of(pipeline, by_name))
    binder = _Binder(pipeline, by_name, query)
    places = {model.name: place for place, model in enumerate(models)}
    stages = [binder.stage(name, places[name]) for name in pipeline.order]
    answers = _answers_of(pipeline, list(by_name))
    output = by_name[answers[0]].output
    for name in answers[1:]:
        if by_name[name].output.tensors != output.tensors:
            raise ValueError(
                f"{pipeline!r} can answer with {answers[0]!r}, {output.tensors!r}, or with "
                f"{name!r}, {by_name[name].output.tensors!r}: answers must be alike; say whose "
                "output it is with answer="
            )
    return BoundPlan(query, output, stages, [pipeline.order.index(name) for name in answers])


def _check_same_names(pipeline: Pipeline, models: list[str]) -> None:
    if set(pipeline.stages) != set(models):
        raise ValueError(
            f"the pipeline has the stages {sorted(pipeline.stages)}, but the application links "
            f"{sorted(models)}: name exactly those"
        )
    if len(models) > _MOST_STAGES:
        raise ValueError(f"the pipeline has {len(models)} stages: {_MOST_STAGES} are possible")


def _answers_of(pipeline: Pipeline, models: list[str]) -> list[str]:
    if pipeline.answer is not None:
        return list(pipeline.answer)
    taken = {name for stage in pipeline.stages for name in pipeline.predecessors(stage)}
    return [name for name in models if name not in taken]  # the ends; without a circle there is one


def _input_of(pipeline: Pipeline, models: Mapping[str, Model]) -> RowType:
    """Return what the query's input must be for all stages that take of it."""
    whole: tuple[str, RowType] | None = None
    parts: dict[str, tuple[str, Tensor]] = {}
    for name in pipeline.order:
        takes = models[name].input
        for wanted, source in _wanted(pipeline.stages[name], takes):
            if source.model is not None:
                continue
            if source.tensor is not None:
                _add_part(parts, name, source.tensor, _tensor_of(takes, wanted, name))
                continue
            expected: RowType = takes.tensors
            if wanted is not None:
                expected = _tensor_of(takes, wanted, name)
            if whole is not None and not _are_alike(whole[1], expected):
                raise ValueError(
                    f"stages {whole[0]!r} and {name!r} both take the query's input, but the "
                    f"first takes {whole[1]!r}, the second {expected!r}: let them take parts, "
                    "such as INPUT['image']"
                )
            whole = whole or (name, expected)
    if whole is None:
        if not parts:
            raise ValueError(f"{pipeline!r} takes nothing of the query: let a stage take INPUT")
        return {part: tensor for part, (_, tensor) in parts.items()}
    for part, (name, tensor) in parts.items():
        if isinstance(whole[1], Tensor) or whole[1].get(part) != tensor:
            raise ValueError(
                f"stage {name!r} takes {tensor!r} as INPUT[{part!r}], but the query's input is "
                f"that of stage {whole[0]!r}, {whole[1]!r}"
            )
    return whole[1]


def _add_part(parts: dict[str, tuple[str, Tensor]], stage: str, part: str, tensor: Tensor) -> None:
    known, expected = parts.setdefault(part, (stage, tensor))
    if expected != tensor:
        raise ValueError(
            f"INPUT[{part!r}] is {expected!r} to stage {known!r}, but {tensor!r} to stage {stage!r}"
        )


def _are_alike(one: RowType, other: RowType) -> bool:
    return one == other or (_only(one) is not None and _only(one) == _only(other))


def _only(row: RowType) -> Tensor | None:
    if isinstance(row, Tensor):
        return row
    return next(iter(row.values())) if len(row) == 1 else None


def _wanted(taken: Taken | When, takes: RowSpec) -> list[tuple[str | None, Source]]:
    """Return the sources of each input; None: of the whole row."""
    if isinstance(taken, When):
        return _wanted(Source(taken.tests[0].model) if taken.taken is None else taken.taken, takes)
    if isinstance(taken, Mapping):
        return [(name, source) for name, part in taken.items() for source in sources_of(part)]
    return [(None, source) for source in sources_of(taken)]


def _tensor_of(takes: RowSpec, wanted: str | None, stage: str) -> Tensor:
    if wanted is None:
        if len(takes.columns) != 1:
            raise ValueError(
                f"stage {stage!r} takes {takes.tensors!r}: give a dict with a source for each"
            )
        tensor: Tensor = takes.columns[0].tensor
        return tensor
    if takes.names is None or wanted not in takes.names:
        raise ValueError(f"stage {stage!r} has no input {wanted!r}: it takes {takes.tensors!r}")
    tensor = takes.columns[takes.names.index(wanted)].tensor
    return tensor


class _Binder:
    """Finds the column behind each name."""

    def __init__(self, pipeline: Pipeline, models: Mapping[str, Model], query: RowSpec) -> None:
        self._pipeline = pipeline
        self._models = models
        self._query = query

    def stage(self, name: str, place: int) -> BoundStage:
        model, taken = self._models[name], self._pipeline.stages[name]
        conditions: list[BoundCondition] = []
        if isinstance(taken, When):
            conditions = [self._condition(name, test) for test in taken.tests]
            taken = Source(taken.tests[0].model) if taken.taken is None else taken.taken
        inputs = self._inputs(name, taken, model.input)
        return BoundStage(model.name, place, model.input, model.output, inputs, conditions)

    def _inputs(self, name: str, taken: Taken, takes: RowSpec) -> list[list[Place]]:
        if isinstance(taken, Mapping):
            if takes.names is None or set(taken) != set(takes.names):
                raise ValueError(
                    f"stage {name!r} is given {sorted(taken)}, but takes {takes.tensors!r}: give a "
                    "source for each of its inputs"
                )
            return [
                [self._place(name, source, takes.columns[i].tensor, None)
                 for source in sources_of(taken[wanted])]
                for i, wanted in enumerate(takes.names)
            ]  # fmt: skip
        sources = taken.sources if isinstance(taken, First) else sources_of(taken)
        if takes.names is None:
            return [
                [self._place(name, source, takes.columns[0].tensor, None) for source in sources]
            ]
        return [
            [self._place(name, source, takes.columns[i].tensor, wanted) for source in sources]
            for i, wanted in enumerate(takes.names)
        ]

    def _place(self, stage: str, source: Source, tensor: Tensor, wanted: str | None) -> Place:
        """Return where a source offers a tensor; `wanted`: its name, where the whole is taken."""
        offers = self._query if source.model is None else self._models[source.model].output
        whose = "the query's input" if source.model is None else f"the output of {source.model!r}"
        if source.tensor is None and wanted is not None and offers.names is not None:
            if wanted not in offers.names:
                raise ValueError(
                    f"stage {stage!r} takes {wanted!r} from {whose}, which has "
                    f"{', '.join(map(repr, offers.names))}: give a dict with a source for each "
                    "input"
                )
            column = offers.names.index(wanted)
        else:
            column = _column_of(offers, source.tensor, f"stage {stage!r} takes from {whose}")
        found: Tensor = offers.columns[column].tensor
        if found != tensor:
            raise ValueError(
                f"stage {stage!r} takes {tensor!r}, but {whose} is {found!r}: they must be alike"
            )
        before = None if source.model is None else self._pipeline.order.index(source.model)
        return before, column

    def _condition(self, stage: str, test: Test) -> BoundCondition:
        output = self._models[test.model].output
        what = f"stage {stage!r}: {test!r}"
        column = _column_of(output, test.of, f"{what}: the output of {test.model!r}")
        spec = output.columns[column]
        reading = BoundReading(column, test.at, spec)
        place = self._pipeline.order.index(test.model)
        labels = test.value if isinstance(test.value, tuple) else (test.value,)
        if any(isinstance(label, (str, bytes)) for label in labels) or spec.kind != "array":
            texts = _texts(labels, spec.tensor, what)
            kind = "in" if test.test in ("in", "==") else "not in"
            return BoundCondition(place, reading, kind, texts=texts)
        _check_number(spec.tensor, test.at, what)
        numbers = tuple(_rounded(label, reading) for label in labels)
        if test.test in ("==", "!=", "in", "not in"):
            kind = "in" if test.test in ("in", "==") else "not in"
            return BoundCondition(place, reading, kind, numbers=numbers)
        return BoundCondition(place, reading, test.test, numbers[0])


# ---- both ---------------------------------------------------------------------------------------


def _column_of(offers: RowSpec, tensor: str | None, what: str) -> int:
    if tensor is None:
        if len(offers.columns) == 1:
            return 0
        raise ValueError(
            f"{what}, which has several tensors, {', '.join(map(repr, offers.names or ()))}: "
            "name one of them"
        )
    if offers.names is None or tensor not in offers.names:
        raise ValueError(f"{what}, which has no tensor {tensor!r}: it is {offers.tensors!r}")
    return offers.names.index(tensor)


def _is_float(tensor: Tensor) -> bool:
    return tensor.dtype.kind == "f" or tensor.dtype.name == "bfloat16"


def _check_number(tensor: Tensor, at: int | None, what: str) -> None:
    if tensor.kind != "array" or not (tensor.dtype.kind in "biu" or _is_float(tensor)):
        raise ValueError(f"{what} compares {tensor!r} with a number, which it is not")
    if tensor.dtype.itemsize > 8 or (_is_float(tensor) and tensor.dtype.itemsize < 2):
        raise ValueError(f"{what}: numbers of type {tensor.dtype} cannot be compared")
    size = int(np.prod(tensor.item_shape, dtype=np.int64))
    if at is not None and not tensor.is_ragged and at >= size:
        raise ValueError(f"{what}: {tensor!r} has no element {at}, only {size}")


def _texts(labels: tuple[Any, ...], tensor: Tensor, what: str) -> tuple[bytes, ...]:
    kinds = {"text": str, "bytes": bytes}
    if tensor.kind not in kinds or not all(isinstance(each, kinds[tensor.kind]) for each in labels):
        raise ValueError(f"{what} compares {tensor!r} with {labels[0]!r}: give a value of its type")
    return tuple(each.encode() if isinstance(each, str) else each for each in labels)


def _rounded(number: Any, reading: BoundReading) -> float | int:
    """Bring a number to the precision of what it is compared with: 0.9 is no float32."""
    tensor: Tensor = reading.spec.tensor
    if isinstance(number, int):
        number = int(number)
        return number if -(1 << 63) <= number < 1 << 64 else float(number)
    return float(np.float64(number).astype(tensor.dtype)) if _is_float(tensor) else float(number)
