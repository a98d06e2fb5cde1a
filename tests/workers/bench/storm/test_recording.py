"""What a client of a storm gets is taken apart as it came, and whatever is wrong with a message is found."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from streamer.core.messages import plain_frame
from streamer.core.names import Topic
from streamer.core.records import Update
from workers.bench.frames import Malformed
from workers.bench.storm.content import STATUS, Content, Name
from workers.bench.storm.course import Seen
from workers.bench.storm.recording import Life

CONTENT = Content(seed=7, size=300, jobs=1)
LOG_ID = "0a1b"


def update(index: int) -> Update:
    """The update of that index: every second belongs to the job."""
    return Update(
        1, index, index - 2 if index >= 2 and index % 2 == 0 else -1, 1000 + index, STATUS, state(index, 1000 + index)
    )


def state(index: int, timestamp: int) -> dict[str, object]:
    return CONTENT.state("node", Name(0, index), timestamp)


def life_of(job: str | None = None) -> Life:
    return Life(Topic("node", job), CONTENT, lambda timestamp: None)


def places(job: str | None = None) -> list[Seen[Name]]:
    if job is None:
        return [Seen(1, index, index - 1, Name(0, index)) for index in range(10)]
    return [Seen(1, index, index - 2 if index else -1, Name(0, index)) for index in range(0, 10, 2)]


def frames(*indexes: int) -> bytes:
    return b"".join(plain_frame(LOG_ID, update(index)) for index in indexes)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("job", [None, "job-0"])
def test_a_stream_is_right_however_it_is_cut_and_goes_on_in_the_next_connection(job: str | None, seed: int) -> None:
    rng, life = Random(seed), life_of(job)
    step = 1 if job is None else 2
    for first in (0, 6):
        data = frames(*range(first, first + (6 if first == 0 else 4), step))
        while data:
            size = rng.randint(1, 900)
            life.take(data[:size])
            data = data[size:]
        life.take(frames(0)[:50])  # which the end of the connection cuts off
        life.resume()
    assert life.course.against(places(job)) == []
    assert life.count == (10 if job is None else 5)
    assert life.cursor == f"{LOG_ID}.1.{9 if job is None else 8}"


@pytest.mark.parametrize(
    ("alter", "says"),
    [
        (lambda data: data.replace(b'"n":4', b'"n":5'), "altered"),
        (lambda data: data.replace(b'"timestamp":1004', b'"timestamp":1005'), "altered"),
        (lambda data: data.replace(b'"status":"storming"', b'"status":"STORMING"'), "altered"),
        (lambda data: data.replace(b'"cursor":"0a1b.1.4"', b'"cursor":"0a1b.1.3"'), "with the cursor of 3"),
        (lambda data: data.replace(b'"cursor":"0a1b.', b'"cursor":"0a1c.'), "of another log"),
        (lambda data: data.replace(b'{"status"', b'["status"'), "which is no update"),
        (lambda data: b"\x82" + data[1:], "opcode 2"),
        (lambda data: b"", "a hole"),
    ],
)
def test_a_message_that_is_wrong_is_found(alter: Callable[[bytes], bytes], says: str) -> None:
    life = life_of()
    life.take(frames(0, 1, 2, 3) + alter(frames(4)) + frames(5, 6, 7, 8, 9))
    assert any(says in fault for fault in life.course.against(places()))


def test_an_update_of_another_job_is_found() -> None:
    life = life_of("job-0")
    life.take(frames(0, 1))
    assert any("of another job" in fault for fault in life.course.against(places("job-0")))


def test_what_is_no_websocket_is_found() -> None:
    life = life_of()
    with pytest.raises(Malformed):
        life.take(b"\xff\xff\xff\xff")
    assert any("no WebSocket" in fault for fault in life.course.against(places()))
