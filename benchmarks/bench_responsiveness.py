"""
How long the event loop is busy with one thing, while everything happens that comes at once.

    python benchmarks/bench_responsiveness.py [--backlog 1000000] [--scale 1.0] [--only words]

An engine with a journal on disk, its HTTP API and its metrics run on one loop, as in `dispatcher
serve`; whoever asks, and the cloud, are processes of their own. Beside each scene a timer
of 1 ms measures how late the loop comes to it, and an invocation is enqueued every 2 ms. Of the
loop's longest turn the CPU time of its thread is what the code is to blame for; the time by the
clock adds what other threads and other programs took of the machine meanwhile.
"""

import argparse
import asyncio
import gc
import http.client
import multiprocessing
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
from common import account, cloud, folder, machine, run, settings, table

from dispatcher.config import Settings
from dispatcher.core.model import Completion, Invocation, Query, Source, State, Verdict, Watched
from dispatcher.engine import Engine, Ticket
from dispatcher.errors import Rejected
from dispatcher.journals import open_journal
from dispatcher.metrics import make_registry, render
from dispatcher.ports import Report
from dispatcher.service import (
    SWITCH_INTERVAL_S,
    keep_backlog_out_of_collections,
    keep_out_of_collections,
)
from dispatcher.transports import open_transport
from dispatcher.web import Listener, make_app
from dispatcher.wiring import run_engine

TICK_S = 0.001
ENQUEUE_EVERY_S = 0.002
#: Invocations that a scene enqueues in one turn of the loop, and before it waits for the journal.
AT_ONCE, IN_ALL = 100, 5000
PAYLOAD = b'{"bucket": "surveys", "key": "2026/11/23/line-000042.npy", "level": 3}'
NOBODY = "http://127.0.0.1:9"


def config(cloud_url: str, *, wide: int = 10, functions: int = 1000) -> str:
    """Return the configuration of all scenes; *wide* is the quota of the account to be widened."""
    listed = "".join(
        f'[accounts.broad.functions.f{number}]\ncompletion = "duration"\nduration_s = 5\n'
        f"[accounts.broad.tenants.t{number}]\nweight = {1 + number % 7}\n"
        for number in range(functions)
    )
    return (
        '[journal]\nurl = "sqlite:journal.db"\n'
        "[queue]\njobs_max = 100000000\nbytes_max = 67108864\n"
        + account("main", "aliyun-fc", NOBODY, quota=300)
        + account("broad", "aliyun-fc", NOBODY, quota=300)
        + account("tasks", "aliyun-fc", cloud_url, quota=100_000)
        + '[accounts.tasks.functions."*"]\ncompletion = "task"\nduration_s = 0.5\n'
        + account("wide", "aws-lambda", cloud_url, quota=wide, requests_max=1000)
        + '[accounts.wide.functions."*"]\ncompletion = "duration"\nduration_s = 3600\nhold_max_s = 7200\n'
        + listed
    )


# -- What is measured -----------------------------------------------------------------------------


