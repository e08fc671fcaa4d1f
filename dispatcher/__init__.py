"""
Keeps serverless invocations within the concurrency quota that their cloud account shares.

Only what is documented is public: the HTTP API, the configuration file, the names of the
metrics, the command line, and the names below.
"""

import importlib
from typing import TYPE_CHECKING, Final

from dispatcher.core.model import Completion, Failure, Invocation, Query, State, Verdict
from dispatcher.core.views import Acceptance, End
from dispatcher.errors import (
    ConfigError,
    DiskFull,
    DispatcherError,
    Draining,
    Invalid,
    JournalDamaged,
    JournalError,
    JournalLocked,
    KeyReused,
    NotFound,
    NotPossible,
    PayloadTooLarge,
    QueueFull,
    Rejected,
)
from dispatcher.version import __version__

if TYPE_CHECKING:
    from dispatcher.config import Settings
    from dispatcher.embed import Dispatcher
    from dispatcher.engine import Ticket

__all__ = [
    "Acceptance",
    "Completion",
    "ConfigError",
    "DiskFull",
    "Dispatcher",
    "DispatcherError",
    "Draining",
    "End",
    "Failure",
    "Invalid",
    "Invocation",
    "JournalDamaged",
    "JournalError",
    "JournalLocked",
    "KeyReused",
    "NotFound",
    "NotPossible",
    "PayloadTooLarge",
    "Query",
    "QueueFull",
    "Rejected",
    "Settings",
    "State",
    "Ticket",
    "Verdict",
    "__version__",
]

#: Imported when they are asked for: a health check, say, needs none of what they bring along.
_LATER: Final = {
    "Dispatcher": "dispatcher.embed",
    "Settings": "dispatcher.config",
    "Ticket": "dispatcher.engine",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(importlib.import_module(_LATER[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
