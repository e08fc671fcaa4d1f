"""The clients of AWS, unmodified but for endpoint and keys, at the drop-in endpoint of Lambda."""

import asyncio
import gc
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dispatcher.core.model import State
from tests.web.dropins import AWS_ID, KEY, SECRET, DropInSidecar, sidecar, until

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

FAILS = b'{"emulate": {"fail": true}}'
_clients: list[Any] = []


@pytest.fixture
async def switched(tmp_path: Path) -> AsyncIterator[DropInSidecar]:
    async with sidecar(tmp_path, "aws", "wait_max_s = 0.5") as held:
        yield held
        while _clients:
            _clients.pop().close()
    gc.collect()


def boto(held: DropInSidecar, **fields: Any) -> Any:
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "lambda",
        region_name="eu-west-1",
        endpoint_url=held.url,
        config=Config(retries={"total_max_attempts": 1}),
        **{"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, **fields},
    )
    _clients.append(client)
    return client


def refused(call: Callable[..., Any], **fields: Any) -> tuple[int, str, dict[str, Any]]:
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError) as caught:
        call(**fields)
    full = caught.value.response
    return full["ResponseMetadata"]["HTTPStatusCode"], full["Error"]["Code"], full


async def ended(held: DropInSidecar, invocation_id: str) -> Any:
    async with asyncio.timeout(60):
        while (record := await held.record(invocation_id)).ended_ms is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return record


async def test_events_are_accepted_and_run(switched: DropInSidecar):
    client = boto(switched)
    payloads = [b'{"n": 1}', '"\u4e2d\u6587 \u00e9"'.encode(), b""]
    for payload in payloads:
        event = await asyncio.to_thread(
            client.invoke, FunctionName="f", InvocationType="Event", Payload=payload
        )
        assert event["StatusCode"] == 202
        assert event["Payload"].read() == b""
        record = await ended(switched, event["ResponseMetadata"]["RequestId"])
        assert (record.state, record.tenant) == (State.SUCCEEDED, "products")
        assert record.payload_bytes == len(payload)
    assert switched.emulator.statistics()["lambda"].accepted_async == 3


async def test_a_reply_comes_back_with_its_error_and_log(switched: DropInSidecar):
    def calls() -> None:
        client = boto(switched)
        reply = client.invoke(FunctionName="f", Payload='"\u00e9"'.encode(), LogType="Tail")
        assert (reply["StatusCode"], reply["ExecutedVersion"]) == (200, "$LATEST")
        assert json.loads(reply["Payload"].read()) == "\u00e9"
        assert reply["LogResult"]
        assert "FunctionError" not in reply
        failed = client.invoke(FunctionName="f", Payload=FAILS)
        assert (failed["StatusCode"], failed["FunctionError"]) == (200, "Unhandled")
        told = json.loads(failed["Payload"].read())
        assert told["requestId"] == failed["ResponseMetadata"]["RequestId"]
        assert client.invoke(FunctionName="f")["Payload"].read() == b"{}"
        dry = client.invoke(FunctionName="f", InvocationType="DryRun")
        assert dry["StatusCode"] == 204
        limits = client.get_account_settings()["AccountLimit"]
        assert limits["ConcurrentExecutions"] == 3

    await asyncio.to_thread(calls)
    assert switched.engine.statistics().accepted["aws", "other", "lambda"] == 3


@pytest.mark.parametrize(
    ("name", "fields", "version"),
    [
        ("aliased:prod", {}, "prod"),
        ("aliased", {"Qualifier": "1"}, "1"),
        ("f", {"Qualifier": "$LATEST"}, "$LATEST"),
        (f"{AWS_ID}:function:aliased:prod", {}, "prod"),
        (f"arn:aws:lambda:eu-west-1:{AWS_ID}:function:aliased:prod", {}, "prod"),
        (f"arn:aws:lambda:eu-west-1:{AWS_ID}:function:f", {}, "$LATEST"),
    ],
)
async def test_functions_are_named_in_every_way(switched, name, fields, version):
    client = boto(switched)
    reply = await asyncio.to_thread(client.invoke, FunctionName=name, **fields)
    assert reply["ExecutedVersion"] == version


async def test_refusals_are_understood(switched: DropInSidecar):
    def calls() -> None:
        client = boto(switched)
        assert refused(client.invoke, FunctionName="none")[:2] == (404, "ResourceNotFoundException")
        for foreign in (
            f"arn:aws:lambda:eu-west-1:{'9' * 12}:function:f",
            f"arn:aws:lambda:us-east-1:{AWS_ID}:function:f",
        ):
            found = refused(client.invoke, FunctionName=foreign)
            assert found[:2] == (403, "AccessDeniedException")
        status, code, full = refused(client.invoke, FunctionName="f", Payload=b"{")
        assert (status, code) == (400, "InvalidRequestContentException")
        assert full["Error"]["Message"]
        assert refused(client.invoke, FunctionName="aliased:prod", Qualifier="1")[:2] == (
            400,
            "InvalidParameterValueException",
        )
        large = b'"' + bytes(1024 * 1024) + b'"'
        assert refused(client.invoke, FunctionName="f", InvocationType="Event", Payload=large)[
            :2
        ] == (413, "RequestTooLargeException")
        assert refused(client.list_functions)[:2] == (404, "UnknownOperationException")

    await asyncio.to_thread(calls)


