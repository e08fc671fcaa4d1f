"""
Throughput against how much waits, and against how many tenants wait.

    python benchmarks/bench_scaling.py [--most 1000000] [--lives 10000] [--rounds 3] [--plot FOLDER]

The whole engine in process, without a wire: a cloud in the same process takes everything at once,
256 at any time. So many wait for it; whenever one has ended, another one is enqueued. What is
counted is lives, from enqueue to end, for each second of the CPU, and the time of `enqueue` alone.
`--plot` writes both tables as SVG, too.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import plot
from common import PAYLOAD, account, folder, machine, run, settings, table

from dispatcher.core.model import Accepted, Call, CallType, Invocation, Outcome
from dispatcher.core.rules import AccountRules
from dispatcher.engine import Engine, Ticket
from dispatcher.journals import open_journal
from dispatcher.service import keep_out_of_collections
from dispatcher.wiring import run_engine

IN_FLIGHT = 256
FILL = 5000
CROWD = 20_000
JOURNALS = {"memory": "memory:", "SQLite": "sqlite:journal.db"}


class Everything:
    """A cloud that takes everything at once."""

    def payload_max_bytes(self, call_type: CallType) -> int:  # noqa: ARG002 -- the port's
        """Take large ones too."""
        return 1 << 20

    async def send(self, call: Call) -> Outcome:  # noqa: ARG002 -- the port's
        """Let others have their turn, as a request would."""
        await asyncio.sleep(0)
        return Accepted("r-1")

    def reconfigure(self, account: AccountRules) -> None:
        """Have no limits of its own."""

    async def stop(self, call: Call) -> bool:  # noqa: ARG002 -- the port's
        """Stop nothing."""
        return False

    async def aclose(self) -> None:
        """Have nothing to close."""


@contextlib.asynccontextmanager
async def engine_of(base: Path, journal_url: str) -> AsyncIterator[Engine]:
    text = (
        f'[journal]\nurl = "{journal_url}"\n[queue]\njobs_max = 100000000\n'
        + account(
            "main", "aws-lambda", "http://127.0.0.1:9", quota=IN_FLIGHT, requests_max=IN_FLIGHT
        )
        + '[accounts.main.functions."*"]\ncompletion = "accepted"\n'
    )
    given = settings(text, base)
    journal = await open_journal(given.journal, bytes_max=given.queue.bytes_max)
    try:
        engine = Engine(given, journal=journal, transports={"main": Everything()}, trackers={})
        async with run_engine(engine):
            yield engine
    finally:
        await journal.aclose()


class Load:
    """A backlog of so many tenants that neither grows nor shrinks."""

    def __init__(self, engine: Engine, tenants: int) -> None:
        self._engine = engine
        self._tenants = tenants
        self._number = 0
        self.enqueue_s = 0.0

    def enqueue(self) -> Ticket:
        """Enqueue one for the next tenant."""
        self._number += 1
        tenant = f"t{self._number % self._tenants}"
        one = Invocation(
            account="main", function=f"f{self._number % 8}", tenant=tenant, payload=PAYLOAD
        )
        began_s = time.thread_time()
        ticket = self._engine.enqueue(one)
        self.enqueue_s += time.thread_time() - began_s
        return ticket

    async def fill(self, count: int) -> None:
        """Enqueue so many, a few at a time."""
        while count > 0:
            tickets = [self.enqueue() for _ in range(min(count, FILL))]
            await tickets[-1].accepted()
            count -= FILL

    async def live(self, lives: int) -> tuple[float, float]:
        """Let so many live; return the CPU time of one life, and of its `enqueue`."""
        counters = self._engine.machine.counters
        self.enqueue_s = 0.0
        begin = done = sum(counters.ended.values())
        self._engine.resume("main")
        began_s = time.process_time()
        while done < begin + lives:
            await asyncio.sleep(0.001)  # idle: what waits for the disk shall cost nothing
            ended = sum(counters.ended.values())
            for _ in range(ended - done):
                self.enqueue()
            done = ended
        took_s = time.process_time() - began_s
        self._engine.pause("main")
        return took_s / (done - begin), self.enqueue_s / (done - begin)


async def measure(
    base: Path, journal_url: str, waiting: int, tenants: int, options: argparse.Namespace
) -> tuple[float, float]:
    """Return the median lives per CPU-second, and the median time of `enqueue` in microseconds."""
    print(f"  {journal_url} {waiting} waiting, {tenants} tenants", file=sys.stderr, flush=True)
    async with engine_of(base, journal_url) as engine:
        engine.pause("main")
        load = Load(engine, tenants)
        await load.fill(waiting)
        keep_out_of_collections()
        lives = options.lives if journal_url == "memory:" else options.lives // 3
        await load.live(lives // 4)
        rounds = [await load.live(lives) for _ in range(options.rounds)]
    life_s, enqueue_s = (statistics.median(each) for each in zip(*rounds, strict=True))
    return 1 / life_s, enqueue_s * 1e6


Case = tuple[int, int]  # how many wait, of how many tenants


async def compare(options: argparse.Namespace) -> None:
    backlogs = [count for count in (1000, 10_000, 100_000, 1_000_000) if count <= options.most]
    crowd = min(CROWD, options.most)
    tenants = [count for count in (1, 10, 100, 1000, 10_000) if count <= crowd]
    figures: dict[tuple[str, Case], tuple[float, float]] = {}
    for name, url in JOURNALS.items():
        cases = [(count, 5) for count in backlogs] + [(crowd, count) for count in tenants]
        if name != "memory":  # it takes its time to fill, and bench_backlog.py knows of a million
            cases = [case for case in cases if case[0] <= 5 * CROWD and case[1] not in (10, 1000)]
        for case in cases:
            with folder() as base:
                figures[name, case] = await measure(base, url, *case, options)
    scales = {
        ("backlog", "waiting, of 5 tenants"): [(count, (count, 5)) for count in backlogs],
        ("tenants", f"tenants, {crowd:,} waiting"): [(count, (crowd, count)) for count in tenants],
    }
    for (file, what), scale in scales.items():
        show(what, scale, figures)
        if options.plot is not None:
            plot.write(
                options.plot / f"throughput-{file}.svg",
                "Lives per CPU-second, in process, without a wire",
                what,
                {
                    f"{name} journal": [
                        (count, figures[name, case][0])
                        for count, case in scale
                        if (name, case) in figures
                    ]
                    for name in JOURNALS
                },
            )


def show(
    what: str,
    scale: Sequence[tuple[int, Case]],
    figures: Mapping[tuple[str, Case], tuple[float, float]],
) -> None:
    rows = []
    for count, case in scale:
        row = [f"{count:,}"]
        for name in JOURNALS:
            row += _cells(figures.get((name, case)), figures[name, scale[0][1]])
        rows.append(row)
    head = [what]
    for name in JOURNALS:
        head += [f"{name}, lives/CPU-s", "x first", "enqueue us", "x first"]
    table(head, rows)
    print()


def _cells(figure: tuple[float, float] | None, first: tuple[float, float]) -> list[str]:
    if figure is None:
        return [""] * 4
    rate, enqueue_us = figure
    return [
        f"{rate:.0f}",
        f"{rate / first[0]:.2f}",
        f"{enqueue_us:.1f}",
        f"{enqueue_us / first[1]:.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--most", type=int, default=1_000_000, help="how many wait at most")
    parser.add_argument("--lives", type=int, default=10_000, help="in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path, help="a folder for plots")
    options = parser.parse_args()
    print(f"{machine()}; {IN_FLIGHT} in flight, {options.rounds} rounds", flush=True)
    run(compare, options)


if __name__ == "__main__":
    main()
