"""One connection for all channels: what is confirmed, handed over, given up, and found again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from random import Random

import pytest
import redis

from streamer.core.errors import LogUnavailable
from streamer.log import connecting, line
from streamer.log.subscribing import Subscriber
from tests.log.relay import Relay
from tests.log.writing import publish, receivers
from tests.servers import RedisServer, wait_until

DEADLINE_S = 20


class Recorder:
    """A listener that keeps what it is told, and can be waited for."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.interruptions = 0
        self._told = asyncio.Event()

    @property
    def messages(self) -> list[bytes]:
        """Everything that came, in order."""
        return [message for batch in self.batches for message in batch]

    def take(self, messages: list[bytes]) -> None:
        self.batches.append(messages)
        self._told.set()

    def interrupted(self) -> None:
        self.interruptions += 1
        self._told.set()

    async def until(self, condition: Callable[[Recorder], object]) -> None:
        """Return once the condition holds."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition(self):
                self._told.clear()
                await self._told.wait()


class LeastWaits(Random):
    """Draws the shortest waits before another try."""

    def uniform(self, a: float, b: float) -> float:
        return a


@pytest.fixture
async def subscriber(any_store: RedisServer) -> AsyncIterator[Subscriber]:
    async with closing(Subscriber(any_store.url, LeastWaits())) as subscriber:
        yield subscriber


@pytest.fixture
async def own_subscriber(own_store: RedisServer) -> AsyncIterator[Subscriber]:
    """One with a server of its own."""
    async with closing(Subscriber(own_store.url, LeastWaits())) as subscriber:
        yield subscriber


@pytest.fixture
def own_client(own_store: RedisServer) -> Iterator[redis.Redis]:
    with own_store.client() as client:
        yield client


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed soon."""
    monkeypatch.setattr(connecting, "ANSWER_TIMEOUT_S", 0.5)
    monkeypatch.setattr(connecting, "CONNECT_TIMEOUT_S", 0.5)
    monkeypatch.setattr(line, "PING_S", 0.1)


async def test_what_is_published_after_subscribing_arrives(
    subscriber: Subscriber, client: redis.Redis, node: str
) -> None:
    assert not subscriber.connected
    for number in range(10):
        listener = Recorder()
        await subscriber.subscribe(f"{node}:{number}", listener)
        assert publish(client, f"{node}:{number}", b"%d" % number) == 1
        await listener.until(lambda listener: listener.messages)
        assert listener.messages == [b"%d" % number]
        assert listener.interruptions == 0
    assert subscriber.connected


async def test_each_listener_gets_its_channels_messages_in_order(
    subscriber: Subscriber, client: redis.Redis, node: str
) -> None:
    channels = [f"{node}:{n}:{{ü}}" for n in range(3)]
    listeners = [Recorder() for _ in channels]
    await asyncio.gather(*map(subscriber.subscribe, channels, listeners))
    for number in range(300):
        publish(client, channels[number % 3], b"\x00\r\n%d" % number)
    for place, listener in enumerate(listeners):
        await listener.until(lambda listener: len(listener.messages) == 100)
        assert listener.messages == [b"\x00\r\n%d" % number for number in range(place, 300, 3)]


