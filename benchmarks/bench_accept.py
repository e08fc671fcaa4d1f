"""
Accepting over HTTP: single requests and NDJSON, against a bare aiohttp handler of the same JSON.

    python benchmarks/bench_accept.py [--rounds 5] [--seconds 2] [--connections 64]

Each case has a server of its own, asked by one process that writes prepared bytes and counts
answers. Rounds alternate between the cases; the table has medians of the rate and of the
server's CPU time, and how often a bare server's they are. What NDJSON gains is given twice: for one
caller that has many to hand over on its connection, and where many callers at once share commits
anyway. Last comes the time of an answer at half of the rate that was reached, asked at even times
whether or not the answers before have come. The cloud takes nothing: invocations are accepted
and wait.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import msgspec
import uvloop
from aiohttp import web
from common import table

from dispatcher.config import ServerSettings, Settings, parse
from dispatcher.core.model import Invocation, State
from dispatcher.core.views import Acceptance
from dispatcher.service import keep_out_of_collections, run_loop
from dispatcher.web import Listener, make_app
from dispatcher.wiring import open_engine, run_engine

JOB = (
    b'{"account":"cn-prod","function":"m42-ng-fc$surf2surf","tenant":"research",'
    b'"payload":{"bucket":"surveys","key":"2026/11/23/line-000042.npy","level":3,"x":[1,2,3]}}'
)
LINES = 1000
CONFIG = """
[journal]
url = "{url}"
[queue]
jobs_max = 100000000
[accounts.cn-prod]
provider = "aliyun-fc"
account_id = "1031234567890123"
region = "cn-shanghai"
quota = 300
# Nothing is sent: a made-up key, so that none is looked for, and an address where nobody is.
endpoint = "http://127.0.0.1:9"
credentials = {{ source = "static", access_key_id = "BENCH", access_key_secret_file = "secret" }}
"""
SERVERS = ("bare", "face", "memory", "sqlite")


# -- The servers --------------------------------------------------------------------------------


async def bare() -> web.AppRunner:
    """Parse the JSON and answer, with nothing in between."""

    class Job(msgspec.Struct):
        account: str
        function: str
        tenant: str = "default"
        payload: msgspec.Raw = msgspec.Raw(b"")

    decode = msgspec.json.Decoder(Job).decode

    async def accept(request: web.Request) -> web.Response:
        decode(await request.read())
        return web.Response(
            status=202,
            body=b'{"id":"i0000000000000000000000000","state":"waiting","duplicate":false}',
            content_type="application/json",
        )

    app = web.Application()
    app.router.add_post("/v1/invocations", accept)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner


async def serve(kind: str) -> None:
    """Serve until the standard input closes; say the CPU time whenever a line comes in."""
    async with contextlib.AsyncExitStack() as stack:
        if kind == "bare":
            runner = await bare()
            stack.push_async_callback(runner.cleanup)
            address = "{}:{}".format(*runner.addresses[0])
        else:
            address = await dispatcher(kind, stack)
        keep_out_of_collections()
        print(address, flush=True)
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, sys.stdin.readline):
            print(time.process_time(), flush=True)


class NoEngine:
    """Accepts everything and forgets it: what is left is the HTTP face alone."""

    _acceptance = Acceptance("i0000000000000000000000000", State.WAITING, duplicate=False)

    def enqueue(self, _: Invocation, **__: str) -> "NoEngine":
        """Be the ticket too."""
        return self

    @contextlib.contextmanager
    def batch(self, **_: str) -> "Iterator[Callable[[Invocation], NoEngine]]":
        """Be all of the tickets."""
        yield self.enqueue

    async def accepted(self) -> Acceptance:
        """Wait for nothing."""
        return self._acceptance


async def dispatcher(kind: str, stack: contextlib.AsyncExitStack) -> str:
    if kind == "face":
        app = make_app(NoEngine(), ServerSettings())
        return (await stack.enter_async_context(Listener(app, ["127.0.0.1:0"]))).addresses[0]
    folder = stack.enter_context(tempfile.TemporaryDirectory(dir="."))
    engine = await stack.enter_async_context(open_engine(settings_in(Path(folder), kind)))
    await stack.enter_async_context(run_engine(engine))
    engine.pause("cn-prod")
    listener = Listener(make_app(engine, engine.settings.server), ["127.0.0.1:0"])
    await stack.enter_async_context(listener)
    return listener.addresses[0]


def settings_in(folder: Path, kind: str) -> Settings:
    """Make what the configuration names, and read it."""
    secret = folder / "secret"
    secret.write_text("made up")
    secret.chmod(0o600)
    url = "memory:" if kind == "memory" else "sqlite:bench.db"
    return parse(CONFIG.format(url=url), base=folder.resolve())


# -- Whoever asks -------------------------------------------------------------------------------


class Asker(asyncio.Protocol):
    """One connection: writes a request, counts its answer, goes on."""

    def __init__(self, request: bytes, tally: list[float]) -> None:
        self._request = request
        self._tally = tally
        self._begun = 0.0
        self._received = bytearray()
        self._transport: asyncio.WriteTransport | None = None
        self.stopping = False
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast("asyncio.WriteTransport", transport)

    def ask(self, begun: float | None = None) -> None:
        """Write a request; *begun*: since when its answer is waited for, if not since now."""
        assert self._transport is not None
        self._begun = time.perf_counter() if begun is None else begun
        self._transport.write(self._request)

    def hang_up(self) -> None:
        """Ask nothing more."""
        assert self._transport is not None
        self._transport.close()

    def go_on(self) -> None:
        """Ask again at once, until told to stop."""
        if self.stopping:
            self.hang_up()
        else:
            self.ask()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self._received += data
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self._received.find(b"Content-Length: ", 0, head) + 16
        length = int(self._received[at : self._received.find(b"\r", at)])
        if len(self._received) < head + 4 + length:
            return
        assert self._received[9:12] in (b"202", b"200"), bytes(self._received[:2000])
        assert b'"error"' not in self._received[:4000], bytes(self._received[:2000])
        self._received.clear()
        self._tally.append(time.perf_counter() - self._begun)
        self.go_on()

    def connection_lost(self, _: Exception | None) -> None:  # noqa: D102
        self.closed.set_result(None)


async def connect(address: str, make: Callable[[], Asker], count: int) -> list[Asker]:
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(make, host, int(port)))[1] for _ in range(count)]


async def ask(address: str, request: bytes, connections: int, seconds: float) -> list[float]:
    """Ask for so long on so many connections; return how long each answer took."""
    tally: list[float] = []
    askers = await connect(address, lambda: Asker(request, tally), connections)
    for asker in askers:
        asker.ask()
    await asyncio.sleep(seconds)
    for asker in askers:
        asker.stopping = True
    await asyncio.gather(*(asker.closed for asker in askers))
    return tally


class Pacer(Asker):
    """One that asks at set times; what is late for that counts as time of the answer."""

    def __init__(self, request: bytes, tally: list[float], times: Iterator[float]) -> None:
        super().__init__(request, tally)
        self._times = times

    def go_on(self) -> None:
        """Ask when the next time has come."""
        at = next(self._times, None)
        if at is None:
            self.hang_up()
        else:
            asyncio.get_running_loop().call_later(max(0.0, at - time.perf_counter()), self.ask, at)


async def pace(
    address: str, request: bytes, connections: int, seconds: float, per_s: float
) -> list[float]:
    """Ask at even times for so long; return how long each answer took from its time on."""
    tally: list[float] = []
    count = int(per_s * seconds)
    begun = time.perf_counter() + 0.1
    times = iter([begun + number / per_s for number in range(count)])
    pacers = await connect(address, lambda: Pacer(request, tally, times), connections)
    for pacer in pacers:
        pacer.go_on()
    await asyncio.gather(*(pacer.closed for pacer in pacers))
    return tally


def p99_ms(tally: Sequence[float]) -> float:
    return sorted(tally)[int(len(tally) * 0.99)] * 1e3


def request(address: str, media: str, body: bytes) -> bytes:
    head = (
        f"POST /v1/invocations HTTP/1.1\r\nHost: {address}\r\nContent-Type: {media}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Server:
    """One of the servers, in a process of its own."""

    def __init__(self, kind: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        )
        self.address = self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def cpu_s(self) -> float:
        """Return the CPU time that it has used."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._line())

    def stop(self) -> None:
        """Close its standard input, which ends it, and wait for that."""
        self.process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--serve", choices=SERVERS)
    options = parser.parse_args()
    if options.serve:
        run_loop(serve, options.serve)
        return
    cases = cases_of(options.connections)
    servers = {name: Server(case.server) for name, case in cases.items()}
    figures: dict[str, list[tuple[float, ...]]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, case in cases.items():
            figures[name].append(measured(servers[name], case, options.seconds))
    medians = {
        name: tuple(statistics.median(column) for column in zip(*rounds, strict=True))
        for name, rounds in figures.items()
    }
    show(medians)
    half = medians["sqlite, singles"][0] / 2
    server = servers["sqlite, singles"]
    asked = request(server.address, "application/json", JOB)
    paced = [
        p99_ms(uvloop.run(pace(server.address, asked, options.connections, options.seconds, half)))
        for _ in range(options.rounds)
    ]
    print(
        f"p99 of an accept at {half:.0f} a second, half of the most: {statistics.median(paced):.1f} ms"
    )
    for each in servers.values():
        each.stop()


class Case(msgspec.Struct, frozen=True):
    """What is asked of which server, on how many connections."""

    server: str
    connections: int
    lines: int | None = None  #: None: a single one in each request


def cases_of(connections: int) -> dict[str, Case]:
    cases = {f"{kind}, singles": Case(kind, connections) for kind in SERVERS}
    cases |= {f"{kind}, NDJSON": Case(kind, 2, LINES) for kind in SERVERS[1:]}
    cases["sqlite, singles of one"] = Case("sqlite", 1)
    cases["sqlite, NDJSON of one"] = Case("sqlite", 1, LINES)
    return cases


def measured(server: Server, case: Case, seconds: float) -> tuple[float, ...]:
    """Return the rate, the server's CPU time for each in us, and the p99 of an answer in ms."""
    media, body = (
        ("application/json", JOB)
        if case.lines is None
        else ("application/x-ndjson", b"\n".join([JOB] * case.lines))
    )
    asked = request(server.address, media, body)
    cpu_s, begun = server.cpu_s(), time.perf_counter()
    tally = uvloop.run(ask(server.address, asked, case.connections, seconds))
    took_s, cpu_s = time.perf_counter() - begun, server.cpu_s() - cpu_s
    done = len(tally) * (case.lines or 1)
    return done / took_s, cpu_s / done * 1e6, p99_ms(tally)


def show(medians: Mapping[str, tuple[float, ...]]) -> None:
    """Print the table, and what NDJSON is of singles."""
    rate, cpu_us, _ = medians["bare, singles"]
    table(
        ("case", "per s", "of bare", "CPU us", "of bare", "p99 ms"),
        [
            (
                name,
                f"{each[0]:.0f}",
                f"{each[0] / rate:.2f}",
                f"{each[1]:.1f}",
                f"{cpu_us / each[1]:.2f}",
                f"{each[2]:.1f}",
            )
            for name, each in medians.items()
        ],
    )
    for kind, callers in (*((kind, "") for kind in SERVERS[1:]), ("sqlite", " of one")):
        many, one = medians[f"{kind}, NDJSON{callers}"], medians[f"{kind}, singles{callers}"]
        print(
            f"{kind}: NDJSON {many[0] / one[0]:.1f} x singles{callers} by rate,"
            f" {one[1] / many[1]:.1f} by CPU"
        )


if __name__ == "__main__":
    main()
