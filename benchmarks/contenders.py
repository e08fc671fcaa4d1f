"""Who sends: the dispatcher in process, and a plain session on the same wire."""

import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from common import PAYLOAD, Contender, account, at_once, settings

from dispatcher import Dispatcher, Invocation

#: Where each provider takes an asynchronous invocation, and the header that says so.
ASYNC = {
    "aws-lambda": (
        "/2015-03-31/functions/thumbs/invocations",
        {"X-Amz-Invocation-Type": "Event"},
    ),
    "aliyun-fc": (
        "/2023-03-30/functions/thumbs/invocations",
        {"X-Fc-Invocation-Type": "Async"},
    ),
}


@contextlib.asynccontextmanager
async def through_dispatcher(
    url: str, base: Path, provider: str, journal: str, in_flight: int
) -> AsyncIterator[Contender]:
    """Enqueue in process and wait for the ends, which are the 202s."""
    text = (
        f'[journal]\nurl = "{journal}"\n'
        + account("main", provider, url, quota=in_flight, requests_max=in_flight)
        + '[accounts.main.functions."*"]\ncompletion = "accepted"\n'
    )
    async with Dispatcher(settings(text, base)) as dispatcher:
        job = Invocation(account="main", function="thumbs", payload=PAYLOAD)

        async def make(calls: int) -> None:
            tickets = [dispatcher.enqueue(job) for _ in range(calls)]
            for ticket in tickets:
                await ticket.ended()

        yield make


@contextlib.asynccontextmanager
async def plain_aiohttp(url: str, provider: str, in_flight: int) -> AsyncIterator[Contender]:
    """Post without any signature on one session."""
    path, headers = ASYNC[provider]
    tls = ssl.create_default_context() if url.startswith("https:") else False
    connector = aiohttp.TCPConnector(limit=in_flight, ssl=tls)
    async with aiohttp.ClientSession(connector=connector) as http:

        async def one() -> None:
            async with http.post(url + path, data=PAYLOAD, headers=headers) as reply:
                await reply.read()

        yield lambda calls: at_once(in_flight, calls, one)
