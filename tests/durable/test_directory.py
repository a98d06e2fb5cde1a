"""Whose file is whose: one writer a file, and a dead writer's goes to the next process of the node."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.entries import Entry
from streamer.core.errors import OutboxNotWritable
from streamer.durable.directory import OutboxDirectory, OwnedFile, directory_name
from tests.commands import DEADLINE_S, environment, first_line


def outboxes(path: Path, node: str = "gpu-1", prefix: str = "streamer:") -> OutboxDirectory:
    return OutboxDirectory(str(path), prefix, node, "normal")


def writers(owned: list[OwnedFile]) -> list[str]:
    return sorted(one.writer for one in owned)


def files(path: Path) -> list[str]:
    return sorted(file.name for file in path.rglob("*") if file.is_file())


def test_a_living_writers_file_is_not_adopted_and_a_released_one_is_once(tmp_path: Path) -> None:
    mine = outboxes(tmp_path).create("a")
    mine.file.append(1, Entry(None, b"x"))
    assert outboxes(tmp_path).adopt() == []
    mine.release(empty=False)
    adopted = outboxes(tmp_path).adopt()
    assert writers(adopted) == ["a"]
    assert adopted[0].file.read(1, 9) == [Entry(None, b"x")]
    assert outboxes(tmp_path).adopt() == []


def test_an_empty_one_is_deleted(tmp_path: Path) -> None:
    mine = outboxes(tmp_path).create("a")
    mine.release(empty=True)
    mine.release(empty=True)
    assert files(tmp_path) == []


def test_nodes_and_prefixes_do_not_adopt_each_others(tmp_path: Path) -> None:
    outboxes(tmp_path).create("a").release(empty=False)
    assert outboxes(tmp_path, node="gpu-2").adopt() == []
    assert outboxes(tmp_path, prefix="other:").adopt() == []
    assert writers(outboxes(tmp_path).adopt()) == ["a"]


def test_one_that_is_damaged_is_logged_and_left_and_the_others_are_adopted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = outboxes(tmp_path)
    (directory.path / "broken.sqlite").write_bytes(b"nonsense " * 1000)
    directory.create("whole").release(empty=False)
    assert writers(directory.adopt()) == ["whole"]
    assert directory.adopt() == []
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "broken.sqlite" in caplog.text
    assert "broken.sqlite" in files(tmp_path)


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutboxNotWritable, match="cannot be used"):
        outboxes(tmp_path / "file")


@given(node=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256))
def test_a_nodes_directory_has_a_name_that_is_safe_everywhere(node: str) -> None:
    name = directory_name("streamer:", node)
    assert name.isascii()
    assert len(name) < 64
    assert not set(name) & set("/\\:. \0")


@pytest.mark.parametrize("other", ["A", "a ", "../a", "a/", "%61"])
def test_names_that_look_alike_have_directories_of_their_own(other: str) -> None:
    assert directory_name("streamer:", "a") != directory_name("streamer:", other)
    assert directory_name("streamer:", "a") != directory_name("streamer:a", other)


OWN_AND_FORK = """
import os, sys, time
from streamer.core.entries import Entry
from streamer.durable.directory import OutboxDirectory

owned = OutboxDirectory(sys.argv[1], "streamer:", "gpu-1", "normal").create("parent")
owned.file.append(1, Entry(None, b"x"))
if not os.fork():
    # By now it has let go of its parent's lock.
    print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_a_killed_process_leaves_its_file_also_where_a_child_of_it_lives_on(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", OWN_AND_FORK, str(tmp_path)]
    with subprocess.Popen(arguments, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        child = int(first_line(process))
        try:
            assert outboxes(tmp_path).adopt() == []
            process.kill()
            process.wait(DEADLINE_S)
            assert writers(outboxes(tmp_path).adopt()) == ["parent"]
        finally:
            os.kill(child, signal.SIGKILL)
