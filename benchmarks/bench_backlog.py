"""
A sidecar with a large backlog: memory, restart, and whether callers notice, over HTTP.

    python benchmarks/bench_backlog.py [--backlog 1000000] [--seconds 3] [--folder .cache]

The invocations have payloads of 1 KiB and wait for a cloud that takes nothing. Payloads stay in
the journal beyond `queue.bytes_max` (--bytes-max, 16 MiB). The journal in memory is measured
first, then SQLite: empty, with the backlog, and after kill -9 and a restart.
"""

import argparse
import asyncio
import itertools
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIG = """
[server]
listen = ["127.0.0.1:0"]
[metrics]
listen = "127.0.0.1:0"
[journal]
url = "{url}"
[queue]
jobs_max = 10000000
bytes_max = {bytes_max}
[accounts.cn-prod]
provider = "aliyun-fc"
account_id = "1031234567890123"
region = "cn-shanghai"
quota = 1
# Nothing is sent: a made-up key, so that none is looked for, and an address where nobody is.
endpoint = "http://127.0.0.1:9"
credentials = {{ source = "static", access_key_id = "BENCH", access_key_secret_file = "secret" }}
"""
CALLERS = 16
LINES = 5000
PAYLOAD_BYTES = 1024

_numbers = itertools.count()


def job() -> bytes:
    number = next(_numbers)
    frame = json.dumps({"n": number, "filler": ""}, separators=(",", ":"))
    return json.dumps(
        {
            "account": "cn-prod",
            "function": f"f{number % 8}",
            "tenant": f"team-{number % 5}",
            "payload": {"n": number, "filler": "x" * (PAYLOAD_BYTES - len(frame))},
        }
    ).encode()


# -- The sidecar ----------------------------------------------------------------------------------


class Sidecar:
    """`dispatcher serve` in a process of its own."""

    def __init__(self, config: Path) -> None:
        """Start it, and wait until it is ready."""
        log = config.with_name("log")
        offset = log.stat().st_size if log.exists() else 0
        began = time.monotonic()
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dispatcher", "serve", "-c", str(config), "--log", "json"],
                stderr=sink,
            )
        while not (found := re.search(rb'"ready", "mess', log.read_bytes()[offset:])):
            if self.process.poll() is not None:
                raise SystemExit(log.read_text()[-2000:])
            time.sleep(0.01)
        self.ready_s = time.monotonic() - began
        found = re.search(rb'"listening", "message": "([0-9.]+):(\d+)', log.read_bytes()[offset:])
        assert found is not None
        self.address = found[1].decode(), int(found[2])

    def memory_mb(self, key: str = "VmRSS") -> float:
        """Return its resident memory in millions of bytes; `VmHWM` is the most it ever had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{key}:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024 / 1e6

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def sidecar(config: Path) -> Iterator[Sidecar]:
    one = Sidecar(config)
    try:
        yield one
    finally:
        one.kill()


# -- Its callers ----------------------------------------------------------------------------------


async def post(
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], body: bytes, kind: str
) -> tuple[int, bytes]:
    reader, writer = streams
    head = (
        f"POST /v1/invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/{kind}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    status = int(answer.split(b" ", 2)[1])
    length = re.search(rb"content-length: (\d+)", answer.lower())
    if length is not None:
        return status, await reader.readexactly(int(length[1]))
    text = b""
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        text += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return status, text


async def call_for(address: tuple[str, int], seconds: float) -> list[float]:
    """Enqueue one at a time from many callers; return how long each call took."""
    took: list[float] = []
    until = time.monotonic() + seconds

    async def caller() -> None:
        streams = await asyncio.open_connection(*address)
        while (began := time.monotonic()) < until:
            status, text = await post(streams, job(), "json")
            assert status == 202, text
            took.append(time.monotonic() - began)
        streams[1].close()

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return took


async def fill(address: tuple[str, int], count: int) -> float:
    """Enqueue *count* as lines; return how long it took."""
    began = time.monotonic()
    streams = await asyncio.open_connection(*address)
    for _ in range(count // LINES):
        status, text = await post(streams, b"\n".join(job() for _ in range(LINES)), "x-ndjson")
        assert status == 200, text[:500]
        assert text.count(b'"id"') == LINES, text[:500]
    streams[1].close()
    return time.monotonic() - began


def measure(name: str, one: Sidecar, seconds: float) -> float:
    """Print what callers see; return the calls per second."""
    took = sorted(asyncio.run(call_for(one.address, seconds)))
    rate = len(took) / seconds
    print(
        f"{name:28} {rate:7.0f} accepts/s   p50 {statistics.median(took) * 1000:6.2f} ms   "
        f"p99 {took[len(took) * 99 // 100] * 1000:6.2f} ms   max {took[-1] * 1000:6.1f} ms   "
        f"{one.memory_mb():5.0f} MB",
        flush=True,
    )
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1] if __doc__ else "")
    parser.add_argument("--backlog", type=int, default=1_000_000)
    parser.add_argument("--bytes-max", type=int, default=16 * 1024 * 1024)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--folder", type=Path, default=Path(".cache"))
    given = parser.parse_args()
    given.folder.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=given.folder, prefix="backlog-"))
    try:
        run(folder, given)
    finally:
        shutil.rmtree(folder)


def run(folder: Path, given: argparse.Namespace) -> None:
    secret = folder / "secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)
    config = folder / "dispatcher.toml"
    config.write_text(CONFIG.format(url="memory:", bytes_max=1 << 30))
    with sidecar(config) as one:
        in_memory = measure("memory, empty", one, given.seconds)
    config.write_text(CONFIG.format(url="sqlite:journal.db", bytes_max=given.bytes_max))
    with sidecar(config) as one:
        measure("sqlite, empty", one, 1.0)  # what the first calls cost is not the question
        on_disk = measure("sqlite, empty", one, given.seconds)
        took_s = asyncio.run(fill(one.address, given.backlog))
        print(
            f"filled with {given.backlog} in {took_s:.0f} s: {one.memory_mb():.0f} MB resident, "
            f"journal {sum(path.stat().st_size for path in folder.glob('journal.db*')) / 1e6:.0f} MB"
        )
        full = measure("sqlite, with the backlog", one, given.seconds)
    with sidecar(config) as one:
        print(
            f"kill -9 and restart: ready after {one.ready_s:.1f} s, {one.memory_mb():.0f} MB "
            f"resident (at most {one.memory_mb('VmHWM'):.0f} MB)"
        )
        again = measure("sqlite, after the restart", one, given.seconds)
    print(
        f"sqlite / memory {on_disk / in_memory:.2f}; with the backlog / empty {full / on_disk:.2f}; "
        f"after the restart / empty {again / on_disk:.2f}"
    )


if __name__ == "__main__":
    main()
