"""
The nouns of the dispatcher: invocations, outcomes, completions, and what is stored.

`gc` is off for all that comes with each invocation: none can be part of a cycle, and thousands that wait
for the journal or for their callers would be looked at in each collection.
"""

import math
from enum import StrEnum

from msgspec import Struct


class State(StrEnum):
    """Where an invocation stands in its life (core/lifecycle.py has the moves)."""

    WAITING = "waiting"  #: accepted; due now or later
    SENDING = "sending"  #: the cloud may or may not have it
    RUNNING = "running"  #: the cloud has it; it holds a slot
    SUCCEEDED = "succeeded"
    DEAD = "dead"  #: ended without success; can be redriven
    EXPIRED = "expired"  #: not sent before its time ran out
    CANCELLED = "cancelled"
    UNCERTAIN = "uncertain"  #: nobody knows how, or whether, it ended; can be redriven


class Provider(StrEnum):
    """The clouds that can be sent to."""

    AWS_LAMBDA = "aws-lambda"
    ALIYUN_FC = "aliyun-fc"


class CallType(StrEnum):
    """How the cloud is asked to run a function."""

    ASYNC = "async"  #: `Event` at Lambda, `Async` at Function Compute: a 202 at once
    SYNC = "sync"  #: `RequestResponse`, `Sync`: the reply is the end


class Source(StrEnum):
    """How the end of a function becomes known."""

    RESPONSE = "response"  #: the reply itself
    TASK = "task"  #: task status of Function Compute
    DESTINATION = "destination"  #: Lambda's OnSuccess/OnFailure records on a queue
    CALLBACK = "callback"  #: somebody posts it to us
    DURATION = "duration"  #: an estimate: so long after the 202
    ACCEPTED = "accepted"  #: not at all: the slot ends at the 202


class GateKind(StrEnum):
    """What an invocation may wait for; the words are part of the HTTP API."""

    FUNCTION = "function"
    TENANT = "tenant"
    ACCOUNT = "account"
    RATE = "rate"
    RAMP = "ramp"
    RESOURCE = "resource"
    PAUSED = "paused"
    RETRY_AFTER = "retry_after"
    CIRCUIT = "circuit"
    RETRY = "retry"
    DELAY = "delay"


# -- The invocation as its caller sees it -------------------------------------------------------


class Invocation(Struct, frozen=True, kw_only=True, gc=False):
    """One call of one function, as a caller asks for it."""

    account: str
    """The name of the account in the configuration."""
    function: str
    """The function's name in that account; `service$function` for Function Compute 2.0."""
    payload: bytes = b""
    """What the function gets, to the byte."""
    qualifier: str | None = None
    """Version or alias."""
    tenant: str = "default"
    """The product that this belongs to: the key of fair sharing."""
    priority: float = 0.0
    """Head start in seconds before the tenant's other invocations; negative: after them."""
    delay_s: float = 0.0
    """Not before this many seconds from now."""
    expires_s: float | None = None
    """Not sent after this many seconds from now; it ends as `expired` instead."""
    idempotency_key: str | None = None
    """A repeat with the same key (per account) is the same invocation."""
    type: CallType | None = None
    """None: as the function's rules say."""
    callback_url: str | None = None
    """Where to post the end."""
    options: dict[str, str] = {}
    """What else travels to the provider: `log_type`, `client_context`, `tenant_id`, ..."""
    task_id: str | None = None
    """The task id of the first attempt, where a caller of a drop-in endpoint chose it."""


class Failure(Struct, frozen=True, omit_defaults=True, gc=False):
    """Why something did not succeed, in words that are stable enough to search for."""

    kind: str
    message: str
    reason: str | None = None
    """The cloud's own code, to the letter."""
    status: int | None = None
    """The HTTP status of the cloud's reply."""


# -- What came of a send ------------------------------------------------------------------------


class Call(Struct, frozen=True, kw_only=True, gc=False):
    """One request to the cloud."""

    function: str
    qualifier: str | None
    type: CallType
    task_id: str
    """Ours, one per attempt; where the cloud refuses a repeat, a resend cannot run twice."""
    payload: bytes
    options: dict[str, str] = {}


class Accepted(Struct, frozen=True, gc=False):
    """The cloud has it and will run it (202), or had it already (409 of a repeated task id)."""

    request_id: str


class Replied(Struct, frozen=True, kw_only=True, gc=False):
    """The reply to a synchronous call: the function has ended."""

    request_id: str
    payload: bytes
    status: int = 200
    failure: Failure | None = None
    """Set when the function itself failed."""
    headers: tuple[tuple[str, str], ...] = ()
    """The provider's headers about the run (error, log, duration), for a waiting caller."""


class Throttled(Struct, frozen=True, kw_only=True, gc=False):
    """The cloud refused for want of capacity; nothing ran."""

    gate: GateKind
    """Whose limit was met: ACCOUNT, FUNCTION, or RATE (the caller's request rate)."""
    function_rate: bool = False
    """With FUNCTION: its rate rather than its concurrency."""
    reason: str
    message: str = ""
    status: int = 429
    retry_after_s: float | None = None


class Refused(Struct, frozen=True, gc=False):
    """The cloud will never take this; nothing ran."""

    failure: Failure


