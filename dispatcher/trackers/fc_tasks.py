"""
Ends of Function Compute's asynchronous tasks, learned by asking for them.

What to ask for, and when, is decided in `fc_watchlist`; this module sends the requests and
reads the answers. The task id is ours, so nothing is lost by a restart: what ran is watched
again and found by its id for 7 days.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, assert_never

import anyio
import msgspec
from anyio.abc import TaskGroup

from dispatcher.core.model import Completion, Denied, Lost, NotSent, Throttled, Watched
from dispatcher.ports import Report
from dispatcher.trackers.fc_groups import PAGE, ListTasks
from dispatcher.trackers.fc_replies import read_config, read_page, read_task
from dispatcher.trackers.fc_watchlist import GetConfig, GetTask, Look, News, Tracking, Watchlist

logger = logging.getLogger(__name__)

REQUESTS_IN_FLIGHT_MAX: Final = 6
"""Fewer than the connections that a transport has for such requests: others need them as well."""

_NO_RIGHT: Final = ("AccessDenied", "Forbidden", "NoPermission", "ImplicitDeny", "ExplicitDeny")
"""Codes of a 403 that speak of rights; the others speak of keys, clocks and signatures."""

ManageReply = tuple[int, Mapping[str, str], bytes] | Throttled | Denied | NotSent | Lost


class Manage(Protocol):
    """Makes one signed request to the account's management API; never raises for the network."""

    async def __call__(
        self,
        action: str,
        method: str,
        path: Sequence[str],
        query: Mapping[str, str] | None = None,
    ) -> ManageReply:
        """Return `(status, headers, body)`, or why there is no reply that says something."""
        ...


OnTracking = Callable[[str, str | None, str | None], None]
"""
Called with a function's name and qualifier and why the ends of its runs cannot be learned (task mode is off,
rights are missing, ...), or None once they can; a problem may be told again. While there is one nothing is reported for
the function, and whoever holds its slots must do with estimates.
"""


class LooksSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked so far, and what came of it."""

    gets: int
    lists: int
    probes: int
    throttled: int
    failed: int
    ends: int
    watched: int
    rate_per_s: float
    """Requests allowed at present; it falls when the API throttles."""


class FcTasks:
    """The tracker of the asynchronous tasks of one account."""

    def __init__(self, manage: Manage, *, account: str, on_tracking: OnTracking) -> None:
        """Ask by *manage*; *account* is its name, for the log."""
        self._manage = manage
        self._account = account
        self._on_tracking = on_tracking
        self._watchlist = Watchlist()
        self._changed = anyio.Event()
        self._in_flight = 0
        self._counts = dict.fromkeys(("gets", "lists", "probes", "throttled", "failed", "ends"), 0)

    def watch(self, run: Watched) -> None:
        """Watch for the end of a run."""
        self._watchlist.watch(run, anyio.current_time())
        self._changed.set()

    def forget(self, run_id: str) -> None:
        """Stop watching a run."""
        self._watchlist.forget(run_id)

    def hurry(self, run_id: str) -> None:
        """Look at a run at once and then often: it was asked to stop."""
        self._watchlist.hurry(run_id, anyio.current_time())
        self._changed.set()

    def snapshot(self) -> LooksSnapshot:
        """Return what was asked so far."""
        return LooksSnapshot(
            **self._counts,
            watched=len(self._watchlist),
            rate_per_s=self._watchlist.pace.rate_per_s,
        )

    async def run(self, report: Report) -> None:
        """Watch until cancelled."""
        async with anyio.create_task_group() as looks:
            while True:
                # Replaced before the watchlist is asked, so that no change is missed.
                self._changed = anyio.Event()
                now = anyio.current_time()
                self._start_looks(looks, report, now)
                deadline = None
                if self._in_flight < REQUESTS_IN_FLIGHT_MAX:
                    deadline = self._watchlist.next_deadline(now)
                with anyio.CancelScope(deadline=math.inf if deadline is None else deadline):
                    await self._changed.wait()

    def _start_looks(self, looks: TaskGroup, report: Report, now: float) -> None:
        while self._in_flight < REQUESTS_IN_FLIGHT_MAX:
            look = self._watchlist.next_look(now)
            if look is None:
                return
            self._in_flight += 1
            looks.start_soon(self._look, look, report)

    async def _look(self, look: Look, report: Report) -> None:
        sent_at = anyio.current_time()
        try:
            reply = await self._send(look)
        except BaseException:
            # Cancelled: whoever runs this next has to ask again.
            self._watchlist.interrupted(look, anyio.current_time())
            raise
        finally:
            self._in_flight -= 1
            self._changed.set()
        now = anyio.current_time()
        if isinstance(reply, tuple):
            self._watchlist.clock.observe(reply[1].get("Date"), sent_at, now)
        self._tell(self._take(look, reply, now), report)

    # -- Asking

    async def _send(self, look: Look) -> ManageReply:
        match look:
            case GetTask(run=run):
                self._counts["gets"] += 1
                watched = run.watched
                return await self._manage(
                    "GetAsyncTask",
                    "GET",
                    ("functions", watched.function, "async-tasks", watched.task_id),
                    _qualified(watched.qualifier),
                )
            case ListTasks():
                self._counts["lists"] += 1
                return await self._manage(
                    "ListAsyncTasks",
                    "GET",
                    ("functions", look.function, "async-tasks"),
                    _list_query(look),
                )
            case GetConfig(group=group):
                self._counts["probes"] += 1
                return await self._manage(
                    "GetAsyncInvokeConfig",
                    "GET",
                    ("functions", group.function, "async-invoke-config"),
                    _qualified(group.qualifier),
                )
            case _:
                assert_never(look)

    # -- Answers

    def _take(self, look: Look, reply: ManageReply, now: float) -> list[News]:
        match reply:
            case Throttled(retry_after_s=retry_after_s):
                self._counts["throttled"] += 1
                return self._watchlist.throttled(look, retry_after_s, now)
            case Denied(failure=failure) if (failure.reason or "").startswith(_NO_RIGHT):
                why = f"{failure.reason or 'denied'}: {failure.message}"
                return self._watchlist.denied(look, why, now)
            case Denied(failure=failure) | NotSent(failure=failure) | Lost(failure=failure):
                return self._failed(look, failure.message, now)
            case (status, _, body):
                return self._answered(look, status, body, now)

    def _answered(self, look: Look, status: int, body: bytes, now: float) -> list[News]:
        if status == 404 and not isinstance(look, ListTasks):
            why = _why(body) or "HTTP 404"
            if isinstance(look, GetTask):
                return self._watchlist.missing(look, why, now)
            return self._watchlist.configured(look, task_mode=False, why=why, now=now)
        if status == 200:
            news = self._read(look, body, now)
            if news is not None:
                return news
        return self._failed(look, f"HTTP {status}: {_why(body) or 'not a reply of this API'}", now)

    def _read(self, look: Look, body: bytes, now: float) -> list[News] | None:
        """Read a good reply; None: it is not one."""
        match look:
            case GetTask():
                task = read_task(body)
                if task is None or not task.status:
                    return None
                return self._watchlist.shown(look, task, now)
            case ListTasks():
                page = read_page(body)
                if page is None:
                    return None
                tasks, more = page
                return self._watchlist.listed(look, tasks[:PAGE], more=more, now=now)
            case GetConfig():
                task_mode = read_config(body)
                if task_mode is None:
                    return None
                why = "task mode is off (asyncTask of its asynchronous configuration)"
                return self._watchlist.configured(look, task_mode=task_mode, why=why, now=now)
            case _:
                assert_never(look)

    def _failed(self, look: Look, why: str, now: float) -> list[News]:
        self._counts["failed"] += 1
        logger.warning(
            "tasks_failed: account %s: cannot ask for asynchronous tasks: %s", self._account, why
        )
        return self._watchlist.failed(look, now)

    def _tell(self, news: list[News], report: Report) -> None:
        for item in news:
            match item:
                case Completion():
                    self._counts["ends"] += 1
                    # Nothing to wait for: after a crash the task is found again.
                    report(item, None)
                case Tracking(function=function, qualifier=qualifier, problem=problem):
                    self._on_tracking(function, qualifier, problem)


class _Refusal(msgspec.Struct, frozen=True):
    code: str = msgspec.field(name="Code", default="")
    message: str = msgspec.field(name="Message", default="")


def _why(body: bytes) -> str:
    """Return what an error body says, as far as it is one."""
    try:
        refusal = msgspec.json.decode(body, type=_Refusal)
    except msgspec.DecodeError:
        return ""
    return f"{refusal.code}: {refusal.message}"[:500] if refusal.code else ""


def _qualified(qualifier: str | None) -> dict[str, str]:
    return {} if qualifier is None else {"qualifier": qualifier}


def _list_query(look: ListTasks) -> dict[str, str]:
    query = _qualified(look.qualifier)
    query["includePayload"] = "false"
    query["limit"] = str(PAGE)
    query["sortOrderByTime"] = "asc"
    if look.prefix:
        query["prefix"] = look.prefix
    if look.begin_ms is not None:
        query["startedTimeBegin"] = str(look.begin_ms)
    if look.end_ms is not None:
        query["startedTimeEnd"] = str(look.end_ms)
    if look.status is not None:
        query["status"] = look.status
    return query
