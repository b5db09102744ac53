from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from clipper.tensor import Rows

from .application import ApplicationCore

NOT_ASKED: Final[int]

@final
class LoadCore:
    def __new__(
        cls,
        application: ApplicationCore,
        rows: Rows,
        at_ns: NDArray[np.int64],
        chosen: NDArray[np.uint32],
        *,
        deadline: float | None,
        keep_outputs: bool,
    ) -> LoadCore: ...
    @property
    def application(self) -> ApplicationCore: ...
    @property
    def latency_ns(self) -> NDArray[np.int64]: ...
    @property
    def late_ns(self) -> NDArray[np.int64]: ...
    @property
    def causes(self) -> NDArray[np.uint8]: ...
    @property
    def confidences(self) -> NDArray[np.float32]: ...
    @property
    def models(self) -> NDArray[np.uint32]: ...
    @property
    def outputs(self) -> Any: ...
    @property
    def budget(self) -> float | None: ...
    @property
    def asked(self) -> int: ...
    @property
    def ended(self) -> int: ...
    def run(self) -> None: ...
    def stop(self) -> None: ...
