"""One writer's accepted updates in a SQLite file."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import NamedTuple
from weakref import WeakSet

from streamer.core.entries import Entry
from streamer.core.errors import OutboxNotWritable

_BUSY_S = 5.0

_SCHEMA = """
    BEGIN;
    CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, job TEXT, tail BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS acknowledged (mark INTEGER NOT NULL);
    INSERT INTO acknowledged SELECT {mark} WHERE NOT EXISTS (SELECT 1 FROM acknowledged);
    COMMIT;
"""

_NO_SPACE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}
"""The second is how a limit of the file's size shows."""


class Contents(NamedTuple):
    """The sequence numbers in a file: of the first entry, of the last that Redis has acknowledged, of the last."""

    first: int
    mark: int
    last: int


class OutboxFile:
    """The entries that one writer has accepted and Redis has not acknowledged, and the last ones that it has.

    Whoever opens it has it alone (see directory). Every method may be called from any thread, and raises
    OutboxNotWritable where the disk is full, a right is missing, or the file is damaged; it then had no effect.
    ``sync`` is SQLite's synchronous: with ``full`` what `append` has taken survives a loss of power.
    """

    def __init__(self, path: Path, sync: str = "full") -> None:
        self.path, self._sync = path, sync
        # SQLite's own locks, too, must not be held by another thread when the process forks: see the end.
        self._lock = RLock()
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._forgotten = self._first_mark = 0
        with _all_lock:
            _all.add(self)
        with self._connected():
            pass

    def append(self, number: int, entry: Entry, *, nothing_waits: bool = False) -> None:
        """Store an entry. Once it returns, the entry outlives the process.

        Where there is no space, and nothing waits before the entry, what is only kept is dropped to make some.
        """
        try:
            self._insert(number, entry)
        except OutboxNotWritable as error:
            self._try_again(lambda: self._insert(number, entry), error, number - 1 if nothing_waits else None)

    def acknowledge(self, mark: int, forget: int, *, nothing_waits: bool = False) -> None:
        """Note up to which sequence number Redis has them, and drop those up to another.

        A loss of power may undo it, which doubles nothing: Redis drops what it has. Where there is no space, and
        nothing waits behind the mark, all are dropped to make some.
        """
        try:
            self._note(mark, forget)
        except OutboxNotWritable as error:
            self._try_again(lambda: self._note(mark, forget), error, mark if nothing_waits else None)

    def _insert(self, number: int, entry: Entry) -> None:
        with self._connected() as connection:
            connection.execute("INSERT INTO entries VALUES (?, ?, ?)", (number, *entry))

    def _note(self, mark: int, forget: int) -> None:
        with self._connected() as connection:
            # Such a commit waits for no disk. A checkpoint does, and so the file stays whole.
            connection.execute("PRAGMA synchronous=NORMAL")
            try:
                connection.execute("UPDATE acknowledged SET mark = ?", (mark,))
                if forget > self._forgotten:
                    connection.execute("DELETE FROM entries WHERE number <= ?", (forget,))
                    self._forgotten = forget
            finally:
                connection.execute(f"PRAGMA synchronous={self._sync}")

    def _try_again(self, write: Callable[[], None], error: OutboxNotWritable, mark: int | None) -> None:
        """Write again what has failed, once there is space; ``mark`` is the last entry, where Redis has them all."""
        ways = [self._checkpoint] if mark is None else [self._checkpoint, lambda: self._begin_anew(mark)]
        for make_space in ways:
            if not _lacks_space(error.__cause__):
                break
            try:
                make_space()
                return write()
            except OutboxNotWritable as again:
                error = again
        raise error

    def _checkpoint(self) -> None:
        """Let go of the log that is written ahead, which needs some space itself."""
        with self._connected() as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _begin_anew(self, mark: int) -> None:
        """Let go of everything."""
        with self._lock:
            self._disconnect()
            self._unlink()
            # For the next connection, whoever makes it: without it, entries would be taken for others.
            self._first_mark = self._forgotten = mark
        with self._connected():
            pass

    def read(self, first: int, most: int) -> list[Entry]:
        """The entries from a sequence number on, so many at the most."""
        with self._connected() as connection:
            rows = connection.execute(
                "SELECT job, tail FROM entries WHERE number >= ? ORDER BY number LIMIT ?", (first, most)
            )
            return [Entry(*row) for row in rows]

    def contents(self) -> Contents:
        """What it holds."""
        with self._connected() as connection:
            [mark] = connection.execute("SELECT mark FROM acknowledged").fetchone()
            first, last = connection.execute("SELECT min(number), max(number) FROM entries").fetchone()
            return Contents(first or mark + 1, mark, last or mark)

    def close(self) -> None:
        """Close it; what is called afterwards raises. It may be called twice."""
        with self._lock:
            self._closed = True
            self._disconnect()

    def remove(self) -> None:
        """Close it, and delete it with all that it holds."""
        self.close()
        self._unlink()

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._closed:
                    raise OutboxNotWritable(str(self.path), "it is closed")
                if self._connection is None:
                    self._connection = self._connect()
                yield self._connection
            except (sqlite3.Error, OSError) as error:
                raise OutboxNotWritable(str(self.path), _reason(error)) from error

    def _connect(self) -> sqlite3.Connection:
        # Created by us, so that nobody else may read it: the files beside it get the same mode.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            # No other process has it open, and so none needs to share its index of the log that is written ahead.
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={self._sync}")
            connection.executescript(_SCHEMA.format(mark=self._first_mark))
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _unlink(self) -> None:
        with suppress(OSError):
            for end in ("", "-wal", "-shm", "-journal"):
                Path(f"{self.path}{end}").unlink(missing_ok=True)


def _lacks_space(error: BaseException | None) -> bool:
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) in _NO_SPACE


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


_all: WeakSet[OutboxFile] = WeakSet()
_all_lock = RLock()
_held: list[OutboxFile] = []


def _before_fork() -> None:
    """No connection of SQLite may be carried over a fork, not even to be closed, and none of its mutexes held."""
    _all_lock.acquire()
    _held.extend(_all)
    for file in _held:
        file._lock.acquire()
        file._disconnect()


def _after_fork_in_parent() -> None:
    for file in _held:
        file._lock.release()
    _held.clear()
    _all_lock.release()


def _after_fork_in_child() -> None:
    for file in _held:
        # The parent's. Its locks have this thread as their owner still.
        file._closed = True
    _after_fork_in_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
