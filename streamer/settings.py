"""What a node's process can be told, read once from its environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from threading import TIMEOUT_MAX

from streamer.core.errors import InvalidSetting
from streamer.log.connecting import check_url
from streamer.log.keys import Keys
from streamer.log.scripts import Retention

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"

_MOST = 2**32 - 1
"""As many elements as a list of Redis may have; as seconds, 136 years."""

_RANGES = {
    "retention_records": (1, _MOST),
    "job_ttl_s": (0, _MOST),
    "outbox_records": (1, _MOST),
    "outbox_bytes": (1, 2**53),
    "exit_flush_s": (0, TIMEOUT_MAX),
}


@dataclass(frozen=True)
class NodeSettings:
    """How a process publishes. Each field is also an environment variable, `STREAMER_` and its name in capitals.

    ``retention_records`` is how many records each list keeps; ``job_ttl_s`` after how many seconds without an update a
    job's list expires, 0 for never. ``outbox_records`` and ``outbox_bytes`` bound what waits for Redis, per node.
    ``exit_flush_s`` bounds in seconds how long the interpreter's exit waits for Redis, for all nodes together.

    Raises InvalidSetting, with a sentence that names the field, where a value is of the wrong kind or out of range.
    """

    redis_url: str = DEFAULT_REDIS_URL
    prefix: str = Keys.prefix
    retention_records: int = Retention().records
    job_ttl_s: int = Retention().job_ttl_s
    outbox_records: int = 100_000
    outbox_bytes: int = 64 << 20
    exit_flush_s: float = 5.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            if kind == "str":
                if not isinstance(value, str):
                    raise InvalidSetting(f"{field.name} must be text, not {value!r:.80}")
                continue
            least, most = _RANGES[field.name]
            if not (type(value) in (int, float) and (kind == "float" or type(value) is int) and least <= value <= most):
                number = "whole number" if kind == "int" else "number"
                raise InvalidSetting(f"{field.name} must be a {number} from {least} to {most}, not {value!r:.80}")
        check_url(self.redis_url)
        self.keys  # noqa: B018 - checks the prefix

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
        """Read the settings from an environment; what is not set there has its default.

        Raises InvalidSetting, with a sentence that names the variable.
        """
        values: dict[str, str | int | float] = {}
        for field in fields(cls):
            variable = f"STREAMER_{field.name.upper()}"
            if variable in environ:
                value = _parsed(environ[variable], {"int": int, "float": float}.get(str(field.type), str))
                try:
                    cls(**{field.name: value})  # type: ignore[arg-type]
                except InvalidSetting as error:
                    raise InvalidSetting(f"{variable}: {error}") from None
                values[field.name] = value
        return cls(**values)  # type: ignore[arg-type]


def _parsed(text: str, kind: Callable[[str], str | int | float]) -> str | int | float:
    """The value, or the text where it is none: that is then refused as such."""
    try:
        return kind(text)
    except ValueError:
        return text
