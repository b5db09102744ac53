"""What a replica may use: asked for, placed, enforced and measured."""

from .request import Resources

__all__ = ["Resources"]
