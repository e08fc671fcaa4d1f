"""
A client of the sidecar: the calls of the embedded dispatcher, over HTTP.

`Client` is for asyncio code, `BlockingClient` for code without an event loop. Both raise the
errors that the dispatcher raises in process; what only a network can do is `Unreachable`.
"""

from dispatcher.blocking import BlockingTicket
from dispatcher.client.blocking import BlockingClient
from dispatcher.client.calls import Client, RemoteTicket
from dispatcher.client.connection import Unwilling
from dispatcher.errors import Unreachable

__all__ = [
    "BlockingClient",
    "BlockingTicket",
    "Client",
    "RemoteTicket",
    "Unreachable",
    "Unwilling",
]
