"""Values as JSON can say them."""

import base64
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np

from clipper.ragged import Ragged


def to_plain(value: Any) -> Any:
    """Return the value in dicts, lists, numbers and text.

    Numbers that are not finite become None, bytes ``{"base64": …}``, and causes their names.
    """
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {str(key): to_plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, Ragged)):
        return [to_plain(one) for one in value]
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
