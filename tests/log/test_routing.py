"""Which server has which key, from what servers and Sentinels answer."""

from __future__ import annotations

import pytest
from redis.exceptions import AskError, MovedError

from streamer.log.routing import OUTDATED_S, SLOTS, Masters, OneServer, Slots, newest_master, redirected, slot_of

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


BUSY = b"master,failover_in_progress"


def sentinel_says(port: int, epoch: int, flags: bytes = b"master") -> list[bytes]:
    """What a Sentinel answers."""
    return [b"name", b"log", b"ip", b"h", b"port", b"%d" % port, b"flags", flags, b"config-epoch", b"%d" % epoch]


def port_of_newest(*replies: object) -> int | None:
    """The port of the master that counts, which all name on one host."""
    named = newest_master(replies)
    assert named is None or named.address[0] == "h"
    return named and named.address[1]


def test_of_several_masters_that_of_the_last_failover_counts() -> None:
    assert port_of_newest(sentinel_says(1, 3), sentinel_says(2, 5), sentinel_says(3, 4)) == 2


def test_sentinels_that_do_not_answer_or_know_nothing_are_left_out() -> None:
    assert port_of_newest(ConnectionError(), None, [b"ip"], [b"ip", b"h"], sentinel_says(1, 0)) == 1
    assert port_of_newest(ConnectionError()) is None


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_masters_of_one_failover_that_of_a_sentinel_which_is_not_busy_with_it_counts(order: int) -> None:
    replies = [sentinel_says(1, 4, BUSY), sentinel_says(2, 4)]
    assert port_of_newest(*replies[::order]) == 2


def test_the_sentinel_that_fails_over_counts_where_it_knows_of_the_last_failover_alone() -> None:
    assert port_of_newest(sentinel_says(1, 4, BUSY)) == 1
    assert port_of_newest(sentinel_says(2, 3), sentinel_says(1, 4, BUSY)) == 1


def test_a_master_is_not_gone_back_to_while_some_sentinels_still_name_it() -> None:
    masters = Masters()
    assert masters.newest([sentinel_says(1, 3)], now=0) == ("h", 1)
    assert masters.newest([sentinel_says(1, 4, BUSY)], now=1) == ("h", 1)
    assert masters.newest([sentinel_says(2, 4)], now=2) == ("h", 2)
    assert masters.newest([sentinel_says(1, 4, BUSY), sentinel_says(1, 3)], now=3) == ("h", 2)
    assert masters.newest([sentinel_says(1, 3)], now=4) == ("h", 2)
    assert masters.newest([ConnectionError()], now=5) is None
    assert masters.newest([sentinel_says(1, 5)], now=6) == ("h", 1)


def test_a_master_that_nobody_names_any_more_is_forgotten_in_time() -> None:
    masters = Masters()
    assert masters.newest([sentinel_says(1, 7)], now=0) == ("h", 1)
    assert masters.newest([sentinel_says(2, 7, BUSY)], now=1) == ("h", 1)
    assert masters.newest([sentinel_says(2, 0)], now=1 + OUTDATED_S) == ("h", 1)
    assert masters.newest([sentinel_says(2, 0)], now=1.1 + OUTDATED_S) == ("h", 2)
    assert masters.newest([sentinel_says(3, 0)], now=2 + OUTDATED_S) == ("h", 3)
