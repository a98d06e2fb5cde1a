"""Where a node's durable outboxes are, and which of them are whose.

Each writer of a node, a process's instance, has a SQLite file of its own, and beside it a file that it keeps locked
for as long as it lives; the kernel ends the lock with the process, however that ends. Other processes of the node take
over the files whose lock is free, each the first that comes: their writers are dead.

    DIRECTORY/gpu-1-8c2f0e6b7a915d34/3f9a1c2b7d4e.sqlite   and .lock
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from threading import RLock
from weakref import WeakSet

from streamer.core.errors import OutboxNotWritable
from streamer.durable.outbox_file import OutboxFile

_log = logging.getLogger(__name__)

_READABLE = 40
"""So many characters of a node's name stand in its directory's: for people, the rest tells it apart."""


class OwnedFile:
    """A writer's outbox file that this process owns, until `release` or its end.

    ``silent_s`` is how many seconds ago it had last been written.
    """

    def __init__(self, writer: str, file: OutboxFile, lock: int, silent_s: float) -> None:
        self.writer, self.file, self.silent_s = writer, file, silent_s
        self._lock: int | None = lock
        _owned.add(self)

    def release(self, *, empty: bool) -> None:
        """Own it no longer: delete it where it is empty, else leave it to the next writer. May be called twice."""
        if self._lock is None:
            return
        if empty:
            self.file.remove()
            # Before the lock ends, so that whoever waits for it finds nothing.
            with suppress(OSError):
                _lock_path(self.file.path).unlink(missing_ok=True)
        self.file.close()
        self._forget_lock()

    def _forget_lock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


class OutboxDirectory:
    """The outbox files of one node, under one prefix of keys, on this machine.

    Raises OutboxNotWritable where the directory cannot be made or written.
    """

    def __init__(self, directory: str, prefix: str, node: str, sync: str) -> None:
        self.path = Path(directory) / directory_name(prefix, node)
        self._sync = sync
        self._told: set[str] = set()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync_directory(self.path.parent)
        except OSError as error:
            raise OutboxNotWritable(str(self.path), error.strerror or str(error)) from error

    def create(self, writer: str) -> OwnedFile:
        """A new writer's file."""
        owned = self._own(self.path / f"{writer}.sqlite")
        assert owned is not None, "a writer's random id is taken"
        return owned

    def adopt(self) -> list[OwnedFile]:
        """Own the files of dead writers from now on, the one that is silent longest first.

        One that cannot be read is logged, the first time, and left.
        """
        adopted = []
        for path in self.path.glob("*.sqlite"):
            try:
                owned = self._own(path, only_existing=True)
            except OutboxNotWritable as error:
                if self.is_news_of(path.stem):
                    _log.error("updates of a process that has ended stay where they are: %s", error)
                continue
            if owned is not None:
                adopted.append(owned)
        return sorted(adopted, key=lambda owned: -owned.silent_s)

    def is_news_of(self, writer: str) -> bool:
        """Whether it is asked for the first time: what is wrong with a writer's file is told once."""
        news = writer not in self._told
        self._told.add(writer)
        return news

    def _own(self, path: Path, *, only_existing: bool = False) -> OwnedFile | None:
        with _owning:
            lock = _lock(path)
            if lock is None:
                return None
            try:
                if only_existing and not path.exists():
                    # Between being listed and being locked it was removed, and its lock file made anew here.
                    _lock_path(path).unlink(missing_ok=True)
                    os.close(lock)
                    return None
                silent_s = time.time() - _last_written(path) if only_existing else 0.0
                return OwnedFile(path.stem, OutboxFile(path, self._sync), lock, silent_s)
            except BaseException:
                os.close(lock)
                raise


def directory_name(prefix: str, node: str) -> str:
    """A name that any file system takes, another for each prefix and node, and readable where the node's name is."""
    digest = hashlib.sha256(f"{prefix}\0{node}".encode()).hexdigest()[:16]
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", node)[:_READABLE]
    return f"{readable}-{digest}"


def _lock(path: Path) -> int | None:
    """Lock the file beside an outbox's; None where another has it."""
    try:
        lock = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise OutboxNotWritable(str(path), error.strerror or str(error)) from error
    try:
        # flock and not lockf: whose locks exclude other processes only, and end when any file of the same name closes.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_nlink:  # else its last owner has removed it meanwhile
            return lock
    except OSError:
        pass
    os.close(lock)
    return None


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def _last_written(path: Path) -> float:
    ahead = Path(f"{path}-wal")
    return max(file.stat().st_mtime for file in (path, ahead) if file.exists())


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


_owned: WeakSet[OwnedFile] = WeakSet()
_owning = RLock()
"""Held at a fork, so that no lock of a file is carried over that is not among the owned yet."""


def _after_fork_in_child() -> None:
    # The lock is the parent's and ends with it, unless the child holds on to it.
    for owned in list(_owned):
        owned._forget_lock()
    _owning.release()


os.register_at_fork(before=_owning.acquire, after_in_parent=_owning.release, after_in_child=_after_fork_in_child)
