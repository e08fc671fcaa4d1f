"""
The watched tasks of one function.

What their past says about when to look at them next, and which of them one listing can look at
together. Free of I/O; *now* is given.
"""

from bisect import bisect_left, insort
from math import ceil, floor
from typing import Final

import msgspec

from dispatcher.core.durations import RUNS_MIN, Durations
from dispatcher.core.model import Verdict, Watched
from dispatcher.trackers.cloud_clock import CloudClock
from dispatcher.trackers.duration import EarlyEnds
from dispatcher.trackers.fc_replies import Task

PAGE: Final = 100
"""Tasks in one listing at most, by FC's API."""

LIST_MIN: Final = 3
"""Due tasks from which on a listing is worth its bytes."""

STEP: Final = 0.1
"""A running task is looked at again after this part of its age: so much longer, on average half
of it, may its slot be held after its end."""
STEP_UNLEARNED: Final = 0.2
STEP_MIN_S: Final = 0.1
STEP_MAX_S: Final = 60.0

EARLY_UNLEARNED: Final = 0.8
"""The first look comes after this part of the expected time, while no run was seen to end."""
FIRST_LOOK_MAX_S: Final = 1.0
"""... which is a guess, so that it never delays the first look by more than this."""

RESULTS_TRIED: Final = 3
"""Ends that a listing showed and whose results are asked for, to see whether there are any: FC
keeps results only for accounts that asked it to."""
RESULTS_TRUSTED: Final = 20
"""... once one was found."""
RESULTS_RETRIED: Final = 200
"""... and one in so many later, in case results are kept by now."""

SENT_ERROR_S: Final = 0.1
"""By how much the time of a send may be given too late."""
START_DELAY_MAX_S: Final = 10.0
"""How late a task may start that listings look for, as long as nothing is known."""


class Run:
    """One watched task."""

    __slots__ = (
        "alone",
        "asked",
        "due",
        "ended",
        "group",
        "hurried_at",
        "on_instance",
        "seq",
        "started_s",
        "watched",
    )

    def __init__(self, group: "Group", watched: Watched, seq: int) -> None:
        self.group: Group = group
        self.watched = watched
        self.seq = seq
        self.due = 0.0
        self.asked = False
        """A request that will tell is on its way."""
        self.alone = False
        """A listing did not show it: ask for it by its id."""
        self.hurried_at: float | None = None
        """When it was asked to stop."""
        self.on_instance = False
        self.started_s: float | None = None
        """On the cloud's clock."""
        self.ended: Task | None = None
        """Its end is known, and only its result is still asked for."""

    def __repr__(self) -> str:
        return f"<Run {self.watched.task_id} due {self.due:.3f}>"

    @property
    def place(self) -> tuple[float, int]:
        """Where it stands among the tasks of its function."""
        return self.watched.sent_at, self.seq


class ListTasks(msgspec.Struct, frozen=True, kw_only=True):
    """A listing, sorted by ascending time, of at most `PAGE` tasks."""

    function: str
    qualifier: str | None
    prefix: str
    begin_ms: int | None
    end_ms: int | None
    status: str | None
    runs: tuple[Run, ...]
    """Those it is made for."""


