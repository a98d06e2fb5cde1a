"""Whether JSON can hold a value, as it is and within bounds; if not, where in it the flaw is.

All who watch read JSON. What it cannot hold has to be refused where it is written, by whoever can still mend it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

MAX_DEPTH = 64
"""How deep a state may be nested. Decoders have bounds too, and one that fails ends every watch of the topic."""

MAX_KEYS = 10_000
"""How many keys a state may have, in all its mappings together. To show them takes much more than their bytes."""

_PATH_CHARACTERS = 200
_KEY_CHARACTERS = 40
_CONTAINERS = (dict, list, tuple)
_HARMLESS = {bool, float, type(None)}


class Unfit(Exception):
    """JSON cannot hold a value; ``what`` is wrong, ``path`` are the keys to it, the innermost first."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        self.path: list[object] = []

    def __str__(self) -> str:
        path = "state"
        for key in reversed(self.path):
            path += _step(key)
            if len(path) > _PATH_CHARACTERS:
                path = f"{path[:_PATH_CHARACTERS]}…"
                break
        return f"{path} {self.what}"


class TooDeep(Unfit):
    """A value is nested deeper than MAX_DEPTH."""


def plain_state(state: Mapping[Any, Any]) -> dict[str, Any]:
    """A state as JSON's own types; what has such a form, a date or a dataclass, is turned into it: bytes into base64,
    numbers as keys into text. NaN and infinity stay, of which JSON makes null.

    Raises Unfit where something has none.
    """
    try:
        plain: dict[str, Any] = msgspec.to_builtins(dict(state), str_keys=True)
    except RecursionError:
        raise TooDeep("is nested too deep") from None
    except Exception as error:  # whatever a foreign object's own code raises
        _find_strange(dict(state), MAX_DEPTH)
        raise Unfit(f"cannot be turned into JSON: {error!s:.200}") from error
    _Walk().check(plain, MAX_DEPTH)
    return plain


def check_readable(state: dict[str, Any]) -> None:
    """Raise Unfit where a state that was read has what no reader of JSON could be given."""
    # Most states are flat, and then there is nothing to look for.
    if any(isinstance(value, _CONTAINERS) for value in state.values()):
        _check_shape(state, MAX_DEPTH)


class _Walk:
    """One walk through a state."""

    def __init__(self) -> None:
        self._keys = 0

    def check(self, value: Any, levels: int) -> None:
        """Raise Unfit where a value, which may have so many levels, is not to be written."""
        kind = type(value)
        if kind is str:
            _check_text(value)
        elif kind is int:
            if not -(2**63) <= value < 2**64:
                raise Unfit("is a whole number of more than 64 bits")
        elif kind is dict:
            self._check_mapping(value, levels)
        elif kind in (list, tuple):
            self._check_list(value, levels)
        elif kind not in _HARMLESS:
            raise Unfit(f"is of the type {kind.__name__:.80}")

    def _check_mapping(self, mapping: dict[Any, Any], levels: int) -> None:
        _check_levels(levels)
        self._keys += len(mapping)
        if self._keys > MAX_KEYS:
            raise Unfit(f"has too many keys: a state may have {MAX_KEYS:,} altogether")
        for key in mapping:
            if type(key) is not str or not key.isascii():
                _check_key(key)
        try:
            for key, value in mapping.items():  # noqa: B007 - the handler needs it
                if type(value) is str and value.isascii():
                    continue  # most are, and a call would take longer
                self.check(value, levels - 1)
        except Unfit as flaw:
            flaw.path.append(key)
            raise

    def _check_list(self, values: list[Any] | tuple[Any, ...], levels: int) -> None:
        _check_levels(levels)
        try:
            for place, value in enumerate(values):  # noqa: B007 - as above
                self.check(value, levels - 1)
        except Unfit as flaw:
            flaw.path.append(place)
            raise


def _check_key(key: object) -> None:
    if not isinstance(key, str):
        raise Unfit(f"has a key of the type {type(key).__name__:.80}, and may have only text")
    _check_text(key, "has a key that holds")


def _check_text(text: str, holds: str = "holds") -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Unfit(f"{holds} half a surrogate pair") from None


def _check_levels(levels: int) -> None:
    if levels <= 0:
        raise TooDeep("is nested too deep")


def _check_shape(value: Any, levels: int) -> None:
    if not isinstance(value, _CONTAINERS):
        return
    _check_levels(levels)
    if isinstance(value, dict):
        for key in value:
            _check_key(key)
    try:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):  # noqa: B007 - as above
            _check_shape(inner, levels - 1)
    except Unfit as flaw:
        flaw.path.append(key)
        raise


def _find_strange(value: Any, levels: int) -> None:
    """Raise Unfit, with the way to it, for a value that cannot be turned into JSON's types."""
    if not isinstance(value, _CONTAINERS) or levels <= 0:
        _must_be_plain(value, f"is of the type {type(value).__name__:.80}, which JSON does not have")
        return
    if isinstance(value, dict):
        for key in value:
            _must_be_plain({key: None}, f"has a key of the type {type(key).__name__:.80}, which cannot become text")
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        try:
            _find_strange(inner, levels - 1)
        except Unfit as flaw:
            flaw.path.append(key)
            raise


def _must_be_plain(value: object, what: str) -> None:
    try:
        msgspec.to_builtins(value, str_keys=True)
    except Exception as error:
        raise Unfit(what) from error


def _step(key: object) -> str:
    """A key as a step of a path: `.name`, `[3]`, `["any text"]`."""
    if isinstance(key, str) and key.isascii() and key.isidentifier() and len(key) <= _KEY_CHARACTERS:
        return f".{key}"
    if isinstance(key, int) and not isinstance(key, bool) and abs(key) < 2**64:
        return f"[{key}]"
    if isinstance(key, str):
        return f"[{key[:_KEY_CHARACTERS]!a}{'…' if len(key) > _KEY_CHARACTERS else ''}]"
    return f"[a {type(key).__name__:.40}]"
