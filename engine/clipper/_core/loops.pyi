from collections.abc import Coroutine
from typing import Any, final

from clipper.contexts import Context
from clipper.tensor import Row

from .application import ApplicationCore
from .predictions import Prediction

@final
class LoopPort:
    @property
    def outstanding(self) -> int: ...
    @property
    def is_orphan(self) -> bool: ...
    def close_soon(self) -> None: ...
    def close(self) -> None: ...

def predict_async(
    application: ApplicationCore,
    x: Row,
    *,
    context: Context | None = None,
    deadline: float | None = None,
    priority: int | None = None,
    bypass_cache: bool = False,
) -> Coroutine[Any, Any, Prediction]: ...
