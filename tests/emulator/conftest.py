"""An emulator on the virtual clock, and a plain HTTP client: no SDK smooths the wire over."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from io import BytesIO
from typing import Any

import aiohttp
import msgspec
import pytest
import yarl

from dispatcher.emulator import Emulator, Settings, parse

ACCOUNTS = """
seed = 7
[accounts.aws]
provider = "aws-lambda"
account_id = "123456789012"
region = "eu-west-1"
quota = 3
queues = ["ends"]
[accounts.aws.functions."*"]
duration_s = 2
[accounts.fc]
provider = "aliyun-fc"
account_id = "1000000000000000"
region = "cn-shanghai"
quota = 3
[accounts.fc.functions."*"]
duration_s = 2
"""


class Answer(msgspec.Struct, frozen=True):
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Client:
    """Sends requests to one emulator."""

    def __init__(self, emulator: Emulator, session: aiohttp.ClientSession) -> None:
        self.emulator = emulator
        self._session = session

    async def __call__(self, method: str, path: str, body: Any = b"", **headers: str) -> Answer:
        """Send one; in header names `_` stands for `-`, and a body that is no bytes is JSON."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = yarl.URL(self.emulator.url + path, encoded=True)
        async with self._session.request(
            method, url, data=BytesIO(data), headers=named, skip_auto_headers=["Content-Type"]
        ) as reply:
            return Answer(reply.status, reply.headers, await reply.read())

    async def event(self, function: str = "f", body: Any = b"{}") -> Answer:
        path = f"/2015-03-31/functions/{function}/invocations"
        return await self("POST", path, body, X_Amz_Invocation_Type="Event")

    async def sync(self, function: str = "f", body: Any = b"{}", **headers: str) -> Answer:
        return await self("POST", f"/2015-03-31/functions/{function}/invocations", body, **headers)

    async def task(self, task_id: str | None, function: str = "f", **headers: str) -> Answer:
        path = f"/2023-03-30/functions/{function}/invocations"
        if task_id is not None:
            headers["x_fc_async_task_id"] = task_id
        return await self("POST", path, b"hello", x_fc_invocation_type="Async", **headers)

    async def sqs(self, operation: str, **fields: Any) -> Answer:
        return await self("POST", "/", fields, X_Amz_Target=f"AmazonSQS.{operation}")


Start = Callable[..., Awaitable[Client]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def begin(settings: str | Settings = ACCOUNTS) -> Client:
            chosen = parse(settings) if isinstance(settings, str) else settings
            emulator = await stack.enter_async_context(Emulator(chosen))
            # No time-out of the client's own: on the virtual clock it would come at once.
            session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
            return Client(emulator, await stack.enter_async_context(session))

        yield begin


@pytest.fixture
async def client(start: Start) -> Client:
    return await start()
