from collections.abc import Coroutine, Hashable
from typing import Any, final

from numpy.typing import ArrayLike

from .application import ApplicationCore
from .predictions import Prediction

@final
class LoopPort:
    @property
    def outstanding(self) -> int: ...
    @property
    def is_orphan(self) -> bool: ...
    def close(self) -> None: ...

def ask(
    application: ApplicationCore, x: ArrayLike, context: Hashable | None, deadline: float | None
) -> Coroutine[Any, Any, Prediction]: ...
