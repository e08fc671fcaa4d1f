"""What differs between two configurations, and what of it only a restart can bring about."""

from collections.abc import Iterator

import msgspec

from dispatcher.config.settings import Settings
from dispatcher.config.shape import Keys, spelled

_ABSENT = object()

RESTART: frozenset[Keys] = frozenset({
    # What has been opened stays open.
    ("server", "listen"),
    ("metrics", "listen"),
    ("journal", "url"),
    ("journal", "delivery"),
    ("journal", "retention_s"),
    ("journal", "network_filesystems"),
    ("queue", "bytes_max"),
    ("tracing", "endpoint"),
    ("tracing", "service_name"),
    ("tracing", "sample_ratio"),
    # Who an account is and how it is reached: what is in flight goes there.
    ("accounts", "*"),
    ("accounts", "*", "provider"),
    ("accounts", "*", "account_id"),
    ("accounts", "*", "region"),
    ("accounts", "*", "endpoint"),
    ("accounts", "*", "completion_queue"),
    ("accounts", "*", "credentials"),
})  # fmt: skip
"""Keys that are read once, at the start; `*` stands for any name. All others change live."""


def changed(old: Settings, new: Settings) -> list[str]:
    """Return the path of each key that differs; of a table that only one of them has, its own."""
    return [spelled(keys) for keys in _different(old, new)]


def needs_restart(old: Settings, new: Settings) -> list[str]:
    """Return the paths of keys that differ and cannot change while the process runs."""
    return [spelled(keys) for keys in _different(old, new) if read_once(keys)]


def read_once(keys: Keys) -> bool:
    """Tell whether the key at *keys* is read at the start only."""
    pattern = tuple(
        "*" if index == 1 and keys[0] in ("accounts", "clients") else key
        for index, key in enumerate(keys)
    )
    return pattern in RESTART or pattern[:3] in RESTART


def _different(old: Settings, new: Settings) -> Iterator[Keys]:
    return _between(msgspec.to_builtins(old), msgspec.to_builtins(new), ())


def _between(old: object, new: object, keys: Keys) -> Iterator[Keys]:
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _between(old.get(key, _ABSENT), new.get(key, _ABSENT), (*keys, key))
    else:
        yield keys
