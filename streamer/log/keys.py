"""The names of keys and channels in Redis. A list's key is also the name of its channel."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from streamer.core.errors import InvalidSetting
from streamer.core.names import Topic

_ESCAPES = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D", ":": "%3A"})


def escape(name: str) -> str:
    """Make a name safe inside a key: it can neither end the hash tag nor look like another key."""
    return name.translate(_ESCAPES)


def unescape(name: str) -> str:
    """Undo `escape`."""
    return unquote(name)


@dataclass(frozen=True)
class Keys:
    """All keys begin with the prefix; those of one node share a hash tag and so, in a cluster, a slot."""

    prefix: str = "streamer:"

    def __post_init__(self) -> None:
        if "{" in self.prefix or "}" in self.prefix:
            raise InvalidSetting(f"the prefix of keys cannot hold braces, which mark the hash tag: {self.prefix!r}")

    @property
    def fleet(self) -> str:
        """A hash: node to its summary."""
        return f"{self.prefix}fleet"

    def job(self, job: str) -> str:
        """A job's index, and its channel: a sorted set of the nodes that have run the job, by when they were noted."""
        return f"{self.prefix}job:{escape(job)}"

    def log(self, node: str) -> str:
        """A hash: id, epoch, next index, on which server, and since when it was a master, the epoch began, where the
        last epochs began, the last index of any job that was forgotten."""
        return f"{self._node(node)}log"

    def records(self, topic: Topic) -> str:
        """The list of a topic's records, and its channel."""
        return f"{self._node(topic.node)}{'all' if topic.job is None else 'job:' + escape(topic.job)}"

    def jobs(self, node: str) -> str:
        """A sorted set: the escaped names of the node's jobs by the index of their last update, kept or not."""
        return f"{self._node(node)}jobs"

    def writer(self, node: str, writer: str) -> str:
        """The last sequence number appended for a writer."""
        return f"{self._node(node)}writer:{writer}"

    def claim(self, node: str) -> str:
        """A hash: who has the node for itself, the token of its claim, until when (ms since 1970)."""
        return f"{self._node(node)}claim"

    def probe(self, probe_id: str, tag: str) -> str:
        """The channel on which a subscriber hears itself; the tag says, on a cluster, on which server."""
        return f"{self.prefix}probe:{probe_id}" + (f":{{{tag}}}" if tag else "")

    def _node(self, node: str) -> str:
        return f"{self.prefix}{{{escape(node)}}}:"
