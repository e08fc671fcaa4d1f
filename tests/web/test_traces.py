"""A caller's trace stays with its invocation, whichever way it came."""

import json
from pathlib import Path

import aiohttp
import pytest

from tests.web.dropins import sidecar

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
W3C = {"traceparent": PARENT, "tracestate": "vendor=1"}
XRAY = {"X-Amzn-Trace-Id": f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={SPAN};Sampled=1"}
JAEGER = {"x-fc-tracing-opentracing-span-context": f"{TRACE}:{SPAN}:0:1"}
JOB = {"account": "cn", "function": "resize"}
LAMBDA = "/2015-03-31/functions/f/invocations"
FC = "/2023-03-30/functions/f/invocations"


@pytest.mark.parametrize(
    ("headers", "options"),
    [({}, {}), (W3C, W3C), ({"traceparent": "nonsense"}, {}), ({"tracestate": "a=b"}, {})],
)
async def test_the_headers_of_a_call_of_the_api(face, engine, headers, options):
    async with face.post("/v1/invocations", json=JOB, headers=headers) as response:
        assert response.status == 202
    lines = "\n".join([json.dumps(JOB)] * 2)
    named = {"Content-Type": "application/x-ndjson", **headers}
    async with face.post("/v1/invocations", data=lines, headers=named) as response:
        assert response.status == 200
        await response.read()
    assert [taken.options for taken in engine.invocations] == [options] * 3


async def test_an_invocation_may_have_a_trace_of_its_own(face, engine):
    own = {"traceparent": f"00-{TRACE[::-1]}-{SPAN}-00", "tracestate": "own=1"}
    jobs = [{**JOB, **own}, JOB, {**JOB, "traceparent": "nonsense"}]
    lines = "\n".join(map(json.dumps, jobs))
    headers = {"Content-Type": "application/x-ndjson", **W3C}
    async with face.post("/v1/invocations", data=lines, headers=headers) as response:
        assert response.status == 200
        await response.read()
    assert [taken.options for taken in engine.invocations] == [own, W3C, W3C]


@pytest.mark.real_time
async def test_the_headers_of_the_providers_own_calls(tmp_path: Path):
    event = {"X-Amz-Invocation-Type": "Event"}
    task = {"x-fc-invocation-type": "Async"}
    async with (
        sidecar(tmp_path, None) as held,
        aiohttp.ClientSession(held.url) as session,
    ):
        for account in ("aws", "fc"):
            held.engine.pause(account)

        async def options(path: str, id_header: str, **headers: str) -> dict[str, str]:
            async with session.post(path, data=b"{}", headers=headers) as reply:
                assert reply.status == 202, await reply.text()
                found = await held.record(reply.headers[id_header])
            kept: dict[str, str] = found.options
            return kept

        for headers, kept in ((W3C, W3C), (XRAY, {"traceparent": PARENT}), ({}, {})):
            assert await options(LAMBDA, "x-amzn-RequestId", **event, **headers) == kept
        for headers, kept in ((W3C, W3C), (JAEGER, {"traceparent": PARENT}), ({}, {})):
            assert await options(FC, "X-Fc-Request-Id", **task, **headers) == kept


@pytest.mark.real_time
async def test_a_retry_of_an_sdk_is_the_same_call_whatever_its_span(tmp_path: Path):
    async with (
        sidecar(tmp_path, None) as held,
        aiohttp.ClientSession(held.url) as session,
    ):
        held.engine.pause("aws")
        ids = set()
        for span in (SPAN, SPAN[::-1]):
            headers = {
                "X-Amz-Invocation-Type": "Event",
                "amz-sdk-invocation-id": "one",
                "traceparent": f"00-{TRACE}-{span}-01",
            }
            async with session.post(LAMBDA, data=b"{}", headers=headers) as reply:
                ids.add(reply.headers["x-amzn-RequestId"])
        assert len(ids) == 1


@pytest.mark.real_time
async def test_who_waits_for_the_reply_has_its_trace_in_the_send(tmp_path: Path, monkeypatch):
    class Noting:
        """Stands before the transport and notes the options of what it sends."""

        def __init__(self, transport) -> None:
            self.transport = transport
            self.seen: list[dict[str, str]] = []

        def __getattr__(self, name):
            return getattr(self.transport, name)

        async def send(self, call, begin=None):
            self.seen.append(call.options)
            return await self.transport.send(call, begin)

    async with (
        sidecar(tmp_path, None) as held,
        aiohttp.ClientSession(held.url) as session,
    ):
        for account, path in (("aws", LAMBDA), ("fc", FC)):
            noting = Noting(held.engine.transports[account])
            transports = {**held.engine.transports, account: noting}
            monkeypatch.setattr(held.engine, "transports", transports)
            async with session.post(path, data=b"{}", headers=W3C) as reply:
                assert reply.status == 200, await reply.text()
            assert noting.seen == [W3C]
