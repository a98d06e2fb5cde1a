"""claim.lua and what append.lua makes of it, on every kind of store."""

from __future__ import annotations

import time

import pytest
import redis

from streamer.log.node_log import NodeLog
from streamer.log.scripts import UNCLAIMED, Appended, Token
from tests.log.writing import KEYS, Writer, batch, forget_node, stored
from tests.servers import wait_until

LEASE_MS = 60_000
A, B = Token("holder-a", 0), Token("holder-b", 0)


def claimed(log: NodeLog, token: Token, lease_ms: int = LEASE_MS) -> Token:
    """The token of a claim that is granted."""
    granted = log.claim(token, lease_ms).token
    assert granted is not None
    assert granted.holder == token.holder
    return granted


def append(writer: Writer, token: Token) -> Appended:
    """Append the writer's next update under a claim."""
    appended = writer.log.append(writer.id, batch(writer.last + 1, None), writer.retention, token)
    writer.last += appended.appended
    return appended


def end_lease(client: redis.Redis, node: str) -> None:
    """As when its time is over."""
    client.hset(KEYS.claim(node), "until", 1)


def test_one_holder_has_the_node_until_it_gives_it_up(log: NodeLog) -> None:
    a = claimed(log, A)
    refused = log.claim(B, LEASE_MS)
    assert refused.token is None
    assert 0 < refused.left_ms <= LEASE_MS
    log.claim(a, 0)
    b = claimed(log, B)
    assert b.number > a.number


def test_each_claim_has_a_greater_token_and_a_renewal_the_same(log: NodeLog) -> None:
    a = claimed(log, A)
    assert claimed(log, a) == a
    log.claim(a, 0)
    b = claimed(log, B)
    log.claim(b, 0)
    assert a.number < b.number < claimed(log, A).number


def test_a_claim_whose_answer_was_lost_is_claimed_again_under_the_same_token(log: NodeLog) -> None:
    assert claimed(log, A) == claimed(log, A)


def test_a_lease_ends_by_itself(log: NodeLog) -> None:
    claimed(log, A, lease_ms=50)
    wait_until("the lease is over", lambda: log.claim(B, LEASE_MS).token)


def test_a_renewal_makes_the_lease_longer(log: NodeLog) -> None:
    a = claimed(log, A, lease_ms=1)
    time.sleep(0.01)
    a = claimed(log, a)
    assert log.claim(B, LEASE_MS).token is None


def test_a_claim_that_is_over_is_renewed_under_a_new_token_if_nobody_came_between(
    log: NodeLog, client: redis.Redis, node: str
) -> None:
    a = claimed(log, A)
    end_lease(client, node)
    again = claimed(log, a)
    assert again.number > a.number
    assert append(Writer(log), a).refused == "taken", "what was sent under the old token comes too late"
    assert append(Writer(log), again).appended == 1


def test_a_claim_that_another_has_taken_is_not_renewed(log: NodeLog, client: redis.Redis, node: str) -> None:
    a = claimed(log, A)
    end_lease(client, node)
    b = claimed(log, B)
    assert log.claim(a, LEASE_MS).token is None
    end_lease(client, node)
    assert log.claim(a, LEASE_MS).token is None
    log.claim(a, 0)
    assert claimed(log, b).holder == "holder-b", "giving up what is another's changes nothing"


def test_only_the_holder_appends(log: NodeLog, client: redis.Redis, node: str) -> None:
    a, writer, other = claimed(log, A), Writer(log), Writer(log)
    assert append(writer, a).appended == 1
    refused = append(other, UNCLAIMED)
    assert (refused.refused, refused.appended) == ("claimed", 0)
    assert append(other, Token("holder-b", a.number)).refused == "taken"
    assert append(other, Token("holder-a", a.number - 1)).refused == "taken"
    assert len(stored(client, node)) == 1


def test_the_holder_appends_nothing_once_its_lease_is_over(log: NodeLog, client: redis.Redis, node: str) -> None:
    a, writer = claimed(log, A), Writer(log)
    append(writer, a)
    end_lease(client, node)
    assert append(writer, a).refused == "expired"
    assert len(stored(client, node)) == 1


def test_others_append_once_the_lease_is_over_and_then_the_holder_never_again(
    log: NodeLog, client: redis.Redis, node: str
) -> None:
    a, other = claimed(log, A), Writer(log)
    end_lease(client, node)
    assert append(other, UNCLAIMED).appended == 1
    assert log.claim(a, LEASE_MS).token is None
    assert append(Writer(log), a).refused == "taken"
    assert append(other, UNCLAIMED).appended == 1
    assert claimed(log, B).number > a.number


def test_others_append_once_the_claim_is_given_up(log: NodeLog) -> None:
    a, other = claimed(log, A), Writer(log)
    log.claim(a, 0)
    assert append(other, UNCLAIMED).appended == 1


def test_a_retry_of_what_was_appended_is_acknowledged_whoever_has_the_node_now(
    log: NodeLog, client: redis.Redis, node: str
) -> None:
    a, writer = claimed(log, A), Writer(log)
    append(writer, a)
    end_lease(client, node)
    claimed(log, B)
    again = log.append(writer.id, batch(1, None), writer.retention, a)
    assert (again.seen, again.appended, again.refused) == (1, 0, "")


def test_a_claim_that_redis_has_lost_is_renewed_under_a_greater_token(
    log: NodeLog, client: redis.Redis, node: str
) -> None:
    a = claimed(log, A)
    forget_node(client, node)
    assert append(Writer(log), a).refused == "expired"
    assert claimed(log, a).number > a.number


@pytest.mark.parametrize("token", [A, Token("holder-a", 7)])
def test_giving_up_what_nobody_has_changes_nothing(log: NodeLog, client: redis.Redis, node: str, token: Token) -> None:
    log.claim(token, 0)
    assert not client.exists(KEYS.claim(node))
