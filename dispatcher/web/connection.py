"""
One connection: requests are read off it, answered in their order, and what is odd ends it.

The bytes are taken apart by aiohttp's parser in C; what it gives goes straight to the
application, without the routers, signals and task for each request that aiohttp's own server
has. The time-outs and the cap that keep a peer from holding it open for nothing are in `guard`.
"""

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

from aiohttp import hdrs
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader

from dispatcher.core.views import Parts
from dispatcher.web import problems
from dispatcher.web.guard import Guard, Limits
from dispatcher.web.patience import Patience
from dispatcher.web.request import BrokenBody, Request
from dispatcher.web.response import Body, Response

logger = logging.getLogger("dispatcher.web")

LINE_MAX_BYTES: Final = 8190
"""Of the request line, and of each header."""
HEADERS_MAX: Final = 128
PIPELINED_MAX: Final = 32
"""Requests that wait for the answers to those before them on a connection."""
_FULL: Final = PIPELINED_MAX - 1
"""The parser may stop one earlier: it counts a request whose body was late until the next one."""
LINGERING_S: Final = 2.0
"""How long what comes after a refusal is read and thrown away, so that the answer is read."""
_READ_BYTES: Final = 65_536
_JOINED_BYTES: Final = 16_384
"""Up to this size head and body go out as one piece: a copy costs less than a system call."""
_UCRED: Final = struct.Struct("iII")
"""What SO_PEERCRED gives: the numbers of the process, its user and its group."""


Answer = Callable[[Request], Awaitable[Response]]


