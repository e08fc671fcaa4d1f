"""The emulator as seen by software nobody here wrote: AWS's and Alibaba Cloud's own clients."""

import asyncio
import gc
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher.emulator import Account, Emulator, Fault, Function, Settings

pytestmark = [
    pytest.mark.real_time,
    # The FC SDKs leave their sockets to the garbage collector; so it runs in here, not in
    # somebody else's test.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

KEYS = {"AKIDTEST": "c2VjcmV0LW9mLXRlc3Rz", "AKIDSTS": "c2VjcmV0LW9mLXN0cw"}
FAILS = b'{"emulate": {"fail": true}}'
FUNCTIONS = {
    "*": Function(duration_s=0.02),
    "slow": Function(duration_s=30.0),
    "limited": Function(duration_s=30.0, reserved=0),
    "svc$slow": Function(duration_s=30.0),
}
SETTINGS = Settings(
    accounts={
        "lambda": Account(
            provider="aws-lambda",
            account_id="123456789012",
            region="eu-west-1",
            quota=2,
            unlisted=True,
            keys=KEYS,
            session_tokens={"AKIDSTS": "token/of+a=session"},
            functions={**FUNCTIONS, "aliased": Function(duration_s=0.01, qualifiers=("prod", "1"))},
        ),
        "fc": Account(
            provider="aliyun-fc",
            account_id="1000000000000000",
            region="cn-shanghai",
            quota=2,
            unlisted=False,
            keys=KEYS,
            session_tokens={"AKIDSTS": "token/of+a=session"},
            functions={
                **FUNCTIONS,
                "f": Function(duration_s=0.02),
                "svc$f": Function(duration_s=0.02),
                "taskless": Function(duration_s=0.02, async_task=False),
            },
        ),
    }
)


_clients: list[Any] = []


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(SETTINGS) as running:
        yield running
        while _clients:
            _clients.pop().close()
    gc.collect()


async def until(emulator: Emulator, account: str, **counts: int) -> None:
    async with asyncio.timeout(60):
        while True:
            counted = emulator.statistics()[account]
            if all(getattr(counted, name) >= count for name, count in counts.items()):
                return
            await asyncio.sleep(0.01)


# -- boto3 ----------------------------------------------------------------------------------------


def boto(emulator: Emulator, service: str, **fields: Any) -> Any:
    import boto3
    from botocore.config import Config

    fields = {"aws_access_key_id": "AKIDTEST", "aws_secret_access_key": KEYS["AKIDTEST"], **fields}
    client = boto3.client(
        service,
        region_name="eu-west-1",
        endpoint_url=emulator.url,
        config=Config(retries={"total_max_attempts": 1}),
        **fields,
    )
    _clients.append(client)
    return client


def refused(call: Any, **fields: Any) -> tuple[int, str, dict[str, Any]]:
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError) as caught:
        call(**fields)
    response = caught.value.response
    return (
        response["ResponseMetadata"]["HTTPStatusCode"],
        response["Error"]["Code"],
        response,
    )


async def test_boto3_invokes(emulator: Emulator):
    def calls() -> None:
        client = boto(emulator, "lambda")
        event = client.invoke(
            FunctionName="f", InvocationType="Event", Payload=b'{"n": "\xc3\xa9"}'
        )
        assert event["StatusCode"] == 202
        assert event["Payload"].read() == b""
        reply = client.invoke(FunctionName="f", Payload=b'{"n": 1}', LogType="Tail")
        assert reply["StatusCode"] == 200
        assert reply["ExecutedVersion"] == "$LATEST"
        assert reply["Payload"].read() == b'{"n": 1}'
        assert reply["LogResult"]
        assert "FunctionError" not in reply
        reply = client.invoke(FunctionName="f", Payload=FAILS)
        assert reply["FunctionError"] == "Unhandled"
        failure = json.loads(reply["Payload"].read())
        assert failure["errorType"] == "EmulatedError"
        assert failure["requestId"] == reply["ResponseMetadata"]["RequestId"]
        assert client.invoke(FunctionName="f", InvocationType="DryRun")["StatusCode"] == 204
        empty = client.invoke(FunctionName="f")
        assert empty["Payload"].read() == b"{}"

    await asyncio.to_thread(calls)
    await until(emulator, "lambda", succeeded=1)
    assert emulator.statistics()["lambda"].accepted_async == 1


