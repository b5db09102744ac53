"""Row types as the worker protocol describes them, and back."""

from typing import Any

import numpy as np

from clipper.tensor import RowType, Tensor, check_row_type
from clipper_worker import protocol


def to_rows(given: RowType | None) -> protocol.Rows | None:
    """Describe a row type for a worker."""
    if given is None:
        return None
    if isinstance(given, Tensor):
        return protocol.Rows(False, [_to_tensor("", given)])
    return protocol.Rows(True, [_to_tensor(name, tensor) for name, tensor in given.items()])


def from_rows(rows: protocol.Rows | None, what: str) -> RowType | None:
    """Read a worker's description. Raises ProtocolError if it describes nothing."""
    if rows is None:
        return None
    try:
        if rows.named:
            named = {tensor.name: _from_tensor(tensor) for tensor in rows.tensors}
            return check_row_type(named, what)
        return _from_tensor(rows.tensors[0])
    except (TypeError, ValueError) as error:
        raise protocol.ProtocolError(f"it describes its {what} as {rows}: {error}") from None


def example_from(rows: protocol.Rows, packed: bytes) -> Any:
    """Read a row that a worker sent as an example of its input."""
    from clipper_worker.rehearsal import unpack_row  # noqa: PLC0415 - not needed to import clipper

    values: dict[str, Any] = {}
    for column, data in unpack_row(rows, packed):
        if column.kind == "text":
            values[column.name] = str(data, "utf-8")
        elif column.kind == "bytes":
            values[column.name] = data
        else:
            leading = (-1,) if column.ragged else ()
            values[column.name] = np.frombuffer(data, column.dtype).reshape(leading + column.shape)
    return values if rows.named else values[""]


def example_to(rows: protocol.Rows, example: Any) -> bytes:
    """Put an example row into bytes for a worker."""
    from clipper_worker.rehearsal import pack_row  # noqa: PLC0415

    return pack_row(rows, example)


def _to_tensor(name: str, tensor: Tensor) -> protocol.Tensor:
    shape = tensor.item_shape
    return protocol.Tensor(name, tensor.dtype.name, tensor.kind, tensor.is_ragged, shape)


def _from_tensor(tensor: protocol.Tensor) -> Tensor:
    if tensor.kind != "array":
        return Tensor(tensor.kind)
    leading: tuple[int | None, ...] = (None,) if tensor.ragged else ()
    return Tensor(tensor.dtype, leading + tuple(tensor.shape))
