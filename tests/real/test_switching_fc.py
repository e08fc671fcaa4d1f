"""The clients of Alibaba Cloud, unmodified but for endpoint and keys, at the drop-in endpoints."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dispatcher.core.model import State
from tests.web.dropins import FC_ID, KEY, SECRET, DropInSidecar, sidecar, until

pytestmark = [
    pytest.mark.real_time,
    # The SDKs leave their sockets to the garbage collector; so it runs in here, not in
    # somebody else's test.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

FAILS = b'{"emulate": {"fail": true}}'
TEXT = '"\u4e2d\u6587 \u00e9"'.encode()


@pytest.fixture
async def switched(tmp_path: Path) -> AsyncIterator[DropInSidecar]:
    async with sidecar(tmp_path, "fc", "wait_max_s = 0.5") as held:
        yield held
    gc.collect()


async def ended(held: DropInSidecar, invocation_id: str) -> Any:
    async with asyncio.timeout(60):
        while (record := await held.record(invocation_id)).ended_ms is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return record


async def three_run(held: DropInSidecar, invoke: Callable[[], Any]) -> list[asyncio.Task[Any]]:
    """Fill the quota; return what will end in some seconds."""
    await until(lambda: not held.engine.account("fc").in_use)
    running = [asyncio.create_task(asyncio.to_thread(invoke)) for _ in range(3)]
    await until(lambda: held.engine.account("fc").in_use == 3)
    return running


# -- API 2023-03-30 -------------------------------------------------------------------------------


def fc3(held: DropInSidecar, **fields: Any) -> Any:
    from alibabacloud_fc20230330.client import Client
    from alibabacloud_tea_openapi.utils_models import Config

    return Client(
        Config(
            endpoint=held.url.removeprefix("http://"),
            protocol="http",
            region_id="cn-shanghai",
            **{"access_key_id": KEY, "access_key_secret": SECRET, **fields},
        )
    )


def job(body: bytes, **headers: Any) -> tuple[Any, Any, Any]:
    from alibabacloud_fc20230330 import models
    from darabonba.runtime import RuntimeOptions

    return (
        models.InvokeFunctionRequest(body=body),
        models.InvokeFunctionHeaders(**headers),
        RuntimeOptions(),
    )


LATER: dict[str, Any] = {"x_fc_invocation_type": "Async"}


@pytest.mark.parametrize("name", ["f", "svc$f"])
async def test_3_0_jobs_are_accepted_and_run(switched: DropInSidecar, name: str):
    client = fc3(switched)
    for number, payload in enumerate((b"hello", b"", TEXT)):
        chosen = {"x_fc_async_task_id": f"task_{number}"} if number else {}
        reply = await client.invoke_function_with_options_async(
            name, *job(payload, **LATER, **chosen)
        )
        assert reply.status_code == 202
        request_id = reply.headers["x-fc-request-id"]
        task_id = reply.headers["x-fc-async-task-id"]
        assert task_id == chosen.get("x_fc_async_task_id", request_id)
        record = await ended(switched, request_id)
        assert (record.state, record.function, record.tenant) == (
            State.SUCCEEDED,
            name,
            "products",
        )
        from alibabacloud_fc20230330 import models

        task = (await client.get_async_task_async(name, task_id, models.GetAsyncTaskRequest())).body
        assert (task.task_id, task.status, task.request_id) == (task_id, "Succeeded", request_id)
        assert task.function_arn == f"acs:fc:cn-shanghai:{FC_ID}:functions/{name}/LATEST"
        assert 0 < task.started_time <= task.end_time
    tasks = [run.task_id for run in switched.emulator.cloud.runs if run.asynchronous]
    assert tasks[1:] == ["task_1", "task_2"]


async def test_3_0_replies_come_back_with_errors_and_logs(switched: DropInSidecar):
    client = fc3(switched)
    reply = await client.invoke_function_with_options_async(
        "f", *job(b"\xff\0", x_fc_log_type="Tail")
    )
    assert reply.status_code == 200
    assert reply.body.read() == b"\xff\0"
    assert reply.headers["x-fc-log-result"]
    assert reply.headers["x-fc-request-id"]
    assert "x-fc-error-type" not in reply.headers
    reply = await client.invoke_function_with_options_async("f", *job(FAILS))
    assert reply.status_code == 200
    assert reply.headers["x-fc-error-type"] == "HandledInvocationError"
    assert reply.headers["x-fc-invocation-duration"]


async def test_3_0_tasks_are_listed_and_stopped(switched: DropInSidecar):
    from alibabacloud_fc20230330 import models

    def calls() -> None:
        client = fc3(switched)
        for index in range(5):
            sent = job(b"x", **LATER, x_fc_async_task_id=f"t_{index}")
            assert client.invoke_function_with_options("long", *sent).status_code == 202
        client.invoke_function_with_options("f", *job(b"x", **LATER, x_fc_async_task_id="t_f"))

        def listed(**fields: Any) -> list[str]:
            ids: list[str] = []
            token = None
            while True:
                request = models.ListAsyncTasksRequest(limit=2, next_token=token, **fields)
                page = client.list_async_tasks("long", request).body
                assert len(page.tasks) <= 2
                ids += [task.task_id for task in page.tasks]
                token = page.next_token
                if not token:
                    return ids

        everything = [f"t_{index}" for index in range(5)]
        assert listed(prefix="t_", include_payload=True) == everything[::-1]
        assert listed(sort_order_by_time="asc") == everything
        assert listed(prefix="t_3", include_payload=False) == ["t_3"]
        assert listed(status="Succeeded") == listed(prefix="x") == listed(status="Retrying") == []
        assert listed(status="Enqueued") == ["t_4", "t_3"]
        client.stop_async_task("long", "t_4", models.StopAsyncTaskRequest())
        get = models.GetAsyncTaskRequest()
        assert client.get_async_task("long", "t_4", get).body.status == "Stopped"
        client.stop_async_task("long", "t_4", models.StopAsyncTaskRequest())
        waiting = client.get_async_task("long", "t_3", get).body
        assert (waiting.status, waiting.task_payload) == ("Enqueued", "x")
        client.stop_async_task("long", "t_0", models.StopAsyncTaskRequest())

    await asyncio.to_thread(calls)
    await until(lambda: switched.emulator.statistics()["fc"].stopped == 1)


async def test_3_0_refusals_are_understood(switched: DropInSidecar):
    from alibabacloud_fc20230330 import models
    from alibabacloud_tea_openapi.exceptions import ClientException

    async def error(client: Any, name: str, body: bytes = b"", **headers: Any) -> tuple[int, str]:
        with pytest.raises(ClientException) as caught:
            await client.invoke_function_with_options_async(name, *job(body, **headers))
        return caught.value.status_code, caught.value.code

    client = fc3(switched)
    assert await error(client, "none") == (404, "FunctionNotFound")
    assert await error(client, "f", bytes(128 * 1024 + 1), **LATER) == (400, "EntityTooLarge")
    bad = await error(client, "f", x_fc_async_task_id="0bad", **LATER)
    assert bad == (400, "InvalidArgument")
    sent = job(b"", x_fc_async_task_id="t0", **LATER)
    await client.invoke_function_with_options_async("f", *sent)
    for body in (b"", b"another"):
        repeated = await error(client, "f", body, x_fc_async_task_id="t0", **LATER)
        assert repeated == (409, "AsyncTaskAlreadyExists")
    # Ids are a function's own.
    await client.invoke_function_with_options_async("svc$f", *sent)
    for task in ("unknown", "0bad", "t0"):
        name = "slow" if task == "t0" else "f"
        with pytest.raises(ClientException) as caught:
            await client.get_async_task_async(name, task, models.GetAsyncTaskRequest())
        assert (caught.value.status_code, caught.value.code) == (404, "AsyncTaskNotFound")
    assert await error(fc3(switched, access_key_secret="wrong"), "f") == (403, "SignatureNotMatch")
    assert await error(fc3(switched, access_key_id="NOBODY"), "f") == (403, "InvalidAccessKeyID")
    token = fc3(switched, security_token="token/of+a=session")
    reply = await token.invoke_function_with_options_async("f", *job(b"x"))
    assert reply.body.read() == b"x"
    running = await three_run(
        switched, lambda: fc3(switched).invoke_function_with_options("slow", *job(b""))
    )
    assert await error(client, "f") == (429, "ResourceExhausted")
    await asyncio.gather(*running)
    assert switched.emulator.statistics()["fc"].instances_peak <= 3


async def test_3_0_sync_becomes_async_where_it_is_configured_so(tmp_path: Path):
    async with sidecar(tmp_path, "fc", "sync_to_async = true") as held:
        reply = await fc3(held).invoke_function_with_options_async("f", *job(b"x"))
        assert reply.status_code == 202
        assert (await ended(held, reply.headers["x-fc-request-id"])).state is State.SUCCEEDED
    gc.collect()


# -- API 2021-04-06 -------------------------------------------------------------------------------


async def test_the_sdk_of_2021_switches(switched: DropInSidecar):
    from alibabacloud_fc_open20210406 import models
    from alibabacloud_fc_open20210406.client import Client
    from alibabacloud_tea_openapi.models import Config
    from alibabacloud_tea_util.models import RuntimeOptions
    from Tea.exceptions import TeaException

    def client(secret: str = SECRET) -> Any:
        return Client(
            Config(
                access_key_id=KEY,
                access_key_secret=secret,
                endpoint=switched.url.removeprefix("http://"),
                protocol="http",
                region_id="cn-shanghai",
            )
        )

    def invoke(function: str, body: bytes, by: Any = None, **headers: Any) -> Any:
        return (by or client()).invoke_function_with_options(
            "svc",
            function,
            models.InvokeFunctionRequest(body=body),
            models.InvokeFunctionHeaders(**headers),
            RuntimeOptions(),
        )

    def code(function: str, body: bytes = b"", by: Any = None, **headers: Any) -> str:
        with pytest.raises(TeaException) as caught:
            invoke(function, body, by, **headers)
        return str(caught.value.code)

    def calls() -> None:
        own = client()
        later = {**LATER, "x_fc_stateful_async_invocation_id": "old_1"}
        reply = invoke("long", TEXT, **later)
        assert reply.status_code == 202
        assert reply.headers["x-fc-stateful-async-invocation-id"] == "old_1"
        assert code("long", TEXT, **later) == "StatefulAsyncInvocationAlreadyExists"
        assert bytes(invoke("f", b"hello").body) == b"hello"
        failed = invoke("f", FAILS)
        assert failed.headers["x-fc-error-type"] == "HandledInvocationError"
        get = models.GetStatefulAsyncInvocationRequest()
        got = own.get_stateful_async_invocation("svc", "long", "old_1", get).body
        assert got.status in ("Enqueued", "Dequeued", "Running")
        assert got.invocation_payload.encode() == TEXT
        assert (got.service_name, got.function_name) == ("svc", "long")
        asked = models.ListStatefulAsyncInvocationsRequest(invocation_id_prefix="old")
        listed = own.list_stateful_async_invocations("svc", "long", asked).body
        assert [item.invocation_id for item in listed.invocations] == ["old_1"]
        stop = models.StopStatefulAsyncInvocationRequest()
        own.stop_stateful_async_invocation("svc", "long", "old_1", stop)
        with pytest.raises(TeaException) as caught:
            own.get_stateful_async_invocation("svc", "long", "none", get)
        assert caught.value.code == "StatefulAsyncInvocationNotFound"
        assert code("none") == "FunctionNotFound"
        assert code("f", bytes(128 * 1024 + 1), **LATER) == "EntityTooLarge"
        assert code("f", by=client("wrong")) == "SignatureNotMatch"

    await asyncio.to_thread(calls)


# -- API 2016-08-15 -------------------------------------------------------------------------------


async def test_the_sdk_of_2016_switches(switched: DropInSidecar):
    import fc2

    def client(secret: str = SECRET) -> Any:
        return fc2.Client(
            endpoint=switched.url, accessKeyID=KEY, accessKeySecret=secret, Timeout=10
        )

    def calls() -> list[str]:
        own = client()
        later = {
            "x-fc-invocation-type": "Async",
            "x-fc-stateful-async-invocation-id": "old_2",
            "x-fc-async-delay": "0",
        }
        reply = own.invoke_function("svc", "f", TEXT, headers=dict(later))
        assert reply.data == b""
        ids = [reply.headers["X-Fc-Request-Id"]]
        assert reply.headers["X-Fc-Async-Task-Id"] == "old_2"
        # Two equal calls of one second are two calls.
        for _ in range(2):
            again = own.invoke_function("svc", "f", headers={"x-fc-invocation-type": "Async"})
            ids.append(again.headers["X-Fc-Request-Id"])
        assert len(set(ids)) == 3
        assert own.invoke_function("svc", "f", b"hello", qualifier="prod").data == b"hello"
        with pytest.raises(fc2.FcError, match="EmulatedError"):
            own.invoke_function("svc", "f", FAILS)
        for by, function, headers, word in (
            (own, "none", {}, "FunctionNotFound"),
            (client("wrong"), "f", {}, "SignatureNotMatch"),
            (own, "f", later, "StatefulAsyncInvocationAlreadyExists"),
            (own, "f", {"x-fc-invocation-type": "Never"}, "InvalidArgument"),
        ):
            with pytest.raises(fc2.FcError) as caught:
                by.invoke_function("svc", function, TEXT, headers=dict(headers))
            assert word in str(caught.value)
        return ids

    for invocation_id in await asyncio.to_thread(calls):
        assert (await ended(switched, invocation_id)).function == "svc$f"
    tasks = [run.task_id for run in switched.emulator.cloud.runs if run.asynchronous]
    assert "old_2" in tasks
