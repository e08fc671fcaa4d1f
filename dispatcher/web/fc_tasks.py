"""Our invocations as the tasks that Function Compute's API tells of."""

import base64
from typing import Final

from msgspec import Struct

from dispatcher.config import AccountSettings
from dispatcher.core.model import CallType, Query, Record, State
from dispatcher.web.dropin import Engine, Kind, Trouble
from dispatcher.web.fc_dialects import FC3, Dialect
from dispatcher.web.request import Request

LIMIT_DEFAULT: Final = 20
LIMIT_MAX: Final = 100
LOOK_MAX: Final = 10_000
"""Invocations that one list looks at; what it then has is a page, and its token goes on."""
_LOOK_AT_ONCE: Final = 500

STATUSES: Final = {
    State.WAITING: "Enqueued",
    State.SENDING: "Dequeued",
    State.RUNNING: "Running",
    State.SUCCEEDED: "Succeeded",
    State.DEAD: "Failed",
    State.EXPIRED: "Expired",
    State.CANCELLED: "Stopped",
    # Nobody knows how it ended: the word that is left among those for an end.
    State.UNCERTAIN: "Invalid",
}
_STATES: Final = {status: state for state, status in STATUSES.items()}
_NEVER: Final = frozenset({"Stopping", "Retrying"})
"""Statuses of the API that no invocation of ours has."""


def task_id(record: Record) -> str:
    """Return the id that callers know a task by: that of its first attempt."""
    return record.task_id or record.id


def shown(
    record: Record, account: AccountSettings, dialect: Dialect, payload: bytes | None
) -> dict[str, object]:
    """Return a task as GetAsyncTask shows it. Times are Unix, in milliseconds, 0 for not yet."""
    sent_ms, ended_ms = record.sent_ms or 0, record.ended_ms or 0
    qualifier = record.qualifier or "LATEST"
    fields: dict[str, object] = {
        dialect.task_member: task_id(record),
        "requestId": record.id,
        "qualifier": qualifier,
        "instanceId": "",
        "status": STATUSES[record.state],
        "startedTime": sent_ms,
        "endTime": ended_ms,
        "durationMs": max(0, ended_ms - sent_ms) if sent_ms and ended_ms else 0,
        "alreadyRetriedTimes": record.attempt - 1,
        "destinationStatus": "",
        dialect.error_member: "" if record.failure is None else record.failure.message,
        "events": _events(record),
    }
    service, dollar, name = record.function.partition("$")
    if dialect is FC3:
        where = f"{account.region}:{account.account_id}:functions/{record.function}/{qualifier}"
        fields["functionArn"] = f"acs:fc:{where}"
    elif dollar:
        fields |= {"serviceName": service, "functionName": name}
    if payload is not None:
        fields[dialect.payload_member] = _text(payload)
    if record.result is not None and dialect is FC3:
        fields["returnPayload"] = _text(record.result)
    return fields


def _events(record: Record) -> list[dict[str, object]]:
    """Return what is known of its way."""
    steps = [("Enqueued", record.accepted_ms)]
    if record.sent_ms is not None:
        steps += [("Dequeued", record.sent_ms), ("Running", record.sent_ms)]
    if record.state is State.SENDING:
        steps.pop()
    if record.ended_ms is not None:
        steps.append((STATUSES[record.state], record.ended_ms))
    return [
        {"eventId": number, "status": status, "timestamp": at_ms, "eventDetail": ""}
        for number, (status, at_ms) in enumerate(steps, 1)
    ]


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return base64.b64encode(payload).decode()


# -- Lists ----------------------------------------------------------------------------------------


class Wanted(Struct, frozen=True, kw_only=True):
    """Which tasks to list."""

    query: Query
    prefix: str
    qualifier: str | None
    started_begin_ms: int | None
    started_end_ms: int | None
    ascending: bool
    after: str | None
    limit: int
    payloads: bool
    nothing: bool
    """A status was asked for that none has."""

    def fits(self, record: Record) -> bool:
        """Tell whether a task is wanted."""
        sent_ms = record.sent_ms or 0
        return (
            record.type is CallType.ASYNC
            and task_id(record).startswith(self.prefix)
            and self.qualifier in (None, record.qualifier or "LATEST")
            and (self.started_begin_ms is None or sent_ms >= self.started_begin_ms)
            and (self.started_end_ms is None or 0 < sent_ms <= self.started_end_ms)
        )


def wanted(
    request: Request, dialect: Dialect, account: str, function: str, qualifier: str | None
) -> Wanted:
    """Read the parameters of a list. Raises `Trouble`."""
    get = request.query.get
    status, order = get("status") or None, get("sortOrderByTime") or "desc"
    if status is not None and status not in _STATES and status not in _NEVER:
        raise Trouble(Kind.INVALID, f"status {status[:100]!r} is not one of a task")
    if order not in ("asc", "desc"):
        raise Trouble(Kind.INVALID, f"sortOrderByTime must be asc or desc, got {order[:100]!r}")
    state = None if status is None else _STATES.get(status)
    return Wanted(
        query=Query(account=account, function=function, state=state),
        prefix=get(dialect.prefix) or "",
        qualifier=qualifier,
        started_begin_ms=_number(request, "startedTimeBegin"),
        started_end_ms=_number(request, "startedTimeEnd"),
        ascending=order == "asc",
        after=get("nextToken") or None,
        limit=_limit(request),
        payloads=(get("includePayload") or "").lower() == "true",
        nothing=status in _NEVER,
    )


def _number(request: Request, name: str) -> int | None:
    text = request.query.get(name) or ""
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Trouble(Kind.INVALID, f"{name} is not a number, {text[:100]!r}")
    return int(text)


def _limit(request: Request) -> int:
    limit = _number(request, "limit")
    if limit is None:
        return LIMIT_DEFAULT
    if not 1 <= limit <= LIMIT_MAX:
        raise Trouble(Kind.INVALID, f"limit must be from 1 to {LIMIT_MAX}")
    return limit


async def page(engine: Engine, asked: Wanted) -> tuple[list[Record], str | None]:
    """
    Return a page of tasks and the token of the next one.

    From the newest to the oldest; the other way round it is the newest `LOOK_MAX` that are
    listed. Raises `Invalid` for a token that is none.
    """
    if asked.nothing:
        return [], None
    if asked.ascending:
        return await _ascending(engine, asked)
    found: list[Record] = []
    after, looked_at = asked.after, 0
    while True:
        # No more than are still wanted, so that the cursor stands behind the last that is given.
        views, after = await engine.find(
            asked.query, after=after, limit=max(1, asked.limit - len(found))
        )
        found += [view.record for view in views if asked.fits(view.record)]
        looked_at += max(1, len(views))
        if after is None or len(found) >= asked.limit or looked_at >= LOOK_MAX:
            return found, after


async def _ascending(engine: Engine, asked: Wanted) -> tuple[list[Record], str | None]:
    found: list[Record] = []
    after, looked_at = None, 0
    while looked_at < LOOK_MAX:
        views, after = await engine.find(asked.query, after=after, limit=_LOOK_AT_ONCE)
        found += [view.record for view in views if asked.fits(view.record)]
        looked_at += max(1, len(views))
        if after is None:
            break
    found.reverse()
    ids = [record.id for record in found]
    if asked.after is not None:
        if asked.after not in ids:
            raise Trouble(Kind.INVALID, "nextToken is not one of this list")
        found = found[ids.index(asked.after) + 1 :]
    rest = found[asked.limit :]
    found = found[: asked.limit]
    return found, found[-1].id if rest else None
