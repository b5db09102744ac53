"""What callers talk to: applications, and models, which are applications of one model."""

from collections.abc import Coroutine, Hashable
from typing import Any

from ._core import futures, loops
from ._core.application import ApplicationCore
from ._core.futures import PredictionFuture
from ._core.predictions import Prediction, Predictions
from .tensor import Row

__all__ = ["Application", "Prediction", "PredictionFuture", "Predictions"]


class Application(ApplicationCore):
    """A latency objective, a default and a policy over one or several models.

    Made by :meth:`Engine.create_application`. Safe to use from any number of threads and event
    loops. ``predict`` and ``predict_many`` wait; ``predict_async`` is for event loops; ``submit``
    returns a future.
    """

    def predict_async(
        self, x: Row, *, context: Hashable | None = None, deadline: float | None = None
    ) -> Coroutine[Any, Any, Prediction]:
        """Ask for one prediction from an event loop.

        It is asked when this is called, and awaited when the result is. Rows that are asked for in
        one turn of the loop run together at its end. Cancelling the task, or a time-out around it,
        withdraws the row.

        Parameters
        ----------
        x : array_like, shape of one input row; bytes or str; for several tensors a dict of those
        context : hashable, optional
            Whose query this is.
        deadline : float, optional
            Seconds from now by which the answer must be there; the application's SLO if not given.

        Returns
        -------
        coroutine of Prediction
            A future to ``gather`` and ``wait_for``, which then need no task of their own.

        Raises
        ------
        TypeError, ValueError
            If the input is not one row of what the model takes.
        PredictionError
            When awaited: if no answer came and the application has no default.
        """
        return loops.ask(self, x, context, deadline)

    def submit(
        self, x: Row, *, context: Hashable | None = None, deadline: float | None = None
    ) -> PredictionFuture:
        """Ask for one prediction without waiting.

        Parameters and errors are those of ``predict``; causes of serving are raised by the future.

        Returns
        -------
        PredictionFuture
            With the interface of :class:`concurrent.futures.Future`.
        """
        return futures.submit(self, x, context, deadline)

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
            **self.statistics(),
        }

    # Set by whoever makes the application.
    _slo: float | None = None
    _model_names: tuple[str, ...] = ()
    _policy_text: str = "one model"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, models={list(self._model_names)})"
