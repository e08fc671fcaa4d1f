"""
What travels: the structs that requests are read into and answers are written from.

The OpenAPI document is made of the same structs, so their descriptions speak to callers.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, defstruct
from msgspec.json import format as reformat
from msgspec.structs import FieldInfo, fields

from dispatcher.core.intake import SECONDS_MAX
from dispatcher.core.model import (
    CallType,
    Completion,
    Failure,
    GateKind,
    Invocation,
    Query,
    State,
    Verdict,
)
from dispatcher.core.rules import AccountRules, FunctionRules, TenantRules
from dispatcher.core.trace_context import carried
from dispatcher.core.views import AccountView, View, WaitingFor
from dispatcher.errors import Invalid, Rejected
from dispatcher.web.bodies import json_flaw
from dispatcher.web.problems import Malformed, Problem


def _said(description: str, **schema: object) -> Meta:
    """
    Describe a field to those who read the OpenAPI document.

    What *schema* adds is only said here: `core/intake.py` judges it, for all ways in alike.
    """
    return Meta(description=description, extra_json_schema=schema)


AccountName = Annotated[str, _said("Name of an account of the configuration.", minLength=1)]
FunctionName = Annotated[
    str,
    _said(
        "Its name in the account, `service$function` for FC 2.0. A qualifier may follow, "
        "`name:alias`, and Lambda's ARNs are names too.",
        pattern="^[.]*[A-Za-z0-9_$:-][A-Za-z0-9_$.:-]*$",
    ),
]
TenantName = Annotated[
    str,
    _said(
        "The product that it belongs to; else `default`.",
        pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
    ),
]
Key = Annotated[
    str,
    _said(
        "A repeat with the same key is the same invocation. Also as header `Idempotency-Key`.",
        pattern="^[!-~]{1,256}$",
    ),
]
TraceParent = Annotated[
    str,
    _said(
        "The caller's trace (W3C Trace Context), which goes on to the function. Nonsense is none."
    ),
]
Moment = Annotated[str, _said("RFC 3339, UTC.", format="date-time")]
_BASE64: Final = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
Base64 = Annotated[bytes, _said("Bytes that are no JSON, in base64.", pattern=_BASE64)]


# -- Requests -------------------------------------------------------------------------------------


class NewInvocation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One call of one function. An optional field may be null, which is as good as absent."""

    account: AccountName
    function: FunctionName
    qualifier: (
        Annotated[str, _said("Version or alias.", pattern="^[A-Za-z0-9$_.-]{1,128}$")] | None
    ) = None
    payload: (
        Annotated[Raw, _said("What the function gets, sent compact: any JSON, null too.")]
        | UnsetType
    ) = UNSET
    payload_base64: (
        Annotated[
            bytes,
            _said("What the function gets, to the byte; instead of `payload`.", pattern=_BASE64),
        ]
        | None
    ) = None
    tenant: TenantName | None = None
    priority: (
        Annotated[
            float,
            _said(
                "Seconds of head start before the tenant's other work.",
                minimum=-SECONDS_MAX,
                maximum=SECONDS_MAX,
            ),
        ]
        | None
    ) = None
    delay_s: (
        Annotated[
            float, _said("Not before so many seconds from now.", minimum=0, maximum=SECONDS_MAX)
        ]
        | None
    ) = None
    expires_s: (
        Annotated[
            float,
            _said(
                "Not sent after so many seconds from now; more than `delay_s`.",
                exclusiveMinimum=0,
                maximum=SECONDS_MAX,
            ),
        ]
        | None
    ) = None
    idempotency_key: Key | None = None
    type: (
        Annotated[CallType, _said("How it is called, if not as the function's rules say.")] | None
    ) = None
    callback_url: (
        Annotated[str, _said("Where to post the end.", format="uri", maxLength=2048)] | None
    ) = None
    traceparent: TraceParent | None = None
    tracestate: Annotated[str, _said("What goes with `traceparent`.")] | None = None