class Group:
    """One function (and qualifier) whose tasks are watched."""

    __slots__ = (
        "alive",
        "by_task",
        "delays",
        "denials",
        "early",
        "ended_share",
        "ends",
        "function",
        "has_results",
        "lists_from",
        "probed_at",
        "problem",
        "qualifier",
        "results_left",
        "seen",
        "shares",
        "task_mode",
    )

    def __init__(self, function: str, qualifier: str | None) -> None:
        self.function = function
        self.qualifier = qualifier
        self.alive: list[tuple[float, int, Run]] = []
        """In the order of their sending."""
        self.by_task: dict[str, Run] = {}
        self.early = EarlyEnds()
        self.delays = Durations()
        self.shares: dict[str | None, float] = {None: 1.0, "Running": 1.0}
        """Which part of a listing (of all, or of running tasks) lately was of use."""
        self.ended_share = 0.1
        """Which part of those looked at lately had ended."""
        self.lists_from = float("-inf")
        """Listings are not allowed before this time."""
        self.ends = 0
        self.results_left = RESULTS_TRIED
        """How many further ends are worth asking for their results."""
        self.has_results = False
        """Its tasks are known to show what they returned."""
        self.seen = False
        """Some task of it was found, so task mode is on."""
        self.task_mode: bool | None = None
        """What its configuration said last."""
        self.denials = 0
        self.problem: str | None = None
        """Why ends cannot be learned."""
        self.probed_at = float("-inf")
        """When its configuration was asked for last."""

    def __repr__(self) -> str:
        return f"<Group {self.function}:{self.qualifier} of {len(self.alive)}>"

    def add(self, run: Run) -> None:
        """Watch one more."""
        insort(self.alive, (*run.place, run))
        self.by_task[run.watched.task_id] = run

    def remove(self, run: Run) -> None:
        """Watch one less."""
        index = bisect_left(self.alive, run.place)
        assert self.alive[index][2] is run, run
        del self.alive[index]
        if self.by_task.get(run.watched.task_id) is run:
            del self.by_task[run.watched.task_id]

    # -- When to look

    def first_look(self, run: Run) -> float:
        """Return when to look at a task for the first time."""
        sent_at, expected_s = run.watched.sent_at, run.watched.expected_s
        early_s = self.early.early_s()
        if early_s is None:
            guess_s = EARLY_UNLEARNED * (expected_s or 0.0)
            early_s = min(FIRST_LOOK_MAX_S, guess_s)
        return sent_at + max(STEP_MIN_S, early_s)

    def next_look(self, run: Run, clock: CloudClock, now: float) -> float:
        """Return when to look again at a task that has not ended."""
        since = run.watched.sent_at if run.hurried_at is None else run.hurried_at
        early_s = self.early.early_s()
        step = STEP_UNLEARNED if early_s is None else STEP
        look = now + min(STEP_MAX_S, max(STEP_MIN_S, step * (now - since)))
        if early_s is None or run.hurried_at is not None:
            return look
        if not run.on_instance:
            # What has not begun yet, or waits to be retried, will take its time afterwards.
            return max(look, now + min(early_s, STEP_MAX_S))
        if run.started_s is not None and clock.known:
            return max(look, clock.to_loop(run.started_s) + early_s)
        return look

    # -- What to look at together

    def listing(self, run: Run, clock: CloudClock, now: float) -> ListTasks | None:
        """Return the listing that is worth more than a single look at *run*; None: there is none."""
        if run.alone or run.ended is not None or now < self.lists_from:
            return None
        status = self._status()
        runs = self._around(run, status, now)
        if len(runs) < LIST_MIN:
            return None
        first, last = runs[0].watched, runs[-1].watched
        ids = [each.watched.task_id for each in runs]
        begin_ms = end_ms = None
        if clock.known:
            # From the send on: whether the API means the start of the task or of its run.
            started = [each.started_s for each in runs if each.started_s is not None]
            begin_s = clock.earliest(first.sent_at) - SENT_ERROR_S
            end_s = clock.latest(last.sent_at) + self._start_delay_max_s()
            if len(started) == len(runs):
                end_s = max(started)
            begin_ms = floor(min([begin_s, *started]) * 1000.0) - 1
            end_ms = ceil(max([end_s, *started]) * 1000.0) + 1
        return ListTasks(
            function=self.function,
            qualifier=self.qualifier,
            prefix=_common_start(min(ids), max(ids)),
            begin_ms=begin_ms,
            end_ms=end_ms,
            status=status,
            runs=tuple(runs),
        )

    def _status(self) -> str | None:
        """
        Return the status to list by.

        Listing all of a span shows who ended, but also who was known to have; listing those
        that run shows neither, and who is missing has to be asked for singly.
        """
        requests_all = 1.0 / (PAGE * self.shares[None])
        requests_running = 1.0 / (PAGE * self.shares["Running"]) + self.ended_share
        return "Running" if 1.5 * requests_running < requests_all else None

    def _around(self, run: Run, status: str | None, now: float) -> list[Run]:
        """Return *run* and those due soon that one page can show together with it."""
        room = max(1, int(PAGE * self.shares[status]))
        # What is due within half a step joins: it would be asked for a moment later.
        step_s = max(STEP_MIN_S, STEP * (now - run.watched.sent_at))
        soon = now + min(STEP_MAX_S, step_s) / 2.0
        at = bisect_left(self.alive, run.place)
        best: list[Run] = []
        for begin in {at, max(0, at - room // 2), max(0, at - room + 1)}:
            due = [
                each
                for _, _, each in self.alive[begin : begin + room]
                if each.due <= soon
                and not (each.asked or each.alone or each.ended is not None)
                and (status is None or each.on_instance)
            ]
            if len(due) > len(best):
                best = due
        return best if run in best else []

    def _start_delay_max_s(self) -> float:
        if len(self.delays) < RUNS_MIN:
            return START_DELAY_MAX_S
        slowest_s = self.delays.quantile(1.0)
        assert slowest_s is not None, self
        return 1.0 + 2.0 * slowest_s

    # -- What was learned

    def listed(self, status: str | None, tasks: int, useful: int, *, full: bool) -> None:
        """Take note of how many tasks a listing showed, and how many of them were watched."""
        assert 0 <= useful <= tasks <= PAGE, (useful, tasks)
        share = self.shares[status]
        if full and tasks:
            share += 0.3 * (max(useful, 1) / tasks - share)
        else:  # there was room for more
            share = min(1.0, 1.25 * share)
        self.shares[status] = max(1.0 / PAGE, share)
        if status is not None:
            # In case all tasks were listed better by now; the next such listing will tell.
            self.shares[None] = min(1.0, 1.02 * self.shares[None])

    def looked(self, *, ended: bool) -> None:
        """Take note of whether a task that was looked at had ended."""
        self.ended_share += 0.02 * (float(ended) - self.ended_share)

    def wants_result(self) -> bool:
        """Tell whether to ask for the result of a task that a listing showed as ended."""
        self.ends += 1
        if self.ends % RESULTS_RETRIED == 0:
            self.results_left = max(1, self.results_left)
        return self.results_left > 0

    def asked_result(self, *, found: bool) -> None:
        """Take note of whether a task that ended had a result."""
        self.results_left = RESULTS_TRUSTED if found else max(0, self.results_left - 1)
        self.has_results = found or (self.has_results and self.results_left > 0)

    def learn(self, task: Task, start_delay_s: float | None) -> None:
        """Learn from a task that ended; one that was stopped or dropped says nothing."""
        if task.verdict not in {Verdict.SUCCEEDED, Verdict.FAILED}:
            return
        run_s = task.run_s
        if run_s:
            self.early.add(run_s)
        if start_delay_s is not None:
            self.delays.add(start_delay_s)


def _common_start(first: str, last: str) -> str:
    """Return what the first and the last of some sorted texts, and so all of them, begin with."""
    for index, (one, other) in enumerate(zip(first, last, strict=False)):
        if one != other:
            return first[:index]
    return min(first, last)
