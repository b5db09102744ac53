"""Clipper: a low-latency prediction serving engine, embedded in your process.

>>> import clipper
>>> with clipper.Engine() as engine:
...     total = engine.deploy("total", lambda batch: batch.sum(axis=1), warmup=[1.0, 2.0])
...     total.predict([3.0, 4.0]).output
7.0
"""

import logging

from .application import Application, Prediction, PredictionFuture, Predictions
from .batching import Aimd, Deadline, Fixed, Quantile
from .cache import Cache
from .cascade import Cascade
from .engine import Engine
from .errors import (
    AlreadyExistsError,
    ApplicationNotFoundError,
    Cause,
    ClipperError,
    DataDirectoryInUseError,
    DeadlineExceededError,
    DeployError,
    EngineClosedError,
    ForkedEngineError,
    LowConfidenceError,
    ModelError,
    ModelNotFoundError,
    NoReplicaError,
    OverloadedError,
    PredictionCancelledError,
    PredictionError,
    RecursionRefusedError,
    ReplicaCrashedError,
    StateError,
)
from .feedback import FeedbackStatus, Loss
from .model import Model
from .model_protocol import ModelAdapter, Runner
from .pipelines import INPUT, Pipeline, Source, first, when
from .policies import (
    Canary,
    EpsilonGreedy,
    Exp3,
    Exp4,
    MajorityVote,
    Thompson,
    Ucb1,
    WeightedEnsemble,
    WeightedSplit,
)
from .ragged import Ragged
from .replicas.isolation import Isolated
from .resources import Resources
from .shadow import Shadow
from .tensor import Tensor

# What is worth a record goes to the logger "clipper"; where it ends up is the application's choice.
logging.getLogger(__name__).addHandler(logging.NullHandler())

__all__ = [
    "INPUT",
    "Aimd",
    "AlreadyExistsError",
    "Application",
    "ApplicationNotFoundError",
    "Cache",
    "Canary",
    "Cascade",
    "Cause",
    "ClipperError",
    "DataDirectoryInUseError",
    "Deadline",
    "DeadlineExceededError",
    "DeployError",
    "Engine",
    "EngineClosedError",
    "EpsilonGreedy",
    "Exp3",
    "Exp4",
    "FeedbackStatus",
    "Fixed",
    "ForkedEngineError",
    "Isolated",
    "Loss",
    "LowConfidenceError",
    "MajorityVote",
    "Model",
    "ModelAdapter",
    "ModelError",
    "ModelNotFoundError",
    "NoReplicaError",
    "OverloadedError",
    "Pipeline",
    "Prediction",
    "PredictionCancelledError",
    "PredictionError",
    "PredictionFuture",
    "Predictions",
    "Quantile",
    "Ragged",
    "RecursionRefusedError",
    "ReplicaCrashedError",
    "Resources",
    "Runner",
    "Shadow",
    "Source",
    "StateError",
    "Tensor",
    "Thompson",
    "Ucb1",
    "WeightedEnsemble",
    "WeightedSplit",
    "first",
    "when",
]
