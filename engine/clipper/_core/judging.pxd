from libc.stdint cimport uint16_t

from clipper._core cimport native
from clipper._core.rows cimport RowSpec


cdef class Judge:
    cdef native.Loss loss
    cdef readonly object function        # of output and label; None: `loss` judges
    cdef RowSpec output
    cdef str kind

    cdef object read_labels(self, object labels, bint many, native.Labels* read,
                            native.ColumnRows* columns, Py_ssize_t* count)
    cdef object _read_plain(self, object labels, bint many, native.Labels* read,
                            native.ColumnRows* columns, Py_ssize_t* count)
    cdef float by_function(self, native.Byte* output, const native.OutputLayout* layout,
                           object label) except? -1


cdef float checked_loss(object value, object what) except? -1
