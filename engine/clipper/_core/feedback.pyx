"""Feedback: from predictions, ids and labels of Python to rows and losses of the core, and back.

The GIL is let go of once a call, for calls of several rows; only losses that are functions of
Python's run with it.
"""

cimport numpy as cnp
from libc.stdint cimport uint32_t
from libcpp.vector cimport vector

from clipper._core cimport native
from clipper._core.application cimport ApplicationCore
from clipper._core.judging cimport checked_loss
from clipper._core.predictions cimport Prediction, Predictions
from clipper._core.serving cimport WHOLE_CALL

import numpy as np

from clipper.feedback import FeedbackStatus

cnp.import_array()

cdef tuple _STATUSES = tuple(FeedbackStatus)
cdef Py_ssize_t _MOST_ASKS = 32
cdef double _PATIENCE = 10.0  # seconds
cdef int _MOST_REPEATS = 1000  # each lets the store serve some contexts at least


def feedback(ApplicationCore application, prediction, *, label=None, reward=None, loss=None):
    """Say how right an answer was; the policy learns from it, once a row.

    Parameters
    ----------
    prediction : Prediction or str
        What ``predict`` or its kin returned, or its ``query_id``.
    label : optional
        What would have been right: every model that answered is judged by it, as the
        application's loss says. A row of the output; an integer for the class where outputs are
        vectors of floats.
    reward, loss : float, optional
        In [0, 1], of the answer that was given; a reward is 1 - loss. It counts for the models
        whose output was the answer: the one asked, or those of an ensemble that agree with it.

    Returns
    -------
    FeedbackStatus
        What became of it: compare it with its members.

    Raises
    ------
    TypeError, ValueError
        If not exactly one of label, reward and loss is given, or it cannot be used, or the
        application takes no feedback. Nothing was learned.
    """
    cdef native.FeedbackStatus status = tell(application, prediction, label, reward, loss)
    confirm(application, &status, 1)
    return _STATUSES[<int>status]


def feedback_unconfirmed(ApplicationCore application, prediction, label, reward, loss):
    """As feedback, but do not wait until it lasts."""
    return _STATUSES[<int>tell(application, prediction, label, reward, loss)]


cdef native.FeedbackStatus tell(ApplicationCore application, object prediction, object label,
                                object reward, object loss) except *:
    cdef native.AnsweredRow row
    cdef native.Said said
    cdef native.Learned learned
    cdef native.ColumnRows columns[native.kMaxColumns]
    cdef native.FeedbackStatus status
    cdef Py_ssize_t count = 1
    cdef float value
    cdef float model_losses[32]
    check_takes_feedback(application)
    check_one_of("label", label, "reward", reward, "loss", loss)
    find_row(application, prediction, &row)
    if label is None:
        value = loss_of(reward, loss)
        said.losses = &value
    elif application.judge.function is not None:
        judge_by_function(application, &row, label, model_losses)
        said.model_losses = model_losses
    else:
        _holder = application.judge.read_labels(label, False, &said.labels, columns, &count)
    application.core.engine.get().feedback().take(
        application.handle[0], native.AnsweredRows(&row, 1), said, &status,
        make_room(application, &learned, 1))
    if status == native.FeedbackStatus.kRefused:
        repeat(application, native.AnsweredRows(&row, 1), &said, &status)
    learn(application, &learned)
    return status


cdef int repeat(ApplicationCore application, native.AnsweredRows rows, native.Said* said,
                native.FeedbackStatus* statuses) except -1:
    """Say again what was refused because too much waits for the store, once that was served.

    So whoever teaches faster than the store reads is slowed down, not turned away.
    """
    cdef size_t i
    cdef bint is_refused
    if application.journal is None:
        return 0
    for _ in range(_MOST_REPEATS):
        is_refused = False
        for i in range(rows.size()):
            is_refused |= statuses[i] == native.FeedbackStatus.kRefused
        if not is_refused or not application.journal.relieve():
            return 0
        application.core.engine.get().feedback().take_refused(
            application.handle[0], rows, said[0], statuses)
    return 0


cdef int confirm(ApplicationCore application, native.FeedbackStatus* statuses,
                 Py_ssize_t count) except -1:
    """Wait until what was applied lasts, and say so where it does not."""
    cdef Py_ssize_t applied = 0
    cdef Py_ssize_t i
    if application.journal is None:
        return 0
    for i in range(count):
        applied += statuses[i] == native.FeedbackStatus.kApplied
    if applied == 0 or application.journal.confirm():
        return 0
    application.handle.feedback.recount(
        native.FeedbackStatus.kApplied, native.FeedbackStatus.kUnsaved, applied)
    for i in range(count):
        if statuses[i] == native.FeedbackStatus.kApplied:
            statuses[i] = native.FeedbackStatus.kUnsaved
    return 0


