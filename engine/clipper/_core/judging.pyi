from collections.abc import Callable
from typing import Any, final

from clipper.feedback import Loss, LossFunction

from .rows import RowSpec

@final
class Judge:
    def __init__(self, output: RowSpec, loss: Loss | LossFunction | None) -> None: ...
    @property
    def function(self) -> Callable[[Any, Any], float] | None: ...
