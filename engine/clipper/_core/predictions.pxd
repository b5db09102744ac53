from clipper._core cimport native
from clipper._core.rows cimport RowSpec


cdef class OutputMemory:
    cdef native.Byte* data


cdef class Prediction:
    cdef RowSpec spec
    cdef object _output                  # None until asked for
    cdef object _default
    cdef unsigned char _inline[64]
    cdef readonly bint is_default        # true whenever no answer could be made
    cdef bint _has_default
    cdef native.Cause _cause
    cdef readonly float confidence
    cdef native.Nanos _latency_ns
    cdef native.Nanos _queued_ns
    cdef object _asked                   # a deployment, or a tuple of (deployment, cause or None)
    cdef str _failure                    # what a policy of Python did wrong
    cdef object _engine
    cdef unsigned long long _number
    cdef unsigned long long _ticket      # by which feedback finds it
    cdef unsigned int _row               # of its query

    cdef object keep(self, native.Outcome* outcome)


cdef class Predictions:
    cdef readonly object output
    cdef Py_ssize_t _rows
    # None where all rows were answered with confidence 1, until somebody looks.
    cdef object _confidence
    cdef object _is_default
    cdef list _why
    cdef object _default
    cdef bint _has_default
    cdef native.Nanos _latency_ns
    cdef native.Nanos _queued_ns
    cdef list _asked                     # of (deployment, list of causes or None)
    cdef object _engine
    cdef unsigned long long _number
    cdef unsigned long long _ticket
    cdef RowSpec spec


cdef object cause_of(native.Cause cause)
cdef object take_memory(native.OutputRows* holder)
cdef object asked_of(native.Query* query, unsigned int row)
cdef tuple asked_each(native.Query* query, unsigned int row)
cdef object asked_rows(native.Query* query, unsigned int index, bint all_answered)
cdef list whys_of(native.Outcome* outcome, Py_ssize_t rows)
cdef object confidences_of(native.Outcome* outcome, Py_ssize_t rows)
