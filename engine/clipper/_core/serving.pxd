from libcpp.memory cimport shared_ptr, unique_ptr

from clipper._core cimport native
from clipper._core.rows cimport RowSpec


cdef enum:
    WHOLE_CALL = 0xffffff  # in place of a row: all of them. No call has so many


cdef class EngineCore:
    cdef native.MonotonicClock clock
    cdef unique_ptr[native.Engine] engine
    cdef object _secret
    cdef list _deployments
    cdef readonly list ports             # of event loops
    cdef readonly object alarmed         # weak set of applications, told when something is amiss
    cdef readonly set watched            # futures with callbacks, until their letter is read
    cdef public native.Nanos statistics_window_ns  # of deployments to come

    cdef native.Query* submit(self, native.Application* application,
                              const native.ColumnRows* columns, Py_ssize_t count,
                              native.Asking* asking) except NULL
    cdef object _log_alarms(self)
    cdef object _take_letters(self)


cdef class DeploymentCore:
    cdef readonly EngineCore engine
    cdef native.Deployment* handle
    cdef readonly str name
    cdef readonly object version
    cdef readonly RowSpec input
    cdef readonly RowSpec output
    cdef readonly tuple length_buckets
    cdef readonly list runners
    cdef readonly object errors          # recent: deque of (id, text)
    cdef readonly dict error_counts      # exception type → how many batches
    cdef unsigned int _last_error
    cdef dict _lasting_errors            # id → text, of what is refused for good

    cdef unsigned int note_error(self, object error) except 0


cdef class ReplicaRunner:
    cdef readonly DeploymentCore deployment
    cdef native.Replica* handle
    cdef object call
    cdef bint as_dlpack
    cdef readonly long long gil_wait_ns
    cdef readonly long long gil_waits
    cdef bint _has_warned

    cdef _note_gil_wait(self, native.Nanos waited_ns)
    cdef int _checked(self, lane) except -1


cdef str hash_text(native.uint64_t low, native.uint64_t high)
cdef native.Nanos run_batch(EngineCore core, native.Batch* batch) except -1
