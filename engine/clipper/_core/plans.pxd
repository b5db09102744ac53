from libcpp.memory cimport unique_ptr

from clipper._core cimport native


cdef unique_ptr[const native.Plan] make_plan(object bound) except *
