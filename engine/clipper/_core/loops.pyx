"""Predictions in event loops: rows of one turn run together at its end, on the loop's own thread.

Batches that are too long for that go to the replica's thread; their completions come back through
an eventfd that the loop reads.

Both ends are callbacks of the loop, where nothing else runs: from there the callbacks of an answer
are called as they are. Handing each to call_soon() first costs a Python object and a turn of the
loop for every query.
"""

cimport cython
from cpython.ref cimport Py_DECREF, Py_INCREF
from libcpp.vector cimport vector

from clipper._core cimport native
from clipper._core.application cimport ApplicationCore, abandon, refuse_recursion
from clipper._core.serving cimport EngineCore, run_batch

import asyncio
import weakref
from contextvars import copy_context

from clipper.errors import RecursionRefusedError

_get_running_loop = asyncio.get_running_loop


@cython.final
cdef class LoopPort:
    """One engine's door to one event loop. Touched by the loop's thread alone, once it is made."""

    cdef native.Mailbox mailbox
    cdef EngineCore core
    cdef object loop                     # weak: loops come and go, engines stay
    # Where rows of this turn went, and for which application: pairs without repeats, one or two.
    cdef vector[native.Deployment*] touched
    cdef list applications
    cdef readonly int outstanding
    cdef bint scheduled
    cdef bint leading                    # a model runs on the loop's own thread
    cdef object end_turn_method
    cdef object __weakref__

    def __cinit__(self, EngineCore core, loop):
        self.core = core
        self.loop = weakref.ref(loop)
        self.applications = []
        self.end_turn_method = self.end_turn
        loop.add_reader(self.mailbox.fd(), self.drain)

    cdef void touch(self, ApplicationCore application, native.Deployment* deployment, object loop):
        cdef size_t i
        for i in range(self.touched.size()):
            if self.touched[i] == deployment and self.applications[i] is application:
                return
        # The deployment that took the rows: by the turn's end another version may be current.
        self.touched.push_back(deployment)
        self.applications.append(application)
        if not self.scheduled:
            self.scheduled = True
            loop.call_soon(self.end_turn_method)

    def end_turn(self):
        """Run what was submitted since the last turn, as far as it is short enough."""
        cdef vector[native.Deployment*] touched
        cdef list applications = self.applications
        cdef native.Batch* batch
        cdef size_t reached = 0
        self.scheduled = False
        touched.swap(self.touched)
        self.applications = []
        self.mailbox.set_awake(True)
        self.leading = True
        try:
            while reached < touched.size():
                batch = (<ApplicationCore>applications[reached]).lead_at_turn_end(
                    touched[reached])
                reached += 1
                if batch != NULL:
                    run_batch(self.core, batch)
        finally:
            self.leading = False
            # A model may raise what ends loops: the rows of the others must still find a driver.
            while reached < touched.size():
                touched[reached].wake_a_driver()
                reached += 1
            try:
                self.take_letters()
            finally:
                self.mailbox.set_awake(False)

    def drain(self):
        """Take what other threads completed. Called by the loop when the eventfd is readable."""
        self.mailbox.clear_signal()
        self.take_letters()

    cdef take_letters(self):
        cdef native.Letter* letter = self.mailbox.take_all()
        cdef native.Letter* following
        cdef AsyncAnswer answer
        cdef object first_error = None
        while letter != NULL:
            following = letter.next_letter
            answer = <AsyncAnswer>(<native.Query*>letter).owner
            self.outstanding -= 1
            try:
                answer.on_letter()
            except BaseException as error:  # a task ended the loop: the others get their answers
                first_error = first_error or error
            Py_DECREF(answer)  # the reference that the query held
            letter = following
        if first_error is not None:
            raise first_error

    @property
    def is_orphan(self):
        """Whether its loop is gone or closed."""
        loop = self.loop()
        return loop is None or loop.is_closed()

    def close_soon(self):
        """Close it on its loop's thread. From any thread."""
        loop = self.loop()
        if loop is None or loop.is_closed():
            self.close()
            return
        try:
            loop.call_soon_threadsafe(self.close)
        except RuntimeError:  # closed meanwhile
            self.close()

    def close(self):
        """Take the last letters and leave the loop. On its thread, or when it is an orphan."""
        self.take_letters()
        loop = self.loop()
        if loop is not None and not loop.is_closed():
            loop.remove_reader(self.mailbox.fd())


