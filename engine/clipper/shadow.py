"""Shadows: models that are asked, and whose answers reach nobody."""

from collections.abc import Sequence
from dataclasses import dataclass

from ._core.rows import RowSpec
from .cascade import Cascade
from .model import Model
from .pipelines import Pipeline
from .policies import Policy


@dataclass(frozen=True, slots=True)
class Shadow:
    """Asks some models whatever the application is asked, for comparison only.

    Nobody waits for them, and nothing that they do reaches a caller: their queries are best effort
    and of the least priority, so that they take what the others leave. ``Application.describe()``
    has under ``"shadows"``, for each, rows answered, causes of failure, latency, and how many rows
    were ``compared`` with the answer that was given and ``agreed`` with it: equal outputs, or for
    vectors of floats the largest number in the same place. Late answers count like others.

    Parameters
    ----------
    of : str, Policy, Cascade or Pipeline
        What answers the callers: a model, or a policy over all models that are in no shadow.
    models : sequence of str
        The shadows, each among the application's ``models``.
    """

    of: "str | Policy | Cascade | Pipeline"
    models: Sequence[str]

    def __post_init__(self) -> None:
        names = (self.models,) if isinstance(self.models, str) else tuple(self.models)
        if not names or len(set(names)) != len(names):
            raise ValueError(f"Shadow(models={self.models!r}): name at least one model, each once")
        if isinstance(self.of, Shadow):
            raise ValueError("Shadow(of=Shadow(...)): name all shadows in one")
        object.__setattr__(self, "models", names)


def split_shadow(
    policy: Policy | Cascade | Pipeline | Shadow | None, models: list[str]
) -> tuple[Policy | Cascade | Pipeline | None, list[str], list[str]]:
    """Return the policy that answers, its models, and those in its shadow.

    Raises
    ------
    ValueError
        If a shadow is none of the models, or what it stands behind is not what is left of them.
    """
    if not isinstance(policy, Shadow):
        return policy, models, []
    answering = [name for name in models if name not in policy.models]
    unknown = [name for name in policy.models if name not in models]
    if unknown:
        raise ValueError(
            f"Shadow names {unknown}, but the application links {models}: name its shadows in "
            "models= too"
        )
    if not isinstance(policy.of, str):
        return policy.of, answering, list(policy.models)
    if answering != [policy.of]:
        raise ValueError(
            f"Shadow(of={policy.of!r}) leaves {answering} to answer: link {policy.of!r} and the "
            "shadows and nothing else, or give a policy as of="
        )
    return None, answering, list(policy.models)


def check_shadow(model: Model, input: RowSpec, output: RowSpec) -> None:
    """Raise ValueError unless the model takes and gives what the application does."""
    if (model.input.tensors, model.output.tensors) != (input.tensors, output.tensors):
        raise ValueError(
            f"model {model.name!r} cannot be a shadow here, as it does not take and give the same: "
            f"{input.tensors!r} → {output.tensors!r} against "
            f"{model.input.tensors!r} → {model.output.tensors!r}"
        )
