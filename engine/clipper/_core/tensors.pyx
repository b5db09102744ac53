"""Values in, arrays out: how one row of Python looks in memory."""

cimport cython
cimport numpy as cnp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from clipper._core cimport native

import sys
from collections.abc import Sequence

import numpy as np

from clipper.ragged import Ragged

cnp.import_array()

_CODES = {"b": native.DTypeCode.kBool, "i": native.DTypeCode.kInt, "u": native.DTypeCode.kUInt,
          "f": native.DTypeCode.kFloat, "c": native.DTypeCode.kComplex}
_MOST_DIMENSIONS = 31


@cython.final
cdef class Spec:
    """A Tensor, prepared for the hot path."""

    def __cinit__(self, tensor):
        if len(tensor.shape) > _MOST_DIMENSIONS:
            raise ValueError(f"{tensor!r} has more than {_MOST_DIMENSIONS} dimensions")
        self.tensor = tensor
        self.dtype = tensor.dtype
        self.shape = tensor.item_shape
        self.ragged = tensor.is_ragged
        self.kind = tensor.kind
        self.item_bytes = tensor.item_bytes
        # What NumPy does not know itself is a brain float to DLPack, or nothing at all.
        self.dlpack_code = <int>_CODES.get(tensor.dtype.kind, <int>native.DTypeCode.kBfloat)
        self.bits = 8 * tensor.dtype.itemsize
        self.type_num = (<cnp.dtype>tensor.dtype).num
        self.ndim = len(self.shape)
        for i in range(self.ndim):
            self.dims[i + 1] = self.shape[i]

    cdef native.TensorSpec to_native(self) except *:
        cdef native.TensorSpec spec
        spec.dtype.code = <native.DTypeCode>self.dlpack_code
        spec.dtype.bits = self.bits
        spec.ragged = self.ragged
        for extent in self.shape:
            spec.shape.push_back(extent)
        return spec

    cdef bint matches(self, cnp.ndarray array, int batch_axes) noexcept:
        """Whether the array's memory is rows of this spec, one after the other."""
        cdef int i
        if (cnp.PyArray_TYPE(array) != self.type_num
                or cnp.PyArray_NDIM(array) != self.ndim + batch_axes
                or not cnp.PyArray_ISCARRAY_RO(array)):
            return False
        for i in range(self.ndim):
            if cnp.PyArray_DIM(array, i + batch_axes) != self.dims[i + 1]:
                return False
        return True

    cdef object read_row(self, object value, native.ColumnRows* column):
        """Point `column` at one row; the result keeps it alive."""
        if self.kind != "array":
            return self.read_blob(value, column)
        # A ragged row is a batch of its items.
        if not cnp.PyArray_Check(value) or not self.matches(<cnp.ndarray>value, self.ragged):
            value = self._convert(value, 0)
        column.data = <const native.Byte*>cnp.PyArray_DATA(<cnp.ndarray>value)
        if self.ragged:
            column.single[1] = cnp.PyArray_DIM(<cnp.ndarray>value, 0)
        return value

    cdef object read_rows(self, object values, native.ColumnRows* column, Py_ssize_t* rows):
        """Point `column` at several rows; the result keeps them alive."""
        if self.ragged:
            return self.read_many(values, column, rows)
        if not cnp.PyArray_Check(values) or not self.matches(<cnp.ndarray>values, 1):
            values = self._convert(values, 1)
        column.data = <const native.Byte*>cnp.PyArray_DATA(<cnp.ndarray>values)
        rows[0] = cnp.PyArray_DIM(<cnp.ndarray>values, 0)
        return values

    cdef object read_blob(self, object value, native.ColumnRows* column):
        """Point `column` at bytes or text."""
        cdef Py_ssize_t size = 0
        if self.kind == "text":
            if not isinstance(value, str):
                raise TypeError(f"the input is {type(value).__name__}, but the model expects text: "
                                "give a str")
            column.data = <const native.Byte*>PyUnicode_AsUTF8AndSize(value, &size)
        else:
            if not isinstance(value, bytes):
                if not isinstance(value, (bytearray, memoryview)):
                    raise TypeError(f"the input is {type(value).__name__}, but the model expects "
                                    "bytes")
                value = bytes(value)
            column.data = <const native.Byte*>PyBytes_AS_STRING(value)
            size = PyBytes_GET_SIZE(value)
        column.single[1] = size
        return value

    cdef object read_many(self, object values, native.ColumnRows* column, Py_ssize_t* rows):
        """Point `column` at several ragged rows; the result keeps them alive."""
        ragged = self._to_ragged(values)
        check_ragged(ragged.values, ragged.offsets)
        column.data = <const native.Byte*>cnp.PyArray_DATA(<cnp.ndarray>ragged.values)
        column.offsets = <const int64_t*>cnp.PyArray_DATA(<cnp.ndarray>ragged.offsets)
        rows[0] = len(ragged)
        return ragged

    def _to_ragged(self, values):
        if self.kind != "array":
            if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, np.ndarray)):
                raise TypeError(f"the input is {type(values).__name__}, but the model expects "
                                f"{self._wanted(1)}")
            blobs = [self._to_bytes(value) for value in values]
            joined = np.frombuffer(b"".join(blobs), np.uint8)
            return Ragged(joined, _offsets_of([len(blob) for blob in blobs]))
        if isinstance(values, np.ndarray) and values.dtype != object and values.ndim >= 2:
            # As a block: all rows have one length.
            n, length = values.shape[:2]
            values = Ragged(values.reshape(n * length, *values.shape[2:]),
                            np.arange(n + 1, dtype=np.int64) * length)
        if not isinstance(values, Ragged):
            if not isinstance(values, (Sequence, np.ndarray)):
                raise TypeError(f"the input is {type(values).__name__}, but the model expects "
                                f"{self._wanted(1)}")
            parts = [self._convert(value, 0) for value in values]
            joined = np.concatenate([np.empty((0, *self.shape), self.dtype), *parts])
            return Ragged(joined, _offsets_of([len(part) for part in parts]))
        if not self.matches(values.values, 1):
            return Ragged(self._convert(values.values, 0), values.offsets)
        return values

    def _to_bytes(self, value):
        if self.kind == "text":
            if isinstance(value, str):
                return value.encode()
        elif isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value)
        raise TypeError(f"the input has a row that is {type(value).__name__}, but the model "
                        f"expects {self._wanted(1)}")

    def _convert(self, value, int batch_axes):
        """What is not an array of the right kind: strided ones, lists, other libraries'."""
        cdef int axes = batch_axes + self.ragged
        if not isinstance(value, (np.ndarray, np.generic)):
            value = self._import(value)
        array = np.asarray(value)
        if array.dtype != self.dtype:
            raise TypeError(
                f"the input has dtype {array.dtype}, but the model expects "
                f"{self._wanted(batch_axes)}: "
                f"convert it with .astype('{self.dtype.name}')")
        if array.shape[axes:] != self.shape or array.ndim != self.ndim + axes:
            raise ValueError(
                f"the input has shape {array.shape}, but the model expects "
                f"{self._wanted(batch_axes)}" + self._hint(array, batch_axes))
        if array.ndim == 0:
            return array.copy()
        return np.ascontiguousarray(array)

    def _import(self, value):
        if hasattr(value, "__dlpack__"):
            return self._from_dlpack(value)
        array = np.asarray(value)
        if array.size == 0:
            array = array.astype(self.dtype)  # an empty list has no dtype to speak of
        elif array.dtype == object or not self._can_hold(array):
            raise TypeError(
                f"the input is {type(value).__name__} of {array.dtype}, which cannot become "
                f"{self.dtype.name} without losing values: give an array of {self.tensor!r}")
        converted = array.astype(self.dtype)
        if self.dtype.kind in "iu" and not np.array_equal(converted, array):
            raise TypeError(f"the input has values that {self.dtype.name} cannot hold")
        if self.ragged and converted.size == 0 and converted.ndim == 1:
            return converted.reshape(0, *self.shape)
        return converted

    def _can_hold(self, array):
        if self.dtype.kind in "biufc":
            return np.can_cast(array.dtype, self.dtype, "same_kind")
        return array.dtype.kind in "biuf"  # of ml_dtypes' own kinds NumPy knows no casts

    def _from_dlpack(self, value):
        torch = sys.modules.get("torch")
        is_bfloat16 = torch is not None and getattr(value, "dtype", None) is torch.bfloat16
        try:
            # NumPy takes no brain floats, but their bits.
            array = np.from_dlpack(value.view(torch.int16) if is_bfloat16 else value)
        except (BufferError, RuntimeError, TypeError) as error:
            raise TypeError(
                f"the input is a {type(value).__name__} that cannot be read ({error}): give one "
                "on the CPU that needs no gradient, such as x.detach().cpu()") from error
        if is_bfloat16 and self.dtype.name == "bfloat16":
            return array.view(self.dtype)
        return array

    def _wanted(self, int batch_axes):
        if self.kind != "array":
            return f"a list of {self.kind}" if batch_axes else self.kind
        shape = ("n",) * batch_axes + ("length",) * self.ragged + self.shape
        return f"{self.dtype.name} of shape ({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"

    def _hint(self, array, int batch_axes):
        if batch_axes == 0 and array.shape[1:] == self.shape:
            return ": give one row, or use predict_many for several"
        if batch_axes == 1 and array.shape == self.shape:
            return ": use predict for a single row, or add the batch axis with x[None]"
        return ""

    cdef object row_from(self, const native.Byte* data):
        """One output row, copied: an array, or a NumPy scalar for shape ()."""
        cdef cnp.ndarray array = cnp.PyArray_EMPTY(self.ndim, &self.dims[1], self.type_num, 0)
        memcpy(cnp.PyArray_DATA(array), data, self.item_bytes)
        return array if self.ndim > 0 else array[()]

    cdef object rows_from(self, const native.Byte* data, Py_ssize_t rows):
        """Several output rows, copied: an array of shape (rows, ...)."""
        cdef cnp.ndarray array
        cdef cnp.npy_intp dims[32]
        memcpy(dims, self.dims, sizeof(dims))
        dims[0] = rows
        array = cnp.PyArray_EMPTY(self.ndim + 1, dims, self.type_num, 0)
        memcpy(cnp.PyArray_DATA(array), data, rows * self.item_bytes)
        return array

    cdef object rows_over(self, native.Byte* data, Py_ssize_t rows, object owner):
        """An array of shape (rows, ...) over memory that `owner` keeps."""
        cdef cnp.ndarray array
        cdef cnp.npy_intp dims[32]
        memcpy(dims, self.dims, sizeof(dims))
        dims[0] = rows
        array = cnp.PyArray_SimpleNewFromData(self.ndim + 1, dims, self.type_num, data)
        cnp.set_array_base(array, owner)
        return array

    cdef object ragged_row_from(self, const native.Byte* data, Py_ssize_t items):
        """One ragged row, copied: an array of shape (items, ...), bytes or text."""
        if self.kind == "bytes":
            return PyBytes_FromStringAndSize(<const char*>data, items)
        if self.kind == "text":
            return PyUnicode_DecodeUTF8(<const char*>data, items, NULL) if items else ""
        return self.rows_from(data, items)

    cdef object ragged_rows_over(self, native.Byte* data, const int64_t* offsets, Py_ssize_t rows,
                                 object owner):
        """Ragged rows as models get them: Ragged over memory that `owner` keeps, or a list."""
        cdef Py_ssize_t i
        if self.kind != "array":
            return [self.ragged_row_from(data + offsets[i] * self.item_bytes,
                                         offsets[i + 1] - offsets[i]) for i in range(rows)]
        cdef cnp.npy_intp count = rows + 1
        cdef cnp.ndarray own = cnp.PyArray_EMPTY(1, &count, cnp.NPY_INT64, 0)
        cdef int64_t* begins = <int64_t*>cnp.PyArray_DATA(own)
        for i in range(rows + 1):
            begins[i] = offsets[i] - offsets[0]
        cdef cnp.ndarray values = self.rows_over(data + offsets[0] * self.item_bytes, begins[rows],
                                                 owner)
        cnp.PyArray_CLEARFLAGS(values, cnp.NPY_ARRAY_WRITEABLE)
        return Ragged(values, own)


