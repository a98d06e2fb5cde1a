"""What a node's process can be told, read once from its environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from streamer.core.errors import InvalidSetting
from streamer.log.connecting import check_url
from streamer.log.keys import Keys
from streamer.log.scripts import Retention

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"


@dataclass(frozen=True)
class NodeSettings:
    """How a process publishes. Each field is also an environment variable, `STREAMER_` and its name in capitals.

    ``retention_records`` is how many records each list keeps; ``job_ttl_s`` after how many seconds without an update a
    job's list expires, 0 for never. ``outbox_records`` and ``outbox_bytes`` bound what waits for Redis, per node.
    ``exit_flush_s`` bounds in seconds how long the interpreter's exit waits for Redis.

    Raises InvalidSetting where a value is out of range.
    """

    redis_url: str = DEFAULT_REDIS_URL
    prefix: str = Keys.prefix
    retention_records: int = Retention().records
    job_ttl_s: int = Retention().job_ttl_s
    outbox_records: int = 100_000
    outbox_bytes: int = 64 << 20
    exit_flush_s: float = 5.0

    def __post_init__(self) -> None:
        check_url(self.redis_url)
        self.keys  # noqa: B018 - checks the prefix
        for name, least in (("retention_records", 1), ("job_ttl_s", 0), ("outbox_records", 1), ("outbox_bytes", 1)):
            if getattr(self, name) < least:
                raise InvalidSetting(f"{name} must be {least} or more, not {getattr(self, name)}")
        if not 0 <= self.exit_flush_s < float("inf"):
            raise InvalidSetting(f"exit_flush_s must be a number of seconds from 0 on, not {self.exit_flush_s}")

    @property
    def keys(self) -> Keys:
        """The names of keys under the prefix."""
        return Keys(self.prefix)

    @property
    def retention(self) -> Retention:
        """What each list keeps."""
        return Retention(self.retention_records, self.job_ttl_s)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> NodeSettings:
        """Read the settings from an environment; what is not set there has its default. Raises InvalidSetting."""
        values: dict[str, str | int | float] = {}
        for field in fields(cls):
            name = f"STREAMER_{field.name.upper()}"
            if name in environ:
                kind: Callable[[str], str | int | float] = {"int": int, "float": float}.get(str(field.type), str)
                try:
                    values[field.name] = kind(environ[name])
                except ValueError:
                    raise InvalidSetting(f"{name} must be a number, not {environ[name]!r}") from None
        return cls(**values)  # type: ignore[arg-type]