cdef LoopPort port_for(EngineCore core, object loop):
    cdef LoopPort port
    for port in tuple(core.ports):  # loops of other threads come and go
        if port.loop() is loop:
            return port
    for port in [port for port in tuple(core.ports) if port.is_orphan]:
        port.close()
        # Else the core still knows its mailbox; or another thread was here first.
        if port.outstanding == 0 and port in core.ports:
            core.ports.remove(port)
    port = LoopPort.__new__(LoopPort, core, loop)
    core.ports.append(port)
    return port


@cython.final
@cython.freelist(256)
cdef class AsyncAnswer:
    """An awaitable prediction: to asyncio a future, and a coroutine where it insists on one.

    As a future it costs no task in ``gather`` or ``wait_for``; as a coroutine ``create_task`` and
    ``TaskGroup`` take it.
    """

    cdef ApplicationCore application
    cdef LoopPort port
    cdef object loop
    cdef native.Query* query             # NULL once it is released
    cdef object prediction
    cdef object error
    cdef bint is_done
    cdef bint is_cancelled
    cdef object callback                 # usually one: the task's; else a list of (fn, context)
    cdef object context
    cdef list more_callbacks
    cdef public bint _asyncio_future_blocking
    cdef readonly object _cancel_message  # asyncio's gather reads it
    cdef object __weakref__

    def __await__(self):
        return self

    __iter__ = __await__

    def __next__(self):
        if not self.is_done:
            self._asyncio_future_blocking = True
            return self
        raise StopIteration(self.result())

    def send(self, value):
        return self.__next__()

    def throw(self, kind, value=None, traceback=None):
        """The task that awaits was cancelled: so is the query."""
        self.cancel()
        error = kind if value is None else value
        raise error if isinstance(error, BaseException) else error()

    def close(self):
        self.cancel()

    def get_loop(self):
        return self.loop

    def done(self):
        return self.is_done

    def cancelled(self):
        return self.is_cancelled

    def result(self):
        if self.is_cancelled:
            raise self._make_cancelled_error()
        if not self.is_done:
            raise asyncio.InvalidStateError("the prediction is not there yet")
        if self.error is not None:
            raise self.error
        return self.prediction

    def exception(self):
        if self.is_cancelled:
            raise self._make_cancelled_error()
        if not self.is_done:
            raise asyncio.InvalidStateError("the prediction is not there yet")
        return self.error

    def _make_cancelled_error(self):
        return asyncio.CancelledError(*(() if self._cancel_message is None
                                        else (self._cancel_message,)))

    def cancel(self, msg=None):
        """Withdraw the query; its rows will not run if they have not started."""
        if self.is_done:
            return False
        self.is_cancelled = True
        self._cancel_message = msg
        self.application.core.engine.get().withdraw(self.query[0], native.Cause.kCancelled)
        self.is_done = True
        # In the middle of user code: its callbacks wait for the loop's next turn.
        for fn, context in self.take_callbacks():
            self.loop.call_soon(fn, self, context=context)
        return True

    def add_done_callback(self, fn, *, context=None):
        if context is None:
            context = copy_context()
        if self.is_done:
            self.loop.call_soon(fn, self, context=context)
        elif self.callback is None:
            self.callback = fn
            self.context = context
        else:
            if self.more_callbacks is None:
                self.more_callbacks = []
            self.more_callbacks.append((fn, context))

    def remove_done_callback(self, fn):
        kept = [pair for pair in self.all_callbacks() if pair[0] != fn]
        removed = len(self.all_callbacks()) - len(kept)
        self.callback, self.context = kept[0] if kept else (None, None)
        self.more_callbacks = kept[1:]
        return removed

    cdef list all_callbacks(self):
        first = [] if self.callback is None else [(self.callback, self.context)]
        return first + (self.more_callbacks or [])

    cdef on_letter(self):
        """The query is done: collect it, unless it was cancelled."""
        try:
            if self.is_cancelled:
                abandon(self.application.core.engine.get(), self.query)
            else:
                try:
                    self.prediction = self.application.answer(
                        self.query, self.application.core.clock.now_ns())
                except Exception as error:
                    self.error = error
                except BaseException as error:  # a policy of Python may raise anything
                    self.error = error
                    self.finish()
                    raise
                self.finish()
        finally:
            self.application.core.engine.get().release(self.query[0])
            self.query = NULL

    cdef list take_callbacks(self):
        callbacks = self.all_callbacks()
        self.callback = self.context = self.more_callbacks = None
        return [] if self.loop.is_closed() else callbacks

    cdef finish(self):
        """Call the callbacks. In a callback of the loop only."""
        self.is_done = True
        if self.callback is None:
            return
        if self.more_callbacks is None and not self.loop.is_closed():
            fn, context = self.callback, self.context
            self.callback = self.context = None
            self.call(fn, context)
            return
        for fn, context in self.take_callbacks():
            self.call(fn, context)

    cdef call(self, fn, context):
        try:
            context.run(fn, self)
        except Exception as error:  # as the loop does with its own callbacks
            self.loop.call_exception_handler({
                "message": f"a callback of a prediction raised: {fn!r}", "exception": error,
                "future": self})


