"""
What the Lambda endpoint costs beside `POST /v1/invocations`: the CPU time of the sidecar a request.

    python benchmarks/bench_ingress.py [--rounds 5] [--requests 6000] [--connections 32]

Both accept the same job into the same journal. Requests to the Lambda endpoint are as boto3 sends
them, each signed by itself with an id of its own, so each is verified and remembered; signing is
done beforehand. The id is a key: what the journal does for it, it does for an idempotency key as well.
Rounds alternate. The cloud takes nothing: invocations are accepted and wait.
"""

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import uvloop
from common import table

from dispatcher.config import parse
from dispatcher.service import keep_out_of_collections, run_loop
from dispatcher.transports import signing
from dispatcher.web import Clients, IngressLambda, Listener, make_app
from dispatcher.wiring import open_engine, run_engine

PAYLOAD = b'{"bucket":"surveys","key":"2026/11/23/line-000042.npy","level":3,"x":[1,2,3]}'
CONFIG = """
[journal]
url = "{url}"
[queue]
jobs_max = 100000000
[accounts.aws]
provider = "aws-lambda"
account_id = "123456789012"
region = "eu-west-1"
quota = 300
# Nothing is sent: a made-up key, so that none is looked for, and an address where nobody is.
endpoint = "http://127.0.0.1:9"
credentials = {{ source = "static", access_key_id = "BENCH", access_key_secret_file = "secret" }}
functions."*" = {{ duration_s = 1 }}
[clients.bench]
access_key_id = "BENCH"
access_key_secret_file = "secret"
account = "aws"
tenant = "research"
"""
SECRET = "made up"


async def serve(url: str) -> None:
    """Serve until the standard input closes; say the CPU time whenever a line comes in."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path.cwd() / stack.enter_context(tempfile.TemporaryDirectory(dir="."))
        (folder / "secret").write_text(SECRET)
        (folder / "secret").chmod(0o600)
        settings = parse(CONFIG.format(url=url), base=folder)
        engine = await stack.enter_async_context(open_engine(settings))
        await stack.enter_async_context(run_engine(engine))
        engine.pause("aws")
        clients = Clients()
        clients.take(settings, await clients.read(settings))
        more = IngressLambda(engine, clients).routes()
        listener = Listener(make_app(engine, settings.server, more_routes=more), ["127.0.0.1:0"])
        await stack.enter_async_context(listener)
        keep_out_of_collections()
        print(listener.addresses[0], flush=True)
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, sys.stdin.readline):
            print(time.process_time(), flush=True)


# -- Whoever asks -------------------------------------------------------------------------------


def to_api(address: str, *, keyed: bool) -> Iterator[bytes]:
    """Give requests to the HTTP API, with an idempotency key each or without."""
    while True:
        key = f',"idempotency_key":"{uuid.uuid4()}"' if keyed else ""
        body = b'{"account":"aws","function":"resize","tenant":"research"%s,"payload":%s}' % (
            key.encode(),
            PAYLOAD,
        )
        head = (
            f"POST /v1/invocations HTTP/1.1\r\nHost: {address}\r\nAccept-Encoding: identity\r\n"
            f"User-Agent: bench\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        yield head.encode() + body


def to_lambda(address: str, *, sdk_id: bool) -> Iterator[bytes]:
    """Give requests as boto3 writes them, or as a client does that has no ids of its own."""
    digest = hashlib.sha256(PAYLOAD).hexdigest()
    path = "/2015-03-31/functions/resize/invocations"
    for number in itertools.count():
        moment = signing.sigv4_time(int(time.time()))
        signed = [("host", address), ("x-amz-date", moment), ("x-amz-invocation-type", "Event")]
        if sdk_id:
            signed.insert(0, ("amz-sdk-invocation-id", str(uuid.uuid4())))
            signed.insert(1, ("amz-sdk-request", "attempt=1; max=3"))
        else:
            signed.append(("x-amz-tenant-id", str(number)))  # so that no two are the same
        text = signing.canonical_request("POST", signing.sigv4_path(path), "", signed, digest)
        signature = signing.sigv4_signature(SECRET, moment, "eu-west-1", "lambda", text)
        names = signing.signed_names(signed)
        proof = signing.sigv4_authorization(
            "BENCH", moment, "eu-west-1", "lambda", names, signature
        )
        lines = "".join(f"{name}: {value}\r\n" for name, value in signed)
        head = (
            f"POST {path} HTTP/1.1\r\n{lines}Accept-Encoding: identity\r\nUser-Agent: bench\r\n"
            f"Authorization: {proof}\r\nContent-Length: {len(PAYLOAD)}\r\n\r\n"
        )
        yield head.encode() + PAYLOAD


class Asker(asyncio.Protocol):
    """One connection: writes a request, counts its answer, writes the next."""

    def __init__(self, requests: Iterator[bytes]) -> None:
        self._requests = requests
        self._received = bytearray()
        self._transport: asyncio.WriteTransport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport  # type: ignore[assignment]
        self._ask()

    def _ask(self) -> None:
        assert self._transport is not None
        request = next(self._requests, None)
        if request is None:
            self._transport.close()
        else:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Take an answer, or some of it."""
        self._received += data
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self._received.find(b"Content-Length: ", 0, head) + 16
        length = int(self._received[at : self._received.find(b"\r", at)])
        if len(self._received) < head + 4 + length:
            return
        assert self._received[9:12] == b"202", bytes(self._received[:2000])
        self._received.clear()
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- its signature
        """End."""
        self.closed.set_result(None)


async def ask(address: str, requests: list[bytes], connections: int) -> None:
    """Send all the requests over so many connections."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    rest = iter(requests)
    made = [
        await loop.create_connection(lambda: Asker(rest), host, int(port))
        for _ in range(connections)
    ]
    await asyncio.gather(*(asker.closed for _, asker in made))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--journal", default="sqlite:bench.db")
    parser.add_argument("--serve", action="store_true")
    options = parser.parse_args()
    if options.serve:
        run_loop(serve, options.journal)
        return
    command = [sys.executable, __file__, "--serve", "--journal", options.journal]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert server.stdin is not None
    assert server.stdout is not None
    address = server.stdout.readline().strip()
    cases = {
        "POST /v1/invocations": to_api(address, keyed=False),
        "the same with a key": to_api(address, keyed=True),
        "Lambda, SDK ids": to_lambda(address, sdk_id=True),
        "Lambda, no ids": to_lambda(address, sdk_id=False),
    }
    figures: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, source in cases.items():
            requests = list(itertools.islice(source, options.requests))
            server.stdin.write("\n")
            before_s = float(server.stdout.readline())
            uvloop.run(ask(address, requests, options.connections))
            server.stdin.write("\n")
            figures[name].append((float(server.stdout.readline()) - before_s) / len(requests))
    server.communicate()
    took = {name: statistics.median(rounds) * 1e6 for name, rounds in figures.items()}
    plain, keyed = (took[name] for name in list(cases)[:2])
    table(
        ("case", "CPU us", "of the API's", "of that with a key"),
        [
            (name, f"{each:.1f}", f"{each / plain:.2f}", f"{each / keyed:.2f}")
            for name, each in took.items()
        ],
    )


if __name__ == "__main__":
    main()
