"""Handwritten digits and the support vector machines that read them."""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.svm import SVC, LinearSVC


class Digits(NamedTuple):
    """The handwritten digits of scikit-learn, split for training and testing.

    Attributes
    ----------
    x_train, x_test : ndarray of float32, shape (n, 64)
        Grey values of 8 x 8 pixels, in [0, 1].
    y_train, y_test : ndarray of int64, shape (n,)
        The digits, 0 to 9.
    """

    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int64]


def digits(seed: int = 0) -> Digits:
    """Load the digits: 1,347 rows for training, 450 for testing.

    Parameters
    ----------
    seed : int
        Seed of the shuffle before the split.
    """
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    x = np.ascontiguousarray(pixels[order] / 16.0, dtype=np.float32)
    y = labels[order].astype(np.int64)
    cut = len(y) * 3 // 4
    return Digits(x[:cut], y[:cut], x[cut:], y[cut:])


def train_svm(data: Digits | None = None, *, kernel: Literal["rbf", "linear"] = "rbf") -> Any:
    """Train a support vector machine on the digits, within a second.

    Parameters
    ----------
    data : Digits, optional
        What `digits` returned; loaded here when left out.
    kernel : {"rbf", "linear"}
        ``"rbf"`` compares each row with all support vectors; ``"linear"`` is one matrix product.

    Returns
    -------
    sklearn.svm.SVC or sklearn.svm.LinearSVC
        Fitted; predicts int64 digits from float32 rows of 64.
    """
    data = digits() if data is None else data
    estimator = SVC(gamma="scale") if kernel == "rbf" else LinearSVC(random_state=0)
    return estimator.fit(data.x_train, data.y_train)
