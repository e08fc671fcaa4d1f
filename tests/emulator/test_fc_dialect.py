import msgspec
import pytest

from dispatcher.emulator.fc_dialect import FC3, FC2016, FC2021, FcError, throttled, unsigned
from dispatcher.emulator.signatures import Fault, SignatureRefused


@pytest.mark.parametrize(
    ("dialect", "code", "message"),
    [
        (FC3, "Code", "Message"),
        (FC2021, "Code", "Message"),
        (FC2016, "ErrorCode", "ErrorMessage"),
    ],
)
def test_an_error_has_the_keys_of_its_version(dialect, code, message):
    reply = FcError(404, "FunctionNotFound", "gone").reply(dialect, "r")
    fields = msgspec.json.decode(reply.body)
    assert fields == {code: "FunctionNotFound", message: "gone", "RequestId": "r"}
    assert reply.headers["X-Fc-Request-Id"] == "r"


@pytest.mark.parametrize(
    ("code", "status"),
    [("ResourceExhausted", 429), ("Throttling.User", 429), ("ResourceThrottled", 503)],
)
def test_a_shortage_of_machines_is_no_429(code, status):
    reply = throttled(code, 1.5).reply(FC3, "r")
    assert reply.status == status
    assert reply.headers["x-acs-retry-after"] == "1500"
    assert "Retry-After" not in throttled(code).reply(FC3, "r").headers


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (Fault.MISSING, 400, "MissingRequiredHeader"),
        (Fault.UNKNOWN_KEY, 403, "InvalidAccessKeyID"),
        (Fault.TOKEN, 403, "InvalidAccessKeyID"),
        (Fault.WRONG, 403, "SignatureNotMatch"),
        (Fault.EXPIRED, 403, "SignatureNotMatch"),
        (Fault.MALFORMED, 403, "SignatureNotMatch"),
    ],
)
def test_every_fault_of_a_signature_has_its_error(fault, status, code):
    error = unsigned(SignatureRefused(fault, "why"))
    assert (error.status, error.code) == (status, code)
