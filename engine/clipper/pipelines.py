"""Pipelines: several models, one after another, within one query and one deadline.

Values only: what they make of an application's models is in :mod:`clipper.stage_binding`.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from .tensor import is_named

#: Equal-to is "in" with one label.
TESTS = ("<", "<=", ">", ">=", "==", "!=", "in", "not in")

Label = int | float | str | bytes


@dataclass(frozen=True, slots=True, init=False)
class Source:
    """Where a stage of a pipeline takes its input from.

    A string stands for ``Source(model)`` wherever a source is expected.

    Parameters
    ----------
    model : str or None
        The stage whose output is taken; None: the query's own input, which is ``clipper.INPUT``.
    tensor : str, optional
        The name of one tensor of it; all of it, if not given. ``INPUT["image"]`` is short for
        ``Source(None, "image")``.

    Examples
    --------
    >>> Source("detector", "boxes")
    Source('detector', 'boxes')
    """

    model: str | None
    tensor: str | None

    def __init__(self, model: str | None, tensor: str | None = None) -> None:
        if model is not None and (not isinstance(model, str) or not model):
            raise TypeError(f"a source is {model!r}: give the name of a stage, or clipper.INPUT")
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "tensor", tensor)

    def __getitem__(self, tensor: str) -> "Source":
        return Source(self.model, tensor)

    def __repr__(self) -> str:
        if self.model is None:
            return "INPUT" if self.tensor is None else f"INPUT[{self.tensor!r}]"
        return f"Source({self.model!r})" if self.tensor is None else (
            f"Source({self.model!r}, {self.tensor!r})"
        )  # fmt: skip


#: The query's own input.
INPUT = Source(None)


@dataclass(frozen=True, slots=True, init=False)
class First:
    """The first of several sources that has run: where branches meet. Made by :func:`first`."""

    sources: tuple[Source, ...]

    def __init__(self, *sources: Source | str) -> None:
        made = tuple(_source(source) for source in sources)
        if len(made) < 2:
            raise ValueError(f"first{sources!r} has fewer than two sources: name the source itself")
        object.__setattr__(self, "sources", made)

    def __repr__(self) -> str:
        return f"first({', '.join(map(_short, self.sources))})"


def first(*sources: Source | str) -> First:
    """Take the output of the first of these stages that has run.

    Parameters
    ----------
    *sources : Source or str
        Two or more, the most wanted first; :data:`clipper.INPUT` has always run.

    Examples
    --------
    >>> Pipeline({
    ...     "language": INPUT,
    ...     "german": when("language", "==", "de").then(INPUT),
    ...     "other": when("language", "!=", "de").then(INPUT),
    ...     "labels": first("german", "other"),
    ... }).answer is None
    True
    """
    return First(*sources)


Taken = Source | str | First | Mapping[str, "Source | str | First"]


@dataclass(frozen=True, slots=True)
class Test:
    """One comparison with a stage's output. Made by :func:`when`."""

    model: str
    test: str
    value: Label | tuple[Label, ...]
    of: str | None = None
    at: int | None = None

    def __repr__(self) -> str:
        value = list(self.value) if isinstance(self.value, tuple) else self.value
        more = "" if self.of is None else f", of={self.of!r}"
        more += "" if self.at is None else f", at={self.at!r}"
        return f"when({self.model!r}, {self.test!r}, {value!r}{more})"


@dataclass(frozen=True, slots=True)
class When:
    """Conditions, and what is taken where all of them hold. Made by :func:`when`."""

    tests: tuple[Test, ...]
    taken: Taken | None = None

    def then(self, taken: Taken) -> "When":
        """Say what the stage takes; without this it is the output that is looked at."""
        return When(self.tests, taken)

    def __and__(self, other: "When") -> "When":
        if not isinstance(other, When):
            return NotImplemented
        return When((*self.tests, *other.tests), other.taken if self.taken is None else self.taken)

    def __repr__(self) -> str:
        text = " & ".join(map(repr, self.tests))
        if self.taken is None:
            return text
        return f"{f'({text})' if len(self.tests) > 1 else text}.then({_short(self.taken)})"


