import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dispatcher.core.model import Denied, Failure, Lost, Refused, Replied
from dispatcher.engine import Engine
from dispatcher.errors import (
    DiskFull,
    Draining,
    Invalid,
    JournalError,
    PayloadTooLarge,
    QueueFull,
    WaitedTooLong,
    Withdrawn,
)
from dispatcher.web import Clients, Listener, make_app, problems
from dispatcher.web.dropin import Kind, Trouble, _replied, guarded, trouble
from dispatcher.web.response import Response
from dispatcher.web.signatures import Fault, Unproved
from dispatcher.wiring import open_engine, run_engine
from tests.transports.servers import Peer, raw_server
from tests.web.dropins import routes, settings, until


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        *((Unproved(fault, "x"), Kind(fault.value)) for fault in Fault),
        (PayloadTooLarge("x", pointer="/payload"), Kind.TOO_LARGE),
        (Invalid("x", pointer="/type"), Kind.BAD_MODE),
        (Invalid("x", pointer="/function"), Kind.BAD_NAME),
        (Invalid("x", pointer="/options"), Kind.INVALID),
        (QueueFull("x"), Kind.THROTTLED),
        (WaitedTooLong("x", gate="account", retry_after_s=3), Kind.THROTTLED),
        (Draining("x"), Kind.UNAVAILABLE),
        (DiskFull("x"), Kind.UNAVAILABLE),
        (Withdrawn("x"), Kind.UNAVAILABLE),
        (JournalError("x"), Kind.UNAVAILABLE),
        (problems.refusal(408, "x"), Kind.TOO_SLOW),
        (problems.refusal(413, "x"), Kind.TOO_LARGE),
        (problems.refusal(503, "x"), Kind.UNAVAILABLE),
        (problems.refusal(400, "x"), Kind.INVALID),
    ],
)
def test_every_error_is_trouble_of_some_kind(error, kind):
    found = trouble(error)
    assert (found.kind, str(found)) == (kind, "x")
    assert (found.retry_after_s is not None) == (kind in (Kind.THROTTLED, Kind.UNAVAILABLE))
    assert trouble(found) is found


@pytest.mark.parametrize(
    ("answer", "kind", "cloud"),
    [
        (Refused(Failure("refused", "x", "Code", 404)), Kind.INVALID, (404, "Code")),
        (Refused(Failure("invalid", "x")), Kind.INVALID, None),
        (Denied(Failure("denied", "x", "Code", 403)), Kind.OUR_KEYS, None),
        (Lost(Failure("server_error", "x", "Code", 500)), Kind.LOST, (500, "Code")),
        (Lost(Failure("timed_out", "x"), timed_out=True), Kind.LOST, None),
    ],
)
def test_what_the_cloud_said_is_told(answer, kind, cloud):
    with pytest.raises(Trouble) as caught:
        _replied(answer)
    assert (caught.value.kind, caught.value.cloud) == (kind, cloud)
    assert str(caught.value).endswith("x")


def test_a_reply_is_a_reply():
    reply = Replied(request_id="r", payload=b"x")
    assert _replied(reply) is reply


async def test_trouble_is_told_with_what_goes_with_it():
    async def fails(request: Any) -> Response:
        raise request

    def refuse(_: Any, found: Trouble) -> Response:
        return Response(418, found.kind.encode())

    handler: Any = guarded(fails, refuse)
    answer = await handler(QueueFull("x", retry_after_s=1.2))
    assert (answer.body, answer.headers["Retry-After"]) == (b"throttled", "2")
    assert "Connection" not in answer.headers
    assert (await handler(problems.refusal(413, "x"))).headers["Connection"] == "close"
    with pytest.raises(ZeroDivisionError):
        await handler(ZeroDivisionError())


# -- Large replies --------------------------------------------------------------------------------

FIRST, LAST = b"x" * 200_000, b"y" * 300_000
PATHS = {
    "aws": "/2015-03-31/functions/f/invocations",
    "fc": "/2023-03-30/functions/f/invocations",
}


class LargeReply:
    """A cloud that gives the first part of a reply, and goes on when it is told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.breaks_off = False

    async def answer(self, _: Any, peer: Peer) -> None:
        length = len(FIRST) + len(LAST)
        await peer.say(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nX-Fc-Request-Id: r\r\n\r\n")
        await peer.say(FIRST)
        await self.go_on.wait()
        if self.breaks_off:
            peer.reset()
        else:
            await peer.say(LAST)


@contextlib.asynccontextmanager
async def before(cloud: LargeReply, folder: Path) -> AsyncIterator[tuple[str, Engine]]:
    """Run a sidecar before *cloud*."""
    async with raw_server(cloud.answer) as server, contextlib.AsyncExitStack() as stack:
        config = await asyncio.to_thread(settings, folder, server.url, None)
        engine = await stack.enter_async_context(open_engine(config))
        await stack.enter_async_context(run_engine(engine))
        clients = Clients()
        clients.take(config, await clients.read(config))
        app = make_app(engine, config.server, more_routes=routes(engine, clients))
        listener = await stack.enter_async_context(Listener(app, ["127.0.0.1:0"]))
        yield f"http://{listener.addresses[0]}", engine


@pytest.mark.real_time
@pytest.mark.parametrize("account", PATHS)
async def test_the_first_bytes_of_a_large_reply_come_before_the_last_are_sent(tmp_path, account):
    cloud = LargeReply()
    async with before(cloud, tmp_path) as (url, engine), aiohttp.ClientSession(url) as session:
        async with session.post(PATHS[account], data=b"{}") as reply:
            assert reply.status == 200
            assert await reply.content.readexactly(len(FIRST)) == FIRST
            assert engine.account(account).in_use == 1
            cloud.go_on.set()
            assert await reply.content.read() == LAST
        await until(lambda: engine.account(account).in_use == 0)


@pytest.mark.real_time
async def test_a_reply_that_the_cloud_breaks_off_is_a_broken_reply(tmp_path):
    cloud = LargeReply()
    cloud.breaks_off = True
    async with (
        before(cloud, tmp_path) as (url, _),
        aiohttp.ClientSession(url) as session,
        session.post(PATHS["fc"], data=b"{}") as reply,
    ):
        await reply.content.readexactly(len(FIRST))
        cloud.go_on.set()
        with pytest.raises(aiohttp.ClientPayloadError):
            await reply.content.read()


@pytest.mark.real_time
async def test_a_caller_that_leaves_in_the_middle_leaves_the_slot_to_the_run(tmp_path):
    cloud = LargeReply()
    async with before(cloud, tmp_path) as (url, engine), aiohttp.ClientSession(url) as session:
        reply = await session.post(PATHS["fc"], data=b"{}")
        await reply.content.readexactly(len(FIRST))
        reply.close()
        await asyncio.sleep(0.1)
        assert engine.account("fc").in_use == 1
        cloud.go_on.set()
        await until(lambda: engine.account("fc").in_use == 0)
        assert not engine.machine.jobs
