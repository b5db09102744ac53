"""Applications in the hot path: ask, wait or lead, take the answer."""

cimport cython
from libc.stdint cimport uint64_t
from libcpp.memory cimport unique_ptr
from libcpp.string cimport string
from libcpp.utility cimport move
from libcpp.vector cimport vector

from clipper._core cimport native
from clipper._core.arguments cimport nanoseconds, priority_of
from clipper._core.contexts cimport context_hash, describe_contexts
from clipper._core.judging cimport Judge
from clipper._core.plans cimport make_plan
from clipper._core.predictions cimport (
    Prediction, Predictions, asked_each, asked_of, asked_rows, confidences_of, take_memory, whys_of,
)
from clipper._core.python_policy cimport PolicyRunner, Turn
from clipper._core.rows cimport RowSpec
from clipper._core.serving cimport DeploymentCore, EngineCore, run_batch

import numpy as np

from clipper.errors import PREDICTION_ERRORS, Cause, RecursionRefusedError

# A caller that blocks runs a batch itself up to a tenth of its time, and up to this bound in any
# case; longer ones are left to the replica's thread.
cdef native.Nanos _LEAD_LIMIT_NS = 2_000_000
cdef native.Nanos _LEAD_LIMIT_BEST_EFFORT_NS = 50_000_000
cdef native.Nanos _STILL_WAITING = 0  # what see_through returns instead of a time


@cython.final
cdef class ModelCore:
    """A model by name: which deployment answers now."""

    cdef native.Model* handle
    cdef readonly EngineCore core
    cdef readonly DeploymentCore current

    def __cinit__(self, EngineCore core, str name):
        self.core = core
        self.handle = &core.engine.get().add_model(name.encode())

    def switch(self, DeploymentCore deployment):
        """Let another deployment answer from now on (None: nobody); returns the one before."""
        before = self.current
        self.current = deployment
        if deployment is None:
            self.handle.set_current(NULL)
        else:
            self.handle.set_current(deployment.handle)
        return before


cdef unique_ptr[native.Policy] make_policy(object policy, RowSpec output) except *:
    cdef unique_ptr[native.Policy] made
    cdef vector[double] weights
    cdef native.CanaryOptions canary
    if policy is None:
        return move(made)
    kind, value = policy.to_core()
    if kind == "weighted_split":
        weights = value
        made.reset(new native.WeightedSplit(weights))
    elif kind == "majority_vote":
        made.reset(new native.MajorityVote())
    elif kind == "weighted_ensemble":
        weights = value["weights"]
        made.reset(new native.WeightedEnsemble(
            weights, native.Ballot(output.to_native(), value["takes_mean"])))
    elif kind == "epsilon_greedy":
        made.reset(new native.EpsilonGreedy(
            value["epsilon"], value["memory"], value["failure_loss"]))
    elif kind == "ucb1":
        made.reset(new native.Ucb1(value["memory"], value["failure_loss"]))
    elif kind == "thompson":
        made.reset(new native.Thompson(value["memory"], value["failure_loss"]))
    elif kind == "exp3":
        made.reset(new native.Exp3(
            value["eta"], value["gamma"], value["floor"], value["failure_loss"]))
    elif kind == "exp4":
        made.reset(new native.Exp4(
            value["eta"], value["floor"], native.Ballot(output.to_native(), value["takes_mean"]),
            value["failure_loss"]))
    elif kind == "by_caller":
        made.reset(new native.ByCaller())
    elif kind == "canary":
        canary.model = value["model"]
        canary.share = value["share"]
        canary.min_count = value["min_count"]
        canary.z = value["z"]
        made.reset(new native.Canary(canary))
    else:
        raise ValueError(f"unknown policy {kind!r}")
    return move(made)


@cython.final
cdef class ShadowCore:
    """A model in the shadow of an application."""

    def describe(self):
        """Rows that it answered and how they compare; times in seconds."""
        cdef native.Application* asks = &self.handle.asks
        errors = {cause.name.lower(): asks.rows_by_cause[<int>cause.value].load()
                  for cause in Cause}
        compared = self.handle.compared.load()
        agreed = self.handle.agreed.load()
        return {
            "answered": asks.rows_by_cause[0].load(),
            "causes": {name: count for name, count in errors.items() if count},
            "not_asked": self.handle.not_asked.load(),
            "compared": compared,
            "agreed": agreed,
            "agreement": agreed / compared if compared else None,
            "latency": latency_of(asks),
        }