def predict_async(ApplicationCore application, x, *, context=None, deadline=None, priority=None,
                  bypass_cache=False):
    """Ask for one prediction from an event loop.

    It is asked when this is called, and awaited when the result is; where no loop runs yet, as in
    ``asyncio.run(app.predict_async(x))``, it is asked when it is awaited. Rows that are asked for
    in one turn of the loop run together at its end. Cancelling the task, or a time-out around it,
    withdraws the row.

    Parameters
    ----------
    x : array_like, shape of one input row; bytes or str; for several tensors a dict of those
    context : str, bytes, int or tuple of those, optional
        Whose query this is.
    deadline : float, optional
        Seconds from now by which the answer must be there; the application's SLO if not given.
    priority, bypass_cache
        As for ``predict``.

    Returns
    -------
    coroutine of Prediction
        A future to ``gather`` and ``wait_for``, which then need no task of their own.

    Raises
    ------
    TypeError, ValueError
        If the input is not one row of what the model takes.
    PredictionError
        When awaited: if no answer came and the application has no default.
    """
    cdef native.Asking asking
    cdef native.ColumnRows columns[native.kMaxColumns]
    try:
        loop = _get_running_loop()
    except RuntimeError:
        return ask_later(application, x, context, deadline, priority, bypass_cache)
    _holder = application.input.read_row(x, columns)
    application.ask(&asking, context, deadline, priority, bypass_cache)
    cdef AsyncAnswer answer = AsyncAnswer.__new__(AsyncAnswer)
    cdef LoopPort port = port_for(application.core, loop)
    answer.application = application
    answer.port = port
    answer.loop = loop
    asking.mailbox = &port.mailbox
    asking.owner = <void*>answer
    asking.will_lead = application.may_lead
    answer.query = application.send(columns, 1, &asking, context)
    Py_INCREF(answer)  # the query's, until its letter is read
    port.outstanding += 1
    if asking.will_lead:
        for i in range(answer.query.asks):  # one, or stage after stage
            if answer.query.ask(i).deployment() != NULL:
                port.touch(application, answer.query.ask(i).deployment(), loop)
    if not port.leading:  # else the loop goes on once the model has returned, and may well await
        try:
            refuse_recursion(answer.query)
        except RecursionRefusedError:
            answer.cancel()
            raise
    return answer


async def ask_later(ApplicationCore application, x, context, deadline, priority, bypass_cache):
    return await predict_async(application, x, context=context, deadline=deadline,
                               priority=priority, bypass_cache=bypass_cache)