class Denied(Struct, frozen=True, gc=False):
    """The account's credentials or rights are wrong, also after a refresh; nothing ran."""

    failure: Failure


class NotSent(Struct, frozen=True, gc=False):
    """Nothing ran, and a later try may succeed: no connection, function still being made."""

    failure: Failure
    retry_after_s: float | None = None


class Lost(Struct, frozen=True, gc=False):
    """Nobody knows whether the cloud has it: time-out, reset, 5xx."""

    failure: Failure
    timed_out: bool = False
    retry_after_s: float | None = None


Outcome = Accepted | Replied | Throttled | Refused | Denied | NotSent | Lost


# -- The news that a function has ended ---------------------------------------------------------


class Verdict(StrEnum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"  #: the cloud dropped it from its own queue
    STOPPED = "stopped"


class Completion(Struct, frozen=True, kw_only=True, gc=False):
    """The end of one attempt of an invocation."""

    id: str
    verdict: Verdict
    attempt: int | None = None
    """The attempt that ended; None: the one that is running."""
    result: bytes | None = None
    failure: Failure | None = None
    start_delay_s: float | None = None
    """How long the cloud kept it queued before it ran."""
    run_s: float | None = None
    """How long it ran."""

    @property
    def true_start_delay_s(self) -> float | None:
        """Return the start delay; None where it is not known, or whoever said it is wrong."""
        delay_s = self.start_delay_s
        return delay_s if delay_s is not None and 0.0 <= delay_s < math.inf else None


class Watched(Struct, frozen=True, kw_only=True, gc=False):
    """A run whose end a tracker is to find out."""

    id: str
    account: str
    function: str
    qualifier: str | None
    attempt: int
    task_id: str
    request_id: str
    sent_at: float
    """On the loop's clock; in the past, maybe below zero, after a restart."""
    expected_s: float | None
    """How long the function is thought to take."""
    deadline: float | None = None
    """When its slot is given up without news, on the loop's clock."""


# -- The news for whoever asked to be told ------------------------------------------------------


class Notice(Struct, frozen=True, kw_only=True, gc=False):
    """What is posted to an invocation's `callback_url` once it has ended."""

    url: str
    id: str
    state: State
    account: str
    function: str
    qualifier: str | None
    tenant: str
    attempt: int
    ended_ms: int  #: milliseconds since 1970, UTC
    request_id: str | None
    estimated: bool = False
    result: bytes | None = None
    failure: Failure | None = None


# -- What is stored -----------------------------------------------------------------------------


class Record(Struct, kw_only=True, gc=False):
    """
    An invocation as the journal keeps it. Times are milliseconds since 1970, UTC.

    `gc` is off, as with jobs: a journal in memory has a million, and none refers to another.
    """

    id: str
    account: str
    function: str
    qualifier: str | None = None
    tenant: str = "default"
    type: CallType = CallType.ASYNC
    priority: float = 0.0
    state: State = State.WAITING
    attempt: int = 1
    payload_bytes: int = 0
    accepted_ms: int = 0
    due_ms: int = 0
    expires_ms: int | None = None
    first_sent_ms: int | None = None
    sent_ms: int | None = None
    ended_ms: int | None = None
    request_id: str | None = None
    task_id: str | None = None
    key: str | None = None
    digest: bytes = b""
    """Of what makes the job the same job, to tell a repeat from a reused key."""
    callback_url: str | None = None
    options: dict[str, str] = {}
    estimated: bool = False
    start_delay_s: float | None = None
    """How long the cloud kept the last attempt queued before it ran; None: nobody knows."""
    result: bytes | None = None
    failure: Failure | None = None


class Entry(Struct, frozen=True, gc=False):
    """A new invocation for the journal."""

    record: Record
    payload: bytes


class Duplicate(Struct, frozen=True, gc=False):
    """The journal already has an invocation of that key and account."""

    id: str
    same_job: bool


class Sending(Struct, frozen=True, gc=False):
    """From here on the cloud may have it."""

    id: str
    attempt: int
    at_ms: int


class Running(Struct, frozen=True, gc=False):
    """The cloud took it."""

    id: str
    request_id: str
    at_ms: int


class Returned(Struct, frozen=True, gc=False):
    """It waits again: a resend of the same attempt, or the next attempt."""

    id: str
    attempt: int
    due_ms: int
    failure: Failure | None = None
    maybe_sent: bool = False
    """The cloud may have this attempt; a resend must repeat its task id."""


class Ended(Struct, frozen=True, kw_only=True, gc=False):
    """It ended, or its end became known after all."""

    id: str
    state: State
    at_ms: int
    request_id: str | None = None
    result: bytes | None = None
    failure: Failure | None = None
    estimated: bool = False
    start_delay_s: float | None = None


Change = Sending | Running | Returned | Ended


class Pause(Struct, frozen=True):
    """Nothing is sent of an account, or of one function, until somebody resumes it; or that is over."""

    account: str
    function: str | None
    """None: the whole account."""
    paused: bool = True

    @property
    def name(self) -> str:
        """Return what it is of, in a line of the log."""
        return self.account if self.function is None else f"{self.account}/{self.function}"


class Query(Struct, frozen=True, kw_only=True):
    """Which invocations to list; None: any."""

    state: State | None = None
    account: str | None = None
    function: str | None = None
    tenant: str | None = None
