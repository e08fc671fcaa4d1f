"""
The emulator's own controls under `/_emulator/`: look at what happened, change what will happen.

GET  statistics                       everything that was counted
GET  runs?after=N&limit=M             finished runs, oldest first
POST reset                            begin to count anew; forget runs (what runs goes on)
PUT  accounts/{a}                     {"quota", "foreign", "rate_max_per_s", ...}
PUT  accounts/{a}/functions/{f}       any keys of a function's settings
GET, PUT, POST faults                 the rules; put all of them; add one
GET, PUT records                      what happens to destination records
"""

from itertools import islice
from typing import Final
from urllib.parse import quote

import msgspec

from dispatcher.emulator.account import AccountState, bucket_of
from dispatcher.emulator.driver import Driver
from dispatcher.emulator.faults import Faults
from dispatcher.emulator.settings import (
    SettingsError,
    changed_function,
    fault,
    records,
)
from dispatcher.emulator.statistics import cloud_statistics
from dispatcher.emulator.wire import Call, Reply, json_reply

RUNS_LIMIT_MAX: Final = 10_000


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _AccountChange(msgspec.Struct, forbid_unknown_fields=True):
    quota: int | None = None
    foreign: int | None = None
    rate_max_per_s: float | None = None
    task_rate_max_per_s: float | None = None


class ControlApi:
    """Answers requests under `/_emulator/`."""

    def __init__(self, driver: Driver, faults: Faults) -> None:
        self._driver = driver
        self._faults = faults

    def owns(self, call: Call) -> bool:
        """Return whether this is a request for the emulator itself."""
        return call.segments[0] == "_emulator"

    def handle(self, call: Call) -> Reply:
        """Answer the request."""
        try:
            return self._handle(call)
        except _Refused as error:
            return json_reply(error.status, {"error": str(error)})
        except (SettingsError, msgspec.DecodeError) as error:
            return json_reply(400, {"error": str(error)})

    def statistics(self) -> dict[str, object]:
        """Return everything that was counted, as JSON has it."""
        driver, now = self._driver, self._driver.now()
        return {
            "accounts": cloud_statistics(driver.cloud, now),
            "queues": {
                f"{owner}/{name}": queue.counts(now)
                for (owner, name), queue in driver.queues.items()
            },
            "records": driver.record_counts,
            "faults": dict(self._faults.counts),
            "runs_kept": len(driver.cloud.runs),
        }

    def _handle(self, call: Call) -> Reply:  # noqa: C901, PLR0911 - a table of routes
        match call.method, call.segments[1:]:
            case "GET", ("statistics",):
                return json_reply(200, self.statistics())
            case "GET", ("runs",):
                return self._runs(call)
            case "POST", ("reset",):
                self._driver.reset_counts()
                self._faults.counts.clear()
                return Reply(204)
            case "PUT", ("accounts", name):
                return self._put_account(call, self._account(name))
            case "PUT", ("accounts", name, "functions", function):
                return self._put_function(call, self._account(name), function)
            case "GET", ("faults",):
                return json_reply(200, self._faults.rules)
            case "PUT", ("faults",):
                rules = msgspec.json.decode(call.body, type=list[dict[str, object]])
                self._faults.replace(
                    [fault(rule, f"[{index}]") for index, rule in enumerate(rules)]
                )
                return json_reply(200, self._faults.rules)
            case "POST", ("faults",):
                self._faults.add(fault(msgspec.json.decode(call.body)))
                return json_reply(200, self._faults.rules)
            case "GET", ("records",):
                return json_reply(200, self._driver.records)
            case "PUT", ("records",):
                self._driver.records = records(msgspec.json.decode(call.body))
                return json_reply(200, self._driver.records)
            case _:
                raise _Refused(404, f"no such control: {call.method} {quote(call.path)}")

    def _account(self, name: str) -> AccountState:
        account = self._driver.cloud.accounts.get(name)
        if account is None:
            raise _Refused(404, f"no account {name!r}")
        return account

    def _runs(self, call: Call) -> Reply:
        after, limit = _count(call, "after", 0), min(_count(call, "limit", 1000), RUNS_LIMIT_MAX)
        runs = self._driver.cloud.runs
        found = list(islice(runs, after, after + limit))
        left = after + len(found) < len(runs)
        return json_reply(200, {"runs": found, "next": after + len(found) if left else None})

    def _put_account(self, call: Call, account: AccountState) -> Reply:
        change = msgspec.json.decode(call.body, type=_AccountChange)
        for name in change.__struct_fields__:
            if not (getattr(change, name) or 0) >= 0:
                raise _Refused(400, f"{name}: expected a number of at least 0")
        if change.rate_max_per_s is not None:
            account.rate = bucket_of(change.rate_max_per_s)
        if change.task_rate_max_per_s is not None:
            account.task_rate = bucket_of(change.task_rate_max_per_s)
        account.fleet.change(self._driver.now(), quota=change.quota, foreign=change.foreign)
        fleet = account.fleet
        return json_reply(200, {"quota": fleet.quota, "foreign": fleet.foreign_wanted})

    def _put_function(self, call: Call, account: AccountState, name: str) -> Reply:
        function = account.functions.get(name) or account.put(name, account.default_function())
        changed = changed_function(
            function.settings, msgspec.json.decode(call.body), name, account.rules
        )
        account.fleet.change_function(function.pool, changed, self._driver.now())
        return json_reply(200, changed)


def _count(call: Call, name: str, default: int) -> int:
    text = call.query.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise _Refused(400, f"{name} is a number of at least 0")
    return int(text)
