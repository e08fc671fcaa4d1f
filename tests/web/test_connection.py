"""One connection: the order of its answers, bodies in parts, and what ends it."""

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from dispatcher.config import ServerSettings
from dispatcher.web import Limits, Listener
from dispatcher.web.app import App
from dispatcher.web.connection import LINGERING_S, PIPELINED_MAX, Connection
from dispatcher.web.guard import Guard
from dispatcher.web.request import Request
from dispatcher.web.response import Response
from dispatcher.web.routes import Route
from tests.web.wires import GET, Site

CHUNKED = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


class Routes:
    """Handlers of the tests, and what happens in them."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.bodies: list[bytes] = []
        self.go_on = asyncio.Event()
        self.left = asyncio.Event()
        self.parts_given = 0

    def table(self) -> list[Route]:
        handlers = [
            ("GET", "/n/{n}", self.number),
            ("POST", "/echo", self.echo),
            ("GET", "/parts", self.parts),
            ("GET", "/broken", self.broken),
            ("GET", "/flood", self.flood),
            ("GET", "/bug", self.bug),
            ("POST", "/late", self.late),
        ]
        return [
            Route(method=method, path=path, handler=handler, name=path, summary="", replies=())
            for method, path, handler in handlers
        ]

    async def number(self, request: Request) -> Response:
        n = request.parameters["n"]
        await asyncio.sleep(0.01 if n == "0" else 0)
        self.seen.append(n)
        return Response(body=n.encode())

    async def echo(self, request: Request) -> Response:
        body = b""
        while part := await request.content.readany():
            body += part
        self.bodies.append(body)
        return Response(body=body)

    async def late(self, request: Request) -> Response:
        await self.go_on.wait()
        self.bodies.append(await request.content.readany())
        await self.left.wait()
        return Response()

    async def parts(self, _: Request) -> Response:
        async def body() -> AsyncGenerator[bytes, None]:
            try:
                yield b"first "
                await self.go_on.wait()
                yield b""
                yield b"last"
            finally:
                self.left.set()

        return Response(body=body())

    async def broken(self, _: Request) -> Response:
        async def body() -> AsyncGenerator[bytes, None]:
            yield b"some"
            raise ConnectionResetError("the cloud broke off")

        return Response(body=body())

    async def flood(self, _: Request) -> Response:
        async def body() -> AsyncGenerator[bytes, None]:
            for self.parts_given in range(10_000):
                yield b"x" * 65_536

        return Response(body=body())

    async def bug(self, _: Request) -> Response:
        return Response(headers={"X": "two\r\nlines"})


@contextlib.asynccontextmanager
async def serving(routes: Routes, limits: Limits | None = None) -> AsyncGenerator[Site, None]:
    app = App(routes.table(), ServerSettings())
    async with Listener(app, ["127.0.0.1:0"], limits) as listener:
        site = Site(listener)
        try:
            yield site
        finally:
            await site.close()


def get(path: str, *headers: str, version: str = "1.1", method: str = "GET") -> bytes:
    lines = "".join(f"{each}\r\n" for each in ("Host: localhost", *headers))
    return f"{method} {path} HTTP/{version}\r\n{lines}\r\n".encode()


async def test_many_requests_at_once_are_all_answered_in_their_order():
    routes, count = Routes(), 3 * PIPELINED_MAX
    async with serving(routes) as site:
        wire = await site.wire()
        wire.say(b"".join(get(f"/n/{n}") for n in range(count)))
        answers = [(await wire.answer())[2] for _ in range(count)]
    assert answers == [b"%d" % n for n in range(count)]


class Line(asyncio.Transport):
    """The way to a peer; keeps what is written, and what was asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.asked: list[str] = []

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        self.asked.append("close")

    def pause_reading(self) -> None:
        self.asked.append("pause")

    def resume_reading(self) -> None:
        self.asked.append("read on")


def made(routes: Routes) -> tuple[Connection, Line]:
    app = App(routes.table(), ServerSettings())
    connection, line = Connection(Guard(Limits()), app.answer, asks_token=True), Line()
    connection.connection_made(line)
    return connection, line


async def test_many_requests_that_come_with_the_end_of_a_body_are_all_answered():
    connection, line = made(Routes())
    connection.data_received(get("/echo", "Content-Length: 2", method="POST"))
    await asyncio.sleep(0.1)
    connection.data_received(b"hi" + get("/n/1") * 2 * PIPELINED_MAX)
    await asyncio.sleep(0.1)
    assert line.written.count(b"HTTP/1.1 200 OK") == 1 + 2 * PIPELINED_MAX
    assert line.asked[-1] == "read on"
    connection.connection_lost(None)


