"""What may be a name, and what a topic is called."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamer.core.errors import InvalidInput, InvalidName
from streamer.core.names import ALL, MAX_NAME_BYTES, Topic, check_job, check_node

CHECKS = pytest.mark.parametrize("check", [check_node, check_job])

Check = Callable[[object], str]


def is_name(text: str) -> bool:
    """What the vocabulary says of names, in other words."""
    return 1 <= len(text.encode(errors="surrogatepass")) <= MAX_NAME_BYTES and not any(
        unicodedata.category(character) in ("Cc", "Cs") for character in text
    )


@CHECKS
@given(text=st.text(max_size=80))
@example(text=ALL + ALL)
@example(text="\u2028")
@example(text="a" * MAX_NAME_BYTES)
@example(text="ä" * (MAX_NAME_BYTES // 2))
@example(text="ä" * (MAX_NAME_BYTES // 2) + "a")
@example(text="\x7f")
@example(text="\x85")
@example(text="half a pair \ud83d")
def test_text_without_control_characters_up_to_256_bytes_is_a_name(check: Check, text: str) -> None:
    if text == ALL:
        return
    if is_name(text):
        assert check(text) == text
    else:
        with pytest.raises(InvalidName):
            check(text)


def test_all_is_a_nodes_name_but_no_jobs() -> None:
    assert check_node(ALL) == ALL
    with pytest.raises(InvalidName, match="all updates of the node"):
        check_job(ALL)


@CHECKS
@pytest.mark.parametrize("name", [None, 7, b"node", ["node"], 1.5, True])
def test_what_is_not_text_is_refused_by_the_name_of_its_type(check: Check, name: object) -> None:
    with pytest.raises(InvalidName, match=f"not {type(name).__name__}"):
        check(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "cannot be empty"),
        ("a\nb", r"control characters, this one holds '\\n'"),
        ("a" * 257, "256 bytes at the most, this one has 257"),
        ("\ud800", "half a surrogate pair"),
    ],
)
def test_the_error_says_what_is_wrong_and_with_whose_name(name: str, reason: str) -> None:
    with pytest.raises(InvalidName, match=f"^a node's name .*{reason}"):
        check_node(name)
    with pytest.raises(InvalidName, match=f"^a job's name .*{reason}"):
        check_job(name)


def test_an_invalid_name_can_be_caught_as_the_value_error_that_it_is() -> None:
    assert issubclass(InvalidName, InvalidInput)
    assert issubclass(InvalidInput, ValueError)


def test_a_topic_is_shown_as_its_node_and_its_job_if_it_has_one() -> None:
    assert str(Topic("n1")) == "n1"
    assert str(Topic("n1", "j1")) == "n1/j1"
