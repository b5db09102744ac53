"""Policies that users write in Python."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from clipper.contexts import Context

from .bound import BoundPolicy
from .policy_states import PolicyStates

_DEFAULT_MOST_CONTEXTS = 10_000


class Observation(NamedTuple):
    """What feedback says of one model that answered.

    Attributes
    ----------
    model : str
    loss : float
        From 0 (right) to 1, by the application's loss, or as the caller gave it.
    propensity : float
        How probable it was that this model would be asked, as ``select`` said.
    """

    model: str
    loss: float
    propensity: float


class PythonPolicy(Protocol):
    """What a policy of your own has; no base class is needed.

    Give an instance to ``create_application(policy=...)``. There is one state for each context, and
    one for queries without; it is whatever ``begin()`` returns. The methods are called from the
    threads and event loops that ask, and while one runs no other runs with the same state: they
    need no locks for what lies in it. What lies in ``self`` is shared by all states, and yours to
    guard. They must be quick, as callers wait for them, and must not ask their own application.

    A method that raises, or returns what cannot be used, never breaks the application: the query
    gets its default, or the exception, with cause ``MODEL_ERROR`` and the text of the error;
    ``Application.describe()["policy_failures"]`` counts. What the method had changed in the state
    by then stays changed.

    Attributes
    ----------
    max_contexts : int, optional
        How many contexts' states are kept, 10,000 if there is no such attribute; those that were
        used longest ago are forgotten. They lie in memory only.

    Notes
    -----
    A method ``begin(self)``, if there is one, makes the state of somebody of whom nothing is known.
    Without it a state is a new dict.
    """

    def select(
        self, models: Sequence[str], context: Context | None, state: Any
    ) -> str | Iterable[str] | Mapping[str, float]:
        """Choose who is asked. Called once a query, also if it has several rows.

        Parameters
        ----------
        models : tuple of str
            The application's models, in its order.
        context : Context or None
            As the caller gave it.
        state : Any

        Returns
        -------
        str, iterable of str, or dict from str to float
            One model, or several, each once; or for each how probable it was that it would be
            asked, above 0 and up to 1, which ``observe`` is told again.
        """
        ...

    def combine(self, answers: Mapping[str, Any], state: Any) -> tuple[Any, float] | None:
        """Make one answer. Called once a row of which at least one model's answer is there.

        Parameters
        ----------
        answers : dict from str to output, or None
            Of every model that was asked, in the order chosen; None: it did not answer.
        state : Any

        Returns
        -------
        tuple of output and float, or None
            A row of the models' output, and a confidence from 0 to 1. None: no answer can be made;
            the row then has the cause of the first model that is missing, or ``LOW_CONFIDENCE``.
        """
        ...

    def observe(self, observations: Sequence[Observation], state: Any) -> None:
        """Learn from feedback on one row: one observation for each model that is judged by it.

        If it raises, that is counted and logged; the feedback is not repeated.
        """
        ...


def bind_python_policy(policy: object) -> tuple[BoundPolicy, PolicyStates]:
    """Check a policy of the user's and make its states.

    Raises
    ------
    TypeError, ValueError
        If it is none, saying what it lacks.
    """
    if isinstance(policy, type):
        raise TypeError(f"policy is the class {policy.__name__}: give an instance of it")
    for method, arguments in (("select", 3), ("combine", 2), ("observe", 2)):
        _check_method(policy, method, arguments)
    begin = getattr(policy, "begin", None)
    if begin is not None:
        _check_method(policy, "begin", 0)
    most = getattr(policy, "max_contexts", _DEFAULT_MOST_CONTEXTS)
    if not isinstance(most, int) or most < 1:
        raise ValueError(
            f"{type(policy).__name__}.max_contexts is {most!r}: give a whole number of 1 or more"
        )
    return BoundPolicy("by_caller", None, True), PolicyStates(begin or dict, most)


def _check_method(policy: object, name: str, arguments: int) -> None:
    kind = type(policy).__name__
    method = getattr(policy, name, None)
    if not callable(method):
        raise TypeError(
            f"policy is {policy!r}: give one of clipper.policies, or an object with select(models, "
            f"context, state), combine(answers, state) and observe(observations, state); {kind} "
            f"has no method {name!r}"
        )
    if inspect.iscoroutinefunction(method):
        raise TypeError(f"{kind}.{name} is a coroutine function: policies are called, not awaited")
    try:
        inspect.signature(method).bind(*range(arguments))
    except TypeError:
        raise TypeError(
            f"{kind}.{name}{inspect.signature(method)} must take {arguments} arguments: see "
            "clipper.policies.PythonPolicy"
        ) from None
    except ValueError:  # a function of C that does not tell
        return
