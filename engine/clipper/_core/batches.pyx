"""Batches on their way into a model, as what it is called with, and out of it again."""

cimport cython
cimport numpy as cnp
from libcpp.memory cimport shared_ptr

from clipper._core cimport dlpack, native
from clipper._core.rows cimport RowSpec
from clipper._core.tensors cimport Spec

from collections.abc import Mapping

import numpy as np

cnp.import_array()


@cython.final
@cython.freelist(16)
cdef class Lease:
    """Keeps a batch's block from being reused while user code holds a view of it."""

    cdef shared_ptr[native.RowBlocks] pool
    cdef native.Block* block

    def __dealloc__(self):
        if self.block != NULL:
            native.RowBlocks.release(self.block[0], 1)


cdef Lease lease(native.Batch* batch):
    cdef Lease made = Lease.__new__(Lease)
    made.pool = batch.replica.deployment().blocks_of(batch[0])
    made.block = &batch.block()
    native.RowBlocks.lease(made.block[0])
    return made


@cython.final
cdef class DLPackBatch:
    """The batch for adapters that take DLPack. Valid for as long as something holds on to it."""

    cdef Lease _lease
    cdef Spec _spec
    cdef void* _data
    cdef Py_ssize_t _rows

    def __len__(self):
        return self._rows

    def __dlpack_device__(self):
        return (1, 0)  # kDLCPU

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        return dlpack.make_capsule(self._spec, self._data, self._rows, self._lease)

    def __array__(self, dtype=None, copy=None):
        cdef cnp.ndarray view = self._spec.rows_over(<native.Byte*>self._data, self._rows,
                                                     self._lease)
        cnp.PyArray_CLEARFLAGS(view, cnp.NPY_ARRAY_WRITEABLE)
        return view if dtype is None else view.astype(dtype)


cdef object inputs_of(native.Batch* batch, RowSpec spec, bint as_dlpack):
    """What the model is called with: one value, or a dict by name.

    All of it keeps the batch's block as long as it lives.
    """
    cdef Lease held = lease(batch)
    cdef Py_ssize_t i
    if spec.names is None:
        return column_of(batch, <Spec>spec.columns[0], 0, held, as_dlpack)
    return {name: column_of(batch, <Spec>spec.columns[i], i, held, as_dlpack)
            for i, name in enumerate(spec.names)}


cdef object column_of(native.Batch* batch, Spec spec, Py_ssize_t column, Lease held,
                      bint as_dlpack):
    cdef cnp.ndarray view
    cdef DLPackBatch made
    cdef native.Byte* data = <native.Byte*>batch.column(column)
    if spec.ragged:
        return spec.ragged_rows_over(data, batch.offsets(column), batch.rows, held)
    if not as_dlpack:
        view = spec.rows_over(data, batch.rows, held)
        cnp.PyArray_CLEARFLAGS(view, cnp.NPY_ARRAY_WRITEABLE)
        return view
    made = DLPackBatch.__new__(DLPackBatch)
    made._lease = held
    made._spec = spec
    made._data = <void*>data
    made._rows = batch.rows
    return made


cdef object read_outputs(RowSpec spec, object outputs, Py_ssize_t rows, str name,
                         native.ColumnRows* columns):
    """Point `columns` at what a model returned, or raise with what it should have returned.

    The result keeps it alive.
    """
    cdef list holders = []
    cdef Py_ssize_t i
    if spec.names is None:
        return read_column(<Spec>spec.columns[0], outputs, rows, name, columns)
    if not isinstance(outputs, Mapping) or set(outputs) != set(spec.names):
        got = sorted(map(str, outputs)) if isinstance(outputs, Mapping) else type(outputs).__name__
        raise TypeError(f"model {name!r} returned {got}, expected a dict with exactly "
                        f"{sorted(spec.names)}")
    for i, key in enumerate(spec.names):
        holders.append(read_column(<Spec>spec.columns[i], outputs[key], rows,
                                   f"{name}.{key}", &columns[i]))
    return holders


cdef object read_column(Spec spec, object outputs, Py_ssize_t rows, str name,
                        native.ColumnRows* column):
    cdef Py_ssize_t count = 0
    if not spec.ragged:
        if not (cnp.PyArray_Check(outputs) and spec.matches(<cnp.ndarray>outputs, 1)
                and cnp.PyArray_DIM(<cnp.ndarray>outputs, 0) == rows):
            outputs = convert_column(spec, outputs, rows, name)
        column.data = <const native.Byte*>cnp.PyArray_DATA(<cnp.ndarray>outputs)
        return outputs
    wanted = f"{rows} outputs of {spec.tensor!r}"
    if outputs is None:
        raise TypeError(f"model {name!r} returned None, expected {wanted}: does it return?")
    try:
        holder = spec.read_many(outputs, column, &count)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"model {name!r} returned something else than {wanted}: {error}") from None
    if count != rows:
        raise ValueError(f"model {name!r} returned {count} outputs for {rows} inputs, expected "
                         f"{wanted}: a model is called with a batch and returns one output for "
                         "each row")
    return holder


def check_outputs(RowSpec spec, outputs, Py_ssize_t rows, str name):
    """Raise with what a model should have returned, unless it has."""
    cdef native.ColumnRows columns[native.kMaxColumns]
    read_outputs(spec, outputs, rows, name, columns)


cdef object convert_column(Spec spec, object outputs, Py_ssize_t rows, str name):
    """Convert what a model returned, or raise with what it should have returned."""
    wanted = f"{rows} outputs of {spec.tensor!r}"
    if outputs is None:
        raise TypeError(f"model {name!r} returned None, expected {wanted}: does it return?")
    array = np.asarray(outputs)
    if array.ndim == 0 or array.shape[0] != rows:
        got = "one value" if array.ndim == 0 else f"{array.shape[0]} outputs"
        raise ValueError(f"model {name!r} returned {got} for {rows} inputs, expected {wanted}: "
                         "a model is called with a batch and returns one output for each row")
    if array.shape[1:] != spec.shape:
        raise ValueError(f"model {name!r} returned outputs of shape {array.shape[1:]}, "
                         f"expected {wanted}")
    if array.dtype != spec.dtype:
        is_array = hasattr(outputs, "dtype")
        is_safe = array.dtype != object and np.can_cast(array.dtype, spec.dtype, "same_kind")
        if is_array or not is_safe:
            raise TypeError(f"model {name!r} returned {array.dtype}, expected {wanted}: convert it "
                            f"with .astype('{spec.dtype.name}') or declare the output as it is")
        array = array.astype(spec.dtype)
    return np.ascontiguousarray(array)
