"""
HTTP to one account: one pool of connections, every wait bounded, every reply bounded.

Nothing is ever sent twice from here, no redirect is followed and no cookie kept. What the network
does is a value, not an exception; only cancellation and bugs raise.
"""

import asyncio
import functools
import hashlib
from collections.abc import Sequence
from typing import Final

import anyio
from yarl import URL

from dispatcher.core.model import Failure, Lost, NotSent
from dispatcher.core.rules import AccountRules, FunctionRules
from dispatcher.transports.dialing import Dialer, proxy_authorization
from dispatcher.transports.http1 import (
    ERROR_BODY_MAX,
    TOO_LARGE,
    BeginReply,
    Connection,
    Limits,
    Reply,
)

__all__ = [
    "ACCEPT_LIMITS",
    "ERROR_BODY_MAX",
    "MIB",
    "TOO_LARGE",
    "BeginReply",
    "Limits",
    "Reply",
    "Wire",
    "body_digest",
    "hold_max_s",
    "plain_value",
    "run_limits",
]

MIB: Final = 1024 * 1024

POOL_WAIT_MAX_S: Final = 10.0
"""How long a request may wait for a connection, old or new, the resolver and TLS included."""
READ_MAX_S: Final = 15.0
"""How long the cloud may be silent when it only has to accept something."""
TOTAL_MAX_S: Final = 40.0
"""How long such a request may take in all."""

_MORE_HEADERS: Final = (
    "User-Agent: serverless-dispatcher\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"
)

ACCEPT_LIMITS: Final = Limits(POOL_WAIT_MAX_S, READ_MAX_S, TOTAL_MAX_S)
"""Of a request that is answered at once."""


@functools.lru_cache(maxsize=256)
def run_limits(hold_max_s: float) -> Limits:
    """Return the limits of a request that is answered when a function has ended."""
    # The cloud's own time-out should be heard of rather than ours, hence the margin.
    silent_max_s = hold_max_s + READ_MAX_S
    return Limits(POOL_WAIT_MAX_S, silent_max_s, silent_max_s + POOL_WAIT_MAX_S + TOTAL_MAX_S)


def hold_max_s(account: AccountRules, function: str) -> float:
    """Return how long a synchronous call of *function* may take."""
    rules = account.functions.get(function) or account.functions.get("*") or FunctionRules()
    return rules.hold_max_s


