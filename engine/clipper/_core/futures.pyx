"""Predictions that come later: futures for threads, awaitables for event loops."""

cimport cython

from clipper._core cimport native
from clipper._core.application cimport ApplicationCore, abandon
from clipper._core.serving cimport EngineCore

import concurrent.futures
import logging

from clipper.seldom import SeldomLog

_callback_log = SeldomLog(logging.getLogger("clipper"))
cdef double _LONGEST_TIMEOUT = 1e9  # seconds


@cython.final
@cython.freelist(256)
@cython.no_gc_clear  # __dealloc__ needs the core
cdef class PredictionFuture:
    """A prediction to come, with the interface of ``concurrent.futures.Future``.

    ``result()`` may run a batch itself, for everybody who waits. Callbacks run on the engine's own
    thread. Dropping an unfinished future withdraws its query.
    """

    cdef ApplicationCore application
    cdef EngineCore core                 # itself: the collector may have emptied the application
    cdef native.Query* query             # NULL once it is released
    cdef object prediction
    cdef object error
    cdef bint taken                      # collected: prediction or error is there
    cdef bint withdrawn                  # by cancel()
    cdef int users                       # threads in see_through, and a letter under way
    cdef list callbacks
    cdef object __weakref__

    def __init__(self):
        raise TypeError("futures are made by applications: call submit()")

    def __dealloc__(self):
        cdef native.Engine* engine
        if self.query != NULL:
            engine = self.core.engine.get()
            if not self.taken:
                abandon(engine, self.query)
            engine.release(self.query[0])

    def result(self, timeout=None):
        """Wait for the prediction.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most; the query's deadline ends the wait in any case.

        Raises
        ------
        TimeoutError
            If it is not there after ``timeout`` seconds; it stays under way.
        concurrent.futures.CancelledError
            If it was cancelled.
        PredictionError
            If no answer came and the application has no default.
        """
        if not self.taken:
            self._wait(timeout)
        if self.withdrawn:
            raise concurrent.futures.CancelledError()
        if self.error is not None:
            raise self.error
        return self.prediction

    def exception(self, timeout=None):
        """Wait as ``result`` does; return what it would raise for causes of serving, or None."""
        if not self.taken:
            self._wait(timeout)
        if self.withdrawn:
            raise concurrent.futures.CancelledError()
        return self.error

    def done(self):
        """Whether result() would return at once."""
        return self.taken or self.query.is_done()

    def cancelled(self):
        """Whether cancel() came in time."""
        return self.withdrawn

    def running(self):
        """Always False: whether its batch has started is not known from here."""
        return False

    def cancel(self):
        """Withdraw the query; False if it is done already."""
        if self.taken:
            return self.withdrawn
        if self.application.core.engine.get().withdraw(self.query[0], native.Cause.kCancelled):
            self.withdrawn = True
        return self.withdrawn

    def add_done_callback(self, fn):
        """Call ``fn(self)`` when it is done: on the engine's thread, or at once if it is now."""
        if self.callbacks is not None:
            self.callbacks.append(fn)
        elif not self.taken and self._attach():
            self.callbacks = [fn]
        else:
            self._settle()
            self._call(fn)

    cdef bint _attach(self):
        """From now on the reaper gets the letter, and runs the callbacks. False: done already."""
        cdef EngineCore core = self.application.core
        self.query.owner = <void*>self
        if not self.query.attach(core.engine.get().reaper_box()):
            return False
        self.users += 1
        core.watched.add(self)
        return True

    def _on_letter(self):
        self.users -= 1
        self._settle()
        self.application.core.watched.discard(self)
        callbacks, self.callbacks = self.callbacks, None
        for fn in callbacks or ():
            self._call(fn)

    cdef object _call(self, object fn):
        try:
            fn(self)
        except BaseException:  # SystemExit too: the engine's only reaper runs it
            _callback_log.exception("a callback of %r raised", self)

    cdef object _wait(self, object timeout):
        cdef native.Nanos until_ns = native.kNever
        cdef native.Nanos held_ns
        if self.query.is_done():  # as most of a burst are once the first was waited for
            self._settle()
            return
        cdef native.Nanos now_ns = self.application.core.clock.now_ns()
        if timeout is not None:
            until_ns = now_ns + <native.Nanos>(min(max(timeout, 0.0), _LONGEST_TIMEOUT) * 1e9)
        cdef bint own_deadline = self.query.answer_by_ns <= until_ns
        # Several threads may wait at once: the last one to leave gives the query back.
        self.users += 1
        try:
            held_ns = self.application.see_through(
                self.query, self.query.answer_by_ns if own_deadline else until_ns, now_ns)
            if held_ns == 0 and own_deadline and not self.taken:
                self.application.core.engine.get().withdraw(self.query[0], native.Cause.kDeadline)
        finally:
            self.users -= 1
        if held_ns == 0 and not own_deadline and not self.done():
            raise TimeoutError(f"no prediction within {timeout} s")
        self._settle()

    cdef object _settle(self):
        """Collect a query that is done; release it when nobody looks at it any more."""
        if not self.taken and self.query != NULL:
            self.taken = True
            try:
                self.prediction = self.application.answer(self.query, 0)
            except BaseException as error:  # a policy of Python may raise anything
                self.error = error
                if not isinstance(error, Exception):
                    raise
        if self.users == 0 and self.query != NULL:
            self.application.core.engine.get().release(self.query[0])
            self.query = NULL

    def __repr__(self):
        state = ("cancelled" if self.withdrawn else "done" if self.done() else "pending")
        return f"<PredictionFuture {state}>"


def submit(ApplicationCore application, x, *, context=None, deadline=None, priority=None,
           bypass_cache=False):
    """Ask for one prediction without waiting.

    Parameters and errors are those of ``predict``; causes of serving are raised by the future.

    Returns
    -------
    PredictionFuture
        With the interface of :class:`concurrent.futures.Future`.
    """
    cdef native.Asking asking
    cdef native.ColumnRows columns[native.kMaxColumns]
    _holder = application.input.read_row(x, columns)
    application.ask(&asking, context, deadline, priority, bypass_cache)
    cdef PredictionFuture future = PredictionFuture.__new__(PredictionFuture)
    future.application = application
    future.core = application.core
    asking.may_lead = application.may_lead
    future.query = application.send(columns, 1, &asking, context)
    return future
