import asyncio
import base64

import pytest

from tests.emulator.conftest import ACCOUNTS

RUN = "/2015-03-31/functions/f/invocations"


async def test_an_event_is_accepted_with_an_empty_body(client):
    reply = await client.event(body={"a": 1})
    assert reply.status == 202
    assert reply.body == b""
    assert reply.headers["Content-Length"] == "0"
    assert "Content-Type" not in reply.headers
    assert len(reply.headers["x-amzn-RequestId"]) == 36
    await asyncio.sleep(2)
    [run] = client.emulator.cloud.runs
    assert run.request_id == reply.headers["x-amzn-RequestId"]
    assert run.payload_head == b'{"a":1}'


async def test_a_synchronous_call_takes_as_long_as_its_function(client):
    loop = asyncio.get_running_loop()
    begun = loop.time()
    reply = await client.sync(body={"a": 1}, X_Amz_Log_Type="Tail")
    assert loop.time() - begun == pytest.approx(2)
    assert reply.status == 200
    assert reply.json == {"a": 1}
    assert reply.headers["X-Amz-Executed-Version"] == "$LATEST"
    log = base64.b64decode(reply.headers["X-Amz-Log-Result"]).decode()
    assert f"REPORT RequestId: {reply.headers['x-amzn-RequestId']}\tDuration: 2000.00 ms" in log


async def test_over_the_quota_only_synchronous_calls_are_refused(client):
    for _ in range(5):
        assert (await client.event()).status == 202
    reply = await client.sync()
    assert reply.status == 429
    assert reply.headers["x-amzn-ErrorType"] == "TooManyRequestsException"
    assert reply.headers["Retry-After"] == "1"
    assert reply.json == {
        "Reason": "ConcurrentInvocationLimitExceeded",
        "Type": "User",
        "message": "Rate Exceeded.",
    }


async def test_a_failing_function_is_no_error_of_the_call(client):
    reply = await client.sync(body={"emulate": {"fail": True}})
    assert reply.status == 200
    assert reply.headers["X-Amz-Function-Error"] == "Unhandled"
    assert reply.json["errorType"] == "EmulatedError"
    assert reply.json["requestId"] == reply.headers["x-amzn-RequestId"]


async def test_a_response_that_is_too_large_is_a_failure(client):
    reply = await client.sync(body={"emulate": {"result_bytes": 6 * 1024 * 1024 + 1}})
    assert reply.headers["X-Amz-Function-Error"] == "Unhandled"
    assert reply.json["errorType"] == "Function.ResponseSizeTooLarge"


@pytest.mark.parametrize(
    ("path", "headers", "body", "status", "code", "key"),
    [
        (RUN, {}, b"{", 400, "InvalidRequestContentException", "message"),
        (RUN, {}, b'"\xff"', 400, "InvalidRequestContentException", "message"),
        (
            RUN,
            {"X_Amz_Invocation_Type": "Later"},
            b"",
            400,
            "InvalidParameterValueException",
            "message",
        ),
        (
            RUN,
            {"X_Amz_Client_Context": "%%%"},
            b"",
            400,
            "InvalidRequestContentException",
            "message",
        ),
        (
            RUN,
            {"X_Amz_Client_Context": "A" * 3584},
            b"",
            400,
            "InvalidRequestContentException",
            "message",
        ),
        (RUN.replace("/f/", "/f%3Aa/") + "?Qualifier=b", {}, b"", 400, "", "message"),
        (RUN.replace("/f/", "/a%20b/"), {}, b"", 400, "ValidationException", "message"),
        (
            RUN.replace("/f/", "/123456789013%3Afunction%3Af/"),
            {},
            b"",
            403,
            "AccessDeniedException",
            "Message",
        ),
        ("/2015-03-31/nothing", {}, b"", 404, "UnknownOperationException", "message"),
        (RUN, {}, b"x" * (6 * 1024 * 1024 + 1), 413, "RequestTooLargeException", "message"),
        (
            RUN,
            {"X_Amz_Invocation_Type": "Event"},
            b"x" * (1024 * 1024 + 1),
            413,
            "RequestTooLargeException",
            "message",
        ),
        (
            "/2014-11-13/functions/f/invoke-async/",
            {},
            b"x" * (256 * 1024 + 1),
            413,
            "RequestTooLargeException",
            "message",
        ),
    ],
)
async def test_refusals_have_the_modelled_shape(client, path, headers, body, status, code, key):
    reply = await client("POST", path, body, **headers)
    assert reply.status == status
    assert reply.headers["x-amzn-ErrorType"].startswith(code)
    assert reply.json["Type"] == "User"
    assert reply.json[key]
    assert reply.headers["x-amzn-RequestId"]
    assert client.emulator.statistics()["aws"].accepted_async == 0


async def test_unknown_functions_are_not_found(start):
    client = await start(ACCOUNTS.replace("quota = 3\nqueues", "quota = 3\nunlisted=false\nqueues"))
    reply = await client.event("nobody")
    assert reply.status == 404
    assert reply.headers["x-amzn-ErrorType"] == "ResourceNotFoundException"
    arn = "arn:aws:lambda:eu-west-1:123456789012:function:nobody"
    assert reply.json == {"Type": "User", "Message": f"Function not found: {arn}"}


async def test_the_rate_of_callers_is_limited(start):
    client = await start(ACCOUNTS.replace("quota = 3\nq", "quota = 3\nrate_max_per_s=1\nq"))
    assert (await client.event()).status == 202
    reply = await client.event()
    assert reply.status == 429
    assert reply.json["Reason"] == "CallerRateLimitExceeded"


async def test_a_dry_run_runs_nothing(client):
    reply = await client.sync(X_Amz_Invocation_Type="DryRun")
    assert reply.status == 204
    assert client.emulator.statistics()["aws"].runs == 0


async def test_the_deprecated_call_is_an_event(client):
    reply = await client("POST", "/2014-11-13/functions/f/invoke-async/", b"{}")
    assert reply.status == 202
    assert client.emulator.statistics()["aws"].accepted_async == 1


async def test_names_are_percent_decoded(client):
    reply = await client.sync("f%3Aprod")
    assert reply.headers["X-Amz-Executed-Version"] == "prod"
    reply = await client("POST", RUN + "?Qualifier=%24LATEST", b"{}")
    assert reply.headers["X-Amz-Executed-Version"] == "$LATEST"
    assert set(client.emulator.statistics()["aws"].functions) == {"f"}


async def test_a_caller_who_hangs_up_does_not_end_the_run(client):
    call = asyncio.create_task(client.sync())
    await asyncio.sleep(1)
    call.cancel()
    await asyncio.sleep(0.5)
    assert client.emulator.statistics()["aws"].running == 1
    await asyncio.sleep(1)
    assert client.emulator.statistics()["aws"].answered == 1
