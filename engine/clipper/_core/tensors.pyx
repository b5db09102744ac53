"""Values in, arrays out: how one row of Python looks in memory."""

cimport cython
cimport numpy as cnp
from libc.string cimport memcpy

from clipper._core cimport native

import numpy as np

cnp.import_array()

_CODES = {"b": native.DTypeCode.kBool, "i": native.DTypeCode.kInt, "u": native.DTypeCode.kUInt,
          "f": native.DTypeCode.kFloat}
_MOST_DIMENSIONS = 31


@cython.final
cdef class Spec:
    """A Tensor, prepared for the hot path."""

    def __cinit__(self, tensor):
        if len(tensor.shape) > _MOST_DIMENSIONS:
            raise ValueError(f"{tensor!r} has more than {_MOST_DIMENSIONS} dimensions")
        self.tensor = tensor
        self.dtype = tensor.dtype
        self.shape = tensor.shape
        self.row_bytes = tensor.row_bytes
        self.type_num = (<cnp.dtype>tensor.dtype).num
        self.ndim = len(tensor.shape)
        for i in range(self.ndim):
            self.dims[i + 1] = tensor.shape[i]

    cdef native.TensorSpec to_native(self) except *:
        cdef native.TensorSpec spec
        spec.dtype.code = <native.DTypeCode><int>_CODES[self.dtype.kind]
        spec.dtype.bits = 8 * self.dtype.itemsize
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

    cdef object read_row(self, object value, const native.Byte** data):
        """Point `data` at one row; the result keeps it alive."""
        if not cnp.PyArray_Check(value) or not self.matches(<cnp.ndarray>value, 0):
            value = self._convert(value, 0)
        data[0] = <const native.Byte*>cnp.PyArray_DATA(<cnp.ndarray>value)
        return value

    cdef object read_rows(self, object values, const native.Byte** data, Py_ssize_t* rows):
        """Point `data` at several rows; the result keeps them alive."""
        if not cnp.PyArray_Check(values) or not self.matches(<cnp.ndarray>values, 1):
            values = self._convert(values, 1)
        data[0] = <const native.Byte*>cnp.PyArray_DATA(<cnp.ndarray>values)
        rows[0] = cnp.PyArray_DIM(<cnp.ndarray>values, 0)
        return values

    def _convert(self, value, int batch_axes):
        """What is not an array of the right kind: strided ones, lists, other libraries'."""
        if not isinstance(value, (np.ndarray, np.generic)):
            value = self._import(value)
        array = np.asarray(value)
        if array.dtype != self.dtype:
            raise TypeError(
                f"the input has dtype {array.dtype}, but the model expects "
                f"{self._wanted(batch_axes)}: "
                f"convert it with .astype('{self.dtype.name}')")
        if array.shape[batch_axes:] != self.shape or array.ndim != self.ndim + batch_axes:
            raise ValueError(
                f"the input has shape {array.shape}, but the model expects "
                f"{self._wanted(batch_axes)}" + self._hint(array, batch_axes))
        if array.ndim == 0:
            return array.copy()
        return np.ascontiguousarray(array)

    def _import(self, value):
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        array = np.asarray(value)
        if array.size == 0 and self.row_bytes > 0:
            array = array.astype(self.dtype)  # an empty list has no dtype to speak of
        elif array.dtype == object or not np.can_cast(array.dtype, self.dtype, "same_kind"):
            raise TypeError(
                f"the input is {type(value).__name__} of {array.dtype}, which cannot become "
                f"{self.dtype.name} without losing values: give an array of {self.tensor!r}")
        converted = array.astype(self.dtype)
        if self.dtype.kind in "iu" and not np.array_equal(converted, array):
            raise TypeError(f"the input has values that {self.dtype.name} cannot hold")
        return converted

    def _wanted(self, int batch_axes):
        shape = ("n", *self.shape) if batch_axes else self.shape
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
        memcpy(cnp.PyArray_DATA(array), data, self.row_bytes)
        return array if self.ndim > 0 else array[()]

    cdef object rows_from(self, const native.Byte* data, Py_ssize_t rows):
        """Several output rows, copied: an array of shape (rows, ...)."""
        cdef cnp.ndarray array
        cdef cnp.npy_intp dims[32]
        memcpy(dims, self.dims, sizeof(dims))
        dims[0] = rows
        array = cnp.PyArray_EMPTY(self.ndim + 1, dims, self.type_num, 0)
        memcpy(cnp.PyArray_DATA(array), data, rows * self.row_bytes)
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
