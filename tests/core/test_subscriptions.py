"""What a v1 connection may do with its topics, against a plain set."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamer.core.names import Fleet, JobAnywhere, Subject, Topic
from streamer.core.protocol import Code
from streamer.core.subscriptions import TABLE, Event, State, Subscriptions

topics = st.builds(Topic, st.sampled_from("ab"), st.sampled_from([None, "j", "k"]))
subjects = topics | st.builds(JobAnywhere, st.sampled_from("jk")) | st.just(Fleet())


def crossed(subject: Subject, other: Subject) -> bool:
    """Whether both are of one job, the one on all nodes and the other on a single one."""
    match subject, other:
        case (JobAnywhere(job), Topic(_, one)) | (Topic(_, one), JobAnywhere(job)):
            return job == one
    return False


class SubscriptionsAgainstASet(RuleBasedStateMachine):
    """``watched`` is what the client follows; of ``joining`` it has not been told yet."""

    @initialize(most=st.integers(1, 3))
    def connect(self, most: int) -> None:
        self.most = most
        self.subscriptions = Subscriptions(most)
        self.watched: set[Subject] = set()
        self.joining: Subject | None = None

    @precondition(lambda self: self.joining is None)
    @rule(topic=subjects)
    def subscribe(self, topic: Subject) -> None:
        code = self.subscriptions.meet(topic, Event.SUBSCRIBE)
        if topic in self.watched or any(crossed(topic, other) for other in self.watched):
            assert code is Code.ALREADY_SUBSCRIBED
        elif len(self.watched) == self.most:
            assert code is Code.TOO_MANY_TOPICS
        else:
            assert code is None
            self.joining = topic

    @precondition(lambda self: self.joining is not None)
    @rule(joined=st.booleans())
    def be_answered(self, joined: bool) -> None:
        assert self.joining is not None
        assert self.subscriptions.meet(self.joining, Event.JOINED if joined else Event.FAILED) is None
        if joined:
            self.watched.add(self.joining)
        self.joining = None

    @precondition(lambda self: self.joining is None)
    @rule(topic=subjects)
    def unsubscribe(self, topic: Subject) -> None:
        code = self.subscriptions.meet(topic, Event.UNSUBSCRIBE)
        assert code is (None if topic in self.watched else Code.NOT_SUBSCRIBED)
        self.watched.discard(topic)

    @precondition(lambda self: self.watched)
    @rule(place=st.integers(0, 9))
    def end(self, place: int) -> None:
        topic = sorted(self.watched, key=str)[place % len(self.watched)]
        assert self.subscriptions.meet(topic, Event.ENDED) is None
        self.watched.remove(topic)

    @invariant()
    def they_agree(self) -> None:
        followed = self.watched | ({self.joining} if self.joining else set())
        assert set(self.subscriptions) == followed
        assert len(self.subscriptions) == len(followed) <= self.most
        for topic in followed:
            expected = State.JOINING if topic == self.joining else State.WATCHING
            assert self.subscriptions.state(topic) is expected


TestSubscriptionsAgainstASet = SubscriptionsAgainstASet.TestCase


def test_in_each_state_each_request_has_an_outcome() -> None:
    assert {(state, event) for state, event in product(State, (Event.SUBSCRIBE, Event.UNSUBSCRIBE))} <= set(TABLE)


@pytest.mark.parametrize("event", [Event.JOINED, Event.FAILED, Event.ENDED])
def test_what_cannot_happen_to_a_topic_that_is_not_followed_is_a_fault(event: Event) -> None:
    with pytest.raises(KeyError):
        Subscriptions(1).meet(Topic("n"), event)
