"""Where a model's replicas run: in processes of their own, besides the threads of this one."""

from .isolation import Isolated

__all__ = ["Isolated"]
