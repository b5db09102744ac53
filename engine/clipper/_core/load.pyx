"""Open-loop load: owns a generator of the core and the arrays that it writes."""

cimport cython
cimport numpy as cnp
from libc.stdint cimport int64_t, uint32_t
from libcpp.memory cimport unique_ptr

from clipper._core cimport native
from clipper._core.application cimport ApplicationCore
from clipper._core.arguments cimport nanoseconds

import numpy as np

cnp.import_array()

NOT_ASKED = 0xFF  # in place of a cause


cdef object filled(tuple shape, object dtype):
    # Written now, so that a long load does not grow the process while it runs.
    return np.full(shape, 0, dtype)


@cython.final
@cython.no_gc_clear  # __dealloc__ needs the memory
cdef class LoadCore:
    """One load on one application. ``run`` it once, on a thread of its own.

    Its arrays have one entry an arrival: ``latency_ns``, ``late_ns`` (how late it was asked),
    ``causes`` (numbers of ``Cause``; 0: answered; ``NOT_ASKED``: not ended), ``confidences``,
    ``models`` (bit m: the m-th linked model answered).
    """

    cdef unique_ptr[native.LoadGenerator] generator
    cdef readonly ApplicationCore application
    cdef object pool
    cdef object at_ns
    cdef object chosen
    cdef native.Nanos budget_ns
    cdef readonly object latency_ns
    cdef readonly object late_ns
    cdef readonly object causes
    cdef readonly object confidences
    cdef readonly object models
    cdef object memory                   # of the outputs, if they are kept
    cdef native.RowSpec spec
    cdef native.OutputLayout layout
    cdef native.ColumnRows columns[native.kMaxColumns]

    def __cinit__(self, ApplicationCore application, rows, const int64_t[::1] at_ns,
                  const uint32_t[::1] chosen, *, deadline, bint keep_outputs):
        cdef native.LoadPlan plan
        cdef native.LoadRecord record
        cdef Py_ssize_t pool_rows = 0
        cdef Py_ssize_t arrivals = at_ns.shape[0]
        if application.runner is not None:
            raise ValueError(
                f"application {application.name!r} has a policy or combine= of Python, which this "
                "load could not call, as it runs without Python: put load on one without")
        self.application = application
        self.at_ns = at_ns
        self.chosen = chosen
        self.pool = application.input.read_rows(rows, self.columns, &pool_rows)
        if chosen.shape[0] != arrivals or arrivals == 0:
            raise ValueError(f"{chosen.shape[0]} rows are chosen for {arrivals} arrivals: "
                             "choose one for each, and give at least one")
        if np.max(chosen) >= pool_rows:
            raise ValueError(f"row {np.max(chosen)} is chosen, but there are {pool_rows}")
        plan.at_ns = &at_ns[0]
        plan.chosen = &chosen[0]
        plan.arrivals = arrivals
        self.spec = application.input.to_native()
        plan.spec = &self.spec
        plan.pool = self.columns
        self.budget_ns = application.slo_ns
        if deadline is not None:
            self.budget_ns = nanoseconds(deadline, "deadline")
        plan.budget_ns = self.budget_ns
        self.latency_ns = filled((arrivals,), np.int64)
        self.late_ns = filled((arrivals,), np.int64)
        self.causes = filled((arrivals,), np.uint8)
        self.confidences = filled((arrivals,), np.float32)
        self.models = filled((arrivals,), np.uint32)
        record.latency_ns = <native.Nanos*>cnp.PyArray_DATA(self.latency_ns)
        record.late_ns = <native.Nanos*>cnp.PyArray_DATA(self.late_ns)
        record.causes = <native.Cause*>cnp.PyArray_DATA(self.causes)
        record.confidences = <float*>cnp.PyArray_DATA(self.confidences)
        record.models = <uint32_t*>cnp.PyArray_DATA(self.models)
        if keep_outputs:
            self.layout = native.OutputLayout(application.output.to_native())
            # Zeros are prepared rows.
            self.memory = filled((arrivals * self.layout.row_bytes(),), np.uint8)
            record.outputs = self.rows()
            record.layout = &self.layout
        self.generator.reset(new native.LoadGenerator(
            application.core.engine.get()[0], application.handle[0], plan, record))

    def __dealloc__(self):
        if self.memory is not None:
            self.layout.clear(self.rows(), <uint32_t>len(self.at_ns))

    cdef native.Byte* rows(self) noexcept:
        return <native.Byte*>cnp.PyArray_DATA(<cnp.ndarray>self.memory)

    @property
    def outputs(self):
        """Answers as ``predict_many`` gives them, zeros or empty where there is none; or None."""
        if self.memory is None:
            return None
        rows = self.application.output.rows_out(self.rows(), &self.layout, len(self.at_ns))
        return self.application.output.finish_rows(
            rows, None, self.application.output.defaults_of(None))

    def run(self):
        """Ask everything; return when all of it has ended, or soon after ``stop``."""
        with nogil:
            self.generator.get().run()

    def stop(self):
        """End ``run`` soon: what is open is withdrawn. From any thread."""
        self.generator.get().stop()

    @property
    def budget(self):
        """Seconds from the scheduled arrival to the deadline; None: there is none."""
        return None if self.budget_ns == native.kNever else self.budget_ns / 1e9

    @property
    def asked(self):
        """How many arrivals have been asked."""
        return self.generator.get().asked()

    @property
    def ended(self):
        """How many of them have ended."""
        return self.generator.get().ended()
