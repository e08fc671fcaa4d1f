"""
What a reply of Function Compute's InvokeFunction means.

The codes are those of help.aliyun.com, functioncompute/error-codes; the documents do not name
all that is sent, so that a status decides where a code is not known.
"""

from typing import Final

import msgspec

from dispatcher.core.model import (
    Accepted,
    Call,
    CallType,
    Denied,
    Failure,
    GateKind,
    Lost,
    NotSent,
    Outcome,
    Refused,
    Replied,
    Throttled,
)
from dispatcher.transports.replies import clock_note, error_body, error_message, retry_after_s
from dispatcher.transports.wire import TOO_LARGE, Reply

REQUEST_ID: Final = "X-Fc-Request-Id"

_GATES: Final = {
    "ResourceExhausted": GateKind.ACCOUNT,
    "FunctionResourceExhausted": GateKind.FUNCTION,
    # The vCPUs of the account, or the machines of the region.
    "ResourceThrottled": GateKind.ACCOUNT,
}

# Keys, signatures and rights, with 400, 403 or 404, at FC itself or at the gateway before it.
_DENIALS: Final = (
    *("AccessDenied", "ExplicitDeny", "Forbidden", "ImplicitDeny", "NoPermission"),
    *("IncompleteSignature", "InvalidSignature", "InvalidTimeStamp", "Signature"),
    *("InvalidAccessKey", "InvalidCredentials", "InvalidSecurityToken"),
    *("MissingAccessKey", "MissingSecurityToken"),
)
"""How their codes begin."""

# The container ended, or never answered, or gave nonsense: the function's failure and not ours.
_RUN_FAILED: Final = frozenset(
    {(412, "CAExited"), (412, "FunctionNotStarted"), (502, "BadResponse")}
)

# Something else changes the function at this moment.
_NOT_YET: Final = frozenset({"ConcurrentUpdateError"})


def outcome(call: Call, reply: Reply, now_s: float) -> Outcome:
    """Tell what *reply* says about *call*."""
    if 200 <= reply.status < 300:
        return _good(call, reply)
    return refused(reply, now_s) or _failed(call, reply, now_s)


def refused(reply: Reply, now_s: float) -> Throttled | Denied | None:
    """Tell whether *reply*, to whatever request, says that there were too many or no rights."""
    if reply.status < 400:
        return None
    words = error_body(reply.body)
    code = words.get("code") or words.get("errorcode") or ""
    message = _message(reply, words)
    throttling = code == "Throttling" or code.startswith("Throttling.")
    if reply.status == 429 or throttling or (reply.status == 503 and code in _GATES):
        return Throttled(
            gate=GateKind.RATE if throttling else _GATES.get(code, GateKind.ACCOUNT),
            reason=code or f"HTTP {reply.status}",
            message=message,
            status=reply.status,
            retry_after_s=retry_after_s(reply.headers, now_s),
        )
    if reply.status in (401, 403) or (reply.status < 500 and code.startswith(_DENIALS)):
        message += clock_note(reply.headers, now_s)
        return Denied(Failure("denied", message, reason=code or None, status=reply.status))
    return None


def _failed(call: Call, reply: Reply, now_s: float) -> Outcome:
    status, words = reply.status, error_body(reply.body)
    code = words.get("code") or words.get("errorcode")
    wait_s = retry_after_s(reply.headers, now_s)
    failure = Failure("refused", _message(reply, words), reason=code, status=status)
    if code in _NOT_YET:
        return NotSent(msgspec.structs.replace(failure, kind="not_ready"), wait_s)
    if status == 409 and call.type is CallType.ASYNC:
        # The task id is taken, and only this call bears it. What the code is called differs
        # between the documents, and between the versions of the API.
        return Accepted(_request_id(reply, words))
    if call.type is CallType.SYNC and (status, code) in _RUN_FAILED:
        return Replied(
            request_id=_request_id(reply, words),
            payload=b"",
            status=status,
            failure=msgspec.structs.replace(failure, kind="function_error"),
            headers=_run_headers(reply),
        )
    if status in (408, 499) or status >= 500:
        return Lost(msgspec.structs.replace(failure, kind="server_error"), retry_after_s=wait_s)
    return Refused(failure)


def _good(call: Call, reply: Reply) -> Outcome:
    request_id = reply.headers.get(REQUEST_ID, "")
    if call.type is CallType.ASYNC:
        return Accepted(request_id)
    if reply.cut is not None and reply.cut.failure.kind != TOO_LARGE:
        return reply.cut
    # It has run, and would give as much again.
    failure = None if reply.cut is None else reply.cut.failure
    kind = reply.headers.get("X-Fc-Error-Type")
    if kind:
        words = error_body(reply.body)
        message = words.get("errormessage") or words.get("errortype") or "the function failed"
        failure = Failure("function_error", message[:500], reason=kind, status=reply.status)
    return Replied(
        request_id=request_id,
        payload=reply.body,
        status=reply.status,
        failure=failure,
        headers=_run_headers(reply),
    )


def _run_headers(reply: Reply) -> tuple[tuple[str, str], ...]:
    """
    Return the headers about the run: error type, log, duration, memory, version, instance.

    In one spelling, since some proxies write all names in small letters.
    """
    return tuple(
        (name.title(), value)
        for name, value in reply.headers.items()
        if name.lower().startswith("x-fc-") or name.lower() == "content-type"
    )


def _message(reply: Reply, words: dict[str, str]) -> str:
    return error_message(reply, words, "message", "errormessage")


def _request_id(reply: Reply, words: dict[str, str]) -> str:
    return reply.headers.get(REQUEST_ID) or words.get("requestid", "")
