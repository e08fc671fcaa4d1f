"""
One connection to a cloud: one request at a time, and what came back of it.

HTTP/1.1 is parsed by llhttp (httptools), strictly; here is what to do with it: how long to wait,
how much to read, and whether the connection can be used again. What the network does is a
value: `Reply` or `Lost`.
"""

import asyncio
import zlib
from collections.abc import Callable, Mapping
from typing import Final, cast

import httptools
from msgspec import Struct
from multidict import CIMultiDict

from dispatcher.core.model import Failure, Lost
from dispatcher.ports import Sink

ERROR_BODY_MAX_S: Final = 5.0
"""How long to wait for the words of an error whose status is known already."""
ERROR_BODY_MAX: Final = 64 * 1024
"""How many bytes of such words are read."""
# A value of Lambda's log tail is up to 5.5 KiB; all headers of FC together are at most 8 KiB.
HEAD_MAX: Final = 64 * 1024
# Larger bodies are cut up, so that writing one never holds the loop for long.
SLICE: Final = 256 * 1024

LARGE: Final = 64 * 1024
"""Bodies above this size are handed on while they come, where there is somebody to take them."""
TOO_LARGE: Final = "reply_too_large"
"""The kind of failure of a body that was not read because of its size."""

_BOTH_CODINGS: Final = zlib.MAX_WBITS | 32
"""For zlib: gzip or deflate, whichever it turns out to be."""


class Limits(Struct, frozen=True):
    """How long the parts of a request may take, in seconds."""

    connect_s: float
    """A place among the connections, the resolver, and TLS included."""
    silent_s: float
    """How long the other side may say nothing once it has the request."""
    total_s: float
    """All of it."""


class Reply(Struct, frozen=True):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """Names in any case."""
    body: bytes
    cut: Lost | None = None
    """Why the body is not whole, or was not read at all; the status holds all the same."""


BeginReply = Callable[[Reply, Callable[[], None]], Sink | None]
"""
Called with a good reply without its body, when that turns out to be a large one; the second argument
is to be called whenever there is room for more. None: it is read as others are.
"""


