"""Every reply of Invoke means one outcome, by the table."""

import botocore.session
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
from dispatcher.transports.lambda_replies import outcome
from dispatcher.transports.wire import TOO_LARGE, Reply

ASYNC, SYNC = (
    Call(function="f", qualifier=None, type=kind, task_id="t", payload=b"{}")
    for kind in (CallType.ASYNC, CallType.SYNC)
)
NOW = 1795455825.0


def judged(
    status: int,
    code: str | None = None,
    *,
    call: Call = ASYNC,
    body: bytes = b"",
    **headers: str,
) -> Outcome:
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    if code is not None:
        named["x-amzn-ErrorType"] = code
        body = body or b'{"Type":"User","message":"what happened"}'
    return outcome(call, Reply(status, named, body), NOW)


MODELLED: dict[str, type[Outcome]] = {
    "InvalidParameterValueException": Refused,
    "InvalidRequestContentException": Refused,
    "ModeNotSupportedException": Refused,
    "NoPublishedVersionException": Refused,
    "RecursiveInvocationException": Refused,
    "SnapStartException": Refused,
    "ServiceQuotaExceededException": Refused,
    "EFSMountFailureException": Refused,
    "S3FilesMountFailureException": Refused,
    "ResourceNotFoundException": Refused,
    "EFSMountConnectivityException": NotSent,
    "EFSMountTimeoutException": NotSent,
    "S3FilesMountConnectivityException": NotSent,
    "S3FilesMountTimeoutException": NotSent,
    "SnapStartTimeoutException": NotSent,
    "CodeArtifactUserDeletedException": Refused,
    "CodeArtifactUserFailedException": Refused,
    "CodeArtifactUserPendingException": NotSent,
    "DurableExecutionAlreadyStartedException": Refused,
    "ResourceConflictException": NotSent,
    "SnapStartNotReadyException": NotSent,
    "SnapStartRegenerationFailureException": NotSent,
    "EFSIOException": Lost,
    "RequestTooLargeException": Refused,
    "SerializedRequestEntityTooLargeException": Refused,
    "UnsupportedMediaTypeException": Refused,
    "TooManyRequestsException": Throttled,
    "ServiceException": Lost,
    "EC2AccessDeniedException": Refused,
    "EC2ThrottledException": NotSent,
    "EC2UnexpectedException": Refused,
    "ENILimitReachedException": NotSent,
    "ENINotReadyException": NotSent,
    "InvalidRuntimeException": Refused,
    "InvalidSecurityGroupIDException": Refused,
    "InvalidSubnetIDException": Refused,
    "InvalidZipFileException": Refused,
    "KMSAccessDeniedException": Refused,
    "KMSDisabledException": Refused,
    "KMSInvalidStateException": Refused,
    "KMSNotFoundException": Refused,
    "ResourceNotReadyException": NotSent,
    "SubnetIPAddressLimitReachedException": NotSent,
    # In older models of the service.
    "RuntimeAliasDeletedException": Refused,
    "RuntimeVersionDeletedException": Refused,
}


def test_every_error_of_the_service_model_has_its_outcome():
    model = botocore.session.get_session().get_service_model("lambda")
    shapes = model.operation_model("Invoke").error_shapes
    assert {shape.name for shape in shapes} <= set(MODELLED)
    for shape in shapes:
        status = shape.metadata["error"]["httpStatusCode"]
        for call in (ASYNC, SYNC):
            result = judged(status, shape.name, call=call)
            assert type(result) is MODELLED[shape.name], shape.name
            if isinstance(result, (Refused, NotSent, Lost)):
                assert result.failure.reason == shape.name
                assert result.failure.status == status
                assert result.failure.message == "what happened"


@pytest.mark.parametrize("name", ["RuntimeAliasDeletedException", "RuntimeVersionDeletedException"])
def test_older_errors(name: str):
    assert type(judged(409, name)) is MODELLED[name]