def when(
    model: str,
    test: str,
    value: Label | Collection[Label],
    *,
    of: str | None = None,
    at: int | None = None,
) -> When:
    """Run a stage only for rows whose earlier output passes a test.

    Several are joined by ``&``. What the stage takes is said by ``.then(source)``; without it, it
    takes the output of ``model``.

    Parameters
    ----------
    model : str
        The stage whose output is looked at. Where it was skipped, the test is not passed.
    test : {"<", "<=", ">", ">=", "==", "!=", "in", "not in"}
    value : int, float, str, bytes, or a collection of those for "in" and "not in"
        A number in the unit of the output; it is rounded to the output's precision. Text and bytes
        can be equal or not.
    of : str, optional
        Which tensor, where the stage has several outputs.
    at : int, optional
        Which element of a tensor that has several, from 0, in C order; the largest, if not given.

    Returns
    -------
    When

    Examples
    --------
    >>> when("detector", ">=", 0.5, of="scores").then(INPUT)
    when('detector', '>=', 0.5, of='scores').then(INPUT)
    """
    if not isinstance(model, str) or not model:
        raise TypeError(f"when() looks at {model!r}: give the name of a stage")
    if test not in TESTS:
        raise ValueError(f"the test is {test!r}: give one of {', '.join(TESTS)}")
    if at is not None and (not isinstance(at, int) or at < 0):
        raise ValueError(f"at is {at!r}: give the place of an element, 0 or more")
    wants_several = test in ("in", "not in")
    if wants_several:
        if isinstance(value, (str, bytes)) or not isinstance(value, Collection) or not value:
            raise ValueError(f"{test!r} was given {value!r}: give a list of labels, such as [3, 5]")
        labels = tuple(value)
    else:
        labels = (value,) if isinstance(value, (int, float, str, bytes)) else ()
    for label in labels:
        if not isinstance(label, (int, float, str, bytes)) or not _is_finite(label):
            raise ValueError(f"a test compares with {label!r}: give a finite number, str or bytes")
    if not labels:
        raise TypeError(
            f"{test!r} was given {value!r}: give one number, str or bytes; 'in' takes several"
        )
    if isinstance(labels[0], (str, bytes)) and test not in ("==", "!=", "in", "not in"):
        raise ValueError(f"{labels[0]!r} {test}: text and bytes are equal or not, give '=='")
    return When((Test(model, test, labels if wants_several else labels[0], of, at),))


@dataclass(frozen=True, slots=True, init=False)
class Pipeline:
    """Sends a query through several models, each of which takes what others have made.

    A stage is due when all stages that it takes from, or looks at, have ended. It runs if none of
    them failed, its conditions hold, and each of its inputs has a value; else it is skipped, and so
    is what stands behind it. All of it happens within the query's one deadline. A stage that fails,
    or is too late, ends the row with its cause.

    Parameters
    ----------
    stages : mapping of str to what it takes
        For each of the application's models one of

        - :data:`clipper.INPUT`, the name of another stage, or a :class:`Source`: all of its output,
          or one tensor of it;
        - :func:`first` of several sources;
        - a dict, for a model with several inputs: input name → one of those;
        - :func:`when` a condition holds, ``.then`` one of those.
    answer : str or sequence of str, optional
        Whose output is the answer: that of the first of these stages that has run. If not given,
        the stages that nothing else takes from or looks at. Their outputs must be alike, and each
        stage must lead to one of them.

    Raises
    ------
    ValueError
        If a stage takes from one that is not there, or from itself by way of others, or leads to
        no answer. What must fit the models is checked when the application is created.

    Notes
    -----
    Where conditions leave no answer, the row has none: the default is given, or an error raised,
    with cause ``LOW_CONFIDENCE``.

    Examples
    --------
    >>> Pipeline({"decode": INPUT, "model": "decode", "labels": "model"})
    Pipeline({'decode': INPUT, 'model': 'decode', 'labels': 'model'})
    """

    stages: Mapping[str, Taken | When]
    answer: tuple[str, ...] | None
    _order: tuple[str, ...] = field(repr=False, compare=False)

    def __init__(
        self,
        stages: Mapping[str, Taken | When],
        *,
        answer: str | Sequence[str] | None = None,
    ) -> None:
        if not isinstance(stages, Mapping) or not stages:
            raise TypeError(
                f"Pipeline was given {stages!r}: give a dict of each model and what it takes, such "
                "as {'decode': clipper.INPUT, 'model': 'decode'}"
            )
        made = {name: _checked(name, taken) for name, taken in stages.items()}
        _check_names(made)
        names = (answer,) if isinstance(answer, str) else None if answer is None else tuple(answer)
        for name in names or ():
            if name not in made:
                raise ValueError(f"answer names {name!r}: {_say_stages(made)}")
        if names == ():
            raise ValueError("answer is empty: name a stage, or leave it out")
        _check_all_lead_to(names, made)
        object.__setattr__(self, "stages", MappingProxyType(made))
        object.__setattr__(self, "answer", names)
        object.__setattr__(self, "_order", _in_order(made))

    @property
    def order(self) -> tuple[str, ...]:
        """The stages, each after those that it takes from."""
        return self._order

    def predecessors(self, name: str) -> tuple[str, ...]:
        """Return the stages that a stage takes from or looks at."""
        return tuple(predecessors_of(self.stages[name]))

    def __repr__(self) -> str:
        stages = ", ".join(f"{name!r}: {_short(taken)}" for name, taken in self.stages.items())
        answer = "" if self.answer is None else f", answer={list(self.answer)!r}"
        return f"Pipeline({{{stages}}}{answer})"


