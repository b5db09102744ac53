"""Serves estimators of scikit-learn."""

from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike

from clipper import Runner, Tensor

from .specs import cuda_index, spec_of_output, zero_row

Method = Literal["predict", "predict_proba", "decision_function"]


class SklearnModel:
    """A fitted estimator or pipeline of scikit-learn, or anything with its interface.

    Parameters
    ----------
    estimator : object
        Fitted on arrays; not copied.
    method : {"predict", "predict_proba", "decision_function"}
        What answers a batch of rows, shape (n, n_features_in_).
    input_dtype : data-type
        Of the rows. Applications that ask several models need the same dtype for all of them.

    Attributes
    ----------
    input, output : Tensor
        One row of each; the output's is read off the answer to a row of zeros.

    Raises
    ------
    ValueError
        If the estimator is not fitted, or answers with labels that are not numbers.
    TypeError
        If it lacks the method, or the method does not return one array.

    Notes
    -----
    scikit-learn refuses a whole batch when one of its rows holds a NaN or an infinity.
    """

    batch_as: Literal["array", "dlpack"] = "array"

    def __init__(
        self, estimator: Any, *, method: Method = "predict", input_dtype: DTypeLike = "float32"
    ) -> None:
        self._estimator = estimator
        self._method = method
        self._check_fitted()
        self._check_method()
        self._check_labels()
        self.input: Tensor | None = Tensor(input_dtype, (int(estimator.n_features_in_),))
        one_row = np.zeros((1, *self.input.item_shape), self.input.dtype)
        answer = getattr(estimator, method)(one_row)
        self.output: Tensor | None = spec_of_output(answer, f"{self._name}.{method}")

    def load(self, device: str) -> Runner:
        """Return the estimator's own method: nothing is put between it and the batch."""
        cuda_index(
            device,
            available=0,
            who="SklearnModel",
            remedy="scikit-learn runs on the CPU, use device='cpu' or 'auto'",
        )
        runner: Runner = getattr(self._estimator, self._method)
        return runner

    def example(self) -> Any:
        """Return a row of zeros."""
        return zero_row(self.input)

    def __repr__(self) -> str:
        return (
            f"SklearnModel({self._name}, method={self._method!r}, "
            f"input={self.input}, output={self.output})"
        )

    @property
    def _name(self) -> str:
        return type(self._estimator).__name__

    def _check_fitted(self) -> None:
        if isinstance(self._estimator, type):
            raise TypeError(
                f"SklearnModel got the class {self._estimator.__name__}; expected a fitted "
                f"estimator: pass {self._estimator.__name__}(...).fit(X, y)"
            )
        if not hasattr(self._estimator, "n_features_in_"):
            raise ValueError(
                f"SklearnModel got {self._name} without n_features_in_; expected a fitted "
                "estimator: call its fit(X, y) with numeric rows before you deploy it"
            )

    def _check_method(self) -> None:
        if not hasattr(self._estimator, self._method):
            methods = ("predict", "predict_proba", "decision_function")
            offered = [name for name in methods if hasattr(self._estimator, name)]
            raise TypeError(
                f"SklearnModel got method={self._method!r}, which {self._name} does not have as it "
                f"was configured; it has: {', '.join(offered) or 'none of the three'}"
            )

    def _check_labels(self) -> None:
        # A regressor has no classes; a classifier of several targets has a list of arrays.
        classes = getattr(self._estimator, "classes_", [])
        for labels in classes if isinstance(classes, list) else [classes]:
            if self._method == "predict" and labels.dtype.kind not in "biuf":
                raise ValueError(
                    f"{self._name}.predict answers with labels such as {str(labels[0])!r}; "
                    "expected numbers, text cannot be served yet: encode the labels before you fit "
                    "(sklearn.preprocessing.LabelEncoder), or use method='predict_proba'"
                )
