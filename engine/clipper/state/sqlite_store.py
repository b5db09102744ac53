"""State in a SQLite database in the engine's data directory."""

import contextlib
import json
import logging
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from clipper.errors import StateError

from .directory import DataDirectory
from .store import Changes, Durability, Segment, StateStore, seal, to_json, unseal

_log = logging.getLogger("clipper")
_FILE = "state.sqlite3"
_FORMAT = 1
_CHUNK = 500  # contexts that one statement reads
_WAL_PAGES = 4000  # of 4 KiB, after which SQLite moves the log into the file
# The numbers of entries are sorted by SQLite, the contexts' hashes too: both as signed 64 bits.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS states (
    application INTEGER NOT NULL, context INTEGER NOT NULL, state BLOB NOT NULL,
    PRIMARY KEY (application, context)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS own (application INTEGER PRIMARY KEY, state BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS journal (
    application INTEGER NOT NULL, last INTEGER NOT NULL, first INTEGER NOT NULL,
    entries BLOB NOT NULL, PRIMARY KEY (application, last)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS documents (
    kind TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (kind, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS damaged (
    what TEXT NOT NULL, application INTEGER NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL);
"""
_DELETE = {
    "states": "DELETE FROM states WHERE application = ? AND context = ?",
    "own": "DELETE FROM own WHERE application = ? AND ? = 0",
    "journal": "DELETE FROM journal WHERE application = ? AND last = ?",
}
_ADD_SEGMENT = "INSERT OR REPLACE INTO journal VALUES (?, ?, ?, ?)"


class SqliteStore(StateStore):
    """One database file, written ahead (WAL), used by one engine at a time.

    Parameters
    ----------
    directory : DataDirectory
        Closed with the store.
    durability : {"process", "power", "memory"}
        With "power" a write returns when the disk has it; otherwise when the system has it.

    Raises
    ------
    StateError
        If there is a database that cannot be read, for another reason than damage. A damaged one
        is set aside.
    """

    reads_while_failing: bool = True  # a full disk can be read

    def __init__(self, directory: DataDirectory, durability: Durability) -> None:
        super().__init__()
        self.name: str = str(directory.path)
        self._directory = directory
        self._synchronous = "FULL" if durability == "power" else "NORMAL"
        try:
            self._database = self._open()
        except sqlite3.OperationalError as error:
            raise StateError(f"cannot keep state in {self.name!r}: {error}") from error
        except sqlite3.DatabaseError as error:
            self._set_aside(error)
            with _as_state_error(self.name):
                self._database = self._open()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(
            self._directory.file(_FILE), isolation_level=None, check_same_thread=False, timeout=1.0
        )
        try:
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute(f"PRAGMA synchronous = {self._synchronous}")
            database.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
            found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(found)
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version > _FORMAT:
                raise sqlite3.OperationalError(
                    f"it was written by a newer release (format {version}, this one knows "
                    f"{_FORMAT}): use that release, or another directory"
                )
            database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT")
            if version != _FORMAT:
                database.execute(f"PRAGMA user_version = {_FORMAT}")
        except BaseException:
            database.close()
            raise
        return database

    def _set_aside(self, error: Exception) -> None:
        to = self._directory.set_aside([_FILE, _FILE + "-wal", _FILE + "-shm"])
        self._report(
            f"{_FILE} is damaged ({error}): it was moved to {to}, and the engine begins with "
            "nothing learned"
        )

    def _report(self, text: str) -> None:
        self.damaged.append(text)
        _log.error("state in %s: %s", self.name, text)

    def write(self, changes: Changes) -> None:
        """Write changes in one transaction."""
        segments = [(s.application, s.last, s.first, seal(s.entries)) for s in changes.segments]
        with _as_state_error(self.name):
            if len(segments) == 1 and not changes.has_states:
                self._database.execute(_ADD_SEGMENT, segments[0])
                return
            self._database.execute("BEGIN IMMEDIATE")
            try:
                self._write(changes, segments)
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def _write(self, changes: Changes, segments: list[tuple[int, int, int, bytes]]) -> None:
        run = self._database
        run.executemany(_ADD_SEGMENT, segments)
        for application, states in changes.states.items():
            run.executemany(
                "INSERT OR REPLACE INTO states VALUES (?, ?, ?)",
                ((application, context, seal(state)) for context, state in states.items()),
            )
        run.executemany(
            "INSERT OR REPLACE INTO own VALUES (?, ?)",
            ((application, seal(state)) for application, state in changes.own.items()),
        )
        run.executemany(
            "DELETE FROM journal WHERE application = ? AND last <= ?", list(changes.covered.items())
        )
        if changes.last_entry is not None:
            run.execute(
                "INSERT OR REPLACE INTO numbers VALUES ('last_entry', ?)", (changes.last_entry,)
            )

    def read_states(self, application: int, contexts: Sequence[int]) -> dict[int, bytes]:
        """Return the states of those contexts that are known."""
        found: dict[int, bytes] = {}
        with _as_state_error(self.name):
            for start in range(0, len(contexts), _CHUNK):
                chunk = contexts[start : start + _CHUNK]
                rows = self._database.execute(
                    "SELECT context, state FROM states WHERE application = ? AND context IN "
                    f"({','.join('?' * len(chunk))})",
                    (application, *chunk),
                ).fetchall()
                for context, sealed in rows:
                    state = self._unsealed(sealed, "states", application, context)
                    if state is not None:
                        found[context] = state
        return found

    def read_own(self, application: int) -> bytes | None:
        """Return the application's own state."""
        with _as_state_error(self.name):
            row = self._database.execute(
                "SELECT state FROM own WHERE application = ?", (application,)
            ).fetchone()
        return None if row is None else self._unsealed(row[0], "own", application, 0)

    def read_segments(self, application: int) -> Iterator[Segment]:
        """Return an application's journal, a segment at a time."""
        after = -1
        while True:
            with _as_state_error(self.name):
                row = self._database.execute(
                    "SELECT last, first, entries FROM journal WHERE application = ? AND last > ? "
                    "ORDER BY last LIMIT 1",
                    (application, after),
                ).fetchone()
            if row is None:
                return
            after, first, sealed = row
            entries = self._unsealed(sealed, "journal", application, after)
            if entries is not None:
                yield Segment(application, first, after, entries)

    def _unsealed(self, sealed: bytes, table: str, application: int, number: int) -> bytes | None:
        data = unseal(sealed)
        if data is None:
            self._report(
                f"a row of table {table!r} is damaged (application {application}, number {number}):"
                " it was moved to the table 'damaged', and counts as missing"
            )
            with contextlib.suppress(sqlite3.Error):  # next time, then
                self._database.execute(
                    "INSERT INTO damaged VALUES (?, ?, ?, ?)", (table, application, number, sealed)
                )
                self._database.execute(_DELETE[table], (application, number))
        return data

    def last_entry(self) -> int:
        """Return the number of the last entry."""
        with _as_state_error(self.name):
            rows = self._database.execute(
                "SELECT value FROM numbers WHERE name = 'last_entry' "
                "UNION ALL SELECT max(last) FROM journal"
            ).fetchall()
        return max((number for (number,) in rows if number is not None), default=0)

    def documents(self, kind: str) -> dict[str, Any]:
        """Return all documents of a kind, by name."""
        with _as_state_error(self.name):
            rows = self._database.execute(
                "SELECT name, value FROM documents WHERE kind = ? ORDER BY name", (kind,)
            ).fetchall()
        return {name: json.loads(value) for name, value in rows}

    def put_document(self, kind: str, name: str, value: Any) -> None:
        """Keep a document; None: none."""
        with _as_state_error(self.name):
            if value is None:
                self._database.execute(
                    "DELETE FROM documents WHERE kind = ? AND name = ?", (kind, name)
                )
            else:
                self._database.execute(
                    "INSERT OR REPLACE INTO documents VALUES (?, ?, ?)",
                    (kind, name, to_json(value)),
                )

    def heartbeat(self) -> None:
        """Do nothing: the lock on the directory shows it."""

    def close(self) -> None:
        """Close the database, and let another engine have the directory."""
        self._database.close()
        self._directory.close()


@contextlib.contextmanager
def _as_state_error(name: str) -> Generator[None, None, None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StateError(f"the state in {name!r} cannot be used: {error}") from error
