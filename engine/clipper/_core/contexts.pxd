from libc.stdint cimport uint64_t
from libcpp.memory cimport unique_ptr

from clipper._core cimport native


cdef uint64_t context_hash(object context) except? 0
cdef dict describe_contexts(const unique_ptr[native.ContextTable]& table)
