from clipper._core cimport native
from clipper._core.rows cimport RowSpec


cdef class Turn:
    cdef native.Choice choices[32]       # read while the query is submitted
    cdef object state                    # a PolicyState; None: there was none to be had
    cdef str failure                     # what the policy did wrong; None: nothing


cdef class PolicyRunner:
    cdef readonly bint chooses           # a whole policy; else it only combines for one of the core
    cdef object select
    cdef object combine
    cdef object observe
    cdef tuple names
    cdef dict places                     # name → place among the application's models
    cdef RowSpec output
    cdef float min_confidence
    cdef object states                   # None where the core keeps them
    cdef dict turns                      # slot of an open query → its Turn
    cdef dict failures                   # method → how often
    cdef str last_failure

    cdef Turn choose(self, object context, native.Asking* asking)
    cdef Py_ssize_t _read_choice(self, object chosen, native.Choice* choices) except -1
    cdef Turn _turn_of(self, native.Query* query)
    cdef str collect(self, native.Engine* engine, const native.MonotonicClock* clock,
                     native.Query* query, native.Nanos held_ns, native.Outcome* outcome)
    cdef native.Cause _combine_row(self, native.Query* query, unsigned int row,
                                   const native.OutputLayout* layout, Turn turn) except *
    cdef native.Cause _write(self, object made, dict answers, native.Query* query,
                             unsigned int row, const native.OutputLayout* layout) except *
    cdef object learn(self, native.Learned* learned)
    cdef str _note(self, str method, object error)
