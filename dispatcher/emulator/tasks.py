"""FC's asynchronous tasks: found by id, listed by status, prefix and time, page by page."""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterator
from itertools import islice

import msgspec

from dispatcher.emulator.invocation import ENDED, Invocation, Status

RETENTION_S = 7 * 86400.0
"""help.aliyun.com, functioncompute/overview-25: tasks can be queried for 7 days."""

PAYLOAD_BYTES_MAX = 256 * 1024 * 1024


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """What a listing asks for. Times are of the cloud's clock."""

    status: Status | None = None
    prefix: str = ""
    qualifier: str | None = None
    started_begin: float | None = None
    started_end: float | None = None
    descending: bool = False
    after: int | None = None
    """The sequence number of the last task of the page before."""
    limit: int = 20

    def passes(self, task: Invocation, now: float) -> bool:
        """Return whether the task belongs into the listing (status and page aside)."""
        if task.visible_at > now or not (task.task_id or "").startswith(self.prefix):
            return False
        if self.qualifier is not None and task.qualifier != self.qualifier:
            return False
        started = task.accepted_at if task.first_started_at is None else task.first_started_at
        if self.started_begin is not None and started < self.started_begin:
            return False
        return self.started_end is None or started <= self.started_end


class TaskIndex:
    """The tasks of one account. The order of a listing is that of submission."""

    def __init__(self, ended_max: int) -> None:
        self._ended_max = ended_max
        self._ended: deque[Invocation] = deque()
        self._ended_bytes = 0
        self._by_id: dict[tuple[str, str], Invocation] = {}
        self._by_seq: dict[int, Invocation] = {}
        self._order: dict[tuple[str, Status | None], list[int]] = {}
        """Sequence numbers, ascending, by function and status; status None: all of them."""

    def __len__(self) -> int:
        return len(self._by_id)

    def find(self, function: str, task_id: str, now: float) -> Invocation | None:
        """Return the task, visible or not; None: never seen, or forgotten."""
        self._forget(now)
        return self._by_id.get((function, task_id))

    def add(self, task: Invocation) -> None:
        """Keep a task that was just accepted."""
        assert task.task_id is not None, task
        key = (task.function.name, task.task_id)
        assert key not in self._by_id, task
        self._by_id[key] = task
        self._by_seq[task.seq] = task
        self._list(task, None).append(task.seq)
        insort(self._list(task, task.status), task.seq)

    def moved(self, task: Invocation, before: Status, now: float) -> None:
        """Take note that the task's status is another one than before."""
        self._unlist(task, before)
        insort(self._list(task, task.status), task.seq)
        if task.status in ENDED:
            self._ended.append(task)
            self._ended_bytes += len(task.payload)
            self._forget(now)

    def page(
        self, function: str, wanted: Filter, now: float
    ) -> tuple[list[Invocation], int | None]:
        """Return one page, and the sequence number to go on after; None: that was the last."""
        self._forget(now)
        matching = (task for task in self._after(function, wanted) if wanted.passes(task, now))
        found = list(islice(matching, wanted.limit + 1))
        if len(found) <= wanted.limit:
            return found, None
        return found[: wanted.limit], found[wanted.limit - 1].seq

    def check(self) -> None:
        """Assert that every task is listed exactly where it stands."""
        for (function, status), order in self._order.items():
            expected = [
                task.seq
                for task in self._by_id.values()
                if task.function.name == function and status in {None, task.status}
            ]
            assert order == sorted(expected), (function, status)
        assert len(self._by_seq) == len(self._by_id), self._by_seq.keys()

    def _after(self, function: str, wanted: Filter) -> Iterator[Invocation]:
        order = self._order.get((function, wanted.status), [])
        if wanted.descending:
            start = len(order) if wanted.after is None else bisect_left(order, wanted.after)
            indices = range(start - 1, -1, -1)
        else:
            start = 0 if wanted.after is None else bisect_right(order, wanted.after)
            indices = range(start, len(order))
        return (self._by_seq[order[index]] for index in indices)

    def _forget(self, now: float) -> None:
        ended = self._ended
        while ended:
            oldest = ended[0]
            assert oldest.ended_at is not None, oldest
            if (
                len(ended) <= self._ended_max
                and self._ended_bytes <= PAYLOAD_BYTES_MAX
                and oldest.ended_at + RETENTION_S > now
            ):
                return
            ended.popleft()
            self._ended_bytes -= len(oldest.payload)
            assert oldest.task_id is not None, oldest
            del self._by_id[oldest.function.name, oldest.task_id]
            del self._by_seq[oldest.seq]
            self._unlist(oldest, None)
            self._unlist(oldest, oldest.status)

    def _list(self, task: Invocation, status: Status | None) -> list[int]:
        return self._order.setdefault((task.function.name, status), [])

    def _unlist(self, task: Invocation, status: Status | None) -> None:
        order = self._list(task, status)
        index = bisect_left(order, task.seq)
        assert order[index] == task.seq, task
        del order[index]
