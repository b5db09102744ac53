from clipper._core cimport native
from clipper._core.tensors cimport Spec


cdef class RowSpec:
    cdef readonly object tensors         # a Tensor, or a dict of them
    cdef readonly object names           # None: a single tensor without a name
    cdef readonly list columns           # of Spec
    cdef Spec only                       # the single tensor, if there is one
    cdef readonly bint is_plain          # a single tensor of fixed shape

    cdef native.RowSpec to_native(self) except *
    cdef object read_row(self, object value, native.ColumnRows* columns)
    cdef object read_rows(self, object values, native.ColumnRows* columns, Py_ssize_t* rows)
    cdef object row_out(self, native.Byte* row, const native.OutputLayout* layout)
    cdef object rows_out(self, native.Byte* outputs, const native.OutputLayout* layout,
                         Py_ssize_t rows)
    cdef object _column_out(self, Py_ssize_t column, native.Byte* outputs,
                            const native.OutputLayout* layout, Py_ssize_t rows)
