# DLPack's C structures (dlpack.h, version 0.8), written out: the whole of what an export needs.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint64_t

from clipper._core.tensors cimport Spec


cdef struct DLDevice:
    int32_t device_type
    int32_t device_id

cdef struct DLDataType:
    uint8_t code
    uint8_t bits
    uint16_t lanes

cdef struct DLTensor:
    void* data
    DLDevice device
    int32_t ndim
    DLDataType dtype
    int64_t* shape
    int64_t* strides
    uint64_t byte_offset

cdef struct DLManagedTensor:
    DLTensor dl_tensor
    void* manager_ctx
    void (*deleter)(DLManagedTensor*) noexcept


cdef object make_capsule(Spec spec, void* data, Py_ssize_t rows, object owner)