class Watch:
    """The loop's turns, and what callers of `enqueue` see, from `start` to `stop`."""

    def __init__(self, enqueue: Callable[[], Ticket] | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._enqueue = enqueue
        self._timer: asyncio.TimerHandle | None = None
        self._wall_s = self._cpu_s = self._next_s = 0.0
        self.turns_s: list[float] = []  #: CPU time of the loop's thread between two ticks
        self.late_s: list[float] = []  #: how late a tick came
        self.enqueue_s: list[float] = []
        self.accept_s: list[float] = []
        self._waiting: set[asyncio.Task[None]] = set()
        self._collecting_s = 0.0
        self.collections_s = [0.0]  #: pauses of the garbage collector, in any thread

    def start(self) -> None:
        """Begin."""
        gc.callbacks.append(self._collects)
        self._wall_s, self._cpu_s = time.perf_counter(), time.thread_time()
        self._timer = self._loop.call_later(TICK_S, self._tick)

    async def stop(self) -> None:
        """End, with the last turn measured too."""
        await asyncio.sleep(2 * TICK_S)
        assert self._timer is not None
        self._timer.cancel()
        gc.callbacks.remove(self._collects)
        for task in list(self._waiting):
            with suppress(Rejected):
                await task

    def _collects(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._collecting_s = time.thread_time()
        else:
            self.collections_s.append(time.thread_time() - self._collecting_s)

    def _tick(self) -> None:
        wall_s, cpu_s = time.perf_counter(), time.thread_time()
        self.late_s.append(max(0.0, wall_s - self._wall_s - TICK_S))
        self.turns_s.append(cpu_s - self._cpu_s)
        if self._enqueue is not None and wall_s >= self._next_s:
            self._next_s = wall_s + ENQUEUE_EVERY_S
            ticket = self._enqueue()
            self.enqueue_s.append(time.perf_counter() - wall_s)
            task = self._loop.create_task(self._accepted(ticket, wall_s))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)
        # The work of the watch itself is not counted.
        self._wall_s, self._cpu_s = time.perf_counter(), time.thread_time()
        self._timer = self._loop.call_later(TICK_S, self._tick)

    async def _accepted(self, ticket: Ticket, since_s: float) -> None:
        await ticket.accepted()
        self.accept_s.append(time.perf_counter() - since_s)

    def row(self, name: str, took_s: float) -> list[str]:
        """Return the line of the table."""
        return [
            name,
            f"{took_s:.2f}",
            f"{max(self.turns_s) * 1000:.1f}",
            f"{max(self.collections_s) * 1000:.1f}",
            f"{max(self.late_s) * 1000:.1f}",
            f"{_p99(self.late_s) * 1000:.1f}",
            f"{_p99(self.enqueue_s) * 1e6:.0f}" if self.enqueue_s else "",
            f"{_p99(self.accept_s) * 1000:.1f}" if self.accept_s else "",
        ]


def _p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


HEAD = (
    *("scene", "took s", "longest turn, CPU ms", "of it gc"),
    *("latest tick ms", "p99 tick ms"),
    *("p99 enqueue us", "p99 accepted ms"),
)


# -- Whoever asks over HTTP -----------------------------------------------------------------------


class Asker:
    """A process that makes HTTP requests for this one."""

    def __init__(self, address: str) -> None:
        """Start it; it asks at *address*."""
        self._ours, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_ask, args=(theirs, address)
        )
        self._process.start()

    async def __call__(self, method: str, path: str, body: bytes = b"", kind: str = "") -> bytes:
        """Make one request and return the body of its answer."""
        self._ours.send((method, path, body, kind))
        status, answer = await asyncio.to_thread(self._ours.recv)
        assert status in (200, 202), answer[:1000]
        return bytes(answer)

    def end(self) -> None:
        """End it."""
        self._ours.send(None)
        self._process.join(10)


def _ask(pipe: Any, address: str) -> None:
    connection = http.client.HTTPConnection(address)
    while (wanted := pipe.recv()) is not None:
        method, path, body, kind = wanted
        headers = {"Content-Type": kind} if kind else {}
        connection.request(method, path, body or None, headers)
        reply = connection.getresponse()
        pipe.send((reply.status, reply.read()))


class Teller:
    """A tracker that is told the ends by the benchmark."""

    def __init__(self) -> None:
        self.report: Report
        self.watched: list[str] = []

    async def run(self, report: Report) -> None:
        """Hand the report over and do nothing."""
        self.report = report
        await anyio.sleep_forever()

    def watch(self, watched: Watched) -> None:
        """Note what runs."""
        self.watched.append(watched.id)

    def forget(self, invocation_id: str) -> None:
        """Forget nothing: ids are taken out of `watched` at once."""

    def hurry(self, invocation_id: str) -> None:
        """Never hurry."""


# -- The scenes -----------------------------------------------------------------------------------


