cimport numpy as cnp

from clipper._core cimport native


cdef class Spec:
    cdef readonly object tensor          # clipper.Tensor
    cdef readonly object dtype           # numpy.dtype
    cdef readonly tuple shape            # without a ragged axis
    cdef readonly bint ragged
    cdef readonly str kind               # "array", "bytes" or "text"
    cdef readonly Py_ssize_t item_bytes
    cdef unsigned char dlpack_code
    cdef unsigned char bits              # of one element
    cdef int type_num
    cdef int ndim                        # of one row, or of one item of a ragged one
    cdef cnp.npy_intp dims[32]           # dims[0] is the batch axis, set per use

    cdef native.TensorSpec to_native(self) except *
    cdef object read_row(self, object value, native.ColumnRows* column)
    cdef object read_rows(self, object values, native.ColumnRows* column, Py_ssize_t* rows)
    cdef object read_blob(self, object value, native.ColumnRows* column)
    cdef object read_many(self, object values, native.ColumnRows* column, Py_ssize_t* rows)
    cdef bint matches(self, cnp.ndarray array, int batch_axes) noexcept
    cdef object row_from(self, const native.Byte* data)
    cdef object rows_from(self, const native.Byte* data, Py_ssize_t rows)
    cdef object rows_over(self, native.Byte* data, Py_ssize_t rows, object owner)
    cdef object ragged_row_from(self, const native.Byte* data, Py_ssize_t items)
    cdef object ragged_rows_over(self, native.Byte* data, const native.int64_t* offsets,
                                 Py_ssize_t rows, object owner)
