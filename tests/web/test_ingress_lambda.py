"""Lambda's wire format, byte by byte: what no SDK of ours sends, but others do."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import yarl
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from dispatcher.core.model import Query, State
from tests.web.dropins import AWS_ID, KEY, SECRET, DropInSidecar, sidecar, until

pytestmark = pytest.mark.real_time

INVOKE = "/2015-03-31/functions/{}/invocations"
EVENT: Any = {"X-Amz-Invocation-Type": "Event"}


class Answer(msgspec.Struct):
    status: int
    headers: Any
    body: bytes

    @property
    def id(self) -> str:
        return str(self.headers["x-amzn-RequestId"])

    @property
    def error(self) -> tuple[int, str]:
        fields = msgspec.json.decode(self.body)
        assert fields.get("message") or fields["Message"]
        return self.status, self.headers["x-amzn-ErrorType"]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


async def send(
    session: aiohttp.ClientSession,
    held: DropInSidecar,
    path: str,
    body: bytes = b"{}",
    method: str = "POST",
    **headers: Any,
) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = yarl.URL(held.url + path, encoded=True)
    async with session.request(
        method, url, data=body, headers=named, skip_auto_headers=["Content-Type"]
    ) as reply:
        return Answer(reply.status, reply.headers, await reply.read())


def signed(held: DropInSidecar, path: str, body: bytes = b"{}", **headers: Any) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = AWSRequest("POST", held.url + path, data=body, headers=named)
    SigV4Auth(Credentials(KEY, SECRET), "lambda", "eu-west-1").add_auth(request)
    return dict(request.headers.items())


# -- Without clients


@pytest.fixture
async def open_door(tmp_path: Path) -> AsyncIterator[DropInSidecar]:
    async with sidecar(tmp_path, None) as held:
        yield held


async def test_an_event_is_in_the_journal_when_it_is_answered(open_door, session):
    answer = await send(session, open_door, INVOKE.format("f%3Aprod"), b"", **EVENT)
    assert (answer.status, answer.body) == (202, b"")
    assert answer.headers["Content-Length"] == "0"
    assert "Content-Type" not in answer.headers
    sent_at = parsedate_to_datetime(answer.headers["Date"])
    assert abs((dt.datetime.now(dt.UTC) - sent_at).total_seconds()) < 60
    async with session.get(f"{open_door.url}/v1/invocations/{answer.id}") as shown:
        fields = await shown.json()
    assert (fields["function"], fields["qualifier"]) == ("f", "prod")
    assert (fields["account"], fields["tenant"]) == ("aws", "default")


async def test_an_event_by_the_deprecated_operation(open_door, session):
    for path in ("/2014-11-13/functions/f/invoke-async", "/2014-11-13/functions/f/invoke-async/"):
        answer = await send(session, open_door, path)
        assert answer.status == 202
        assert (await open_door.record(answer.id)).function == "f"
    large = b'"' + bytes(256 * 1024) + b'"'
    answer = await send(session, open_door, "/2014-11-13/functions/f/invoke-async", large)
    assert answer.error == (413, "RequestTooLargeException")


async def test_options_travel_on_and_do_not_lose_their_values(open_door, session):
    context = "eyJhIjogMX0="
    answer = await send(
        session,
        open_door,
        INVOKE.format("f"),
        **EVENT,
        X_Amz_Client_Context=context,
        X_Amz_Tenant_Id="blue",
        X_Amz_Durable_Execution_Name="run-1",
        x_AMZ_log_type="Tail",
    )
    assert (await open_door.record(answer.id)).options == {
        "client_context": context,
        "tenant_id": "blue",
        "durable_execution_name": "run-1",
        "log_type": "Tail",
    }


@pytest.mark.parametrize(
    ("path", "headers", "error"),
    [
        (INVOKE.format("f"), {"X-Amz-Invocation-Type": "Later"}, (400, "InvalidParameterValueException")),
        (INVOKE.format("f"), {"X-Amz-Log-Type": "All"}, (400, "InvalidParameterValueException")),
        (INVOKE.format("f"), {"X-Amz-Client-Context": "{}"}, (400, "InvalidRequestContentException")),
        (INVOKE.format("f"), {"X-Amz-Client-Context": "A" * 3584}, (400, "InvalidRequestContentException")),
        (INVOKE.format("f"), {"X-Amz-Durable-Execution-Name": "a b"}, (400, "InvalidParameterValueException")),
        (INVOKE.format("f%2Fg"), {}, (400, "ValidationException")),
        (INVOKE.format("%E4%B8%AD"), {}, (400, "ValidationException")),
        (INVOKE.format("%2E%2E"), {}, (400, "ValidationException")),
        (INVOKE.format("f") + "?Qualifier=a%20b", {}, (400, "ValidationException")),
        (INVOKE.format("arn%3Aaws%3Alambda%3Aus-east-1%3A123456789012%3Afunction%3Af"), {}, (403, "AccessDeniedException")),
        ("/2015-03-31/functions/f", {}, (404, "UnknownOperationException")),
        ("/2021-11-15/functions/f/response-streaming-invocations", {}, (404, "UnknownOperationException")),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_told_in_words_of_lambda(open_door, session, path, headers, error):
    answer = await send(session, open_door, path, **headers)
    assert answer.error == error
    assert answer.headers["Content-Type"] == "application/json"
    assert open_door.engine.statistics().accepted == {}


@pytest.mark.parametrize("body", [b"{", b"\xff", b'"\xff"', b"{} {}", b"NaN"])
async def test_what_is_no_json_is_refused(open_door, session, body):
    answer = await send(session, open_door, INVOKE.format("f"), body, **EVENT)
    assert answer.error == (400, "InvalidRequestContentException")


async def test_a_function_that_is_not_allowed_is_not_found(tmp_path, session):
    more = '[accounts.two]\nprovider = "aws-lambda"\naccount_id = "210987654321"\n'
    more += 'region = "us-east-1"\nquota = 1\nunlisted = false\nfunctions.g = {duration_s = 1}\n'
    more += 'credentials = {source = "static", access_key_id = "A", access_key_secret_file = "secret"}\n'
    async with sidecar(tmp_path, None, more=more) as held:
        # Two accounts: it takes an ARN to tell them apart.
        arn = "arn%3Aaws%3Alambda%3A{}%3A{}%3Afunction%3A{}"
        answer = await send(session, held, INVOKE.format("f"), **EVENT)
        assert answer.error == (403, "AccessDeniedException")
        one, two = (
            arn.format("eu-west-1", AWS_ID, "f"),
            arn.format("us-east-1", "210987654321", "f"),
        )
        answer = await send(session, held, INVOKE.format(one), **EVENT)
        assert (await held.record(answer.id)).account == "aws"
        answer = await send(session, held, INVOKE.format(two), **EVENT)
        assert answer.error == (404, "ResourceNotFoundException")
        dry: Any = {"X-Amz-Invocation-Type": "DryRun"}
        answer = await send(session, held, INVOKE.format(two), **dry)
        assert answer.error == (404, "ResourceNotFoundException")
        answer = await send(session, held, INVOKE.format(one), **dry)
        assert (answer.status, answer.body) == (204, b"")


async def test_a_target_may_be_absolute(open_door):
    host, _, port = open_door.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST {open_door.url}/2015-03-31/functions/f/invocations HTTP/1.1\r\nhOST: {host}\r\n"
        "X-AMZ-INVOCATION-TYPE: Event\r\ncontent-length: 2\r\n\r\n{}".encode()
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 202 ")
    writer.close()
    await writer.wait_closed()


async def test_a_caller_that_hangs_up_while_it_waits_is_forgotten(open_door, session):
    running = [
        asyncio.create_task(send(session, open_door, INVOKE.format("slow"))) for _ in range(3)
    ]
    await until(lambda: open_door.engine.account("aws").in_use == 3)
    waiting = asyncio.create_task(send(session, open_door, INVOKE.format("f")))
    await until(lambda: open_door.engine.account("aws").queued.due == 1)
    waiting.cancel()
    await until(lambda: not open_door.engine.account("aws").queued.due)
    assert [(await task).status for task in running] == [200] * 3
    assert open_door.emulator.statistics()["lambda"].instances_peak == 3


# -- With clients


@pytest.fixture
async def locked(tmp_path: Path) -> AsyncIterator[DropInSidecar]:
    async with sidecar(tmp_path, "aws") as held:
        yield held


async def test_nobody_comes_in_without_a_key(locked, session):
    answer = await send(session, locked, INVOKE.format("f"), **EVENT)
    assert answer.error == (403, "MissingAuthenticationTokenException")
    query = "?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=" + "0" * 64
    answer = await send(session, locked, INVOKE.format("f") + query, **EVENT)
    assert answer.error == (403, "IncompleteSignatureException")


async def test_a_request_is_not_let_in_twice(locked, session, monkeypatch):
    monkeypatch.setattr("dispatcher.web.clients.SAME_SECOND_S", 0.0)
    path = INVOKE.format("f")
    headers = signed(locked, path, **EVENT)
    assert (await send(session, locked, path, **headers)).status == 202
    answer = await send(session, locked, path, **headers)
    assert answer.error == (403, "InvalidSignatureException")
    assert locked.engine.statistics().accepted["aws", "other", "lambda"] == 1


async def test_two_equal_calls_of_an_sdk_without_ids_are_two_calls(locked, session):
    path = INVOKE.format("f")
    headers = signed(locked, path, **EVENT)
    ids = {(await send(session, locked, path, **headers)).id for _ in range(2)}
    assert len(ids) == 2


async def test_an_sdks_retry_is_the_same_invocation_and_another_call_is_not(locked, session):
    path = INVOKE.format("f")

    async def event(sdk_id: str, attempt: int, body: bytes = b"{}") -> str:
        headers = signed(
            locked,
            path,
            body,
            **EVENT,
            amz_sdk_invocation_id=sdk_id,
            amz_sdk_request=f"attempt={attempt}; max=3",
        )
        return (await send(session, locked, path, body, **headers)).id

    first = await event("a", 1)
    assert await event("a", 1) == first  # to the byte
    assert await event("a", 2) == first
    assert len({first, await event("b", 1), await event("a", 3, b"[]")}) == 3


async def test_late_retries_are_calls_of_their_own(locked, session, monkeypatch):
    path = INVOKE.format("f")

    async def event() -> str:
        headers = signed(locked, path, **EVENT, amz_sdk_invocation_id="a")
        return (await send(session, locked, path, **headers)).id

    first = await event()
    monkeypatch.setattr("dispatcher.web.ingress_lambda.SDK_RETRIES_MAX_S", 0.0)
    second = await event()
    monkeypatch.setattr("dispatcher.web.ingress_lambda.SDK_RETRIES_MAX_S", 900.0)
    assert await event() == first != second


async def test_users_keys_are_apart_from_those_of_sdks(locked, session):
    path = INVOKE.format("f")
    headers = signed(locked, path, **EVENT, amz_sdk_invocation_id="a")
    first = (await send(session, locked, path, **headers)).id
    kept = (await locked.record(first)).key
    assert kept.startswith("sdk ")  # with a blank, which no key has that a caller may give
    body = {"account": "aws", "function": "f", "idempotency_key": kept}
    async with session.post(f"{locked.url}/v1/invocations", json=body) as answer:
        assert answer.status == 422


async def test_keys_change_with_a_reload(locked, session, tmp_path):
    path = INVOKE.format("f")
    (tmp_path / "secret").write_text("another")
    config = locked.engine.settings
    locked.clients.take(config, await locked.clients.read(config))
    answer = await send(session, locked, path, **signed(locked, path, **EVENT))
    assert answer.error == (403, "InvalidSignatureException")
    locked.clients.take(config, {})
    assert (await send(session, locked, path, **EVENT)).status == 202


async def test_a_client_of_the_other_cloud_is_denied(tmp_path, session):
    async with sidecar(tmp_path, "fc") as held:
        path = INVOKE.format("f")
        answer = await send(session, held, path, **signed(held, path, **EVENT))
        assert answer.error == (403, "AccessDeniedException")


async def test_a_queue_that_is_full_and_an_end_are_told(tmp_path, session):
    async with sidecar(tmp_path, None, more="[queue]\njobs_max = 1") as held:
        held.engine.pause("aws")
        path = INVOKE.format("f")
        assert (await send(session, held, path, **EVENT)).status == 202
        answer = await send(session, held, path, **EVENT)
        assert answer.error == (429, "TooManyRequestsException")
        assert msgspec.json.decode(answer.body)["Reason"] == "CallerRateLimitExceeded"
        assert answer.headers["Retry-After"] == "1"
        held.engine.draining = True
        answer = await send(session, held, path, **EVENT)
        assert answer.error == (503, "ServiceUnavailableException")
        assert answer.headers["Retry-After"] == "1"
        assert [v.record.state for v in (await held.engine.find(Query()))[0]] == [State.WAITING]
