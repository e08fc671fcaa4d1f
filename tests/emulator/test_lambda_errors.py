import pytest

from dispatcher.emulator.lambda_errors import LambdaError, throttled, unsigned
from dispatcher.emulator.signatures import Fault, SignatureRefused


def test_an_error_has_its_type_in_the_header_and_its_text_under_its_key():
    reply = LambdaError(404, "ResourceNotFoundException", "gone", key="Message").reply("r")
    assert reply.status == 404
    assert reply.headers["x-amzn-ErrorType"] == "ResourceNotFoundException"
    assert reply.headers["x-amzn-RequestId"] == "r"
    assert reply.body == b'{"Type":"User","Message":"gone"}'


def test_a_throttle_has_its_reason_and_may_say_when_to_come_back():
    reply = throttled("CallerRateLimitExceeded", "2").reply("r")
    assert reply.headers["Retry-After"] == "2"
    expected = b'{"Reason":"CallerRateLimitExceeded","Type":"User","message":"Rate Exceeded."}'
    assert (reply.status, reply.body) == (429, expected)
    assert "Retry-After" not in throttled("CallerRateLimitExceeded", None).reply("r").headers


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (Fault.MISSING, 403, "MissingAuthenticationTokenException"),
        (Fault.MALFORMED, 400, "IncompleteSignatureException"),
        (Fault.UNKNOWN_KEY, 403, "UnrecognizedClientException"),
        (Fault.TOKEN, 403, "UnrecognizedClientException"),
        (Fault.EXPIRED, 403, "InvalidSignatureException"),
        (Fault.WRONG, 403, "InvalidSignatureException"),
    ],
)
def test_every_fault_of_a_signature_has_its_error(fault, status, code):
    reply = unsigned(SignatureRefused(fault, "why")).reply("r")
    assert (reply.status, reply.headers["x-amzn-ErrorType"]) == (status, code)
