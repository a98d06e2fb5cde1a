"""What is followed beside logs: whatever is lost, late or fails, in the end all is known, and nobody is told twice."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamer.core.errors import LogUnavailable
from streamer.fanout.job_nodes import JobNodes
from streamer.log.keys import Keys
from tests.fanout.fakes import FakeRedis, StillLoop
from tests.fanout.model_log import ModelLog

JOB = "j"
CHANNEL = Keys().job(JOB)
EVERY_S = 5.0


class Follows:
    """Whoever follows: what it found, and what appeared."""

    def __init__(self, nodes: JobNodes) -> None:
        self.told = list(nodes.nodes)
        nodes.follows.add(self)

    def appeared(self, node: str) -> None:
        self.told.append(node)


class JobNodesAgainstAnIndex(RuleBasedStateMachine):
    """Nodes come into the index; what is published of that may be lost or late, and reads may be late or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = StillLoop()
        self.redis = FakeRedis(ModelLog(keep=1))
        self.loop.call_soon(self._open)
        self.loop.turn(5)
        self.follows: list[Follows] = []
        self.delivered: set[str] = set()

    def _open(self) -> None:
        redis: Any = self.redis
        self.nodes = JobNodes(JOB, redis, redis, Keys(), EVERY_S, Random(0))

    @rule(node=st.sampled_from("abcdef"), published=st.booleans())
    def run_the_job(self, node: str, published: bool) -> None:
        if node not in self.redis.index:
            self.redis.index.append(node)
            if published:
                self.redis.publish(CHANNEL, node.encode())

    @rule()
    def be_flushed(self) -> None:
        self.redis.index.clear()
        self.delivered.clear()

    @rule(count=st.integers(1, 2))
    def deliver(self, count: int) -> None:
        come = {message.decode() for message in self.redis.subscriptions[CHANNEL].in_flight[:count]}
        self.delivered |= come & set(self.redis.index)
        self.loop.call_soon(self.redis.deliver, CHANNEL, count)
        self.loop.turn(3)

    @rule()
    def reconnect(self) -> None:
        self.loop.call_soon(self.redis.reconnect)
        self.loop.turn(3)

    @precondition(lambda self: not self.redis.subscriptions[CHANNEL].confirmation.done())
    @rule()
    def confirm(self) -> None:
        self.redis.subscriptions[CHANNEL].confirmation.set_result(None)
        self.loop.turn(5)

    @precondition(lambda self: self.redis.questions)
    @rule(what=st.sampled_from(["look", "arrive", "fail"]))
    def answer(self, what: str) -> None:
        [question] = self.redis.questions
        if what == "look":
            self.redis.look(question, 500)
        elif what == "fail":
            self.redis.fail(question)
        elif question.answer is not None:
            self.redis.arrive(question)
        self.loop.turn(5)

    @rule(seconds=st.sampled_from([0.1, 1, 6]))
    def pass_time(self, seconds: float) -> None:
        self.loop.now += seconds
        self.loop.turn(5)

    @precondition(lambda self: self.nodes.opened.done())
    @rule()
    def follow(self) -> None:
        self.follows.append(Follows(self.nodes))

    @invariant()
    def what_was_heard_of_is_known(self) -> None:
        assert self.delivered <= set(self.nodes.nodes)

    def teardown(self) -> None:
        for subscription in self.redis.subscriptions.values():
            subscription.in_flight.clear()
        for _ in range(4):
            self.loop.call_soon(self.redis.settle, 500)
            self.loop.turn(5)
            self.loop.now += 2 * EVERY_S
            self.loop.turn(5)
        assert set(self.nodes.nodes) == set(self.redis.index)
        for follows in (*self.follows, Follows(self.nodes)):
            assert set(self.redis.index) <= set(follows.told)
        self.nodes.close()
        self.loop.turn(5)
        assert not asyncio.all_tasks(self.loop)
        assert not self.redis.subscriptions
        self.loop.close()


TestJobNodesAgainstAnIndex = JobNodesAgainstAnIndex.TestCase
TestJobNodesAgainstAnIndex.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_where_redis_refuses_the_channel_it_is_said_to_who_waits() -> None:
    loop, redis = StillLoop(), FakeRedis(ModelLog(keep=1))

    async def refuse(channel: str, listener: object) -> None:
        raise LogUnavailable("no right")

    redis.subscribe = refuse  # type: ignore[method-assign, assignment]

    async def open_it() -> JobNodes:
        nodes = JobNodes(JOB, cast(Any, redis), cast(Any, redis), Keys(), EVERY_S, Random(0))
        await asyncio.wait([nodes.opened])
        return nodes

    nodes = loop.run_until_complete(open_it())
    loop.turn(3)
    assert isinstance(nodes.opened.exception(), LogUnavailable)
    assert nodes.failed
    nodes.close()
    loop.close()


def test_what_is_heard_while_the_index_is_read_is_not_lost_with_an_older_answer() -> None:
    machine = JobNodesAgainstAnIndex()
    machine.confirm()
    machine.answer("look")
    machine.run_the_job("a", published=True)
    machine.deliver(1)
    machine.answer("arrive")
    assert list(machine.nodes.nodes) == ["a"]
    machine.what_was_heard_of_is_known()
    machine.teardown()