def note_unsaved(ApplicationCore application):
    """Count one that was applied as one that does not last."""
    application.handle.feedback.recount(
        native.FeedbackStatus.kApplied, native.FeedbackStatus.kUnsaved, 1)


def feedback_many(ApplicationCore application, predictions, *, labels=None, rewards=None,
                  losses=None):
    """Say how right several answers were.

    Parameters
    ----------
    predictions : Predictions, str, or sequence of Prediction or str
        What ``predict_many`` returned, or its ``query_id``: one entry for each of its rows; or
        predictions and ids of any calls.
    labels, rewards, losses : array_like, length n
        One entry each, as for ``feedback``.

    Returns
    -------
    ndarray of uint8, shape (n,)
        Values of FeedbackStatus.

    Raises
    ------
    TypeError, ValueError
        As ``feedback``, also if the numbers of entries differ. Nothing was learned.
    """
    cdef native.Said said
    cdef native.ColumnRows columns[native.kMaxColumns]
    cdef vector[native.AnsweredRow] rows
    cdef native.Feedback* taker
    cdef native.Learned learned
    cdef native.Application* handle = application.handle
    cdef Py_ssize_t count = 0
    cdef Py_ssize_t i
    check_takes_feedback(application)
    check_one_of("labels", labels, "rewards", rewards, "losses", losses)
    given = labels if labels is not None else rewards if rewards is not None else losses
    find_rows(application, predictions, _length_of(given), &rows)
    if labels is None:
        _holder = losses_of(rewards, losses)
        count = len(_holder)
        said.losses = <const float*>cnp.PyArray_DATA(<cnp.ndarray>_holder)
    elif application.judge.function is not None:
        count = _length_of(labels)
        check_counts(rows.size(), count)
        _holder = np.empty((count, _MOST_ASKS), np.float32)
        for i in range(count):
            judge_by_function(application, &rows[i], _item_of(labels, i),
                              <float*>cnp.PyArray_DATA(<cnp.ndarray>_holder) + i * _MOST_ASKS)
        said.model_losses = <const float*>cnp.PyArray_DATA(<cnp.ndarray>_holder)
    else:
        _holder = application.judge.read_labels(labels, True, &said.labels, columns, &count)
    check_counts(rows.size(), count)
    statuses = np.empty(count, np.uint8)
    cdef native.FeedbackStatus* made = <native.FeedbackStatus*>cnp.PyArray_DATA(
        <cnp.ndarray>statuses)
    taker = &application.core.engine.get().feedback()
    cdef native.Learned* room = make_room(application, &learned, count)
    with nogil:
        taker.take(handle[0], native.AnsweredRows(rows.data(), rows.size()), said, made, room)
    repeat(application, native.AnsweredRows(rows.data(), rows.size()), &said, made)
    learn(application, &learned)
    confirm(application, made, count)
    return statuses


def feedback_for(ApplicationCore application, x, *, label, context=None, deadline=None):
    """Say what would have been right for an input, whether it was ever asked or not.

    Every linked model is asked, whatever the policy says, through its prediction cache if it has
    one; each that answers is judged.

    Parameters
    ----------
    x : array_like, shape of one input row; bytes or str; for several tensors a dict of those
    label
        As for ``feedback``.
    context : str, bytes, int, or tuple of those, optional
        Whose policy learns; the application's own if not given.
    deadline : float, optional
        Seconds that the models may take, 10 if not given; late ones are not judged.

    Returns
    -------
    FeedbackStatus
        ``APPLIED``, ``UNATTRIBUTED`` if no model answered, or ``REFUSED`` if there was no memory
        for what the context would learn.

    Raises
    ------
    TypeError, ValueError
        As ``feedback``, or if the input is not one row of what the models take.
    """
    cdef native.ColumnRows columns[native.kMaxColumns]
    check_takes_feedback(application)
    _holder = application.input.read_row(x, columns)
    return _STATUSES[ask_everyone(application, columns, 1, label, False, context, deadline)[0]]


