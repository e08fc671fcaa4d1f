"""
The SQLite journal alone: durable accepts, a whole life, latencies, and a restart with a backlog.

    python benchmarks/bench_journal.py [--folder .cache] [--seconds 3] [--backlog 1000000]

Everything runs on the disk of `--folder`; the fsync time of that disk is measured in the same
run, since nothing that is durable can be faster.
"""

import argparse
import asyncio
import importlib
import itertools
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from common import table

from dispatcher.core.model import (
    Change,
    Duplicate,
    Ended,
    Entry,
    Query,
    Record,
    Running,
    Sending,
    State,
)
from dispatcher.errors import JournalError
from dispatcher.journals import MemoryJournal, SqliteJournal
from dispatcher.ports import Journal

Row = tuple[str, ...]

_numbers = itertools.count()


def entry(payload: bytes, key: str | None = None) -> Entry:
    now_ms = int(time.time() * 1000)
    return Entry(
        Record(
            id=f"i{now_ms:012x}{next(_numbers):014x}",  # sorts by time, as the engine's do
            account="cn-prod",
            function="m42-ng-fc$surf2surf",
            tenant="research",
            payload_bytes=len(payload),
            accepted_ms=now_ms,
            due_ms=now_ms,
            key=key,
            digest=b"0123456789abcdef" if key else b"",
        ),
        payload,
    )


async def accept(journal: Journal, entries: Sequence[Entry]) -> None:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(verdict: Sequence[Duplicate | None] | Exception) -> None:
        if isinstance(verdict, Exception):
            done.set_exception(verdict)
        else:
            done.set_result(None)

    journal.accept(entries, settle)
    await done


async def record(journal: Journal, changes: Sequence[Change]) -> None:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(error: JournalError | None) -> None:
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    journal.record(changes, settle)
    await done


def quantiles(latencies_s: list[float]) -> str:
    ordered = sorted(latencies_s)
    parts = [ordered[int(len(ordered) * share)] * 1000 for share in (0.5, 0.99)]
    return f"{parts[0]:.2f} / {parts[1]:.2f} / {ordered[-1] * 1000:.1f}"


