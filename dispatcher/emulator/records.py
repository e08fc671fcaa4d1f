"""Lambda's destination records: what OnSuccess and OnFailure queues get to read."""

from datetime import UTC, datetime

import msgspec

from dispatcher.emulator.invocation import Invocation, Status

_CONDITIONS = {
    Status.SUCCEEDED: "Success",
    Status.FAILED: "RetriesExhausted",
    Status.EXPIRED: "EventAgeExceeded",
    Status.DROPPED: "ZeroReservedConcurrency",
}


def destination_record(invocation: Invocation, wall_s: float) -> bytes:
    """
    Return the record of an invocation that has ended, as it stands in an SQS message's body.

    lambda/latest/dg/invocation-async-retain-records.html. A record of an invocation that never
    ran has no response.
    """
    condition = _CONDITIONS[invocation.status]
    record: dict[str, object] = {
        "version": "1.0",
        "timestamp": _timestamp(wall_s),
        "requestContext": {
            "requestId": invocation.request_id,
            "functionArn": invocation.function.arn(invocation.qualifier or "$LATEST"),
            "condition": condition,
            "approximateInvokeCount": invocation.attempts,
        },
        "requestPayload": msgspec.Raw(invocation.payload or b"{}"),
    }
    if invocation.attempts:
        response: dict[str, object] = {
            "statusCode": 200,
            "executedVersion": invocation.qualifier or "$LATEST",
        }
        if invocation.failure is not None:
            response["functionError"] = "Unhandled"
        record["responseContext"] = response
        record["responsePayload"] = msgspec.Raw(response_payload(invocation))
    return msgspec.json.encode(record)


def response_payload(invocation: Invocation) -> bytes:
    """Return what a run gave back: the function's result, or the description of its failure."""
    if invocation.failure is None:
        return invocation.result()
    fields: dict[str, object] = {
        "errorMessage": invocation.failure.message,
        "errorType": invocation.failure.type,
    }
    if invocation.account.settings.provider == "aws-lambda":
        fields["requestId"] = invocation.request_id
    fields["stackTrace"] = ['  File "/var/task/handler.py", line 1, in handler\n']
    return msgspec.json.encode(fields)


def _timestamp(wall_s: float) -> str:
    moment = datetime.fromtimestamp(wall_s, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
