"""JSON that others wrote: it is decoded, or it is none, whatever is wrong with it."""

from __future__ import annotations

from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode


class NoJson(Exception):
    """The text is no JSON; the error's text says why."""


class NestedTooDeeply(NoJson):
    """The text may be JSON, but no decoder would go so deep."""


def decode_json(text: bytes | str) -> Any:
    """Decode a JSON text. Raises NoJson."""
    try:
        return _decode(text)
    except ValueError as error:  # msgspec's own errors, and those of Unicode
        raise NoJson(str(error)) from None
    except RecursionError:
        raise NestedTooDeeply("it is nested too deeply") from None
