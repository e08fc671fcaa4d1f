"""
What the dashboard's viewers cost the sidecar: its CPU time with them less that without.

    python benchmarks/bench_dashboard.py [--viewers 10] [--rate 1000] [--seconds 10] [--rounds 5]

`dispatcher serve` with a journal on disk sends so many invocations a second to a cloud that says
202; phases with viewers and without alternate. Who asks, who looks and the cloud are other
processes. The rate that was reached is printed as well: on a machine that cannot reach it, the
CPU time an invocation is what to compare.
"""

import argparse
import asyncio
import re
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

import aiohttp
from common import PAYLOAD, account, cloud, folder, machine, run, table

BATCHES_PER_S = 20
FUNCTIONS, TENANTS = 20, 5
CONFIG = """
[server]
listen = ["127.0.0.1:0"]
[metrics]
listen = ""
[journal]
url = "sqlite:journal.db"
retention_s = 60
"""


class Phase(NamedTuple):
    """What was measured while so many looked."""

    seconds: float
    cpu_s: float
    sent: int
    pictures: int

    @property
    def cpu(self) -> float:
        """Return the CPU time of a second."""
        return self.cpu_s / self.seconds

    @property
    def rate(self) -> float:
        """Return the invocations of a second."""
        return self.sent / self.seconds


def config(url: str) -> str:
    """Return the configuration: functions and tenants enough to have something to show."""
    listed = "".join(f"[accounts.main.functions.f{number}]\n" for number in range(FUNCTIONS))
    every = '[accounts.main.functions."*"]\ncompletion = "duration"\nduration_s = 0.2\n'
    tenants = "".join(f"[accounts.main.tenants.t{number}]\n" for number in range(TENANTS))
    return CONFIG + account("main", "aws-lambda", url, quota=1000) + every + listed + tenants


class Bench:
    """A sidecar that works, and those who look at it."""

    def __init__(
        self, pid: int, session: aiohttp.ClientSession, options: argparse.Namespace
    ) -> None:
        self._pid = pid
        self._session = session
        self._rate: int = options.rate
        self._settle_s: float = options.settle
        self.pictures = 0

    def cpu_s(self) -> float:
        """Return the CPU time of the sidecar's process, all threads together."""
        whole = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(whole[11]) + int(whole[12])) / 100

    async def ended(self) -> int:
        """Return how many invocations have ended so far."""
        async with self._session.get("/metrics") as reply:
            text = await reply.text()
        counts = re.findall(r"^dispatcher_ended_total\{.*\} ([\d.e+]+)$", text, re.MULTILINE)
        return int(sum(map(float, counts)))

    async def feed(self) -> None:
        """Enqueue at the rate until cancelled, whether the last request is answered or not."""
        lines = [
            b'{"account":"main","function":"f%d","tenant":"t%d","payload":%b}'
            % (number % FUNCTIONS, number % TENANTS, PAYLOAD)
            for number in range(max(1, self._rate // BATCHES_PER_S))
        ]
        body, headers = b"\n".join(lines), {"Content-Type": "application/x-ndjson"}

        async def post() -> None:
            async with self._session.post("/v1/invocations", data=body, headers=headers) as reply:
                assert reply.status == 200, await reply.text()

        began, number = time.monotonic(), 0
        async with asyncio.TaskGroup() as posts:
            while True:
                posts.create_task(post())
                number += 1
                await asyncio.sleep(max(0.0, began + number / BATCHES_PER_S - time.monotonic()))

    async def view(self) -> None:
        """Look until cancelled."""
        async with self._session.get("/dashboard/events") as reply:
            assert reply.status == 200, await reply.text()
            async for line in reply.content:
                self.pictures += line.startswith(b"data: ")

    async def phase(self, viewers: int, seconds: float) -> Phase:
        """Measure for so many seconds while so many look."""
        watching = [asyncio.create_task(self.view()) for _ in range(viewers)]
        await asyncio.sleep(self._settle_s)
        pictures, ended = self.pictures, await self.ended()
        began, cpu_s = time.monotonic(), self.cpu_s()
        await asyncio.sleep(seconds)
        cpu_s, took_s = self.cpu_s() - cpu_s, time.monotonic() - began
        ended, pictures = await self.ended() - ended, self.pictures - pictures
        for task in watching:
            task.cancel()
        for task in watching:
            with suppress(asyncio.CancelledError):
                await task
        return Phase(took_s, cpu_s, ended, pictures)


async def measure(
    process: subprocess.Popen[str], url: str, options: argparse.Namespace
) -> list[tuple[Phase, Phase]]:
    """Return what was measured without viewers and with them, for each round."""
    found = []
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector) as session:
        bench = Bench(process.pid, session, options)
        feeding = asyncio.create_task(bench.feed())
        await asyncio.sleep(options.settle)
        for _ in range(options.rounds):
            alone = await bench.phase(0, options.seconds)
            found.append((alone, await bench.phase(options.viewers, options.seconds)))
            if feeding.done():
                await feeding
        feeding.cancel()
        with suppress(asyncio.CancelledError):
            await feeding
    return found


def show(rounds: list[tuple[Phase, Phase]], viewers: int) -> None:
    """Print the figures."""
    rows = []
    for name, phases in zip(
        ("nobody looks", f"{viewers} look"), zip(*rounds, strict=True), strict=True
    ):
        rows.append(
            (
                name,
                f"{statistics.median(phase.rate for phase in phases):.0f}",
                f"{100 * statistics.median(phase.cpu for phase in phases):.1f} %",
                f"{statistics.median(1000 * phase.cpu_s / max(1, phase.sent) for phase in phases):.3f}",
                f"{statistics.median(phase.pictures / phase.seconds for phase in phases):.1f}",
            )
        )
    head = ("sidecar", "invocations/s", "CPU of a core", "CPU ms an invocation", "pictures/s")
    table(head, rows)
    differences = [100 * (looked.cpu - alone.cpu) for alone, looked in rounds]
    print(
        f"\nviewers cost {statistics.median(differences):.1f} % of a core "
        f"({min(differences):.1f} to {max(differences):.1f})"
    )


def listening(log: IO[str]) -> str:
    """Return the address that the sidecar listens on."""
    said = ""
    for line in log:
        said += line
        if found := re.search(r'"listening".*?(127\.0\.0\.1:\d+)', line):
            return found[1]
    raise RuntimeError(f"the sidecar did not start:\n{said}")


def main() -> None:
    """Start everything, measure, end everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--viewers", type=int, default=10)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--settle", type=float, default=1.0, help="seconds before each phase")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"{machine()}\n")
    with folder() as base, cloud() as url:
        path = base / "dispatcher.toml"
        path.write_text(config(url))
        command = [sys.executable, "-m", "dispatcher", "serve", "--config", str(path)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            try:
                address = listening(process.stderr)
                rounds = run(measure, process, f"http://{address}", options)
            finally:
                process.terminate()
                process.communicate()
    show(rounds, options.viewers)


if __name__ == "__main__":
    main()
