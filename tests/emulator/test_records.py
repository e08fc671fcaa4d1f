import random
from typing import Any

import msgspec

from dispatcher.emulator.cloud import Cloud, Delivery
from dispatcher.emulator.settings import Account, Function, Settings


def record_of(payload: bytes, qualifier: str | None = None, **fields: Any) -> dict[str, Any]:
    function = Function(duration_s=1, on_success="ends", on_failure="ends", **fields)
    account = Account(
        provider="aws-lambda",
        account_id="123456789012",
        region="eu-west-1",
        quota=1,
        functions={"f": function},
    )
    cloud = Cloud(Settings(accounts={"a": account}), random.Random(1), epoch_s=1_700_000_000)
    state = cloud.accounts["a"]
    cloud.invoke(
        state.functions["f"], state, 0, payload=payload, asynchronous=True, qualifier=qualifier
    )
    deliveries = []
    while (deadline := cloud.next_deadline()) is not None:
        deliveries += cloud.due(deadline)
    [delivery] = deliveries
    assert isinstance(delivery, Delivery)
    decoded: dict[str, Any] = msgspec.json.decode(delivery.body)
    assert len(decoded["requestContext"].pop("requestId")) == 36
    return decoded


def test_a_success():
    assert record_of(b'{"n": 1}', "prod") == {
        "version": "1.0",
        "timestamp": "2023-11-14T22:13:21.000Z",
        "requestContext": {
            "functionArn": "arn:aws:lambda:eu-west-1:123456789012:function:f:prod",
            "condition": "Success",
            "approximateInvokeCount": 1,
        },
        "requestPayload": {"n": 1},
        "responseContext": {"statusCode": 200, "executedVersion": "prod"},
        "responsePayload": {"n": 1},
    }


def test_a_failure_after_all_repeats():
    record = record_of(b'{"emulate": {"fail": true}}')
    assert record["requestContext"] == {
        "functionArn": "arn:aws:lambda:eu-west-1:123456789012:function:f:$LATEST",
        "condition": "RetriesExhausted",
        "approximateInvokeCount": 3,
    }
    assert record["responseContext"] == {
        "statusCode": 200,
        "executedVersion": "$LATEST",
        "functionError": "Unhandled",
    }
    assert record["responsePayload"]["errorType"] == "EmulatedError"
    assert record["responsePayload"]["stackTrace"]


def test_what_never_ran_has_no_response():
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"reserved": 0}, "ZeroReservedConcurrency"),
        ({"max_async_event_age_s": 0}, "EventAgeExceeded"),
    )
    for fields, condition in cases:
        record = record_of(b"", **fields)
        assert record["requestContext"]["condition"] == condition
        assert record["requestContext"]["approximateInvokeCount"] == 0
        assert record["requestPayload"] == {}
        assert "responseContext" not in record
        assert "responsePayload" not in record


def test_an_event_that_grew_too_old_after_a_run_tells_of_the_run():
    record = record_of(b'{"emulate": {"fail": true}}', max_async_event_age_s=30)
    assert record["requestContext"]["condition"] == "EventAgeExceeded"
    assert record["responseContext"]["functionError"] == "Unhandled"