async def test_a_body_that_is_taken_lets_no_more_requests_in_than_may_wait():
    routes = Routes()
    connection, line = made(routes)
    connection.data_received(get("/late", "Content-Length: 140000", method="POST") + bytes(120_000))
    await asyncio.sleep(0.1)
    connection.data_received(bytes(20_000) + get("/n/1") * 2 * PIPELINED_MAX)
    assert line.asked[-1] == "pause", "nobody takes the body yet"
    routes.go_on.set()
    await asyncio.sleep(0.1)
    assert routes.bodies == [bytes(140_000)]
    assert line.asked[-1] == "pause", "enough requests wait"
    routes.left.set()
    await asyncio.sleep(0.1)
    assert line.written.count(b"HTTP/1.1 200 OK") == 1 + 2 * PIPELINED_MAX
    assert line.asked[-1] == "read on"
    connection.connection_lost(None)


async def test_garbage_is_answered_after_the_requests_before_it_and_nothing_after():
    routes = Routes()
    async with serving(routes) as site:
        wire = await site.wire()
        wire.say(get("/n/0"))
        await asyncio.sleep(0.001)
        wire.say(b"\x16\x03\x01 garbage\r\n\r\n" + get("/n/1"))
        assert [(await wire.answer())[0] for _ in range(2)] == [200, 400]
        assert await wire.closed() == b""
    assert routes.seen == ["0"]


@pytest.mark.real_time  # the kernel takes its time with so many bytes
async def test_the_answer_to_garbage_is_not_lost_to_the_body_behind_it():
    garbage = b"GET /n/\xe9 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n"

    async def one(site: Site) -> int:
        wire = await site.wire()
        status = await wire.status_of(garbage + bytes(9_000_000))
        assert await wire.reader.read() == b"", "it ends, and is not reset"
        return status

    async with serving(Routes()) as site:
        assert await asyncio.gather(*(one(site) for _ in range(10))) == [400] * 10


async def test_after_garbage_a_peer_that_stays_is_left_soon():
    async with serving(Routes()) as site:
        wire = await site.wire()
        assert await wire.status_of(b"garbage\r\n\r\n") == 400
        assert await wire.closed() == b"", "told that nothing follows"
        assert len(site.listener._guard) == 1
        await asyncio.sleep(LINGERING_S + 1)
        assert len(site.listener._guard) == 0


class Gone(asyncio.Transport):
    """The way to a peer that has hung up a moment ago, of which nobody has been told yet."""

    aborted = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def write_eof(self) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    def abort(self) -> None:
        self.aborted = True


async def test_garbage_of_a_peer_that_is_gone_is_not_worth_a_line(caplog):
    caplog.set_level(logging.INFO)
    app = App(Routes().table(), ServerSettings())
    connection, wire = Connection(Guard(Limits()), app.answer, asks_token=True), Gone()
    connection.connection_made(wire)
    connection.data_received(b"\x16\x03\x01 garbage\r\n\r\n")
    await asyncio.sleep(1)
    assert wire.aborted
    assert not caplog.records
    connection.connection_lost(None)


async def test_a_chunk_that_is_none_ends_the_body_and_the_connection():
    routes = Routes()
    async with serving(routes) as site:
        wire = await site.wire()
        wire.say(CHUNKED + b"2\r\n{}\r\n")
        await asyncio.sleep(0.1)
        wire.say(b"ZZ\r\n")
        await wire.closed()
    assert routes.bodies == []


@pytest.mark.parametrize(
    ("version", "headers", "stays"),
    [
        ("1.1", (), True),
        ("1.1", ("Connection: close",), False),
        ("1.0", (), False),
        ("1.0", ("Connection: keep-alive",), True),
    ],
)
async def test_the_peer_says_whether_there_is_more_to_come(version, headers, stays):
    async with serving(Routes()) as site:
        wire = await site.wire()
        wire.say(get("/n/1", *headers, version=version))
        status, told, body = await wire.answer()
        assert (status, body) == (200, b"1")
        expected = "keep-alive" if version == "1.0" else None
        assert told.get("connection") == (expected if stays else "close")
        if stays:
            assert await wire.status_of(get("/n/2")) == 200
        else:
            assert await wire.closed() == b""


async def test_an_answer_to_head_has_a_length_and_no_body():
    async with serving(Routes()) as site:
        wire = await site.wire()
        wire.say(get("/n/1", method="HEAD"))
        head = await wire.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 405 ")
        assert b"Content-Length: 0" not in head
        assert await wire.status_of(get("/n/2")) == 200