# -- Throttles ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "gate", "function_rate"),
    [
        ("ConcurrentInvocationLimitExceeded", GateKind.ACCOUNT, False),
        ("ReservedFunctionConcurrentInvocationLimitExceeded", GateKind.FUNCTION, False),
        ("FunctionInvocationRateLimitExceeded", GateKind.FUNCTION, True),
        ("ReservedFunctionInvocationRateLimitExceeded", GateKind.FUNCTION, True),
        ("CallerRateLimitExceeded", GateKind.RATE, False),
        ("ConcurrentSnapshotCreateLimitExceeded", GateKind.FUNCTION, False),
    ],
)
def test_a_throttle_names_its_gate(reason: str, gate: GateKind, function_rate: bool):
    body = b'{"Reason":"%s","Type":"User","message":"Rate Exceeded."}' % reason.encode()
    assert judged(429, "TooManyRequestsException", body=body, Retry_After="3") == Throttled(
        gate=gate,
        function_rate=function_rate,
        reason=reason,
        message="Rate Exceeded.",
        retry_after_s=3.0,
    )


def test_every_reason_of_the_service_model_is_known():
    model = botocore.session.get_session().get_service_model("lambda")
    for reason in model.shape_for("ThrottleReason").enum:
        body = b'{"Reason":"%s"}' % reason.encode()
        by_reason = judged(429, "TooManyRequestsException", call=SYNC, body=body)
        assert isinstance(by_reason, Throttled)
        assert by_reason.reason == reason
        if reason != "ConcurrentInvocationLimitExceeded":
            assert by_reason.gate is not GateKind.ACCOUNT


@pytest.mark.parametrize(
    ("call", "status", "code", "body", "gate", "reason"),
    [
        # An event is not held against concurrency when it is accepted.
        (ASYNC, 429, "TooManyRequestsException", b"{}", GateKind.RATE, "TooManyRequestsException"),
        (SYNC, 429, "TooManyRequestsException", b"{}", GateKind.ACCOUNT, "TooManyRequestsException"),
        (SYNC, 429, "TooManyRequestsException", b'{"Reason":"New"}', GateKind.ACCOUNT, "New"),
        (SYNC, 429, None, b"<html>", GateKind.RATE, "HTTP 429"),
        (SYNC, 400, "ThrottlingException", b"{}", GateKind.RATE, "ThrottlingException"),
        (ASYNC, 400, "Throttling", b"{}", GateKind.RATE, "Throttling"),
    ],
)  # fmt: skip
def test_a_throttle_without_a_known_reason(call, status, code, body, gate, reason):
    result = judged(status, code, call=call, body=body)
    assert isinstance(result, Throttled)
    assert (result.gate, result.reason, result.status) == (gate, reason, status)


# -- Keys and rights ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize(
    "code",
    [
        "AccessDeniedException",
        "ExpiredTokenException",
        "IncompleteSignatureException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationTokenException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    ],
)
def test_wrong_keys_and_missing_rights_are_denied(status: int, code: str):
    result = judged(status, code)
    assert isinstance(result, Denied)
    assert result.failure == Failure("denied", "what happened", code, status)


def test_an_unknown_403_is_denied_as_well_and_a_wrong_clock_is_said():
    assert isinstance(judged(403, body=b"<html>Forbidden</html>"), Denied)
    result = judged(403, "InvalidSignatureException", Date="Mon, 23 Nov 2026 16:43:45 GMT")
    assert isinstance(result, Denied)
    assert "3600 s ahead" in result.failure.message


def test_the_canonical_request_that_aws_quotes_is_not_kept():
    body = b'{"message":"The signature does not match.\\n\\nThe Canonical String: x-amz-security"}'
    result = judged(403, "InvalidSignatureException", body=body)
    assert isinstance(result, Denied)
    assert result.failure.message == "The signature does not match."


