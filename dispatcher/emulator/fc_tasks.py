"""FC's wire format: get, list and stop asynchronous tasks."""

import re
from typing import Final

from dispatcher.emulator.account import AccountState, FunctionState
from dispatcher.emulator.driver import Driver
from dispatcher.emulator.fc_dialect import FC3, Dialect, FcError, invalid, task_record, throttled
from dispatcher.emulator.invocation import Invocation, Status
from dispatcher.emulator.providers import TASK_RATE_CODE
from dispatcher.emulator.tasks import Filter
from dispatcher.emulator.wire import Call, Reply, json_reply

LIMIT_MAX: Final = 100
LIMIT_DEFAULT: Final = 20
_TOKEN = re.compile(r"task-(?P<seq>\d{1,18})")

_INVALID = "Invalid"
"""A status that the API knows and in which no task of this cloud is ever seen."""


class FcTasks:
    """The task operations of all versions."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def handle(
        self,
        call: Call,
        account: AccountState,
        function: FunctionState,
        dialect: Dialect,
        *,
        qualifier: str | None,
        rest: tuple[str, ...],
        request_id: str,
    ) -> Reply:
        """Answer a request whose path goes on with *rest*. Raises `FcError`."""
        now = self._driver.now()
        if account.task_rate is not None and not account.task_rate.take(now):
            account.refused[TASK_RATE_CODE] += 1
            raise throttled(TASK_RATE_CODE)
        headers = {"X-Fc-Request-Id": request_id}
        match call.method, rest:
            case "GET", ():
                return self._list(call, account, function, dialect, qualifier, headers)
            case "GET", (task_id,):
                task = self._find(account, function, dialect, task_id)
                record = task_record(task, dialect, self._driver.cloud.epoch_s, payload=True)
                return json_reply(200, record, headers)
            case ("PUT", (task_id, "stop")) if dialect is FC3:
                self._stop(account, function, dialect, task_id)
                return json_reply(200, {}, headers)
            case ("PUT", (task_id,)) if dialect is not FC3:
                self._stop(account, function, dialect, task_id)
                return Reply(204, headers=headers)
            case _:
                raise FcError(400, "PathNotSupported", f"no such operation: {call.path}")

    def _find(
        self, account: AccountState, function: FunctionState, dialect: Dialect, task_id: str
    ) -> Invocation:
        now = self._driver.now()
        task = account.tasks.find(function.name, task_id, now)
        if task is None or task.visible_at > now:
            message = f"task '{task_id}' of function '{function.name}' does not exist"
            raise FcError(404, dialect.task_missing, message)
        return task

    def _stop(
        self, account: AccountState, function: FunctionState, dialect: Dialect, task_id: str
    ) -> None:
        task = self._find(account, function, dialect, task_id)
        # Whether stopping an ended task is an error is not documented: here it is not.
        self._driver.cloud.stop(task, self._driver.now())
        self._driver.pump()

    def _list(
        self,
        call: Call,
        account: AccountState,
        function: FunctionState,
        dialect: Dialect,
        qualifier: str | None,
        headers: dict[str, str],
    ) -> Reply:
        query, epoch_s = call.query, self._driver.cloud.epoch_s
        status = query.get("status") or None
        found: list[Invocation] = []
        after: int | None = None
        if status != _INVALID:
            wanted = Filter(
                status=_status(status),
                prefix=query.get(dialect.prefix_parameter, ""),
                qualifier=qualifier,
                started_begin=_moment(query.get("startedTimeBegin"), epoch_s),
                started_end=_moment(query.get("startedTimeEnd"), epoch_s),
                descending=_descending(query.get("sortOrderByTime")),
                after=_after(query.get("nextToken")),
                limit=_limit(query.get("limit")),
            )
            found, after = account.tasks.page(function.name, wanted, self._driver.now())
        payload = query.get("includePayload", "").lower() == "true"
        records = [task_record(task, dialect, epoch_s, payload=payload) for task in found]
        fields: dict[str, object] = {dialect.list_member: records}
        if after is not None:
            fields["nextToken"] = f"task-{after}"
        return json_reply(200, fields, headers)


def _status(text: str | None) -> Status | None:
    if text is None:
        return None
    try:
        return Status(text)
    except ValueError as error:
        raise invalid(f"status {text!r} is not one of a task") from error


def _moment(text: str | None, epoch_s: float) -> float | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise invalid(f"{text!r} is not a time in milliseconds")
    return int(text) / 1000 - epoch_s


def _descending(text: str | None) -> bool:
    if text not in {None, "", "asc", "desc"}:
        raise invalid(f"sortOrderByTime must be asc or desc, got {text!r}")
    return text == "desc"


def _after(token: str | None) -> int | None:
    if not token:
        return None
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise invalid(f"nextToken {token!r} is not one of ours")
    return int(match["seq"])


def _limit(text: str | None) -> int:
    if not text:
        return LIMIT_DEFAULT
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= LIMIT_MAX:
        raise invalid(f"limit must be from 1 to {LIMIT_MAX}, got {text!r}")
    return int(text)
