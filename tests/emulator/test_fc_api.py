import asyncio
import base64

import pytest

from tests.emulator.conftest import ACCOUNTS

RUN = "/2023-03-30/functions/f/invocations"


async def test_an_asynchronous_call_is_accepted_with_its_task_id(client):
    reply = await client.task("t_1")
    assert reply.status == 202
    assert reply.body == b""
    assert "Content-Type" not in reply.headers
    assert reply.headers["X-Fc-Async-Task-Id"] == "t_1"
    assert reply.headers["X-Fc-Request-Id"]
    reply = await client.task(None)
    assert reply.headers["X-Fc-Async-Task-Id"] == reply.headers["X-Fc-Request-Id"]


async def test_a_repeated_task_id_is_refused_and_runs_once(client):
    await client.task("t_1")
    reply = await client.task("t_1")
    assert reply.status == 409
    assert reply.json["Code"] == "StatefulAsyncInvocationAlreadyExists"
    await asyncio.sleep(10)
    assert len(client.emulator.cloud.runs) == 1
    assert client.emulator.statistics()["fc"].duplicates_refused == 1


async def test_a_synchronous_call_returns_what_the_function_returns(client):
    reply = await client("POST", RUN, b"\x00\xff", x_fc_log_type="Tail")
    assert reply.status == 200
    assert reply.body == b"\x00\xff"
    assert reply.headers["X-Fc-Invocation-Duration"] == "2000"
    assert reply.headers["X-Fc-Instance-Id"]
    assert reply.headers["X-Fc-Invocation-Service-Version"] == "LATEST"
    assert b"RequestId" in base64.b64decode(reply.headers["X-Fc-Log-Result"])


async def test_a_failing_function_is_no_error_of_the_call(client):
    reply = await client("POST", RUN, {"emulate": {"fail": True, "unhandled": True}})
    assert reply.status == 200
    assert reply.headers["X-Fc-Error-Type"] == "UnhandledInvocationError"
    assert set(reply.json) == {"errorMessage", "errorType", "stackTrace"}


async def test_the_delay_is_kept(client):
    await client.task("t", x_fc_async_delay="60")
    await asyncio.sleep(100)
    [run] = client.emulator.cloud.runs
    assert run.ended_at == pytest.approx(62, abs=0.1)


@pytest.mark.parametrize(
    ("path", "headers", "body", "status", "code"),
    [
        (RUN, {"x_fc_invocation_type": "later"}, b"", 400, "InvalidArgument"),
        (RUN, {"x_fc_async_task_id": "1"}, b"", 400, "InvalidArgument"),
        (RUN, {"x_fc_async_delay": "3601"}, b"", 400, "InvalidArgument"),
        (RUN, {"x_fc_async_delay": "-1"}, b"", 400, "InvalidArgument"),
        (RUN, {}, b"x" * (128 * 1024 + 1), 400, "EntityTooLarge"),
        (RUN.replace("/f/", "/a%2Fb/"), {}, b"", 400, "InvalidArgument"),
        (RUN + "/more", {}, b"", 400, "PathNotSupported"),
        ("/2023-03-30/nothing", {}, b"", 400, "PathNotSupported"),
    ],
)
async def test_refusals_have_code_message_and_request_id(client, path, headers, body, status, code):
    headers = {"x_fc_invocation_type": "Async", **headers}
    reply = await client("POST", path, body, **headers)
    assert reply.status == status
    assert set(reply.json) == {"Code", "Message", "RequestId"}
    assert reply.json["Code"] == code
    assert reply.headers["X-Fc-Request-Id"] == reply.json["RequestId"]
    assert client.emulator.statistics()["fc"].accepted_async == 0


@pytest.mark.parametrize(
    ("function", "status", "code"),
    [
        ("capped", 429, "FunctionResourceExhausted"),
        ("fat", 503, "ResourceThrottled"),
        ("f", 429, "ResourceExhausted"),
        ("nobody", 404, "FunctionNotFound"),
        ("known?qualifier=9", 404, "VersionNotFound"),
        ("known?qualifier=test", 404, "AliasNotFound"),
    ],
)
async def test_what_is_short_or_missing_has_its_code(start, function, status, code):
    text = ACCOUNTS.replace('"cn-shanghai"', '"cn-shanghai"\nunlisted = false\nvcpu_max = 1')
    text += """
    [accounts.fc.functions.f]
    [accounts.fc.functions.capped]
    instances_max = 0
    [accounts.fc.functions.fat]
    vcpu = 2
    [accounts.fc.functions.known]
    qualifiers = ["prod"]
    """
    client = await start(text)
    if function == "f":
        for _ in range(3):
            await client.task(None)
    name, _, query = function.partition("?")
    reply = await client("POST", f"/2023-03-30/functions/{name}/invocations?{query}", b"")
    assert (reply.status, reply.json["Code"]) == (status, code)


async def test_a_caller_who_hangs_up_ends_the_run(client):
    call = asyncio.create_task(client("POST", RUN, b""))
    await asyncio.sleep(1)
    call.cancel()
    await asyncio.sleep(0.1)
    counted = client.emulator.statistics()["fc"]
    assert (counted.running, counted.abandoned) == (0, 1)


@pytest.mark.parametrize("sent", ["svc$f", "svc%24f"])
async def test_a_dollar_may_come_raw_or_encoded(client, sent):
    assert (await client.task("t", sent)).status == 202
    assert set(client.emulator.statistics()["fc"].functions) == {"svc$f"}


@pytest.mark.parametrize(
    ("version", "service", "keys"),
    [
        ("2021-04-06", "svc", {"Code", "Message", "RequestId"}),
        ("2016-08-15", "svc.LATEST", {"ErrorCode", "ErrorMessage", "RequestId"}),
    ],
)
async def test_the_older_apis_say_the_same_in_their_words(client, version, service, keys):
    base = f"/{version}/services/{service}/functions/f"
    headers = {
        "X_Fc_Invocation_Type": "Async",
        "X_Fc_Stateful_Async_Invocation_Id": "old",
    }
    reply = await client("POST", f"{base}/invocations", b"hi", **headers)
    assert reply.status == 202
    assert reply.headers["X-Fc-Stateful-Async-Invocation-Id"] == "old"
    reply = await client("POST", f"{base}/invocations", b"hi", **headers)
    assert reply.status == 409
    assert set(reply.json) == keys
    tasks = f"{base}/stateful-async-invocations"
    shown = (await client("GET", f"{tasks}/old")).json
    assert (shown["invocationId"], shown["status"]) == ("old", "Running")
    assert (shown["serviceName"], shown["functionName"]) == ("svc", "f")
    listed = (await client("GET", f"{tasks}?invocationIdPrefix=o&status=Running")).json
    assert [item["invocationId"] for item in listed["invocations"]] == ["old"]
    assert (await client("PUT", f"{tasks}/old")).status == 204
    missing = await client("GET", f"{tasks}/none")
    assert missing.status == 404
    assert "StatefulAsyncInvocationNotFound" in missing.json.values()
    # It is one function, whichever API names it.
    again = (await client("GET", "/2023-03-30/functions/svc$f/async-tasks/old")).json
    assert (again["taskId"], again["status"]) == ("old", "Stopped")


async def test_the_qualifier_of_a_service_stands_behind_its_dot(client):
    reply = await client("POST", "/2016-08-15/services/svc.prod/functions/f/invocations", b"")
    assert reply.headers["X-Fc-Invocation-Service-Version"] == "prod"
