"""One invocation inside the cloud, what its payload asks the emulator to do, and a finished run."""

from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from dispatcher.emulator.instances import Instance

if TYPE_CHECKING:
    from dispatcher.emulator.account import AccountState, FunctionState


class Status(StrEnum):
    """Where an invocation stands, in the words of FC's asynchronous tasks (and DROPPED)."""

    ENQUEUED = "Enqueued"
    DEQUEUED = "Dequeued"
    """Taken from the queue: a step in a task's history, over at the moment that it is reached."""
    RUNNING = "Running"
    RETRYING = "Retrying"
    STOPPING = "Stopping"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    STOPPED = "Stopped"
    EXPIRED = "Expired"
    DROPPED = "Dropped"
    """Thrown away unrun because the function's reservation is zero: Lambda only."""


ENDED: Final = frozenset(
    {Status.SUCCEEDED, Status.FAILED, Status.STOPPED, Status.EXPIRED, Status.DROPPED}
)
ON_INSTANCE: Final = frozenset({Status.RUNNING, Status.STOPPING})


class Failure(msgspec.Struct, frozen=True):
    """Why a run of a function failed."""

    kind: str
    """`Handled`: the handler raised; `Unhandled`: the sandbox was lost or timed out."""
    type: str
    message: str


class Directive(msgspec.Struct, frozen=True):
    """
    What a JSON payload with the member `"emulate"` asks of its runs.

    `{"emulate": {"duration_s": 1.5, "fail_attempts": 1}}` runs 1.5 s and fails once.
    """

    duration_s: float | None = None
    fail: bool = False
    """Every run fails."""
    fail_attempts: int = 0
    """So many first runs fail."""
    unhandled: bool = False
    """A failure is one of the sandbox instead of an exception of the handler."""
    result: msgspec.Raw = msgspec.Raw()
    """Returned instead of the payload itself."""
    result_bytes: int | None = None
    """Return a string of so many bytes, at most 32 MiB."""


class _Payload(msgspec.Struct):
    emulate: Directive | None = None


_decode = msgspec.json.Decoder(_Payload).decode
NO_DIRECTIVE: Final = Directive()


def directive_of(payload: bytes) -> Directive:
    """Return what the payload asks for; a payload that asks for nothing legible gets nothing."""
    if b'"emulate"' not in payload:
        return NO_DIRECTIVE
    try:
        return _decode(payload).emulate or NO_DIRECTIVE
    except msgspec.DecodeError:
        return NO_DIRECTIVE


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One finished run of a function. Times are seconds on the emulator's clock."""

    account: str
    function: str
    request_id: str
    task_id: str | None
    asynchronous: bool
    attempt: int
    started_at: float
    ended_at: float
    succeeded: bool
    cold: bool
    payload_head: bytes
    """The first 256 bytes of the payload."""


class Invocation:
    """One call of one function, from its acceptance to its end. Times are of the cloud's clock."""

    __slots__ = (
        "accepted_at",
        "account",
        "asynchronous",
        "attempts",
        "cold",
        "directive",
        "due_at",
        "ended_at",
        "expires_at",
        "failure",
        "first_started_at",
        "function",
        "generation",
        "instance",
        "instance_id",
        "payload",
        "qualifier",
        "request_id",
        "seq",
        "started_at",
        "status",
        "steps",
        "task_id",
        "throttle",
        "throttles",
        "tracked",
        "visible_at",
    )

    def __init__(
        self,
        account: "AccountState",
        function: "FunctionState",
        *,
        seq: int,
        request_id: str,
        payload: bytes,
        asynchronous: bool,
        qualifier: str | None,
        now: float,
    ) -> None:
        self.account = account
        self.function = function
        self.seq = seq
        self.request_id = request_id
        self.payload = payload
        self.asynchronous = asynchronous
        self.qualifier = qualifier
        self.directive = directive_of(payload)
        self.task_id: str | None = None
        self.tracked = False
        """Whether FC's task operations know it (or will, from `visible_at`)."""
        self.visible_at = now
        self.status = Status.ENQUEUED
        self.steps: list[tuple[Status, float]] = []
        self.accepted_at = now
        self.due_at = now
        self.expires_at = float("inf")
        self.first_started_at: float | None = None
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.attempts = 0
        """Runs begun."""
        self.throttles = 0
        """Throttles since the last run."""
        self.throttle: str | None = None
        """The code of the throttle after which it waits."""
        self.generation = 0
        """Raised when its timer is void."""
        self.instance: Instance | None = None
        self.instance_id = ""
        self.cold = False
        self.failure: Failure | None = None

    def __repr__(self) -> str:
        return f"<Invocation {self.request_id} {self.function.name} {self.status}>"

    @property
    def duration_s(self) -> float:
        """How long the last run took; 0 if there was none."""
        if self.started_at is None or self.ended_at is None:
            return 0.0
        return self.ended_at - self.started_at

    def result(self) -> bytes:
        """Return what the function gave back: its payload, unless the directive says otherwise."""
        if bytes(self.directive.result):
            return bytes(self.directive.result)
        if self.directive.result_bytes is not None:
            size = max(2, min(self.directive.result_bytes, 32 * 1024 * 1024))
            return b'"' + b"x" * (size - 2) + b'"'
        return self.payload or b"{}"
