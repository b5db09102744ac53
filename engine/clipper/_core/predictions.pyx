"""What a caller gets: one prediction, or those of all rows of a call."""

cimport cython
cimport numpy as cnp
from libc.string cimport memcpy

from clipper._core cimport native
from clipper._core.serving cimport DeploymentCore, WHOLE_CALL

import types

import numpy as np

from clipper.errors import Cause

cnp.import_array()

cdef tuple _CAUSES = (None, *sorted(Cause, key=lambda cause: cause.value))
cdef object _SKIPPED = object()  # in place of a cause: the query's way did not lead there


cdef extern from *:
    """
    static inline void clipper_free_bytes(std::byte* data) { delete[] data; }
    """
    void clipper_free_bytes(native.Byte* data) noexcept


cdef object cause_of(native.Cause cause):
    if cause == native.kSkipped:
        return _SKIPPED
    return _CAUSES[<int>cause]


@cython.final
cdef class OutputMemory:
    """Outputs that were handed over by the core, freed with the last array over them."""

    def __dealloc__(self):
        clipper_free_bytes(self.data)


cdef object take_memory(native.OutputRows* holder):
    cdef OutputMemory memory = OutputMemory.__new__(OutputMemory)
    memory.data = holder.take()
    return memory


@cython.final
@cython.freelist(64)
@cython.no_gc  # nothing that it holds leads back to it
cdef class Prediction:
    """The answer to one query, and all that is known of how it came about.

    Attributes
    ----------
    output : ndarray, scalar, bytes or str; for several tensors a dict of those
        One row of the model's output, or the application's default.
    confidence : float
        Weighted share of agreement among the models asked, in [0, 1]; of a cascade what the model
        that answered says; 0 for a default.
    is_default : bool
        Whether the models did not answer.
    why : Cause or None
        Exactly why not; None if they did.
    """

    def __init__(self):
        raise TypeError("predictions are made by applications: call predict()")

    def __class_getitem__(cls, output):
        """``Prediction[float]``, for annotations: a prediction whose output is a float."""
        return types.GenericAlias(cls, output)

    cdef object keep(self, native.Outcome* outcome):
        """Take over the output's bytes. Cheap: a small array is made when somebody looks."""
        cdef OutputMemory memory
        if not self.spec.is_plain:
            self._output = self.spec.row_out(outcome.outputs, outcome.layout)
        elif outcome.holder.is_inline():
            memcpy(self._inline, outcome.holder.data(), 64)
        else:
            memory = take_memory(outcome.holder)
            array = self.spec.only.rows_over(memory.data, 1, memory)
            self._output = array[0]

    @property
    def output(self):
        if self._output is None:
            if self.is_default:
                return self._default if self._has_default else None
            self._output = self.spec.only.row_from(<const native.Byte*>self._inline)
        return self._output

    @property
    def why(self):
        return cause_of(self._cause)

    @property
    def latency(self):
        """Seconds from the call to the answer."""
        return self._latency_ns * 1e-9

    @property
    def latency_parts(self):
        """Seconds spent waiting for a batch (``queue``), and from its start on (``run``)."""
        queue_ns = min(self._queued_ns, self._latency_ns)
        if self._queued_ns == 0 and self.is_default:
            queue_ns = self._latency_ns  # it never ran
        return {"queue": queue_ns * 1e-9, "run": (self._latency_ns - queue_ns) * 1e-9}

    @property
    def query_id(self):
        """Opaque and unguessable name of the query, and of the row where it has several."""
        return self._engine.query_id(self._number, self._ticket, self._row)

    @property
    def models(self):
        """The models whose answers went into the output, or the stages that ran: name → version."""
        return {asked.name: asked.version for asked, why in self._all_asked() if why is None}

    @property
    def missing(self):
        """The models that were asked and did not answer: name → cause. Skipped stages were not."""
        return {asked.name: why for asked, why in self._all_asked() if why is not None}

    def _all_asked(self):
        if self._asked is None:
            return ()
        if isinstance(self._asked, tuple):
            return tuple([asked for asked in self._asked if asked[1] is not _SKIPPED])
        return ((self._asked, self.why),)

    def __repr__(self):
        if self.is_default:
            return f"Prediction(default {self.output!r}, why={self.why.name})"
        return f"Prediction({self.output!r}, confidence={self.confidence:.2f})"