@pytest.mark.parametrize(
    ("name", "fields", "version"),
    [
        ("aliased:prod", {}, "prod"),
        ("aliased", {"Qualifier": "1"}, "1"),
        ("f", {"Qualifier": "$LATEST"}, "$LATEST"),
        ("123456789012:function:aliased:prod", {}, "prod"),
        ("arn:aws:lambda:eu-west-1:123456789012:function:aliased:prod", {}, "prod"),
        ("arn:aws:lambda:eu-west-1:123456789012:function:f", {}, "$LATEST"),
    ],
)
async def test_boto3_names_functions_in_every_way(emulator, name, fields, version):
    client = boto(emulator, "lambda")
    reply = await asyncio.to_thread(client.invoke, FunctionName=name, **fields)
    assert reply["ExecutedVersion"] == version


async def test_boto3_understands_refusals(emulator: Emulator):
    def calls() -> None:
        client = boto(emulator, "lambda")
        status, code, full = refused(client.invoke, FunctionName="aliased:test")
        assert (status, code) == (404, "ResourceNotFoundException")
        assert "aliased:test" in full["Error"]["Message"]
        foreign = "arn:aws:lambda:eu-west-1:999999999999:function:f"
        assert refused(client.invoke, FunctionName=foreign)[:2] == (403, "AccessDeniedException")
        elsewhere = "arn:aws:lambda:us-east-1:123456789012:function:f"
        assert refused(client.invoke, FunctionName=elsewhere)[0] == 404
        status, code, full = refused(client.invoke, FunctionName="f", Payload=b"{")
        assert (status, code) == (400, "InvalidRequestContentException")
        assert full["Error"]["Message"]
        large = b'"' + bytes(1024 * 1024) + b'"'
        status, code, _ = refused(
            client.invoke, FunctionName="f", InvocationType="Event", Payload=large
        )
        assert (status, code) == (413, "RequestTooLargeException")
        status, code, full = refused(client.invoke, FunctionName="limited")
        assert (status, code) == (429, "TooManyRequestsException")
        assert full["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
        assert full["retryAfterSeconds"] == "1"
        for _ in range(2):
            client.invoke(FunctionName="slow", InvocationType="Event")
        assert refused(client.invoke, FunctionName="f")[2]["Reason"] == (
            "ConcurrentInvocationLimitExceeded"
        )

    await asyncio.to_thread(calls)


async def test_boto3_with_wrong_keys_is_refused(emulator: Emulator):
    def calls() -> None:
        wrong = boto(emulator, "lambda", aws_secret_access_key="wrong")
        assert refused(wrong.invoke, FunctionName="f")[:2] == (403, "InvalidSignatureException")
        unknown = boto(emulator, "lambda", aws_access_key_id="AKIDNOBODY")
        assert refused(unknown.invoke, FunctionName="f")[:2] == (403, "UnrecognizedClientException")
        sts = {"aws_access_key_id": "AKIDSTS", "aws_secret_access_key": KEYS["AKIDSTS"]}
        tokenless = boto(emulator, "lambda", **sts)
        assert refused(tokenless.invoke, FunctionName="f")[1] == "UnrecognizedClientException"
        complete = boto(emulator, "lambda", **sts, aws_session_token="token/of+a=session")
        assert complete.invoke(FunctionName="aliased:prod")["StatusCode"] == 200
        queues = boto(emulator, "sqs", aws_secret_access_key="wrong")
        assert refused(queues.create_queue, QueueName="q")[:2] == (403, "InvalidSignatureException")

    await asyncio.to_thread(calls)


async def test_boto3_configures_functions(emulator: Emulator):
    def calls() -> None:
        client = boto(emulator, "lambda")
        limits = client.get_account_settings()["AccountLimit"]
        assert limits["ConcurrentExecutions"] == 2
        missing = refused(client.get_function_event_invoke_config, FunctionName="f")
        assert missing[:2] == (404, "ResourceNotFoundException")
        put = client.put_function_event_invoke_config(
            FunctionName="f",
            MaximumRetryAttempts=0,
            DestinationConfig={"OnFailure": {"Destination": "arn:aws:sqs:eu-west-1:1:bad"}},
        )
        assert put["MaximumEventAgeInSeconds"] == 21600
        client.update_function_event_invoke_config(FunctionName="f", MaximumEventAgeInSeconds=60)
        got = client.get_function_event_invoke_config(FunctionName="f", Qualifier="$LATEST")
        assert got["MaximumRetryAttempts"] == 0
        assert got["MaximumEventAgeInSeconds"] == 60
        assert got["DestinationConfig"] == {
            "OnFailure": {"Destination": "arn:aws:sqs:eu-west-1:1:bad"}
        }
        listed = client.list_function_event_invoke_configs(FunctionName="f")
        assert len(listed["FunctionEventInvokeConfigs"]) == 1
        client.delete_function_event_invoke_config(FunctionName="f")
        refused(client.get_function_event_invoke_config, FunctionName="f")
        client.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=1)
        assert (
            client.get_function_concurrency(FunctionName="f")["ReservedConcurrentExecutions"] == 1
        )
        assert client.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"] == 1
        client.delete_function_concurrency(FunctionName="f")
        assert "ReservedConcurrentExecutions" not in client.get_function_concurrency(
            FunctionName="f"
        )
        assert client.get_function_configuration(FunctionName="f")["Timeout"] == 900

    await asyncio.to_thread(calls)