# -- The rest -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (500, Lost), (502, Lost), (503, Lost), (504, Lost), (599, Lost), (408, Lost),
        (400, Refused), (402, Refused), (404, Refused), (409, Refused), (413, Refused),
        (418, Refused), (301, Refused), (307, Refused), (304, Refused),
    ],
)  # fmt: skip
@pytest.mark.parametrize("body", [b"", b"<html>nginx</html>", b"{}", b'{"message":null}'])
def test_a_status_decides_where_no_code_is_known(status: int, kind: type, body: bytes):
    for call in (ASYNC, SYNC):
        result = judged(status, call=call, body=body, Content_Type="text/html")
        assert type(result) is kind
        assert isinstance(result, Lost | Refused)
        assert result.failure.status == status


def test_a_wait_is_passed_on():
    lost = judged(503, Retry_After="9")
    assert isinstance(lost, Lost)
    assert lost.retry_after_s == 9.0
    later = judged(409, "ResourceConflictException", Retry_After="4")
    assert isinstance(later, NotSent)
    assert later.retry_after_s == 4.0


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ("aws.lambda#ServiceException:http://internal.amazon.com/coral/a#b", b""),
        ("ServiceException:", b""),
        (None, b'{"__type":"com.amazonaws#ServiceException"}'),
        (None, b'{"Code":"ServiceException"}'),
        (None, b'{"code":"ServiceException"}'),
    ],
)
def test_a_code_is_found_where_the_sdk_finds_it(header: str | None, body: bytes):
    result = judged(500, header, body=body)
    assert isinstance(result, Lost)
    assert result.failure.reason == "ServiceException"


def test_an_accepted_event_has_the_request_id():
    assert judged(202, x_amzn_RequestId="r-1") == Accepted("r-1")
    assert judged(202) == Accepted("")
    broken = Reply(202, {}, b"", cut=Lost(Failure("connection_lost", "x")))
    assert outcome(ASYNC, broken, NOW) == Accepted("")


def test_a_reply_has_payload_and_headers():
    result = judged(
        200,
        call=SYNC,
        body=b"[1]",
        X_Amzn_RequestId="r",
        x_amz_log_result="bG9n",
        X_Amz_Executed_Version="3",
        Server="x",
    )
    assert result == Replied(
        request_id="r",
        payload=b"[1]",
        headers=(("X-Amz-Log-Result", "bG9n"), ("X-Amz-Executed-Version", "3")),
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"errorMessage":"division by zero","errorType":"ZeroDivisionError"}', "division by zero"),
        (b'{"errorType":"Runtime.ExitError"}', "Runtime.ExitError"),
        (b"not json", "the function failed"),
        (b'{"errorMessage":"%s"}' % (b"x" * 9999), "x" * 500),
    ],
)  # fmt: skip
def test_a_function_that_failed_has_ended(body: bytes, message: str):
    result = judged(200, call=SYNC, body=body, X_Amz_Function_Error="Unhandled")
    assert isinstance(result, Replied)
    assert result.failure == Failure("function_error", message, "Unhandled", 200)
    assert result.payload == body
    assert ("X-Amz-Function-Error", "Unhandled") in result.headers


def test_a_result_that_did_not_come_whole():
    lost = Lost(Failure("timed_out", "x"), timed_out=True)
    assert outcome(SYNC, Reply(200, {}, b"", cut=lost), NOW) == lost
    # It would be as large again.
    too_large = Reply(200, {}, b"", cut=Lost(Failure(TOO_LARGE, "x")))
    result = outcome(SYNC, too_large, NOW)
    assert isinstance(result, Replied)
    assert result.failure == Failure(TOO_LARGE, "x")


@given(
    status=st.integers(200, 599),
    body=st.binary(max_size=60) | st.sampled_from([b'{"message":{}}', b'{"Reason":7}', b"null"]),
    code=st.none() | st.text(st.characters(codec="latin-1"), max_size=20),
    call=st.sampled_from([ASYNC, SYNC]),
)
def test_any_reply_at_all_is_an_outcome(status: int, body: bytes, code: str | None, call: Call):
    assert isinstance(judged(status, code, call=call, body=body), Outcome)
