"""Ensembles whose answers a function of the user's combines."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

#: Makes one output of the outputs that are there, by their models' names.
CombineFunction = Callable[[dict[str, Any]], Any]


def check_ensemble(
    policy: str,
    combine: CombineFunction | None,
    fewest_under_load: int | None,
    *,
    takes_mean: bool = False,
) -> None:
    """Raise TypeError or ValueError unless what ensembles have in common can be used."""
    if combine is not None:
        _check_combine(policy, combine)
        if takes_mean:
            raise ValueError(
                f"{policy}(takes_mean=True, combine=...): give one of them, as each makes the "
                "answer"
            )
    if fewest_under_load is None:
        return
    if isinstance(fewest_under_load, bool) or not isinstance(fewest_under_load, int):
        raise TypeError(f"{policy}(fewest_under_load={fewest_under_load!r}): give a whole number")
    if fewest_under_load < 1:
        raise ValueError(
            f"{policy}(fewest_under_load={fewest_under_load!r}): one model at least is asked"
        )


def _check_combine(policy: str, combine: object) -> None:
    if not callable(combine) or inspect.iscoroutinefunction(combine):
        raise TypeError(
            f"{policy}(combine={combine!r}): give a function that takes a dict from model name to "
            "output, and returns an output"
        )
    try:
        inspect.signature(combine).bind({})
    except TypeError:
        raise TypeError(
            f"{policy}(combine=...): the function takes {inspect.signature(combine)}, but it is "
            "called with one argument, a dict from model name to output"
        ) from None
    except ValueError:  # a function of C that does not tell
        return


class FunctionCombiner:
    """Combines by a function, with the confidence that the models' weights give.

    Parameters
    ----------
    function : callable
    """

    def __init__(self, function: CombineFunction) -> None:
        self._function = function

    def combine(
        self, answers: Mapping[str, Any], weights: Mapping[str, float]
    ) -> tuple[Any, float]:
        """Return output and confidence: the weighted share of the models asked that answered."""
        there = {name: answer for name, answer in answers.items() if answer is not None}
        total = sum(weights[name] for name in answers)
        answered = sum(weights[name] for name in there)
        confidence = min(answered / total, 1.0) if total > 0.0 else len(there) / len(answers)
        return self._function(there), confidence
