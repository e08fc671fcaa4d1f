"""What the network does is a value, and nothing is waited for or read without a bound."""

import asyncio
import gzip
import hashlib
import socket
from contextlib import aclosing

import anyio
import pytest
from yarl import URL

from dispatcher.config import AccountSettings
from dispatcher.core.model import Lost, NotSent, Provider
from dispatcher.core.rules import FunctionRules
from dispatcher.transports import wire
from dispatcher.transports.dialing import CONNECT_MAX_S
from dispatcher.transports.http1 import ERROR_BODY_MAX_S, TOO_LARGE, Limits, Reply
from dispatcher.transports.wire import MIB, Wire, run_limits
from tests.transports.servers import Peer, RawServer, Request, raw_server

QUICK = wire.ACCEPT_LIMITS


def wired(server: RawServer | str, *, connections_max: int = 4, idle_max_s: float = 8.0) -> Wire:
    url = server if isinstance(server, str) else server.url
    return Wire(URL(url), connections_max=connections_max, idle_max_s=idle_max_s)


async def exchange(
    client: Wire,
    server: RawServer | str,
    body: bytes = b"{}",
    *,
    limits: Limits = QUICK,
    body_max: int = MIB,
) -> Reply | NotSent | Lost:
    url = server if isinstance(server, str) else server.url
    headers = [("Host", URL(url).host_port_subcomponent or ""), ("X-Mine", "1")]
    return await client.exchange("POST", "/p", headers, body, limits=limits, body_max=body_max)


async def asked_once(handle, **options) -> Reply | NotSent | Lost:
    async with raw_server(handle) as server, aclosing(wired(server)) as client:
        result = await exchange(client, server, **options)
        assert len(server.requests) == 1  # nothing is ever repeated from here
        return result


# -- Good replies ---------------------------------------------------------------------------------


async def test_a_reply_is_given_as_it_is():
    async def handle(request: Request, peer: Peer):
        assert (request.method, request.target, request.body) == ("POST", "/p", b"{}")
        assert request.headers["X-Mine"] == "1"
        await peer.reply("200 OK", b"\x00\xff", X_Amzn_RequestId="r")

    result = await asked_once(handle)
    assert isinstance(result, Reply)
    assert (result.status, result.body, result.cut) == (200, b"\x00\xff", None)
    assert result.headers["x-amzn-requestid"] == "r"


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\rb"])
async def test_a_header_that_would_be_two_is_never_sent(value: str):
    async with raw_server(lambda _, peer: peer.reply("200 OK")) as server:
        async with aclosing(wired(server)) as client:
            with pytest.raises(AssertionError, match="ends its line"):
                await client.exchange("POST", "/p", [("X", value)], b"{}", limits=QUICK)
        assert server.requests == []


async def test_connections_are_used_again_but_not_when_long_idle():
    async def handle(request: Request, peer: Peer):
        await peer.reply("202 Accepted")

    async with raw_server(handle) as server:
        async with aclosing(wired(server)) as client:
            for _ in range(3):
                await exchange(client, server)
        assert server.connections == 1
        async with aclosing(wired(server, idle_max_s=0.05)) as client:
            await exchange(client, server)
            await anyio.sleep(0.3)
            await exchange(client, server)
        assert server.connections == 3


async def test_cookies_are_not_kept_and_redirects_not_followed():
    async def handle(request: Request, peer: Peer):
        assert "Cookie" not in request.headers
        await peer.reply("307 Temporary Redirect", Location="/elsewhere", Set_Cookie="a=b")

    async with raw_server(handle) as server, aclosing(wired(server)) as client:
        for _ in range(2):
            result = await exchange(client, server)
            assert isinstance(result, Reply)
            assert result.status == 307
        assert [request.target for request in server.requests] == ["/p", "/p"]