def sources_of(taken: Taken | When) -> list[Source]:
    """Return all sources of a stage."""
    if isinstance(taken, When):
        inside = Source(taken.tests[0].model) if taken.taken is None else taken.taken
        return sources_of(inside)
    if isinstance(taken, First):
        return list(taken.sources)
    if isinstance(taken, Mapping):
        return [source for part in taken.values() for source in sources_of(part)]
    return [_source(taken)]


def predecessors_of(taken: Taken | When) -> list[str]:
    """Return the stages that must have ended before this one is due, each once."""
    names = [source.model for source in sources_of(taken) if source.model is not None]
    if isinstance(taken, When):
        names += [test.model for test in taken.tests]
    return list(dict.fromkeys(names))


def _source(given: Any) -> Source:
    if isinstance(given, Source):
        return given
    if isinstance(given, str):
        return Source(given)
    raise TypeError(
        f"a source is {given!r}: give the name of a stage, clipper.INPUT, or clipper.Source(...)"
    )


def _checked(name: Any, taken: Any) -> Taken | When:
    if not isinstance(name, str) or not name:
        raise TypeError(f"a stage is called {name!r}: give the name of a model")
    if is_named(taken):
        if not taken:
            raise ValueError(f"stage {name!r} takes nothing: name a source for each of its inputs")
        for part in taken.values():
            if not isinstance(part, First):
                _source(part)
        return MappingProxyType(dict(taken))
    if isinstance(taken, When):
        return taken if taken.taken is None else When(taken.tests, _checked(name, taken.taken))  # type: ignore[arg-type]
    if isinstance(taken, First):
        return taken
    return _source(taken)


def _check_names(stages: Mapping[str, Taken | When]) -> None:
    for name, taken in stages.items():
        for predecessor in predecessors_of(taken):
            if predecessor not in stages:
                raise ValueError(
                    f"stage {name!r} takes from {predecessor!r}: {_say_stages(stages)}"
                )


def _check_all_lead_to(answer: Sequence[str] | None, stages: Mapping[str, Taken | When]) -> None:
    if answer is None:  # the ends, to which everything leads
        return
    leading: list[str] = []
    unseen = list(answer)
    while unseen:
        name = unseen.pop()
        if name not in leading:
            leading.append(name)
            unseen += predecessors_of(stages[name])
    for name in stages:
        if name not in leading:
            raise ValueError(
                f"stage {name!r} leads to no answer, which is that of {list(answer)!r}: leave it "
                "out, or name it there"
            )


def _say_stages(stages: Mapping[str, Any]) -> str:
    return f"there is no such stage, only {', '.join(map(repr, stages))}"


def _in_order(stages: Mapping[str, Taken | When]) -> tuple[str, ...]:
    """Bring each stage after its predecessors; otherwise they keep the order they are given in."""
    done: list[str] = []
    path: list[str] = []

    def visit(name: str) -> None:
        if name in done:
            return
        if name in path:
            circle = " → ".join(map(repr, [*path[path.index(name) :], name]))
            raise ValueError(
                f"the pipeline goes in a circle, each taking from the next: {circle}; one of them "
                "must take from elsewhere"
            )
        path.append(name)
        for predecessor in predecessors_of(stages[name]):
            visit(predecessor)
        done.append(path.pop())

    for name in stages:
        visit(name)
    return tuple(done)


def _is_finite(label: Label) -> bool:
    return not isinstance(label, float) or math.isfinite(label)


def _short(taken: Any) -> str:
    if isinstance(taken, Source) and taken.model is not None and taken.tensor is None:
        return repr(taken.model)
    if is_named(taken):
        return "{" + ", ".join(f"{name!r}: {_short(part)}" for name, part in taken.items()) + "}"
    return repr(taken)
