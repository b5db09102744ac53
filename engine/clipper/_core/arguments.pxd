from clipper._core cimport native


cdef native.Nanos nanoseconds(object seconds, str what) except? -1
cdef native.Priority priority_of(object priority) except? -1