class Stage:
    """A running engine and everything around it."""

    def __init__(
        self, text: Settings, engine: Engine, teller: Teller, ask: Asker, scale: float
    ) -> None:
        self.settings = text
        self.engine = engine
        self.teller = teller
        self.ask = ask
        self.scale = scale
        self.some: list[str] = []  #: ids of waiting invocations
        self._number = 0

    def times(self, count: int) -> int:
        """Return a count by the scale of this run."""
        return max(100, int(count * self.scale))

    def invocation(self, **fields: Any) -> Invocation:
        """Return one for the account that sends nothing."""
        self._number += 1
        number = self._number
        return Invocation(
            **{
                "account": "main",
                "function": f"f{number % 8}",
                "tenant": f"team-{number % 5}",
                "payload": PAYLOAD,
                **fields,
            }
        )

    def enqueue(self) -> Ticket:
        """Enqueue one that waits."""
        return self.engine.enqueue(self.invocation())

    async def enqueue_all(self, count: int, **fields: Any) -> list[str]:
        """Enqueue so many, a few in each turn of the loop, and wait until all are accepted."""
        ids: list[str] = []
        tickets: list[Ticket] = []
        for number in range(1, count + 1):
            tickets.append(self.engine.enqueue(self.invocation(**fields)))
            if number % AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()
            if number % IN_ALL == 0 or number == count:
                ids += [(await ticket.accepted()).id for ticket in tickets]
                tickets.clear()
        return ids

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait until something is so."""
        with anyio.fail_after(300):
            while not done():  # noqa: ASYNC110 -- nobody sets an event
                await anyio.sleep(0.01)

    @property
    def held(self) -> int:
        """Return how many invocations hold a slot in the account of tasks."""
        return self.engine.account("tasks").in_use


Scene = Callable[[Stage], Awaitable[None]]


async def idle(stage: Stage) -> None:
    """Nothing but the invocations of the watch."""
    await anyio.sleep(2 * stage.scale)


async def metrics(stage: Stage) -> None:
    """`/metrics` with 10 000 series, 5 times."""
    ended = stage.engine.machine.counters.ended
    for number in range(stage.times(8000)):
        ended["broad", f"f{number % 1000}", f"t{number // 1000}", State.SUCCEEDED] += 1
    for _ in range(5):
        page = await stage.ask("GET", "/metrics")
    series = sum(not line.startswith(b"#") for line in page.splitlines())
    assert series >= 10_000 * min(1.0, stage.scale), series


async def listing(stage: Stage) -> None:
    """20 pages of 1000 invocations, and 20 that a filter must look for."""
    for query in ("", "&function=f3&tenant=team-2"):
        cursor = ""
        for _ in range(20):
            page = msgspec.json.decode(
                await stage.ask("GET", f"/v1/invocations?limit=1000{query}{cursor}")
            )
            if page["next"] is None:
                break
            cursor = f"&after={page['next']}"


async def account_view(stage: Stage) -> None:
    """The account of 1000 functions and 1000 tenants, and all accounts, 10 times."""
    for _ in range(10):
        await stage.ask("GET", "/v1/accounts/broad")
        await stage.ask("GET", "/v1/accounts")


async def ahead(stage: Stage) -> None:
    """Look 10 invocations up, with how many are ahead of each."""
    for number in range(10):
        await stage.ask("GET", f"/v1/invocations/{stage.some[number * 17]}")


async def lines(stage: Stage) -> None:
    """10 000 lines of NDJSON in one request, 3 times."""
    job = msgspec.json.encode(
        {
            "account": "main",
            "function": "f1",
            "tenant": "team-1",
            "payload": msgspec.Raw(PAYLOAD),
        }
    )
    body = b"\n".join([job] * stage.times(10_000))
    for _ in range(3):
        await stage.ask("POST", "/v1/invocations", body, "application/x-ndjson")


async def cancel_all(stage: Stage, ids: list[str]) -> None:
    """Cancel all of *ids*, in their order, 256 at any time."""
    left = iter(ids)

    async def cancel() -> None:
        for one in left:
            await stage.engine.cancel(one)

    async with anyio.create_task_group() as tasks:
        for _ in range(256):
            tasks.start_soon(cancel)


async def cancels(stage: Stage) -> None:
    """10 000 cancelled."""
    await cancel_all(stage, stage.some[1000 : 1000 + stage.times(10_000)])


async def most_cancelled(stage: Stage) -> None:
    """60 % of one function's backlog cancelled."""
    count = stage.times(100_000)
    ids = await stage.enqueue_all(count, function="doomed", tenant="doomed")
    await cancel_all(stage, ids[: count * 6 // 10])


async def cancelled_behind(stage: Stage) -> None:
    """45 % of one function's backlog cancelled, and at last the one that stood before them all."""
    count = stage.times(100_000)
    ids = await stage.enqueue_all(count, function="behind", tenant="behind")
    await cancel_all(stage, ids[1 : count * 45 // 100])
    await stage.engine.cancel(ids[0])
    await anyio.sleep(0.2)


async def expiry(stage: Stage) -> None:
    """100 000 that expire at the same instant, after they were enqueued."""
    count = stage.times(100_000)
    at_s = time.time() + 0.5 + count / 10_000
    done = 0
    while done < count:
        left_s = max(0.01, at_s - time.time())
        done += len(await stage.enqueue_all(IN_ALL, function="soon", expires_s=left_s))
    key = ("main", "soon", "other", State.EXPIRED)
    ended = stage.engine.machine.counters.ended
    await stage.until(lambda: ended[key] >= count)


async def launches(stage: Stage) -> None:
    """10 000 that may all go at once, over HTTP to the cloud."""
    count = stage.times(10_000)
    await stage.enqueue_all(count, account="tasks", function="f")
    await stage.until(lambda: len(stage.teller.watched) == count)


async def failures(stage: Stage) -> None:
    """10 000 that run are told to have failed, 100 at a time."""
    running = stage.teller.watched
    stage.teller.watched = []
    for start in range(0, len(running), 100):
        for one in running[start : start + 100]:
            stage.teller.report(Completion(id=one, verdict=Verdict.FAILED), None)
        await anyio.lowlevel.checkpoint()
    await stage.engine.durable()
    await stage.until(lambda: stage.held == 0)


async def redrive(stage: Stage) -> None:
    """10 000 dead ones are redriven, and sent again."""
    count = await stage.engine.redrive_dead(Query(account="tasks"))
    assert count >= stage.times(10_000), count
    await stage.until(lambda: len(stage.teller.watched) == count)


async def ends(stage: Stage) -> None:
    """10 000 estimated ends at the same instant."""
    # What runs was sent more than its duration ago, so all of it ends now.
    await anyio.sleep(0.6)
    stage.engine.tracking_changed("tasks", "f", None, "for the benchmark")
    await stage.until(lambda: stage.held == 0)
    stage.engine.tracking_changed("tasks", "f", None, None)


def _wider(stage: Stage, quota: int) -> Settings:
    accounts = dict(stage.settings.accounts)
    accounts["wide"] = msgspec.structs.replace(accounts["wide"], quota=quota)
    return msgspec.structs.replace(stage.settings, accounts=accounts)


async def widening(stage: Stage) -> None:
    """A quota that grows by 1000, with 2000 waiting for it."""
    await stage.enqueue_all(2 * stage.times(1000), account="wide", function="f")
    stage.settings = _wider(stage, 10 + stage.times(1000))
    stage.engine.reconfigure(stage.settings)
    await stage.until(lambda: stage.engine.account("wide").in_use == 10 + stage.times(1000))
    await stage.until(lambda: stage.engine.machine.accounts["wide"].gate.requests == 0)


async def hot_reload(stage: Stage) -> None:
    """New rules for 1000 functions and 1000 tenants, 3 times."""
    for _ in range(3):
        stage.engine.reconfigure(stage.settings)
        await anyio.sleep(0.05)


SCENES: tuple[tuple[str, Scene], ...] = (
    ("nothing", idle),
    ("/metrics, 10 000 series", metrics),
    ("40 pages of 1000", listing),
    ("/v1/accounts, 1000 functions and tenants", account_view),
    ("get with how many are ahead", ahead),
    ("NDJSON, 10 000 lines", lines),
    ("10 000 cancels", cancels),
    ("60 000 of 100 000 cancelled", most_cancelled),
    ("45 000 cancelled behind one that goes", cancelled_behind),
    ("100 000 enqueued, expire at once", expiry),
    ("10 000 sends", launches),
    ("10 000 failures told", failures),
    ("10 000 dead redriven and sent", redrive),
    ("10 000 estimated ends at once", ends),
    ("quota + 1000", widening),
    ("hot reload, 1000 functions and tenants", hot_reload),
)


# -- Running --------------------------------------------------------------------------------------


@asynccontextmanager
async def engine_of(given: Settings, teller: Teller) -> AsyncIterator[Engine]:
    """Open an engine as `dispatcher serve` does, but with a tracker that we tell the ends."""
    async with AsyncExitStack() as stack:
        journal = await open_journal(given.journal, bytes_max=given.queue.bytes_max)
        stack.push_async_callback(journal.aclose)
        transports = {}
        for name, one in given.accounts.items():
            transports[name] = await open_transport(one, name=name)
            stack.push_async_callback(transports[name].aclose)
        trackers = {"tasks": {Source.TASK: teller}}
        engine = Engine(given, journal=journal, transports=transports, trackers=trackers)
        keep_out_of_collections()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_backlog_out_of_collections, lambda: len(engine.machine.jobs))
            yield engine
            tasks.cancel_scope.cancel()


async def watched(name: str, scene: Awaitable[None], watch: Watch) -> list[str]:
    watch.start()
    began_s = time.perf_counter()
    try:
        await scene
        took_s = time.perf_counter() - began_s
    finally:
        await watch.stop()
    print(f"  {name}: {took_s:.1f} s", file=sys.stderr, flush=True)
    return watch.row(name, took_s)


async def perform(base: Path, cloud_url: str, options: argparse.Namespace) -> None:
    given = settings(config(cloud_url), base)
    rows: list[list[str]] = []
    teller = Teller()
    async with engine_of(given, teller) as engine, run_engine(engine):
        engine.pause("main")
        engine.pause("broad")
        registry = make_registry(engine.statistics)
        app = make_app(engine, given.server, metrics=lambda accept: render(registry, accept))
        async with Listener(app, ["127.0.0.1:0"]) as listener:
            ask = Asker(listener.addresses[0])
            stage = Stage(given, engine, teller, ask, options.scale)
            try:
                fill = stage.enqueue_all(options.backlog)

                for number in range(1000):
                    one = stage.invocation(
                        account="broad", function=f"f{number}", tenant=f"t{number}"
                    )
                    engine.enqueue(one)

                async def filled() -> None:
                    stage.some = (await fill)[-20_000:]

                name = f"{options.backlog} enqueued"
                rows.append(await watched(name, filled(), Watch(None)))
                for name, scene in SCENES:
                    if not options.only or any(word in name for word in options.only):
                        rows.append(await watched(name, scene(stage), Watch(stage.enqueue)))
            finally:
                ask.end()
        lag = engine.statistics().loop_lag_s
    await recovery(given, rows)
    table(HEAD, rows)
    late = sum(lag.counts[lag.bounds.index(0.01) + 1 :])
    print(f"dispatcher_loop_lag_seconds: {late} of {sum(lag.counts)} above 10 ms")


async def recovery(given: Settings, rows: list[list[str]]) -> None:
    """Start again on the same journal."""
    async with engine_of(given, Teller()) as engine:
        engine.pause("main")
        async with AsyncExitStack() as stack:

            async def recover() -> None:
                await stack.enter_async_context(run_engine(engine))

            rows.append(await watched("recovery of it all", recover(), Watch(None)))
            rows[-1][0] = f"recovery of {len(engine.machine.jobs)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--backlog", type=int, default=1_000_000, help="how many wait meanwhile")
    parser.add_argument("--scale", type=float, default=1.0, help="of the scenes")
    parser.add_argument("--only", nargs="*", help="words of the names of the scenes wanted")
    options = parser.parse_args()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    print(f"{machine()}; {options.backlog} waiting", flush=True)
    with folder() as base, cloud() as url:
        run(perform, base, url, options)


if __name__ == "__main__":
    main()