class Connection(asyncio.Protocol):
    """An open connection. It is idle, or somebody waits for the reply to his request."""

    def __init__(self) -> None:
        """Only for `create_connection` to call, inside the running loop."""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._closed = False
        self._waiter: asyncio.Future[Reply | Lost] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.idle_since = 0.0
        """When the last reply had come, on the loop's clock."""
        self._forget_reply()

    @property
    def usable(self) -> bool:
        """Tell whether another request can be sent on it."""
        return self._reusable and not self._closed

    def close(self) -> None:
        """Hang up; a reply that is waited for is lost."""
        self._closed = True
        self._transport.abort()

    async def exchange(
        self,
        head: bytes,
        body: bytes,
        *,
        until: float,
        silent_s: float,
        body_max: int,
        begin: BeginReply | None = None,
    ) -> Reply | Lost:
        """
        Send a request and return what came of it, at *until* (of the loop's clock) at the latest.

        Of a good reply up to *body_max* bytes are read, of another at most `ERROR_BODY_MAX`; what
        *begin* has a sink for is not in the reply. Cancelled, it hangs up.
        """
        assert self._waiter is None, "one request at a time"
        self._forget_reply()
        self._until, self._silent_s, self._body_max = until, silent_s, body_max
        self._begin = begin
        self._heard_at = self._loop.time()
        waiter: asyncio.Future[Reply | Lost] = self._loop.create_future()
        self._waiter = waiter
        self._timer = self._loop.call_at(self._give_up_at(), self._look_at_the_time)
        try:
            if len(body) <= SLICE:
                self._transport.write(head + body)
            else:
                await self._write_in_slices(head, body, waiter)
            return await waiter
        finally:
            self._timer.cancel()
            self._waiter = None
            self._end_handing_on(Lost(Failure("given_up", "nobody waits for the reply any more")))
            self.idle_since = self._heard_at
            if not self.usable or not waiter.done() or waiter.cancelled():
                self.close()

    async def _write_in_slices(
        self, head: bytes, body: bytes, waiter: "asyncio.Future[Reply | Lost]"
    ) -> None:
        """Write as fast as the other side reads, until it has answered."""
        self._whole_request_sent = False
        self._transport.write(head)
        view = memoryview(body)
        for start in range(0, len(view), SLICE):
            if self._writable is not None:
                await asyncio.wait((self._writable, waiter), return_when=asyncio.FIRST_COMPLETED)
            if waiter.done():
                return
            self._heard_at = self._loop.time()
            self._transport.write(view[start : start + SLICE])
            await asyncio.sleep(0)
        self._whole_request_sent = True

    def _forget_reply(self) -> None:
        self._status = 0  #: 0: the head has not come yet
        self._headers: list[tuple[str, str]] = []
        self._head_bytes = 0
        self._parts: list[bytes] = []
        self._size = 0
        self._framed = False  #: the head says where the body ends
        self._inflater: zlib._Decompress | None = None
        self._begin = None
        self._sink: Sink | None = None
        self._held_up = False  #: nothing is read until the sink has room
        self._reusable = True
        self._whole_request_sent = True

    # -- Time

    def _give_up_at(self) -> float:
        if self._held_up:
            return self._until
        return min(self._until, self._heard_at + self._silent_s)

    def _look_at_the_time(self) -> None:
        give_up_at = self._give_up_at()
        if self._loop.time() < give_up_at:
            self._timer = self._loop.call_at(give_up_at, self._look_at_the_time)
        else:
            self._lose(Lost(Failure("timed_out", "no reply in time"), timed_out=True))

    # -- The end of an exchange

    def _lose(self, lost: Lost) -> None:
        """Give up; the status holds, if it has come."""
        self._reusable = False
        self._end_handing_on(lost)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(
                Reply(self._status, CIMultiDict(self._headers), b"", lost) if self._status else lost
            )

    def _break(self, words: str) -> None:
        self._lose(Lost(Failure("connection_lost", words[:500])))

    def _finish(self) -> None:
        if self._waiter is None or self._waiter.done():
            return
        self._reusable = self._whole_request_sent and self._parser.should_keep_alive()
        self._end_handing_on(None)
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._waiter.set_result(Reply(self._status, CIMultiDict(self._headers), body))

    # -- What asyncio says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by name

    def data_received(self, data: bytes) -> None:
        """Take what the other side says, which is nothing unless it was asked."""
        if self._waiter is None or self._waiter.done():
            self.close()
            return
        self._heard_at = self._loop.time()
        if not self._status:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._break(f"no HTTP came back: {type(error).__name__}: {error}")
            return
        if not self._status and self._head_bytes > HEAD_MAX:
            self._break(f"the head of the reply has more than {HEAD_MAX} bytes")

    def connection_lost(self, error: Exception | None) -> None:
        """Take the end of the connection, which may be that of a body, too."""
        self._closed = True
        self.resume_writing()
        if self._status and not self._framed and error is None:
            self._finish()
        else:
            self._break(
                "the other side has hung up"
                if error is None
                else f"{type(error).__name__}: {error}"
            )

    def eof_received(self) -> None:
        """Take the last word of the other side, after which nothing should be asked."""
        self._reusable = False

    def pause_writing(self) -> None:
        """Wait before more is written."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Go on writing."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # -- What the parser says

    def on_message_begin(self) -> None:
        """Take note of what nobody asked for."""
        if self._waiter is not None and self._waiter.done():
            self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; what follows the body (a trailer) is none, and changes nothing."""
        if self._status:
            return
        self._headers.append((name.decode("latin-1"), _text(value)))
        word = name.lower()
        if word in (b"content-length", b"transfer-encoding"):
            self._framed = True
        elif word == b"content-encoding" and value.lower() in (b"gzip", b"deflate"):
            # It was not asked for, but some say it all the same.
            self._inflater = zlib.decompressobj(_BOTH_CODINGS)

    def on_headers_complete(self) -> None:
        """Take the status, which decides how much of the body matters."""
        status = self._parser.get_status_code()
        if status < 200:
            return
        self._status = status
        self._framed = self._framed or status in (204, 304)
        if status >= 300:
            self._body_max = min(self._body_max, ERROR_BODY_MAX)
            self._until = min(self._until, self._loop.time() + ERROR_BODY_MAX_S)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = self._loop.call_at(self._give_up_at(), self._look_at_the_time)

    def on_body(self, data: bytes) -> None:
        """Keep a part of the body, unless it has become too large."""
        if self._waiter is None or self._waiter.done():
            return  # the rest of what was given up, and it may unpack to any size
        if self._inflater is not None:
            data = self._inflated(data)
        self._size += len(data)
        if self._sink is not None or (
            self._size > LARGE and self._begin is not None and self._may_hand_on()
        ):
            self._hand_on(data)
        elif self._size > self._body_max:
            too_large = Failure(TOO_LARGE, f"the reply has more than {self._body_max} bytes")
            self._parts.clear()
            self._lose(Lost(too_large))
        else:
            self._parts.append(data)

    # -- A body that somebody takes while it comes

    def _may_hand_on(self) -> bool:
        """Begin to hand the body on, with what there is of it, if somebody takes it."""
        begin, self._begin = self._begin, None
        assert begin is not None
        # What is packed small may be huge.
        if self._status < 300 and self._inflater is None:
            self._sink = begin(Reply(self._status, CIMultiDict(self._headers), b""), self._go_on)
            parts, self._parts = self._parts, []
            if self._sink is not None:
                for part in parts:
                    self._hand_on(part)
                return True
            self._parts = parts
        return False

    def _hand_on(self, data: bytes) -> None:
        assert self._sink is not None
        if not self._sink.feed(data) and not self._held_up:
            self._held_up = True
            self._transport.pause_reading()

    def _go_on(self) -> None:
        """Read on; the other side was not silent meanwhile, it was not listened to."""
        if self._held_up:
            self._held_up = False
            self._heard_at = self._loop.time()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = self._loop.call_at(self._give_up_at(), self._look_at_the_time)
            if not self._closed:
                self._transport.resume_reading()

    def _end_handing_on(self, lost: Lost | None) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.end(lost)
            self._go_on()

    def _inflated(self, data: bytes) -> bytes:
        assert self._inflater is not None
        try:
            return self._inflater.decompress(data, self._body_max - self._size + 1)
        except zlib.error as error:
            self._break(f"the body of the reply is not what it says: {error}")
            return b""

    def on_message_complete(self) -> None:
        """Take the end of the reply, or of what comes before it (100 Continue)."""
        if self._status:
            self._finish()
        else:
            self._headers.clear()
            self._framed = False


def _text(value: bytes) -> str:
    """Return what a header says; as UTF-8, so that it can be handed on as it came, if it is."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
