"""Cursors and their tokens."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamer.core.cursor import MAX_INDEX, START, Cursor
from streamer.core.errors import InvalidCursor

log_ids = st.text("0123456789abcdef", min_size=1, max_size=32)
epochs = st.integers(0, 2**32 - 1)
indexes = st.integers(-1, MAX_INDEX)
cursors = st.builds(Cursor, log_ids, epochs, indexes)


@given(cursor=cursors)
def test_a_token_is_read_back_as_the_cursor_it_was_made_of(cursor: Cursor) -> None:
    assert Cursor.parse(cursor.token) == cursor


@given(cursor=cursors, other=cursors)
def test_different_cursors_have_different_tokens(cursor: Cursor, other: Cursor) -> None:
    assert (cursor.token == other.token) == (cursor == other)


@given(index=indexes)
def test_a_bare_index_is_a_cursor_of_whatever_log_there_is(index: int) -> None:
    assert Cursor.parse(str(index)) == Cursor("", 0, index)


def test_the_index_before_the_first_update_is_the_start() -> None:
    assert Cursor.parse("-1") == START


@given(text=st.text(max_size=40) | st.from_regex(r"[0-9a-fx]{0,40}\.-?[0-9]{0,12}\.-?[0-9]{0,20}"))
@example(text="")
@example(text="-2")
@example(text="+1")
@example(text=" 1")
@example(text="1\n")
@example(text="١٢")
@example(text="1_0")
@example(text="abc.1.2.3")
@example(text="ABC.1.2")
@example(text="abc.-1.2")
@example(text="abc.1.-2")
@example(text=f"abc.1.{MAX_INDEX + 1}")
@example(text="0" * 5000)
def test_any_other_text_is_refused_and_never_read_as_something_else(text: str) -> None:
    with suppress(InvalidCursor):
        cursor = Cursor.parse(text)
        assert -1 <= cursor.index <= MAX_INDEX
        parts = text.split(".") if cursor.log_id else [text]
        assert [part.lstrip("0") for part in parts[-1:]] == [str(cursor.index).lstrip("0")]


def test_an_error_stays_short_however_long_the_text() -> None:
    with pytest.raises(InvalidCursor) as raised:
        Cursor.parse("\x00" * 5000)
    assert len(str(raised.value)) < 500


def test_an_index_beyond_what_the_scripts_can_count_is_refused() -> None:
    assert Cursor.parse(str(MAX_INDEX)).index == MAX_INDEX
    with pytest.raises(InvalidCursor, match="beyond the greatest"):
        Cursor.parse(str(MAX_INDEX + 1))


def test_the_error_shows_what_was_given_in_plain_ascii() -> None:
    with pytest.raises(InvalidCursor, match=r"^'\\xfc\\n' is no cursor"):
        Cursor.parse("ü\n")
