"""What one connection makes of the bytes that come back; `test_wire.py` tests what it is for."""

import asyncio
import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.model import Lost
from dispatcher.transports.http1 import HEAD_MAX, Connection, Reply


class Line(asyncio.Transport):
    """Keeps what is written, and whether it was hung up."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.hung_up = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def abort(self) -> None:
        self.hung_up = True


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


async def test_nothing_is_asked_of_whoever_has_said_his_last_word():
    _, connection = await heard(said("HTTP/1.1 202 Accepted\nContent-Length: 0"))
    assert connection.usable
    connection.eof_received()
    assert not connection.usable
