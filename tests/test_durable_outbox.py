"""What `update()` accepted outlives the process that is killed, and reaches the log once and in order."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from streamer import NodeSettings, NotAcknowledged, OutboxFull, OutboxNotWritable, StateStreamer
from streamer.durable.directory import OwnedFile
from streamer.lanes import LOOK_S, Lanes
from streamer.sender import Sender
from tests.commands import DEADLINE_S, NO_REDIS, environment, first_line, updates
from tests.proxies import Proxy
from tests.servers import RedisServer, free_port, wait_until
from tests.streamers import Make

FLUSH_S = 20.0


def files(path: Path) -> list[str]:
    return sorted(file.name for file in path.rglob("*") if file.is_file())


def publish(streamer: StateStreamer, numbers: range) -> None:
    for n in numbers:
        streamer.update("running", {"n": n})


def published(url: str, node: str) -> list[int]:
    log = updates(url, node)
    assert [update.index for update in log] == list(range(len(log)))
    return [update.state["n"] for update in log]


PUBLISH_AND_TELL = """
import os, sys
from streamer import state_streaming

streamer = state_streaming(sys.argv[1])
who = sys.argv[2]
for n in range(10**9):
    streamer.update(who, {"n": n})
    os.write(1, b"%d\\n" % n)
"""


@contextmanager
def telling(node: str, who: str, url: str, directory: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that publishes without end, and tells each number once it is accepted."""
    variables = environment(
        STREAMER_REDIS_URL=url, STREAMER_OUTBOX_DIR=str(directory), STREAMER_RETENTION_RECORDS="1000000", **variables
    )
    arguments = [sys.executable, "-c", PUBLISH_AND_TELL, node, who]
    with subprocess.Popen(arguments, env=variables, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def told_until_killed(process: subprocess.Popen[bytes], after_s: float) -> int:
    """How many updates a process has accepted when it is killed, so long after its first."""
    assert process.stdout is not None
    first = process.stdout.readline()
    timer = threading.Timer(after_s, process.kill)
    timer.start()
    told = first + process.stdout.read()
    timer.join()
    process.wait(DEADLINE_S)
    return told.count(b"\n")


@pytest.mark.parametrize("sync", ["full", "normal"])
def test_a_process_killed_at_any_point_loses_nothing_that_was_accepted_and_doubles_nothing(
    valkey: RedisServer, node: str, tmp_path: Path, sync: str
) -> None:
    rng, accepted = random.Random(sync), []
    for run in range(15):
        with telling(node, f"run-{run}", valkey.url, tmp_path, STREAMER_OUTBOX_SYNC=sync) as process:
            accepted.append(told_until_killed(process, rng.uniform(0, 0.15)))
    last = StateStreamer(node, settings(valkey.url, tmp_path))
    last.close(FLUSH_S)
    assert files(tmp_path) == []
    check(valkey.url, node, accepted)


def test_processes_of_a_node_that_run_and_die_side_by_side_lose_and_double_nothing(
    valkey: RedisServer, node: str, tmp_path: Path
) -> None:
    rng, accepted, lock = random.Random(5), {}, threading.Lock()

    def run(number: int, waits: list[float]) -> None:
        for life, wait_s in enumerate(waits):
            who = number * 10 + life
            with telling(node, f"run-{who}", valkey.url, tmp_path, STREAMER_OUTBOX_SYNC="normal") as process:
                told = told_until_killed(process, wait_s)
            with lock:
                accepted[who] = told

    threads = [
        threading.Thread(target=run, args=(number, [rng.uniform(0, 0.3) for _ in range(4)])) for number in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    StateStreamer(node, settings(valkey.url, tmp_path)).close(FLUSH_S)
    assert files(tmp_path) == []
    check(valkey.url, node, [accepted.get(who, 0) for who in range(max(accepted) + 1)])


def test_with_redis_killed_and_restarted_meanwhile_nothing_is_lost_either(
    own_valkey: RedisServer, node: str, tmp_path: Path
) -> None:
    accepted = []
    for run in range(3):
        with telling(node, f"run-{run}", own_valkey.url, tmp_path) as process:
            assert process.stdout is not None
            told = process.stdout.readline()
            own_valkey.kill()
            time.sleep(0.1)
            process.kill()
            told += process.stdout.read()
            accepted.append(told.count(b"\n"))
            own_valkey.start()
    StateStreamer(node, settings(own_valkey.url, tmp_path)).close(FLUSH_S)
    check(own_valkey.url, node, accepted)


def settings(url: str, directory: Path, **others: object) -> NodeSettings:
    return NodeSettings(redis_url=url, outbox_dir=str(directory), retention_records=10**6, **others)  # type: ignore[arg-type]


def check(url: str, node: str, accepted: list[int]) -> None:
    """Each run's updates are there, once and in order: as many as it told of, and perhaps the one that it could not."""
    log = updates(url, node)
    assert [update.index for update in log] == list(range(len(log)))
    for run, count in enumerate(accepted):
        own = [update.state["n"] for update in log if update.status == f"run-{run}"]
        assert own == list(range(len(own))), f"run {run}"
        assert len(own) in (count, count + 1), f"run {run} accepted {count}"
    assert sum(accepted) > 0


def test_what_is_acknowledged_leaves_nothing_on_the_disk(
    streaming: Make, valkey: RedisServer, node: str, tmp_path: Path
) -> None:
    streamer = streaming(valkey.url, outbox_dir=str(tmp_path))
    publish(streamer, range(1000))
    streamer.flush(FLUSH_S)
    assert len([name for name in files(tmp_path) if name.endswith(".sqlite")]) == 1
    streamer.close()
    assert files(tmp_path) == []
    assert published(valkey.url, node) == list(range(1000))


def test_without_a_directory_and_without_updates_nothing_is_written(
    streaming: Make, valkey: RedisServer, tmp_path: Path
) -> None:
    streamer = streaming(valkey.url, outbox_dir=str(tmp_path))
    assert files(tmp_path) == []
    streamer.close()
    assert files(tmp_path) == []


def test_close_says_what_stays_on_the_disk_and_the_next_start_sends_it(
    streaming: Make, valkey: RedisServer, node: str, tmp_path: Path
) -> None:
    streamer = streaming(NO_REDIS, outbox_dir=str(tmp_path))
    publish(streamer, range(10))
    with pytest.raises(NotAcknowledged, match="10 updates of node") as error:
        streamer.close(timeout=0.2)
    assert error.value.stored
    next_ = streaming(valkey.url, outbox_dir=str(tmp_path))
    publish(next_, range(10, 12))
    next_.flush(FLUSH_S)
    assert published(valkey.url, node) == list(range(12))


def test_what_ended_processes_left_counts_as_pending_and_flush_waits_for_it(
    streaming: Make, proxy: Proxy, valkey: RedisServer, node: str, tmp_path: Path
) -> None:
    streamer = streaming(NO_REDIS, outbox_dir=str(tmp_path))
    publish(streamer, range(10))
    with pytest.raises(NotAcknowledged):
        streamer.close(timeout=0)
    proxy.hold()
    next_ = streaming(proxy.url, outbox_dir=str(tmp_path))
    assert next_.pending == 10
    assert next_.statistics().adopted == 10
    with pytest.raises(NotAcknowledged, match="10 updates of node"):
        next_.flush(timeout=0.1)
    proxy.release()
    next_.flush(FLUSH_S)
    assert next_.statistics().pending == 0
    assert published(valkey.url, node) == list(range(10))


@pytest.fixture
def proxy(valkey: RedisServer) -> Iterator[Proxy]:
    with Proxy(valkey.port) as proxy:
        yield proxy


def test_what_redis_loses_in_a_failover_just_before_a_process_is_killed_is_sent_by_the_next(
    own_valkey: RedisServer, node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.sender.CHECK_S", 0.1)
    streamer = StateStreamer(node, settings(own_valkey.url, tmp_path))
    publish(streamer, range(50))
    streamer.flush(FLUSH_S)
    for lane in streamer._publisher._lanes.keeping:  # as a kill does, of which this process does not die
        assert lane._owned is not None
        lane._owned.file.close()
        lane._owned._forget_lock()
    with own_valkey.client() as client:
        client.flushall()
    next_ = StateStreamer(node, settings(own_valkey.url, tmp_path))
    publish(next_, range(50, 51))
    wait_until("the next process has sent it again", lambda: len(updates(own_valkey.url, node)) == 51)
    assert sorted(published(own_valkey.url, node)) == list(range(51))
    next_.close(FLUSH_S)


def test_at_the_end_of_a_process_what_waits_on_the_disk_is_not_called_lost(node: str, tmp_path: Path) -> None:
    script = "import sys; from streamer import state_streaming; state_streaming(sys.argv[1]).update('s', {'n': 0})"
    variables = environment(STREAMER_REDIS_URL=NO_REDIS, STREAMER_OUTBOX_DIR=str(tmp_path), STREAMER_EXIT_FLUSH_S="0.1")
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", script, node], env=variables, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0
    assert "1 update of node" in done.stderr
    assert "the process ends, and updates wait: " in done.stderr
    assert "stored on the disk, and sent at the node's next start" in done.stderr
    assert "lost" not in done.stderr


def test_a_forked_child_has_a_file_of_its_own(valkey: RedisServer, node: str, tmp_path: Path) -> None:
    script = """
import os, sys
from streamer import state_streaming

streamer = state_streaming(sys.argv[1])
for n in range(200):
    streamer.update("parent", {"n": n})
child = os.fork()
for n in range(200, 400) if child else range(300):
    streamer.update("parent" if child else "child", {"n": n})
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    variables = environment(STREAMER_REDIS_URL=valkey.url, STREAMER_OUTBOX_DIR=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script, node], env=variables, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert (done.returncode, done.stderr) == (0, "")
    log = updates(valkey.url, node)
    for who, count in (("parent", 400), ("child", 300)):
        assert [update.state["n"] for update in log if update.status == who] == list(range(count))


@pytest.mark.parametrize("name", ["../../escape", "a/b", "🙂" * 60, "." * 9, "x" * 256, "NUL", "%2e%2e"])
def test_a_node_of_any_name_has_a_durable_outbox(valkey: RedisServer, node: str, tmp_path: Path, name: str) -> None:
    name = (node[-6:] + name).encode()[:256].decode(errors="ignore")
    inside = tmp_path / "inside"
    streamer = StateStreamer(name, settings(valkey.url, inside))
    publish(streamer, range(3))
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
    streamer.close(FLUSH_S)
    assert published(valkey.url, name) == [0, 1, 2]


def publish_until_refused(streamer: StateStreamer, first: int) -> tuple[int, OutboxNotWritable]:
    """Publish numbers until one is refused; return that, and the error."""
    for n in range(first, 10_000):
        try:
            streamer.update("running", {"n": n, "text": "x" * 200})
        except OutboxNotWritable as error:
            return n, error
    pytest.fail("it is never refused")


def own_file(streamer: StateStreamer) -> OwnedFile:
    """The file of what a streamer has accepted."""
    lane = streamer._publisher._lanes.own
    assert lane is not None
    assert lane._owned is not None
    return lane._owned


def test_a_full_disk_is_an_error_of_update_and_what_was_accepted_arrives(
    streaming: Make, node: str, tmp_path: Path
) -> None:
    with RedisServer("valkey", free_port()) as server:
        server.kill()
        streamer = streaming(server.url, outbox_dir=str(tmp_path))
        publish(streamer, range(1))
        with own_file(streamer).file._connected() as connection:
            connection.execute("PRAGMA max_page_count = 30")
        accepted, error = publish_until_refused(streamer, 1)
        assert "disk is full" in str(error)
        server.start()
        streamer.flush(FLUSH_S)
        streamer.update("running", {"n": accepted, "text": "now it fits"})
        streamer.flush(FLUSH_S)
        assert published(server.url, node) == list(range(accepted + 1))


def test_a_dead_processs_file_that_is_damaged_is_logged_and_the_others_are_sent(
    streaming: Make, valkey: RedisServer, node: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    streamer = streaming(NO_REDIS, outbox_dir=str(tmp_path))
    publish(streamer, range(3))
    with pytest.raises(NotAcknowledged):
        streamer.close(timeout=0)
    [path] = tmp_path.glob("*/*.sqlite")
    path.with_name("broken.sqlite").write_bytes(b"nonsense " * 1000)
    streaming(valkey.url, outbox_dir=str(tmp_path)).flush(FLUSH_S)
    assert published(valkey.url, node) == [0, 1, 2]
    assert "broken.sqlite" in caplog.text


def test_a_disk_that_is_full_when_redis_acknowledges_doubles_nothing_later(
    streaming: Make, valkey: RedisServer, proxy: Proxy, node: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.hold()
    streamer = streaming(proxy.url, outbox_dir=str(tmp_path))
    publish(streamer, range(20))
    owned = own_file(streamer)
    with owned.file._connected() as connection:
        connection.execute("PRAGMA query_only = ON")
    proxy.release()
    streamer.flush(FLUSH_S)
    wait_until("it says so", lambda: "attempt to write a readonly database" in caplog.text)
    owned.file.close()  # as a kill would leave it
    owned._forget_lock()
    next_ = StateStreamer(node, settings(valkey.url, tmp_path))
    assert next_.statistics().adopted == 20
    next_.close(FLUSH_S)
    assert published(valkey.url, node) == list(range(20))


def test_a_directory_that_is_a_file_is_an_error_of_state_streaming(streaming: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutboxNotWritable, match="cannot be used"):
        streaming(NO_REDIS, outbox_dir=str(tmp_path / "file"))


# The outbox is full.


def in_thread(target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def test_a_full_outbox_blocks_until_there_is_room(
    streaming: Make, proxy: Proxy, valkey: RedisServer, node: str
) -> None:
    proxy.hold()
    streamer = streaming(proxy.url, outbox_records=5, outbox_full="block", outbox_block_s=60)
    publish(streamer, range(5))
    blocked = in_thread(lambda: publish(streamer, range(5, 30)))
    blocked.join(0.2)
    assert blocked.is_alive()
    assert streamer.pending == 5
    proxy.release()
    blocked.join(DEADLINE_S)
    streamer.flush(FLUSH_S)
    assert published(valkey.url, node) == list(range(30))


def test_a_full_outbox_that_blocks_raises_after_its_time(streaming: Make) -> None:
    streamer = streaming(NO_REDIS, outbox_records=5, outbox_full="block", outbox_block_s=0.2)
    publish(streamer, range(5))
    began = time.monotonic()
    with pytest.raises(OutboxFull, match="5 updates wait"):
        publish(streamer, range(5, 6))
    assert 0.2 <= time.monotonic() - began < 2


def test_close_ends_the_wait_of_an_update_that_blocks(streaming: Make) -> None:
    streamer = streaming(NO_REDIS, outbox_records=1, outbox_full="block", outbox_block_s=600)
    publish(streamer, range(1))
    raised: list[Exception] = []

    def block() -> None:
        try:
            publish(streamer, range(1, 2))
        except Exception as error:
            raised.append(error)

    blocked = in_thread(block)
    wait_until("it blocks", blocked.is_alive)
    with pytest.raises(NotAcknowledged):
        streamer.close(timeout=0.1)
    blocked.join(5)
    assert [type(error).__name__ for error in raised] == ["StreamerClosed"]


def test_a_full_outbox_spills_to_the_disk_and_all_arrive_in_order(
    streaming: Make, proxy: Proxy, valkey: RedisServer, node: str, tmp_path: Path
) -> None:
    proxy.hold()
    streamer = streaming(
        proxy.url, outbox_records=10, outbox_full="spill", outbox_dir=str(tmp_path), outbox_sync="normal"
    )
    publish(streamer, range(5000))
    statistics = streamer.statistics()
    assert (statistics.pending, statistics.spilled, statistics.accepted) == (5000, 4990, 5000)
    proxy.release()
    publish(streamer, range(5000, 6000))
    streamer.flush(FLUSH_S)
    assert published(valkey.url, node) == list(range(6000))
    assert streamer.statistics().spilled == 0


def test_what_was_spilled_is_sent_at_the_next_start(
    streaming: Make, valkey: RedisServer, node: str, tmp_path: Path
) -> None:
    options = {"outbox_records": 10, "outbox_full": "spill", "outbox_dir": str(tmp_path), "outbox_sync": "normal"}
    streamer = streaming(NO_REDIS, **options)
    publish(streamer, range(3000))
    with pytest.raises(NotAcknowledged, match="3,000 updates"):
        streamer.close(timeout=0)
    next_ = streaming(valkey.url, **options)
    next_.flush(FLUSH_S)
    assert published(valkey.url, node) == list(range(3000))


def test_a_stopped_process_keeps_its_file(valkey: RedisServer, node: str, tmp_path: Path) -> None:
    """It lives: what it has accepted it sends itself, once it goes on."""
    with telling(node, "run-0", valkey.url, tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGSTOP)
        other = StateStreamer(node, settings(valkey.url, tmp_path))
        assert other.statistics().adopted == 0
        other.close(FLUSH_S)
        assert len([name for name in files(tmp_path) if name.endswith(".sqlite")]) == 1


PUBLISH_AND_WAIT = """
import sys
from streamer import lanes, state_streaming

lanes.LOOK_S = 0.02
streamer = state_streaming(sys.argv[1])
streamer.update("living", {})
streamer.flush(20)
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def living(node: str, url: str, directory: Path) -> Iterator[None]:
    """A process that has published an update, keeps nothing of it, and looks for what others leave, all the time."""
    variables = environment(
        STREAMER_REDIS_URL=url,
        STREAMER_OUTBOX_DIR=str(directory),
        STREAMER_RESEND_RECORDS="0",
        STREAMER_RETENTION_RECORDS="1000000",
    )
    arguments = [sys.executable, "-c", PUBLISH_AND_WAIT, node]
    with subprocess.Popen(
        arguments, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert first_line(process) == "ready\n"
            yield
        finally:
            process.kill()


def test_what_killed_processes_leave_the_living_ones_send_once_and_in_order(
    valkey: RedisServer, node: str, tmp_path: Path
) -> None:
    accepted = []
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(living(node, valkey.url, tmp_path))
        for n in range(6):
            # Half of them have had some acknowledged already, and die in the middle of more.
            url = NO_REDIS if n % 2 else valkey.url
            with telling(node, f"run-{n}", url, tmp_path, STREAMER_OUTBOX_SYNC="normal") as process:
                accepted.append(told_until_killed(process, 0.1))
        wait_until("the files of the dead are gone", lambda: len(files(tmp_path)) == 3 * len(FILES_OF_A_LIVING_ONE))
    check(valkey.url, node, accepted)


FILES_OF_A_LIVING_ONE = (".lock", ".sqlite", ".sqlite-wal")


def test_a_process_looks_for_what_others_have_left_only_with_durable_outboxes(node: str, tmp_path: Path) -> None:
    assert Lanes(node, NodeSettings()).look_due_in_s(time.monotonic()) is None
    lanes = Lanes(node, settings(NO_REDIS, tmp_path))
    now = time.monotonic()
    assert 0 < (lanes.look_due_in_s(now) or 0) <= LOOK_S
    assert lanes.look_due_in_s(now + LOOK_S) == 0
    lanes.find()
    assert (lanes.look_due_in_s(time.monotonic()) or 0) > 0


def test_what_is_found_when_the_publisher_ends_is_left_to_others(
    streaming: Make, valkey: RedisServer, node: str, tmp_path: Path
) -> None:
    dead = streaming(NO_REDIS, outbox_dir=str(tmp_path))
    ending = Sender(node, settings(valkey.url, tmp_path), exclusive=False)
    publish(dead, range(3))
    with pytest.raises(NotAcknowledged):
        dead.close(timeout=0)
    ending.ended = True
    ending._adopt()
    assert ending.lanes.adopted == 0
    streaming(valkey.url, outbox_dir=str(tmp_path)).flush(FLUSH_S)
    assert published(valkey.url, node) == [0, 1, 2]
