"""Tasks that the FC transport submits, seen by the official SDK of Function Compute."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import anyio
import pytest
from alibabacloud_fc20230330 import models
from alibabacloud_fc20230330.client import Client
from alibabacloud_tea_openapi.models import Config
from darabonba.runtime import RuntimeOptions
from msgspec import convert

from dispatcher.config import AccountSettings, EnvCredentials
from dispatcher.core.model import Accepted, Call, CallType, Provider
from dispatcher.emulator import Emulator, Settings
from dispatcher.transports import FcTransport, open_transport

pytestmark = pytest.mark.real_time  # the SDK blocks, so that it runs in threads

FUNCTION = "f"


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    account = {
        "provider": "aliyun-fc",
        "account_id": "1031",
        "region": "cn-shanghai",
        "quota": 10,
        "keys": {"AK": "SK"},
        "functions": {"*": {"duration_s": 30.0}},
    }
    async with Emulator(convert({"accounts": {"fc": account}}, Settings)) as made:
        yield made


@pytest.fixture
async def transport(emulator: Emulator, monkeypatch) -> AsyncIterator[FcTransport]:
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "SK")
    account = AccountSettings(
        provider=Provider.ALIYUN_FC,
        account_id="1031",
        region="cn-shanghai",
        quota=10,
        endpoint=emulator.url,
        credentials=EnvCredentials(),
    )
    async with aclosing(await open_transport(account, name="fc")) as opened:
        assert isinstance(opened, FcTransport)
        yield opened


@pytest.fixture
def sdk(emulator: Emulator) -> Client:
    return Client(
        Config(
            access_key_id="AK",
            access_key_secret="SK",
            endpoint=emulator.url.removeprefix("http://"),
            protocol="http",
            region_id="cn-shanghai",
        )
    )


async def test_a_task_is_found_by_its_id_and_stopped(transport: FcTransport, sdk: Client):
    call = Call(
        function=FUNCTION, qualifier=None, type=CallType.ASYNC, task_id="i_1", payload=b"{}"
    )
    accepted = await transport.send(call)
    assert isinstance(accepted, Accepted)

    def look():
        return sdk.get_async_task(FUNCTION, "i_1", models.GetAsyncTaskRequest()).body

    task = await anyio.to_thread.run_sync(look)
    assert (task.task_id, task.request_id, task.status) == ("i_1", accepted.request_id, "Running")
    assert await transport.stop(call)
    assert (await anyio.to_thread.run_sync(look)).status in ("Stopping", "Stopped")


async def test_an_id_is_taken_whoever_took_it(transport: FcTransport, sdk: Client):
    def submit():
        headers = models.InvokeFunctionHeaders(
            x_fc_invocation_type="Async", x_fc_async_task_id="i_2"
        )
        request = models.InvokeFunctionRequest(body=b"{}")
        return sdk.invoke_function_with_options(FUNCTION, request, headers, RuntimeOptions())

    assert (await anyio.to_thread.run_sync(submit)).status_code == 202
    call = Call(
        function=FUNCTION, qualifier=None, type=CallType.ASYNC, task_id="i_2", payload=b"{}"
    )
    assert isinstance(await transport.send(call), Accepted)

    def listed():
        return sdk.list_async_tasks(FUNCTION, models.ListAsyncTasksRequest(prefix="i_")).body.tasks

    assert [task.task_id for task in await anyio.to_thread.run_sync(listed)] == ["i_2"]
