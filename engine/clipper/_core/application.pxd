from clipper._core cimport native
from clipper._core.journal cimport JournalCore
from clipper._core.judging cimport Judge
from clipper._core.predictions cimport Prediction
from clipper._core.python_policy cimport PolicyRunner
from clipper._core.serving cimport EngineCore
from clipper._core.rows cimport RowSpec


cdef class ShadowCore:
    cdef native.ShadowModel* handle
    cdef readonly str name


cdef class ApplicationCore:
    cdef readonly EngineCore core
    cdef native.Application* handle
    cdef readonly str name
    cdef readonly list models            # of ModelCore
    cdef readonly RowSpec input
    cdef readonly RowSpec output
    cdef readonly bint has_default
    cdef readonly object default
    cdef list _defaults                  # the default as a row of each output, or None
    cdef native.Nanos slo_ns
    cdef bint may_lead
    cdef public bint told_of_withdrawal  # of its canary
    cdef Judge judge                     # of outputs, by feedback
    cdef PolicyRunner runner             # of what is Python of the policy; None: nothing
    cdef JournalCore journal             # where its feedback is noted down; None: nowhere
    cdef list shadows                    # of ShadowCore
    cdef list stage_names                # in the order of the plan; empty: there is none

    cdef int ask(self, native.Asking* asking, object context, object deadline,
                 object priority, bint bypass_cache) except -1
    cdef native.Query* send(self, const native.ColumnRows* columns, Py_ssize_t count,
                            native.Asking* asking, object context) except NULL
    cdef str _collect(self, native.Query* query, native.Nanos held_ns, native.Outcome* outcome)
    cdef native.Nanos see_through(self, native.Query* query, native.Nanos until_ns,
                                  native.Nanos now_ns) except -1
    cdef native.Nanos _attend(self, native.Query* query) except -1
    cdef void _learn_wake_up(self, native.Query* query) noexcept
    cdef object answer(self, native.Query* query, native.Nanos held_ns)
    cdef Prediction collect_one(self, native.Query* query, native.Nanos held_ns,
                                native.Outcome* outcome)
    cdef object _outputs_of(self, native.Outcome* outcome, Py_ssize_t rows)
    cdef object take(self, native.Query* query, native.Nanos held_ns)
    cdef object take_many(self, native.Query* query, native.Nanos held_ns)
    cdef native.Batch* lead_at_turn_end(self, native.Deployment* deployment) except? NULL
    cdef object error_for(self, Prediction prediction, unsigned int error_id)


cdef void abandon(native.Engine* engine, native.Query* query) noexcept
cdef int refuse_recursion(native.Query* query) except -1