async def test_boto3_learns_the_ends_of_events_from_a_queue(emulator: Emulator):
    def calls() -> None:
        client, queues = boto(emulator, "lambda"), boto(emulator, "sqs")
        url = queues.create_queue(QueueName="ends", Attributes={"VisibilityTimeout": "60"})[
            "QueueUrl"
        ]
        assert queues.get_queue_url(QueueName="ends")["QueueUrl"] == url
        shown = queues.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        assert shown["VisibilityTimeout"] == "60"
        arn = {"Destination": shown["QueueArn"]}
        client.put_function_event_invoke_config(
            FunctionName="f",
            MaximumRetryAttempts=0,
            DestinationConfig={"OnSuccess": arn, "OnFailure": arn},
        )
        sent = {}
        for payload in (b'{"n": 1}', FAILS):
            event = client.invoke(FunctionName="f", InvocationType="Event", Payload=payload)
            sent[event["ResponseMetadata"]["RequestId"]] = json.loads(payload)
        records: dict[str, dict[str, Any]] = {}
        receipts: list[str] = []
        while len(records) < 2:
            batch = queues.receive_message(
                QueueUrl=url,
                WaitTimeSeconds=5,
                MaxNumberOfMessages=10,
                AttributeNames=["ApproximateReceiveCount"],
            )
            for message in batch["Messages"]:
                assert message["Attributes"] == {"ApproximateReceiveCount": "1"}
                record = json.loads(message["Body"])
                records[record["requestContext"]["requestId"]] = record
                receipts.append(message["ReceiptHandle"])
        assert {key: record["requestPayload"] for key, record in records.items()} == sent
        conditions = sorted(item["requestContext"]["condition"] for item in records.values())
        assert conditions == ["RetriesExhausted", "Success"]
        deleted = queues.delete_message_batch(
            QueueUrl=url,
            Entries=[
                {"Id": str(index), "ReceiptHandle": receipt}
                for index, receipt in enumerate(receipts)
            ],
        )
        assert len(deleted["Successful"]) == 2
        empty = queues.receive_message(QueueUrl=url, WaitTimeSeconds=0, VisibilityTimeout=0)
        assert "Messages" not in empty
        queues.delete_queue(QueueUrl=url)
        status, code, full = refused(queues.get_queue_url, QueueName="ends")
        assert status == 400
        assert code in {"QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"}
        assert full["Error"]["Message"]

    await asyncio.to_thread(calls)


