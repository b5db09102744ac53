"""Models of handwritten digits, as clipper.toml names them."""

from typing import Any

from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.svm import SVC

from clipper_adapters import SklearnModel


def svm() -> SklearnModel:
    """Return a support vector machine."""
    return _trained(SVC())


def forest() -> SklearnModel:
    """Return a small forest."""
    return _trained(RandomForestClassifier(20, random_state=0))


def _trained(estimator: Any) -> SklearnModel:
    digits = load_digits()
    return SklearnModel(estimator.fit(digits.data.astype("float32"), digits.target))
