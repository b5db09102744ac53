from typing import Any

from .rows import RowSpec

def check_outputs(spec: RowSpec, outputs: Any, rows: int, name: str) -> None: ...
