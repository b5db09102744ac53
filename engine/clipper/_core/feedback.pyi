from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipper.contexts import Context
from clipper.feedback import FeedbackStatus
from clipper.tensor import Row, Rows

from .application import ApplicationCore
from .predictions import Prediction, Predictions

def feedback(
    application: ApplicationCore,
    prediction: Prediction | str,
    *,
    label: Any = None,
    reward: float | None = None,
    loss: float | None = None,
) -> FeedbackStatus: ...
def feedback_unconfirmed(
    application: ApplicationCore,
    prediction: Prediction | str,
    label: Any,
    reward: float | None,
    loss: float | None,
) -> FeedbackStatus: ...
def note_unsaved(application: ApplicationCore) -> None: ...
def feedback_many(
    application: ApplicationCore,
    predictions: Predictions | str | Sequence[Prediction | str],
    *,
    labels: Rows | None = None,
    rewards: ArrayLike | None = None,
    losses: ArrayLike | None = None,
) -> NDArray[np.uint8]: ...
def feedback_for(
    application: ApplicationCore,
    x: Row,
    *,
    label: Any,
    context: Context | None = None,
    deadline: float | None = None,
) -> FeedbackStatus: ...
def feedback_for_many(
    application: ApplicationCore,
    xs: Rows,
    *,
    labels: Rows,
    context: Context | None = None,
    deadline: float | None = None,
) -> NDArray[np.uint8]: ...
def feedback_statistics(application: ApplicationCore, names: Sequence[str]) -> dict[str, Any]: ...