@pytest.mark.parametrize(
    "head",
    [
        get("/n/1", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
        get("/n/1", "Connection: Upgrade", "Upgrade: h2c"),
    ],
)
async def test_who_would_speak_something_else_is_answered_in_http(head):
    async with serving(Routes()) as site:
        wire = await site.wire()
        assert await wire.status_of(head) == 200
        wire.say(b"\x81\x05hello")
        await wire.closed()


async def test_no_body_is_taken_for_a_request_behind_an_offer_to_speak_something_else():
    routes = Routes()
    connection, line = made(routes)
    offer = get("/n/1", "Connection: Upgrade", "Upgrade: h2c")
    hidden = get("/n/2")
    connection.data_received(offer + get("/echo", f"Content-Length: {len(hidden)}", method="POST"))
    connection.data_received(hidden)
    await asyncio.sleep(0.1)
    assert routes.seen == ["1"]
    assert b"Connection: close" in line.written
    assert line.asked == ["close"]
    connection.connection_lost(None)


async def test_it_is_no_proxy():
    async with serving(Routes()) as site:
        wire = await site.wire()
        wire.say(b"CONNECT example.com:443 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await wire.answer())[0] == 421
        await wire.closed()


# -- Bodies in parts ------------------------------------------------------------------------------


async def test_parts_are_sent_as_they_come():
    routes = Routes()
    async with serving(routes) as site:
        wire = await site.wire()
        wire.say(get("/parts"))
        head = await wire.reader.readuntil(b"\r\n\r\n")
        assert b"Transfer-Encoding: chunked\r\n" in head
        assert await wire.reader.readexactly(11) == b"6\r\nfirst \r\n"
        routes.go_on.set()
        assert await wire.reader.readuntil(b"0\r\n\r\n") == b"4\r\nlast\r\n0\r\n\r\n"
        assert await wire.status_of(get("/n/1")) == 200


async def test_a_head_of_parts_is_sent_without_any():
    async with serving(Routes()) as site:
        wire = await site.wire()
        wire.say(get("/parts", method="HEAD"))
        head = await wire.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert await wire.status_of(get("/n/1")) == 200


async def test_to_an_old_peer_the_end_is_the_end_of_the_connection():
    routes = Routes()
    routes.go_on.set()
    async with serving(routes) as site:
        wire = await site.wire()
        wire.say(get("/parts", "Connection: keep-alive", version="1.0"))
        head, _, body = (await wire.closed()).partition(b"\r\n\r\n")
        assert body == b"first last"
        assert b"Connection: close" in head


async def test_what_breaks_off_is_never_taken_for_whole(caplog):
    async with serving(Routes()) as site:
        wire = await site.wire()
        wire.say(get("/broken"))
        answer = await wire.closed()
        assert not answer.endswith(b"0\r\n\r\n")
    assert not caplog.records


async def test_a_peer_that_leaves_ends_the_body_at_once():
    routes = Routes()
    async with serving(routes) as site:
        wire = await site.wire()
        wire.say(get("/parts"))
        await wire.reader.readuntil(b"first")
        wire.writer.transport.abort()
        await asyncio.wait_for(routes.left.wait(), 1)


async def test_no_more_is_taken_than_the_peer_takes():
    routes = Routes()
    async with serving(routes, Limits(stall_max_s=5)) as site:
        wire = await site.wire(receives=16_384)
        wire.say(get("/flood"))
        await asyncio.sleep(4)
        given = routes.parts_given
        assert 0 < given < 200  # what the buffers of the system hold, and no more
        await asyncio.sleep(20)
        assert routes.parts_given <= given + 1
        await wire.closed()


async def test_the_end_of_the_listener_ends_a_body_that_would_go_on_for_ever():
    routes = Routes()
    app = App(routes.table(), ServerSettings())
    listener = Listener(app, ["127.0.0.1:0"])
    await listener.open()
    site = Site(listener)
    wire = await site.wire()
    wire.say(get("/parts"))
    await wire.reader.readuntil(b"first")
    await listener.aclose(drain_max_s=1)
    assert routes.left.is_set()
    await wire.closed()
    await site.close()


# -- Bugs -----------------------------------------------------------------------------------------


async def test_an_answer_that_cannot_be_written_costs_its_connection_only(caplog):
    caplog.set_level(logging.INFO)
    async with serving(Routes()) as site:
        wire, other = await site.wire(), await site.wire()
        wire.say(get("/bug"))
        assert await wire.closed() == b""
        assert await other.status_of(get("/n/1")) == 200
    [record] = caplog.records
    assert record.getMessage() == "answer_failed: ValueError"


async def test_a_body_that_is_being_received_is_received_although_the_end_has_begun():
    routes = Routes()
    app = App(routes.table(), ServerSettings())
    listener = Listener(app, ["127.0.0.1:0"])
    await listener.open()
    site = Site(listener)
    wire = await site.wire()
    wire.say(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nab")
    await asyncio.sleep(0.1)
    closing = asyncio.ensure_future(listener.aclose(drain_max_s=5))
    await asyncio.sleep(0.1)
    wire.say(b"cd" + GET)
    status, headers, body = await wire.answer()
    assert (status, headers["connection"], body) == (200, "close", b"abcd")
    await closing
    await site.close()