# -- aiobotocore ----------------------------------------------------------------------------------


async def test_aiobotocore_invokes_and_polls(emulator: Emulator):
    from aiobotocore.config import AioConfig
    from aiobotocore.session import get_session

    common = {
        "region_name": "eu-west-1",
        "endpoint_url": emulator.url,
        "aws_access_key_id": "AKIDSTS",
        "aws_secret_access_key": KEYS["AKIDSTS"],
        "aws_session_token": "token/of+a=session",
        "config": AioConfig(retries={"total_max_attempts": 1}),
    }
    session = get_session()
    async with (
        session.create_client("lambda", **common) as client,
        session.create_client("sqs", **common) as queues,
    ):
        url = (await queues.create_queue(QueueName="ends"))["QueueUrl"]
        arn = {"Destination": "arn:aws:sqs:eu-west-1:123456789012:ends"}
        await client.put_function_event_invoke_config(
            FunctionName="f", DestinationConfig={"OnSuccess": arn}
        )
        waiting = asyncio.create_task(queues.receive_message(QueueUrl=url, WaitTimeSeconds=20))
        await asyncio.sleep(0.05)
        event = await client.invoke(FunctionName="f", InvocationType="Event", Payload=b"[1]")
        [message] = (await waiting)["Messages"]
        record = json.loads(message["Body"])
        assert record["requestContext"]["requestId"] == event["ResponseMetadata"]["RequestId"]
        await queues.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        reply = await client.invoke(FunctionName="aliased:prod", Payload='"héllo"'.encode())
        assert (await reply["Payload"].read()).decode() == '"héllo"'
        await asyncio.to_thread(lambda: None)


# -- The AWS command line -------------------------------------------------------------------------


@pytest.fixture
def aws() -> str:
    beside = Path(sys.executable).parent / "aws"
    found = str(beside) if beside.exists() else shutil.which("aws")
    if found is None:
        pytest.skip("the AWS command line is not installed")
    return found