cdef dict latency_of(native.Application* application):
    cdef native.HistogramSnapshot latency = application.latency_ns.snapshot()
    return {"p50": latency.quantile_ns(0.5) * 1e-9, "p99": latency.quantile_ns(0.99) * 1e-9,
            "p999": latency.quantile_ns(0.999) * 1e-9, "max": latency.max_ns() * 1e-9}


cdef class ApplicationCore:
    """What ``clipper.Application`` is made of."""

    def __init__(self, EngineCore core, str name, models, RowSpec input, RowSpec output, *,
                 policy, slo, has_default, default, min_confidence, priority=0,
                 size_t context_bytes=native.kDefaultContextBytes, plan=None,
                 policy_states=None):
        cdef vector[native.Model*] linked
        cdef unique_ptr[native.Policy] chooser = make_policy(policy, output)
        cdef unique_ptr[const native.Plan] stages = make_plan(plan)
        for model in models:
            linked.push_back((<ModelCore?>model).handle)
        self.core = core
        self.name = name
        self.models = list(models)
        self.shadows = []
        self.input = input
        self.output = output
        self.has_default = has_default
        self.default = default
        self._defaults = output.defaults_of(default if has_default else None)
        self.slo_ns = native.kNever if slo is None else nanoseconds(slo, "slo")
        self.stage_names = [] if plan is None else [stage.name for stage in plan.stages]
        self.may_lead = len(models) == 1 or plan is not None or policy.asks_one
        cdef string native_name = name.encode()
        self.handle = &core.engine.get().add_application(
            native_name, linked, move(chooser), self.slo_ns, min_confidence or 0.0,
            priority_of(priority), context_bytes, move(stages))
        if policy_states is not None:
            own_policy, names, states = policy_states
            self.runner = PolicyRunner(own_policy, names, output, states, min_confidence or 0.0)
            self.handle.keeps_records = self.handle.keeps_records or states is not None
        if policy is not None:
            self.handle.fewest_asks = policy.fewest_under_load or 0
        if native.canary_of(self.handle[0]) != NULL:
            self.core.alarmed.add(self)
        self.set_loss(None)

    def add_shadow(self, ModelCore model, str name):
        """Ask this model too, for comparison only. Before serving only."""
        cdef ShadowCore shadow = ShadowCore.__new__(ShadowCore)
        shadow.name = name
        shadow.handle = &self.core.engine.get().add_shadow(
            self.handle[0], model.handle[0], self.output.to_native())
        self.shadows.append(shadow)

    def set_loss(self, loss):
        """Judge outputs by a clipper.Loss or a function; None: zero-one. Before serving only."""
        self.judge = Judge(self.output, loss)
        self.handle.loss = self.judge.loss
        # Who names a loss wants models judged, whether the policy learns or not.
        self.handle.keeps_records = self.handle.keeps_records or loss is not None

    @property
    def priority(self):
        """How urgent its queries are unless they say otherwise, -3 to 3; larger goes first."""
        return self.handle.priority

    def predict(self, x, *, context=None, deadline=None, priority=None, bypass_cache=False):
        """Ask for one prediction, and wait for it.

        Parameters
        ----------
        x : array_like, shape of one input row; bytes or str; for several tensors a dict of those
            An array must have the model's dtype; numbers and lists are converted.
        context : str, bytes, int or tuple of those, optional
            Whose query this is: the policy may learn for each context by itself.
        deadline : float, optional
            Seconds from now by which the answer must be held; the application's SLO if not given.
        priority : int, optional
            From -3 to 3, larger is more urgent; the application's if not given.
        bypass_cache : bool, default False
            Have it evaluated even where the answer is known, and do not keep it.

        Returns
        -------
        Prediction

        Raises
        ------
        TypeError, ValueError
            If the input is not one row of what the model takes, or another argument cannot be used.
        PredictionError
            If no answer came and the application has no default: the subclass says why.
        """
        cdef native.Asking asking
        cdef native.ColumnRows columns[native.kMaxColumns]
        _holder = self.input.read_row(x, columns)
        self.ask(&asking, context, deadline, priority, bypass_cache)
        asking.will_lead = self.may_lead
        asking.attended = True
        cdef native.Query* query = self.send(columns, 1, &asking, context)
        return self.take(query, self._attend(query))

    def predict_many(self, xs, *, context=None, deadline=None, priority=None,
                     bypass_cache=False):
        """Ask for the predictions of several rows, which are kept together, and wait for all.

        Parameters
        ----------
        xs : array_like, shape (n, ...); Ragged; list of rows; for several tensors a dict of those
            n rows, n >= 1.
        context, deadline, priority, bypass_cache
            As for ``predict``.

        Returns
        -------
        Predictions
            One for each row, in order. Rows without an answer are defaults; nothing is raised for
            causes of serving.

        Raises
        ------
        TypeError, ValueError
            If the input is not rows of what the model takes.
        """
        cdef native.Asking asking
        cdef native.ColumnRows columns[native.kMaxColumns]
        cdef Py_ssize_t count = 0
        _holder = self.input.read_rows(xs, columns, &count)
        if count == 0:
            raise ValueError("predict_many was given no rows: it expects an array of shape "
                             "(n, ...) with n >= 1")
        self.ask(&asking, context, deadline, priority, bypass_cache)
        asking.will_lead = self.may_lead
        asking.attended = True
        cdef native.Query* query = self.send(columns, count, &asking, context)
        return self.take_many(query, self._attend(query))

    cdef int ask(self, native.Asking* asking, object context, object deadline,
                 object priority, bint bypass_cache) except -1:
        asking.bypass_cache = bypass_cache
        asking.budget_ns = self.slo_ns if deadline is None else nanoseconds(deadline, "deadline")
        if context is not None:
            asking.context = context_hash(context)
            asking.has_context = True
        if priority is not None:
            asking.priority = priority_of(priority)
        return 0

    cdef native.Query* send(self, const native.ColumnRows* columns, Py_ssize_t count,
                            native.Asking* asking, object context) except NULL:
        """Submit rows, to whom a policy of Python chooses if there is one."""
        cdef Turn turn
        cdef native.Query* query
        if self.runner is None or not self.runner.chooses:
            return self.core.submit(self.handle, columns, count, asking)
        self.core.check_usable()  # before the policy's turn
        asking.arrived_ns = self.core.clock.now_ns()  # what the policy takes is the query's time
        turn = self.runner.choose(context, asking)
        query = self.core.submit(self.handle, columns, count, asking)
        # One that is abandoned leaves its turn here, until another query has the slot.
        self.runner.turns[query.slot] = turn
        return query

    cdef str _collect(self, native.Query* query, native.Nanos held_ns, native.Outcome* outcome):
        """Collect a query; returns what a policy of Python did wrong, or None."""
        if self.runner is not None:
            return self.runner.collect(
                self.core.engine.get(), &self.core.clock, query, held_ns, outcome)
        self.core.engine.get().collect(query[0], held_ns, outcome[0])
        return None

    cdef native.Nanos _attend(self, native.Query* query) except -1:
        """See an attended query through to its deadline; withdraws it if that raises."""
        cdef native.Nanos held_ns
        try:
            held_ns = self.see_through(
                query, query.answer_by_ns,
                query.arrived_ns if self.runner is None else self.core.clock.now_ns())
        except BaseException:
            abandon(self.core.engine.get(), query)
            self.core.engine.get().release(query[0])
            raise
        if held_ns == _STILL_WAITING:
            self.core.engine.get().withdraw(query[0], native.Cause.kDeadline)
            held_ns = self.core.clock.now_ns()
        return held_ns

    cdef native.Nanos see_through(self, native.Query* query, native.Nanos until_ns,
                                  native.Nanos now_ns) except -1:
        """Lead, or wait, until the query is done: when that was noticed; at `until_ns`: 0."""
        cdef native.Engine* engine = self.core.engine.get()
        cdef native.MonotonicClock* clock = &self.core.clock
        cdef native.Batch* batch
        cdef native.WaitResult result
        if query.is_done():
            return self.core.clock.now_ns()
        refuse_recursion(query)
        if self.may_lead:
            batch = engine.lead(query[0], now_ns, lead_limit_ns(query))
            while batch != NULL:
                now_ns = run_batch(self.core, batch)
                if query.is_done():
                    return now_ns
                batch = engine.lead_next_stage(query[0], now_ns, lead_limit_ns(query))
        while True:
            with nogil:
                result = engine.wait(query[0], until_ns)
                now_ns = clock.now_ns()
            if result == native.WaitResult.kDone:
                self._learn_wake_up(query)
                return now_ns
            if result == native.WaitResult.kTimedOut:
                return _STILL_WAITING
            # A signal came. The GIL is ours again: coming round lets its Python handler run.
            check_signals()

    cdef native.Batch* lead_at_turn_end(self, native.Deployment* deployment) except? NULL:
        """The batch that an event loop should run at its turn's end; NULL: none, or too long."""
        if deployment.waiting_rows() == 0:
            return NULL
        return self.core.engine.get().lead_at_turn_end(
            deployment[0], self.handle.inline_limit_ns())

    cdef void _learn_wake_up(self, native.Query* query) noexcept:
        # From the end of the batch to here, with the GIL: what a deadline must leave room for.
        self.core.engine.get().reserve().observe(
            self.core.clock.now_ns() - done_ns(query[0]))

    cdef object take(self, native.Query* query, native.Nanos held_ns):
        """Collect and release a query of one row."""
        try:
            return self.answer(query, held_ns)
        finally:
            self.core.engine.get().release(query[0])

    cdef object answer(self, native.Query* query, native.Nanos held_ns):
        """Collect a query of one row; raises if there is neither answer nor default."""
        cdef native.Outcome outcome
        cdef Prediction made = self.collect_one(query, held_ns, &outcome)
        if made.is_default and not self.has_default:
            raise self.error_for(made, outcome.error_id)
        return made

    cdef Prediction collect_one(self, native.Query* query, native.Nanos held_ns,
                                native.Outcome* outcome):
        cdef Prediction made = Prediction.__new__(Prediction)
        failure = self._collect(query, held_ns, outcome)
        made.spec = self.output
        made._engine = self.core
        made._number = (<unsigned long long>query.generation << 32) | query.slot
        made._ticket = outcome.ticket
        made._latency_ns = outcome.latency_ns
        made._queued_ns = outcome.queued_ns
        made._cause = outcome.cause
        made._has_default = self.has_default
        made._failure = failure
        made._asked = asked_of(query, 0) if self.runner is None else asked_each(query, 0)
        if outcome.cause == native.Cause.kNone:
            made.confidence = outcome.confidence
            made.keep(outcome)
        else:
            made.is_default = True
            made._default = self.default
        return made

    cdef object take_many(self, native.Query* query, native.Nanos held_ns):
        """Collect a query of several rows."""
        cdef native.Outcome outcome
        cdef Predictions made = Predictions.__new__(Predictions)
        cdef uint64_t rows = query.rows
        try:
            self._collect(query, held_ns, &outcome)
            made._rows = rows
            made.output = self._outputs_of(&outcome, rows)
            if not outcome.all_answered:
                made._why = whys_of(&outcome, rows)
            if not outcome.all_answered or outcome.confidences != NULL:
                made._confidence = confidences_of(&outcome, rows)
            made._asked = [asked_rows(query, i, outcome.all_answered and query.asks == 1)
                           for i in range(query.asks) if query.ask(i).deployment() != NULL]
        finally:
            made._number = (<unsigned long long>query.generation << 32) | query.slot
            made._ticket = outcome.ticket
            self.core.engine.get().release(query[0])
        if not outcome.all_answered:
            made._is_default = np.array([cause is not None for cause in made._why], bool)
            made._confidence[made._is_default] = 0.0
        if not outcome.all_answered or not self.output.is_plain:
            made.output = self.output.finish_rows(
                made.output, made._is_default, self._defaults)
        made._has_default = self.has_default
        made._default = self.default
        made._latency_ns = outcome.latency_ns
        made._queued_ns = outcome.queued_ns
        made._engine = self.core
        made.spec = self.output
        return made

    cdef object _outputs_of(self, native.Outcome* outcome, Py_ssize_t rows):
        """The rows of a query; those without an answer hold anything."""
        if outcome.layout == NULL or not self.output.is_plain:
            return self.output.rows_out(outcome.outputs, outcome.layout, rows)
        if outcome.holder.is_inline():
            return self.output.only.rows_from(outcome.outputs, rows)
        return self.output.only.rows_over(outcome.outputs, rows, take_memory(outcome.holder))

    cdef object error_for(self, Prediction prediction, unsigned int error_id):
        """The exception that says why there is no answer."""
        why = prediction.why
        message = _MESSAGES[why].format(app=self.name, latency=prediction.latency * 1e3)
        missing = ", ".join(f"{name} ({cause.name.lower()})"
                            for name, cause in prediction.missing.items())
        if missing:
            message += f"; missing: {missing}"
        if why is Cause.MODEL_ERROR and prediction._failure is not None:
            message = f"{self.name}: {prediction._failure}"
        elif why in (Cause.MODEL_ERROR, Cause.CRASH) and error_id:
            for asked, cause in prediction._all_asked():
                text = asked.error_text(error_id)
                if cause is not None and text is not None:
                    message += f": {text}"
        return PREDICTION_ERRORS[why](message, prediction)

    def statistics(self):
        """Counters of this application; times in seconds."""
        causes = {cause.name.lower(): self.handle.rows_by_cause[<int>cause.value].load()
                  for cause in Cause}
        answered = self.handle.rows_by_cause[0].load()
        stages = {name: {"ran": self.handle.counts_of(i).ran.load(),
                         "skipped": self.handle.counts_of(i).skipped.load(),
                         "failed": self.handle.counts_of(i).failed.load()}
                  for i, name in enumerate(self.stage_names)}
        return {
            **({"stages": stages} if stages else {}),
            "rows": answered + sum(causes.values()),
            "answered": answered,
            "in_time": self.handle.rows_in_time.load(),
            "causes": {name: count for name, count in causes.items() if count},
            "latency": latency_of(self.handle),
            "contexts": describe_contexts(self.handle.contexts),
            **({"shadows": {shadow.name: shadow.describe() for shadow in self.shadows}}
               if self.shadows else {}),
            **({} if self.runner is None else self.runner.describe()),
        }