@cython.final
cdef class Predictions:
    """The answers to all rows of one call, in their order. Indexing gives one ``Prediction``.

    Attributes
    ----------
    output : ndarray, shape (n, ...), Ragged, or list of bytes or str; for several a dict of those
        Rows that the models did not answer hold the default, or zeros if that is not a row.
    confidence : ndarray of float32, shape (n,)
    is_default : ndarray of bool, shape (n,)
    why : list of Cause or None
        One per row; None where the models answered.
    """

    def __init__(self):
        raise TypeError("predictions are made by applications: call predict_many()")

    @property
    def confidence(self):
        if self._confidence is None:
            self._confidence = np.ones(self._rows, np.float32)
        return self._confidence

    @property
    def is_default(self):
        if self._is_default is None:
            self._is_default = np.zeros(self._rows, bool)
        return self._is_default

    @property
    def why(self):
        if self._why is None:
            self._why = [None] * self._rows
        return self._why

    @property
    def latency(self):
        """Seconds from the call to the last answer."""
        return self._latency_ns * 1e-9

    @property
    def query_id(self):
        """Opaque and unguessable name of the query, for feedback on all of its rows."""
        return self._engine.query_id(self._number, self._ticket, WHOLE_CALL)

    def __len__(self):
        return self._rows

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        cdef Py_ssize_t row = range(len(self))[index]
        cdef Prediction one = Prediction.__new__(Prediction)
        why = self.why[row]
        one.spec = self.spec
        one.is_default = why is not None
        one._cause = <native.Cause><int>(0 if why is None else why.value)
        one._has_default = self._has_default
        one._default = self._default
        if not one.is_default:
            one._output = ({name: rows[row] for name, rows in self.output.items()}
                           if isinstance(self.output, dict) else self.output[row])
        one.confidence = self.confidence[row]
        one._latency_ns = self._latency_ns
        one._queued_ns = self._queued_ns
        one._asked = tuple([(asked, causes if causes is None else causes[row])
                            for asked, causes in self._asked])
        one._engine = self._engine
        one._number = self._number
        one._ticket = self._ticket
        one._row = row
        return one

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self):
        defaults = int(self.is_default.sum())
        return f"Predictions(n={len(self)}, defaults={defaults})"


cdef object asked_of(native.Query* query, unsigned int row):
    """The deployment asked, or for several the tuple of (deployment, cause or None)."""
    cdef native.Deployment* deployment
    if query.asks == 1:
        deployment = query.first_ask.deployment()
        return None if deployment == NULL else <DeploymentCore>deployment.owner
    return asked_each(query, row)


cdef tuple asked_each(native.Query* query, unsigned int row):
    """Every deployment asked, with its cause or None."""
    cdef native.Deployment* deployment
    asked = []
    for i in range(query.asks):
        deployment = query.ask(i).deployment()
        if deployment != NULL:
            asked.append((<DeploymentCore>deployment.owner, cause_of(query.ask(i).cause(row))))
    return tuple(asked)


cdef object asked_rows(native.Query* query, unsigned int index, bint all_answered):
    """One asked deployment with the causes of all rows, or None where all were answered.

    REQUIRES: the ask has a deployment.
    """
    cdef native.Deployment* deployment = query.ask(index).deployment()
    if all_answered:
        return (<DeploymentCore>deployment.owner, None)
    causes = [cause_of(query.ask(index).cause(row)) for row in range(query.rows)]
    return (<DeploymentCore>deployment.owner,
            causes if any(cause is not None for cause in causes) else None)


cdef list whys_of(native.Outcome* outcome, Py_ssize_t rows):
    cdef Py_ssize_t i
    if outcome.causes == NULL:
        return [cause_of(outcome.cause)] * rows
    return [cause_of(outcome.causes[i]) for i in range(rows)]


cdef object confidences_of(native.Outcome* outcome, Py_ssize_t rows):
    cdef Py_ssize_t i
    cdef cnp.ndarray made = np.ones(rows, np.float32)
    cdef float* values = <float*>cnp.PyArray_DATA(made)
    if outcome.confidences != NULL:
        for i in range(rows):
            values[i] = outcome.confidences[i]
    return made
