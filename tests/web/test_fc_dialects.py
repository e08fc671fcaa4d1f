from typing import Any

import msgspec
import pytest

from dispatcher.web.dropin import Kind, Trouble
from dispatcher.web.fc_dialects import DIALECTS, FC3, FC2016, FC2021, answer, refuser

NO_REQUEST: Any = None


def told(reply: Any) -> Any:
    return msgspec.json.decode(reply.body)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", Kind)
def test_every_trouble_has_words_in_every_version(dialect, kind):
    reply = refuser(dialect)(NO_REQUEST, Trouble(kind, "why"))
    fields = told(reply)
    code, message = dialect.error_keys
    assert set(fields) == {code, message, "RequestId"}
    assert fields[message] == "why"
    assert fields["RequestId"] == reply.headers["X-Fc-Request-Id"]
    assert 400 <= reply.status < 600
    assert reply.status != 500
    assert reply.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("dialect", "kind", "status", "code"),
    [
        (FC3, Kind.TASK_EXISTS, 409, "AsyncTaskAlreadyExists"),
        (FC2021, Kind.TASK_EXISTS, 409, "StatefulAsyncInvocationAlreadyExists"),
        (FC2016, Kind.TASK_EXISTS, 409, "StatefulAsyncInvocationAlreadyExists"),
        (FC3, Kind.NO_TASK, 404, "AsyncTaskNotFound"),
        (FC2016, Kind.NO_TASK, 404, "StatefulAsyncInvocationNotFound"),
        (FC3, Kind.TOO_LARGE, 400, "EntityTooLarge"),
        (FC3, Kind.WRONG_SIGNATURE, 403, "SignatureNotMatch"),
        (FC3, Kind.BAD_CONTENT, 400, "InvalidArgument"),
    ],
)
def test_the_codes_are_those_of_the_provider(dialect, kind, status, code):
    reply = refuser(dialect)(NO_REQUEST, Trouble(kind, "why"))
    assert reply.status == status
    assert told(reply)[dialect.error_keys[0]] == code


def test_what_the_cloud_said_is_handed_on():
    reply = refuser(FC2016)(NO_REQUEST, Trouble(Kind.LOST, "why", cloud=(412, "CAExited")))
    assert reply.status == 412
    assert told(reply)["ErrorCode"] == "CAExited"


def test_an_answer_has_a_request_id_in_any_case():
    assert answer({}).headers["X-Fc-Request-Id"]
    assert answer({}, "r", 202).headers["X-Fc-Request-Id"] == "r"
