"""What the exit code says, after sysexits.h."""

from enum import IntEnum

from dispatcher.errors import (
    ConfigError,
    DiskFull,
    Draining,
    JournalError,
    JournalLocked,
    QueueFull,
    Rejected,
    Unreachable,
)


class Code(IntEnum):
    """Exit codes of the commands."""

    OK = 0
    FAILED = 1
    USAGE = 64
    IO = 74
    TEMPORARY = 75
    CONFIG = 78


def code_of(error: Exception) -> Code:
    """Return the exit code that *error* calls for."""
    match error:
        case ConfigError():
            return Code.CONFIG
        case JournalLocked() | QueueFull() | Draining() | DiskFull():
            return Code.TEMPORARY
        case ConnectionError() | TimeoutError() | Unreachable():
            return Code.TEMPORARY
        case JournalError() | OSError():
            return Code.IO
        case Rejected():
            return Code.USAGE
        case _:
            return Code.FAILED
