"""
What a reply of Lambda's Invoke means.

The codes are those of the service model of 2015-03-31 (operation Invoke); what each one says
about whether the function ran is from docs.aws.amazon.com/lambda/latest/api/API_Invoke.html.
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

REQUEST_ID: Final = "x-amzn-RequestId"

# About the run, for a caller that waits for it.
_RUN_HEADERS: Final = (
    "X-Amz-Function-Error",
    "X-Amz-Log-Result",
    "X-Amz-Executed-Version",
    "X-Amz-Durable-Execution-Arn",
    "X-Amzn-Trace-Id",
    "Content-Type",
)

_GATES: Final = {
    "ConcurrentInvocationLimitExceeded": (GateKind.ACCOUNT, False),
    "ReservedFunctionConcurrentInvocationLimitExceeded": (GateKind.FUNCTION, False),
    "FunctionInvocationRateLimitExceeded": (GateKind.FUNCTION, True),
    "ReservedFunctionInvocationRateLimitExceeded": (GateKind.FUNCTION, True),
    "CallerRateLimitExceeded": (GateKind.RATE, False),
    # Of functions with SnapStart; the others need no snapshots.
    "ConcurrentSnapshotCreateLimitExceeded": (GateKind.FUNCTION, False),
}

# The words of the API gateway in front of all AWS services, for too many requests.
_THROTTLES: Final = frozenset(
    {"Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled"}
    | {"RequestThrottledException", "RequestLimitExceeded", "TooManyRequestsException"}
)

# Keys, signatures and rights, whatever status they come with.
_DENIALS: Final = frozenset(
    {"AccessDenied", "AccessDeniedException", "ExpiredToken", "ExpiredTokenException"}
    | {"IncompleteSignature", "IncompleteSignatureException", "InvalidClientTokenId"}
    | {"InvalidSignatureException", "MissingAuthenticationToken", "NotAuthorized", "OptInRequired"}
    | {"MissingAuthenticationTokenException", "RequestExpired", "RequestTimeTooSkewed"}
    | {"SignatureDoesNotMatch", "TokenRefreshRequired", "UnrecognizedClientException"}
)

# Nothing ran, and it may well run later: a function that is still being made, a network that is.
_NOT_YET: Final = frozenset(
    {"ResourceConflictException", "SnapStartNotReadyException", "CodeArtifactUserPendingException"}
    | {"SnapStartRegenerationFailureException", "SnapStartTimeoutException"}
    | {"EFSMountConnectivityException", "EFSMountTimeoutException"}
    | {"S3FilesMountConnectivityException", "S3FilesMountTimeoutException"}
    | {"EC2ThrottledException", "ENINotReadyException", "ENILimitReachedException"}
    | {"ResourceNotReadyException", "SubnetIPAddressLimitReachedException"}
)

# Nothing ran, and nothing will until somebody changes the function, though the status is a 502.
_BROKEN: Final = frozenset(
    {"EC2AccessDeniedException", "EC2UnexpectedException", "InvalidRuntimeException"}
    | {"InvalidSecurityGroupIDException", "InvalidSubnetIDException", "InvalidZipFileException"}
    | {"KMSAccessDeniedException", "KMSDisabledException", "KMSInvalidStateException"}
    | {"KMSNotFoundException"}
)

# The file system failed while the function may have been running already.
_UNCLEAR: Final = frozenset({"EFSIOException"})

# A function's own trouble with its file system; not the caller's rights, though it is a 403.
_MOUNTS: Final = frozenset({"EFSMountFailureException", "S3FilesMountFailureException"})


def outcome(call: Call, reply: Reply, now_s: float) -> Outcome:
    """Tell what *reply* says about *call*. The code decides before the status."""
    status = reply.status
    if 200 <= status < 300:
        return _good(call, reply)
    words = error_body(reply.body)
    code, reason = _code(reply, words), words.get("reason")
    message = error_message(reply, words, "message", "errormessage")
    wait_s = retry_after_s(reply.headers, now_s)
    if status == 429 or (code in _THROTTLES and status < 500):
        gate, function_rate = _GATES.get(reason or "", _unnamed_gate(call, code))
        return Throttled(
            gate=gate,
            function_rate=function_rate,
            reason=reason or code or f"HTTP {status}",
            message=message,
            status=status,
            retry_after_s=wait_s,
        )
    failure = Failure("refused", message, reason=code, status=status)
    if code in _DENIALS or (status in (401, 403) and code not in _MOUNTS):
        note = clock_note(reply.headers, now_s)
        return Denied(msgspec.structs.replace(failure, kind="denied", message=message + note))
    if code in _NOT_YET:
        return NotSent(msgspec.structs.replace(failure, kind="not_ready"), wait_s)
    if code in _UNCLEAR or status == 408 or (status >= 500 and code not in _BROKEN):
        return Lost(msgspec.structs.replace(failure, kind="server_error"), retry_after_s=wait_s)
    return Refused(failure)


def denied(reply: Reply, now_s: float) -> Denied | None:
    """Return the denial that *reply* is, whatever was asked for; None: it is none."""
    words = error_body(reply.body)
    code = _code(reply, words)
    if reply.status not in (401, 403) and code not in _DENIALS:
        return None
    message = error_message(reply, words, "message", "errormessage")
    note = clock_note(reply.headers, now_s)
    return Denied(Failure("denied", message + note, reason=code, status=reply.status))


def _good(call: Call, reply: Reply) -> Outcome:
    request_id = reply.headers.get(REQUEST_ID, "")
    if call.type is CallType.ASYNC:
        return Accepted(request_id)
    if reply.cut is not None and reply.cut.failure.kind != TOO_LARGE:
        return reply.cut
    kind = reply.headers.get("X-Amz-Function-Error")
    # It has run, and would give as much again.
    failure = None if reply.cut is None else reply.cut.failure
    if kind:
        words = error_body(reply.body)
        message = words.get("errormessage") or words.get("errortype") or "the function failed"
        failure = Failure("function_error", message[:500], reason=kind, status=reply.status)
    return Replied(
        request_id=request_id,
        payload=reply.body,
        status=reply.status,
        failure=failure,
        headers=tuple(
            (name, reply.headers[name]) for name in _RUN_HEADERS if name in reply.headers
        ),
    )


def _code(reply: Reply, words: dict[str, str]) -> str | None:
    """Return the error's code, found where botocore finds it: header, body, `__type`."""
    raw = reply.headers.get("x-amzn-ErrorType") or words.get("code") or words.get("__type")
    # Such as `aws.lambda#Some.Exception:http://internal.amazon.com/...`.
    return raw.partition(":")[0].rpartition("#")[2].strip() or None if raw else None


def _unnamed_gate(call: Call, code: str | None) -> tuple[GateKind, bool]:
    """
    Guess the gate of a throttle without a reason that is known.

    Concurrency is not looked at when an event is accepted, so that an asynchronous call can
    only have come too soon after others.
    """
    too_fast = call.type is CallType.ASYNC or code != "TooManyRequestsException"
    return (GateKind.RATE if too_fast else GateKind.ACCOUNT), False
