"""What callers talk to: applications, and models, which are applications of one model."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._core import feedback as _feedback
from ._core import futures, loops
from ._core import standings as _standings
from ._core.application import ApplicationCore
from ._core.futures import PredictionFuture
from ._core.predictions import Prediction, Predictions
from .contexts import Context
from .feedback import FeedbackStatus
from .policies.standing import ModelStanding
from .tensor import Row, Rows

__all__ = ["Application", "Prediction", "PredictionFuture", "Predictions"]


class Application(ApplicationCore):
    """A latency objective, a default and a policy over one or several models.

    Made by :meth:`Engine.create_application`. Safe to use from any number of threads and event
    loops. ``predict`` and ``predict_many`` wait; ``predict_async`` is for event loops; ``submit``
    returns a future.
    """

    if TYPE_CHECKING:

        def predict_async(
            self,
            x: Row,
            *,
            context: Context | None = None,
            deadline: float | None = None,
            priority: int | None = None,
            bypass_cache: bool = False,
        ) -> Coroutine[Any, Any, Prediction]:
            """Ask for one prediction from an event loop."""
            ...

        def submit(
            self,
            x: Row,
            *,
            context: Context | None = None,
            deadline: float | None = None,
            priority: int | None = None,
            bypass_cache: bool = False,
        ) -> PredictionFuture:
            """Ask for one prediction without waiting."""
            ...

        def feedback(
            self,
            prediction: Prediction | str,
            *,
            label: Any = None,
            reward: float | None = None,
            loss: float | None = None,
        ) -> FeedbackStatus:
            """Say how right an answer was; the policy learns from it, once a row."""
            ...

        def feedback_many(
            self,
            predictions: Predictions | str | Sequence[Prediction | str],
            *,
            labels: Rows | None = None,
            rewards: ArrayLike | None = None,
            losses: ArrayLike | None = None,
        ) -> NDArray[np.uint8]:
            """Say how right several answers were."""
            ...

        def feedback_for(
            self,
            x: Row,
            *,
            label: Any,
            context: Context | None = None,
            deadline: float | None = None,
        ) -> FeedbackStatus:
            """Say what would have been right for an input, whether it was ever asked or not."""
            ...

        def feedback_for_many(
            self,
            xs: Rows,
            *,
            labels: Rows,
            context: Context | None = None,
            deadline: float | None = None,
        ) -> NDArray[np.uint8]:
            """Say what would have been right for several inputs, all of one context."""
            ...

        def policy_state(self, context: Context | None = None) -> dict[str, ModelStanding]:
            """Return what the policy makes of each model now."""
            ...

        def restart_canary(self) -> None:
            """Give the new model of a ``Canary`` its share again, from counts of nothing."""
            ...

    else:
        # Functions of the extension: a method of Python around them would cost as much as they do.
        predict_async = loops.predict_async
        submit = futures.submit
        feedback = _feedback.feedback
        feedback_many = _feedback.feedback_many
        feedback_for = _feedback.feedback_for
        feedback_for_many = _feedback.feedback_for_many
        policy_state = _standings.policy_state
        restart_canary = _standings.restart_canary
        _log_alarms = _standings.log_alarms

    async def feedback_async(
        self,
        prediction: Prediction | str,
        *,
        label: Any = None,
        reward: float | None = None,
        loss: float | None = None,
    ) -> FeedbackStatus:
        """Say how right an answer was, from an event loop; as ``feedback`` otherwise."""
        confirm = self._confirm
        if confirm is None:
            return self.feedback(prediction, label=label, reward=reward, loss=loss)
        status = _feedback.feedback_unconfirmed(self, prediction, label, reward, loss)
        if status is not FeedbackStatus.APPLIED or await confirm():
            return status
        _feedback.note_unsaved(self)
        return FeedbackStatus.UNSAVED

    @property
    def slo(self) -> float | None:
        """The latency objective, in seconds; None: best effort."""
        return self._slo

    def describe(self) -> dict[str, Any]:
        """Return the application's links and counters, as plain values.

        Under ``"policy"`` is the policy's ``text``, and of its ``models`` what ``policy_state()``
        returns, as dicts: empty where stages or a policy of your own choose. Of an ensemble that
        asks fewer models under load, ``asks_spared`` counts those that were not asked; of a
        ``Canary``, ``withdrawn`` says whether it was.

        Of a cascade or pipeline also, for each stage, of how many rows it ``ran``, was ``skipped``
        and ``failed``: how often a cascade goes on, for one.
        """
        return {
            "name": self.name,
            "models": list(self._model_names),
            "slo": self._slo,
            "policy": {"text": self._policy_text, **_standings.describe_policy(self)},
            "priority": self.priority,
            **self.statistics(),
            "feedback": _feedback.feedback_statistics(self, self._model_names),
        }

    # Set by whoever makes the application.
    _engine: Any = None
    _confirm: Callable[[], Awaitable[bool]] | None = None  # that feedback lasts
    _slo: float | None = None
    _model_names: tuple[str, ...] = ()
    _policy_text: str = "one model"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, models={list(self._model_names)})"
