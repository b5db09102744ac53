"""Rows of one tensor or of several by name: Python's values to columns of the core, and back."""

cimport cython
cimport numpy as cnp
from libc.string cimport memcpy

from clipper._core cimport native
from clipper._core.tensors cimport Spec

from collections.abc import Mapping

import numpy as np

from clipper.ragged import Ragged
from clipper.tensor import Tensor

cnp.import_array()


@cython.final
cdef class RowSpec:
    """What a row is made of, prepared for the hot path."""

    def __cinit__(self, tensors):
        self.tensors = tensors
        if isinstance(tensors, Tensor):
            self.only = Spec(tensors)
            self.columns = [self.only]
            self.is_plain = not self.only.ragged
        else:
            self.names = tuple(tensors)
            self.columns = [Spec(tensor) for tensor in tensors.values()]

    cdef native.RowSpec to_native(self) except *:
        cdef native.RowSpec made
        cdef Spec spec
        for spec in self.columns:
            made.columns.push_back(spec.to_native())
        return made

    @property
    def is_ragged(self):
        """Whether some tensor is."""
        return any([(<Spec>spec).ragged for spec in self.columns])

    # ---- in --------------------------------------------------------------------------------------

    cdef object read_row(self, object value, native.ColumnRows* columns):
        """Point `columns` at one row; the result keeps it alive."""
        if self.only is not None:
            return self.only.read_row(value, columns)
        self._check_names(value, "the input")
        cdef list holders = []
        cdef Py_ssize_t i
        for i, name in enumerate(self.names):
            try:
                holders.append((<Spec>self.columns[i]).read_row(value[name], &columns[i]))
            except (TypeError, ValueError) as error:
                raise _naming(name, error) from None
        return holders

    cdef object read_rows(self, object values, native.ColumnRows* columns, Py_ssize_t* rows):
        """Point `columns` at several rows; the result keeps them alive."""
        if self.only is not None:
            return self.only.read_rows(values, columns, rows)
        self._check_names(values, "the input")
        cdef list holders = []
        cdef Py_ssize_t i
        cdef Py_ssize_t count = 0
        for i, name in enumerate(self.names):
            try:
                holders.append(
                    (<Spec>self.columns[i]).read_rows(values[name], &columns[i], &count))
            except (TypeError, ValueError) as error:
                raise _naming(name, error) from None
            if i > 0 and count != rows[0]:
                raise ValueError(f"the input has {rows[0]} rows of {self.names[0]!r} and {count} "
                                 f"of {name!r}: give as many of each")
            rows[0] = count
        return holders

    def _check_names(self, value, what):
        if not isinstance(value, Mapping):
            raise TypeError(f"{what} is {type(value).__name__}, but expected is a dict with "
                            f"{', '.join(map(repr, self.names))}")
        if set(value) != set(self.names):
            raise ValueError(f"{what} has {sorted(map(str, value))}, but expected are exactly "
                             f"{sorted(self.names)}")

    # ---- out -------------------------------------------------------------------------------------

    cdef object row_out(self, native.Byte* row, const native.OutputLayout* layout):
        """One row of a query's outputs, copied."""
        cdef Py_ssize_t i
        if self.is_plain:
            return self.only.row_from(row)
        if self.only is not None:
            return _value_out(self.only, row, layout, 0)
        return {name: _value_out(<Spec>self.columns[i], row, layout, i)
                for i, name in enumerate(self.names)}

    cdef object rows_out(self, native.Byte* outputs, const native.OutputLayout* layout,
                         Py_ssize_t rows):
        """All rows of a query's outputs, copied, for finish_rows()."""
        cdef Py_ssize_t i
        if self.only is not None:
            return self._column_out(0, outputs, layout, rows)
        return {name: self._column_out(i, outputs, layout, rows)
                for i, name in enumerate(self.names)}

    cdef object _column_out(self, Py_ssize_t column, native.Byte* outputs,
                            const native.OutputLayout* layout, Py_ssize_t rows):
        cdef Spec spec = <Spec>self.columns[column]
        cdef Py_ssize_t i
        cdef Py_ssize_t stride = 0 if layout == NULL else layout.row_bytes()
        cdef cnp.ndarray made
        if spec.ragged:
            # Rows that were not answered own nothing, like those that are empty.
            return [spec.ragged_row_from(NULL, 0) if layout == NULL
                    else _value_out(spec, outputs + i * stride, layout, column)
                    for i in range(rows)]
        made = np.zeros((rows, *spec.shape), spec.dtype)
        if layout != NULL:
            for i in range(rows):
                memcpy(<char*>cnp.PyArray_DATA(made) + i * spec.item_bytes,
                       outputs + i * stride + layout.columns()[column].offset, spec.item_bytes)
        return made

    def finish_rows(self, outputs, is_default, defaults):
        """Put defaults where they belong, and join ragged rows. `is_default`: None if nowhere."""
        if self.only is not None:
            return _finish_column(self.only, outputs, is_default, defaults[0])
        return {name: _finish_column(spec, outputs[name], is_default, default)
                for name, spec, default in zip(self.names, self.columns, defaults, strict=True)}

    def defaults_of(self, default):
        """The default as one row of each column; None where it is not one."""
        if self.only is not None:
            return [_default_of(self.only, default)]
        if not isinstance(default, Mapping):
            return [None] * len(self.columns)
        return [_default_of(spec, default.get(name))
                for name, spec in zip(self.names, self.columns, strict=True)]


cdef object _naming(object name, object error):
    """The same error, saying which tensor it is about."""
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"{name!r}: {error}")


cdef object _value_out(Spec spec, native.Byte* row, const native.OutputLayout* layout,
                       Py_ssize_t column):
    cdef native.RaggedCell* cell
    if not spec.ragged:
        return spec.row_from(row + layout.columns()[column].offset)
    cell = &native.OutputLayout.cell(row, layout.columns()[column])
    return spec.ragged_row_from(cell.data, cell.items)


def _finish_column(Spec spec, outputs, is_default, default):
    if spec.ragged:
        if is_default is not None and default is not None:
            outputs = [default if lacks else row
                       for row, lacks in zip(outputs, is_default, strict=True)]
        return outputs if spec.kind != "array" else Ragged.from_rows(outputs)
    if is_default is not None:
        outputs[is_default] = 0 if default is None else default
    return outputs


def _default_of(Spec spec, default):
    """A default as one row of the spec; None if it is something else."""
    if spec.kind != "array":
        wanted = str if spec.kind == "text" else bytes
        return default if isinstance(default, wanted) else None
    try:
        given = np.asarray(default)
        row = given.astype(spec.dtype, casting="same_kind")
    except (TypeError, ValueError):
        return None
    if spec.dtype.kind in "iu" and not np.array_equal(row, given):
        return None  # it would wrap round
    return row if row.shape[spec.ragged:] == spec.shape and row.ndim == spec.ndim + spec.ragged \
        else None
