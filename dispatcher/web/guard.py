"""
What keeps one connection from hurting the others: time-outs, a cap, and bodies of bounded size.

aiohttp waits for ever for the rest of a request's head, for a body, and for a peer that does
not read its answer, and it counts no connections. `GuardedHandler` adds that to its protocol
class, and `Guard` is what the connections of one application share.
"""

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

from aiohttp import http_parser, web
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Struct

from dispatcher.web import problems

logger = logging.getLogger("dispatcher.web")


class Limits(Struct, frozen=True, kw_only=True):
    """How much of the server one peer can take. The defaults fit 1024 file descriptors."""

    connections_max: int = 512
    """Connections at the same time; beyond it the one that was idle for longest gives way."""
    head_max_s: float = 10.0
    """From the first byte of a request, or from the connection, to the end of its headers."""
    idle_max_s: float = 75.0
    """Between two requests on a connection."""
    body_grace_s: float = 15.0
    """How long a body may take however small it is ..."""
    body_min_per_s: int = 65_536
    """... and the bytes per second at which larger ones must arrive."""
    stall_max_s: float = 60.0
    """How long a peer may take nothing of the answer that waits for it."""
    bodies_max_bytes: int = 256 * 1024 * 1024
    """Bodies above 64 KiB held at the same time, all together."""


_UCRED: Final = struct.Struct("iII")
"""What SO_PEERCRED gives: the numbers of the process, its user and its group."""

_SMALL_BODY_BYTES: Final = 65_536
"""Bodies up to this size are not counted: `connections_max` bounds them well enough."""


