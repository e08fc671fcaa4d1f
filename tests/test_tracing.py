"""The spans of invocations, and the trace that they and the function belong to."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

from dispatcher import tracing
from dispatcher.config import parse
from dispatcher.core.model import (
    Accepted,
    CallType,
    Completion,
    Failure,
    GateKind,
    Invocation,
    Refused,
    Replied,
    Throttled,
    Verdict,
)
from dispatcher.errors import ConfigError
from dispatcher.journals.memory import MemoryJournal
from dispatcher.tracing import Tracer, open_tracer
from tests.engine.rig import ScriptedTransport, hang, rig, settings
from tests.web import dropins

START_NS = 1_700_000_000 * 10**9
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


class Spans:
    """What has been written down by a tracer on the virtual clock."""

    def __init__(self, ratio: float = 1.0) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=ParentBasedTraceIdRatio(ratio))
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.config = settings()

    @property
    def tracer(self) -> Tracer:
        return Tracer(
            self.provider,
            self.config.accounts,
            wall_ns=lambda: START_NS + round(anyio.current_time() * 1e9),
        )

    @property
    def all(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def told(self) -> list[tuple[str, float, float]]:
        """Return names with begin and end in seconds, in the order of their ends."""
        return [
            (span.name, _seconds(span.start_time), _seconds(span.end_time)) for span in self.all
        ]

    def one(self, name: str) -> ReadableSpan:
        (span,) = [each for each in self.all if each.name.startswith(name)]
        return span


def _seconds(wall_ns: int | None) -> float:
    assert wall_ns is not None
    return round((wall_ns - START_NS) / 1e9, 3)


def ids(span: ReadableSpan) -> tuple[str, str, str | None]:
    """Return trace, span and parent in hex."""
    parent = None if span.parent is None else f"{span.parent.span_id:016x}"
    assert span.context is not None
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}", parent


@pytest.fixture
def spans() -> Spans:
    return Spans()


async def test_each_invocation_tells_where_its_time_went(spans):
    transport = ScriptedTransport(latency_s=0.5)
    async with rig(spans.config, transport=transport, tracer=spans.tracer) as held:
        ticket = held.enqueue(tenant="shop", options={"traceparent": PARENT, "tracestate": "v=1"})
        await ticket.ended()
        assert spans.told() == [
            ("accept f", 0, 0),
            ("wait f", 0, 0),
            ("send f", 0, 0.5),
            ("run f", 0.5, 10.5),
        ]
    accept, wait, send, run = spans.all
    own = ids(accept)
    assert own[0] == TRACE
    assert own[2] == SPAN
    for span in (wait, send, run):
        assert ids(span)[::2] == (TRACE, own[1])
        assert span.attributes is not None
        assert span.attributes["dispatcher.invocation"] == ticket.id
        assert span.attributes["dispatcher.tenant"] == "shop"
        assert span.attributes["dispatcher.attempt"] == 1
    # What the function does is part of the send that started it.
    ((_, call),) = transport.calls
    assert call.options == {"traceparent": f"00-{TRACE}-{ids(send)[1]}-01", "tracestate": "v=1"}
    assert send.kind is trace.SpanKind.CLIENT
    assert dict(send.attributes or {}) | {
        "faas.invoked_name": "f",
        "faas.invoked_provider": "alibaba_cloud",
        "faas.invoked_region": "cn-shanghai",
        "faas.invocation_id": f"req-{ticket.id}",
        "dispatcher.outcome": "accepted",
    } == dict(send.attributes or {})
    assert run.attributes is not None
    assert run.attributes["dispatcher.state"] == "succeeded"
    assert run.attributes["dispatcher.estimated"] is True


async def test_a_wait_begins_when_it_is_due_and_ends_with_the_slot(spans):
    async with rig(spans.config, tracer=spans.tracer) as held:
        tickets = [held.enqueue() for _ in range(4)]
        late = held.enqueue(delay_s=3)
        for ticket in (*tickets, late):
            await ticket.ended()
        waits = [each for each in spans.told() if each[0] == "wait f"]
    assert waits == [("wait f", 0, 0)] * 4 + [("wait f", 3, 10)]


async def test_a_throttled_send_shows_as_one_and_the_next_wait_begins_after_the_backoff(spans):
    transport = ScriptedTransport()
    transport.script = [
        Throttled(gate=GateKind.ACCOUNT, reason="ResourceExhausted"),
        Accepted("r"),
    ]
    async with rig(spans.config, transport=transport, tracer=spans.tracer) as held:
        await held.enqueue().ended()
        names = [each[0] for each in spans.told()]
        assert names == ["accept f", "wait f", "send f", "wait f", "send f", "run f"]
    refused = spans.all[2]
    assert refused.status.status_code is trace.StatusCode.ERROR
    assert (refused.attributes or {})["error.type"] == "ResourceExhausted"
    assert (refused.attributes or {})["http.response.status_code"] == 429
    assert spans.told()[3][1] > 0
    assert len({ids(span)[0] for span in spans.all}) == 1


async def test_each_attempt_has_its_own_run(spans):
    config = settings(function="attempts_max = 2")
    async with rig(config, tracer=spans.tracer) as held:
        ticket = held.enqueue()
        await anyio.sleep(1)
        failed = Failure("function_error", "boom")
        await held.engine.complete(
            Completion(id=ticket.id, verdict=Verdict.FAILED, failure=failed, attempt=1)
        )
        await ticket.ended()
        first, second = (span for span in spans.all if span.name == "run f")
    assert [(span.attributes or {})["dispatcher.attempt"] for span in (first, second)] == [1, 2]
    assert first.status.status_code is trace.StatusCode.ERROR
    assert (first.attributes or {})["error.type"] == "function_error"
    assert second.status.status_code is trace.StatusCode.UNSET


async def test_the_trace_survives_a_restart(spans):
    journal = MemoryJournal(retention_s=86400)
    async with rig(spans.config, journal=journal, tracer=spans.tracer) as held:
        tickets = [held.enqueue(options={"traceparent": PARENT}) for _ in range(4)]
        waiting = held.enqueue(options={"traceparent": PARENT})
        await waiting.accepted()
        await anyio.sleep(2)
    before = len(spans.all)
    async with rig(spans.config, journal=journal, tracer=spans.tracer) as held:
        for ticket in (*tickets, waiting):
            await held.engine.end_of(ticket.id)
    # The runs went on meanwhile, and so did the wait.
    assert sorted(spans.told()[before:]) == (
        [("run f", 0, 10)] * 4 + [("run f", 10, 20), ("send f", 10, 10), ("wait f", 0, 10)]
    )
    accepts = {ids(span)[1] for span in spans.all if span.name == "accept f"}
    assert all(ids(span)[0] == TRACE and ids(span)[2] in accepts for span in spans.all[before:])


async def test_what_is_never_sent_ends_with_its_wait(spans):
    async with rig(spans.config, tracer=spans.tracer) as held:
        running = [held.enqueue() for _ in range(4)]
        expiring, unwanted = held.enqueue(expires_s=2), held.enqueue()
        await expiring.ended()
        await held.engine.cancel(unwanted.id)
        ends = [
            (span.attributes or {}).get("dispatcher.state")
            for span in spans.all
            if span.name == "wait f"
        ]
        for ticket in running:
            await ticket.ended()
    assert ends == [None] * 4 + ["expired", "cancelled"]


async def test_a_call_that_is_waited_for_has_its_run_in_its_send(spans):
    transport = ScriptedTransport(latency_s=2)
    transport.script = [Replied(request_id="r", payload=b"1", failure=Failure("Unhandled", "no"))]
    async with rig(spans.config, transport=transport, tracer=spans.tracer) as held:
        call = Invocation(account="main", function="f", type=CallType.SYNC)
        await held.engine.call(call, source="fc", wait_max_s=10)
        assert spans.told() == [("accept f", 0, 0), ("wait f", 0, 0), ("send f", 0, 2)]
    assert spans.one("accept").kind is trace.SpanKind.SERVER
    assert (spans.one("send").attributes or {})["error.type"] == "Unhandled"


async def test_what_is_not_accepted_or_not_taken_says_why(spans):
    transport = ScriptedTransport()
    transport.script = [Refused(Failure("refused", "no such function", "FunctionNotFound", 404))]
    async with rig(spans.config, transport=transport, tracer=spans.tracer) as held:
        await held.enqueue(idempotency_key="k").ended()
        first = (await held.enqueue(idempotency_key="k").accepted()).id
        with pytest.raises(Exception, match="another job"):
            await held.enqueue(idempotency_key="k", payload=b"other").accepted()
        errors = [(span.name, (span.attributes or {}).get("error.type")) for span in spans.all]
    assert ("send f", "FunctionNotFound") in errors
    assert ("accept f", "key_reused") in errors
    repeat = [span for span in spans.all if span.name == "accept f"][1]
    assert (repeat.attributes or {})["dispatcher.duplicate_of"] == first
    assert repeat.status.status_code is trace.StatusCode.UNSET
    assert "run f" not in dict(errors)


async def test_a_send_that_the_drain_cuts_off_is_written_down(spans):
    transport = ScriptedTransport()
    transport.script = [hang]
    config = settings(more="[server]\ndrain_max_s = 1")
    async with rig(config, transport=transport, tracer=spans.tracer) as held:
        await held.enqueue().accepted()
        await anyio.sleep(0.1)
    assert (spans.one("send").attributes or {})["error.type"] == "broken_off"


async def test_a_caller_that_is_not_sampled_is_not_but_its_trace_goes_on():
    spans = Spans()
    async with rig(spans.config, tracer=spans.tracer) as held:
        await held.enqueue(options={"traceparent": PARENT[:-2] + "00"}).ended()
        ((_, call),) = held.transport.calls
    assert spans.all == []
    assert call.options["traceparent"].startswith(f"00-{TRACE}-")
    assert call.options["traceparent"].endswith("-00")


async def test_what_is_no_context_is_no_trace_and_no_error(spans):
    journal = MemoryJournal(retention_s=86400)
    async with rig(spans.config, journal=journal) as held:  # as if tracing had been off
        held.engine.pause("main")
        ticket = held.enqueue(options={"traceparent": "nonsense"})
        await ticket.accepted()
    async with rig(spans.config, journal=journal, tracer=spans.tracer) as held:
        held.engine.resume("main")
        await held.engine.end_of(ticket.id)
        assert spans.all == []
        await held.enqueue(options={"traceparent": "nonsense"}).ended()
        assert len({ids(span)[0] for span in spans.all}) == 1
        assert len(spans.all) == 4


async def test_a_part_of_the_traces_that_begin_here_is_kept_whole():
    spans = Spans(ratio=0.0)
    async with rig(spans.config, tracer=spans.tracer) as held:
        await held.enqueue().ended()
        assert spans.all == []
        await held.enqueue(options={"traceparent": PARENT}).ended()
        assert len(spans.all) == 4


async def test_code_that_embeds_us_gives_its_own_span(spans):
    async with rig(spans.config, tracer=spans.tracer) as held:
        with spans.provider.get_tracer("product").start_as_current_span("order") as order:
            ticket = held.enqueue()
        await ticket.ended()
    assert ids(spans.one("accept"))[2] == f"{order.get_span_context().span_id:016x}"


# -- The real exporter and a real receiver --------------------------------------------------------


class Collector:
    """Takes OTLP over HTTP, as a collector does."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.paths: list[str] = []

    def spans(self) -> dict[str, Any]:
        return {
            span.name: span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }

    @contextmanager
    def listening(self) -> Iterator[str]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.paths.append(self.path)
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@pytest.mark.real_time
async def test_the_spans_of_an_http_call_reach_a_collector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tracing, "CLOSE_MAX_S", 60.0)  # however busy the machine is
    collector = Collector()
    with collector.listening() as url:
        more = f'[tracing]\nendpoint = "{url}/"\nservice_name = "shop-dispatcher"\n'
        async with (
            dropins.sidecar(tmp_path, None, more=more) as sidecar,
            aiohttp.ClientSession(sidecar.url) as session,
        ):
            job = {"account": "fc", "function": "f", "payload": {}}
            headers = {"traceparent": PARENT, "tracestate": "vendor=1"}
            async with session.post("/v1/invocations", json=job, headers=headers) as reply:
                assert reply.status == 202, await reply.text()
                invocation_id = (await reply.json())["id"]
            await sidecar.engine.end_of(invocation_id)
            options = (await sidecar.record(invocation_id)).options
            assert options["traceparent"].startswith(f"00-{TRACE}-")
            assert options["tracestate"] == "vendor=1"
    spans = collector.spans()
    assert spans.keys() == {"accept f", "wait f", "send f", "run f"}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert spans["accept f"].parent_span_id.hex() == SPAN
    assert set(collector.paths) == {"/v1/traces"}
    resource = collector.requests[0].resource_spans[0].resource
    named = {each.key: each.value.string_value for each in resource.attributes}
    assert named["service.name"] == "shop-dispatcher"


@pytest.mark.real_time
async def test_a_collector_that_is_not_there_holds_nothing_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracing, "CLOSE_MAX_S", 0.1)
    config = parse('[tracing]\nendpoint = "http://127.0.0.1:9"', base=Path("/"))
    async with open_tracer(config) as tracer:
        assert tracer is not None
        tracer._tracer.start_span("lost").end()
        begun = asyncio.get_running_loop().time()
    # The exporter's own patience is 10 s.
    assert asyncio.get_running_loop().time() - begun < 8


async def test_without_an_endpoint_nothing_is_loaded():
    async with open_tracer(parse("", base=Path("/"))) as tracer:
        assert tracer is None


@pytest.mark.real_time
async def test_without_the_extra_the_configuration_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    config = parse('[tracing]\nendpoint = "http://127.0.0.1:4318"', base=Path("/"))
    with pytest.raises(ConfigError, match=r"tracing\.endpoint: needs the extra 'otel'"):
        async with open_tracer(config):
            pass
