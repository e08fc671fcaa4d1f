"""How the three versions of Function Compute's API say the same things: paths, headers, errors."""

import uuid
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

from dispatcher.web.dropin import Kind, Refuse, Trouble
from dispatcher.web.request import Request
from dispatcher.web.response import JSON, Response


class Dialect(Struct, frozen=True, kw_only=True):
    """One version of the API."""

    version: str
    function_path: str
    """Of a function, for the router."""
    task_header: str
    """By which a caller chooses a task's id."""
    reply_headers: tuple[str, ...]
    """In which the id comes back."""
    tasks: str
    """The segment of the path that tasks are below."""
    prefix: str
    """The parameter that lists are filtered by."""
    stop_path: str
    stop_status: int
    error_keys: tuple[str, str]
    task_exists: str
    task_missing: str
    list_member: str
    task_member: str
    payload_member: str
    error_member: str


FC3: Final = Dialect(
    version="2023-03-30",
    function_path="/2023-03-30/functions/{function}",
    task_header="x-fc-async-task-id",
    reply_headers=("X-Fc-Async-Task-Id",),
    tasks="async-tasks",
    prefix="prefix",
    stop_path="/stop",
    stop_status=200,
    error_keys=("Code", "Message"),
    # Its name is not documented; this is how the others are called.
    task_exists="AsyncTaskAlreadyExists",
    task_missing="AsyncTaskNotFound",
    list_member="tasks",
    task_member="taskId",
    payload_member="taskPayload",
    error_member="taskErrorMessage",
)
FC2021: Final = Dialect(
    version="2021-04-06",
    function_path="/2021-04-06/services/{service}/functions/{function}",
    task_header="x-fc-stateful-async-invocation-id",
    reply_headers=("X-Fc-Stateful-Async-Invocation-Id", "X-Fc-Async-Task-Id"),
    tasks="stateful-async-invocations",
    prefix="invocationIdPrefix",
    stop_path="",
    stop_status=204,
    error_keys=("Code", "Message"),
    task_exists="StatefulAsyncInvocationAlreadyExists",
    task_missing="StatefulAsyncInvocationNotFound",
    list_member="invocations",
    task_member="invocationId",
    payload_member="invocationPayload",
    error_member="invocationErrorMessage",
)
FC2016: Final = msgspec.structs.replace(
    FC2021,
    version="2016-08-15",
    function_path="/2016-08-15/services/{service}/functions/{function}",
    error_keys=("ErrorCode", "ErrorMessage"),
)
DIALECTS: Final = (FC3, FC2021, FC2016)

# Codes as in help.aliyun.com, functioncompute/error-codes.
_ERRORS: Final[Mapping[Kind, tuple[int, str]]] = {
    Kind.UNSIGNED: (403, "AccessDenied"),
    Kind.MALFORMED_SIGNATURE: (403, "SignatureNotMatch"),
    Kind.UNKNOWN_KEY: (403, "InvalidAccessKeyID"),
    Kind.EXPIRED: (403, "SignatureNotMatch"),
    Kind.REPEATED: (403, "SignatureNotMatch"),
    Kind.WRONG_SIGNATURE: (403, "SignatureNotMatch"),
    Kind.DENIED: (403, "AccessDenied"),
    Kind.NO_FUNCTION: (404, "FunctionNotFound"),
    Kind.NO_OPERATION: (400, "PathNotSupported"),
    Kind.TOO_LARGE: (400, "EntityTooLarge"),
    Kind.TOO_SLOW: (408, "RequestTimeout"),
    Kind.THROTTLED: (429, "ResourceExhausted"),
    Kind.TASK_ENDED: (412, "PreconditionFailed"),
    Kind.UNAVAILABLE: (503, "ServiceUnavailable"),
    Kind.OUR_KEYS: (502, "InternalServerError"),
    Kind.LOST: (502, "InternalServerError"),
    Kind.BAD_REPLY: (502, "BadResponse"),
}


def refuser(dialect: Dialect) -> Refuse:
    """Return what answers with an error in the words of *dialect*."""
    code_key, message_key = dialect.error_keys

    def refuse(_: Request, trouble: Trouble) -> Response:
        status, code = trouble.cloud or _ERRORS.get(trouble.kind, (400, "InvalidArgument"))
        if trouble.kind is Kind.TASK_EXISTS:
            status, code = 409, dialect.task_exists
        elif trouble.kind is Kind.NO_TASK:
            status, code = 404, dialect.task_missing
        request_id = str(uuid.uuid4())
        fields = {code_key: code, message_key: str(trouble), "RequestId": request_id}
        return answer(fields, request_id, status)

    return refuse


def answer(fields: object, request_id: str = "", status: int = 200) -> Response:
    """Answer with JSON."""
    return Response(
        status=status,
        body=msgspec.json.encode(fields),
        headers={"X-Fc-Request-Id": request_id or str(uuid.uuid4())},
        content_type=JSON,
    )