class Wire:
    """The connections to one endpoint. Must be made inside a running loop."""

    def __init__(self, endpoint: URL, *, connections_max: int, idle_max_s: float) -> None:
        """
        Open nothing yet.

        *idle_max_s* must be shorter than what the server grants an idle connection: a request on
        a connection that the server is just closing is lost.
        """
        assert connections_max > 0, connections_max
        self._loop = asyncio.get_running_loop()
        self._dialer = Dialer(endpoint)
        self._idle_max_s = idle_max_s
        self._places = anyio.CapacityLimiter(connections_max)
        self._idle: list[Connection] = []  #: the one that was used last at the end
        self._busy: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False
        self._before_target = ""
        self._more_headers = _MORE_HEADERS
        if self._dialer.asks_proxy and self._dialer.proxy is not None:
            self._before_target = str(endpoint.origin())
            word = proxy_authorization(self._dialer.proxy)
            self._more_headers += f"Proxy-Authorization: {word}\r\n" if word else ""

    async def exchange(
        self,
        method: str,
        target: str,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        *,
        limits: Limits,
        body_max: int = ERROR_BODY_MAX,
        begin: BeginReply | None = None,
    ) -> Reply | NotSent | Lost:
        """
        Send once. Of a good reply up to *body_max* bytes are read, of another fewer.

        A large one that *begin* has a sink for goes there, however large it is.

        *target* is path and query, escaped; *headers* have a Host, and no value that could end
        its line.
        """
        head = self._head(method, target, headers, body)
        until = self._loop.time() + limits.total_s
        place = object()
        try:
            self._places.acquire_on_behalf_of_nowait(place)
        except anyio.WouldBlock:
            with anyio.move_on_after(limits.connect_s) as scope:
                await self._places.acquire_on_behalf_of(place)
            if scope.cancelled_caught:
                return _NO_CONNECTION
        try:
            connection = self._idle_one() or await self._new_one(limits.connect_s)
            if isinstance(connection, NotSent):
                return connection
            return await self._exchange_on(
                connection,
                head,
                body,
                until=until,
                silent_s=limits.silent_s,
                body_max=body_max,
                begin=begin,
            )
        finally:
            self._places.release_on_behalf_of(place)

    def _head(
        self, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes
    ) -> bytes:
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        # Whoever makes the headers sees to it; what would be signed as one must not be sent as two.
        assert lines.count("\r") == lines.count("\n") == len(headers), "a header ends its line"
        length = f"Content-Length: {len(body)}\r\n" if body or method != "GET" else ""
        return (
            f"{method} {self._before_target}{target} HTTP/1.1\r\n"
            f"{lines}{self._more_headers}{length}\r\n"
        ).encode("ascii")

    async def _exchange_on(
        self,
        connection: Connection,
        head: bytes,
        body: bytes,
        *,
        until: float,
        silent_s: float,
        body_max: int,
        begin: BeginReply | None,
    ) -> Reply | Lost:
        self._busy.add(connection)
        try:
            return await connection.exchange(
                head, body, until=until, silent_s=silent_s, body_max=body_max, begin=begin
            )
        finally:
            self._busy.discard(connection)
            if connection.usable and self._is_open():
                self._idle.append(connection)
                self._sweep_later()

    def _idle_one(self) -> Connection | None:
        """Return the connection that was used last, if it is fresh enough."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                if self._loop.time() < connection.idle_since + self._idle_max_s:
                    return connection
                connection.close()
        return None

    async def _new_one(self, connect_s: float) -> Connection | NotSent:
        if not self._is_open():
            return _CLOSED
        try:
            async with asyncio.timeout(connect_s):
                connection = await self._dialer.dial()
        except TimeoutError:
            return _NO_CONNECTION
        except (OSError, UnicodeError) as error:
            return NotSent(Failure("not_connected", f"{type(error).__name__}: {error}"[:500]))
        if not self._is_open():  # no more
            connection.close()
            return _CLOSED
        return connection

    def _is_open(self) -> bool:
        return not self._closed

    def _sweep_later(self) -> None:
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._idle_max_s, self._close_stale)

    def _close_stale(self) -> None:
        """Close what was idle too long; nobody else would, where no more is sent."""
        self._sweep = None
        fresh_since = self._loop.time() - self._idle_max_s
        fresh = []
        for connection in self._idle:
            if connection.usable and connection.idle_since > fresh_since:
                fresh.append(connection)
            else:
                connection.close()
        self._idle = fresh
        if fresh:
            self._sweep_later()

    def resize(self, connections_max: int) -> None:
        """Allow another number of connections; those that are open and idle may still be used."""
        assert connections_max > 0, connections_max
        self._places.total_tokens = connections_max

    async def aclose(self) -> None:
        """Close all connections; requests in flight are lost."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in (*self._idle, *self._busy):
            connection.close()
        self._idle.clear()


_CLOSED: Final = NotSent(Failure("closed", "the transport is closed"))
_NO_CONNECTION: Final = NotSent(Failure("not_connected", "no connection in time"))


async def body_digest(body: bytes) -> str:
    """Return the SHA-256 of a body in hexadecimal digits; a large one is hashed in a thread."""
    if len(body) <= MIB:
        return hashlib.sha256(body).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(body).hexdigest())


def plain_value(name: str, value: str) -> str:
    """Return *value* if it can stand in a header as it is. Raises `ValueError`."""
    if not (value.isascii() and value.isprintable()):
        raise ValueError(f"{name} cannot stand in a header: expected printable ASCII")
    return value
