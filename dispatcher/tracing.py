"""
Spans of OpenTelemetry: `accept`, `wait`, `send` and `run` of each invocation.

They are made of what the machine decides (`observe`) and of the times that the engine keeps
anyway, so nothing else knows of them. `accept` is a child of the caller's span; the others are
its children, also after a restart, since the trace is among the journaled options. A function's
own spans are children of the `send` that started it.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from msgspec.structs import replace

from dispatcher.config import AccountSettings, Settings, is_loopback
from dispatcher.core.effects import Effect, Finish, Launch, Return, Stop, Warn, Watch
from dispatcher.core.job import Job
from dispatcher.core.model import (
    Accepted,
    Call,
    Duplicate,
    Failure,
    Outcome,
    Provider,
    Record,
    Replied,
    State,
    Throttled,
)
from dispatcher.core.trace_context import TRACEPARENT, TRACESTATE, carried
from dispatcher.errors import ConfigError, Rejected
from dispatcher.version import __version__

EXTRA: Final = "otel"
SPANS_PENDING_MAX: Final = 16_384
"""Spans that wait to be exported; more are dropped, and the exporter's log says so."""
EXPORT_EVERY_MS: Final = 1000
CLOSE_MAX_S: Final = 2.0
"""How long the collector gets for the last spans."""

_SAMPLED: Final = "13579bdf"
"""How a `traceparent` ends whose trace is kept."""
_PROVIDERS: Final = {Provider.ALIYUN_FC: "alibaba_cloud", Provider.AWS_LAMBDA: "aws"}


@asynccontextmanager
async def open_tracer(settings: Settings) -> AsyncIterator["Tracer | None"]:
    """Give the tracer that the settings ask for. Raises `ConfigError` without the extra."""
    if settings.tracing.endpoint is None:
        yield None
        return
    try:
        # In a thread, since it takes some tenths of a second.
        provider = await anyio.to_thread.run_sync(_provider, settings)
    except ImportError as error:
        problem = f"needs the extra {EXTRA!r} of this package ({error})"
        raise ConfigError([("tracing.endpoint", problem)]) from error
    try:
        yield Tracer(provider, settings.accounts)
    finally:
        with anyio.move_on_after(CLOSE_MAX_S, shield=True):
            await _closed(provider)


async def _closed(provider: Any) -> None:
    """Return once the last spans are exported; this may take longer than a process has."""
    loop, closed = asyncio.get_running_loop(), asyncio.Event()

    def close() -> None:
        provider.shutdown()
        with contextlib.suppress(RuntimeError):  # the loop has not waited that long
            loop.call_soon_threadsafe(closed.set)

    # A worker of anyio's would keep the process from ending.
    threading.Thread(target=close, name="last spans", daemon=True).start()
    await closed.wait()


def _provider(settings: Settings) -> Any:
    import requests  # noqa: PLC0415 -- what the exporter sends with
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 -- an extra
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio  # noqa: PLC0415

    tracing = settings.tracing
    assert tracing.endpoint is not None
    provider = TracerProvider(
        sampler=ParentBasedTraceIdRatio(min(tracing.sample_ratio, 1.0)),
        resource=Resource.create(
            {"service.name": tracing.service_name, "service.version": __version__}
        ),
        shutdown_on_exit=False,
    )
    session = requests.Session()
    # A collector on this machine is not behind a proxy, whatever the environment says.
    session.trust_env = not is_loopback(urlsplit(tracing.endpoint).hostname or "")
    exporter = OTLPSpanExporter(f"{tracing.endpoint.rstrip('/')}/v1/traces", session=session)
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter, max_queue_size=SPANS_PENDING_MAX, schedule_delay_millis=EXPORT_EVERY_MS
        )
    )
    return provider


