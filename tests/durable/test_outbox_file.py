"""One writer's file: what is in it, and what it says where the disk does not take more."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.core.entries import Entry
from streamer.core.errors import OutboxNotWritable
from streamer.durable.outbox_file import Contents, OutboxFile
from tests.commands import DEADLINE_S, environment


def filled(path: Path, count: int) -> OutboxFile:
    file = OutboxFile(path)
    for number in range(1, count + 1):
        file.append(number, Entry("job", b"%d" % number))
    return file


def append_until_refused(file: OutboxFile, first: int) -> tuple[int, OutboxNotWritable]:
    """Append entries until one is refused; return its number, and the error."""
    for number in range(first, 1000):
        try:
            file.append(number, Entry(None, b"x" * 1000))
        except OutboxNotWritable as error:
            return number, error
    pytest.fail("it is never refused")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "writer.sqlite"


def test_entries_are_read_in_their_order(path: Path) -> None:
    file = OutboxFile(path)
    file.append(1, Entry(None, b"\x00\xff"))
    file.append(2, Entry("jöb", b""))
    assert file.read(1, 10) == [Entry(None, b"\x00\xff"), Entry("jöb", b"")]
    assert file.read(2, 10) == [Entry("jöb", b"")]
    assert file.read(1, 1) == [Entry(None, b"\x00\xff")]
    assert file.contents() == Contents(first=1, mark=0, last=2)


def test_what_is_acknowledged_is_noted_and_what_is_forgotten_is_gone(path: Path) -> None:
    file = filled(path, 9)
    file.acknowledge(6, 4)
    assert file.contents() == Contents(first=5, mark=6, last=9)
    file.acknowledge(9, 9)
    assert file.contents() == Contents(first=10, mark=9, last=9)


@pytest.mark.parametrize("sync", ["full", "normal"])
def test_a_file_opened_again_has_all(path: Path, sync: str) -> None:
    file = filled(path, 3)
    file.acknowledge(1, 0)
    file.close()
    file.close()
    again = OutboxFile(path, sync)
    assert again.contents() == Contents(first=1, mark=1, last=3)
    again.remove()
    assert not list(path.parent.iterdir())


def test_a_file_that_is_closed_says_so(path: Path) -> None:
    file = filled(path, 1)
    file.close()
    with pytest.raises(OutboxNotWritable, match=r"the durable outbox '.*writer.sqlite' cannot be used: it is closed"):
        file.append(2, Entry(None, b""))


def test_nobody_else_may_read_it(path: Path) -> None:
    filled(path, 3)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {0o600}


def test_a_file_that_is_no_outbox_is_refused_with_a_sentence(path: Path) -> None:
    path.write_bytes(b"nonsense " * 1000)
    with pytest.raises(OutboxNotWritable, match="not a database"):
        OutboxFile(path)


def test_a_full_disk_is_an_error_that_loses_nothing_and_ends_once_there_is_room(path: Path) -> None:
    file = filled(path, 1)
    with file._connected() as connection:
        connection.execute("PRAGMA max_page_count = 20")
    number, error = append_until_refused(file, 2)
    assert (error.temporary, error.reason) == (True, "database or disk is full")
    assert file.contents() == Contents(first=1, mark=0, last=number - 1)
    file.acknowledge(number - 1, number - 1)
    file.append(number, Entry(None, b"x" * 1000))
    assert file.contents() == Contents(first=number, mark=number - 1, last=number)


A_FILE_THAT_MAY_NOT_GROW = """
import resource, signal, sys
from pathlib import Path
from streamer.core.entries import Entry
from streamer.core.errors import OutboxNotWritable
from streamer.durable.outbox_file import OutboxFile

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
file = OutboxFile(Path(sys.argv[1]))
number = 0
try:
    while True:
        file.append(number + 1, Entry(None, b"x" * 1000))
        number += 1
except OutboxNotWritable as error:
    print(error, file=sys.stderr)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
