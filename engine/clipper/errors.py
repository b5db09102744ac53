"""Why a query was not answered by its models, and the exceptions that say so."""

from enum import Enum
from typing import Any


class Cause(Enum):
    """Why a prediction is the application's default, or an exception.

    The numbers are stable: the wire protocols carry them.
    """

    DEADLINE = 1
    """Its time ran out, in the queue or while the model ran."""
    OVERLOAD = 2
    """Refused: the queue is full, or its deadline cannot be met any more."""
    CRASH = 3
    """The replica that ran it died."""
    MODEL_ERROR = 4
    """The model raised, or returned something else than it declared."""
    NO_REPLICA = 5
    """Nothing is deployed that could run it."""
    LOW_CONFIDENCE = 6
    """Below the application's threshold."""
    CANCELLED = 7
    """Withdrawn by its caller, or the engine was closed."""


class ClipperError(Exception):
    """Base of everything that the engine raises for a reason of its own."""

    status = 500  #: the HTTP status that says the same


class PredictionError(ClipperError):
    """A query ended without an answer, and its application has no default.

    Attributes
    ----------
    prediction : Prediction
        What is known of it: cause, models, what is missing, latency.
    """

    def __init__(self, message: str, prediction: Any = None) -> None:
        super().__init__(message)
        self.prediction = prediction


class DeadlineExceededError(PredictionError):
    """The answer did not come in time."""

    status = 504


class OverloadedError(PredictionError):
    """The query was refused, because it could not have been answered in time."""

    status = 429


class ReplicaCrashedError(PredictionError):
    """The replica that ran the query died."""

    status = 502


class ModelError(PredictionError):
    """The model raised an exception, or returned something else than it declared."""

    status = 502


class NoReplicaError(PredictionError):
    """Nothing is deployed that could run the query."""

    status = 503


class LowConfidenceError(PredictionError):
    """The models agree too little for the application's threshold."""

    status = 422


class PredictionCancelledError(PredictionError):
    """The query was withdrawn, or the engine was closed while it waited."""

    status = 503


class EngineClosedError(ClipperError):
    """The engine has been closed."""

    status = 503


class ForkedEngineError(ClipperError):
    """The engine was made before a fork, in the parent process."""


class ModelNotFoundError(ClipperError, LookupError):
    """No model of this name is deployed."""

    status = 404


class ApplicationNotFoundError(ClipperError, LookupError):
    """No application of this name exists."""

    status = 404


class AlreadyExistsError(ClipperError, ValueError):
    """Something of this name, or this version, exists already."""

    status = 409


class DeployError(ClipperError):
    """A model could not be deployed; nothing that served before has changed."""


class StateError(ClipperError):
    """State cannot be kept, read or written where it should last; the text has the reason."""

    status = 503


class DataDirectoryInUseError(StateError):
    """Another living engine has the data directory.

    Attributes
    ----------
    pid : int or None
        Its process; None: unknown.
    """

    status = 409

    def __init__(self, message: str, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class RemoteModelError(Exception):
    """A model raised in its worker process; the text is the worker's, with its traceback."""

    def __str__(self) -> str:
        return str(self.args[0]).partition("\n")[0]

    @property
    def remote_traceback(self) -> str:
        """The traceback, as the worker wrote it."""
        return str(self.args[0]).partition("\n")[2]


class WorkerError(Exception):
    """A worker process died, was silent for too long, or broke the protocol."""


class RecursionRefusedError(ClipperError, RuntimeError):
    """A model asked itself from inside its own batch, which could never be answered."""


PREDICTION_ERRORS: dict[Cause, type[PredictionError]] = {
    Cause.DEADLINE: DeadlineExceededError,
    Cause.OVERLOAD: OverloadedError,
    Cause.CRASH: ReplicaCrashedError,
    Cause.MODEL_ERROR: ModelError,
    Cause.NO_REPLICA: NoReplicaError,
    Cause.LOW_CONFIDENCE: LowConfidenceError,
    Cause.CANCELLED: PredictionCancelledError,
}
