"""When a claim is renewed, and when its process must not renew it any more."""

from __future__ import annotations

from streamer.core.claim import Claim

LEASE_S = 9.0


def granted(at: float = 0.0) -> Claim:
    claim = Claim("me", LEASE_S, at)
    claim.granted(5, at)
    return claim


def test_it_is_to_be_claimed_at_once_and_renewed_thrice_in_a_lease() -> None:
    claim = Claim("me", LEASE_S, now=100)
    assert claim.due_in_s(100) == 0
    claim.granted(5, asked_at=100)
    assert [claim.due_in_s(now) for now in (100, 102, 103, 110)] == [3, 1, 0, 0]


def test_one_that_is_over_for_redis_is_renewed_at_once() -> None:
    claim = granted()
    claim.expired()
    assert claim.due_in_s(1) == 0


def test_a_process_at_work_may_renew() -> None:
    claim = granted()
    for now in range(0, 100, 2):
        claim.stir(now)
        claim.granted(5, now)
    assert not claim.paused


def test_a_process_that_stood_still_for_longer_than_the_lease_may_not() -> None:
    claim = granted()
    claim.stir(2)
    claim.stir(2 + LEASE_S + 0.1)
    assert claim.paused


def test_nor_one_that_stood_still_until_after_the_end_of_its_lease() -> None:
    claim = granted()
    claim.stir(2.9)
    claim.stir(LEASE_S + 0.1)
    assert claim.paused


def test_one_that_could_not_reach_redis_for_longer_than_the_lease_may() -> None:
    claim = granted()
    for now in (3, 6, 9, 12, 60 / 4):
        claim.stir(now)
        claim.fail()
    claim.stir(18)
    assert not claim.paused
    claim.granted(6, 18)
    claim.stir(18 + LEASE_S + 1)
    assert claim.paused, "that it could not once is no reason later"


def test_one_that_stood_still_in_an_outage_may_not() -> None:
    claim = granted()
    claim.stir(3)
    claim.fail()
    claim.stir(13)
    assert claim.paused


def test_without_a_claim_nothing_is_missed() -> None:
    claim = Claim("me", LEASE_S, 0)
    claim.stir(1000)
    assert not claim.paused
