"""Values as JSON can say them."""

import base64
import math
from collections.abc import Iterable
from enum import Enum
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from clipper.config.values import is_table
from clipper.ragged import Ragged


def _is_several(value: Any) -> TypeGuard[Iterable[Any]]:
    return isinstance(value, (list, tuple, set, frozenset, Ragged))


def _is_of_numpy(value: Any) -> "TypeGuard[NDArray[Any]]":
    return isinstance(value, (np.ndarray, np.generic))


def to_plain(value: Any) -> Any:  # noqa: PLR0911 - one for each kind of value
    """Return the value in dicts, lists, numbers and text.

    Numbers that are not finite become None, bytes ``{"base64": …}``, and causes their names.
    """
    if isinstance(value, Enum):
        return value.name
    if _is_of_numpy(value):
        return to_plain(value.tolist())
    if isinstance(value, (bytes, bytearray)):
        return {"base64": base64.b64encode(value).decode()}
    if is_table(value):
        return {str(key): to_plain(one) for key, one in value.items()}
    if _is_several(value):
        return [to_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
