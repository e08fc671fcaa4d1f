"""The trace that a request belongs to, as its caller says it in W3C's words or its provider's."""

from dispatcher.core.trace_context import TRACEPARENT, TRACESTATE, carried, of_jaeger, of_xray
from dispatcher.web.request import Request


def trace_of(request: Request) -> dict[str, str]:
    """Return the options that keep an invocation in its caller's trace; none without one."""
    headers = request.headers
    parent = headers.get(TRACEPARENT)
    return {} if parent is None else carried(parent, headers.get(TRACESTATE))


def trace_of_lambda(request: Request) -> dict[str, str]:
    """Return the same where X-Ray's header may tell it too."""
    return trace_of(request) or of_xray(request.headers.get("x-amzn-trace-id"))


def trace_of_fc(request: Request) -> dict[str, str]:
    """Return the same where Function Compute's header may tell it too."""
    context = request.headers.get("x-fc-tracing-opentracing-span-context")
    return trace_of(request) or of_jaeger(context)