async def run_aws(aws: str, emulator: Emulator, *words: str) -> tuple[int, str, str]:
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": "AKIDTEST",
        "AWS_SECRET_ACCESS_KEY": KEYS["AKIDTEST"],
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": emulator.url,
        "AWS_MAX_ATTEMPTS": "1",
    }
    process = await asyncio.create_subprocess_exec(
        aws, *words, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.slow
async def test_the_aws_command_line_invokes(emulator: Emulator, aws: str, tmp_path: Path):
    target = tmp_path / "out.json"
    _, version, _ = await run_aws(aws, emulator, "--version")
    raw = () if version.startswith("aws-cli/1") else ("--cli-binary-format", "raw-in-base64-out")
    invoke = ("lambda", "invoke", "--function-name", "aliased:prod", "--payload", '{"k": "v"}')
    code, out, err = await run_aws(aws, emulator, *invoke, *raw, str(target))
    assert code == 0, err
    assert json.loads(out)["StatusCode"] == 200
    assert json.loads(target.read_text()) == {"k": "v"}
    event = (*invoke, "--invocation-type", "Event", *raw, str(target))
    code, out, err = await run_aws(aws, emulator, *event)
    assert code == 0, err
    assert json.loads(out)["StatusCode"] == 202
    await until(emulator, "lambda", succeeded=1)
    code, _, err = await run_aws(
        aws, emulator, "lambda", "invoke", "--function-name", "limited", str(target)
    )
    assert code != 0
    assert "TooManyRequestsException" in err


# -- The FC SDK (API 2023-03-30) ------------------------------------------------------------------


def fc3(emulator: Emulator, **fields: Any) -> Any:
    from alibabacloud_fc20230330.client import Client
    from alibabacloud_tea_openapi.utils_models import Config

    fields = {"access_key_id": "AKIDTEST", "access_key_secret": KEYS["AKIDTEST"], **fields}
    return Client(
        Config(
            endpoint=emulator.url.removeprefix("http://"),
            protocol="http",
            region_id="cn-shanghai",
            **fields,
        )
    )


def fc3_invocation(body: bytes, **headers: Any) -> tuple[Any, Any, Any]:
    from alibabacloud_fc20230330 import models
    from darabonba.runtime import RuntimeOptions

    return (
        models.InvokeFunctionRequest(body=body),
        models.InvokeFunctionHeaders(**headers),
        RuntimeOptions(),
    )


@pytest.mark.parametrize("name", ["f", "svc$f"])
async def test_the_fc_sdk_invokes_without_blocking(emulator: Emulator, name: str):
    client = fc3(emulator)
    sent = fc3_invocation(b"hello", x_fc_invocation_type="Async", x_fc_async_task_id="task_1")
    reply = await client.invoke_function_with_options_async(name, *sent)
    assert reply.status_code == 202
    assert reply.headers["x-fc-async-task-id"] == "task_1"
    reply = await client.invoke_function_with_options_async(name, *fc3_invocation(b"\xff\x00"))
    assert reply.status_code == 200
    assert reply.body.read() == b"\xff\x00"
    assert "x-fc-error-type" not in reply.headers
    reply = await client.invoke_function_with_options_async(name, *fc3_invocation(FAILS))
    assert reply.status_code == 200
    assert reply.headers["x-fc-error-type"] == "HandledInvocationError"
    await until(emulator, "fc", succeeded=1)
    task = (await client.get_async_task_async(name, "task_1", models_get())).body
    assert task.status == "Succeeded"
    assert task.task_payload == "hello"
    assert task.request_id
    assert [event.status for event in task.events][-1] == "Succeeded"


def models_get() -> Any:
    from alibabacloud_fc20230330 import models

    return models.GetAsyncTaskRequest()


@pytest.mark.parametrize("name", ["slow", "svc$slow"])
async def test_the_fc_sdk_lists_and_stops_tasks(emulator: Emulator, name: str):
    from alibabacloud_fc20230330 import models

    def calls() -> None:
        client = fc3(
            emulator,
            access_key_id="AKIDSTS",
            access_key_secret=KEYS["AKIDSTS"],
            security_token="token/of+a=session",
        )
        for index in range(5):
            sent = fc3_invocation(
                b"x", x_fc_invocation_type="Async", x_fc_async_task_id=f"t_{index}"
            )
            assert client.invoke_function_with_options(name, *sent).status_code == 202
        ids: list[str] = []
        token = None
        while True:
            request = models.ListAsyncTasksRequest(
                prefix="t_", limit=2, next_token=token, include_payload=True
            )
            page = client.list_async_tasks(name, request).body
            ids += [task.task_id for task in page.tasks]
            assert all(task.task_payload == "x" for task in page.tasks)
            token = page.next_token
            if not token:
                break
        assert ids == [f"t_{index}" for index in range(5)]
        request = models.ListAsyncTasksRequest(status="Running", include_payload=False)
        running = client.list_async_tasks(name, request).body.tasks
        assert [task.task_id for task in running] == ["t_0", "t_1"]
        assert running[0].task_payload is None
        client.stop_async_task(name, "t_0", models.StopAsyncTaskRequest())
        assert client.get_async_task(name, "t_0", models_get()).body.status == "Stopped"

    await asyncio.to_thread(calls)
    counted = emulator.statistics()["fc"]
    assert counted.stopped == 1
    assert counted.instances_peak == 2


async def test_the_fc_sdk_understands_refusals(emulator: Emulator):
    from alibabacloud_tea_openapi.exceptions import ClientException

    async def code(client: Any, name: str, body: bytes = b"", **headers: Any) -> tuple[int, str]:
        with pytest.raises(ClientException) as caught:
            await client.invoke_function_with_options_async(name, *fc3_invocation(body, **headers))
        return caught.value.status_code, caught.value.code

    client = fc3(emulator)
    later: dict[str, Any] = {"x_fc_invocation_type": "Async"}
    assert await code(client, "nobody") == (404, "FunctionNotFound")
    assert await code(client, "limited") == (429, "FunctionResourceExhausted")
    assert await code(client, "f", bytes(128 * 1024 + 1), **later) == (400, "EntityTooLarge")
    assert await code(client, "f", x_fc_async_task_id="0bad", **later) == (400, "InvalidArgument")
    for index in range(2):
        sent = fc3_invocation(b"", x_fc_async_task_id=f"t{index}", **later)
        await client.invoke_function_with_options_async("slow", *sent)
    assert await code(client, "f") == (429, "ResourceExhausted")
    repeated = await code(client, "slow", x_fc_async_task_id="t0", **later)
    assert repeated == (409, "StatefulAsyncInvocationAlreadyExists")
    with pytest.raises(ClientException) as caught:
        await client.get_async_task_async("f", "unknown", models_get())
    assert (caught.value.status_code, caught.value.code) == (404, "AsyncTaskNotFound")
    wrong = fc3(emulator, access_key_secret="wrong")
    assert await code(wrong, "f") == (403, "SignatureNotMatch")
    unknown = fc3(emulator, access_key_id="AKIDNOBODY")
    assert await code(unknown, "f") == (403, "InvalidAccessKeyID")
    tokenless = fc3(emulator, access_key_id="AKIDSTS", access_key_secret=KEYS["AKIDSTS"])
    assert await code(tokenless, "f") == (403, "InvalidAccessKeyID")


async def test_the_fc_sdk_configures_functions(emulator: Emulator):
    from alibabacloud_fc20230330 import models

    client = fc3(emulator)
    got = (
        await client.get_async_invoke_config_async("f", models.GetAsyncInvokeConfigRequest())
    ).body
    assert got.async_task is True
    assert got.max_async_retry_attempts == 3
    asked = models.PutAsyncInvokeConfigRequest(
        body=models.PutAsyncInvokeConfigInput(
            async_task=False, max_async_retry_attempts=0, max_async_event_age_in_seconds=60
        )
    )
    put = (await client.put_async_invoke_config_async("f", asked)).body
    assert put.async_task is False
    assert put.max_async_retry_attempts == 0
    listed = await client.list_async_invoke_configs_async(
        models.ListAsyncInvokeConfigsRequest(function_name="f")
    )
    assert [config.max_async_event_age_in_seconds for config in listed.body.configs] == [60]
    function = (await client.get_function_async("f", models.GetFunctionRequest())).body
    assert function.instance_concurrency == 1
    assert (await client.get_concurrency_config_async("f")).body.reserved_concurrency is None


# -- The SDKs of FC 2.0 ---------------------------------------------------------------------------


async def test_the_sdk_of_2021_invokes_and_watches(emulator: Emulator):
    from alibabacloud_fc_open20210406 import models
    from alibabacloud_fc_open20210406.client import Client
    from alibabacloud_tea_openapi.models import Config
    from alibabacloud_tea_util.models import RuntimeOptions
    from Tea.exceptions import TeaException

    client = Client(
        Config(
            access_key_id="AKIDTEST",
            access_key_secret=KEYS["AKIDTEST"],
            endpoint=emulator.url.removeprefix("http://"),
            protocol="http",
            region_id="cn-shanghai",
        )
    )

    def invoke(function: str, body: bytes, **headers: str) -> Any:
        return client.invoke_function_with_options(
            "svc",
            function,
            models.InvokeFunctionRequest(body=body),
            models.InvokeFunctionHeaders(**headers),
            RuntimeOptions(),
        )

    def calls() -> None:
        later = {
            "x_fc_invocation_type": "Async",
            "x_fc_stateful_async_invocation_id": "old_1",
        }
        assert invoke("slow", b"x", **later).status_code == 202
        with pytest.raises(TeaException) as caught:
            invoke("slow", b"x", **later)
        assert caught.value.code == "StatefulAsyncInvocationAlreadyExists"
        reply = invoke("f", b"hello")
        assert bytes(reply.body) == b"hello"
        got = client.get_stateful_async_invocation(
            "svc", "slow", "old_1", models.GetStatefulAsyncInvocationRequest()
        ).body
        assert got.status == "Running"
        assert got.invocation_payload == "x"
        assert (got.service_name, got.function_name) == ("svc", "slow")
        listed = client.list_stateful_async_invocations(
            "svc", "slow", models.ListStatefulAsyncInvocationsRequest(invocation_id_prefix="old")
        ).body
        assert [item.invocation_id for item in listed.invocations] == ["old_1"]
        client.stop_stateful_async_invocation(
            "svc", "slow", "old_1", models.StopStatefulAsyncInvocationRequest()
        )
        with pytest.raises(TeaException) as caught:
            client.get_stateful_async_invocation(
                "svc", "slow", "none", models.GetStatefulAsyncInvocationRequest()
            )
        assert caught.value.code == "StatefulAsyncInvocationNotFound"

    await asyncio.to_thread(calls)
    assert emulator.statistics()["fc"].stopped == 1


async def test_the_sdk_of_2016_invokes(emulator: Emulator):
    import fc2

    def client(secret: str) -> Any:
        return fc2.Client(
            endpoint=emulator.url, accessKeyID="AKIDTEST", accessKeySecret=secret, Timeout=10
        )

    def calls() -> None:
        good = client(KEYS["AKIDTEST"])
        later = {"x-fc-invocation-type": "Async", "x-fc-stateful-async-invocation-id": "old_2"}
        assert good.invoke_function("svc", "f", b"x", headers=dict(later)).data == b""
        assert good.invoke_function("svc", "f", b"hello", qualifier="prod").data == b"hello"
        for secret, function, word in (
            (KEYS["AKIDTEST"], "nobody", "FunctionNotFound"),
            ("wrong", "f", "SignatureNotMatch"),
        ):
            with pytest.raises(fc2.FcError) as caught:
                client(secret).invoke_function("svc", function, b"")
            assert word in str(caught.value)

    await asyncio.to_thread(calls)
    await until(emulator, "fc", succeeded=1, answered=1)
    tasks = [run.task_id for run in emulator.cloud.runs if run.asynchronous]
    assert tasks == ["old_2"]


# -- What clients make of faults ------------------------------------------------------------------


async def test_boto3_meets_faults(emulator: Emulator):
    from botocore.exceptions import ClientError, ConnectionClosedError

    def invoke() -> int:
        client = boto(emulator, "lambda")
        return int(
            client.invoke(FunctionName="f", InvocationType="Event")["ResponseMetadata"][
                "HTTPStatusCode"
            ]
        )

    for fault, expected in (
        (Fault(kind="reset_before", next=1), ConnectionClosedError),
        (Fault(kind="reset_after", next=1), ConnectionClosedError),
        (Fault(kind="html", next=1), ClientError),
        (Fault(kind="empty", next=1), ClientError),
        (Fault(kind="error", next=1), ClientError),
        (Fault(kind="forbidden", next=1), ClientError),
        (Fault(kind="throttle", next=1, code="CallerRateLimitExceeded"), ClientError),
    ):
        emulator.faults.replace([fault])
        with pytest.raises(expected):
            await asyncio.to_thread(invoke)
        assert await asyncio.to_thread(invoke) == 202
    # Seven that passed, and the one whose reply was lost.
    assert emulator.statistics()["lambda"].accepted_async == 8