async def test_what_one_wake_up_brings_is_handed_over_as_one_list_per_channel(
    real_store: RedisServer, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop rests while the test publishes, so it finds much at once when it wakes up."""
    wake_ups: list[bytes] = []
    feed_data = asyncio.StreamReader.feed_data
    monkeypatch.setattr(
        asyncio.StreamReader, "feed_data", lambda reader, data: [wake_ups.append(data), feed_data(reader, data)]
    )
    async with closing(Subscriber(real_store.url)) as subscriber:
        listeners = {f"{node}:{n}": Recorder() for n in range(3)}
        await asyncio.gather(*(subscriber.subscribe(*each) for each in listeners.items()))
        wake_ups.clear()
        with real_store.client() as client:
            for number in range(600):
                publish(client, f"{node}:{number % 3}", b"%d" % number)
        for place, listener in enumerate(listeners.values()):
            await listener.until(lambda listener: len(listener.messages) == 200)
            assert listener.messages == [b"%d" % number for number in range(place, 600, 3)]
            assert len(listener.batches) <= len(wake_ups)


class Lingering:
    """A subscriber that lingers until it is told that the time is over."""

    def __init__(self, server: RedisServer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
        self.subscriber = Subscriber(server.url, LeastWaits(), linger_s=LINGER_S)
        self._client = client
        self._timers: list[Callable[[], object]] = []
        self._confirmed = 0
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def wait_for_the_test(delay: float, callback: Callable[..., object], *args: object) -> object:
            if delay != LINGER_S:
                return call_later(delay, callback, *args)
            return self._timers.append(lambda: callback(*args))

        monkeypatch.setattr(loop, "call_later", wait_for_the_test)

    async def publish(self, channel: str, *messages: bytes) -> None:
        """Publish one after another; return once the subscriber has taken each in, in a wake-up of its own."""
        for message in messages:
            self._client.publish(channel, message)
            # What Redis says to a connection comes in order, so this confirmation stands behind the message.
            self._confirmed += 1
            await self.subscriber.subscribe(f"{channel}:confirmed-{self._confirmed}", Recorder())

    def end_of_time(self) -> int:
        """Let it be over, for all that linger; return how many timers there were."""
        timers, self._timers = self._timers, []
        for callback in timers:
            callback()
        return len(timers)


LINGER_S = 12_345.0


@pytest.fixture
async def lingering(
    own_store: RedisServer, own_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Lingering]:
    lingering = Lingering(own_store, own_client, monkeypatch)
    async with closing(lingering.subscriber):
        yield lingering


async def test_while_a_subscriber_lingers_messages_gather_and_are_handed_over_together_in_order(
    lingering: Lingering,
) -> None:
    listeners = {"one": Recorder(), "two": Recorder()}
    for each in listeners.items():
        await lingering.subscriber.subscribe(*each)
    for times in range(1, 4):
        await lingering.publish("one", b"a", b"b")
        await lingering.publish("two", b"c")
        await lingering.publish("one", b"d")
        assert [len(listener.batches) for listener in listeners.values()] == [times - 1] * 2
        assert lingering.end_of_time() == 1
        assert listeners["one"].batches == [[b"a", b"b", b"d"]] * times
        assert listeners["two"].batches == [[b"c"]] * times
    assert lingering.end_of_time() == 0


async def test_unsubscribing_while_it_lingers_takes_nothing_from_the_others(lingering: Lingering) -> None:
    gone, again, staying = Recorder(), Recorder(), Recorder()
    await lingering.subscriber.subscribe("leaving", gone)
    await lingering.subscriber.subscribe("staying", staying)
    await lingering.publish("leaving", b"a")
    await lingering.publish("staying", b"b")
    lingering.subscriber.unsubscribe("leaving")
    await lingering.subscriber.subscribe("leaving", again)
    await lingering.publish("leaving", b"c")
    await lingering.publish("staying", b"d")
    lingering.end_of_time()
    assert (gone.messages, again.messages, staying.messages) == ([], [b"c"], [b"b", b"d"])
    assert lingering.end_of_time() == 0


async def test_what_comes_after_all_that_had_come_was_unsubscribed_is_handed_over(lingering: Lingering) -> None:
    staying = Recorder()
    await lingering.subscriber.subscribe("leaving", Recorder())
    await lingering.subscriber.subscribe("staying", staying)
    await lingering.publish("leaving", b"a")
    lingering.subscriber.unsubscribe("leaving")
    await lingering.publish("staying", b"b")
    lingering.end_of_time()
    assert staying.messages == [b"b"]


async def test_a_connection_lost_while_it_lingers_costs_nothing_of_what_had_come(
    lingering: Lingering, own_client: redis.Redis
) -> None:
    listener = Recorder()
    await lingering.subscriber.subscribe("channel", listener)
    await lingering.publish("channel", b"a")
    own_client.client_kill_filter(_type="pubsub")
    await listener.until(lambda listener: listener.interruptions == 1)
    await lingering.publish("channel", b"b")
    assert listener.batches == []
    assert lingering.end_of_time() == 1
    assert listener.batches == [[b"a", b"b"]]


async def test_closing_while_it_lingers_hands_nothing_over_any_more(lingering: Lingering) -> None:
    listener = Recorder()
    await lingering.subscriber.subscribe("channel", listener)
    await lingering.publish("channel", b"a")
    await lingering.subscriber.aclose()
    assert lingering.end_of_time() == 1
    assert (listener.messages, listener.interruptions) == ([], 0)
    assert tasks() == []


async def test_lingering_ends_by_itself_and_nothing_is_lost_between_one_time_and_the_next(
    real_store: RedisServer, node: str
) -> None:
    async with closing(Subscriber(real_store.url, linger_s=0.001)) as subscriber:
        listener = Recorder()
        await subscriber.subscribe(node, listener)
        with real_store.client() as client:
            for number in range(500):
                client.publish(node, b"%d" % number)
                await asyncio.sleep(0)
        await listener.until(lambda listener: len(listener.messages) == 500)
        assert listener.messages == [b"%d" % number for number in range(500)]


async def test_a_great_message_arrives_whole(subscriber: Subscriber, client: redis.Redis, node: str) -> None:
    listener = Recorder()
    await subscriber.subscribe(node, listener)
    great = bytes(range(256)) * 2000
    publish(client, node, great)
    publish(client, node, b"small")
    await listener.until(lambda listener: len(listener.messages) == 2)
    assert listener.messages == [great, b"small"]


async def test_many_channels_are_confirmed_and_found_again(
    own_store: RedisServer, own_subscriber: Subscriber, own_client: redis.Redis
) -> None:
    listeners = {f"channel-{n}": Recorder() for n in range(3000)}
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(own_subscriber.subscribe(*each) for each in listeners.items()))
    assert len(own_client.pubsub_channels("channel-*")) == 3000
    own_client.client_kill_filter(_type="pubsub")
    for listener in listeners.values():
        await listener.until(lambda listener: listener.interruptions == 1)
    assert len(own_client.pubsub_channels("channel-*")) == 3000


async def test_unsubscribing_ends_it_in_redis_too(subscriber: Subscriber, client: redis.Redis, node: str) -> None:
    gone, staying = Recorder(), Recorder()
    await subscriber.subscribe(f"{node}:gone", gone)
    await subscriber.subscribe(f"{node}:staying", staying)
    subscriber.unsubscribe(f"{node}:gone")
    publish(client, f"{node}:gone", b"x")
    publish(client, f"{node}:staying", b"y")
    await staying.until(lambda listener: listener.messages == [b"y"])
    await until("nobody is subscribed", lambda: receivers(client, f"{node}:gone") == 0)
    assert receivers(client, f"{node}:staying") == 1
    assert gone.messages == []


async def test_unsubscribing_what_was_never_subscribed_does_nothing(
    subscriber: Subscriber, client: redis.Redis, node: str
) -> None:
    subscriber.unsubscribe(node)
    listener = Recorder()
    await subscriber.subscribe(node, listener)
    subscriber.unsubscribe(f"{node}:other")
    subscriber.unsubscribe(node)
    subscriber.unsubscribe(node)
    await subscriber.subscribe(node, listener)
    assert receivers(client, node) == 1


async def test_nothing_is_handed_over_once_unsubscribed_even_if_it_was_there(
    real_store: RedisServer, node: str
) -> None:
    async with closing(Subscriber(real_store.url)) as subscriber:
        first, second = Recorder(), Recorder()
        await subscriber.subscribe(f"{node}:1", first)
        await subscriber.subscribe(f"{node}:2", second)
        with real_store.client() as client:
            publish(client, f"{node}:1", b"x")
            publish(client, f"{node}:2", b"y")
        subscriber.unsubscribe(f"{node}:1")
        await second.until(lambda listener: listener.messages)
        assert first.batches == []


async def test_subscribing_again_after_unsubscribing_hears_all_from_then_on(
    subscriber: Subscriber, client: redis.Redis, node: str
) -> None:
    for number in range(5):
        listener = Recorder()
        await subscriber.subscribe(node, listener)
        publish(client, node, b"%d" % number)
        await listener.until(lambda listener: listener.messages)
        assert listener.messages == [b"%d" % number]
        subscriber.unsubscribe(node)


async def test_a_second_subscribe_waits_for_the_same_confirmation_and_its_listener_takes_over(
    subscriber: Subscriber, client: redis.Redis, node: str
) -> None:
    first, second, third = Recorder(), Recorder(), Recorder()
    await asyncio.gather(subscriber.subscribe(node, first), subscriber.subscribe(node, second))
    publish(client, node, b"a")
    await second.until(lambda listener: listener.messages)
    await subscriber.subscribe(node, third)
    publish(client, node, b"b")
    await third.until(lambda listener: listener.messages)
    assert (first.messages, second.messages, third.messages) == ([], [b"a"], [b"b"])
    assert receivers(client, node) == 1


async def test_unsubscribing_while_the_confirmation_is_awaited_ends_the_waiting(
    own_store: RedisServer, own_subscriber: Subscriber, own_client: redis.Redis
) -> None:
    other = Recorder()
    await own_subscriber.subscribe("other", other)
    with paused(own_store):
        waiting = asyncio.create_task(own_subscriber.subscribe("channel", Recorder()))
        await asyncio.sleep(0)
        own_subscriber.unsubscribe("channel")
        done, _ = await asyncio.wait([waiting], timeout=DEADLINE_S)
        assert done == {waiting}
        assert isinstance(waiting.exception(), LogUnavailable)
    await own_subscriber.subscribe("last", Recorder())
    await until("nobody is subscribed", lambda: receivers(own_client, "channel") == 0)
    publish(own_client, "other", b"x")
    await other.until(lambda listener: listener.messages)
    assert other.interruptions == 0


async def test_cancelling_a_subscribe_leaves_it_in_place_until_unsubscribed(
    own_store: RedisServer, own_subscriber: Subscriber, own_client: redis.Redis
) -> None:
    listener = Recorder()
    await own_subscriber.subscribe("other", Recorder())
    with paused(own_store):
        waiting = asyncio.create_task(own_subscriber.subscribe("channel", listener))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await own_subscriber.subscribe("channel", listener)
    publish(own_client, "channel", b"x")
    await listener.until(lambda listener: listener.messages)
    own_subscriber.unsubscribe("channel")
    await until("nobody is subscribed", lambda: receivers(own_client, "channel") == 0)


async def test_a_killed_connection_is_made_anew_and_every_listener_told(
    own_subscriber: Subscriber, own_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    kept = {f"kept-{n}": Recorder() for n in range(5)}
    for each in kept.items():
        await own_subscriber.subscribe(*each)
    gone = Recorder()
    await own_subscriber.subscribe("gone", gone)
    own_subscriber.unsubscribe("gone")
    for times in range(1, 4):
        with caplog.at_level(logging.WARNING, "streamer.log.line"):
            own_client.client_kill_filter(_type="pubsub")
            for listener in kept.values():
                await listener.until(lambda listener, times=times: listener.interruptions == times)
        assert "next try in" in caplog.text
        for channel, listener in kept.items():
            assert receivers(own_client, channel) == 1
            publish(own_client, channel, b"%d" % times)
            await listener.until(lambda listener, times=times: len(listener.messages) == times)
    assert receivers(own_client, "gone") == 0
    assert (gone.messages, gone.interruptions) == ([], 0)
    assert {listener.interruptions for listener in kept.values()} == {3}


async def test_a_server_that_was_killed_is_found_again_once_it_is_back(
    own_store: RedisServer, own_subscriber: Subscriber
) -> None:
    before, during = Recorder(), Recorder()
    await own_subscriber.subscribe("before", before)
    own_store.kill()
    await until("it has noticed", lambda: not own_subscriber.connected)
    waiting = asyncio.create_task(own_subscriber.subscribe("during", during))
    own_subscriber.unsubscribe("never")
    await asyncio.to_thread(own_store.start)
    async with asyncio.timeout(DEADLINE_S):
        await waiting
    await before.until(lambda listener: listener.interruptions == 1)
    with own_store.client() as client:
        publish(client, "before", b"b")
        publish(client, "during", b"d")
    await before.until(lambda listener: listener.messages == [b"b"])
    await during.until(lambda listener: listener.messages == [b"d"])
    assert during.interruptions == 0


async def test_subscribing_before_the_server_is_there_waits_for_it(own_store: RedisServer) -> None:
    own_store.kill()
    async with closing(Subscriber(own_store.url, LeastWaits())) as subscriber:
        waiting = asyncio.create_task(subscriber.subscribe("channel", Recorder()))
        await asyncio.to_thread(own_store.start)
        async with asyncio.timeout(DEADLINE_S):
            await waiting
        assert subscriber.connected


@pytest.mark.usefixtures("impatient")
async def test_a_connection_that_falls_silent_is_given_up_and_the_next_one_tells_each_listener(
    any_store: RedisServer, client: redis.Redis, node: str
) -> None:
    no_relay_before(any_store)
    async with Relay(any_store.url) as relay, closing(Subscriber(relay.url, LeastWaits())) as subscriber:
        listeners = [Recorder() for _ in range(3)]
        for number, listener in enumerate(listeners):
            await subscriber.subscribe(f"{node}:{number}", listener)
        relay.fall_silent()
        for number, listener in enumerate(listeners):
            await listener.until(lambda listener: listener.interruptions)
            publish(client, f"{node}:{number}", b"x")
            await listener.until(lambda listener: listener.messages)


@pytest.mark.usefixtures("impatient")
async def test_a_connection_that_is_silent_from_the_beginning_is_given_up(valkey: RedisServer, node: str) -> None:
    """A Redis behind a proxy or a frozen host accepts and then says nothing, not even to the greeting."""
    async with (
        Relay(valkey.url, silent_connections=1) as relay,
        closing(Subscriber(relay.url, LeastWaits())) as subscriber,
        asyncio.timeout(5),
    ):
        await subscriber.subscribe(node, Recorder())
        assert subscriber.connected


@pytest.mark.usefixtures("impatient")
async def test_a_connection_on_which_nothing_is_published_is_kept(any_store: RedisServer, node: str) -> None:
    """Pings and their answers pass, with channels and without."""
    no_relay_before(any_store)
    async with Relay(any_store.url) as relay, closing(Subscriber(relay.url, LeastWaits())) as subscriber:
        listener = Recorder()
        await subscriber.subscribe(node, listener)
        await relay.passed_on(8)
        subscriber.unsubscribe(node)
        await relay.passed_on(8)
        await subscriber.subscribe(node, listener)
        assert relay.accepted == 1
        assert listener.interruptions == 0


async def test_closing_ends_the_connection_and_everything_of_it(real_store: RedisServer, node: str) -> None:
    subscriber = Subscriber(real_store.url)
    listener = Recorder()
    await subscriber.subscribe(node, listener)
    await subscriber.aclose()
    assert not subscriber.connected
    with real_store.client() as client:
        wait_until("the connection is closed", lambda: receivers(client, node) == 0)
        publish(client, node, b"x")
    await subscriber.aclose()
    assert tasks() == []
    assert (listener.messages, listener.interruptions) == ([], 0)


async def test_closing_one_that_never_connected_does_nothing() -> None:
    await Subscriber("redis://127.0.0.1:1/0").aclose()


async def test_closing_ends_one_that_cannot_connect() -> None:
    subscriber = Subscriber("redis://127.0.0.1:1/0")
    subscriber.start()
    await asyncio.sleep(0)
    async with asyncio.timeout(DEADLINE_S):
        await subscriber.aclose()
    assert tasks() == []


async def test_closing_ends_those_who_wait_for_a_confirmation() -> None:
    subscriber = Subscriber("redis://127.0.0.1:1/0")
    waiting = asyncio.create_task(subscriber.subscribe("channel", Recorder()))
    await asyncio.sleep(0)
    await subscriber.aclose()
    done, _ = await asyncio.wait([waiting], timeout=1)
    if not done:
        waiting.cancel()
    assert done == {waiting}, "it waits for ever"
    assert isinstance(waiting.exception(), LogUnavailable)


class Failing(Recorder):
    """A listener with a fault."""

    def take(self, messages: list[bytes]) -> None:
        raise ZeroDivisionError

    def interrupted(self) -> None:
        super().interrupted()
        raise ZeroDivisionError


async def test_a_listener_that_raises_takes_nothing_from_the_others_and_is_told_that_it_lost_something(
    real_store: RedisServer, node: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with closing(Subscriber(real_store.url)) as subscriber:
        failing, listener = Failing(), Recorder()
        await subscriber.subscribe(f"{node}:1", failing)
        await subscriber.subscribe(f"{node}:2", listener)
        with real_store.client() as client:
            publish(client, f"{node}:1", b"x")
            publish(client, f"{node}:2", b"y")
        await listener.until(lambda listener: listener.messages == [b"y"])
        await failing.until(lambda listener: listener.interruptions == 1)
        assert listener.interruptions == 0
        assert f"who listens to {node}:1 failed to take what came" in caplog.text
        assert "ZeroDivisionError" in caplog.text
        await subscriber.subscribe(f"{node}:3", Recorder())
        assert receivers_of(real_store, f"{node}:1") == 1


async def test_a_listener_that_raises_on_an_interruption_takes_nothing_from_the_others(
    own_subscriber: Subscriber, own_client: redis.Redis
) -> None:
    failing, listener = Failing(), Recorder()
    await own_subscriber.subscribe("1", failing)
    await own_subscriber.subscribe("2", listener)
    own_client.client_kill_filter(_type="pubsub")
    await listener.until(lambda listener: listener.interruptions == 1)
    publish(own_client, "2", b"y")
    await listener.until(lambda listener: listener.messages == [b"y"])
    assert (failing.interruptions, listener.interruptions) == (1, 1)


async def test_a_channel_that_is_refused_fails_its_subscribe_and_no_other(real_store: RedisServer, node: str) -> None:
    with real_store.client() as client:
        client.execute_command("ACL", "SETUSER", node, "on", "nopass", "+@all", "resetchannels", f"&{node}:*")
        url = real_store.url.replace("redis://", f"redis://{node}:any@")
        async with closing(Subscriber(url)) as subscriber, asyncio.timeout(DEADLINE_S):
            listeners = {f"{node}:{n}": Recorder() for n in range(3)}
            names = [f"{node}:0", "forbidden-1", f"{node}:1", "forbidden-2", f"{node}:2"]
            outcomes = await asyncio.gather(
                *(subscriber.subscribe(name, listeners.get(name) or Recorder()) for name in names),
                return_exceptions=True,
            )
            assert [type(outcome) for outcome in outcomes] == [type(None), LogUnavailable] * 2 + [type(None)]
            with pytest.raises(LogUnavailable, match="permission"):
                await subscriber.subscribe("forbidden-1", Recorder())
            subscriber.unsubscribe("forbidden-1")
            for name, listener in listeners.items():
                publish(client, name, b"x")
                await listener.until(lambda listener: listener.messages == [b"x"])
                assert listener.interruptions == 0
            client.execute_command("ACL", "SETUSER", node, "allchannels")
            await subscriber.subscribe("forbidden-1", Recorder())
        client.acl_deluser(node)


async def test_a_channel_that_is_refused_on_a_later_connection_is_asked_for_until_it_is_granted_again(
    real_store: RedisServer, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "REFUSED_S", 0.05)
    with real_store.client() as client:
        client.execute_command("ACL", "SETUSER", node, "on", "nopass", "+@all", "allchannels")
        url = real_store.url.replace("redis://", f"redis://{node}:any@")
        async with closing(Subscriber(url)) as subscriber, asyncio.timeout(DEADLINE_S):
            channels = {f"{node}:{n}": Recorder() for n in range(2)}
            for name, listener in channels.items():
                await subscriber.subscribe(name, listener)
            kept, lost = channels.values()
            client.execute_command("ACL", "SETUSER", node, "resetchannels", f"&{node}:0")  # which ends the connection
            await kept.until(lambda listener: listener.interruptions == 1)
            assert lost.interruptions == 0
            client.execute_command("ACL", "SETUSER", node, "allchannels")
            await lost.until(lambda listener: listener.interruptions == 1)
            publish(client, f"{node}:1", b"x")
            await lost.until(lambda listener: listener.messages == [b"x"])
        client.acl_deluser(node)


async def test_the_answer_to_an_earlier_subscribe_confirms_no_later_one() -> None:
    """Between them the channel was unsubscribed, which Redis may not have done yet."""
    async with RawServer() as server, closing(Subscriber(server.url)) as subscriber, asyncio.timeout(DEADLINE_S):
        first = asyncio.create_task(subscriber.subscribe("c", Recorder()))
        await server.received(b"SUBSCRIBE", 1)
        subscriber.unsubscribe("c")
        listener = Recorder()
        second = asyncio.create_task(subscriber.subscribe("c", listener))
        await server.received(b"SUBSCRIBE", 3)
        server.write(b"+PONG", *answer(b"subscribe", 1), *answer(b"message", b"x"))
        await listener.until(lambda listener: listener.messages == [b"x"])
        assert not second.done()
        with pytest.raises(LogUnavailable):
            await first
        server.write(*answer(b"unsubscribe", 0))
        assert not second.done()
        server.write(*answer(b"subscribe", 1))
        await second
        assert listener.interruptions == 0


async def test_the_waits_begin_anew_only_after_a_connection_on_which_redis_has_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a Redis that accepts and fails is asked by everybody twice a second."""
    begun = 0

    def waits(rng: Random) -> Iterator[float]:
        nonlocal begun
        begun += 1
        while True:
            yield 0.001

    monkeypatch.setattr(line, "backoff", waits)
    async with RawServer() as server, closing(Subscriber(server.url)) as subscriber, asyncio.timeout(DEADLINE_S):
        subscriber.start()
        for accepted in range(1, 4):
            await server.received(b"PING", accepted)
            server.hang_up()
        await server.received(b"PING", 4)
        assert begun == 1
        assert not subscriber.connected
        server.write(b"+PONG")
        await until("it has heard that", lambda: subscriber.connected)
        server.hang_up()
        await server.received(b"PING", 5)
        assert begun == 2


class RawServer:
    """A server that greets each client as Redis does, and then writes only what the test has it write."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._writer: asyncio.StreamWriter | None = None
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> RawServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.hang_up()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def received(self, word: bytes, times: int) -> None:
        """Return once a word has come so many times."""
        await until(f"{word!r} came {times} times", lambda: self._received.count(word) >= times)

    def write(self, *lines: bytes) -> None:
        """Write to the client that came last."""
        assert self._writer is not None
        self._writer.writelines(line + b"\r\n" for line in lines)

    def hang_up(self) -> None:
        """Close the connection of the client that came last."""
        if self._writer is not None:
            self._writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.writelines([b"+OK\r\n"] * data.count(b"SETINFO"))
                self._received += data
        writer.close()


def answer(kind: bytes, content: bytes | int) -> list[bytes]:
    """The lines of what Redis says on channel c."""
    last = b":%d" % content if isinstance(content, int) else b"$%d\r\n%s" % (len(content), content)
    return [b"*3", b"$%d" % len(kind), kind, b"$1", b"c", last]


def no_relay_before(store: RedisServer) -> None:
    """Skip the test on a cluster, whose servers say where they are, and not where a relay is."""
    if store.kind == "cluster":
        pytest.skip("there is no relay before a cluster")


def closing(subscriber: Subscriber) -> contextlib.aclosing[Subscriber]:
    return contextlib.aclosing(subscriber)


@contextlib.contextmanager
def paused(server: RedisServer) -> Iterator[None]:
    """The server does nothing for as long."""
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def receivers_of(server: RedisServer, channel: str) -> int:
    """How many are subscribed to a channel of a server."""
    with server.client() as client:
        return receivers(client, channel)


def tasks() -> list[asyncio.Task[None]]:
    """What runs in the event loop beside the test."""
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def until(what: str, condition: Callable[[], object]) -> None:
    """Return once the condition holds, which the event loop may have to bring about."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"{what}: not within {DEADLINE_S} s")
