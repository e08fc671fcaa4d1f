"""What one connection makes of the bytes that come back; `test_wire.py` tests what it is for."""

import asyncio
import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.model import Lost
from dispatcher.transports.http1 import HEAD_MAX, LARGE, Connection, Reply


class Line(asyncio.Transport):
    """Keeps what is written, and whether it was hung up."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.hung_up = False
        self.asked: list[str] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def abort(self) -> None:
        self.hung_up = True

    def pause_reading(self) -> None:
        self.asked.append("pause")

    def resume_reading(self) -> None:
        self.asked.append("read on")


async def heard(
    *parts: bytes, ends: bool = False, body_max: int = 100_000
) -> tuple[Reply | Lost, Connection]:
    """Send one request, and let *parts* come back one after the other."""
    connection, line = Connection(), Line()
    connection.connection_made(line)
    asking = asyncio.ensure_future(
        connection.exchange(b"GET", b"", until=40.0, silent_s=15.0, body_max=body_max)
    )
    await asyncio.sleep(0)
    assert line.written == b"GET"
    for part in parts:
        connection.data_received(part)
    if ends:
        connection.connection_lost(None)
    result = await asking
    assert line.hung_up == (not connection.usable)
    return result, connection


def said(head: str, body: bytes = b"") -> bytes:
    return head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body


REPLIES = [
    (said("HTTP/1.1 202 Accepted\nContent-Length: 0"), 202, b"", True),
    (said("HTTP/1.1 200 OK\nContent-Length: 3", b"abc"), 200, b"abc", True),
    (said("HTTP/1.1 204 No Content"), 204, b"", True),
    (said("HTTP/1.1 200 OK\nContent-Length: 1\nConnection: close", b"a"), 200, b"a", False),
    (said("HTTP/1.0 200 OK\nContent-Length: 1", b"a"), 200, b"a", False),
    (
        said("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"),
        200,
        b"abc",
        True,
    ),
    (said("HTTP/1.1 100 Continue") + said("HTTP/1.1 202 OK\nContent-Length: 0"), 202, b"", True),
    (
        said("HTTP/1.1 103 Early Hints\nLink: x\nContent-Length: 9")
        + said("HTTP/1.1 200 OK\nContent-Length: 1", b"a"),
        200,
        b"a",
        True,
    ),
]


@pytest.mark.parametrize(("raw", "status", "body", "usable"), REPLIES)
@given(cuts=st.sets(st.integers(1, 150), max_size=8))
async def test_a_reply_is_the_same_however_it_is_cut(raw, status, body, usable, cuts):
    ends = [*sorted(cut for cut in cuts if cut < len(raw)), len(raw)]
    parts = [raw[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    result, connection = await heard(*parts)
    assert isinstance(result, Reply)
    assert (result.status, result.body, result.cut) == (status, body, None)
    assert "Link" not in result.headers
    assert connection.usable == usable


async def test_a_body_without_an_end_ends_with_the_connection():
    result, connection = await heard(said("HTTP/1.1 200 OK", b"all of it"), ends=True)
    assert isinstance(result, Reply)
    assert (result.body, result.cut) == (b"all of it", None)
    assert not connection.usable


@pytest.mark.parametrize(
    "raw",
    [
        said("HTTP/1.1 200 OK\nContent-Length: 9", b"half"),
        said("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"9\r\nhalf"),
    ],
)
async def test_a_body_that_ends_too_soon_is_cut(raw: bytes):
    result, connection = await heard(raw, ends=True)
    assert isinstance(result, Reply)
    assert result.cut is not None
    assert result.body == b""
    assert not connection.usable


@pytest.mark.parametrize(
    "raw",
    [
        said("HTTP/1.1 200 OK\nContent-Length: 3\nContent-Length: 4", b"abcd"),
        said("HTTP/1.1 200 OK\nContent-Length: 3\nTransfer-Encoding: chunked", b"abc"),
        said("HTTP/1.1 200 OK\nContent-Length: -3", b"abc"),
        said("HTTP/1.1 200 OK\nBad Header: 3"),
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        said("HTTP/1.1 101 Switching Protocols\nUpgrade: x\nConnection: Upgrade"),
        said("SSH-2.0-OpenSSH"),
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * HEAD_MAX,
    ],
)
async def test_what_could_be_read_in_two_ways_is_not_read(raw: bytes):
    result, connection = await heard(raw)
    assert isinstance(result, Lost)
    assert result.failure.kind == "connection_lost"
    assert not connection.usable


@pytest.mark.parametrize("more", [b"H", said("HTTP/1.1 200 OK\nContent-Length: 0")])
async def test_what_nobody_asked_for_ends_the_connection(more: bytes):
    good = said("HTTP/1.1 202 Accepted\nContent-Length: 0")
    result, connection = await heard(good + more)
    assert isinstance(result, Reply)
    assert not connection.usable
    result, connection = await heard(good)
    assert connection.usable
    connection.data_received(more)
    assert not connection.usable


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_a_body_that_was_packed_unasked_is_unpacked_as_far_as_it_may(pack):
    coding = "gzip" if pack is gzip.compress else "deflate"
    bomb = pack(b"x" * 1_000_000)
    raw = said(f"HTTP/1.1 200 OK\nContent-Encoding: {coding}\nContent-Length: {len(bomb)}", bomb)
    whole, _ = await heard(raw, body_max=1_000_000)
    assert isinstance(whole, Reply)
    assert whole.body == b"x" * 1_000_000
    cut, _ = await heard(raw, body_max=999_999)
    assert isinstance(cut, Reply)
    assert cut.cut is not None
    assert cut.cut.failure.kind == "reply_too_large"
    lie, _ = await heard(
        said(f"HTTP/1.1 200 OK\nContent-Encoding: {coding}\nContent-Length: 4", b"what")
    )
    assert isinstance(lie, Reply)
    assert lie.cut is not None
    assert lie.cut.failure.kind == "connection_lost"


async def test_what_follows_too_large_a_body_is_not_unpacked_at_all(monkeypatch):
    packer = zlib.compressobj(wbits=31)
    parts = [
        packer.compress(b"x" * 1001) + packer.flush(zlib.Z_SYNC_FLUSH),
        packer.compress(b"x" * 1_000_000) + packer.flush(),
    ]
    sizes: list[int] = []
    unpack = Connection._inflated

    def measured(connection: Connection, data: bytes) -> bytes:
        unpacked = unpack(connection, data)
        sizes.append(len(unpacked))
        return unpacked

    monkeypatch.setattr(Connection, "_inflated", measured)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    head = "HTTP/1.1 200 OK\nContent-Encoding: gzip\nTransfer-Encoding: chunked"
    reply, connection = await heard(said(head, chunks + b"0\r\n\r\n"), body_max=1000)
    assert isinstance(reply, Reply)
    assert reply.cut is not None
    assert reply.cut.failure.kind == "reply_too_large"
    assert sizes == [1001]
    assert not connection.usable


async def test_what_follows_the_body_is_no_header():
    raw = said("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"1\r\na\r\n0\r\nX-A: late\r\n\r\n")
    reply, connection = await heard(raw)
    assert isinstance(reply, Reply)
    assert (reply.body, dict(reply.headers)) == (b"a", {"Transfer-Encoding": "chunked"})
    assert connection.usable


async def test_nothing_is_asked_of_whoever_has_said_his_last_word():
    _, connection = await heard(said("HTTP/1.1 202 Accepted\nContent-Length: 0"))
    assert connection.usable
    connection.eof_received()
    assert not connection.usable


@pytest.mark.parametrize(
    ("value", "text"),
    [(b"plain", "plain"), ("\u00e9\u4e2d".encode(), "\u00e9\u4e2d"), (b"\xe9\xff", "\u00e9\u00ff")],
)
async def test_a_header_is_read_as_utf8_if_it_is(value, text):
    head = said("HTTP/1.1 202 OK\nContent-Length: 0").removesuffix(b"\r\n")
    reply, _ = await heard(head + b"X-A: " + value + b"\r\n\r\n")
    assert isinstance(reply, Reply)
    assert reply.headers["X-A"] == text


# -- Bodies that somebody takes while they come ---------------------------------------------------


class Taker:
    """A sink with room for so many bytes."""

    def __init__(self, room: int = 10_000_000) -> None:
        self.room = room
        self.taken = b""
        self.ends: list[Lost | None] = []
        self.heads: list[Reply] = []

    def begin(self, head: Reply, go_on: Callable[[], None]) -> "Taker":
        self.heads.append(head)
        self.go_on = go_on
        return self

    def feed(self, part: bytes) -> bool:
        self.taken += part
        return len(self.taken) < self.room

    def end(self, lost: Lost | None) -> None:
        self.ends.append(lost)


class Exchange:
    """A request whose reply goes to a taker, and the line that it comes by."""

    def __init__(self, taker: Taker, *, silent_s: float = 15.0) -> None:
        self.connection, self.line = Connection(), Line()
        self.connection.connection_made(self.line)
        self.result = asyncio.ensure_future(
            self.connection.exchange(
                b"GET", b"", until=400.0, silent_s=silent_s, body_max=LARGE * 2, begin=taker.begin
            )
        )

    async def hear(self, data: bytes) -> None:
        await asyncio.sleep(0)
        self.connection.data_received(data)


BIG = b"x" * (LARGE * 4)
BIG_HEAD = said(f"HTTP/1.1 200 OK\nA: b\nContent-Length: {len(BIG)}")


async def test_a_large_body_is_handed_on_while_it_comes_however_large_it_is():
    taker = Taker()
    exchange = Exchange(taker)
    await exchange.hear(BIG_HEAD + BIG[:LARGE])
    assert not taker.heads
    await exchange.hear(BIG[LARGE : LARGE + 1])
    [head] = taker.heads
    assert (head.status, head.headers["a"], head.body) == (200, "b", b"")
    assert len(taker.taken) == LARGE + 1
    await exchange.hear(BIG[LARGE + 1 :])
    reply = await exchange.result
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body, reply.cut) == (200, b"", None)
    assert (taker.taken, taker.ends) == (BIG, [None])
    assert exchange.connection.usable


async def test_nothing_is_read_while_there_is_no_room_and_that_is_no_silence():
    taker = Taker(room=LARGE * 2)
    exchange = Exchange(taker)
    await exchange.hear(BIG_HEAD + BIG[: LARGE * 2])
    assert exchange.line.asked == ["pause"]
    await asyncio.sleep(100)
    assert not exchange.result.done()
    taker.room *= 10
    taker.go_on()
    assert exchange.line.asked == ["pause", "read on"]
    await asyncio.sleep(14)
    assert not exchange.result.done()
    await asyncio.sleep(1.1)
    reply = await exchange.result
    assert isinstance(reply, Reply)
    assert reply.cut is not None
    assert taker.ends == [reply.cut]


@pytest.mark.parametrize("how", ["hangs up", "is cancelled", "speaks nonsense"])
async def test_what_breaks_off_is_told_to_who_takes_it(how):
    taker = Taker()
    exchange = Exchange(taker)
    length = (
        f"Content-Length: {len(BIG)}" if how != "speaks nonsense" else "Transfer-Encoding: chunked"
    )
    await exchange.hear(said(f"HTTP/1.1 200 OK\n{length}"))
    part = BIG[: LARGE * 2]
    await exchange.hear(part if how != "speaks nonsense" else b"%x\r\n%b\r\n" % (len(part), part))
    if how == "hangs up":
        exchange.connection.connection_lost(None)
    elif how == "is cancelled":
        exchange.result.cancel()
    else:
        await exchange.hear(b"no number\r\n")
    await asyncio.wait([exchange.result])
    [lost] = taker.ends
    assert lost is not None
    assert not exchange.connection.usable


async def test_what_is_no_good_reply_or_packed_is_read_as_ever():
    for head in (
        f"HTTP/1.1 500 Oh\nContent-Length: {len(BIG)}",
        f"HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: {len(gzip.compress(BIG))}",
    ):
        taker = Taker()
        exchange = Exchange(taker)
        await exchange.hear(said(head, gzip.compress(BIG) if "gzip" in head else BIG))
        reply = await exchange.result
        assert isinstance(reply, Reply)
        assert reply.cut is not None
        assert not taker.heads


async def test_it_is_for_the_taker_to_say_whether_he_takes_it():
    connection, line = Connection(), Line()
    connection.connection_made(line)
    asking = asyncio.ensure_future(
        connection.exchange(
            b"GET", b"", until=40.0, silent_s=15.0, body_max=len(BIG), begin=lambda *_: None
        )
    )
    await asyncio.sleep(0)
    connection.data_received(BIG_HEAD + BIG)
    reply = await asking
    assert isinstance(reply, Reply)
    assert reply.body == BIG
