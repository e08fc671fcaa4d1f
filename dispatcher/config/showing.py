"""A configuration as it may be shown to anybody who helps: complete, and without secrets."""

from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec

from dispatcher.config.settings import Settings

_IDS: Final = frozenset({"access_key_id"})
_URLS: Final = frozenset({"endpoint", "completion_queue", "url"})
_SEEN: Final = 4
"""Characters of a key's id that are shown: enough to tell it from another."""


def shown(settings: Settings) -> dict[str, Any]:
    """
    Return every key of *settings*, defaults included, as plain values.

    Secrets are in files, of which only the paths are part of the settings. The ids of keys are
    cut short all the same, and what URLs say beside their address is left out.
    """
    plain: dict[str, Any] = msgspec.to_builtins(settings)
    return {key: _redacted(key, value) for key, value in plain.items()}


def _redacted(key: str, value: object) -> object:
    match value:
        case dict():
            return {inner: _redacted(inner, one) for inner, one in value.items()}
        case list() | tuple():
            return [_redacted(key, one) for one in value]
        case str() if key in _IDS:
            return f"{value[:_SEEN]}..." if len(value) > _SEEN else "..."
        case str() if key in _URLS:
            return _without_secrets(value)
        case _:
            return value


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "..." if parts.query else "", ""))
