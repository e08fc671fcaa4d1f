"""Every reply of InvokeFunction means one outcome, by the table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

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
from dispatcher.transports.fc_replies import outcome, refused
from dispatcher.transports.wire import TOO_LARGE, Reply

ASYNC, SYNC = (
    Call(function="f", qualifier=None, type=kind, task_id="t", payload=b"{}")
    for kind in (CallType.ASYNC, CallType.SYNC)
)
NOW = 1795455825.0
SPELLINGS = (
    b'{"Code":"%s","Message":"what happened","RequestId":"r-1"}',
    b'{"ErrorCode":"%s","ErrorMessage":"what happened","RequestId":"r-1"}',
    b'{"errorCode":"%s","errorMessage":"what happened","requestId":"r-1"}',
    b'{"code":"%s","message":"what happened","requestid":"r-1"}',
)


def judged(
    status: int,
    code: str | None = None,
    *,
    call: Call = ASYNC,
    body: bytes = b"",
    spelling: bytes = SPELLINGS[0],
    **headers: str,
) -> Outcome:
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    if code is not None:
        body = spelling % code.encode()
    return outcome(call, Reply(status, named, body), NOW)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    ("status", "code", "for_async", "for_sync"),
    [
        (400, "InvalidArgument", Refused, Refused),
        (400, "MissingRequiredHeader", Refused, Refused),
        (400, "PathNotSupported", Refused, Refused),
        (400, "EntityTooLarge", Refused, Refused),
        (400, "LimitExceededError", Refused, Refused),
        (403, "AccessDenied", Denied, Denied),
        (403, "SignatureNotMatch", Denied, Denied),
        (403, "InvalidAccessKeyID", Denied, Denied),
        (403, "SomethingNew", Denied, Denied),
        (400, "InvalidSecurityToken.Expired", Denied, Denied),
        (400, "SignatureNonceUsed", Denied, Denied),
        (400, "IncompleteSignature", Denied, Denied),
        (404, "InvalidAccessKeyId.NotFound", Denied, Denied),
        (404, "FunctionNotFound", Refused, Refused),
        (404, "ServiceNotFound", Refused, Refused),
        (404, "AliasNotFound", Refused, Refused),
        (404, "VersionNotFound", Refused, Refused),
        (409, "StatefulAsyncInvocationAlreadyExists", Accepted, Refused),
        (409, "AnyOtherName", Accepted, Refused),
        (409, "ConcurrentUpdateError", NotSent, NotSent),
        (412, "CAExited", Refused, Replied),
        (412, "FunctionNotStarted", Refused, Replied),
        (412, "CAFileNotFound", Refused, Refused),
        (412, "PreconditionFailed", Refused, Refused),
        (429, "ResourceExhausted", Throttled, Throttled),
        (429, "FunctionResourceExhausted", Throttled, Throttled),
        (429, "Throttling.Api", Throttled, Throttled),
        (429, "Throttling.Api.Concurrency", Throttled, Throttled),
        (429, "Throttling.User", Throttled, Throttled),
        (400, "Throttling.User", Throttled, Throttled),
        (503, "Throttling", Throttled, Throttled),
        (503, "ResourceThrottled", Throttled, Throttled),
        (503, "ResourceExhausted", Throttled, Throttled),
        (499, "ClientClosedRequest", Lost, Lost),
        (500, "InternalServerError", Lost, Lost),
        (502, "BadResponse", Lost, Replied),
        (503, "ServiceUnavailable", Lost, Lost),
        (504, "GatewayTimeout", Lost, Lost),
    ],
)
def test_every_error_has_its_outcome(status, code, for_async, for_sync, spelling):
    for call, kind in ((ASYNC, for_async), (SYNC, for_sync)):
        result = judged(status, code, call=call, spelling=spelling)
        assert type(result) is kind
        if isinstance(result, Throttled):
            assert (result.reason, result.status) == (code, status)
            assert result.message == "what happened"
        elif isinstance(result, Accepted):
            assert result.request_id == "r-1"
        else:
            assert result.failure is not None
            assert result.failure.reason == code
            assert result.failure.status == status
            assert result.failure.message == "what happened"


@pytest.mark.parametrize(
    ("status", "code", "gate"),
    [
        (429, "ResourceExhausted", GateKind.ACCOUNT),
        (429, "FunctionResourceExhausted", GateKind.FUNCTION),
        (503, "ResourceThrottled", GateKind.ACCOUNT),
        (429, "Throttling.Api", GateKind.RATE),
        (429, "Throttling.Api.Concurrency", GateKind.RATE),
        (429, "Throttling.User", GateKind.RATE),
        (429, "NeverSeenBefore", GateKind.ACCOUNT),
    ],
)
def test_a_throttle_names_its_gate(status: int, code: str, gate: GateKind):
    assert judged(status, code, x_acs_retry_after="1500") == Throttled(
        gate=gate, reason=code, message="what happened", status=status, retry_after_s=1.5
    )


def test_a_throttle_without_words():
    for body in (b"", b"<html>"):
        result = judged(429, body=body, Retry_After="Mon, 23 Nov 2026 17:44:00 GMT")
        assert result == Throttled(
            gate=GateKind.ACCOUNT, reason="HTTP 429", message="HTTP 429", retry_after_s=15.0
        )


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (408, Lost), (500, Lost), (502, Lost), (503, Lost), (504, Lost),
        (400, Refused), (404, Refused), (412, Refused), (413, Refused), (301, Refused),
        (307, Refused), (401, Denied), (403, Denied),
    ],
)  # fmt: skip
@pytest.mark.parametrize("body", [b"", b"<html>nginx</html>", b"{}", b'{"Code":7}'])
def test_a_status_decides_where_no_code_is_known(status: int, kind: type, body: bytes):
    for call in (ASYNC, SYNC):
        result = judged(status, call=call, body=body, Content_Type="text/html")
        assert type(result) is kind
        assert isinstance(result, Lost | Refused | Denied)
        assert result.failure.status == status


def test_a_wait_is_passed_on():
    lost = judged(503, Retry_After="9")
    assert isinstance(lost, Lost)
    assert lost.retry_after_s == 9.0


def test_an_accepted_task_has_the_request_id():
    assert judged(202, X_Fc_Request_Id="r-1", X_Fc_Async_Task_Id="t") == Accepted("r-1")
    broken = Reply(202, {}, b"", cut=Lost(Failure("connection_lost", "x")))
    assert outcome(ASYNC, broken, NOW) == Accepted("")


def test_a_repeated_task_has_the_request_id_of_the_reply():
    assert judged(409, "AlreadyThere", X_Fc_Request_Id="of the reply") == Accepted("of the reply")
    assert judged(409, body=b"") == Accepted("")


def test_a_reply_has_payload_and_headers():
    result = judged(
        200,
        call=SYNC,
        body=b"\x00",
        x_fc_request_id="r",  # as proxies may spell it, and we answer with it as well
        x_fc_log_result="bG9n",
        content_type="image/png",
        Server="x",
    )
    assert result == Replied(
        request_id="r",
        payload=b"\x00",
        headers=(
            ("X-Fc-Request-Id", "r"),
            ("X-Fc-Log-Result", "bG9n"),
            ("Content-Type", "image/png"),
        ),
    )


@pytest.mark.parametrize("kind", ["HandledInvocationError", "UnhandledInvocationError"])
def test_a_function_that_failed_has_ended(kind: str):
    body = b'{"errorMessage":"division by zero","errorType":"ZeroDivisionError"}'
    result = judged(200, call=SYNC, body=body, X_Fc_Error_Type=kind)
    assert isinstance(result, Replied)
    assert result.failure == Failure("function_error", "division by zero", kind, 200)
    assert result.payload == body


def test_a_container_that_exited_is_the_functions_failure():
    result = judged(412, "CAExited", call=SYNC, X_Fc_Request_Id="r")
    assert isinstance(result, Replied)
    assert (result.request_id, result.payload, result.status) == ("r", b"", 412)
    assert result.failure == Failure("function_error", "what happened", "CAExited", 412)


def test_a_result_that_did_not_come_whole():
    lost = Lost(Failure("timed_out", "x"), timed_out=True)
    assert outcome(SYNC, Reply(200, {}, b"", cut=lost), NOW) == lost
    result = outcome(SYNC, Reply(200, {}, b"", cut=Lost(Failure(TOO_LARGE, "x"))), NOW)
    assert isinstance(result, Replied)
    assert result.failure == Failure(TOO_LARGE, "x")


def test_other_requests_are_refused_in_the_same_way():
    throttled = Reply(429, {}, b'{"Code":"Throttling.User","Message":"m"}')
    assert refused(throttled, NOW) == Throttled(
        gate=GateKind.RATE, reason="Throttling.User", message="m"
    )
    assert isinstance(refused(Reply(403, {}, b""), NOW), Denied)
    for status in (200, 304, 404, 409, 500, 503):
        assert refused(Reply(status, {}, b'{"Code":"AsyncTaskNotFound"}'), NOW) is None


@given(
    status=st.integers(200, 599),
    body=st.binary(max_size=60) | st.sampled_from([b'{"Message":{}}', b'{"Code":7}', b"null"]),
    code=st.none() | st.sampled_from(["Throttling", "AccessDenied", "x"]),
    call=st.sampled_from([ASYNC, SYNC]),
)
def test_any_reply_at_all_is_an_outcome(status: int, body: bytes, code: str | None, call: Call):
    assert isinstance(judged(status, code, call=call, body=body), Outcome)
