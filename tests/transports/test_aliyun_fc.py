"""What goes to Function Compute, byte for byte; what comes back is in test_fc_replies.py."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import anyio
import pytest
from msgspec.structs import replace

from dispatcher.config import AccountSettings
from dispatcher.core.model import (
    Accepted,
    Call,
    CallType,
    Denied,
    Lost,
    NotSent,
    Provider,
    Refused,
    Replied,
    Throttled,
)
from dispatcher.core.rules import FunctionRules
from dispatcher.transports.aliyun_fc import FcTransport, default_endpoint
from dispatcher.transports.credentials import Keys
from dispatcher.transports.wire import MIB
from tests.transports.keyrings import FixedKeyring
from tests.transports.servers import Handler, Peer, RawServer, Request, raw_server

TASK = Call(function="f", qualifier=None, type=CallType.ASYNC, task_id="i_7", payload=b"{}")
WAITING = replace(TASK, type=CallType.SYNC)


@asynccontextmanager
async def opened(
    handle: Handler, keys: Keys | None = None, **rules
) -> AsyncIterator[tuple[FcTransport, RawServer]]:
    async with raw_server(handle) as server:
        account = AccountSettings(
            provider=Provider.ALIYUN_FC,
            account_id="1031",
            region="cn-shanghai",
            quota=1,
            endpoint=server.url,
            **rules,
        )
        async with aclosing(FcTransport(account, FixedKeyring(keys))) as transport:
            yield transport, server


async def accept(request: Request, peer: Peer) -> None:
    await peer.reply("202 Accepted", X_Fc_Request_Id="r")


def signed_names(request: Request) -> list[str]:
    return (
        request.headers["Authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    )


async def test_a_task_is_asked_for_as_a_task():
    async with opened(accept) as (transport, server):
        assert await transport.send(TASK) == Accepted("r")
        (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/2023-03-30/functions/f/invocations")
    headers = request.headers
    assert headers["x-fc-invocation-type"] == "Async"
    assert headers["x-fc-async-task-id"] == "i_7"
    assert headers["x-acs-action"] == "InvokeFunction"
    assert headers["x-acs-version"] == "2023-03-30"
    assert headers["content-type"] == "application/octet-stream"
    assert headers["Host"] == server.url.removeprefix("http://")
    assert request.body == b"{}"
    # Everything that says what is to be done is signed.
    assert signed_names(request) == sorted(
        name.lower()
        for name in headers
        if name.lower() in ("host", "content-type") or name.startswith(("x-acs-", "x-fc-"))
    )
    for name in ("x-fc-async-delay", "x-acs-security-token", "Transfer-Encoding"):
        assert name not in headers


async def test_a_synchronous_call_bears_no_task_id():
    async def handle(request: Request, peer: Peer):
        await peer.reply("200 OK", b"[1]", X_Fc_Request_Id="r")

    async with opened(handle) as (transport, server):
        outcome = await transport.send(WAITING)
    assert isinstance(outcome, Replied)
    assert (outcome.request_id, outcome.payload) == ("r", b"[1]")
    assert server.requests[0].headers["x-fc-invocation-type"] == "Sync"
    assert "x-fc-async-task-id" not in server.requests[0].headers


@pytest.mark.parametrize(
    ("function", "qualifier", "target"),
    [
        ("f", "LATEST", "f/invocations?qualifier=LATEST"),
        ("m42-ng-fc$surf2surf", None, "m42-ng-fc%24surf2surf/invocations"),
        ("s$f", "a b", "s%24f/invocations?qualifier=a%20b"),
        ("../x", None, "..%2Fx/invocations"),
    ],
)
async def test_names_go_through_escaped(function: str, qualifier: str | None, target: str):
    async with opened(accept) as (transport, server):
        call = replace(TASK, function=function, qualifier=qualifier)
        assert await transport.send(call) == Accepted("r")
    assert server.requests[0].target == f"/2023-03-30/functions/{target}"


async def test_temporary_keys_send_their_token():
    async with opened(accept, Keys("AK", "s", "token")) as (transport, server):
        await transport.send(TASK)
    (request,) = server.requests
    assert request.headers["x-acs-security-token"] == "token"
    assert request.headers["x-acs-accesskey-id"] == "AK"
    assert {"x-acs-security-token", "x-acs-accesskey-id"} <= set(signed_names(request))


async def test_options_travel_where_they_make_sense():
    options = {"async_delay": "20", "log_type": "Tail", "trace_id": "abc"}

    async def handle(request: Request, peer: Peer):
        await peer.reply("200 OK")

    async with opened(handle) as (transport, server):
        await transport.send(replace(TASK, options=options))
        await transport.send(replace(WAITING, options=options))
    task, waiting = (request.headers for request in server.requests)
    assert task["x-fc-async-delay"] == "20"
    assert "x-fc-log-type" not in task
    assert waiting["x-fc-log-type"] == "Tail"
    assert "x-fc-async-delay" not in waiting
    assert task["x-fc-trace-id"] == waiting["x-fc-trace-id"] == "abc"


@pytest.mark.parametrize(
    "call",
    [
        replace(TASK, options={"colour": "blue"}),
        replace(TASK, options={"trace_id": "a\nb"}),
        replace(TASK, task_id="a\r\nx-fc-invocation-type: Sync"),
        replace(TASK, function="\ud800"),
    ],
)
async def test_what_cannot_be_sent_is_refused_and_not_sent(call: Call):
    async with opened(accept) as (transport, server):
        outcome = await transport.send(call)
        assert isinstance(outcome, Refused)
        assert outcome.failure.kind == "invalid"
        assert server.requests == []


async def test_no_nonce_is_used_twice():
    async with opened(accept) as (transport, server):
        for _ in range(20):
            await transport.send(TASK)
    nonces = {request.headers["x-acs-signature-nonce"] for request in server.requests}
    assert len(nonces) == 20


async def test_a_resend_repeats_the_task_id_and_a_known_one_is_accepted():
    async def handle(request: Request, peer: Peer):
        if len(server.requests) == 1:
            peer.reset()
        else:
            await peer.reply("409 Conflict", b'{"Code":"Whatever"}', X_Fc_Request_Id="second")

    async with opened(handle) as (transport, server):
        assert isinstance(await transport.send(TASK), Lost)
        assert await transport.send(TASK) == Accepted("second")
        assert {request.headers["x-fc-async-task-id"] for request in server.requests} == {"i_7"}


async def test_a_function_may_take_its_time():
    async def handle(request: Request, peer: Peer):
        await anyio.sleep(100)
        await peer.reply("200 OK")

    functions = {"f": FunctionRules(hold_max_s=120.0), "*": FunctionRules(hold_max_s=10.0)}
    async with opened(handle, functions=functions) as (transport, _):
        assert isinstance(await transport.send(WAITING), Replied)
        other = await transport.send(replace(WAITING, function="other"))
        assert isinstance(other, Lost)
        assert other.timed_out


async def test_requests_in_flight_are_bounded():
    async def handle(request: Request, peer: Peer):
        await anyio.sleep(1)
        await accept(request, peer)

    async with opened(handle, requests_max=2) as (transport, server):
        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(transport.send, TASK)
        assert server.connections == 2
        assert anyio.current_time() == 3
        assert len(server.requests) == 6


@pytest.mark.real_time  # the kernel takes its time with so many bytes
async def test_a_large_payload_and_a_large_reply():
    async def handle(request: Request, peer: Peer):
        await peer.reply("200 OK", request.body)

    body = b"\x00\xff" * 16 * MIB
    async with opened(handle) as (transport, _):
        outcome = await transport.send(replace(WAITING, payload=body))
    assert isinstance(outcome, Replied)
    assert outcome.payload == body
    assert transport.payload_max_bytes(CallType.SYNC) == 32 * MIB
    assert transport.payload_max_bytes(CallType.ASYNC) == 128 * 1024


# -- Management -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "stopped"), [("200 OK", True), ("404 Not Found", False), ("500 Oops", False)]
)
async def test_a_task_is_stopped(status: str, stopped: bool):
    async def handle(request: Request, peer: Peer):
        await peer.reply(status, b"{}")

    async with opened(handle) as (transport, server):
        call = replace(TASK, function="s$f", qualifier="live")
        assert await transport.stop(call) is stopped
    (request,) = server.requests
    assert request.method == "PUT"
    assert request.target == "/2023-03-30/functions/s%24f/async-tasks/i_7/stop?qualifier=live"
    assert request.headers["x-acs-action"] == "StopAsyncTask"
    assert request.body == b""


async def test_a_task_that_nobody_could_be_asked_to_stop_is_not_stopped(caplog):
    async def handle(request: Request, peer: Peer):
        peer.reset()

    async with opened(handle) as (transport, _):
        assert await transport.stop(TASK) is False
    assert "cannot stop task i_7 of f" in caplog.text


async def test_a_management_request_is_signed_and_given_back_as_it_is():
    async def handle(request: Request, peer: Peer):
        await peer.reply("404 Not Found", b'{"Code":"AsyncTaskNotFound"}', X_Fc_Request_Id="r")

    async with opened(handle, Keys("AK", "s", "token")) as (transport, server):
        reply = await transport.manage(
            "ListAsyncTasks",
            "GET",
            ("functions", "s$f", "async-tasks"),
            {"status": "Running", "prefix": "i_", "limit": "100", "includePayload": "false"},
        )
    assert isinstance(reply, tuple)
    assert reply[0] == 404
    assert reply[1]["x-fc-request-id"] == "r"
    assert reply[2] == b'{"Code":"AsyncTaskNotFound"}'
    (request,) = server.requests
    assert request.target == (
        "/2023-03-30/functions/s%24f/async-tasks"
        "?includePayload=false&limit=100&prefix=i_&status=Running"
    )
    assert request.headers["x-acs-action"] == "ListAsyncTasks"
    assert request.headers["x-acs-security-token"] == "token"


async def test_a_management_request_can_bear_json():
    async def handle(request: Request, peer: Peer):
        assert json.loads(request.body) == {"asyncTask": True}
        assert request.headers["content-type"] == "application/json; charset=utf-8"
        await peer.reply("200 OK", request.body)

    async with opened(handle) as (transport, _):
        path = ("functions", "f", "async-invoke-config")
        reply = await transport.manage(
            "PutAsyncInvokeConfig", "PUT", path, body=b'{"asyncTask":true}'
        )
        assert isinstance(reply, tuple)
        assert reply[2] == b'{"asyncTask":true}'


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        ("429 Too Many", b'{"Code":"Throttling.User"}', Throttled),
        ("403 Forbidden", b'{"Code":"AccessDenied"}', Denied),
    ],
)
async def test_a_refused_management_request_says_so(status: str, body: bytes, kind: type):
    async def handle(request: Request, peer: Peer):
        await peer.reply(status, body)

    async with opened(handle) as (transport, _):
        transport._keyring._renewable_at = float("inf")
        reply = await transport.manage("GetAsyncTask", "GET", ("functions", "f"))
        assert isinstance(reply, kind)


async def test_a_management_request_without_a_whole_reply_is_lost():
    async def handle(request: Request, peer: Peer):
        await peer.say("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{")
        peer.reset()

    async with opened(handle) as (transport, _):
        reply = await transport.manage("GetAsyncTask", "GET", ("functions", "f"))
        assert isinstance(reply, Lost)
        reply = await transport.manage("GetAsyncTask", "GET", ("functions", "\ud800"))
        assert isinstance(reply, NotSent)


async def test_management_does_not_wait_behind_sends():
    async def handle(request: Request, peer: Peer):
        if request.method == "POST":
            await anyio.sleep(60)
        await peer.reply("200 OK")

    async with (
        opened(handle, requests_max=1) as (transport, _),
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(transport.send, WAITING)
        await anyio.sleep(1)
        reply = await transport.manage("GetAsyncTask", "GET", ("functions", "f"))
        assert isinstance(reply, tuple)
        assert anyio.current_time() == 1
        tasks.cancel_scope.cancel()


def test_the_public_endpoint_bears_the_account():
    assert default_endpoint("1031", "cn-shanghai") == "https://1031.cn-shanghai.fc.aliyuncs.com"


# -- Traces ---------------------------------------------------------------------------------------


async def test_a_trace_goes_on_in_the_headers_that_functions_see():
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with opened(accept) as (transport, server):
        options = {"traceparent": parent, "tracestate": "vendor=1", "trace_id": "own"}
        assert await transport.send(replace(TASK, options=options)) == Accepted("r")
        assert await transport.send(replace(TASK, options={"traceparent": "x"})) == Accepted("r")
        first, second = server.requests
    context = "4bf92f3577b34da6a3ce929d0e0e4736:00f067aa0ba902b7:0:1"
    assert first.headers["X-Fc-Tracing-Opentracing-Span-Context"] == context
    assert first.headers["traceparent"] == parent
    assert first.headers["tracestate"] == "vendor=1"
    assert first.headers["X-Fc-Trace-Id"] == "own"
    # A proxy on the way may be part of the trace, so they are not signed.
    assert not {"traceparent", "x-fc-tracing-opentracing-span-context"} & set(signed_names(first))
    assert not {"traceparent", "X-Fc-Tracing-Opentracing-Span-Context"} & set(second.headers)
