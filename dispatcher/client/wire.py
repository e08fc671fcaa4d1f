"""What travels: invocations as JSON, and answers as the types that the dispatcher has in process."""

import time
from datetime import datetime
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from dispatcher.client.connection import Problem
from dispatcher.core.intake import check_numbers, typed
from dispatcher.core.model import (
    CallType,
    Completion,
    Failure,
    GateKind,
    Invocation,
    Query,
    Record,
    State,
    Verdict,
)
from dispatcher.core.trace_context import TRACEPARENT, TRACESTATE
from dispatcher.core.views import Acceptance, AccountView, View, WaitingFor
from dispatcher.errors import Invalid


class _Asked(Struct, kw_only=True, omit_defaults=True):
    account: str
    function: str
    qualifier: str | None = None
    payload: Raw | UnsetType = UNSET
    payload_base64: bytes | UnsetType = UNSET
    tenant: str = "default"
    priority: float | UnsetType = UNSET
    delay_s: float | UnsetType = UNSET
    expires_s: float | None = None
    idempotency_key: str | None = None
    type: CallType | None = None
    callback_url: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None


class _Told(Struct, kw_only=True, omit_defaults=True):
    succeeded: bool
    result: Raw | UnsetType = UNSET
    result_base64: bytes | UnsetType = UNSET
    error: Failure | None = None


class _Waiting(Struct, kw_only=True):
    gate: GateKind
    name: str
    limit: float | UnsetType = UNSET
    in_use: float | UnsetType = UNSET
    ahead: int | UnsetType = UNSET
    until: datetime | UnsetType = UNSET


class _Described(Struct, kw_only=True):
    id: str
    state: State
    account: str
    function: str
    qualifier: str | None
    tenant: str
    attempts: int
    accepted_at: datetime
    sent_at: datetime | None
    ended_at: datetime | None
    request_id: str | None
    estimated: bool
    start_delay_s: float | None = None
    waiting_for: _Waiting | None = None
    result: Raw | UnsetType = UNSET
    result_base64: bytes | None = None
    error: Failure | None = None


class _Page(Struct):
    items: list[_Described]
    next: str | None


class _Accounts(Struct):
    items: list[AccountView]


class _Cancelled(Struct):
    state: State


class _Redriven(Struct):
    redriven: int


class _Line(Struct):
    id: str = ""
    state: State = State.WAITING
    duplicate: bool = False
    error: Problem | None = None


_encode: Final = msgspec.json.Encoder().encode
_described: Final = msgspec.json.Decoder(_Described)
_page: Final = msgspec.json.Decoder(_Page)
_line: Final = msgspec.json.Decoder(_Line)

read_acceptance: Final = msgspec.json.Decoder(Acceptance).decode
read_account: Final = msgspec.json.Decoder(AccountView).decode


# -- Out ------------------------------------------------------------------------------------------


def written(invocation: Invocation) -> bytes:
    """Write *invocation* on one line. Raises `Invalid` for what cannot be asked for over HTTP."""
    invocation = typed(invocation)
    check_numbers(invocation)  # JSON has no word for some, and a null would mean none at all
    options = invocation.options
    for field, given in (
        ("options", options.keys() - {TRACEPARENT, TRACESTATE}),
        ("task_id", invocation.task_id),
    ):
        if given:
            raise Invalid(
                "only the drop-in endpoints and code in process have it", pointer=f"/{field}"
            )
    payload, encoded = _json_or_base64(invocation.payload or None)
    return _encode(
        _Asked(
            account=invocation.account,
            function=invocation.function,
            qualifier=invocation.qualifier,
            payload=payload,
            payload_base64=encoded,
            tenant=invocation.tenant,
            priority=invocation.priority or UNSET,
            delay_s=invocation.delay_s or UNSET,
            expires_s=invocation.expires_s,
            idempotency_key=invocation.idempotency_key,
            type=invocation.type,
            callback_url=invocation.callback_url,
            traceparent=options.get(TRACEPARENT),
            tracestate=options.get(TRACESTATE),
        )
    )