file.append(number + 1, Entry(None, b"more"))
print(number + 1)
"""


def test_a_write_that_the_system_refuses_is_an_error_and_the_file_stays_whole(path: Path) -> None:
    script = [sys.executable, "-c", A_FILE_THAT_MAY_NOT_GROW, str(path)]
    done = subprocess.run(script, env=environment(), capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    assert "cannot be used: " in done.stderr
    assert OutboxFile(path).contents() == Contents(first=1, mark=0, last=int(done.stdout))


FORK_IN_THE_MIDST = """
import os, signal, sys, threading
from pathlib import Path
from streamer.core.entries import Entry
from streamer.core.errors import OutboxNotWritable
from streamer.durable.outbox_file import OutboxFile

directory = Path(sys.argv[1])
file, enough, count = OutboxFile(directory / "parent.sqlite", "normal"), threading.Event(), 0

def write():
    global count
    while not enough.is_set():
        file.append(count + 1, Entry(None, b"x" * 100))
        count += 1

thread = threading.Thread(target=write)
thread.start()
statuses = []
for n in range(30):
    child = os.fork()
    if not child:
        signal.alarm(20)
        own = OutboxFile(directory / f"child-{n}.sqlite", "normal")
        own.append(1, Entry(None, b"child"))
        own.close()
        try:
            file.append(10**6, Entry(None, b"the parent's is not the child's"))
        except OutboxNotWritable:
            sys.exit(enough.set())
        os._exit(5)
    statuses.append(os.waitpid(child, 0)[1])
enough.set()
thread.join()
assert not any(statuses), statuses
print(count)
"""


def test_a_fork_at_any_moment_leaves_the_parents_file_whole_and_the_child_may_have_its_own(tmp_path: Path) -> None:
    script = [sys.executable, "-c", FORK_IN_THE_MIDST, str(tmp_path)]
    done = subprocess.run(script, env=environment(), capture_output=True, text=True, timeout=2 * DEADLINE_S)
    assert done.returncode == 0, done.stderr
    count = int(done.stdout)
    assert OutboxFile(tmp_path / "parent.sqlite").contents() == Contents(1, 0, count)
    assert len(list(tmp_path.glob("child-*.sqlite"))) == 30


def test_a_directory_in_which_nothing_can_be_written_is_an_error(tmp_path: Path) -> None:
    # Where rights are no obstacle, as to root, a file in its place is.
    (tmp_path / "no-directory").write_text("")
    with pytest.raises(OutboxNotWritable, match=r"no-directory.*: "):
        OutboxFile(tmp_path / "no-directory" / "outbox.sqlite")


def test_on_a_full_disk_what_is_only_kept_gives_way_to_an_entry_before_which_nothing_waits(path: Path) -> None:
    file = filled(path, 3)
    with file._connected() as connection:
        connection.execute("PRAGMA max_page_count = 3")
    refused, error = append_until_refused(file, 4)
    assert "disk is full" in str(error)
    file.append(refused, Entry("job", b"it fits"), nothing_waits=True)
    file.append(refused + 1, Entry("job", b"and the next"))
    file.close()
    again = OutboxFile(path)
    assert again.contents() == Contents(refused, refused - 1, refused + 1)
    assert again.read(refused, 10) == [Entry("job", b"it fits"), Entry("job", b"and the next")]
    again.close()


def test_on_a_full_disk_all_gives_way_where_redis_has_it_and_not_even_that_can_be_noted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = filled(path, 3)
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    note, tries = file._note, iter([True, True, False])

    def note_in_vain(mark: int, forget: int) -> None:
        if next(tries):
            raise OutboxNotWritable(str(path), str(full)) from full
        note(mark, forget)

    monkeypatch.setattr(file, "_note", note_in_vain)
    file.acknowledge(3, 0, nothing_waits=True)
    assert file.contents() == Contents(4, 3, 3)
    file.close()
