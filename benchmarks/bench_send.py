"""
What one invocation costs from enqueue to end, beside raw clients on the same wire.

A trivial HTTP server in a process of its own answers 202. Each contender makes the same number of
calls with the same number in flight; rounds alternate, CPU is that of the client process alone,
medians are compared. Run: python benchmarks/bench_send.py [calls per round] [rounds]
"""

import asyncio
import contextlib
import importlib.util
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import anyio
from aiohttp import web

from dispatcher import Dispatcher, Invocation
from dispatcher.config import parse

IN_FLIGHT = 64
PAYLOAD = b'{"image": "0123456789abcdef", "size": [1024, 768]}'

CONFIG = """
[journal]
url = "{journal}"

[accounts.main]
provider = "{provider}"
account_id = "123456789012"
region = "us-east-1"
quota = {in_flight}
requests_max = {in_flight}
endpoint = "{endpoint}"
credentials = {{ source = "static", access_key_id = "AK", access_key_secret_file = "secret" }}

[accounts.main.functions."*"]
completion = "accepted"
"""

Round = Callable[[int], Awaitable[None]]


def serve(pipe: Any) -> None:
    """Answer 202 to everything, in a process of its own."""

    async def answer(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response(
            status=202, headers={"x-amzn-RequestId": "r-1", "X-Fc-Request-Id": "r-1"}
        )

    async def main() -> None:
        runner = web.ServerRunner(web.Server(answer, access_log=None))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        pipe.send(runner.addresses[0][1])
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        await runner.cleanup()

    anyio.run(main, backend_options={"use_uvloop": _uvloop()})


def _uvloop() -> bool:
    return importlib.util.find_spec("uvloop") is not None


@contextlib.asynccontextmanager
async def through_dispatcher(
    url: str, folder: Path, journal: str, provider: str
) -> AsyncIterator[Round]:
    """Enqueue in process and wait for the ends."""
    text = CONFIG.format(journal=journal, endpoint=url, in_flight=IN_FLIGHT, provider=provider)
    settings = parse(text, base=folder)
    async with Dispatcher(settings) as dispatcher:
        job = Invocation(account="main", function="thumbs", payload=PAYLOAD)

        async def run(calls: int) -> None:
            tickets = [dispatcher.enqueue(job) for _ in range(calls)]
            for ticket in tickets:
                await ticket.ended()

        yield run


async def _at_once(calls: int, one: Callable[[], Awaitable[None]]) -> None:
    async def work(share: int) -> None:
        for _ in range(share):
            await one()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(IN_FLIGHT):
            tasks.create_task(work(calls // IN_FLIGHT))


@contextlib.asynccontextmanager
async def plain_aiohttp(url: str) -> AsyncIterator[Round]:
    """Post without any signature on one session."""
    target = f"{url}/2015-03-31/functions/thumbs/invocations"
    headers = {"X-Amz-Invocation-Type": "Event"}
    connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
    async with aiohttp.ClientSession(connector=connector) as http:

        async def one() -> None:
            async with http.post(target, data=PAYLOAD, headers=headers) as reply:
                await reply.read()

        yield lambda calls: _at_once(calls, one)


@contextlib.asynccontextmanager
async def plain_aiobotocore(url: str) -> AsyncIterator[Round]:
    """Call `invoke` in a loop, as a product would."""
    from aiobotocore.config import AioConfig  # noqa: PLC0415 -- only this contender needs it
    from aiobotocore.session import get_session  # noqa: PLC0415

    config = AioConfig(max_pool_connections=IN_FLIGHT, retries={"total_max_attempts": 1})
    async with get_session().create_client(
        "lambda",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="AK",
        aws_secret_access_key="s",
        config=config,
    ) as client:

        async def one() -> None:
            reply = await client.invoke(
                FunctionName="thumbs", InvocationType="Event", Payload=PAYLOAD
            )
            await reply["Payload"].read()

        yield lambda calls: _at_once(calls, one)


async def compare(url: str, calls: int, rounds: int) -> None:
    """Run all contenders in turn and print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        secret = folder / "secret"
        secret.write_text("s\n")
        secret.chmod(0o600)
        async with contextlib.AsyncExitStack() as stack:
            enter = stack.enter_async_context
            contenders = {
                "aiobotocore loop": await enter(plain_aiobotocore(url)),
                "aiohttp, unsigned": await enter(plain_aiohttp(url)),
                "dispatcher, Lambda, memory": await enter(
                    through_dispatcher(url, folder, "memory:", "aws-lambda")
                ),
                "dispatcher, Lambda, SQLite": await enter(
                    through_dispatcher(url, folder, "sqlite:lambda.db", "aws-lambda")
                ),
                "dispatcher, FC, memory": await enter(
                    through_dispatcher(url, folder, "memory:", "aliyun-fc")
                ),
            }
            cpu: dict[str, list[float]] = {contender: [] for contender in contenders}
            wall: dict[str, list[float]] = {contender: [] for contender in contenders}
            for number in range(rounds + 1):
                for contender, run in contenders.items():
                    began, began_cpu = time.perf_counter(), time.process_time()
                    await run(calls)
                    if number:  # the first round warms up
                        cpu[contender].append((time.process_time() - began_cpu) / calls * 1000)
                        wall[contender].append(calls / (time.perf_counter() - began))
    show(cpu, wall)


def show(cpu: dict[str, list[float]], wall: dict[str, list[float]]) -> None:
    """Print one line each, with ratios of calls per CPU-second."""
    median = {name: statistics.median(values) for name, values in cpu.items()}
    print(f"{'':28} {'CPU ms/call':>12} {'calls/s':>9} {'x aiobotocore':>14} {'x aiohttp':>10}")
    for name, value in median.items():
        print(
            f"{name:28} {value:12.3f} {statistics.median(wall[name]):9.0f} "
            f"{median['aiobotocore loop'] / value:14.2f} {median['aiohttp, unsigned'] / value:10.2f}"
        )
    sqlite, memory = median["dispatcher, Lambda, SQLite"], median["dispatcher, Lambda, memory"]
    print(f"SQLite journal: {memory / sqlite:.2f} of memory")


def main() -> None:
    """Start the server, compare, end the server."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 3200
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
    server.start()
    try:
        url = f"http://127.0.0.1:{ours.recv()}"
        print(f"{calls} calls a round, {IN_FLIGHT} in flight, {rounds} rounds, pid {os.getpid()}")
        anyio.run(compare, url, calls, rounds, backend_options={"use_uvloop": _uvloop()})
    finally:
        ours.send("end")
        server.join(10)


if __name__ == "__main__":
    main()
