"""
Keeps serverless invocations within the concurrency quota that their cloud account shares.

Only what is documented is public: the HTTP API, the configuration file, the names of the
metrics, the command line, and the names below.
"""

from dispatcher.config import Settings
from dispatcher.core.model import Completion, Failure, Invocation, Query, State, Verdict
from dispatcher.core.views import Acceptance, End
from dispatcher.embed import Dispatcher
from dispatcher.engine import Ticket
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
