"""Which server has which key, from what servers and Sentinels answer."""

from __future__ import annotations

import pytest
from redis.exceptions import AskError, MovedError

from streamer.log.routing import SLOTS, OneServer, Slots, newest_master, redirected, slot_of

HALVES = [
    [0, 8191, [b"a", 1, b"id", []], [b"replica", 9, b"id", []]],
    [8192, 16383, [b"b", 2, b"id", []]],
]
ASKED = ("asked", 7)


def key_in(slot_half: int) -> str:
    """A key in the lower or the upper half of the slots."""
    return next(key for key in map(str, range(1000)) if slot_of(key) // 8192 == slot_half)


def test_the_slot_is_that_of_the_hash_tag() -> None:
    assert slot_of("123456789") == 0x31C3
    assert slot_of("streamer:{node}:all") == slot_of(b"streamer:{node}:job:x") == slot_of("node")


def test_one_server_has_all_keys() -> None:
    route = OneServer(("h", 1))
    assert (route.addresses, route.server_of("any"), route.tag_on(("h", 1))) == ([("h", 1)], ("h", 1), "")
    assert route.tag_on(("other", 1)) is None


def test_masters_have_the_slots_that_are_told() -> None:
    slots = Slots.parse(HALVES, ASKED)
    assert slots.addresses == [("a", 1), ("b", 2)]
    assert [slots.server_of(key_in(half)) for half in (0, 1)] == [("a", 1), ("b", 2)]
    for address in slots.addresses:
        tag = slots.tag_on(address)
        assert tag is not None
        assert slots.server_of(f"probe:{{{tag}}}") == address
    assert slots.tag_on(("replica", 9)) is None


def test_slots_that_nobody_has_lead_nowhere() -> None:
    slots = Slots.parse(HALVES[:1], ASKED)
    assert slots.server_of(key_in(1)) is None
    assert Slots.parse([], ASKED).addresses == []


@pytest.mark.parametrize("host", [None, b""])
def test_a_server_that_does_not_know_its_name_is_where_it_was_asked(host: bytes | None) -> None:
    assert Slots.parse([[0, SLOTS - 1, [host, 5, b"id"]]], ASKED).addresses == [("asked", 5)]


@pytest.mark.parametrize("reply", [None, b"OK", [[1]], [[0, 1, None]], [[0, 1, [1, 2]]]])
def test_what_is_no_answer_is_refused(reply: object) -> None:
    with pytest.raises(ValueError, match="CLUSTER SLOTS was answered with"):
        Slots.parse(reply, ASKED)


def test_a_slot_that_has_moved_leads_elsewhere_and_no_other_does() -> None:
    before = Slots.parse(HALVES, ASKED)
    after = before.moved(slot_of(key_in(0)), ("b", 2))
    assert after != before
    assert after.server_of(key_in(0)) == ("b", 2)
    assert before.server_of(key_in(0)) == ("a", 1)
    assert after.moved(slot_of(key_in(0)), ("a", 1)) == before


@pytest.mark.parametrize("kind", [MovedError, AskError])
def test_a_redirection_without_a_host_leads_to_another_port_of_the_one_asked(kind: type[AskError]) -> None:
    assert redirected(kind("3999 10.0.0.1:6381"), ASKED) == ("10.0.0.1", 6381)
    assert redirected(kind("3999 :6381"), ASKED) == ("asked", 6381)
    assert redirected(kind("3999 2001:db8::1:6381"), ASKED) == ("2001:db8::1", 6381)


def sentinel_says(port: int, epoch: int) -> list[bytes]:
    """What a Sentinel answers."""
    return [b"name", b"log", b"ip", b"h", b"port", b"%d" % port, b"config-epoch", b"%d" % epoch]


def test_of_several_masters_that_of_the_last_failover_counts() -> None:
    assert newest_master([sentinel_says(1, 3), sentinel_says(2, 5), sentinel_says(3, 4)]) == ("h", 2)


def test_sentinels_that_do_not_answer_or_know_nothing_are_left_out() -> None:
    assert newest_master([ConnectionError(), None, [b"ip"], [b"ip", b"h"], sentinel_says(1, 0)]) == ("h", 1)
    assert newest_master([ConnectionError()]) is None