async def waiters(
    journal: Journal, count: int, seconds: float, payload: bytes, *, keys: bool = False
) -> tuple[float, list[float]]:
    """Have *count* callers accept one invocation after the other."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def one(name: int) -> None:
        number = 0
        while number == 0 or time.perf_counter() < end:
            number += 1
            began = time.perf_counter()
            await accept(journal, [entry(payload, f"{name}-{number}" if keys else None)])
            latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for name in range(count):
            group.create_task(one(name))
    return len(latencies) / (time.perf_counter() - began), latencies


async def lives(journal: Journal, count: int, seconds: float) -> float:
    """Have *count* callers take invocations through all that is written of one."""
    lived = 0
    end = time.perf_counter() + seconds

    async def one() -> None:
        nonlocal lived
        while time.perf_counter() < end:
            new = entry(b"x" * 300)
            key = new.record.id
            await accept(journal, [new])
            await record(journal, [Sending(key, 1, 1)])
            await record(journal, [Running(key, "req", 2)])
            await record(journal, [Ended(id=key, state=State.SUCCEEDED, at_ms=3)])
            lived += 1

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one())
    return lived / (time.perf_counter() - began)


def fsync_ms(folder: Path) -> tuple[float, float]:
    times = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(500):
            file.write(b"x" * 4096)
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    times.sort()
    return times[250] * 1000, times[495] * 1000


def rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


async def opened(folder: Path, on_commit: Callable[[float], None] | None = None) -> SqliteJournal:
    return await SqliteJournal.open(
        folder / "journal.db", retention_s=86400, bytes_max=256 * 1024 * 1024, on_commit=on_commit
    )


async def bench_accepts(folder: Path, seconds: float, rows: list[Row]) -> None:
    for count in (1, 32, 256, 1024):
        commits: list[float] = []
        journal = await opened(folder / f"a{count}", commits.append)
        rate, latencies = await waiters(journal, count, seconds, b"x" * 300)
        rows.append(
            (
                f"accepts, {count} waiters",
                f"{rate:,.0f}/s",
                quantiles(latencies),
                quantiles(commits),
            )
        )
        await journal.aclose()
    journal = await opened(folder / "keys")
    rate, latencies = await waiters(journal, 32, seconds, b"x" * 300, keys=True)
    rows.append(("accepts with keys, 32 waiters", f"{rate:,.0f}/s", quantiles(latencies), ""))
    await journal.aclose()
    journal = await opened(folder / "lives")
    rows.append(
        ("lives of 4 commits, 256 at once", f"{await lives(journal, 256, seconds):,.0f}/s", "", "")
    )
    await journal.aclose()
    rate, latencies = await waiters(MemoryJournal(retention_s=60), 32, seconds, b"x" * 300)
    rows.append(("memory journal, 32 waiters", f"{rate:,.0f}/s", quantiles(latencies), ""))


async def bench_backlog(folder: Path, seconds: float, backlog: int, rows: list[Row]) -> None:
    journal = await opened(folder)
    began = time.perf_counter()
    for start in range(0, backlog, 2000):
        await accept(
            journal, [entry(os.urandom(512) * 2) for _ in range(min(2000, backlog - start))]
        )
    took_s = time.perf_counter() - began
    rows.append((f"fill {backlog:,} of 1 KiB", f"{backlog / took_s:,.0f}/s", "", ""))
    await journal.aclose()
    # What the disk still has to write of the backlog is not what is measured next.
    await asyncio.to_thread(os.sync)

    journal = await opened(folder)
    rate, latencies = await waiters(journal, 32, seconds, b"x" * 300)
    rows.append(("accepts behind them, 32 waiters", f"{rate:,.0f}/s", quantiles(latencies), ""))
    began = time.perf_counter()
    found, _ = await journal.find(Query(state=State.WAITING, account="cn-prod"))
    took_ms = (time.perf_counter() - began) * 1000
    rows.append((f"find {len(found)} waiting", f"{took_ms:.1f} ms", "", ""))
    await journal.aclose()
    size = (folder / "journal.db").stat().st_size

    before = rss_mb()
    began = time.perf_counter()
    journal = await opened(folder)
    count = 0
    payloads = []
    async for batch in journal.recover():
        count += len(batch)
        payloads += [payload for _, payload in batch if payload is not None]
    took_s = time.perf_counter() - began
    assert count >= backlog, count
    held = sum(map(len, payloads)) / 1e6
    rows.append(
        (
            f"recover {count:,} ({size / 1e6:,.0f} MB)",
            f"{took_s:.1f} s",
            f"{count / took_s:,.0f}/s",
            f"RSS +{rss_mb() - before:.0f} MB for payloads of {held:.0f} MB",
        )
    )
    await journal.aclose()


def loop_factory(*, uvloop: bool) -> Callable[[], asyncio.AbstractEventLoop]:
    if not uvloop:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module(
        "uvloop"
    ).new_event_loop
    return factory


async def main(folder: Path, seconds: float, backlog: int) -> None:
    rows: list[Row] = []
    p50, p99 = fsync_ms(folder)
    rows.append(("fsync of 4 KiB", "", f"{p50:.2f} / {p99:.2f}", ""))
    await bench_accepts(folder, seconds, rows)
    if backlog:
        await bench_backlog(folder / "backlog", seconds, backlog, rows)
    table(("journal", "rate", "latency p50 / p99 / max ms", "commit p50 / p99 / max ms"), rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--folder", type=Path, default=Path(".cache"), help="on the disk to measure"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of each case")
    parser.add_argument("--backlog", type=int, default=1_000_000, help="0 leaves that part out")
    parser.add_argument("--uvloop", action="store_true", help="measure on uvloop")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix="bench-journal-", dir=options.folder))
    try:
        with asyncio.Runner(loop_factory=loop_factory(uvloop=options.uvloop)) as runner:
            runner.run(main(temporary, options.seconds, options.backlog))
    finally:
        shutil.rmtree(temporary)