def feedback_for_many(ApplicationCore application, xs, *, labels, context=None, deadline=None):
    """Say what would have been right for several inputs, all of one context.

    Parameters
    ----------
    xs : array_like, shape (n, ...); Ragged; list of rows; for several tensors a dict of those
    labels : array_like, length n
    context, deadline
        As for ``feedback_for``.

    Returns
    -------
    ndarray of uint8, shape (n,)
        Values of FeedbackStatus.

    Raises
    ------
    TypeError, ValueError
        As ``feedback_for``, also if there are not as many labels as rows.
    """
    cdef native.ColumnRows columns[native.kMaxColumns]
    cdef Py_ssize_t count = 0
    check_takes_feedback(application)
    _holder = application.input.read_rows(xs, columns, &count)
    if count == 0:
        raise ValueError("feedback_for_many was given no rows: it expects an array of shape "
                         "(n, ...) with n >= 1")
    return ask_everyone(application, columns, count, labels, True, context, deadline)


def feedback_statistics(ApplicationCore application, names):
    """Counters of an application's feedback; `names` of its models."""
    cdef native.FeedbackTally* tally = &application.handle.feedback
    counts = {status.name.lower(): tally.rows_by_status[<int>status.value].load()
              for status in FeedbackStatus}
    judged = {name: tally.models[i].judged.load() for i, name in enumerate(names)}
    return {
        **counts,
        "judged": judged,
        "mean_loss": {name: tally.models[i].loss.load() / judged[name] if judged[name] else None
                      for i, name in enumerate(names)},
    }


# ---- which rows --------------------------------------------------------------------------------


cdef int find_row(ApplicationCore application, object prediction,
                  native.AnsweredRow* row) except -1:
    """What names one row; one that nobody can know gets no ticket."""
    if isinstance(prediction, Prediction):
        row.row = (<Prediction>prediction)._row
        row.ticket = ((<Prediction>prediction)._ticket
                      if (<Prediction>prediction)._engine is application.core
                      else native.kNoTicket)
    elif isinstance(prediction, str):
        row.ticket, row.row = application.core.read_query_id(prediction)
        if row.row == WHOLE_CALL:
            raise ValueError("this id names all rows of a predict_many: use feedback_many with "
                             "one label a row, or the id of one of its predictions")
    elif isinstance(prediction, Predictions):
        raise TypeError("these are the predictions of several rows: use feedback_many with one "
                        "label a row, or give one of them")
    else:
        raise TypeError(f"the prediction is {type(prediction).__name__}: give a Prediction or its "
                        "query_id; for an input use feedback_for")
    return 0


cdef int find_rows(ApplicationCore application, object predictions, Py_ssize_t given,
                   vector[native.AnsweredRow]* rows) except -1:
    cdef native.AnsweredRow row
    cdef Py_ssize_t i
    cdef Predictions whole
    if isinstance(predictions, Predictions):
        whole = predictions
        given = len(whole)
        row.ticket = whole._ticket if whole._engine is application.core else native.kNoTicket
    elif isinstance(predictions, str):
        row.ticket, row.row = application.core.read_query_id(predictions)
        if row.ticket != native.kNoTicket and row.row != WHOLE_CALL:
            raise ValueError("this id names a single row: use feedback, or give a list")
    elif isinstance(predictions, Prediction) or not hasattr(predictions, "__iter__"):
        raise TypeError(f"predictions is {type(predictions).__name__}: give Predictions, or "
                        "several of Prediction or query_id")
    else:
        for prediction in predictions:
            find_row(application, prediction, &row)
            rows.push_back(row)
        return 0
    for i in range(given):
        row.row = <uint32_t>i
        rows.push_back(row)
    return 0


# ---- what is said of them ----------------------------------------------------------------------


cdef int check_takes_feedback(ApplicationCore application) except -1:
    application.core.check_usable()
    if not application.handle.keeps_records:
        raise ValueError(
            f"application {application.name!r} takes no feedback, as its policy learns nothing: "
            "create it with a policy that does, or with loss= to have its models judged")
    return 0


cdef int check_one_of(str a, object of_a, str b, object of_b, str c, object of_c) except -1:
    given = [name for name, value in ((a, of_a), (b, of_b), (c, of_c)) if value is not None]
    if len(given) != 1:
        raise ValueError(f"{' and '.join(given) or 'nothing'} was given: give exactly one of "
                         f"{a}, {b} and {c}")
    return 0


cdef int check_counts(size_t rows, Py_ssize_t given) except -1:
    if rows != <size_t>given:
        raise ValueError(f"{rows} rows were given, but feedback for {given}: give one "
                         "each")
    return 0


cdef float loss_of(object reward, object loss) except? -1:
    if loss is not None:
        return checked_loss(loss, "loss")
    return 1.0 - checked_loss(reward, "reward")


