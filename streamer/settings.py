"""What a node's process can be told, read once from its environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields
from dataclasses import field as setting
from threading import TIMEOUT_MAX
from typing import Any

from streamer.core.errors import InvalidSetting
from streamer.core.kept import KeepBounds
from streamer.log.credentials import add_credentials
from streamer.log.keys import Keys
from streamer.log.scripts import Retention
from streamer.log.url import check_url

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"

_MOST = 2**32 - 1
"""As many elements as a list of Redis may have; as seconds, 136 years."""

_RANGES = {
    "retention_records": (1, _MOST),
    "job_ttl_s": (0, _MOST),
    "outbox_records": (1, _MOST),
    "outbox_bytes": (1, 2**53),
    "outbox_block_s": (0, TIMEOUT_MAX),
    "resend_records": (0, _MOST),
    "resend_bytes": (0, 2**53),
    "resend_s": (0, TIMEOUT_MAX),
    "wait_replicas": (0, 1000),
    # Less than the time that an answer of Redis may take.
    "wait_replicas_s": (0.001, 5),
    "lease_s": (1, _MOST),
    "exit_flush_s": (0, TIMEOUT_MAX),
}

_CHOICES = {"outbox_full": ("raise", "block", "spill"), "outbox_sync": ("full", "normal")}


@dataclass(frozen=True)
class NodeSettings:
    """How a process publishes. Each field is also an environment variable, `STREAMER_` and its name in capitals.

    ``retention_records`` is how many records each list keeps; ``job_ttl_s`` after how many seconds without an update a
    job's list expires, 0 for never. ``outbox_records`` and ``outbox_bytes`` bound what waits for Redis, per node.
    ``outbox_full`` is what `update` does then: ``raise`` an error; ``block`` for ``outbox_block_s`` seconds at the
    most; or ``spill`` to the disk, with ``outbox_dir``. ``outbox_dir`` is a directory for durable outboxes, empty for
    none: each update is then on the disk before `update` returns, and outlives the process; with ``outbox_sync``
    ``full`` also a loss of power, with ``normal`` not always.
    ``resend_records``, ``resend_bytes`` and ``resend_s`` bound what is kept of the updates that Redis has acknowledged,
    per node, to append it again where a failover lost it. ``wait_replicas`` is how many replicas must have an update
    before it counts as acknowledged, ``wait_replicas_s`` how many seconds each try waits for them. ``lease_s`` is for
    how many seconds an exclusive node's claim holds without being renewed.
    ``exit_flush_s`` bounds in seconds how long the interpreter's exit waits for Redis, for all nodes together.

    Raises InvalidSetting, with a sentence that names the field, where a value is of the wrong kind or out of range.
    """

    redis_url: str = setting(default=DEFAULT_REDIS_URL, repr=False)  # it may hold a password
    prefix: str = Keys.prefix
    retention_records: int = Retention().records
    job_ttl_s: int = Retention().job_ttl_s
    outbox_records: int = 100_000
    outbox_bytes: int = 64 << 20
    outbox_full: str = "raise"
    outbox_block_s: float = 10.0
    outbox_dir: str = ""
    outbox_sync: str = "full"
    resend_records: int = 50_000
    resend_bytes: int = 16 << 20
    resend_s: float = 60.0
    wait_replicas: int = 0
    wait_replicas_s: float = 1.0
    lease_s: float = 15.0
    exit_flush_s: float = 5.0

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field, getattr(self, field.name))
        if self.outbox_full == "spill" and not self.outbox_dir:
            raise InvalidSetting("outbox_full can be 'spill' only with a directory as outbox_dir")

    @property
    def keys(self) -> Keys:
        """The names of keys under the prefix."""
        return Keys(self.prefix)

    @property
    def retention(self) -> Retention:
        """What each list keeps."""
        return Retention(self.retention_records, self.job_ttl_s)

    @property
    def keep(self) -> KeepBounds:
        """What is kept to be appended again."""
        return KeepBounds(self.resend_records, self.resend_bytes, self.resend_s)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> NodeSettings:
        """Read the settings from an environment; what is not set there has its default.

        The URL gets the user and the password that `STREAMER_REDIS_USERNAME`, `STREAMER_REDIS_PASSWORD` or the file
        `STREAMER_REDIS_PASSWORD_FILE` have, unless it has them itself.

        Raises InvalidSetting, with a sentence that names the variable.
        """
        values: dict[str, str | int | float] = {}
        for field in fields(cls):
            variable = f"STREAMER_{field.name.upper()}"
            if variable in environ:
                value = _parsed(environ[variable], {"int": int, "float": float}.get(str(field.type), str))
                try:
                    _check(field, value)
                except InvalidSetting as error:
                    raise InvalidSetting(f"{variable}: {error}") from None
                values[field.name] = value
        values["redis_url"] = add_credentials(str(values.get("redis_url", DEFAULT_REDIS_URL)), environ)
        return cls(**values)  # type: ignore[arg-type]


def _check(field: Field[Any], value: object) -> None:
    """Raise InvalidSetting, with a sentence that names the field, unless it may have the value."""
    if str(field.type) == "str":
        _check_text(field.name, value)
        return
    least, most = _RANGES[field.name]
    whole = str(field.type) == "int"
    if (type(value) is not int and (whole or type(value) is not float)) or not least <= value <= most:
        number = "whole number" if whole else "number"
        raise InvalidSetting(f"{field.name} must be a {number} from {least} to {most}, not {value!r:.80}")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidSetting(f"{name} must be text, not {value!r:.80}")
    if name == "redis_url":
        check_url(value)
    elif name == "prefix":
        Keys(value)
    elif name in _CHOICES and value not in _CHOICES[name]:
        raise InvalidSetting(f"{name} must be one of {', '.join(_CHOICES[name])}, not {value!r:.80}")


def _parsed(text: str, kind: Callable[[str], str | int | float]) -> str | int | float:
    """The value, or the text where it is none: that is then refused as such."""
    try:
        return kind(text)
    except ValueError:
        return text
