"""What callers talk to: applications, and models, which are applications of one model."""

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from ._core import futures, loops
from ._core.application import ApplicationCore
from ._core.futures import PredictionFuture
from ._core.predictions import Prediction, Predictions
from .contexts import Context
from .tensor import Row

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
        ) -> PredictionFuture:
            """Ask for one prediction without waiting."""
            ...

    else:
        # Functions of the extension: a method of Python around them would cost as much as they do.
        predict_async = loops.predict_async
        submit = futures.submit

    @property
    def slo(self) -> float | None:
        """The latency objective, in seconds; None: best effort."""
        return self._slo

    def describe(self) -> dict[str, Any]:
        """Return the application's links and counters, as plain values."""
        return {
            "name": self.name,
            "models": list(self._model_names),
            "slo": self._slo,
            "policy": self._policy_text,
            "priority": self.priority,
            **self.statistics(),
        }

    # Set by whoever makes the application.
    _engine: Any = None
    _slo: float | None = None
    _model_names: tuple[str, ...] = ()
    _policy_text: str = "one model"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, models={list(self._model_names)})"
