from collections.abc import Sequence
from typing import Any, final

from typing_extensions import disjoint_base

from clipper.contexts import Context
from clipper.feedback import Loss, LossFunction
from clipper.policies import BoundPolicy
from clipper.policies.policy_states import PolicyStates
from clipper.stage_binding import BoundPlan
from clipper.tensor import Row, Rows

from .predictions import Prediction, Predictions
from .rows import RowSpec
from .serving import DeploymentCore, EngineCore

@final
class ModelCore:
    def __new__(cls, core: EngineCore, name: str) -> ModelCore: ...
    @property
    def core(self) -> EngineCore: ...
    @property
    def current(self) -> DeploymentCore | None: ...
    def switch(self, deployment: DeploymentCore | None) -> DeploymentCore | None: ...

@disjoint_base
class ApplicationCore:
    def __init__(
        self,
        core: EngineCore,
        name: str,
        models: Sequence[ModelCore],
        input: RowSpec,
        output: RowSpec,
        *,
        policy: BoundPolicy | None,
        slo: float | None,
        has_default: bool,
        default: Any,
        min_confidence: float | None,
        priority: int = 0,
        context_bytes: int = ...,
        plan: BoundPlan | None = None,
        policy_states: tuple[object, Sequence[str], PolicyStates | None] | None = None,
    ) -> None: ...
    @property
    def core(self) -> EngineCore: ...
    @property
    def name(self) -> str: ...
    @property
    def models(self) -> list[ModelCore]: ...
    @property
    def input(self) -> RowSpec: ...
    @property
    def output(self) -> RowSpec: ...
    @property
    def has_default(self) -> bool: ...
    @property
    def default(self) -> Any: ...
    told_of_withdrawal: bool
    @property
    def priority(self) -> int: ...
    def add_shadow(self, model: ModelCore, name: str) -> None: ...
    def set_loss(self, loss: Loss | LossFunction | None) -> None: ...
    def predict(
        self,
        x: Row,
        *,
        context: Context | None = None,
        deadline: float | None = None,
        priority: int | None = None,
        bypass_cache: bool = False,
    ) -> Prediction: ...
    def predict_many(
        self,
        xs: Rows,
        *,
        context: Context | None = None,
        deadline: float | None = None,
        priority: int | None = None,
        bypass_cache: bool = False,
    ) -> Predictions: ...
    def statistics(self) -> dict[str, Any]: ...