class Connection(BaseProtocol):
    """One connection that cannot be held open for nothing."""

    __slots__ = (
        "_answer",
        "_closing",
        "_guard",
        "_held_bytes",
        "_is_full",
        "_patience",
        "_payload",
        "_queue",
        "_reading",
        "_spoilt",
        "_starting",
        "_task",
        "_waiting",
        "asks_token",
        "heard_at_s",
        "peer",
        "peer_uid",
        "served",
    )

    def __init__(self, guard: Guard, answer: Answer, *, asks_token: bool) -> None:
        """*asks_token*: whoever comes this way must show a token, if there are any."""
        loop = asyncio.get_running_loop()
        parser = HttpRequestParser(
            self,
            loop,
            _READ_BYTES,
            max_line_size=LINE_MAX_BYTES,
            max_field_size=LINE_MAX_BYTES,
            max_headers=HEADERS_MAX,
            payload_exception=BrokenBody,
            auto_decompress=False,
            max_msg_queue_size=PIPELINED_MAX,
        )
        super().__init__(loop, parser)
        self.asks_token = asks_token
        self.peer: Any = None
        """The address of the peer; a tuple unless it came by a Unix socket."""
        self.peer_uid: int | None = None
        """The user of the process at the other end of a Unix socket, as the kernel says."""
        self.served = False
        self.heard_at_s = loop.time()
        self._guard = guard
        self._answer = answer
        self._queue: deque[tuple[RawRequestMessage, StreamReader] | HttpProcessingError] = deque()
        self._task: asyncio.Task[None] | None = None
        self._payload: StreamReader | None = None
        """The body of the request in the works."""
        self._is_full = False
        """Nothing is read until some of the requests that wait have been answered."""
        self._closing = False
        """No further request is taken."""
        self._spoilt = False
        """What still comes cannot be read as requests."""
        self._starting = False
        """A head has begun to come and has not ended."""
        self._patience = Patience(self.abort)
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
        return self._reading or self.writing_paused or self._task is None

    def _has_left(self) -> bool:
        return self.transport is None

    def abort(self) -> None:
        """Close at once; what was not sent yet is lost."""
        if self.transport is not None:
            self.transport.abort()

    def finish(self) -> None:
        """Close once the request in the works, if there is one, has its answer."""
        self._closing = True
        if self._task is None and self.transport is not None:
            self.transport.close()

    async def end(self) -> None:
        """Close at once, and wait until the request in the works has ended."""
        self.abort()
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    # -- What a request goes through -----------------------------------------------------------

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
        self._held_bytes = self._guard.hold(size, self._held_bytes)

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

    def ask_to_go_on(self) -> None:
        """Tell a peer that has asked first that its body is wanted."""
        if self.transport is not None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # -- What the event loop calls -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless there are too many."""
        # Not an instance of it on uvloop, but it has all of its methods.
        wire = cast("asyncio.Transport", transport)
        if not self._guard.admit(self):
            wire.abort()
            return
        super().connection_made(wire)
        self.peer = wire.get_extra_info("peername")
        # Only who comes by a Unix socket is asked for no token.
        self.peer_uid = None if self.asks_token else _peer_uid(wire)
        self._starting = True
        self._patience.expect_within(self.limits.head_max_s)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget everything about it."""
        self._patience.end()
        super().connection_lost(exc)
        self._parser = None
        self._closing = True
        self._queue.clear()
        if self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(ConnectionResetError("the peer has left"))
        if self._waiting is not None:
            self._waiting.cancel()
        self._guard.dismiss(self)

    def data_received(self, data: bytes) -> None:
        """Take what the peer sent; a head that comes in pieces has its time from the first."""
        if self._spoilt or self._parser is None:
            return
        try:
            messages, upgraded, _ = self._parser.feed_data(data)
        except HttpProcessingError as error:
            self._spoil(error)
        else:
            self._queue.extend(messages)
            # Nobody here speaks what it would go on with: the answer says so by closing.
            self._spoilt = self._upgraded = upgraded
        if data:
            self.heard_at_s = self._loop.time()
        if len(self._queue) >= _FULL and not self._is_full:
            self._is_full = True
            if self.transport is not None:
                self.transport.pause_reading()
        if self._task is not None:
            return
        if self._queue:
            self._starting = False
            self._patience.expect_nothing()
            self._task = self._loop.create_task(self._serve())
        elif not self._starting:
            self._starting = True
            self._patience.expect_within(self.limits.head_max_s)

    def _spoil(self, error: HttpProcessingError) -> None:
        """Let what is no HTTP be answered in its turn, and read nothing further."""
        self._spoilt = True
        payload = self._payload
        if self._queue and not isinstance(self._queue[-1], HttpProcessingError):
            _, payload = self._queue[-1]
        if payload is None or payload.is_eof():
            self._queue.append(error)
        else:
            payload.set_exception(BrokenBody(error.message))

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 -- aiohttp's
        """Read on, where a body that nobody took yet had stopped that."""
        # Called for every body: most have not stopped anything.
        if self._reading_paused:
            super().resume_reading(resume_parser)
            wire = self.transport
            if self._is_full and wire is not None and not wire.is_closing():
                wire.pause_reading()  # what came behind that body is enough for now

    def pause_writing(self) -> None:
        """Watch whether the peer takes what waits for it."""
        super().pause_writing()
        if self.transport is not None:
            self._patience.watch(self.transport.get_write_buffer_size, self.limits.stall_max_s)

    def resume_writing(self) -> None:
        """Stop watching."""
        super().resume_writing()
        self._patience.look_away()

    # -- Requests and answers ------------------------------------------------------------------

    async def _serve(self) -> None:
        """Answer what has come, one after the other."""
        try:
            while self._queue and self.transport is not None:
                next_one = self._queue.popleft()
                if self._parser is not None:
                    self._parser.message_consumed()
                    if self._is_full and len(self._queue) <= PIPELINED_MAX // 2:
                        self._read_on()
                if isinstance(next_one, HttpProcessingError):
                    logger.debug("malformed request: %s", type(next_one).__name__)
                    refusal = problems.refusal(400, next_one.message or "this is not HTTP")
                    await self._write(refusal.reply(), "", keep_alive=False)
                    break
                if not await self._serve_one(*next_one):
                    break
            else:
                return
            await self._part()
        except OSError:
            self.abort()  # the peer left, and there is nobody to answer
        except Exception as error:  # noqa: BLE001 -- the boundary
            # This should never run: the application answers for its own errors.
            logger.error("answer_failed: %s", type(error).__name__)  # noqa: TRY400 -- no payloads
            self.abort()
        finally:
            self._task = None
            if self._closing:
                self.finish()
            else:
                self._patience.expect_within(self.limits.idle_max_s)

    def _read_on(self) -> None:
        """Take further requests, first those of them that have been received already."""
        self.data_received(b"")
        if len(self._queue) < _FULL:
            self._is_full = False
            wire = self.transport
            if wire is not None and not (self._reading_paused or wire.is_closing()):
                wire.resume_reading()

    async def _serve_one(self, message: RawRequestMessage, payload: StreamReader) -> bool:
        """Answer one request; False: it was the last of its connection."""
        self._payload = payload
        body: Body = b""
        try:
            response = await self._answer(Request(message, payload, self))
            body = response.body
            is_old = message.version < HttpVersion11
            keep_alive = not (
                message.should_close
                # Of an offer that is not taken up, too: the parser drops what came right behind it.
                or message.upgrade
                or self._closing
                or self._upgraded
                or response.headers.get("Connection") == "close"
                or (is_old and not isinstance(response.body, bytes))
            )
            await self._write(response, message.method, keep_alive=keep_alive, is_old=is_old)
            return (payload.is_eof() or await self._throw_away(payload)) and keep_alive
        finally:
            if not isinstance(body, bytes):
                await body.aclose()
            self._payload = None
            self._held_bytes = self._guard.hold(0, self._held_bytes)

    async def _part(self) -> None:
        """Close; where requests cannot be read any more, once the peer has got its answer."""
        if self._spoilt and self.transport is not None:
            # A close with bytes that nobody read resets the connection, and takes the answer along:
            # say that nothing follows, and throw away what still comes until the peer is done.
            self.transport.write_eof()
            self.resume_reading()
            gone = contextlib.suppress(TimeoutError, ConnectionError)
            with gone, self.reading(), self.unless_lost():
                async with asyncio.timeout(LINGERING_S):
                    await self._loop.create_future()
        if self.transport is not None:
            self.transport.close()

    async def _throw_away(self, payload: StreamReader) -> bool:
        """Read the rest of a body that nobody wanted; False: it has not come in time."""
        with contextlib.suppress(TimeoutError, BrokenBody):
            async with asyncio.timeout(LINGERING_S):
                while await payload.readany():
                    pass
        return payload.is_eof()

    async def _write(
        self, response: Response, method: str, *, keep_alive: bool, is_old: bool = False
    ) -> None:
        body, framing = response.body, ""
        if response.has_content:
            if isinstance(body, bytes):
                framing = f"Content-Length: {len(body)}\r\n"
            elif not is_old:
                framing = "Transfer-Encoding: chunked\r\n"
        if is_old and keep_alive:
            framing += "Connection: keep-alive\r\n"
        elif not keep_alive and "Connection" not in response.headers:
            framing += "Connection: close\r\n"
        head = response.head(framing)
        if not response.has_content or method == hdrs.METH_HEAD:
            self._put(head)
        elif not isinstance(body, bytes):
            self._put(head)
            await self._write_parts(body, chunked=not is_old)
        elif len(body) <= _JOINED_BYTES:
            self._put(head + body)
        else:
            self._put(head)
            self._put(body)
        if self._paused:
            await self._drain_helper()

    async def _write_parts(self, body: Parts, *, chunked: bool) -> None:
        """Write a body as it comes and as the peer takes it; if it fails, so does the answer."""
        with self.unless_lost():
            async for part in body:
                if part:
                    self._put(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
                    await self._drain_helper()
        if chunked:
            self._put(b"0\r\n\r\n")

    def _put(self, data: bytes) -> None:
        if self.transport is None:
            raise ConnectionResetError("the peer has left")
        self.transport.write(data)


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