@pytest.mark.real_time  # the kernel takes its time with so many bytes
@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 8 * MIB])
async def test_bodies_arrive_whole_whatever_their_size(size: int):
    body = bytes(range(256)) * (size // 256 + 1)

    async def handle(request: Request, peer: Peer):
        assert request.headers["Content-Length"] == str(size)
        assert "Transfer-Encoding" not in request.headers
        assert request.body == body[:size]
        await peer.reply("202 Accepted")

    result = await asked_once(handle, body=body[:size])
    assert isinstance(result, Reply)


async def test_large_bodies_are_hashed_alike():
    large = b"x" * (2 * MIB)
    assert await wire.body_digest(large[:MIB]) == hashlib.sha256(large[:MIB]).hexdigest()
    assert await wire.body_digest(large) == hashlib.sha256(large).hexdigest()


# -- No connection: nothing was sent --------------------------------------------------------------


async def test_a_refused_connection_sends_nothing():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with aclosing(wired(url)) as client:
            result = await exchange(client, url)
    assert isinstance(result, NotSent)
    assert result.failure.kind == "not_connected"


async def test_a_name_without_an_address_sends_nothing(monkeypatch):
    async def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    async with aclosing(wired("http://cloud.test")) as client:
        result = await exchange(client, "http://cloud.test")
    assert isinstance(result, NotSent)
    assert "cloud.test" in result.failure.message


async def test_failed_tls_sends_nothing():
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with aclosing(wired(url)) as client:
            result = await exchange(client, url)
    assert isinstance(result, NotSent)
    assert "SSL" in result.failure.message


async def test_a_connection_that_is_not_answered_ends_in_time():
    with socket.socket() as deaf, socket.socket() as filler:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        filler.setblocking(False)
        filler.connect_ex(deaf.getsockname())  # all that the backlog holds
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        async with aclosing(wired(url)) as client:
            result = await exchange(client, url)
            assert anyio.current_time() <= wire.POOL_WAIT_MAX_S + 1
    assert isinstance(result, NotSent)


async def test_who_finds_no_free_connection_sends_nothing():
    async def handle(request: Request, peer: Peer):
        await peer.hang()

    async with raw_server(handle) as server, aclosing(wired(server, connections_max=1)) as client:
        async with anyio.create_task_group() as tasks:
            results: list[Reply | NotSent | Lost] = []

            async def one():
                results.append(await exchange(client, server))

            tasks.start_soon(one)
            tasks.start_soon(one)
        assert [type(result) for result in results] == [NotSent, Lost]
        assert len(server.requests) == 1


async def test_the_number_of_connections_can_change():
    async def handle(request: Request, peer: Peer):
        await anyio.sleep(1)
        await peer.reply("202 Accepted")

    async with raw_server(handle) as server, aclosing(wired(server, connections_max=1)) as client:
        for connections_max, took_s in ((1, 4.0), (2, 2.0), (4, 1.0)):
            client.resize(connections_max)
            before = anyio.current_time()
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(exchange, client, server)
            assert anyio.current_time() - before == took_s


async def test_nothing_is_sent_once_closed():
    client = wired("http://127.0.0.1:9")
    await client.aclose()
    result = await exchange(client, "http://127.0.0.1:9")
    assert isinstance(result, NotSent)
    assert result.failure.kind == "closed"


# -- No reply: nobody knows -----------------------------------------------------------------------


async def test_silence_is_a_time_out():
    async def handle(request: Request, peer: Peer):
        await peer.hang()

    result = await asked_once(handle)
    assert isinstance(result, Lost)
    assert result.timed_out
    assert anyio.current_time() == wire.READ_MAX_S


async def test_a_synchronous_call_is_waited_for_as_long_as_its_function_may_run():
    async def handle(request: Request, peer: Peer):
        await anyio.sleep(120)
        await peer.reply("200 OK", b"late")

    assert isinstance(await asked_once(handle, limits=run_limits(120.0)), Reply)
    before = anyio.current_time()
    result = await asked_once(handle, limits=run_limits(60.0))
    assert isinstance(result, Lost)
    assert result.timed_out
    assert anyio.current_time() - before < 120


@pytest.mark.parametrize("how", ["reset", "close", "garbage", "half", "endless header"])
async def test_a_broken_reply_is_lost(how: str):
    async def handle(request: Request, peer: Peer):
        match how:
            case "reset":
                peer.reset()
            case "garbage":
                await peer.say("what is it?\r\n\r\n")
            case "half":
                await peer.say("HTTP/1.1 202 Acc")
            case "endless header":
                await peer.say("HTTP/1.1 202 Accepted\r\nX-Long: ")
                await peer.say("x" * 200_000)
            case _:
                pass
        peer.writer.close()

    result = await asked_once(handle)
    assert isinstance(result, Lost)
    assert result.failure.kind == "connection_lost"
    assert not result.timed_out


async def test_a_reset_of_a_reused_connection_is_lost_and_not_repeated():
    async def handle(request: Request, peer: Peer):
        if len(server.requests) > 1:
            peer.reset()
        else:
            await peer.reply("202 Accepted")

    async with raw_server(handle) as server, aclosing(wired(server)) as client:
        assert isinstance(await exchange(client, server), Reply)
        assert isinstance(await exchange(client, server), Lost)
        assert [request.connection for request in server.requests] == [1, 1]


async def test_closing_loses_what_is_in_flight():
    async def handle(request: Request, peer: Peer):
        tasks.start_soon(client.aclose)
        await peer.hang()

    async with (
        raw_server(handle) as server,
        aclosing(wired(server)) as client,
        anyio.create_task_group() as tasks,
    ):
        assert isinstance(await exchange(client, server), Lost)


async def test_cancelling_goes_through_and_hangs_up():
    hung_up = anyio.Event()

    async def handle(request: Request, peer: Peer):
        await peer.hang()
        hung_up.set()

    async with raw_server(handle) as server, aclosing(wired(server)) as client:
        with anyio.move_on_after(1) as scope:
            await exchange(client, server)
        assert scope.cancelled_caught
        await hung_up.wait()


# -- Bodies: the status holds whatever comes after it ---------------------------------------------


@pytest.mark.parametrize("status", ["200 OK", "202 Accepted", "429 Too Many Requests"])
async def test_a_body_that_breaks_off_leaves_the_status(status: str):
    async def handle(request: Request, peer: Peer):
        await peer.say(f"HTTP/1.1 {status}\r\nRetry-After: 7\r\nContent-Length: 50\r\n\r\nhalf")
        peer.reset()

    result = await asked_once(handle)
    assert isinstance(result, Reply)
    assert result.status == int(status[:3])
    assert result.headers["retry-after"] == "7"
    assert result.cut is not None
    assert result.cut.failure.kind == "connection_lost"


async def test_the_words_of_an_error_are_not_waited_for_long():
    async def handle(request: Request, peer: Peer):
        await peer.say("HTTP/1.1 503 Busy\r\nContent-Length: 50\r\n\r\n")
        await peer.hang()

    result = await asked_once(handle, limits=run_limits(900.0))
    assert isinstance(result, Reply)
    assert (result.status, result.body) == (503, b"")
    assert anyio.current_time() == ERROR_BODY_MAX_S


async def test_a_reply_that_drips_ends_in_time():
    async def handle(request: Request, peer: Peer):
        await peer.say("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            await peer.say(".")
            await anyio.sleep(10)

    result = await asked_once(handle)
    assert isinstance(result, Reply)
    assert result.cut is not None
    assert result.cut.timed_out
    assert anyio.current_time() == wire.TOTAL_MAX_S


@pytest.mark.real_time  # the kernel takes its time with so many bytes
@pytest.mark.parametrize("coding", ["length", "chunked", "gzip"])
async def test_no_more_is_read_than_may_be(coding: str):
    size = 3 * MIB

    async def handle(request: Request, peer: Peer):
        if coding == "length":
            await peer.reply("200 OK", b"x" * size)
        elif coding == "gzip":
            await peer.reply("200 OK", gzip.compress(b"x" * size), Content_Encoding="gzip")
        else:
            await peer.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await peer.say(b"%x\r\n" % size + b"x" * size + b"\r\n0\r\n\r\n")

    whole = await asked_once(handle, body_max=size)
    assert isinstance(whole, Reply)
    assert whole.body == b"x" * size
    result = await asked_once(handle, body_max=size - 1)
    assert isinstance(result, Reply)
    assert (result.status, result.body) == (200, b"")
    assert result.cut is not None
    assert result.cut.failure.kind == TOO_LARGE


@pytest.mark.real_time  # the kernel takes its time with so many bytes
async def test_after_a_body_that_was_not_read_comes_another_connection():
    async def handle(request: Request, peer: Peer):
        await peer.reply("200 OK", b"x" * 2 * MIB)

    async with raw_server(handle) as server, aclosing(wired(server)) as client:
        for _ in range(2):
            result = await exchange(client, server)
            assert isinstance(result, Reply)
        assert server.connections == 2


@pytest.mark.real_time  # the kernel takes its time with so many bytes
async def test_a_refusal_before_the_whole_body_was_sent_is_heard():
    async def handle(request: Request, peer: Peer):
        await peer.reply("413 Too Large", b"no")
        await anyio.sleep(0.3)  # without reading on

    async with (
        raw_server(handle, read_bodies=False) as server,
        aclosing(wired(server)) as client,
    ):
        result = await exchange(client, server, b"x" * 16 * MIB)
    assert isinstance(result, Reply)
    assert (result.status, result.body) == (413, b"no")


# -- Time limits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [QUICK, run_limits(900.0)])
def test_every_wait_has_a_limit(limits: Limits):
    assert 0 < CONNECT_MAX_S < limits.connect_s
    # Otherwise a time-out of the connection could not be told from one of the reply.
    assert limits.connect_s + limits.silent_s < limits.total_s


def test_a_function_says_how_long_it_may_take():
    account = AccountSettings(
        provider=Provider.AWS_LAMBDA,
        account_id="1",
        region="us-east-1",
        quota=1,
        functions={"f": FunctionRules(hold_max_s=5.0), "*": FunctionRules(hold_max_s=7.0)},
    )
    assert wire.hold_max_s(account, "f") == 5.0
    assert wire.hold_max_s(account, "g") == 7.0
    bare = AccountSettings(
        provider=Provider.AWS_LAMBDA, account_id="1", region="us-east-1", quota=1
    )
    assert wire.hold_max_s(bare, "f") == FunctionRules().hold_max_s


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "\u4e2d", "\x7f", "\0"])
def test_what_would_break_a_header_is_refused(value: str):
    with pytest.raises(ValueError, match="printable ASCII"):
        wire.plain_value("option 'x'", value)
    assert wire.plain_value("option 'x'", "fine: here; you, are") == "fine: here; you, are"


