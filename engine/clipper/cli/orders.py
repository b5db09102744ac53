"""What the main thread of a server is told to do, by signals and by other threads."""

import os
import queue
import select
import signal
from types import FrameType
from typing import Literal

Order = Literal["end", "reload", "applied", "failed"]

#: For what could still slip through between a signal and its handler.
_POLL_MS = 1000


class Orders:
    """A queue that signals put to as well. Made and read by the main thread, put to by any.

    A thread that waits for a lock may miss a signal that comes just before it begins to wait. One
    that reads from a pipe does not, as the signal itself writes to that.
    """

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._bell, self._ring = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._ring, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signalled)

    def _signalled(self, number: int, _: FrameType | None) -> None:
        self.put("reload" if number == signal.SIGHUP else "end")

    def put(self, order: Order) -> None:
        """Give an order. Any thread, and from inside ``get`` too."""
        self._orders.put(order)
        try:
            os.write(self._ring, b"!")
        except BlockingIOError:
            return  # full of reasons to wake up

    def get(self) -> Order:
        """Wait for the next order."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        while True:
            try:
                return self._orders.get_nowait()
            except queue.Empty:
                if poll.poll(_POLL_MS):
                    os.read(self._bell, 4096)

    def empty(self) -> bool:
        """Whether none waits."""
        return self._orders.empty()
