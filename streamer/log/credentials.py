"""The user and the password of Redis where they are not in its URL: from the environment, or from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from streamer.core.errors import InvalidSetting
from streamer.log.url import with_credentials

USERNAME = "STREAMER_REDIS_USERNAME"
PASSWORD = "STREAMER_REDIS_PASSWORD"  # noqa: S105 - a variable's name
PASSWORD_FILE = "STREAMER_REDIS_PASSWORD_FILE"  # noqa: S105 - a variable's name


def add_credentials(url: str, environ: Mapping[str, str]) -> str:
    """The URL of a Redis with the user and the password that an environment names; what the URL has already stays.

    To be called once, where settings are read: from then on the URL is all that it takes. Raises InvalidSetting, with a
    sentence that shows no secret.
    """
    return with_credentials(url, environ.get(USERNAME), _password(environ))


def _password(environ: Mapping[str, str]) -> str | None:
    password, path = environ.get(PASSWORD), environ.get(PASSWORD_FILE)
    if not path:
        return password
    if password:
        raise InvalidSetting(f"{PASSWORD} and {PASSWORD_FILE} are both set: one of them is enough")
    try:
        password = Path(path).read_text(encoding="utf-8").strip("\r\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InvalidSetting(f"{PASSWORD_FILE}: {path} cannot be read: {reason}") from None
    if not password:
        raise InvalidSetting(f"{PASSWORD_FILE}: {path} is empty")
    return password