class ErrorText(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a function did not succeed."""

    message: Annotated[str, Meta(max_length=65_536)]
    kind: Annotated[str, Meta(max_length=256)] = "FunctionError"
    reason: Annotated[str, Meta(max_length=256)] | None = None
    # A number, not an integer: to JSON Schema 500.0 is an integer as well.
    status: (
        Annotated[float, Meta(ge=100, le=599), _said("An HTTP status.", multipleOf=1)] | None
    ) = None


class NewCompletion(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The news that a function has ended."""

    succeeded: bool
    result: Annotated[Raw, _said("What it returned: any JSON.")] | UnsetType = UNSET
    result_base64: Base64 | None = None
    error: (
        Annotated[
            str | ErrorText,
            _said("Why it did not succeed: a text, or an object with a message."),
        ]
        | None
    ) = None


class Filter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which invocations are meant."""

    account: str | UnsetType = UNSET
    function: str | UnsetType = UNSET
    tenant: str | UnsetType = UNSET


class Listing(Filter, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which invocations to list, and how many of them."""

    state: State | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    after: Annotated[str, _said("The `next` of the page before.")] | UnsetType = UNSET


# -- Answers --------------------------------------------------------------------------------------


class Waiting(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an invocation waits for."""

    gate: GateKind
    name: str
    limit: Annotated[float, _said("Of the gate, in its own unit.")] | UnsetType = UNSET
    in_use: Annotated[float, _said("Of the limit.")] | UnsetType = UNSET
    ahead: (
        Annotated[int, _said("Due invocations of the account and tenant that come before it.")]
        | UnsetType
    ) = UNSET
    until: Moment | UnsetType = UNSET


class Described(Struct, frozen=True, kw_only=True):
    """One invocation as it stands."""

    id: str
    state: State
    account: str
    function: str
    qualifier: str | None
    tenant: str
    attempts: Annotated[int, _said("Which attempt it is at; 0 while it was never sent.")]
    accepted_at: Moment
    sent_at: Moment | None
    ended_at: Moment | None
    request_id: Annotated[str, _said("Of the cloud's answer to the last attempt.")] | None
    estimated: Annotated[bool, _said("Its end is an estimate.")]
    start_delay_s: (
        Annotated[
            float,
            _said("Seconds that the cloud kept the last attempt queued; on Lambda an estimate."),
        ]
        | UnsetType
    ) = UNSET
    waiting_for: Waiting | UnsetType = UNSET
    result: Annotated[Raw, _said("What the function returned, if it is JSON.")] | UnsetType = UNSET
    result_base64: Base64 | UnsetType = UNSET
    error: Failure | UnsetType = UNSET


class Page(Struct, frozen=True):
    """Invocations, newest first, without their results."""

    items: list[Described]
    next: Annotated[str, _said("Where the next page begins.")] | None


class Accounts(Struct, frozen=True):
    """All accounts."""

    items: list[AccountView]


class Cancelled(Struct, frozen=True):
    """What became of the wish to cancel."""

    id: str
    state: Annotated[State, _said("`cancelled`, or `running` while the cloud stops it.")]


class Redriven(Struct, frozen=True):
    """How many invocations wait again."""

    redriven: int


class Health(Struct, frozen=True):
    """The process is well."""

    status: str


class RefusedLine(Struct, frozen=True):
    """A line that was not accepted."""

    error: Problem


# -- From one to the other ------------------------------------------------------------------------


def invocation_of(
    body: NewInvocation, key: str | None = None, trace: dict[str, str] | None = None
) -> Invocation:
    """
    Return the invocation that *body* asks for; *key* and *trace* are those of the headers.

    Raises `Invalid` where two fields contradict each other.
    """
    if body.idempotency_key is not None:
        if key is not None and key != body.idempotency_key:
            raise Invalid("not the key of the header", pointer="/idempotency_key")
        key = body.idempotency_key
    return Invocation(
        account=body.account,
        function=body.function,
        payload=_bytes_of("payload", body.payload, body.payload_base64) or b"",
        qualifier=body.qualifier,
        tenant="default" if body.tenant is None else body.tenant,
        priority=0.0 if body.priority is None else body.priority,
        delay_s=0.0 if body.delay_s is None else body.delay_s,
        expires_s=body.expires_s,
        idempotency_key=key,
        type=body.type,
        callback_url=body.callback_url,
        options=(body.traceparent and carried(body.traceparent, body.tracestate)) or trace or {},
    )


def point_as_sent(error: Rejected, body: NewInvocation) -> None:
    """Have *error* point at what *body* has: a payload comes by one of two names."""
    if isinstance(error, Invalid) and error.pointer == "/payload" and body.payload is UNSET:
        error.pointer = "/payload_base64"


def completion_of(body: NewCompletion, invocation_id: str) -> Completion:
    """Return the completion that *body* tells of. Raises `Invalid` if it contradicts itself."""
    if body.succeeded and body.error is not None:
        raise Invalid("what succeeded has no error", pointer="/error")
    failure = None
    if not body.succeeded:
        said = body.error if body.error is not None else "the function failed"
        failure = _failure(ErrorText(said) if isinstance(said, str) else said)
    return Completion(
        id=invocation_id,
        verdict=Verdict.SUCCEEDED if body.succeeded else Verdict.FAILED,
        result=_bytes_of("result", body.result, body.result_base64),
        failure=failure,
    )


def _failure(said: ErrorText) -> Failure:
    if said.status is None:
        return Failure(said.kind, said.message, said.reason)
    if not said.status.is_integer():
        raise Invalid("not an HTTP status", pointer="/error/status")
    return Failure(said.kind, said.message, said.reason, int(said.status))


def query_of(wanted: Filter, state: State | None = None) -> Query:
    """Return the query that a filter stands for."""
    return Query(
        state=state,
        account=None if wanted.account is UNSET else wanted.account,
        function=None if wanted.function is UNSET else wanted.function,
        tenant=None if wanted.tenant is UNSET else wanted.tenant,
    )


def _bytes_of(field: str, inline: Raw | UnsetType, encoded: bytes | None) -> bytes | None:
    """Return what was given as JSON, compact, or as base64; None: neither."""
    if inline is UNSET:
        return encoded
    if encoded is not None:
        raise Invalid(f"given together with {field}", pointer=f"/{field}_base64")
    text = bytes(inline)
    # The decoder has read its syntax, but not the insides of its strings.
    if not text.isascii() and (flaw := json_flaw(text)) is not None:
        raise Malformed(flaw, pointer=f"/{field}")
    # Numbers, escapes and the order of keys stay as they are; only white space goes.
    if b" " in text or b"\n" in text or b"\t" in text or b"\r" in text:
        return reformat(text, indent=-1)
    return text


def described(view: View, now_s: float, *, results: bool = True) -> Described:
    """Show an invocation as it stands at *now_s*, seconds since 1970; with or without result."""
    record = view.record
    inline, encoded = _shown(record.result) if results else (UNSET, UNSET)
    return Described(
        id=record.id,
        state=record.state,
        account=record.account,
        function=record.function,
        qualifier=record.qualifier,
        tenant=record.tenant,
        attempts=0 if record.first_sent_ms is None else record.attempt,
        accepted_at=moment(record.accepted_ms),
        sent_at=_moment_or_none(record.sent_ms),
        ended_at=_moment_or_none(record.ended_ms),
        request_id=record.request_id,
        estimated=record.estimated,
        start_delay_s=UNSET if record.start_delay_s is None else record.start_delay_s,
        waiting_for=UNSET if view.waiting_for is None else _waiting(view.waiting_for, now_s),
        result=inline,
        result_base64=encoded,
        error=UNSET if record.failure is None else record.failure,
    )


def _shown(result: bytes | None) -> tuple[Raw | UnsetType, bytes | UnsetType]:
    if result is None:
        return UNSET, UNSET
    if json_flaw(result) is None:
        return Raw(result), UNSET
    return UNSET, result


def _waiting(reason: WaitingFor, now_s: float) -> Waiting:
    return Waiting(
        gate=reason.gate,
        name=reason.name,
        limit=reason.limit,
        in_use=reason.in_use,
        ahead=reason.ahead,
        until=UNSET if reason.until_s is UNSET else moment(int((now_s + reason.until_s) * 1000)),
    )


def moment(ms: int) -> str:
    """Write a time as RFC 3339 in UTC with milliseconds."""
    seconds, rest = divmod(ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def _moment_or_none(ms: int | None) -> str | None:
    return None if ms is None else moment(ms)


# -- Rules of an account, of which any part may be said: only to be described --------------------


def _unsaid(kind: Any, field: FieldInfo) -> Any:
    return kind | UnsetType if field.required else kind | None | UnsetType


def _part_of(kind: type[Struct], name: str, **others: Any) -> Any:
    return defstruct(
        name,
        [
            (each.name, _unsaid(others.get(each.name, each.type), each), UNSET)
            for each in fields(kind)
        ],
        namespace={"__doc__": f"Any part of the rules; null is the default. {kind.__doc__}"},
        forbid_unknown_fields=True,
        kw_only=True,
    )


_FunctionPatch: Any = _part_of(FunctionRules, "FunctionPatch")
_TenantPatch: Any = _part_of(TenantRules, "TenantPatch")
AccountPatch: Any = _part_of(
    AccountRules,
    "AccountPatch",
    functions=dict[str, _FunctionPatch | None],
    tenants=dict[str, _TenantPatch | None],
)