cdef dict _MESSAGES = {
    Cause.DEADLINE: "{app}: no answer within the deadline ({latency:.1f} ms)",
    Cause.OVERLOAD: "{app}: refused, because it could not be answered in time: slow down, add "
                    "replicas, or allow more time",
    Cause.CRASH: "{app}: the replica that ran the query died",
    Cause.MODEL_ERROR: "{app}: the model failed",
    Cause.NO_REPLICA: "{app}: no model is deployed that could answer",
    Cause.LOW_CONFIDENCE: "{app}: the models agree too little, or no condition led to an answer",
    Cause.CANCELLED: "{app}: withdrawn before it was answered",
}


cdef extern from *:
    """
    static inline clipper::Nanos clipper_done_ns(const clipper::Query& query) {
      return query.done_ns.load(std::memory_order_relaxed);
    }
    """
    native.Nanos done_ns "clipper_done_ns"(const native.Query& query) noexcept


cdef void abandon(native.Engine* engine, native.Query* query) noexcept:
    """End and collect a query that nobody wants any more; it must still be released."""
    cdef native.Outcome outcome
    engine.withdraw(query[0], native.Cause.kCancelled)
    collect_quietly(engine[0], query[0], outcome)


cdef extern from *:
    """
    static inline void clipper_collect_quietly(clipper::Engine& engine, clipper::Query& query,
                                               clipper::Outcome& outcome) noexcept {
      try { engine.collect(query, 0, outcome); } catch (...) {}  // nobody will look at it
    }
    """
    void collect_quietly "clipper_collect_quietly"(native.Engine& engine, native.Query& query,
                                                   native.Outcome& outcome) noexcept


cdef extern from "Python.h":
    int check_signals "PyErr_CheckSignals"() except -1


cdef native.Nanos lead_limit_ns(native.Query* query) noexcept:
    if query.deadline_ns == native.kNever:
        return _LEAD_LIMIT_BEST_EFFORT_NS
    return max(_LEAD_LIMIT_NS, (query.deadline_ns - query.arrived_ns) // 10)


cdef int refuse_recursion(native.Query* query) except -1:
    cdef native.Deployment* deployment
    for i in range(query.asks):
        deployment = query.ask(i).deployment()
        if deployment != NULL and native.Engine.is_driving(deployment[0]):
            name = (<DeploymentCore>deployment.owner).name
            raise RecursionRefusedError(
                f"model {name!r} asked itself while it ran a batch, which would wait for itself: "
                "call the model's function directly instead")
    return 0