def written_completion(completion: Completion) -> bytes:
    """Write the news of an end. Raises `Invalid` for an end that only a tracker can tell of."""
    if completion.verdict not in (Verdict.SUCCEEDED, Verdict.FAILED):
        raise Invalid("over HTTP a function has succeeded or failed", pointer="/succeeded")
    result, encoded = _json_or_base64(completion.result)
    return _encode(
        _Told(
            succeeded=completion.verdict is Verdict.SUCCEEDED,
            result=result,
            result_base64=encoded,
            error=completion.failure,
        )
    )


def _json_or_base64(data: bytes | None) -> tuple[Raw | UnsetType, bytes | UnsetType]:
    """Put *data* in as JSON if it comes out of that to the byte, else as base64."""
    if data is None:
        return UNSET, UNSET
    try:
        compact = msgspec.json.format(data, indent=-1)
        data.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return UNSET, data
    return (Raw(data), UNSET) if compact == data else (UNSET, data)


def query(wanted: Query, **more: str | int | None) -> dict[str, str]:
    """Write the filters of *wanted*, and *more*, as query parameters."""
    filters = {
        "state": wanted.state,
        "account": wanted.account,
        "function": wanted.function,
        "tenant": wanted.tenant,
        **more,
    }
    return {name: str(value) for name, value in filters.items() if value is not None}


# -- In -------------------------------------------------------------------------------------------


def read_view(text: bytes) -> View:
    """Read one invocation."""
    return _view(_described.decode(text), time.time())


def read_page(text: bytes) -> tuple[list[View], str | None]:
    """Read a page of invocations and the cursor of the next."""
    page, now_s = _page.decode(text), time.time()
    return [_view(item, now_s) for item in page.items], page.next


def read_accounts(text: bytes) -> list[AccountView]:
    """Read all accounts."""
    return msgspec.json.decode(text, type=_Accounts).items


def read_state(text: bytes) -> State:
    """Read what became of the wish to cancel."""
    return msgspec.json.decode(text, type=_Cancelled).state


def read_count(text: bytes) -> int:
    """Read how many were redriven."""
    return msgspec.json.decode(text, type=_Redriven).redriven


def read_lines(text: bytes, count: int) -> list[Acceptance | Problem]:
    """Read what became of each of *count* invocations."""
    lines = [_line.decode(line) for line in text.splitlines()]
    if len(lines) != count or not all(line.id or line.error for line in lines):
        raise msgspec.DecodeError(f"{len(lines)} lines for {count}")
    return [line.error or Acceptance(line.id, line.state, line.duplicate) for line in lines]


def _view(shown: _Described, now_s: float) -> View:
    accepted_ms, sent_ms = _ms(shown.accepted_at), _ms_or_none(shown.sent_at)
    record = Record(
        id=shown.id,
        account=shown.account,
        function=shown.function,
        qualifier=shown.qualifier,
        tenant=shown.tenant,
        state=shown.state,
        attempt=shown.attempts,
        accepted_ms=accepted_ms,
        due_ms=accepted_ms,
        sent_ms=sent_ms,
        ended_ms=_ms_or_none(shown.ended_at),
        request_id=shown.request_id,
        estimated=shown.estimated,
        start_delay_s=shown.start_delay_s,
        result=shown.result_base64 if shown.result is UNSET else bytes(shown.result),
        failure=shown.error,
    )
    reason = shown.waiting_for
    if reason is None:
        return View(record=record)
    until_s: float | UnsetType = UNSET
    if reason.until is not UNSET:
        until_s = max(0.0, reason.until.timestamp() - now_s)
    return View(
        record=record,
        waiting_for=WaitingFor(
            gate=reason.gate,
            name=reason.name,
            limit=reason.limit,
            in_use=reason.in_use,
            ahead=reason.ahead,
            until_s=until_s,
        ),
    )


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _ms_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else _ms(moment)
