"""How the versions of FC's API say the same things: headers, error keys, task records."""

import base64
from collections.abc import Mapping
from typing import Final

import msgspec

from dispatcher.emulator.invocation import ENDED, ON_INSTANCE, Invocation
from dispatcher.emulator.records import response_payload
from dispatcher.emulator.signatures import Fault, SignatureRefused
from dispatcher.emulator.wire import Reply, json_reply


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """One version of the API."""

    version: str
    task_header: str
    task_header_in_reply: str
    tasks_segment: str
    prefix_parameter: str
    error_keys: tuple[str, str]
    task_missing: str
    task_flag: str
    """The member of the asynchronous configuration that turns task mode on."""
    list_member: str


FC3: Final = Dialect(
    version="2023-03-30",
    task_header="x-fc-async-task-id",
    task_header_in_reply="X-Fc-Async-Task-Id",
    tasks_segment="async-tasks",
    prefix_parameter="prefix",
    error_keys=("Code", "Message"),
    task_missing="AsyncTaskNotFound",
    task_flag="asyncTask",
    list_member="tasks",
)
FC2021: Final = Dialect(
    version="2021-04-06",
    task_header="x-fc-stateful-async-invocation-id",
    task_header_in_reply="X-Fc-Stateful-Async-Invocation-Id",
    tasks_segment="stateful-async-invocations",
    prefix_parameter="invocationIdPrefix",
    error_keys=("Code", "Message"),
    task_missing="StatefulAsyncInvocationNotFound",
    task_flag="statefulInvocation",
    list_member="invocations",
)
FC2016: Final = msgspec.structs.replace(
    FC2021, version="2016-08-15", error_keys=("ErrorCode", "ErrorMessage")
)
DIALECTS: Final = {dialect.version: dialect for dialect in (FC3, FC2021, FC2016)}

TASK_EXISTS: Final = "StatefulAsyncInvocationAlreadyExists"
"""The 2.0 APIs' name for a repeated task id. That of the 3.0 API is not documented."""


class FcError(Exception):
    """One error of the API; the dialect gives it its shape."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self._headers = dict(headers or {})

    def reply(self, dialect: Dialect, request_id: str) -> Reply:
        """Return the reply that tells it."""
        code_key, message_key = dialect.error_keys
        fields = {code_key: self.code, message_key: str(self), "RequestId": request_id}
        return json_reply(self.status, fields, {"X-Fc-Request-Id": request_id, **self._headers})


def throttled(code: str, retry_after_s: float | None = None) -> FcError:
    """Return the 429 of that code; a shortage of machines is a 503."""
    headers = {}
    if retry_after_s is not None:
        headers["x-acs-retry-after"] = str(round(retry_after_s * 1000))
        headers["Retry-After"] = f"{retry_after_s:g}"
    if code == "ResourceThrottled":
        return FcError(503, code, "Reserve resource exceeded limit", headers)
    return FcError(429, code, "the request is throttled, please try again later", headers)


def unsigned(refused: SignatureRefused) -> FcError:
    """Return the error for a signature."""
    match refused.fault:
        case Fault.MISSING:
            return FcError(
                400, "MissingRequiredHeader", "required HTTP header Authorization is missing"
            )
        case Fault.UNKNOWN_KEY | Fault.TOKEN:
            return FcError(403, "InvalidAccessKeyID", "the access key or its token is not valid")
        case Fault.WRONG | Fault.EXPIRED | Fault.MALFORMED:
            return FcError(403, "SignatureNotMatch", str(refused))


def invalid(message: str) -> FcError:
    """Return the 400 for a parameter."""
    return FcError(400, "InvalidArgument", message)


def task_record(
    task: Invocation, dialect: Dialect, epoch_s: float, *, payload: bool
) -> dict[str, object]:
    """Return the task as GetAsyncTask and ListAsyncTasks show it. Times are Unix, in ms."""

    def moment(at: float | None) -> int:
        return 0 if at is None else round((at + epoch_s) * 1000)

    started, ended = task.first_started_at, task.ended_at if task.status in ENDED else None
    took_ms = 0 if started is None or ended is None else round((ended - started) * 1000)
    record: dict[str, object] = {
        "requestId": task.request_id,
        "qualifier": task.qualifier or "LATEST",
        "instanceId": task.instance_id,
        "status": task.status.value,
        "startedTime": moment(started),
        "endTime": moment(ended),
        "durationMs": took_ms,
        "alreadyRetriedTimes": max(0, task.attempts - 1),
        "destinationStatus": "",
        "events": [
            {
                "eventId": index,
                "status": status.value,
                "timestamp": moment(at),
                "eventDetail": "",
            }
            for index, (status, at) in enumerate(task.steps, 1)
        ],
    }
    error = ""
    # While it runs, nobody can know yet that it will fail.
    if task.failure is not None and task.status not in ON_INSTANCE:
        error = response_payload(task).decode()
    elif task.throttle is not None:
        error = task.throttle
    shown = _text(task.payload) if payload else None
    if dialect is FC3:
        record |= {
            "taskId": task.task_id,
            "functionArn": task.function.arn(),
            "taskErrorMessage": error,
        }
        return record if shown is None else record | {"taskPayload": shown}
    service, _, name = task.function.name.rpartition("$")
    record |= {
        "invocationId": task.task_id,
        "serviceName": service,
        "functionName": name,
        "invocationErrorMessage": error,
    }
    return record if shown is None else record | {"invocationPayload": shown}


def _text(payload: bytes) -> str:
    """Return the payload as a JSON string can carry it."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return base64.b64encode(payload).decode()