# -- Another event loop ---------------------------------------------------------------------------


@pytest.mark.real_time
def test_it_is_the_same_on_uvloop():
    uvloop = pytest.importorskip("uvloop")

    async def handle(request: Request, peer: Peer):
        match request.body:
            case b"reset":
                peer.reset()
            case b"large":
                await peer.reply("200 OK", b"y" * 3 * MIB)
            case b"hang":
                await peer.hang()
            case _:
                await peer.reply("200 OK", str(len(request.body)))

    async def talk() -> None:
        async with raw_server(handle) as server, aclosing(wired(server)) as client:
            large = await exchange(client, server, b"x" * 8 * MIB)
            assert isinstance(large, Reply)
            assert large.body == str(8 * MIB).encode()
            for _ in range(3):
                small = await exchange(client, server)
                assert isinstance(small, Reply)
                assert small.body == b"2"
            assert server.connections == 1
            assert isinstance(await exchange(client, server, b"reset"), Lost)
            whole = await exchange(client, server, b"large", body_max=3 * MIB)
            assert isinstance(whole, Reply)
            assert len(whole.body) == 3 * MIB
            with anyio.move_on_after(0.2) as scope:
                await exchange(client, server, b"hang")
            assert scope.cancelled_caught
            hanging = asyncio.ensure_future(exchange(client, server, b"hang"))
            await anyio.sleep(0.2)
            await client.aclose()
            assert isinstance(await hanging, Lost)

    uvloop.run(talk())
