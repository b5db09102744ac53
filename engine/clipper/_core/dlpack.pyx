"""Batches handed to other frameworks without a copy, by the DLPack protocol."""

from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t

from clipper._core.tensors cimport Spec

cdef enum:
    kDLCPU = 1


cdef void free_tensor(DLManagedTensor* tensor) noexcept with gil:
    # Called by the consumer when its tensor dies, from any thread.
    Py_DECREF(<object>tensor.manager_ctx)
    PyMem_RawFree(tensor)


cdef void free_unused_capsule(object capsule) noexcept:
    # A consumer renames the capsule; one that still has its name was never consumed.
    if PyCapsule_IsValid(capsule, "dltensor"):
        free_tensor(<DLManagedTensor*>PyCapsule_GetPointer(capsule, "dltensor"))


cdef object make_capsule(Spec spec, void* data, Py_ssize_t rows, object owner):
    """A capsule over `rows` rows at `data`, which `owner` keeps alive."""
    cdef int dimensions = spec.ndim + 1
    cdef DLManagedTensor* tensor = <DLManagedTensor*>PyMem_RawMalloc(
        sizeof(DLManagedTensor) + dimensions * sizeof(int64_t))
    if tensor == NULL:
        raise MemoryError()
    cdef int64_t* shape = <int64_t*>(tensor + 1)
    shape[0] = rows
    cdef int i
    for i in range(1, dimensions):
        shape[i] = spec.dims[i]
    tensor.dl_tensor.data = data
    tensor.dl_tensor.device.device_type = kDLCPU
    tensor.dl_tensor.device.device_id = 0
    tensor.dl_tensor.ndim = dimensions
    tensor.dl_tensor.dtype.code = spec.dlpack_code
    tensor.dl_tensor.dtype.bits = spec.bits
    tensor.dl_tensor.dtype.lanes = 1
    tensor.dl_tensor.shape = shape
    tensor.dl_tensor.strides = NULL  # C-contiguous
    tensor.dl_tensor.byte_offset = 0
    tensor.deleter = free_tensor
    Py_INCREF(owner)
    tensor.manager_ctx = <void*>owner
    return PyCapsule_New(tensor, "dltensor", free_unused_capsule)
