"""
Lambda's destination records, as they stand in the body of an SQS message.

Free of I/O. lambda/latest/dg/invocation-async-retain-records.html. Records that came through an
SNS topic or an EventBridge bus, to reach several dispatchers, are taken out of their wrapping.
"""

import contextlib
from datetime import datetime
from typing import Final

import msgspec

from dispatcher.core.model import Completion, Failure, Verdict, Watched

MESSAGE_CHARS_MAX: Final = 4096
"""An error message is kept up to this length."""


class _Context(msgspec.Struct, frozen=True, rename="camel"):
    request_id: str
    condition: str = ""
    function_arn: str = ""
    approximate_invoke_count: int | None = None


class _Response(msgspec.Struct, frozen=True, rename="camel"):
    function_error: str | None = None
    status_code: int | None = None


class Record(msgspec.Struct, frozen=True, rename="camel"):
    """What became of one invocation."""

    request_context: _Context
    timestamp: str | None = None
    response_context: _Response | None = None
    response_payload: msgspec.Raw = msgspec.Raw()

    @property
    def request_id(self) -> str:
        """The request id of the 202, which is the same in every attempt."""
        return self.request_context.request_id

    @property
    def written_s(self) -> float | None:
        """When the record was written, in seconds since 1970; None: it does not say."""
        try:
            moment = datetime.fromisoformat(self.timestamp or "")
        except ValueError:
            return None
        return moment.timestamp() if moment.tzinfo is not None else None


class _Sns(msgspec.Struct, frozen=True):
    topic_arn: str = msgspec.field(name="TopicArn")
    message: str = msgspec.field(name="Message")


class _EventBridge(msgspec.Struct, frozen=True):
    detail: Record


_record = msgspec.json.Decoder(Record, strict=False)
_sns = msgspec.json.Decoder(_Sns)
_event = msgspec.json.Decoder(_EventBridge, strict=False)


def read_record(body: str) -> Record | None:
    """Read the body of a message; None: it is no destination record."""
    for decode in (_record.decode, _of_sns, _of_event):
        try:
            record = decode(body)
        except (msgspec.DecodeError, UnicodeEncodeError):
            continue
        return record if record.request_id else None
    return None


def _of_sns(body: str) -> Record:
    return _record.decode(_sns.decode(body).message)


def _of_event(body: str) -> Record:
    return _event.decode(body).detail


class _ErrorPayload(msgspec.Struct, frozen=True, rename="camel"):
    error_message: str | None = None
    error_type: str | None = None


def completion(
    run: Watched, record: Record, *, run_s: float | None, start_delay_s: float | None
) -> Completion:
    """Return the news of the end of *run*, which *record* tells."""
    verdict, failure = _verdict(record)
    payload = bytes(record.response_payload)
    return Completion(
        id=run.id,
        attempt=run.attempt,
        verdict=verdict,
        result=None if payload == b"null" else payload or None,
        failure=failure,
        run_s=run_s,
        start_delay_s=start_delay_s,
    )


def _verdict(record: Record) -> tuple[Verdict, Failure | None]:
    condition = record.request_context.condition
    match condition:
        case "Success":
            return Verdict.SUCCEEDED, None
        case "EventAgeExceeded":
            message = "Lambda kept it queued for as long as the function's configuration allows"
            return Verdict.EXPIRED, Failure("expired", message, condition)
        case "ZeroReservedConcurrency":
            message = "the function is switched off: its reserved concurrency is 0"
            return Verdict.FAILED, Failure("function_disabled", message, condition)
        case _:
            # RetriesExhausted, and whatever may be added: only "Success" is one.
            return Verdict.FAILED, _function_error(record)


def _function_error(record: Record) -> Failure:
    error, status = _ErrorPayload(), None
    with contextlib.suppress(msgspec.DecodeError):
        error = msgspec.json.decode(record.response_payload, type=_ErrorPayload)
    response = record.response_context
    reason = record.request_context.condition or None
    if response is not None:
        status = response.status_code
        reason = response.function_error or reason
    message = ": ".join(text for text in (error.error_type, error.error_message) if text)
    return Failure(
        "function_error", (message or "the function failed")[:MESSAGE_CHARS_MAX], reason, status
    )