cdef int check_ragged(object values, object offsets) except -1:
    """Once more, where it counts: NumPy lets anybody make a read-only array writable again."""
    cdef Py_ssize_t i
    if not (cnp.PyArray_Check(values) and cnp.PyArray_Check(offsets)
            and cnp.PyArray_TYPE(<cnp.ndarray>offsets) == cnp.NPY_INT64
            and cnp.PyArray_NDIM(<cnp.ndarray>offsets) == 1
            and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>offsets)
            and cnp.PyArray_DIM(<cnp.ndarray>offsets, 0) > 0):
        raise ValueError("a Ragged was changed after it was made: make another")
    cdef const int64_t* begins = <const int64_t*>cnp.PyArray_DATA(<cnp.ndarray>offsets)
    cdef Py_ssize_t last = cnp.PyArray_DIM(<cnp.ndarray>offsets, 0) - 1
    cdef bint rises = begins[0] >= 0 and begins[last] <= cnp.PyArray_DIM(<cnp.ndarray>values, 0)
    for i in range(last):
        rises = rises and begins[i] <= begins[i + 1]
    if not rises:
        raise ValueError("the offsets of a Ragged were changed after it was made: make another")
    return 0


def _offsets_of(list lengths):
    cdef Py_ssize_t i
    cdef cnp.ndarray made = np.zeros(len(lengths) + 1, np.int64)
    cdef int64_t* begins = <int64_t*>cnp.PyArray_DATA(made)
    for i in range(len(lengths)):
        begins[i + 1] = begins[i] + <Py_ssize_t>lengths[i]
    return made
