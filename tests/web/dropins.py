"""A sidecar in this process before an emulator in this process, as drop-in clients meet it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from dispatcher.config import Settings, parse
from dispatcher.emulator import Account, Emulator, Function
from dispatcher.emulator import Settings as CloudSettings
from dispatcher.engine import Engine
from dispatcher.web import Clients, IngressFc, IngressLambda, Listener, make_app
from dispatcher.wiring import open_engine, run_engine

KEY, SECRET = "LOCALKEY", "local/secret+of=tests"
AWS_ID, FC_ID = "123456789012", "1031000000000000"

CLOUD = CloudSettings(
    accounts={
        "lambda": Account(
            provider="aws-lambda",
            account_id=AWS_ID,
            region="eu-west-1",
            quota=10,
            unlisted=False,
            functions={
                "f": Function(duration_s=0.02),
                "aliased": Function(duration_s=0.02, qualifiers=("prod", "1")),
                "slow": Function(duration_s=3.0),
                "reserved": Function(duration_s=0.02, reserved=0),
            },
        ),
        "fc": Account(
            provider="aliyun-fc",
            account_id=FC_ID,
            region="cn-shanghai",
            quota=10,
            unlisted=False,
            functions={
                "f": Function(duration_s=0.02),
                "slow": Function(duration_s=3.0),
                "long": Function(duration_s=60.0),
                "svc$f": Function(duration_s=0.02, qualifiers=("prod",)),
                "svc$long": Function(duration_s=60.0),
                "limited": Function(duration_s=0.02, reserved=0),
            },
        ),
    }
)
SIDECAR = """
[journal]
url = "memory:"

[accounts.aws]
provider = "aws-lambda"
account_id = "{aws_id}"
region = "eu-west-1"
quota = 3
endpoint = "{cloud}"
credentials = {{ source = "static", access_key_id = "AKIDCLOUD", access_key_secret_file = "secret" }}
functions."*" = {{ duration_s = 1 }}

[accounts.fc]
provider = "aliyun-fc"
account_id = "{fc_id}"
region = "cn-shanghai"
quota = 3
endpoint = "{cloud}"
credentials = {{ source = "static", access_key_id = "AKIDCLOUD", access_key_secret_file = "secret" }}
{more}
"""
CLIENTS = """
[clients.one]
access_key_id = "LOCALKEY"
access_key_secret_file = "secret"
account = "{account}"
tenant = "products"
{options}
"""


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so that nobody tells."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class DropInSidecar:
    """What a test holds."""

    def __init__(self, url: str, engine: Engine, emulator: Emulator, clients: Clients) -> None:
        self.url = url
        self.engine = engine
        self.emulator = emulator
        self.clients = clients

    async def record(self, invocation_id: str) -> Any:
        return (await self.engine.get(invocation_id)).record


def settings(
    folder: Path, cloud: str, account: str | None, options: str = "", more: str = ""
) -> Settings:
    (folder / "secret").write_text(SECRET)
    (folder / "secret").chmod(0o600)
    if account is not None:
        more += CLIENTS.format(account=account, options=options)
    text = SIDECAR.format(cloud=cloud, aws_id=AWS_ID, fc_id=FC_ID, more=more)
    return parse(text, base=folder)


@contextlib.asynccontextmanager
async def sidecar(
    folder: Path, account: str | None, options: str = "", more: str = "", **fields: Any
) -> AsyncIterator[DropInSidecar]:
    """Run both; *account*: the one that the client `one` calls, None: there are no clients."""
    async with contextlib.AsyncExitStack() as stack:
        emulator = await stack.enter_async_context(Emulator(CLOUD))
        config = await asyncio.to_thread(settings, folder, emulator.url, account, options, more)
        engine = await stack.enter_async_context(open_engine(config))
        await stack.enter_async_context(run_engine(engine))
        clients = Clients(**fields)
        clients.take(config, await clients.read(config))
        app = make_app(engine, config.server, more_routes=routes(engine, clients))
        listener = await stack.enter_async_context(Listener(app, ["127.0.0.1:0"]))
        yield DropInSidecar(f"http://{listener.addresses[0]}", engine, emulator, clients)


def routes(engine: Engine, clients: Clients) -> Any:
    return (*IngressLambda(engine, clients).routes(), *IngressFc(engine, clients).routes())
