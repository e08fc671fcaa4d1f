import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.model import Completion, Verdict
from dispatcher.trackers.sqs_records import MESSAGE_CHARS_MAX, completion, read_record
from tests.trackers.fake_fc import watched
from tests.trackers.fake_sqs import record


def told(body: str) -> Completion:
    read = read_record(body)
    assert read is not None
    return completion(watched(1, 0.0, attempt=2), read, run_s=1.0, start_delay_s=0.5)


def test_a_success_has_its_result_to_the_byte():
    body = record("r").replace(
        '{"answer": 42}', '{"answer":  1.00000000000000000001, "é": "\\u00e9"}'
    )
    end = told(body)
    assert (end.id, end.attempt, end.verdict, end.failure) == (
        "i0000000001",
        2,
        Verdict.SUCCEEDED,
        None,
    )
    assert end.result == '{"answer":  1.00000000000000000001, "é": "\\u00e9"}'.encode()
    assert (end.run_s, end.start_delay_s) == (1.0, 0.5)


@pytest.mark.parametrize("payload", [None, "absent"])
def test_a_success_may_have_no_result(payload):
    body = json.loads(record("r"))
    if payload == "absent":
        del body["responsePayload"]
    else:
        body["responsePayload"] = None
    assert told(json.dumps(body)).result is None


def test_exhausted_retries_are_a_failure_of_the_function():
    end = told(
        record(
            "r",
            condition="RetriesExhausted",
            responseContext={"statusCode": 200, "functionError": "Unhandled"},
            responsePayload={"errorMessage": "no such file", "errorType": "OSError"},
        )
    )
    assert end.verdict is Verdict.FAILED
    assert end.failure is not None
    assert end.failure.kind == "function_error"
    assert end.failure.message == "OSError: no such file"
    assert end.failure.reason == "Unhandled"
    assert end.result == b'{"errorMessage": "no such file", "errorType": "OSError"}'


def test_events_that_aged_out_were_dropped_by_the_cloud():
    body = json.loads(record("r", condition="EventAgeExceeded"))
    del body["responseContext"], body["responsePayload"]
    end = told(json.dumps(body))
    assert end.verdict is Verdict.EXPIRED
    assert end.failure is not None
    assert end.failure.reason == "EventAgeExceeded"


def test_a_function_that_is_switched_off_is_said_to_be():
    body = json.loads(record("r", condition="ZeroReservedConcurrency"))
    del body["responseContext"], body["responsePayload"]
    end = told(json.dumps(body))
    assert end.verdict is Verdict.FAILED
    assert end.failure is not None
    assert (end.failure.kind, end.failure.reason) == (
        "function_disabled",
        "ZeroReservedConcurrency",
    )


def test_a_condition_that_nobody_knows_is_no_success():
    end = told(record("r", condition="SomethingNew"))
    assert end.verdict is Verdict.FAILED


@pytest.mark.parametrize("payload", ["text", 3, [1], {"errorMessage": {"not": "text"}}, None])
def test_an_error_of_any_shape_is_a_failure(payload):
    end = told(record("r", condition="RetriesExhausted", responsePayload=payload))
    assert end.failure is not None
    assert end.failure.message == "the function failed"


def test_an_endless_message_is_cut():
    payload = {"errorMessage": "x" * 10**5}
    end = told(record("r", condition="RetriesExhausted", responsePayload=payload))
    assert end.failure is not None
    assert len(end.failure.message) == MESSAGE_CHARS_MAX


def test_the_time_of_a_record_is_read():
    read = read_record(record("r", timestamp="2019-11-14T18:16:05.568Z"))
    assert read is not None
    assert read.written_s == 1573755365.568
    for text in ("", "now", "2019-11-14T18:16:05.568", None):
        read = read_record(record("r", timestamp=text))
        assert read is not None
        assert read.written_s is None


def test_records_are_taken_out_of_their_wrappings():
    sns = json.dumps(
        {
            "Type": "Notification",
            "TopicArn": "arn:aws:sns:eu-west-3:123456789012:t",
            "Message": record("r"),
        }
    )
    bridge = json.dumps(
        {
            "source": "lambda",
            "detail-type": "Lambda Function Invocation Result - Success",
            "detail": json.loads(record("r")),
        }
    )
    for body in (record("r"), sns, bridge):
        read = read_record(body)
        assert read is not None
        assert read.request_id == "r"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "hello",
        "[]",
        "{}",
        "null",
        '{"requestContext": {}}',
        '{"requestContext": {"requestId": ""}}',
        '{"requestContext": {"requestId": 7}, "requestPayload"',
        '{"TopicArn": "t", "Message": "hello"}',
        '{"detail": {"state": "running"}}',
        '{"Records": [{"s3": {}}]}',
        "\ud800",
    ],
)
def test_what_is_no_record_is_none(body):
    assert read_record(body) is None


@given(st.text(max_size=50))
def test_any_text_can_be_read(body):
    read_record(body)
