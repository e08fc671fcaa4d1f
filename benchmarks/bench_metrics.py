"""
What a scrape of `/metrics` costs, and what of it the event loop feels.

    python benchmarks/bench_metrics.py [--rounds 7] [--series 1000 10000 50000]

The configuration lists so many functions and tenants, and each has ended something, so that
the page has 1000, 10 000 and 50 000 series. Measured are: the snapshot, the only part that runs
on the loop; the whole page, made in a thread that gives way; and, in the same rounds, the same
page from prometheus_client's own metrics and `generate_latest`, which would hold the loop up.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from common import account, folder, machine, run, settings, table
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from dispatcher.core.model import State
from dispatcher.engine import Engine
from dispatcher.metrics import make_registry, render
from dispatcher.wiring import open_engine

SERIES = [1000, 10_000, 50_000]
#: Series that each function and tenant brings: in flight, ended, sent, queued and others.
SERIES_EACH = 8


def config(count: int) -> str:
    return (
        '[journal]\nurl = "memory:"\n'
        + account("main", "aliyun-fc", "http://127.0.0.1:9", quota=300)
        + "".join(
            f'[accounts.main.functions.f{number}]\ncompletion = "task"\n'
            f"[accounts.main.tenants.t{number}]\nweight = 1\n"
            for number in range(count)
        )
    )


def use(engine: Engine, count: int) -> None:
    """Have every function and tenant something to show."""
    counters = engine.machine.counters
    for number in range(count):
        function, tenant = f"f{number}", f"t{number}"
        for state in (State.SUCCEEDED, State.DEAD):
            counters.ended["main", function, tenant, state] += number
        for result in ("ok", "throttled"):
            counters.send_attempts["main", function, result] += number
        counters.throttles["main", function, "ResourceExhausted"] += number
        engine.machine.accounts["main"].in_flight[function, tenant] = 0


def plain(count: int) -> CollectorRegistry:
    """Return as many series of prometheus_client's own."""
    registry = CollectorRegistry()
    gauge = Gauge("plain_series", "As many.", ("account", "function"), registry=registry)
    for number in range(count):
        gauge.labels("main", f"f{number}").set(number)
    return registry


def timed(call: Callable[[], object]) -> float:
    began_s = time.thread_time()
    call()
    return (time.thread_time() - began_s) * 1000


async def measure(base: Path, wanted: int, rounds: int) -> list[str]:
    count = wanted // SERIES_EACH
    async with open_engine(settings(config(count), base)) as engine:
        use(engine, count)
        registry = make_registry(engine.statistics)
        page, _ = await render(registry, None)
        series = sum(not line.startswith(b"#") for line in page.splitlines())
        other = plain(series)
        snapshots, pages, walls, others = [], [], [], []
        for _ in range(rounds):
            snapshots.append(timed(engine.statistics))
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            await render(registry, None)
            pages.append((time.process_time() - began_cpu_s) * 1000)
            walls.append((time.perf_counter() - began_s) * 1000)
            others.append(timed(lambda: generate_latest(other)))
    median = statistics.median
    return [
        f"{series:,}",
        f"{len(page) / 1024:.0f}",
        f"{median(snapshots):.2f}",
        f"{median(pages):.1f}",
        f"{median(walls):.0f}",
        f"{median(others):.1f}",
        f"{median(others) / median(pages):.2f}",
    ]


async def main(base: Path, sizes: list[int], rounds: int) -> None:
    table(
        (
            *("series", "KiB", "on the loop, CPU ms", "page, CPU ms", "page, ms"),
            *("plain page, CPU ms", "x plain"),
        ),
        [await measure(base, wanted, rounds) for wanted in sizes],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--series", type=int, nargs="*", default=SERIES, help="about so many")
    options = parser.parse_args()
    print(f"{machine()}; {options.rounds} rounds", flush=True)
    with folder() as where:
        run(main, where, options.series, options.rounds)
