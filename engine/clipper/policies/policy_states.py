"""States of Python policies: one for each context, as many as are allowed."""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any


class PolicyState:
    """One state, and the lock under which it is used."""

    __slots__ = ("__weakref__", "lock", "value")

    def __init__(self, value: Any) -> None:
        self.value: Any = value
        # A policy's method may come back through another application.
        self.lock: Any = threading.RLock()


class PolicyStates:
    """The states of all contexts; those used longest ago are forgotten. Any thread.

    Parameters
    ----------
    begin : callable
        Makes a state.
    most : int
        How many are kept, beside the application's own.

    Raises
    ------
    Exception
        What ``begin`` raises.
    """

    def __init__(self, begin: Callable[[], Any], most: int) -> None:
        self._begin = begin
        self._most = most
        self._lock = threading.Lock()
        self._own = PolicyState(begin())
        self._kept: OrderedDict[int, PolicyState] = OrderedDict()
        # One that is forgotten while a query has it is found again as long as that lasts, so that a
        # context never has two states at once.
        self._alive: weakref.WeakValueDictionary[int, PolicyState] = weakref.WeakValueDictionary()
        self._forgotten = 0

    def of(self, context: int | None) -> PolicyState:
        """Return a context's state, by the context's hash; None: the application's own."""
        if context is None:
            return self._own
        with self._lock:
            state = self._kept.get(context)
            if state is not None:
                self._kept.move_to_end(context)
                return state
            state = self._alive.get(context)
        if state is None:
            state = PolicyState(self._begin())  # without the lock: it is the user's
        with self._lock:
            state = self._alive.setdefault(context, state)  # another thread may have been faster
            self._kept[context] = state
            self._kept.move_to_end(context)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
                self._forgotten += 1
        return state

    def describe(self) -> dict[str, int]:
        """Return how many are kept, may be kept, and were forgotten."""
        with self._lock:
            return {
                "in_memory": len(self._kept),
                "most": self._most,
                "forgotten": self._forgotten,
            }
