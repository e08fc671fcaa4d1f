"""What the benchmarks share: a cloud that says 202, rounds that alternate, and the table."""

import asyncio
import contextlib
import importlib.util
import logging
import multiprocessing
import platform
import ssl
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec
from aiohttp import web

from dispatcher.config import Settings, parse
from dispatcher.service import keep_out_of_collections

PAYLOAD = b'{"image": "0123456789abcdef", "size": [1024, 768]}'

Contender = Callable[[int], Awaitable[None]]
"""Makes so many calls and returns when the last one is over."""


def uvloop_is_there() -> bool:
    """Tell whether the loops are uvloop's; those of a contest are all of one kind."""
    return importlib.util.find_spec("uvloop") is not None


def run(function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Run *function* on the loop that `dispatcher serve` would have."""
    logging.getLogger("dispatcher").setLevel(logging.CRITICAL)  # what it says is no news here
    return anyio.run(function, *args, backend_options={"use_uvloop": uvloop_is_there()})


def machine() -> str:
    """Return what a reader must know of where this ran."""
    loop = "uvloop" if uvloop_is_there() else "asyncio"
    return f"Python {platform.python_version()}, {loop}, {_processors()}"


def _processors() -> str:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{len(models)} x {models[0]}" if models else platform.machine()


# -- The cloud ------------------------------------------------------------------------------------


@contextlib.contextmanager
def cloud(tls: tuple[Path, Path] | None = None) -> Iterator[str]:
    """
    Run a server that takes every invocation, in a process of its own; give its URL.

    *tls* is a certificate and its key. It answers as both clouds do: 202 and a request id.
    """
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, tls))
    server.start()
    try:
        scheme = "http" if tls is None else "https"
        yield f"{scheme}://127.0.0.1:{ours.recv()}"
    finally:
        ours.send("end")
        server.join(10)


def _serve(pipe: Any, tls: tuple[Path, Path] | None) -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response(
            status=202, headers={"x-amzn-RequestId": "r-1", "X-Fc-Request-Id": "r-1"}
        )

    async def main() -> None:
        context = None
        if tls is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*tls)
        runner = web.ServerRunner(web.Server(answer, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        pipe.send(runner.addresses[0][1])
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        await runner.cleanup()

    run(main)


# -- Settings -------------------------------------------------------------------------------------


@contextlib.contextmanager
def folder(parent: Path = Path(".cache")) -> Iterator[Path]:
    """Give a new folder on the disk of *parent* with a made-up secret in it, and remove it."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=parent) as name:
        secret = Path(name) / "secret"
        secret.write_text("made up\n")
        secret.chmod(0o600)
        yield Path(name).resolve()


def account(name: str, provider: str, endpoint: str, **keys: object) -> str:
    """Return the TOML of an account; *keys* are added to what every one needs."""
    return f"""
[accounts.{name}]
provider = "{provider}"
account_id = "{_account_id(name)}"
region = "us-east-1"
endpoint = "{endpoint}"
credentials = {{ source = "static", access_key_id = "AK", access_key_secret_file = "secret" }}
""" + "".join(f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in keys.items())


def _account_id(name: str) -> str:
    """Return twelve digits that no other name has: who shares an id shares a quota."""
    return f"{zlib.crc32(name.encode()):012d}"


def settings(text: str, base: Path) -> Settings:
    """Read TOML as if it stood in *base*, a `folder`."""
    return parse(text, base=base)


# -- Rounds ---------------------------------------------------------------------------------------


class Figures:
    """What each contender took, round by round."""

    def __init__(self, names: Sequence[str]) -> None:
        self._cpu_s: dict[str, list[float]] = {name: [] for name in names}
        self._wall_s: dict[str, list[float]] = {name: [] for name in names}

    def add(self, name: str, cpu_s: float, wall_s: float) -> None:
        """Take what one call took in one round."""
        self._cpu_s[name].append(cpu_s)
        self._wall_s[name].append(wall_s)

    def cpu_ms(self, name: str) -> float:
        """Return the median CPU time of a call, in milliseconds."""
        return statistics.median(self._cpu_s[name]) * 1000

    def per_s(self, name: str) -> float:
        """Return the median rate, by the clock."""
        return 1 / statistics.median(self._wall_s[name])

    def times(self, name: str, base: str) -> float:
        """Return how many calls *name* makes per CPU-second where *base* makes one."""
        return self.cpu_ms(base) / self.cpu_ms(name)


async def alternate(
    contenders: Mapping[str, Contender], calls: Mapping[str, int], rounds: int
) -> Figures:
    """
    Let all contenders run in turn, so often; the first round warms up and does not count.

    What is measured is the CPU time of this process. What is there after the first round is kept
    out of collections, as `dispatcher serve` does: each would look at what all contenders have
    loaded, and be paid for by the one whose turn it happens to be.
    """
    figures = Figures(list(contenders))
    for number in range(rounds + 1):
        if number == 1:
            keep_out_of_collections()
        for name, contender in contenders.items():
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            await contender(calls[name])
            if number:
                figures.add(
                    name,
                    (time.process_time() - began_cpu_s) / calls[name],
                    (time.perf_counter() - began_s) / calls[name],
                )
    return figures


async def at_once(count: int, calls: int, one: Callable[[], Awaitable[None]]) -> None:
    """Make *calls* calls of *one*, *count* of them at any time."""
    left = iter(range(calls))

    async def work() -> None:
        for _ in left:
            await one()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(count):
            tasks.create_task(work())


# -- The table ------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, in Markdown, so that it can go into a document as it is."""
    cells = [list(head), *map(list, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join([first, *others])} |"

    print(line(cells[0]))
    print(
        "|"
        + "|".join("-" * (width + 1) + ("-" if not i else ":") for i, width in enumerate(widths))
        + "|"
    )
    for row in cells[1:]:
        print(line(row))
    sys.stdout.flush()
