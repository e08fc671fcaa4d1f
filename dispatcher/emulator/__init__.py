"""
A local cloud for development and tests: AWS Lambda, SQS and Aliyun Function Compute.

It shares nothing with the dispatcher: a fake that does the arithmetic under test proves nothing.
"""

from dispatcher.emulator.server import Emulator, serve
from dispatcher.emulator.settings import (
    Account,
    Fault,
    Function,
    Ramp,
    Records,
    Settings,
    SettingsError,
    load,
    parse,
)

__all__ = [
    "Account",
    "Emulator",
    "Fault",
    "Function",
    "Ramp",
    "Records",
    "Settings",
    "SettingsError",
    "load",
    "parse",
    "serve",
]