async def test_whoever_waits_too_long_is_throttled(switched: DropInSidecar):
    client = boto(switched)
    running = [
        asyncio.create_task(asyncio.to_thread(boto(switched).invoke, FunctionName="slow"))
        for _ in range(3)
    ]
    await until(lambda: switched.engine.account("aws").in_use == 3)
    status, code, full = await asyncio.to_thread(refused, client.invoke, FunctionName="f")
    assert (status, code) == (429, "TooManyRequestsException")
    assert full["Reason"] == "ConcurrentInvocationLimitExceeded"
    assert int(full["retryAfterSeconds"]) >= 1
    assert switched.emulator.statistics()["lambda"].instances_peak == 3
    for task in running:
        assert (await task)["StatusCode"] == 200


async def test_wrong_keys_are_refused(switched: DropInSidecar):
    def calls() -> None:
        wrong = boto(switched, aws_secret_access_key="wrong")
        assert refused(wrong.invoke, FunctionName="f")[:2] == (403, "InvalidSignatureException")
        unknown = boto(switched, aws_access_key_id="AKIDNOBODY")
        found = refused(unknown.invoke, FunctionName="f")
        assert found[:2] == (403, "UnrecognizedClientException")
        # Left over from a cloud's role: signed, and of no meaning here.
        token = boto(switched, aws_session_token="token/of+a=session")
        assert token.invoke(FunctionName="f")["StatusCode"] == 200

    await asyncio.to_thread(calls)


async def test_sync_becomes_async_where_it_is_configured_so(tmp_path: Path):
    async with sidecar(tmp_path, "aws", "sync_to_async = true") as held:
        reply = await asyncio.to_thread(boto(held).invoke, FunctionName="f", Payload=b"{}")
        assert reply["StatusCode"] == 202
        record = await ended(held, reply["ResponseMetadata"]["RequestId"])
        assert record.state is State.SUCCEEDED
        _clients.pop().close()


async def test_an_sdks_own_retries_run_once(switched: DropInSidecar):
    """The first answer is lost on its way, so that boto3 sends the same call again."""
    import boto3
    from botocore.config import Config

    lost: list[bytes] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = switched.url.removeprefix("http://").rpartition(":")
        head = await reader.readuntil(b"\r\n\r\n")
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        up_writer.write(head + await reader.readexactly(2))
        answer = await up_reader.readuntil(b"\r\n\r\n")
        lost.append(answer)
        if len(lost) > 1:
            writer.write(answer)
            await writer.drain()
        up_writer.close()
        writer.close()

    proxy = await asyncio.start_server(forward, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    client = boto3.client(
        "lambda",
        region_name="eu-west-1",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        config=Config(retries={"total_max_attempts": 3, "mode": "standard"}),
    )
    event = await asyncio.to_thread(
        client.invoke, FunctionName="f", InvocationType="Event", Payload=b"{}"
    )
    client.close()
    proxy.close()
    assert len(lost) == 2
    first = event["ResponseMetadata"]["RequestId"].encode()
    assert all(first in answer for answer in lost)
    await ended(switched, first.decode())
    assert switched.emulator.statistics()["lambda"].accepted_async == 1


@pytest.mark.parametrize("library", ["aiohttp", "httpx"])
async def test_aiobotocore_invokes(switched: DropInSidecar, library: str):
    from aiobotocore.config import AioConfig
    from aiobotocore.session import get_session

    more: dict[str, Any] = {}
    if library == "httpx":
        pytest.importorskip("httpx")
        from aiobotocore.httpxsession import HttpxSession

        more["http_session_cls"] = HttpxSession
    async with get_session().create_client(
        "lambda",
        region_name="eu-west-1",
        endpoint_url=switched.url,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        config=AioConfig(retries={"total_max_attempts": 1}, **more),
    ) as client:
        event = await client.invoke(
            FunctionName="aliased:prod", InvocationType="Event", Payload=b"[1]"
        )
        assert event["StatusCode"] == 202
        record = await ended(switched, event["ResponseMetadata"]["RequestId"])
        assert (record.function, record.qualifier) == ("aliased", "prod")
        reply = await client.invoke(FunctionName="f", Payload='"h\u00e9llo"'.encode())
        assert (await reply["Payload"].read()).decode() == '"h\u00e9llo"'


@pytest.mark.slow
async def test_the_command_line_invokes(switched: DropInSidecar, tmp_path: Path):
    target = tmp_path / "out.json"
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL_LAMBDA": switched.url,
        "AWS_MAX_ATTEMPTS": "1",
    }

    async def aws(*words: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).parent / "aws"),
            *("lambda", "invoke", "--function-name"),
            *words,
            str(target),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    code, out, err = await aws("aliased:prod", "--payload", '{"k": "v"}')
    assert (code, err) == (0, "")
    assert json.loads(out)["StatusCode"] == 200
    assert json.loads(target.read_text()) == {"k": "v"}
    code, out, err = await aws("f", "--invocation-type", "Event")
    assert (code, err) == (0, "")
    assert json.loads(out)["StatusCode"] == 202
    code, _, err = await aws("none")
    assert code != 0
    assert "ResourceNotFoundException" in err
    environment["AWS_SECRET_ACCESS_KEY"] = "wrong"
    code, _, err = await aws("f")
    assert code != 0
    assert "InvalidSignatureException" in err
