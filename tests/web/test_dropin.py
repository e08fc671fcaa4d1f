from typing import Any

import pytest

from dispatcher.core.model import Denied, Failure, Lost, Refused, Replied
from dispatcher.errors import (
    DiskFull,
    Draining,
    Invalid,
    JournalError,
    PayloadTooLarge,
    QueueFull,
    WaitedTooLong,
    Withdrawn,
)
from dispatcher.web import problems
from dispatcher.web.dropin import Kind, Trouble, _replied, guarded, trouble
from dispatcher.web.response import Response
from dispatcher.web.signatures import Fault, Unproved


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        *((Unproved(fault, "x"), Kind(fault.value)) for fault in Fault),
        (PayloadTooLarge("x", pointer="/payload"), Kind.TOO_LARGE),
        (Invalid("x", pointer="/type"), Kind.BAD_MODE),
        (Invalid("x", pointer="/function"), Kind.BAD_NAME),
        (Invalid("x", pointer="/options"), Kind.INVALID),
        (QueueFull("x"), Kind.THROTTLED),
        (WaitedTooLong("x", gate="account", retry_after_s=3), Kind.THROTTLED),
        (Draining("x"), Kind.UNAVAILABLE),
        (DiskFull("x"), Kind.UNAVAILABLE),
        (Withdrawn("x"), Kind.UNAVAILABLE),
        (JournalError("x"), Kind.UNAVAILABLE),
        (problems.refusal(408, "x"), Kind.TOO_SLOW),
        (problems.refusal(413, "x"), Kind.TOO_LARGE),
        (problems.refusal(503, "x"), Kind.UNAVAILABLE),
        (problems.refusal(400, "x"), Kind.INVALID),
    ],
)
def test_every_error_is_trouble_of_some_kind(error, kind):
    found = trouble(error)
    assert (found.kind, str(found)) == (kind, "x")
    assert (found.retry_after_s is not None) == (kind in (Kind.THROTTLED, Kind.UNAVAILABLE))
    assert trouble(found) is found


@pytest.mark.parametrize(
    ("answer", "kind", "cloud"),
    [
        (Refused(Failure("refused", "x", "Code", 404)), Kind.INVALID, (404, "Code")),
        (Refused(Failure("invalid", "x")), Kind.INVALID, None),
        (Denied(Failure("denied", "x", "Code", 403)), Kind.OUR_KEYS, None),
        (Lost(Failure("server_error", "x", "Code", 500)), Kind.LOST, (500, "Code")),
        (Lost(Failure("timed_out", "x"), timed_out=True), Kind.LOST, None),
    ],
)
def test_what_the_cloud_said_is_told(answer, kind, cloud):
    with pytest.raises(Trouble) as caught:
        _replied(answer)
    assert (caught.value.kind, caught.value.cloud) == (kind, cloud)
    assert str(caught.value).endswith("x")


def test_a_reply_is_a_reply():
    reply = Replied(request_id="r", payload=b"x")
    assert _replied(reply) is reply


async def test_trouble_is_told_with_what_goes_with_it():
    async def fails(request: Any) -> Response:
        raise request

    def refuse(_: Any, found: Trouble) -> Response:
        return Response(418, found.kind.encode())

    handler: Any = guarded(fails, refuse)
    answer = await handler(QueueFull("x", retry_after_s=1.2))
    assert (answer.body, answer.headers["Retry-After"]) == (b"throttled", "2")
    assert "Connection" not in answer.headers
    assert (await handler(problems.refusal(413, "x"))).headers["Connection"] == "close"
    with pytest.raises(ZeroDivisionError):
        await handler(ZeroDivisionError())
