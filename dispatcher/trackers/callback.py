"""
The key of the tokens with which functions post their own ends (`core/callback.py`).

It is kept in a file beside the journal: functions that run across a restart hold tokens from
before it.
"""

import os
import secrets
from pathlib import Path

from dispatcher.core.callback import KEY_BYTES
from dispatcher.errors import ConfigError


def fresh_key() -> bytes:
    """Return a new random key, enough for a dispatcher whose journal is in memory."""
    return secrets.token_bytes(KEY_BYTES)


def keep_key(path: Path) -> bytes:
    """
    Return the key in the file at *path*; make one, readable by this user only, if there is none.

    Blocks; call it before the loop runs or in a thread. Raises `ConfigError` when the file
    cannot be read or made, holds no key, or can be read by others. A key is never replaced:
    that would silently take away the tokens of what runs.
    """
    try:
        try:
            return _read_key(path)
        except FileNotFoundError:
            _write_key(path, fresh_key())
            return _read_key(path)
    except OSError as error:
        raise ConfigError([("", f"cannot keep the callback key at {path}: {error}")]) from error


def _read_key(path: Path) -> bytes:
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        key = file.read(KEY_BYTES + 1)
    if mode & 0o077:
        raise ConfigError([("", f"others may read the callback key at {path}: chmod 600 {path}")])
    if len(key) != KEY_BYTES:
        raise ConfigError([("", f"{path} holds no callback key ({KEY_BYTES} bytes)")])
    return key


def _write_key(path: Path, key: bytes) -> None:
    """Make the file complete or not at all, and lose to whoever makes it at the same time."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        draft.unlink()
