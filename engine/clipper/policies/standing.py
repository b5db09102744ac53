"""What a policy makes of a model."""

from typing import NamedTuple


class ModelStanding(NamedTuple):
    """What a policy makes of one of an application's models now.

    Attributes
    ----------
    share : float
        Of the queries, in [0, 1], that ask this model: the probability with which the next one
        does. 1 where all models are asked.
    weight : float
        What it counts for among the others, in [0, 1]: of an ensemble, its part in the answer; of
        ``Exp3``, its weight before any are asked at random. All weights add up to 1.
    loss : float or None
        Mean loss in [0, 1], by feedback and failures, over what was ``observed``; of ``Canary`` the
        share of failures. None: nothing is known, or the policy keeps none, as ``Exp3`` and
        ``Exp4``.
    observed : float
        Observations that the loss is the mean of, or of ``Canary`` queries that asked the model; 0
        where the policy counts none.
    """

    share: float
    weight: float
    loss: float | None
    observed: float
