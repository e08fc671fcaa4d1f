"""
What one invocation costs from enqueue to end, beside raw clients on the same wire.

    python benchmarks/bench_send.py [calls per round] [rounds] [--in-flight 64]

A trivial HTTP server in a process of its own answers 202. Each contender makes the same number of
calls with the same number in flight; rounds alternate, CPU is that of the client process alone,
medians are compared. The more are in flight, the more share a commit of the SQLite journal.
"""

import argparse
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from common import PAYLOAD, Contender, alternate, at_once, cloud, folder, machine, run, table
from contenders import plain_aiohttp, through_dispatcher

SDK, PLAIN = "aiobotocore loop", "aiohttp, unsigned"


@contextlib.asynccontextmanager
async def plain_aiobotocore(url: str, in_flight: int) -> AsyncIterator[Contender]:
    """Call `invoke` in a loop, as a product would."""
    from aiobotocore.config import AioConfig  # noqa: PLC0415 -- only this contender needs it
    from aiobotocore.session import get_session  # noqa: PLC0415

    config = AioConfig(max_pool_connections=in_flight, retries={"total_max_attempts": 1})
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

        yield lambda calls: at_once(in_flight, calls, one)


async def compare(url: str, base: Path, calls: int, rounds: int, in_flight: int) -> None:
    """Run all contenders in turn and print the table."""
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        contenders = {
            SDK: await enter(plain_aiobotocore(url, in_flight)),
            PLAIN: await enter(plain_aiohttp(url, "aws-lambda", in_flight)),
        }
        for name, provider in (("Lambda", "aws-lambda"), ("FC", "aliyun-fc")):
            for kind, journal in (("memory", "memory:"), ("SQLite", f"sqlite:{name}.db")):
                contenders[f"dispatcher, {name}, {kind}"] = await enter(
                    through_dispatcher(url, base, provider, journal, in_flight)
                )
        figures = await alternate(contenders, dict.fromkeys(contenders, calls), rounds)
    table(
        ("send", "CPU ms/call", "calls/s", "x aiobotocore", "x aiohttp"),
        [
            (
                name,
                f"{figures.cpu_ms(name):.3f}",
                f"{figures.per_s(name):.0f}",
                f"{figures.times(name, SDK):.2f}",
                f"{figures.times(name, PLAIN):.2f}",
            )
            for name in contenders
        ],
    )
    for name in ("Lambda", "FC"):
        part = figures.times(f"dispatcher, {name}, SQLite", f"dispatcher, {name}, memory")
        print(f"{name}: SQLite journal {part:.2f} of memory")


def main() -> None:
    """Start the server, compare, end the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("calls", type=int, nargs="?", default=3200, help="in each round")
    parser.add_argument("rounds", type=int, nargs="?", default=5)
    parser.add_argument("--in-flight", type=int, default=64)
    options = parser.parse_args()
    print(f"{machine()}; {options.in_flight} in flight, {options.rounds} rounds", flush=True)
    with folder() as base, cloud() as url:
        run(compare, url, base, options.calls, options.rounds, options.in_flight)


if __name__ == "__main__":
    main()
