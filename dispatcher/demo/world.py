"""The processes of the demo: a cloud and a sidecar, in a folder that is gone afterwards."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import Process

QUOTA: Final = 300
HEADROOM: Final = 30
START_MAX_S: Final = 20.0
STOP_MAX_S: Final = 15.0

CLOUD: Final = f"""
[accounts.fc]
provider = "aliyun-fc"
account_id = "1000000000000000"
region = "cn-shanghai"
quota = {QUOTA}

[accounts.fc.functions."*"]
duration_s = 1.0
jitter = "uniform"
jitter_spread = 0.2

[accounts.fc.functions.storefront]
duration_s = 0.3

[accounts.lambda]
provider = "aws-lambda"
account_id = "000000000000"
region = "us-east-1"
quota = {QUOTA}
queues = ["ends"]

[accounts.lambda.functions."*"]
duration_s = 1.0
jitter = "uniform"
jitter_spread = 0.2
on_success = "ends"
on_failure = "ends"

[accounts.lambda.functions.storefront]
duration_s = 0.3
"""

SIDECAR: Final = """
[server]
listen = ["127.0.0.1:0"]

[metrics]
listen = "127.0.0.1:0"

[journal]
url = "sqlite:journal.db"

[accounts.fc]
provider = "aliyun-fc"
account_id = "1000000000000000"
region = "cn-shanghai"
quota = {quota}
headroom = {headroom}
endpoint = "{cloud}"
credentials = {{ source = "static", access_key_id = "DEMO", access_key_secret_file = "secret" }}

[accounts.lambda]
provider = "aws-lambda"
account_id = "000000000000"
region = "us-east-1"
quota = {quota}
headroom = {headroom}
endpoint = "{cloud}"
completion_queue = "{cloud}/000000000000/ends"
credentials = {{ source = "static", access_key_id = "DEMO", access_key_secret_file = "secret" }}
"""


class WorldError(Exception):
    """A process of the demo did not come up; the message says what it printed last."""


class World:
    """Where the cloud and the sidecar are."""

    def __init__(self, folder: Path, cloud: str) -> None:
        """Know the *folder* of all files, and the URL of the *cloud*."""
        self.folder = folder
        self.cloud = cloud

    @asynccontextmanager
    async def sidecar(self) -> AsyncIterator[str]:
        """Run a sidecar; give its URL."""
        secret = anyio.Path(self.folder / "secret")
        await secret.write_text("demo-secret\n")
        await secret.chmod(0o600)
        config = anyio.Path(self.folder / "dispatcher.toml")
        await config.write_text(SIDECAR.format(quota=QUOTA, headroom=HEADROOM, cloud=self.cloud))
        args = ("serve", "--config", str(config), "--log", "text")
        # It listens before it is ready, and refuses until then.
        told = r"listening: ([0-9.:]+)(?s:.*)ready: "
        async with _running(self.folder / "sidecar.log", args, told) as address:
            yield f"http://{address}"


@asynccontextmanager
async def make_world() -> AsyncIterator[World]:
    """Run a cloud. Raises `WorldError`."""
    async with anyio.TemporaryDirectory(prefix="dispatcher-demo-") as name:
        folder = Path(name)
        config = anyio.Path(folder / "cloud.toml")
        await config.write_text(CLOUD)
        args = ("emulate", "--listen", "127.0.0.1:0", "--config", str(config))
        async with _running(folder / "cloud.log", args, r"emulating at (http://\S+)") as url:
            yield World(folder, url)


@asynccontextmanager
async def _running(log: Path, args: tuple[str, ...], told: str) -> AsyncIterator[str]:
    """Run a command of ours; give what it says in its log by the pattern *told*."""
    async with await anyio.open_file(log, "wb") as sink:
        process = await anyio.open_process(
            [sys.executable, "-m", "dispatcher", *args],
            stdin=subprocess.DEVNULL,
            stdout=sink.wrapped,
            stderr=sink.wrapped,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            # A Ctrl-C in the terminal is for the demo, which then ends these in order.
            start_new_session=True,
        )
    try:
        yield await _told(process, log, told)
    except BaseException as error:
        if process.returncode is not None:
            raise WorldError(await _last_words(log, "ended too early")) from error
        raise
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


async def _told(process: Process, log: Path, pattern: str) -> str:
    with anyio.move_on_after(START_MAX_S):
        while process.returncode is None:
            if found := re.search(pattern, await anyio.Path(log).read_text()):
                return found[1]
            await anyio.sleep(0.05)
    raise WorldError(await _last_words(log, "did not start"))


async def _last_words(log: Path, what: str) -> str:
    lines = (await anyio.Path(log).read_text(errors="replace")).splitlines()[-20:]
    return "\n".join([f"the {log.stem} {what}; its log ends:", *lines])


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        with anyio.move_on_after(STOP_MAX_S):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
