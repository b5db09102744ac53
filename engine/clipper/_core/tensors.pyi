from typing import Any, final

import numpy as np

from clipper.tensor import Tensor

@final
class Spec:
    def __new__(cls, tensor: Tensor) -> Spec: ...
    @property
    def tensor(self) -> Tensor: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def row_bytes(self) -> int: ...
