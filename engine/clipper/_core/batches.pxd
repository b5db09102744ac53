from clipper._core cimport native
from clipper._core.rows cimport RowSpec


cdef object inputs_of(native.Batch* batch, RowSpec spec, bint as_dlpack)
cdef object read_outputs(RowSpec spec, object outputs, Py_ssize_t rows, str name,
                         native.ColumnRows* columns)
