"""What ``clipper demo selection`` measures: two policies that learn, while their best model fails.

The setting is that of figure 8 of Crankshaw et al., "Clipper", NSDI 2017: five models of different
quality, 20,000 queries with feedback, and the best model fails between queries 5,000 and 10,000.
Here the models read scikit-learn's digits, and the failing one gets its pixels in the wrong order.
"""

# The frameworks that it uses say little of their types.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from clipper.application import Application
from clipper.engine import Engine
from clipper.policies import Exp3, Exp4
from clipper.tensor import Tensor
from clipper_adapters import zoo

#: Queries, and between which of them the best model fails.
QUERIES, FAILS, RECOVERS = 20_000, 5_000, 10_000
#: Queries that are asked before their feedback comes.
BLOCK = 20
#: Queries over which a share of Exp3's questions is taken.
WINDOW = 500
#: Below this share of the say a model has been left: what one of five has who know nothing.
LEFT = 0.2
#: The model that is best, and fails.
BEST = "svm"
#: The floors let the other models together outvote the best, and shorten the way back.
EXP3 = Exp3(floor=0.05)
EXP4 = Exp4(floor=0.3)

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


class Reader:
    """A trained classifier that can be made to fail: then it reads images with axes exchanged."""

    def __init__(self, classifier: Any) -> None:
        self.classifier = classifier
        self.fails = False

    def __call__(self, images: Images) -> Labels:
        """Read a batch."""
        if self.fails:
            images = images.reshape(-1, 8, 8).transpose(0, 2, 1).reshape(-1, 64)
        return np.asarray(self.classifier.predict(images), np.int64)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was answered, query by query.

    Attributes
    ----------
    models : tuple of str
        Names, in the order of the axes below.
    wrong : dict of str to ndarray of bool, shape (queries,)
        Whether each model alone, ``"Exp3"`` and ``"Exp4"`` were wrong.
    shares : dict of str to ndarray of float, shape (queries, models)
        The say of each model, adding up to 1: for Exp3, its share of the last `WINDOW` queries; for
        Exp4, its weight, as follows from the losses that the engine has counted.
    confidence : ndarray of float, shape (queries,)
        How sure Exp4 was.
    agree : ndarray of bool, shape (queries, models)
        Whether each model, asked alone, says what Exp4 answers.
    """

    models: tuple[str, ...]
    wrong: dict[str, NDArray[np.bool_]]
    shares: dict[str, NDArray[np.float64]]
    confidence: NDArray[np.float64]
    agree: NDArray[np.bool_]

    def error(self, name: str, *, failing: bool) -> float:
        """Return the share of wrong answers while the best model fails, or while it does not."""
        inside = np.zeros(len(self.wrong[name]), np.bool_)
        inside[FAILS:RECOVERS] = True
        return float(self.wrong[name][inside == failing].mean())

    def left(self, policy: str) -> int | None:
        """Return how many queries after the failure began the failing model was left."""
        say = self.shares[policy][FAILS:RECOVERS, self.models.index(BEST)]
        return _first(say < LEFT)

    def returned(self, policy: str) -> int | None:
        """Return how many queries after the failure ended the model had the largest say again."""
        shares = self.shares[policy][RECOVERS:]
        return _first(shares.argmax(axis=1) == self.models.index(BEST))


def _first(which: NDArray[np.bool_]) -> int | None:
    return int(which.argmax()) if which.any() else None


def train(data: zoo.Digits, seed: int = 0) -> dict[str, Reader]:
    """Train five models, each on digits of its own: the best one on more of them."""
    classifiers = {
        BEST: (SVC(), 300),
        "logistic": (LogisticRegression(max_iter=500), 100),
        "neighbour": (KNeighborsClassifier(1), 100),
        "bayes": (GaussianNB(var_smoothing=0.1), 100),
        "forest": (RandomForestClassifier(10, max_depth=6, random_state=seed), 100),
    }
    order = np.random.default_rng(seed).permutation(len(data.x_train))
    readers, start = {}, 0
    for name, (classifier, rows) in classifiers.items():
        own = order[start : start + rows]
        readers[name] = Reader(classifier.fit(data.x_train[own], data.y_train[own]))
        start += rows
    return readers


def queries(data: zoo.Digits, count: int, seed: int = 0) -> tuple[Images, Labels]:
    """Draw held-out digits, each with a little noise of its own."""
    random = np.random.default_rng(seed)
    chosen = random.integers(0, len(data.x_test), count)
    noise = random.normal(0.0, 0.1, (count, 64)).astype(np.float32)
    return data.x_test[chosen] + noise, data.y_test[chosen]


class _Served:
    """The models by themselves and under both policies, in one engine."""

    def __init__(self, engine: Engine, readers: dict[str, Reader]) -> None:
        self.names = tuple(readers)
        self.alone = [
            engine.deploy(name, reader, input=Tensor("float32", (64,)), output=Tensor("int64", ()))
            for name, reader in readers.items()
        ]
        self.exp3, self.exp4 = (
            engine.create_application(name, models=self.names, slo=None, policy=policy)
            for name, policy in (("Exp3", EXP3), ("Exp4", EXP4))
        )
        self._lost = np.zeros(len(self.names))
        self._log_weights = np.zeros(len(self.names))

    def ask_exp3(self, x: Images, y: Labels) -> tuple[Labels, list[int]]:
        """Ask each query by itself, as each is for Exp3 to choose; then give feedback."""
        futures = [self.exp3.submit(row) for row in x]
        predictions = [future.result() for future in futures]
        self.exp3.feedback_many(predictions, labels=y)
        asked = [self.names.index(next(iter(p.models))) for p in predictions]
        return np.array([p.output for p in predictions]), asked

    def ask_exp4(self, x: Images, y: Labels) -> tuple[Labels, NDArray[np.float32]]:
        """Ask, then give feedback."""
        predictions = self.exp4.predict_many(x)
        self.exp4.feedback_many(predictions, labels=y)
        return predictions.output, predictions.confidence

    def weights(self) -> NDArray[np.float64]:
        """Return the weights of Exp4: they fall with what feedback has cost each model."""
        seen = self.exp4.describe()["feedback"]
        lost = np.array([seen["judged"][n] * (seen["mean_loss"][n] or 0.0) for n in self.names])
        self._log_weights -= EXP4.eta * (lost - self._lost)
        self._lost = lost
        self._log_weights -= self._log_weights.max()
        np.maximum(self._log_weights, np.log(EXP4.floor), out=self._log_weights)
        weights = np.exp(self._log_weights)
        return np.asarray(weights / weights.sum())


def measure(seed: int = 0, progress: Callable[[int, int], None] | None = None) -> Outcome:
    """Serve the queries, with feedback, while the best model fails for a quarter of them.

    Parameters
    ----------
    seed : int
        Of what each model learns and of what is asked; Exp3's own choices have none.
    progress : callable, optional
        Called with how many queries were answered, of how many.
    """
    data = zoo.digits()
    readers = train(data, seed)
    x, y = queries(data, QUERIES, seed)
    wrong = {name: np.zeros(QUERIES, np.bool_) for name in (*readers, "Exp3", "Exp4")}
    asked: list[int] = []
    weights = np.zeros((QUERIES, len(readers)))
    confidence = np.zeros(QUERIES)
    agree = np.zeros((QUERIES, len(readers)), np.bool_)
    with Engine() as engine:
        served = _Served(engine, readers)
        for start in range(0, QUERIES, BLOCK):
            readers[BEST].fails = FAILS <= start < RECOVERS
            block = slice(start, start + BLOCK)
            weights[block] = served.weights()
            of_exp3, of_whom = served.ask_exp3(x[block], y[block])
            of_exp4, confidence[block] = served.ask_exp4(x[block], y[block])
            asked += of_whom
            answers = {model.name: _outputs(model, x[block]) for model in served.alone}
            agree[block] = np.stack([a == of_exp4 for a in answers.values()], axis=1)
            for name, output in {**answers, "Exp3": of_exp3, "Exp4": of_exp4}.items():
                wrong[name][block] = output != y[block]
            if progress is not None:
                progress(start + BLOCK, QUERIES)
    shares = {"Exp3": _moving_shares(asked, len(readers)), "Exp4": weights}
    return Outcome(tuple(readers), wrong, shares, confidence, agree)


def _outputs(model: Application, x: Images) -> Labels:
    outputs: Labels = model.predict_many(x).output
    return outputs


def _moving_shares(asked: list[int], models: int) -> NDArray[np.float64]:
    """Return each model's share of the last `WINDOW` queries, or of those there were by then."""
    counts = np.cumsum(np.eye(models)[asked], axis=0)
    counts[WINDOW:] -= counts[:-WINDOW].copy()
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))