cdef object losses_of(object rewards, object losses):
    name = "losses" if rewards is None else "rewards"
    values = losses if rewards is None else rewards
    try:
        array = np.array(values, np.float32, ndmin=1, order="C")
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {values!r}: give numbers from 0 to 1") from None
    wrong = ~((array >= 0.0) & (array <= 1.0))
    if array.ndim != 1 or wrong.any():
        raise ValueError(f"{name} has shape {array.shape} and {array[wrong][:1]}: give one number "
                         "from 0 to 1 for each prediction")
    return array if rewards is None else np.float32(1.0) - array


cdef Py_ssize_t _length_of(object given) except -1:
    if isinstance(given, dict):
        given = next(iter(given.values()), ())
    try:
        return len(given)
    except TypeError:
        raise TypeError(f"{given!r} is not one entry for each prediction: give a list or an "
                        "array") from None


cdef object _item_of(object labels, Py_ssize_t place):
    if isinstance(labels, dict):
        return {name: values[place] for name, values in labels.items()}
    return labels[place]


cdef int judge_by_function(ApplicationCore application, native.AnsweredRow* row, object label,
                           float* model_losses) except -1:
    """Call the application's loss function for each output of a row.

    Works on copies: the function may do anything, and records must not be kept from going.
    """
    cdef native.OutputCopies copies
    cdef native.FeedbackStatus status = application.core.engine.get().feedback().look(
        application.handle[0], row[0], copies)
    if status == native.FeedbackStatus.kExpired:
        row.ticket = native.kNotKept
    if status != native.FeedbackStatus.kApplied:
        return 0  # take() says why
    for i in range(copies.asks()):
        if copies.output(i) != NULL:
            model_losses[i] = application.judge.by_function(
                copies.output(i), copies.layout(), label)
    return 0


# ---- policies of Python -----------------------------------------------------------------------


cdef native.Learned* make_room(ApplicationCore application, native.Learned* learned,
                               size_t rows) except? NULL:
    """Where the core notes what a policy of Python shall observe; NULL: there is none."""
    if application.runner is None or not application.runner.chooses:
        return NULL
    learned.reserve(rows, len(application.models))
    return learned


cdef object learn(ApplicationCore application, native.Learned* learned):
    if application.runner is not None and application.runner.chooses:
        application.runner.learn(learned)


# ---- every model's answer ----------------------------------------------------------------------


cdef object ask_everyone(ApplicationCore application, native.ColumnRows* inputs, Py_ssize_t rows,
                         object labels, bint many, object context, object deadline):
    """Ask all models and judge them: an array of FeedbackStatus."""
    cdef native.Asking asking
    cdef native.Said said
    cdef native.ColumnRows columns[native.kMaxColumns]
    cdef native.Query* query
    cdef native.Learned learned
    cdef Py_ssize_t count = 1
    if application.judge.function is not None:
        count = _length_of(labels) if many else 1
    else:
        _holder = application.judge.read_labels(labels, many, &said.labels, columns, &count)
    check_counts(rows, count)
    application.ask(&asking, context, _PATIENCE if deadline is None else deadline, None, False)
    asking.everyone = True
    asking.attended = True
    asking.will_lead = application.may_lead
    query = application.core.submit(application.handle, inputs, rows, &asking)
    application._attend(query)
    statuses = np.empty(rows, np.uint8)
    cdef native.FeedbackStatus* made = <native.FeedbackStatus*>cnp.PyArray_DATA(
        <cnp.ndarray>statuses)
    cdef native.Learned* room
    try:
        application.core.engine.get().collect_answers(query[0])
        if application.judge.function is not None:
            _holder = judge_answers(application, query, labels, many)
            said.model_losses = <const float*>cnp.PyArray_DATA(<cnp.ndarray>_holder)
        room = make_room(application, &learned, rows)
        with nogil:
            native.Feedback.take_answers(application.handle[0], query[0], said, made, room)
    finally:
        application.core.engine.get().release(query[0])
    learn(application, &learned)
    confirm(application, made, rows)
    return statuses


cdef object judge_answers(ApplicationCore application, native.Query* query, object labels,
                          bint many):
    """Call the application's loss function for each output of a query's rows."""
    cdef native.Deployment* deployment
    cdef const native.OutputLayout* layout
    cdef Py_ssize_t i
    cdef uint32_t row
    cdef cnp.ndarray made = np.empty((query.rows, _MOST_ASKS), np.float32)
    cdef float* values = <float*>cnp.PyArray_DATA(made)
    for row in range(query.rows):
        label = _item_of(labels, row) if many else labels
        for i in range(query.asks):
            if query.ask(i).cause(row) == native.Cause.kNone:
                deployment = query.ask(i).deployment()
                layout = &deployment.output_layout()
                values[row * _MOST_ASKS + i] = application.judge.by_function(
                    query.ask(i).outputs().data() + row * layout.row_bytes(), layout, label)
    return made