class Guard:
    """The connections of one application, and the bodies that they hold."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.bodies_bytes = 0
        self._connections: set[GuardedHandler] = set()
        self._emptied: asyncio.Event | None = None

    def __len__(self) -> int:
        """Return the number of open connections."""
        return len(self._connections)

    def admit(self, connection: "GuardedHandler") -> bool:
        """Take a new connection in, at the cost of an idle one if need be; False: there is none."""
        if len(self._connections) >= self.limits.connections_max:
            idle = [other for other in self._connections if other.is_idle]
            if not idle:
                return False
            # Who never sent a request that was served goes before who did.
            victim = min(idle, key=lambda other: (other.served, other.heard_at_s))
            self._connections.discard(victim)
            victim.abort()
        self._connections.add(connection)
        return True

    def dismiss(self, connection: "GuardedHandler") -> None:
        """Forget a connection that is closed; one that was never taken in is fine too."""
        self._connections.discard(connection)
        if self._emptied is not None and not self._connections:
            self._emptied.set()

    async def emptied(self) -> None:
        """Close idle connections now and the others after their answers; wait for the last."""
        for connection in list(self._connections):
            connection.finish()
        if self._connections:
            self._emptied = asyncio.Event()
            await self._emptied.wait()

    def count(self, size: int) -> None:
        """Count *size* bytes of a body; raise a `Refusal` if they are too many by now."""
        if self.bodies_bytes + size > self.limits.bodies_max_bytes:
            raise problems.refusal(503, "too many large bodies are being received; try again")
        self.bodies_bytes += size


class GuardedHandler(web.RequestHandler):
    """One connection that cannot be held open for nothing."""

    __slots__ = (
        "_guard",
        "_head_timer",
        "_held_bytes",
        "_reading",
        "_stall_timer",
        "_waiting",
        "_wire",
        "asks_token",
        "heard_at_s",
        "peer_uid",
        "served",
    )

    def __init__(
        self, manager: web.Server, guard: Guard, *, asks_token: bool, **options: Any
    ) -> None:
        """*asks_token*: whoever comes this way must show a token, if there are any."""
        super().__init__(manager, keepalive_timeout=guard.limits.idle_max_s, **options)
        self.asks_token = asks_token
        self.peer_uid: int | None = None
        """The user of the process at the other end of a Unix socket, as the kernel says."""
        self.served = False
        self.heard_at_s = self._loop.time()
        self._guard = guard
        self._wire: asyncio.Transport | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.Handle | None = None
        self._reading = False
        self._held_bytes = 0
        self._waiting: asyncio.Task[Any] | None = None

    @property
    def limits(self) -> Limits:
        """Return what the peer may take."""
        return self._guard.limits

    @property
    def is_idle(self) -> bool:
        """Tell whether it is the peer's turn: to send a head or a body, or to take an answer."""
        if self._reading or self.writing_paused:
            return True
        return not (self._request_in_progress or self._messages)

    def _has_left(self) -> bool:
        return self._wire is None

    def abort(self) -> None:
        """Close at once; what was not sent yet is lost."""
        if self._wire is not None:
            self._wire.abort()

    def finish(self) -> None:
        """Close once the request in the works, if there is one, has its answer."""
        if self._request_in_progress or self._messages:
            self.close()
        else:
            self.force_close()

    # -- What a request goes through -----------------------------------------------------------

    def head_arrived(self) -> None:
        """Stop the clock of the head."""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Mark the time during which the peer sends a body: it may be taken for idle then."""
        self._reading = True
        try:
            yield
        finally:
            self._reading = False

    def hold(self, size: int) -> None:
        """Count the bytes of a body, *size* so far; raises a `Refusal` if all are too many."""
        if size > _SMALL_BODY_BYTES:
            self._guard.count(size - self._held_bytes)
            self._held_bytes = size

    @contextmanager
    def unless_lost(self) -> Iterator[None]:
        """Cancel what runs in this context once the peer leaves: then `ConnectionError`."""
        if self._has_left():
            raise ConnectionResetError("the peer has left")
        self._waiting = task = asyncio.current_task()
        assert task is not None
        try:
            yield
        except asyncio.CancelledError:
            if self._has_left():
                task.uncancel()
                raise ConnectionResetError("the peer has left") from None
            raise
        finally:
            self._waiting = None

    def let_go(self) -> None:
        """Forget the body of the request that has been answered."""
        if self._held_bytes:
            self._guard.bodies_bytes -= self._held_bytes
            self._held_bytes = 0

    # -- What the event loop calls -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless there are too many."""
        # Not an instance of it on uvloop, but it has all of its methods.
        self._wire = wire = cast("asyncio.Transport", transport)
        if not self._guard.admit(self):
            wire.abort()
            return
        # Only who comes by a Unix socket is asked for no token.
        self.peer_uid = None if self.asks_token else _peer_uid(wire)
        self._start_head_timer()
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget everything about it."""
        self.head_arrived()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        self._wire = None
        if self._waiting is not None:
            self._waiting.cancel()
        self._guard.dismiss(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what the peer sent; a head that comes in pieces has its time from the first."""
        super().data_received(data)
        if data:
            self.heard_at_s = self._loop.time()
            if self._head_timer is None and not (self._request_in_progress or self._messages):
                self._start_head_timer()

    def pause_writing(self) -> None:
        """Watch whether the peer takes what waits for it."""
        super().pause_writing()
        # Not measured now: more of the same answer may be written before the next turn.
        if self._stall_timer is None:
            self._stall_timer = self._loop.call_soon(self._watch_stall)

    def resume_writing(self) -> None:
        """Stop watching."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _start_head_timer(self) -> None:
        self._head_timer = self._loop.call_later(self._guard.limits.head_max_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        self.abort()

    def _watch_stall(self, waiting: int | None = None) -> None:
        self._stall_timer = None
        if self._wire is None:
            return
        left = self._wire.get_write_buffer_size()
        # The system takes bytes in lumps of what it buffers, so no rate can be asked for.
        if waiting is not None and left >= waiting:
            self.abort()
            return
        self._stall_timer = self._loop.call_later(
            self._guard.limits.stall_max_s, self._watch_stall, left
        )

    # -- What aiohttp would log and say in its own words ---------------------------------------

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer bytes that are no HTTP request; they are worth no line in the log."""
        if isinstance(exc, ConnectionError):
            raise exc  # the peer left; aiohttp ends the connection at that
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        if isinstance(exc, HttpProcessingError):
            logger.debug("malformed request: %s", type(exc).__name__)
            answer = problems.refusal(400, message or "this is not HTTP").reply()
        else:
            # This should never run: the application answers for its own errors.
            logger.error("answer_failed: %s (%d)", type(exc).__name__, status)
            answer = problems.defect("").reply()
        plain(answer)
        answer.force_close()
        return answer

    def log_exception(self, *args: Any, **details: Any) -> None:
        """Log what kind of error it is, without what the peer sent."""
        error = details.get("exc_info")
        malformed = isinstance(error, web.RequestPayloadError | HttpProcessingError)
        logger.log(
            logging.DEBUG if malformed else logging.ERROR,
            "connection failed: %s: %s",
            args[0] if args else "",
            type(error).__name__,
        )


def _peer_uid(wire: asyncio.Transport) -> int | None:
    """Return whose process is at the other end of a Unix socket; None: it is none."""
    # uvloop's own object for a socket knows its number, but not its options.
    with socket.socket(fileno=os.dup(wire.get_extra_info("socket").fileno())) as peer:
        if peer.family != socket.AF_UNIX:
            return None
        _, uid, _ = _UCRED.unpack(
            peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        )
        return int(uid)


def connection_of(request: web.Request) -> GuardedHandler:
    """Return the connection that *request* came by."""
    connection = request.protocol
    assert isinstance(connection, GuardedHandler), connection
    return connection


def plain(response: web.StreamResponse) -> None:
    """Take from an answer what nobody needs to know, and add what keeps browsers careful."""
    headers = response.headers
    headers["Server"] = "dispatcher"
    headers["X-Content-Type-Options"] = "nosniff"
    headers.setdefault("Cache-Control", "no-store")


def require_fast_parser() -> None:
    """
    Raise RuntimeError without aiohttp's parser in C.

    Nearly all requests that were ever smuggled through aiohttp came through the other one.
    """
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise RuntimeError(
            "aiohttp runs without its C extension (is AIOHTTP_NO_EXTENSIONS set?), "
            "and its other parser is not fit for a server"
        )
