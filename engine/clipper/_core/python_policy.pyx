"""Policies of Python: asked before a query is submitted, and what they make of its answers.

The core calls nobody. Whoever submits asks the policy first, and the core takes the choice; whoever
collects lets the policy combine, and writes the answer where the core would have. What combines for
a policy of the core comes the second half of this way.
"""

cimport cython

from libcpp.vector cimport vector

from clipper._core cimport native
from clipper._core.rows cimport RowSpec

from collections.abc import Mapping
import logging

import numpy as np

from clipper.policies.policy_states import PolicyState
from clipper.policies.python_policy import Observation
from clipper.seldom import SeldomLog

_failure_log = SeldomLog(logging.getLogger("clipper"))


@cython.final
@cython.freelist(64)
cdef class Turn:
    """What a query's policy remembers from choosing to combining."""


@cython.final
cdef class PolicyRunner:
    """Calls one application's policy. `states` gives the state of each context.

    Without `states` it has a ``combine`` only, which is told what each model weighs.
    """

    def __init__(self, policy, names, RowSpec output, states, min_confidence):
        self.chooses = states is not None
        if self.chooses:
            self.select = policy.select
            self.observe = policy.observe
        self.combine = policy.combine
        self.names = tuple(names)
        self.places = {name: place for place, name in enumerate(self.names)}
        self.output = output
        self.min_confidence = min_confidence
        self.states = states
        self.turns = {}
        self.failures = ({"select": 0, "combine": 0, "observe": 0} if self.chooses
                         else {"combine": 0})

    # ---- choosing --------------------------------------------------------------------------------

    cdef Turn choose(self, object context, native.Asking* asking):
        """Let the policy choose for a query that is about to be submitted."""
        cdef Turn turn = Turn.__new__(Turn)
        cdef Py_ssize_t count
        try:
            turn.state = self.states.of(asking.context if asking.has_context else None)
            with turn.state.lock:
                chosen = self.select(self.names, context, turn.state.value)
            count = self._read_choice(chosen, turn.choices)
        except Exception as error:
            turn.failure = self._note("select", error)
            asking.unasked = native.Cause.kModelError
            return turn
        asking.chosen = native.Choices(turn.choices, count)
        if count > 1:  # drivers are woken for all of them
            asking.will_lead = asking.may_lead = False
        return turn

    cdef Py_ssize_t _read_choice(self, object chosen, native.Choice* choices) except -1:
        cdef Py_ssize_t count = 0
        cdef unsigned int seen = 0
        cdef int place
        cdef double propensity
        if isinstance(chosen, str):
            chosen = (chosen,)
        if chosen is None:
            raise TypeError("it returned None: give a model's name, several, or a dict from name "
                            "to how probable it was that it would be asked")
        is_weighted = not isinstance(chosen, (tuple, list)) and isinstance(chosen, Mapping)
        for name in chosen:
            if name not in self.places:
                raise ValueError(f"it chose {name!r}, but the application links "
                                 f"{', '.join(map(repr, self.names))}")
            place = self.places[name]
            if seen >> place & 1:
                raise ValueError(f"it chose {name!r} twice: name each model once")
            seen |= 1u << place
            propensity = chosen[name] if is_weighted else 1.0
            if not 0.0 < propensity <= 1.0:
                raise ValueError(f"it chose {name!r} with probability {propensity!r}: give a "
                                 "number above 0, up to 1")
            choices[count].model = place
            choices[count].propensity = <float>propensity
            count += 1
        if count == 0:
            raise ValueError("it chose no model: give one at least")
        return count

    # ---- combining -------------------------------------------------------------------------------

    cdef Turn _turn_of(self, native.Query* query):
        """A turn for a query for which the core chose: its state is what each model weighs."""
        cdef Turn turn = Turn.__new__(Turn)
        cdef vector[native.Standing] standings = native.standings_of_query(query[0])
        turn.state = PolicyState(
            {name: standings[place].weight for place, name in enumerate(self.names)})
        return turn

    cdef str collect(self, native.Engine* engine, const native.MonotonicClock* clock,
                     native.Query* query, native.Nanos held_ns, native.Outcome* outcome):
        """Collect a query of this policy; returns what the policy did wrong, or None."""
        cdef Turn turn = self.turns.pop(query.slot) if self.chooses else self._turn_of(query)
        cdef unsigned int row
        cdef native.Cause* causes
        engine.collect_answers(query[0])
        cdef const native.OutputLayout* layout = engine.open_combined(query[0])
        causes = query.combined_causes.get()
        for row in range(query.rows):
            causes[row] = native.Cause.kModelError
        try:
            for row in range(query.rows):
                causes[row] = self._combine_row(query, row, layout, turn)
        finally:  # an interrupt may come while the policy runs: the query is counted all the same
            engine.close_combined(
                query[0], held_ns if held_ns == 0 else clock.now_ns(), outcome[0])
        return turn.failure

    cdef native.Cause _combine_row(self, native.Query* query, unsigned int row,
                                   const native.OutputLayout* layout, Turn turn) except *:
        cdef native.Cause why = native.Cause.kNone
        cdef native.Cause cause
        cdef bint is_answered = False
        cdef dict answers = {}
        for i in range(query.asks):
            cause = query.ask(i).cause(row)
            output = None
            if cause == native.Cause.kNone:
                is_answered = True
                output = self.output.row_out(
                    query.ask(i).outputs().data() + row * layout.row_bytes(), layout)
            elif why == native.Cause.kNone:
                why = cause
            answers[self.names[query.ask(i).model_index()]] = output
        if not is_answered:
            return why
        try:
            with turn.state.lock:
                made = self.combine(answers, turn.state.value)
            if made is None:
                return native.Cause.kLowConfidence if why == native.Cause.kNone else why
            return self._write(made, answers, query, row, layout)
        except Exception as error:
            turn.failure = self._note("combine", error)
            return native.Cause.kModelError

    cdef native.Cause _write(self, object made, dict answers, native.Query* query,
                             unsigned int row, const native.OutputLayout* layout) except *:
        cdef native.ColumnRows columns[native.kMaxColumns]
        cdef native.Byte* to = query.combined.data() + row * layout.row_bytes()
        cdef bint is_written = False
        cdef double confidence
        if not isinstance(made, tuple) or len(made) != 2:
            raise TypeError(f"it returned {made!r}: give a tuple of output and confidence, or None "
                            "where no answer can be made")
        confidence = made[1]
        if not 0.0 <= confidence <= 1.0:
            raise ValueError(f"it returned a confidence of {made[1]!r}: give a number from 0 to 1")
        output = made[0]
        # Mostly it is one of the answers. What cannot have been changed is copied as it was.
        if isinstance(output, (np.generic, str, bytes)):
            for i, answer in enumerate(answers.values()):
                if answer is output:
                    if not layout.copy(query.ask(i).outputs().data() + row * layout.row_bytes(),
                                       to):
                        return native.Cause.kOverload
                    is_written = True
                    break
        if not is_written:
            try:
                _holder = self.output.read_row(output, columns)
            except (TypeError, ValueError) as error:
                text = str(error).replace("the input", "its output")
                raise type(error)(text.replace("expects", "answers with")) from None
            if not layout.write(to, columns, 0, 1):
                return native.Cause.kOverload
        query.confidences.get()[row] = <float>confidence
        if <float>confidence < self.min_confidence:
            return native.Cause.kLowConfidence
        return native.Cause.kNone

    # ---- learning --------------------------------------------------------------------------------

    cdef object learn(self, native.Learned* learned):
        """Let the policy observe what feedback has just been applied, one row after the other."""
        cdef native.LearnedRow row
        cdef native.Observation* seen
        for i in range(learned.rows.size()):
            row = learned.rows[i]
            observations = []
            for k in range(row.first, row.first + row.count):
                seen = &learned.observations[k]
                observations.append(
                    Observation(self.names[seen.model], seen.loss, seen.propensity))
            try:
                state = self.states.of(row.context if row.has_context else None)
                with state.lock:
                    self.observe(observations, state.value)
            except Exception as error:
                self._note("observe", error)

    cdef str _note(self, str method, object error):
        """Count and log what went wrong; the text for those who get no answer."""
        self.failures[method] += 1
        self.last_failure = f"the policy's {method} failed: {type(error).__name__}: {error}"
        _failure_log.exception("a policy's %s failed", method)
        return self.last_failure

    def describe(self):
        """What the policy did wrong, and what is kept for contexts."""
        return {"policy_failures": {**self.failures, "last": self.last_failure},
                **({"contexts": self.states.describe()} if self.chooses else {})}
