"""
TOML text in, frozen `Settings` out, or one `ConfigError` that names every problem by its path.

Nothing outside the text is touched but the files that it names for secrets, and those only to
judge who may read them; `secret` and `tokens` read one when it is needed.
"""

from dispatcher.config.addresses import address, is_loopback, web_url
from dispatcher.config.adjusting import adjusted, differences, pointer
from dispatcher.config.advice import warnings
from dispatcher.config.changes import changed, needs_restart
from dispatcher.config.loading import check, load, parse
from dispatcher.config.meaning import FUNCTION, NAME
from dispatcher.config.problems import Problem
from dispatcher.config.secret_files import secret, tokens
from dispatcher.config.settings import (
    AccountSettings,
    CallbackSettings,
    ClientSettings,
    Credentials,
    DefaultCredentials,
    EnvCredentials,
    JournalSettings,
    MetricsSettings,
    QueueSettings,
    ServerSettings,
    Settings,
    StaticCredentials,
    TracingSettings,
)
from dispatcher.config.showing import shown
from dispatcher.errors import ConfigError

__all__ = [
    "FUNCTION",
    "NAME",
    "AccountSettings",
    "CallbackSettings",
    "ClientSettings",
    "ConfigError",
    "Credentials",
    "DefaultCredentials",
    "EnvCredentials",
    "JournalSettings",
    "MetricsSettings",
    "Problem",
    "QueueSettings",
    "ServerSettings",
    "Settings",
    "StaticCredentials",
    "TracingSettings",
    "address",
    "adjusted",
    "changed",
    "check",
    "differences",
    "is_loopback",
    "load",
    "needs_restart",
    "parse",
    "pointer",
    "secret",
    "shown",
    "tokens",
    "warnings",
    "web_url",
]
