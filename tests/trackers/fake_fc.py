"""The task operations of Function Compute in memory, on the loop's clock, with a clock offset."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from typing import Any

import anyio

from dispatcher.core.model import Denied, Failure, GateKind, Lost, NotSent, Throttled, Watched
from dispatcher.trackers.fc_tasks import ManageReply

EPOCH = 1_800_000_000.0


class FakeTask:
    """One task; times are on the loop's clock."""

    def __init__(self, task_id: str, sent_at: float, start_s: float, run_s: float) -> None:
        self.id = task_id
        self.sent_at = sent_at
        self.started_at = sent_at + start_s
        self.ended_at = self.started_at + run_s
        self.end = "Succeeded"
        self.result: str | None = None
        self.status: str | None = None  # instead of the true one
        self.events = False

    def status_at(self, now: float) -> str:
        if self.status is not None:
            return self.status
        if now >= self.ended_at:
            return self.end
        return "Running" if now >= self.started_at else "Enqueued"


class FakeFc:
    """A cloud whose `manage` is what a tracker asks."""

    def __init__(self, latency_s: float = 0.01, wall_offset_s: float = EPOCH) -> None:
        self.latency_s = latency_s
        self.wall_offset_s = wall_offset_s
        self.tasks: dict[str, dict[str, FakeTask]] = {}
        self.task_mode: dict[str, bool] = {}
        self.registered_s = 0.0
        self.requests: list[tuple[float, str]] = []
        self.faults: list[ManageReply] = []
        self.spoil: Callable[[ManageReply], ManageReply] = lambda reply: reply
        self.denied: set[str] = set()
        self.rate_max: float | None = None
        self.list_filters = True

    def submit(
        self, function: str, task_id: str, run_s: float, start_s: float = 0.0, ago_s: float = 0.0
    ) -> FakeTask:
        task = FakeTask(task_id, anyio.current_time() - ago_s, start_s, run_s)
        self.tasks.setdefault(function, {})[task_id] = task
        return task

    def counts(self) -> Counter[str]:
        return Counter(action for _, action in self.requests)

    def busiest_second(self) -> int:
        times = [at for at, _ in self.requests]
        return max(
            (sum(1 for other in times[i:] if other < at + 1.0) for i, at in enumerate(times)),
            default=0,
        )

    async def manage(
        self,
        action: str,
        method: str,
        path: Sequence[str],
        query: Mapping[str, str] | None = None,
    ) -> ManageReply:
        assert method == "GET", method
        self.requests.append((anyio.current_time(), action))
        await anyio.sleep(self.latency_s / 2)
        reply = self.spoil(self._answer(action, list(path), dict(query or {})))
        await anyio.sleep(self.latency_s / 2)
        return reply

    def _answer(self, action: str, path: list[str], query: dict[str, str]) -> ManageReply:
        if self.faults:
            return self.faults.pop(0)
        now = anyio.current_time()
        if self.rate_max is not None:
            recent = sum(1 for at, _ in self.requests if at > now - 1.0)
            if recent > self.rate_max:
                return throttled()
        if action in self.denied:
            return denied()
        function, *rest = path[1:]
        if action == "GetAsyncInvokeConfig":
            assert rest == ["async-invoke-config"], path
            return self._reply({"asyncTask": self.task_mode.get(function, True)})
        if action == "ListAsyncTasks":
            assert rest == ["async-tasks"], path
            return self._reply(self._list(function, query, now))
        assert action == "GetAsyncTask", action
        assert rest[0] == "async-tasks", path
        return self._get(function, rest[1], now)

    def _get(self, function: str, task_id: str, now: float) -> ManageReply:
        task = self.tasks.get(function, {}).get(task_id)
        if task is None or not self._visible(function, task, now):
            return self._reply({"Code": "AsyncTaskNotFound", "Message": "no such task"}, 404)
        return self._reply(self._record(task, now, full=True))

    def _visible(self, function: str, task: FakeTask, now: float) -> bool:
        return self.task_mode.get(function, True) and now >= task.sent_at + self.registered_s

    def _list(self, function: str, query: dict[str, str], now: float) -> dict[str, Any]:
        begin, end = int(query.get("startedTimeBegin", 0)), int(query.get("startedTimeEnd", 1e15))
        assert query["includePayload"] == "false"
        assert query["sortOrderByTime"] == "asc"
        limit = int(query["limit"])
        assert 1 <= limit <= 100
        found = [
            task
            for task in self.tasks.get(function, {}).values()
            if self._visible(function, task, now)
            and task.id.startswith(query.get("prefix", ""))
            and query.get("status", task.status_at(now)) == task.status_at(now)
            and (not self.list_filters or begin <= self._started_ms(task, now) <= end)
        ]
        found.sort(key=lambda task: self._started_ms(task, now))
        page: dict[str, Any] = {"tasks": [self._record(task, now) for task in found[:limit]]}
        if len(found) > limit:
            page["nextToken"] = "more"
        return page

    def _started_ms(self, task: FakeTask, now: float) -> int:
        return self._ms(task.started_at if now >= task.started_at else task.sent_at)

    def _ms(self, at: float) -> int:
        return round((at + self.wall_offset_s) * 1000)

    def _record(self, task: FakeTask, now: float, *, full: bool = False) -> dict[str, Any]:
        ended = now >= task.ended_at
        record: dict[str, Any] = {
            "taskId": task.id,
            "requestId": f"r-{task.id}",
            "status": task.status_at(now),
            "startedTime": self._started_ms(task, now),
            "endTime": self._ms(task.ended_at) if ended else 0,
            "durationMs": round((task.ended_at - task.started_at) * 1000) if ended else 0,
            "taskErrorMessage": "it broke" if ended and task.end != "Succeeded" else "",
        }
        if task.events:
            record["events"] = [
                {"status": "Enqueued", "timestamp": self._ms(task.sent_at)},
                {"status": "Running", "timestamp": self._ms(task.started_at)},
            ]
        if full and ended and task.result is not None:
            record["returnPayload"] = task.result
        return record

    def _reply(self, body: dict[str, Any], status: int = 200) -> ManageReply:
        date = formatdate(int(anyio.current_time() + self.wall_offset_s), usegmt=True)
        return status, {"Date": date}, json.dumps(body).encode()


def throttled(retry_after_s: float | None = None) -> Throttled:
    return Throttled(gate=GateKind.RATE, reason="Throttling.Api", retry_after_s=retry_after_s)


def denied(reason: str = "AccessDenied") -> Denied:
    return Denied(Failure("denied", "no right to do so", reason, 403))


def lost() -> Lost:
    return Lost(Failure("reset", "connection reset"))


def not_sent() -> NotSent:
    return NotSent(Failure("refused", "connection refused"))


def watched(
    number: int,
    sent_at: float,
    *,
    function: str = "f",
    attempt: int = 1,
    expected_s: float | None = None,
    deadline: float | None = None,
    qualifier: str | None = None,
) -> Watched:
    run_id = f"i0000{number:06d}"
    return Watched(
        id=run_id,
        account="a",
        function=function,
        qualifier=qualifier,
        attempt=attempt,
        task_id=run_id if attempt == 1 else f"{run_id}_{attempt}",
        request_id=f"r{number}-{attempt}",
        sent_at=sent_at,
        expected_s=expected_s,
        deadline=deadline,
    )
