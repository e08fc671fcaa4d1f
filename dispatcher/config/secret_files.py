"""Secrets live in files: who may read those is judged on loading, the secret is read when used."""

import stat
from collections.abc import Iterator
from pathlib import Path

from dispatcher.config.problems import Problem
from dispatcher.errors import ConfigError


def secret(path: str) -> str:
    """Return the secret in the file at *path*, without the line end. Raises `ConfigError`."""
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError([("", f"cannot read {path}: {_reason(error)}")]) from error
    if not text:
        raise ConfigError([("", f"{path} is empty")])
    return text


def tokens(path: str) -> tuple[str, ...]:
    """Return the tokens in the file at *path*, one a line. Raises `ConfigError`."""
    return tuple(line.strip() for line in secret(path).splitlines() if line.strip())


def problems(path: str, key: str) -> Iterator[Problem]:
    """Yield what is wrong with the file at *path*, which *key* names as a secret."""
    if not path.isprintable():
        yield Problem(key, "expected the path of a file")
        return
    try:
        status = Path(path).stat()
        mode = status.st_mode
        if stat.S_ISREG(mode):
            # Opened, not only looked at: nothing else tells for certain that it can be read.
            with Path(path).open("rb"):
                pass
    except (OSError, ValueError) as error:
        yield Problem(key, f"cannot read {path}: {_reason(error)}")
        return
    if not stat.S_ISREG(mode):
        yield Problem(key, f"{path} is not a file")
    elif mode & stat.S_IROTH:
        yield Problem(
            key, f"everybody may read {path}: take that right away (chmod o-r, or mode 0440)"
        )
    elif mode & stat.S_IWOTH:
        yield Problem(key, f"everybody may write {path}: take that right away (chmod o-w)")
    elif status.st_size == 0:
        yield Problem(key, f"{path} is empty")


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
