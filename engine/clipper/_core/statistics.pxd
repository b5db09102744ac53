from clipper._core cimport native


cdef dict describe_statistics(native.ModelStatistics* statistics, native.Nanos now_ns,
                              object output_names)
cdef log_drift(native.ModelStatistics* statistics, str name, version)
