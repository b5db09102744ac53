from collections.abc import Sequence
from typing import Any, final

from clipper.policies.policy_states import PolicyStates

from .rows import RowSpec

@final
class Turn: ...

@final
class PolicyRunner:
    def __init__(
        self,
        policy: object,
        names: Sequence[str],
        output: RowSpec,
        states: PolicyStates | None,
        min_confidence: float,
    ) -> None: ...
    @property
    def chooses(self) -> bool: ...
    def describe(self) -> dict[str, Any]: ...
