"""What both clouds' replies have in common: error bodies, times to wait, clocks."""

import math
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from dispatcher.core.model import Outcome, Replied
from dispatcher.ports import Begin, Sink
from dispatcher.transports.credentials import harmless
from dispatcher.transports.wire import BeginReply, Reply

RETRY_AFTER_MAX_S: Final = 3600.0
"""No reply closes a gate for longer, whatever it says."""
SKEW_WORTH_SAYING_S: Final = 60.0

_MILLISECOND_HEADERS: Final = ("x-acs-retry-after", "x-amz-retry-after")


def handing_on(judge: Callable[[Reply], Outcome], begin: Begin | None) -> BeginReply | None:
    """
    Return what hands the body of a large reply on to *begin*, if *judge* calls its head good.

    What a function says when it fails is wanted whole, to tell what it was.
    """
    if begin is None:
        return None

    def decide(head: Reply, go_on: Callable[[], None]) -> Sink | None:
        found = judge(head)
        if isinstance(found, Replied) and found.failure is None:
            return begin(found, go_on)
        return None

    return decide


def error_body(body: bytes) -> dict[str, str]:
    """Return the members of a JSON object, names in lower case; {} for anything else."""
    try:
        raw = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if not isinstance(raw, dict):
        return {}
    return {key.lower(): text for key, text in raw.items() if isinstance(text, str)}


def error_message(reply: Reply, words: Mapping[str, str], *names: str) -> str:
    """Return the cloud's own message, or what can be said without one."""
    for name in names:
        if words.get(name):
            return harmless(words[name])
    kind = reply.headers.get("Content-Type", "").partition(";")[0].strip()
    return f"HTTP {reply.status}{f' with a body of {kind}' if kind and reply.body else ''}"[:200]


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """
    Return how long the cloud asks to wait, None if it does not.

    `Retry-After` is in seconds or a date (RFC 9110, 10.2.3), the SDKs' own headers are in
    milliseconds; the longest wait holds, up to `RETRY_AFTER_MAX_S`.
    """
    waits = []
    if text := headers.get("Retry-After"):
        waits.append(_number(text, 1.0))
        waits.append(_until(text, headers, now_s))
    waits += [_number(headers.get(name), 0.001) for name in _MILLISECOND_HEADERS]
    known = [wait for wait in waits if wait is not None]
    return min(max(known), RETRY_AFTER_MAX_S) if known else None


def clock_note(headers: Mapping[str, str], now_s: float) -> str:
    """Say how wrong this machine's clock is, for somebody who looks for a refused signature."""
    theirs_s = _date_s(headers.get("Date"))
    if theirs_s is None or abs(now_s - theirs_s) < SKEW_WORTH_SAYING_S:
        return ""
    side = "ahead of" if now_s > theirs_s else "behind"
    return f" (the clock here is {abs(now_s - theirs_s):.0f} s {side} the cloud's)"


def _number(text: str | None, unit_s: float) -> float | None:
    try:
        value = float(text or "nan") * unit_s
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _until(text: str, headers: Mapping[str, str], now_s: float) -> float | None:
    until_s = _date_s(text)
    if until_s is None:
        return None
    # By the server's clock, where it says what that is.
    since_s = _date_s(headers.get("Date"))
    return max(0.0, until_s - (now_s if since_s is None else since_s))


def _date_s(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text or "").timestamp()
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
