"""What runs inside an isolated replica: a worker, in any Python from 3.9 on that has NumPy.

It knows nothing of ``clipper``: the protocol between the two is ``docs/worker-protocol.md``. Models
of ragged rows may import :class:`Ragged` from here.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Ragged"]


def __getattr__(name: str) -> Any:
    # Not at the top: where there is no NumPy, a worker must still be able to say so.
    if name == "Ragged":
        from .ragged import Ragged  # noqa: PLC0415

        return Ragged
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
