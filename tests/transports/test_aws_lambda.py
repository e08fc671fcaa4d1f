"""What goes to Lambda, byte for byte; what comes back is in test_lambda_replies.py."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import botocore
import pytest
from msgspec.structs import replace

from dispatcher.config import AccountSettings
from dispatcher.core.model import Accepted, Call, CallType, Denied, Lost, Provider, Refused, Replied
from dispatcher.core.rules import FunctionRules
from dispatcher.transports.aws_lambda import LambdaTransport, default_endpoint
from dispatcher.transports.credentials import Keys
from dispatcher.transports.wire import MIB
from tests.transports.keyrings import FixedKeyring
from tests.transports.servers import Handler, Peer, RawServer, Request, raw_server

EVENT = Call(function="f", qualifier=None, type=CallType.ASYNC, task_id="t", payload=b'{"a":1}')
WAITING = replace(EVENT, type=CallType.SYNC)


def account(url: str | None = None, **rules) -> AccountSettings:
    return AccountSettings(
        provider=Provider.AWS_LAMBDA,
        account_id="1",
        region="eu-west-1",
        quota=1,
        endpoint=url,
        **rules,
    )


@asynccontextmanager
async def opened(
    handle: Handler, keys: Keys | None = None, **rules
) -> AsyncIterator[tuple[LambdaTransport, RawServer]]:
    async with raw_server(handle) as server:
        transport = LambdaTransport(account(server.url, **rules), FixedKeyring(keys))
        async with aclosing(transport):
            yield transport, server


async def accept(request: Request, peer: Peer) -> None:
    await peer.reply("202 Accepted", X_Amzn_RequestId="r")


async def test_an_event_is_asked_for_as_an_event():
    async with opened(accept) as (transport, server):
        assert await transport.send(EVENT) == Accepted("r")
        (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/2015-03-31/functions/f/invocations")
    assert request.headers["X-Amz-Invocation-Type"] == "Event"
    assert request.headers["Host"] == server.url.removeprefix("http://")
    assert request.headers["Accept-Encoding"] == "identity"
    assert request.body == b'{"a":1}'
    signed = "SignedHeaders=host;x-amz-date;x-amz-invocation-type, "
    assert signed in request.headers["Authorization"]
    for name in ("X-Amz-Log-Type", "X-Amz-Security-Token", "Transfer-Encoding", "Cookie"):
        assert name not in request.headers


async def test_a_synchronous_call_is_asked_for_as_one():
    async def handle(request: Request, peer: Peer):
        await peer.reply("200 OK", b"[1]", X_Amzn_RequestId="r")

    async with opened(handle) as (transport, server):
        assert await transport.send(WAITING) == Replied(request_id="r", payload=b"[1]")
    assert server.requests[0].headers["X-Amz-Invocation-Type"] == "RequestResponse"


@pytest.mark.parametrize(
    ("function", "qualifier", "target"),
    [
        ("f", "live", "f/invocations?Qualifier=live"),
        ("f", "$LATEST", "f/invocations?Qualifier=%24LATEST"),
        ("f:live", None, "f%3Alive/invocations"),
        (
            "arn:aws:lambda:eu-west-1:000000000000:function:f:7",
            None,
            "arn%3Aaws%3Alambda%3Aeu-west-1%3A000000000000%3Afunction%3Af%3A7/invocations",
        ),
        ("../secret?x#y", None, "..%2Fsecret%3Fx%23y/invocations"),
        ("..", None, "%2E%2E/invocations"),
        ("caf\u00e9", None, "caf%C3%A9/invocations"),
    ],
)
async def test_names_go_through_escaped(function: str, qualifier: str | None, target: str):
    async with opened(accept) as (transport, server):
        call = replace(EVENT, function=function, qualifier=qualifier)
        assert await transport.send(call) == Accepted("r")
    assert server.requests[0].target == f"/2015-03-31/functions/{target}"


async def test_options_travel_as_signed_headers():
    options = {
        "client_context": "e30=",
        "durable_execution_name": "order-7",
        "log_type": "Tail",
        "tenant_id": "blue",
    }

    async def handle(request: Request, peer: Peer):
        await peer.reply("200 OK")

    async with opened(handle, Keys("AK", "s", "token")) as (transport, server):
        await transport.send(replace(WAITING, options=options))
        await transport.send(replace(EVENT, options=options))
    waiting, event = (request.headers for request in server.requests)
    assert waiting["X-Amz-Client-Context"] == "e30="
    assert waiting["X-Amz-Durable-Execution-Name"] == "order-7"
    assert waiting["X-Amz-Log-Type"] == "Tail"
    assert waiting["X-Amz-Tenant-Id"] == "blue"
    assert waiting["X-Amz-Security-Token"] == "token"
    names = waiting["Authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert names == sorted(name.lower() for name in waiting if name.startswith(("x-amz", "host")))
    assert "X-Amz-Log-Type" not in event  # there is no log of what has not run
    assert event["X-Amz-Tenant-Id"] == "blue"


@pytest.mark.parametrize(
    "call",
    [
        replace(EVENT, options={"colour": "blue"}),
        replace(EVENT, options={"tenant_id": "a\r\nX-Amz-Invocation-Type: RequestResponse"}),
        replace(EVENT, function="\ud800"),
        replace(EVENT, qualifier="\udfff"),
    ],
)
async def test_what_cannot_be_sent_is_refused_and_not_sent(call: Call):
    async with opened(accept) as (transport, server):
        outcome = await transport.send(call)
        assert isinstance(outcome, Refused)
        assert outcome.failure.kind == "invalid"
        assert server.requests == []


async def test_a_function_may_take_its_time_and_a_reload_changes_how_much():
    async def handle(request: Request, peer: Peer):
        await anyio.sleep(100)
        await peer.reply("200 OK")

    functions = {"f": FunctionRules(hold_max_s=120.0), "*": FunctionRules(hold_max_s=10.0)}
    async with opened(handle, functions=functions) as (transport, server):
        assert isinstance(await transport.send(WAITING), Replied)
        other = await transport.send(replace(WAITING, function="other"))
        assert isinstance(other, Lost)
        assert other.timed_out
        event = await transport.send(EVENT)  # only has to be accepted
        assert isinstance(event, Lost)
        transport.reconfigure(
            account(server.url, functions={"*": FunctionRules(hold_max_s=200.0)}, requests_max=9)
        )
        assert isinstance(await transport.send(replace(WAITING, function="other")), Replied)


async def test_requests_in_flight_are_bounded():
    at_once = 0

    async def handle(request: Request, peer: Peer):
        nonlocal at_once
        at_once += 1
        assert at_once <= 2
        await anyio.sleep(1)
        at_once -= 1
        await accept(request, peer)

    async with opened(handle, requests_max=2) as (transport, server):
        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(transport.send, EVENT)
        assert server.connections == 2
        assert len(server.requests) == 6


@pytest.mark.real_time  # the kernel takes its time with so many bytes
async def test_a_large_payload_and_a_large_reply():
    async def handle(request: Request, peer: Peer):
        await peer.reply("200 OK", request.body)

    body = json.dumps("x" * (6 * MIB - 2)).encode()
    async with opened(handle) as (transport, _):
        outcome = await transport.send(replace(WAITING, payload=body))
    assert isinstance(outcome, Replied)
    assert outcome.payload == body


async def test_refused_keys_are_tried_twice_and_secrets_stay_here():
    async def handle(request: Request, peer: Peer):
        quoted = f"not these: {request.headers['X-Amz-Security-Token']}"
        body = json.dumps({"message": quoted})
        await peer.reply("403 Forbidden", body, X_Amzn_ErrorType="InvalidSignatureException")

    async with opened(handle, Keys("AK", "secret", "very-secret-token")) as (transport, server):
        await transport._keyring.open()
        outcome = await transport.send(EVENT)
        assert isinstance(outcome, Denied)
        assert outcome.failure.reason == "InvalidSignatureException"
        assert outcome.failure.message == "not these: ***"
        assert len(server.requests) == 2


async def test_lambda_cannot_stop_anything():
    async with opened(accept) as (transport, server):
        assert await transport.stop(EVENT) is False
        assert server.requests == []
    assert transport.payload_max_bytes(CallType.ASYNC) == MIB
    assert transport.payload_max_bytes(CallType.SYNC) == 6 * MIB


def test_the_public_endpoint_is_that_of_the_sdk_in_every_partition():
    text = (Path(botocore.__file__).parent / "data" / "partitions.json").read_text()
    regions = 0
    for partition in json.loads(text)["partitions"]:
        for region in partition["regions"]:
            if region.startswith("aws-"):
                continue  # a pseudo-region
            regions += 1
            suffix = partition["outputs"]["dnsSuffix"]
            assert default_endpoint(region) == f"https://lambda.{region}.{suffix}"
    assert regions > 30


# -- Traces ---------------------------------------------------------------------------------------

TRACED = {
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "tracestate": "vendor=1",
}
XRAY = "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1"


def context_of(request: Request) -> Any:
    return json.loads(base64.b64decode(request.headers["X-Amz-Client-Context"]))


async def test_a_trace_goes_on_in_x_rays_header_which_is_not_signed():
    async with opened(accept) as (transport, server):
        assert await transport.send(replace(EVENT, options=TRACED)) == Accepted("r")
        (request,) = server.requests
    assert request.headers["X-Amzn-Trace-Id"] == XRAY
    assert request.headers["traceparent"] == TRACED["traceparent"]
    assert request.headers["tracestate"] == "vendor=1"
    # An event's function does not see the client context.
    assert "X-Amz-Client-Context" not in request.headers
    signed = "SignedHeaders=host;x-amz-date;x-amz-invocation-type, "
    assert signed in request.headers["Authorization"]


async def test_who_waits_has_the_trace_in_the_client_context_too():
    own = {"client": {"installation_id": "i"}, "custom": {"k": "v"}}
    async with opened(accept) as (transport, server):
        for context in (None, own):
            options = dict(TRACED)
            if context is not None:
                options["client_context"] = base64.b64encode(json.dumps(context).encode()).decode()
            await transport.send(replace(WAITING, options=options))
        first, second = (context_of(request) for request in server.requests)
    assert first == {"custom": TRACED}
    assert second == {**own, "custom": {"k": "v", **TRACED}}


@pytest.mark.parametrize(
    "context",
    [
        "bm90IGpzb24=",
        base64.b64encode(b"[1]").decode(),
        base64.b64encode(b'{"custom":1}').decode(),
        base64.b64encode(b'{"custom":{"traceparent":"mine"}}').decode(),
        base64.b64encode(json.dumps({"custom": {"k": "x" * 2600}}).encode()).decode(),
    ],
)
async def test_a_client_context_without_room_for_it_stays_as_it_is(context: str):
    async with opened(accept) as (transport, server):
        await transport.send(replace(WAITING, options={**TRACED, "client_context": context}))
        (request,) = server.requests
    assert request.headers["X-Amz-Client-Context"] == context
    assert request.headers["X-Amzn-Trace-Id"] == XRAY


async def test_what_is_no_trace_is_left_out():
    async with opened(accept) as (transport, server):
        assert await transport.send(replace(EVENT, options={"traceparent": "x"})) == Accepted("r")
        (request,) = server.requests
    assert not {"traceparent", "X-Amzn-Trace-Id"} & set(request.headers)
