"""
The trace that an invocation belongs to, in the words of those who take part in it.

W3C's `traceparent` is what is kept, among an invocation's options; X-Ray's header and that of
Function Compute say the same. What cannot be read is left out, as w3.org/TR/trace-context
demands: a broken trace is no reason to refuse work.
"""

import re
from typing import Final

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"

_PARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
_STATE: Final = re.compile(r"[\x20-\x7e]{1,512}")
_XRAY_ROOT: Final = re.compile(r"1-([0-9a-f]{8})-([0-9a-f]{24})")
_SPAN: Final = re.compile(r"[0-9a-f]{16}")
_JAEGER: Final = re.compile(r"([0-9a-f]{1,32}):([0-9a-f]{1,16}):[0-9a-f]{1,16}:([0-9a-f]{1,2})")
_SAMPLED: Final = 1
PARENT_CHARS_MAX: Final = 512


def carried(traceparent: str | None, tracestate: str | None = None) -> dict[str, str]:
    """Return the options by which an invocation stays in its caller's trace, if it has one."""
    if traceparent is None or len(traceparent) > PARENT_CHARS_MAX:
        return {}
    match = _PARENT.fullmatch(traceparent.strip())
    if match is None:
        return {}
    # What a later version adds is for those who know it.
    options = {TRACEPARENT: f"00-{match[1]}-{match[2]}-{match[3]}"}
    if tracestate is not None and _STATE.fullmatch(tracestate):
        options[TRACESTATE] = tracestate
    return options


def of_xray(header: str | None) -> dict[str, str]:
    """Read X-Ray's `X-Amzn-Trace-Id`: `Root=1-...;Parent=...;Sampled=1`, in any order."""
    if header is None or len(header) > PARENT_CHARS_MAX:
        return {}
    fields = dict(each.strip().split("=", 1) for each in header.split(";") if "=" in each)
    root = _XRAY_ROOT.fullmatch(fields.get("Root", ""))
    parent = fields.get("Parent", "")
    if root is None or not _SPAN.fullmatch(parent):
        return {}
    return carried(f"00-{root[1]}{root[2]}-{parent}-0{int(fields.get('Sampled') == '1')}")


def of_jaeger(header: str | None) -> dict[str, str]:
    """Read the span context of FC and Jaeger, `trace:span:parent:flags` in hex."""
    if header is None or (match := _JAEGER.fullmatch(header)) is None:
        return {}
    flags = int(match[3], 16) & _SAMPLED
    return carried(f"00-{match[1]:0>32}-{match[2]:0>16}-0{flags}")


def xray(traceparent: str) -> str:
    """Write a `carried` context as `X-Amzn-Trace-Id`, which Lambda hands on to the function."""
    trace, span, flags = _parts(traceparent)
    return f"Root=1-{trace[:8]}-{trace[8:]};Parent={span};Sampled={flags & _SAMPLED}"


def jaeger(traceparent: str) -> str:
    """Write a `carried` context as what FC hands on to the function as its span context."""
    trace, span, flags = _parts(traceparent)
    return f"{trace}:{span}:0:{flags & _SAMPLED}"


def _parts(traceparent: str) -> tuple[str, str, int]:
    match = _PARENT.fullmatch(traceparent)
    assert match is not None, traceparent
    return match[1], match[2], int(match[3], 16)
