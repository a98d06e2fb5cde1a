"""Values of files that change."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from streamer.core.errors import InvalidSetting
from streamer.gateway.reloading import LOOK_S, MOST_BYTES, Reloaded


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def number(contents: tuple[bytes, ...]) -> int:
    try:
        return sum(map(int, contents))
    except ValueError:
        raise InvalidSetting("no number") from None


def test_a_change_is_seen_within_a_second_and_a_broken_file_keeps_the_value_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, clock = tmp_path / "file", Clock()
    file.write_text("1")
    reloaded = Reloaded((str(file),), number, clock)
    file.write_text("2")
    assert reloaded.current() == 1
    clock.now += LOOK_S
    assert reloaded.current() == 2
    for broken in ("x", None):
        caplog.clear()
        file.write_text(broken) if broken else file.unlink()
        for _ in range(3):
            clock.now += LOOK_S
            assert reloaded.current() == 2
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
    file.write_text("3")
    clock.now += LOOK_S
    assert reloaded.current() == 3


def test_links_that_are_turned_to_other_files_count(tmp_path: Path) -> None:
    # As in a volume of Kubernetes: the file is a link into a directory that is itself a link, which is replaced.
    for n in (1, 2):
        (tmp_path / str(n)).mkdir()
        (tmp_path / str(n) / "file").write_text(str(n))
    (tmp_path / "data").symlink_to("1")
    (tmp_path / "file").symlink_to("data/file")
    clock = Clock()
    reloaded = Reloaded((str(tmp_path / "file"),), number, clock)
    (tmp_path / "new").symlink_to("2")
    (tmp_path / "new").rename(tmp_path / "data")
    clock.now += LOOK_S
    assert reloaded.current() == 2


def test_files_are_of_one_value_together(tmp_path: Path) -> None:
    one, two, clock = tmp_path / "one", tmp_path / "two", Clock()
    one.write_text("1")
    two.write_text("2")
    reloaded = Reloaded((str(one), str(two)), number, clock)
    two.write_text("5")
    clock.now += LOOK_S
    assert reloaded.current() == 6


def test_a_file_that_cannot_be_used_at_first_is_an_error(tmp_path: Path) -> None:
    for content in ("x", "1" * (MOST_BYTES + 1)):
        (tmp_path / "file").write_text(content)
        with pytest.raises(InvalidSetting):
            Reloaded((str(tmp_path / "file"),), number)
    with pytest.raises(InvalidSetting, match="cannot be read: Is a directory"):
        Reloaded((str(tmp_path),), number)