class Tracer:
    """Makes the spans; where they go is up to the provider."""

    def __init__(
        self,
        provider: Any,
        accounts: Mapping[str, AccountSettings],
        *,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Take OpenTelemetry's *provider* of tracers; only with the extra installed."""
        from opentelemetry import trace  # noqa: PLC0415 -- an extra
        from opentelemetry.context import Context  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
            TraceContextTextMapPropagator,
        )

        self._trace = trace
        self._no_context = Context()
        self._propagator = TraceContextTextMapPropagator()
        self._tracer = provider.get_tracer("dispatcher", __version__)
        self._accounts = accounts
        self._wall_ns = wall_ns
        self._accepting: dict[str, Any] = {}  #: spans, by id of the invocation
        self._sending: dict[str, Any] = {}
        self._running: dict[str, tuple[int, int]] = {}  #: attempt, and since when, of the wall

    # -- Accept

    def accepting(self, record: Record, *, source: str) -> None:
        """Begin to accept; *record* is put into a trace. From any thread."""
        kinds = self._trace.SpanKind
        # Who embeds us may be in a span of its own: then that is the caller's.
        context = self._context(record.options) if TRACEPARENT in record.options else None
        span = self._tracer.start_span(
            f"accept {record.function}",
            context=context,
            kind=kinds.PRODUCER if source == "in_process" else kinds.SERVER,
            attributes={
                **_whose(record.id, record.account, record.tenant, record.function),
                "dispatcher.source": source,
            },
            start_time=self._wall_ns(),
        )
        record.options = {**record.options, **self._options(span)}
        self._accepting[record.id] = span

    def accepted(self, invocation_id: str, verdict: Duplicate | Exception | None = None) -> None:
        """Note the journal's verdict: None is that it is on disk."""
        span = self._accepting.pop(invocation_id, None)
        if span is None:
            return
        if isinstance(verdict, Duplicate) and verdict.same_job:
            span.set_attribute("dispatcher.duplicate_of", verdict.id)
        elif verdict is not None:
            self._fails(span, "key_reused" if isinstance(verdict, Duplicate) else _reason(verdict))
        span.end(self._wall_ns())

    # -- Wait and run: what the machine decided

    def observe(self, effects: Sequence[Effect], now: float) -> None:
        """Note what the machine decided at *now*, on the loop's clock."""
        for effect in effects:
            if isinstance(effect, Warn | Stop) or not _is_kept(effect.job):
                continue
            match effect:
                case Launch(job=job):
                    self._waited(job, now)
                case Watch(job=job):
                    # Known already, but to a process that was not there when it was sent.
                    ago_s = 0.0 if job.sent_at is None else now - job.sent_at
                    since = self._wall_ns() - int(ago_s * 1e9)
                    self._running.setdefault(job.id, (job.attempt, since))
                case Return(job=job, failure=failure):
                    self._ran(job, failure)
                case Finish(job=job):
                    if job.id in self._running:
                        self._ran(job, effect.failure, effect)
                    elif job.first_sent_at is None:
                        self._waited(job, now, effect.state)

    def _waited(self, job: Job, now: float, ended: State | None = None) -> None:
        """Write down a wait, from when it was due; *ended* if nothing was sent after it."""
        since = min(now, max(job.accepted_at, job.due_at, job.wakes_at))
        span = self._begin("wait", job, self._wall_ns() - int((now - since) * 1e9))
        if ended is not None:
            span.set_attribute("dispatcher.state", ended.value)
        span.end(self._wall_ns())

    def _ran(self, job: Job, failure: Failure | None, finish: Finish | None = None) -> None:
        """Write down a run that has ended; of what did not run there is nothing to write."""
        attempt, since = self._running.pop(job.id, (0, 0))
        if not attempt:
            return
        span = self._begin("run", job, since, attempt)
        if finish is not None:
            span.set_attribute("dispatcher.state", finish.state.value)
            span.set_attribute("dispatcher.estimated", finish.estimated)
        if failure is not None:
            self._fails(span, failure.kind)
        span.end(self._wall_ns())

    # -- Send

    def sending(self, job: Job, call: Call) -> Call:
        """Begin to send; return the call with what the function shall know of the trace."""
        if not _is_kept(job):
            return call  # it tells the function that nobody keeps the trace
        account = self._accounts[job.lane.tenant.account]
        kind = self._trace.SpanKind.CLIENT
        span = self._begin("send", job, self._wall_ns(), kind=kind)
        span.set_attributes(
            {
                "faas.invoked_name": call.function,
                "faas.invoked_provider": _PROVIDERS[account.provider],
                "faas.invoked_region": account.region,
            }
        )
        self._sending[job.id] = span
        return replace(call, options={**call.options, **self._options(span)})

    def sent(self, job: Job, outcome: Outcome | None) -> None:
        """Note what came of the send; None: it was broken off."""
        span = self._sending.pop(job.id, None)
        if span is None:
            return
        if outcome is not None:
            span.set_attribute("dispatcher.outcome", type(outcome).__name__.lower())
        if isinstance(outcome, Accepted) and job.state is State.SENDING:
            # Else its end was known before the reply came.
            self._running[job.id] = job.attempt, self._wall_ns()
        if outcome is None:
            self._fails(span, "broken_off")
        elif isinstance(outcome, Accepted | Replied):
            span.set_attribute("faas.invocation_id", outcome.request_id)
            if isinstance(outcome, Replied) and outcome.failure is not None:
                self._fails(span, outcome.failure.kind)
        elif isinstance(outcome, Throttled):
            self._fails(span, outcome.reason, outcome.status)
        else:
            failure = outcome.failure
            self._fails(span, failure.reason or failure.kind, failure.status)
        span.end(self._wall_ns())

    # -- Small steps

    def _begin(
        self, name: str, job: Job, since_ns: int, attempt: int | None = None, **more: Any
    ) -> Any:
        """Begin a span of *job* that began at *since_ns* of the wall."""
        tenant = job.lane.tenant
        function = job.lane.function.name
        return self._tracer.start_span(
            f"{name} {function}",
            context=self._context(job.options or {}),
            attributes={
                **_whose(job.id, tenant.account, tenant.name, function),
                "dispatcher.attempt": job.attempt if attempt is None else attempt,
            },
            start_time=since_ns,
            **more,
        )

    def _context(self, options: Mapping[str, str]) -> Any:
        return self._propagator.extract(options, context=self._no_context)

    def _options(self, span: Any) -> dict[str, str]:
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._trace.set_span_in_context(span, self._no_context))
        return carried(carrier.get(TRACEPARENT), carrier.get(TRACESTATE))

    def _fails(self, span: Any, why: str, status: int | None = None) -> None:
        span.set_attribute("error.type", why)
        if status is not None:
            span.set_attribute("http.response.status_code", status)
        span.set_status(self._trace.StatusCode.ERROR, why)


def _is_kept(job: Job) -> bool:
    """Tell whether the spans of *job* are kept: its first one has decided that."""
    parent = None if job.options is None else job.options.get(TRACEPARENT)
    return parent is None or parent[-1:] in _SAMPLED


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, Rejected) else type(error).__name__


def _whose(invocation_id: str, account: str, tenant: str, function: str) -> dict[str, str]:
    return {
        "dispatcher.invocation": invocation_id,
        "dispatcher.account": account,
        "dispatcher.tenant": tenant,
        "dispatcher.function": function,
    }
