"""Contexts: the number that stands for one, and what an application keeps of them."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_GET_SIZE
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.tuple cimport PyTuple_Check
from cpython.unicode cimport PyUnicode_Check
from libc.stdint cimport int64_t, uint64_t
from libcpp.memory cimport unique_ptr
from libcpp.vector cimport vector

from clipper._core cimport native

import operator

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    bint PyIndex_Check(object number) noexcept

# One seed a type: the text "a" is another context than the bytes b"a". Fixed for ever: states are
# stored under these hashes.
cdef enum:
    _TEXT = 1
    _BYTES = 2
    _INTEGER = 3
    _LARGE_INTEGER = 4
    _TUPLE = 5


cdef uint64_t context_hash(object context) except? 0:
    """64 bits that stand for a context, the same in every process and release."""
    cdef vector[uint64_t] parts
    if not PyTuple_Check(context):
        return _hash_of_part(context, context)
    for part in <tuple>context:
        parts.push_back(_hash_of_part(part, context))
    return native.hash_bytes(parts.data(), parts.size() * sizeof(uint64_t), _TUPLE)


cdef uint64_t _hash_of_part(object part, object context) except? 0:
    cdef Py_ssize_t size = 0
    cdef const char* text
    if PyUnicode_Check(part):
        text = PyUnicode_AsUTF8AndSize(part, &size)
        return native.hash_bytes(text, size, _TEXT)
    if PyBytes_Check(part):
        return native.hash_bytes(PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part), _BYTES)
    if PyIndex_Check(part):
        return _hash_of_integer(operator.index(part) if not isinstance(part, int) else part)
    raise TypeError(f"context is {context!r}: give a str, bytes, an int, or a tuple of those, such "
                    "as 'user-17' or ('shop', 17)")


cdef uint64_t _hash_of_integer(object number) except? 0:
    cdef int overflow = 0
    cdef int64_t value = PyLong_AsLongLongAndOverflow(number, &overflow)
    if overflow == 0:
        return native.hash_bytes(&value, sizeof(value), _INTEGER)
    digits = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return native.hash_bytes(PyBytes_AS_STRING(digits), PyBytes_GET_SIZE(digits), _LARGE_INTEGER)


def hash_context(context):
    """Return the number under which a context's state is kept."""
    return context_hash(context)


cdef dict describe_contexts(const unique_ptr[native.ContextTable]& table):
    """What is kept for contexts; None if the policy learns nothing."""
    if table.get() == NULL or table.get().words() == 0:
        return None
    cdef native.ContextCounts counts = table.get().counts()
    return {
        "in_memory": counts.in_memory,
        "bytes": counts.bytes,
        "stored": counts.stored,
        "waiting": counts.waiting,
        "journal": counts.noted,
        "begun": counts.begun,
        "loaded": counts.loaded,
        "spilled": counts.spilled,
        "evicted_unsaved": counts.evicted_unsaved,
        "served_by_own": counts.served_by_own,
        "observations_refused": counts.refused,
        "forgotten": counts.forgotten,
    }
