"""Three products that burst, and a shop whose customers wait for synchronous calls."""

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp
import anyio
from msgspec import Struct, field

#: The products, their share of a burst, and how many requests each has in flight.
PRODUCTS: Final = (("ingest", 0.5), ("research", 0.3), ("reports", 0.2))
REQUESTS_EACH: Final = 6
ACCOUNTS: Final = ("fc", "lambda")
#: Customers of the shop that call at the same time, and their pause between calls.
CUSTOMERS: Final = 8
PAUSE_S: Final = 0.1

Send = Callable[[str, str, int], Awaitable[None]]


class Shop(Struct):
    """What customers met."""

    served: int = 0
    throttled: int = 0
    failed: int = 0


class Enqueued(Struct):
    """What the products were told."""

    ids: list[str] = field(default_factory=list)
    refused: int = 0
    took_s: list[float] = field(default_factory=list)


async def burst(total: int, send: Send) -> None:
    """Let every product send its share of *total*, over both accounts, as fast as it can."""
    async with anyio.create_task_group() as tasks:
        for product, share in PRODUCTS:
            numbers = iter(range(round(total * share)))
            for _ in range(REQUESTS_EACH):
                tasks.start_soon(_work, product, numbers, send)


async def _work(product: str, numbers: Any, send: Send) -> None:
    for number in numbers:
        await send(ACCOUNTS[number % len(ACCOUNTS)], product, number)


def straight_to(cloud: str, http: aiohttp.ClientSession, counts: dict[int, int]) -> Send:
    """Return how a product calls the cloud itself, asynchronously; *counts* are of statuses."""

    async def send(account: str, product: str, number: int) -> None:
        url, headers = _invocation(cloud, account, product, asynchronous=True)
        async with http.post(url, headers=headers, data=b'{"n": %d}' % number) as reply:
            await reply.read()
            counts[reply.status] = counts.get(reply.status, 0) + 1

    return send


def through(sidecar: str, http: aiohttp.ClientSession, told: Enqueued) -> Send:
    """Return how a product enqueues at the sidecar."""

    async def send(account: str, product: str, number: int) -> None:
        body = {
            "account": account,
            "function": product,
            "tenant": product,
            "payload": {"n": number},
        }
        begun = time.perf_counter()
        async with http.post(f"{sidecar}/v1/invocations", json=body) as reply:
            answer = await reply.json(content_type=None)
            told.took_s.append(time.perf_counter() - begun)
            if reply.status == 202:
                told.ids.append(answer["id"])
            else:
                told.refused += 1

    return send


async def customers(cloud: str, http: aiohttp.ClientSession, shop: Shop) -> None:
    """Call the shop's function synchronously, past the dispatcher, until cancelled."""

    async def one(account: str) -> None:
        url, headers = _invocation(cloud, account, "storefront", asynchronous=False)
        while True:
            async with http.post(url, headers=headers, data=b"{}") as reply:
                await reply.read()
            if reply.status == 200:
                shop.served += 1
            elif reply.status == 429:
                shop.throttled += 1
            else:
                shop.failed += 1
            await anyio.sleep(PAUSE_S)

    async with anyio.create_task_group() as tasks:
        for number in range(CUSTOMERS):
            tasks.start_soon(one, ACCOUNTS[number % len(ACCOUNTS)])


def _invocation(
    cloud: str, account: str, function: str, *, asynchronous: bool
) -> tuple[str, dict[str, str]]:
    if account == "fc":
        kind = "Async" if asynchronous else "Sync"
        return (
            f"{cloud}/2023-03-30/functions/{function}/invocations",
            {"x-fc-invocation-type": kind},
        )
    kind = "Event" if asynchronous else "RequestResponse"
    return (
        f"{cloud}/2015-03-31/functions/{function}/invocations",
        {"X-Amz-Invocation-Type": kind},
    )
