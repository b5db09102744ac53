"""Who writes an engine's state, and when: callers their feedback, a thread everything else."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any

from clipper._core.application import ApplicationCore
from clipper._core.journal import JournalCore
from clipper._core.states import LastingStates
from clipper.errors import StateError

from .store import Changes, Durability, Segment, StateStore

_log = logging.getLogger("clipper")
_JOURNAL_BYTES = 64 << 20  # of feedback, while the store cannot take it
_CHECKPOINT_SECONDS = 10.0
_CHECKPOINT_ENTRIES = 250_000
_RETRY_SECONDS = 0.5
_MOST_UNWRITTEN = 100_000  # states in memory, while the store cannot take them


class StateKeeper:
    """Writes the journal and the states of an engine's applications to a store, and reads them.

    Everything that touches the store is done by whoever leads the journal, one at a time.

    Parameters
    ----------
    store : StateStore
        Closed with the keeper.
    durability : {"process", "power", "memory"}
    """

    def __init__(self, store: StateStore, durability: Durability) -> None:
        self.store = store
        self.durability: Durability = durability
        self.journal: JournalCore = JournalCore(
            store.last_entry(), _JOURNAL_BYTES, self._write_journal, self._relieve
        )
        self._states: dict[int, LastingStates] = {}
        self._unwritten: dict[int, dict[int, bytes]] = {}  # taken from the core, not in the store
        self._own: dict[int, bytes] = {}  # likewise
        self._covered: dict[int, int] = {}  # likewise
        self._wanted: dict[int, list[int]] = {}
        self._documents: dict[tuple[str, str], Any] = {}  # likewise not in the store
        self._checkpoint: Iterator[None] | None = None
        self._checkpointed_at = time.monotonic()
        self._checkpointed_entry = self.journal.appended
        self._beat_at = time.monotonic()
        self._failed_at: float | None = None
        self._failure: str | None = None
        self._failures = 0
        self._async_lock = threading.Lock()
        self._async: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Future[bool]]] = []
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="clipper-state", daemon=True)
        self._thread.start()

    # ---- applications --------------------------------------------------------------------------

    def attach(self, core: ApplicationCore, number: int, max_bytes: int) -> bool:
        """Restore what an application has learned, and keep it from then on.

        Before its first query. Returns False if its policy learns nothing.

        Raises
        ------
        StateError
            If the store cannot be read.
        """
        with self._leading():
            states = LastingStates(
                core, self.journal, number, max_bytes, self.durability != "memory"
            )
            if states.words == 0:
                return False
            own = self.store.read_own(number)
            if own is not None:
                states.restore_own(own)
            self._unwritten[number], self._wanted[number] = {}, []
            for segment in self.store.read_segments(number):
                self._replay(states, number, segment)
            while states.waiting:
                self._exchange(number, states)
            self._states[number] = states
            return True

    def _exchange(self, number: int, states: LastingStates) -> None:
        """Write what was evicted, then read what is waited for; raises StateError."""
        self._unwritten[number].update(states.take_spilled())
        if not self._write() or not self._load(number, states):
            raise StateError(self._failure or "the store cannot be used")

    def _replay(self, states: LastingStates, number: int, segment: Segment) -> None:
        place = 0
        try:
            while (place := states.replay(segment.entries, place)) < len(segment.entries):
                self._exchange(number, states)
        except ValueError as error:
            self._report(f"the journal of application {number} ends early: {error}")

    def _report(self, text: str) -> None:
        self.store.damaged.append(text)
        _log.error("state in %s: %s", self.store.name, text)

    def documents(self, kind: str) -> dict[str, Any]:
        """Return what is kept under a kind, by name. Raises StateError."""
        with self._leading():
            return self.store.documents(kind)

    def put_document(self, kind: str, name: str, value: Any) -> None:
        """Keep a document, now or as soon as the store can be used."""
        with self._leading():
            self._documents[kind, name] = value
            self._write_documents()

    def _write_documents(self) -> None:
        try:
            for (kind, name), value in list(self._documents.items()):
                self.store.put_document(kind, name, value)
                del self._documents[kind, name]
        except StateError as error:
            self._note_failure(error)

    # ---- feedback ------------------------------------------------------------------------------

    def _write_journal(self) -> None:
        """Write what waits in the journal. Called by whoever leads, on its thread."""
        if self._is_closed or not self._may_try():
            self.journal.give_up()
        else:
            self._write()
        self._tell_async()

    def _relieve(self) -> bool:
        """Read the states that are waited for, on the thread of who waits for room."""
        with self._leading():
            if not self._is_closed:
                self._work()
            return not self._is_closed and (
                self._failed_at is None or self.store.reads_while_failing
            )

    async def confirm_async(self) -> bool:
        """Wait until all feedback so far lasts, or could not be written: whether it lasts."""
        number = self.journal.appended
        known = self.journal.look(number)
        if known is not None:
            return known
        loop = asyncio.get_running_loop()
        told: asyncio.Future[bool] = loop.create_future()
        with self._async_lock:
            self._async.append((number, loop, told))
            must_ring = len(self._async) == 1
        if must_ring:
            self.journal.ring()
        return await told

    def _tell_async(self) -> None:
        if not self._async:
            return
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[bool], bool]]] = {}
        with self._async_lock:
            waiting, self._async = self._async, []
            for number, loop, told in waiting:
                known = self.journal.look(number)
                if known is None:
                    self._async.append((number, loop, told))
                else:
                    by_loop.setdefault(loop, []).append((told, known))
            if self._async:
                self.journal.ring()
        for loop, answers in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_tell, answers)

    # ---- writing -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _leading(self) -> Generator[None, None, None]:
        self.journal.lead()
        try:
            yield
        finally:
            self.journal.stop_leading()

    def _may_try(self) -> bool:
        return self._failed_at is None or time.monotonic() >= self._failed_at + _RETRY_SECONDS

    def _write(self) -> bool:
        """Write all that was taken, and the journal, which always goes with it."""
        segments = [Segment(*taken) for taken in self.journal.take()]
        changes = Changes(segments)
        has_states = bool(self._own or self._covered or any(self._unwritten.values()))
        if has_states:
            changes.states = self._unwritten
            changes.own, changes.covered = dict(self._own), dict(self._covered)
            changes.last_entry = self.journal.appended
        elif not segments:
            self.journal.settle()
            return True
        try:
            self.store.write(changes)
        except StateError as error:
            self.journal.give_up()
            self._note_failure(error)
            return False
        self.journal.settle()
        if has_states:
            for states in self._unwritten.values():
                states.clear()
            self._own.clear()
            self._covered.clear()
        self._note_success()
        return True

    def _note_failure(self, error: StateError) -> None:
        if self._failed_at is None:
            _log.error(
                "%s: serving goes on, but what is learned does not last until this is mended, "
                "and feedback returns UNSAVED", error,
            )  # fmt: skip
        self._failed_at = time.monotonic()
        self._failure = str(error)
        self._failures += 1

    def _note_success(self) -> None:
        if self._failed_at is not None:
            self._failed_at = None
            _log.warning("the state in %s can be used again", self.store.name)

    # ---- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_closed:
            self.journal.wait_for_work(self._patience())
            try:
                with self._leading():
                    if not self._is_closed:
                        self._work()
            except Exception:
                _log.exception("the state could not be kept; it is tried again")
                time.sleep(_RETRY_SECONDS)

    def _patience(self) -> float:
        if self._failed_at is not None:
            return _RETRY_SECONDS
        if self._checkpoint is not None or any(self._wanted.values()):
            return 0.0
        return min(1.0, self.store.heartbeat_seconds or 1.0)

    def _work(self) -> None:
        """Take what must be written, write it, then read what is wanted: in this order."""
        for number, states in self._states.items():
            self._unwritten[number].update(states.take_spilled())
        if self._may_try():
            self._beat()
            self._step_checkpoint()
            self._write()
            self._write_documents()
        else:
            self.journal.give_up()
        self._tell_async()
        # What is loaded pushes out what cannot be written: while it fails that must have an end.
        if self._failed_at is None or (
            self.store.reads_while_failing
            and sum(map(len, self._unwritten.values())) < _MOST_UNWRITTEN
        ):
            for number, states in self._states.items():
                self._load(number, states)

    def _beat(self) -> None:
        every = self.store.heartbeat_seconds
        if every is not None and time.monotonic() - self._beat_at >= every:
            self._beat_at = time.monotonic()
            try:
                self.store.heartbeat()
            except StateError as error:
                self._note_failure(error)

    def _load(self, number: int, states: LastingStates) -> bool:
        """Bring what is waited for; False: the store cannot be read."""
        wanted = self._wanted[number]
        wanted += states.take_wanted()
        if not wanted:
            return True
        unwritten = self._unwritten[number]
        try:
            found = self.store.read_states(number, [c for c in wanted if c not in unwritten])
        except StateError as error:
            if self._failed_at is None:  # else writing is tried when its time has come
                self._note_failure(error)
            return False
        found.update((context, unwritten[context]) for context in wanted if context in unwritten)
        self._wanted[number] = [
            context for context in wanted if not self._put(states, context, found.get(context))
        ]
        return True

    def _put(self, states: LastingStates, context: int, state: bytes | None) -> bool:
        try:
            return states.put_loaded(context, state)
        except ValueError as error:  # of another length than it must be
            self._report(f"context {context} begins again: {error}")
            return states.put_loaded(context, None)

    # ---- checkpoints ---------------------------------------------------------------------------

    def _step_checkpoint(self) -> None:
        if self._checkpoint is None:
            entries = self.journal.appended - self._checkpointed_entry
            seconds = time.monotonic() - self._checkpointed_at
            if seconds < _CHECKPOINT_SECONDS and entries < _CHECKPOINT_ENTRIES:
                return
            self._checkpoint = self._checkpoint_steps()
        if next(self._checkpoint, _ENDED) is _ENDED:
            self._checkpoint = None
            self._checkpointed_at = time.monotonic()

    def _checkpoint_steps(self) -> Iterator[None]:
        """Take all states that changed, a shard a step, so that callers can write in between."""
        self._checkpointed_entry = self.journal.appended
        for number, states in list(self._states.items()):
            unwritten = self._unwritten[number]
            # What was evicted goes through this thread: else it might move from a shard that
            # is still to come to one that has been.
            states.hold(True)
            try:
                covered = self.journal.appended
                own = states.own()
                for shard in range(states.shards):
                    if shard > 0:
                        yield
                    changed, waits = states.take_changed(shard)
                    unwritten.update(changed)
                    covered = covered if waits is None else min(covered, waits - 1)
                unwritten.update(states.take_spilled())
            finally:
                states.hold(False)
            self._own[number], self._covered[number] = own, covered
            yield

    def checkpoint(self) -> bool:
        """Write everything that is in memory: whether that went well."""
        with self._leading():
            return self._load_all() and self._write_everything()

    def _write_everything(self) -> bool:
        if self._checkpoint is not None:
            for _ in self._checkpoint:
                pass
        self._checkpoint = None
        for number, states in self._states.items():
            self._unwritten[number].update(states.take_spilled())
        for _ in self._checkpoint_steps():
            pass
        self._checkpointed_at = time.monotonic()
        is_written = self._write()
        self._tell_async()
        self._write_documents()
        return is_written and not self._documents

    # ---- the end -------------------------------------------------------------------------------

    def close(self) -> None:
        """Write everything, and close the store. More than once does nothing."""
        with self._leading():
            if self._is_closed:
                return
            is_written = self._load_all() and self._write_everything()
            self._is_closed = True
            if not is_written:
                _log.error(
                    "the engine is closed, but %d states and %d bytes of feedback could not be "
                    "written to %s: %s", sum(map(len, self._unwritten.values())),
                    self.journal.counts()["bytes"], self.store.name, self._failure,
                )  # fmt: skip
            self.journal.give_up()
            self._tell_async()
            self.store.close()
        self.journal.ring()
        if self._thread is not threading.current_thread():
            self._thread.join(5.0)

    def _load_all(self) -> bool:
        """Let what waits for a state be learned. False: the store cannot be used."""
        try:
            for number, states in self._states.items():
                while states.waiting:
                    self._exchange(number, states)
        except StateError:
            return False
        return True

    def describe(self) -> dict[str, Any]:
        """Return where state is kept, what waits to be written, and what went wrong."""
        return {
            "store": self.store.name,
            "durability": self.durability,
            "journal": self.journal.counts(),
            "unwritten_states": sum(map(len, self._unwritten.values())),
            "available": self._failed_at is None,
            "failures": self._failures,
            "last_failure": self._failure,
            "damaged": list(self.store.damaged),
        }


_ENDED = object()


def _tell(answers: list[tuple[asyncio.Future[bool], bool]]) -> None:
    for told, known in answers:
        if not told.done():
            told.set_result(known)
