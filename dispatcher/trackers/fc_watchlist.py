"""
Which request to Function Compute comes next, and what its answer means.

Free of I/O and clocks. All watched tasks of an account share one budget of requests. The task
that is most overdue is looked at next, together with its neighbours where one listing can show
them. A listing is never believed about what it does not show: that is asked for singly. So an
API that sorts, cuts or filters in a way nobody documented costs requests, never a completion.
"""

from collections import OrderedDict, deque
from typing import Final

import msgspec
from msgspec.structs import replace

from dispatcher.core.model import Completion, Failure, Verdict, Watched
from dispatcher.trackers.agenda import Agenda
from dispatcher.trackers.cloud_clock import CloudClock
from dispatcher.trackers.fc_groups import Group, ListTasks, Run
from dispatcher.trackers.fc_replies import Task, completion
from dispatcher.trackers.pace import Pace

REQUESTS_MAX_PER_S: Final = 40.0
REQUESTS_BURST: Final = 8.0
"""FC does not say how often tasks may be asked for. In any second there are at most
`REQUESTS_MAX_PER_S + REQUESTS_BURST` requests for one account, however many tasks run."""

LAST_LOOK_S: Final = 2.0
"""A task whose slot is about to be taken away is looked at once more, so long before."""
LAST_STEP_S: Final = 0.5

REGISTERED_S: Final = 3.0
"""A task that is unknown for longer than this after its send makes task mode doubtful."""
PROBE_S: Final = 60.0
"""How often doubts about task mode are looked into."""
UNKNOWN_MAX_S: Final = 60.0
"""Unknown for longer than this, with nobody to say whether task mode is on, it is off."""
KEPT_S: Final = 7 * 86400.0
"""help.aliyun.com, functioncompute/overview-25: the states of a task can be queried for 7 days."""

DENIALS_MAX: Final = 3
LISTS_DENIED_S: Final = 600.0
LISTS_DOUBTED_S: Final = 60.0
"""How long no listings are made of a function whose running tasks they failed to show."""
RESULTS_WAITING_MAX: Final = 20
RESULT_NOT_FETCHED: Final = Failure(
    "result_not_fetched", "it succeeded, and there was no time to ask the cloud for its result"
)
GROUPS_MAX: Final = 1000
TAKEN_UP_AT_ONCE: Final = 500
"""Tasks that are scheduled in one go once those of their function are found again: 2 us each."""


class GetTask(msgspec.Struct, frozen=True):
    """Ask for one task."""

    run: Run


class GetConfig(msgspec.Struct, frozen=True):
    """Ask whether a function's task mode is on."""

    group: Group


Look = GetTask | ListTasks | GetConfig


class Tracking(msgspec.Struct, frozen=True):
    """
    Whether the ends of a function's runs can be learned; *problem* says why not.

    A problem is told again at each probe, its end once.
    """

    function: str
    qualifier: str | None
    problem: str | None


News = Completion | Tracking


class Watchlist:
    """The tasks of one account that have not been seen to end."""

    def __init__(self, pace: Pace | None = None) -> None:
        self.pace = pace or Pace(REQUESTS_MAX_PER_S, REQUESTS_BURST)
        self.clock = CloudClock()
        self._groups: OrderedDict[tuple[str, str | None], Group] = OrderedDict()
        self._runs: dict[str, Run] = {}
        self._runs_seen = 0
        self._due: Agenda[Run] = Agenda()
        self._urgent: Agenda[Run] = Agenda()
        self._probes: Agenda[Group] = Agenda()
        self._urgent_next = True
        self._results_waiting: dict[str, Run] = {}
        self._to_take_up: deque[Run] = deque()

    def __len__(self) -> int:
        return len(self._runs)

    def __repr__(self) -> str:
        return f"<Watchlist of {len(self)}, {self.pace}>"

    # -- What is watched

    def watch(self, watched: Watched, now: float) -> None:
        """Look for the end of a run from now on."""
        self.forget(watched.id)
        group = self._group(watched.function, watched.qualifier)
        self._runs_seen += 1
        run = Run(group, watched, self._runs_seen)
        self._runs[watched.id] = run
        group.add(run)
        if group.problem is None:
            self._schedule(run, max(now, group.first_look(run)), now)
        else:
            self._probe(group, now)

    def forget(self, run_id: str) -> None:
        """Look no more for the end of a run; unknown ids are fine."""
        run = self._runs.pop(run_id, None)
        if run is not None:
            run.group.remove(run)
            self._strike(run)
            self._results_waiting.pop(run_id, None)

    def hurry(self, run_id: str, now: float) -> None:
        """Expect the end of a run soon, since it was asked to stop; unknown ids are fine."""
        run = self._runs.get(run_id)
        if run is None:
            return
        run.hurried_at = now
        if not run.asked and run.group.problem is None:
            self._schedule(run, now, now)

    def _group(self, function: str, qualifier: str | None) -> Group:
        key = (function, qualifier)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(function, qualifier)
            if len(self._groups) > GROUPS_MAX:
                self._drop_groups()
        else:
            self._groups.move_to_end(key)
        return group

    def _drop_groups(self) -> None:
        """Forget what was learned about functions of which nothing runs, the quietest first."""
        # What others were told of problems must not outlive them: such groups go last.
        quiet = [(key, group) for key, group in self._groups.items() if not group.alive]
        idle = [key for key, group in sorted(quiet, key=lambda each: each[1].problem is not None)]
        for key in idle[: len(self._groups) - GROUPS_MAX]:
            del self._groups[key]

    # -- What comes next

    def next_look(self, now: float) -> Look | None:
        """Return a request to send now, whose answer must be told; None: not now."""
        self._take_some_up(now)
        if self.pace.ready_at(now) > now:
            return None
        group = self._pop_probe(now)
        if group is not None:
            self.pace.take(now)
            return GetConfig(group)
        run = self._pop_due(now)
        if run is None:
            return None
        self.pace.take(now)
        listing = run.group.listing(run, self.clock, now)
        if listing is None:
            run.asked = True
            return GetTask(run)
        for each in listing.runs:
            self._strike(each)
            each.asked = True
        return listing

    def next_deadline(self, now: float) -> float | None:
        """Return when to call `next_look` again; None: not before something changes."""
        if self._to_take_up:
            return now
        heads = (self._urgent.head(), self._due.head(), self._probes.head())
        due = [head for head in heads if head is not None]
        return max(min(due), self.pace.ready_at(now)) if due else None

    def _pop_due(self, now: float) -> Run | None:
        """Return the task to look at now; urgent ones and others take turns."""
        first, second = self._urgent, self._due
        if not self._urgent_next:
            first, second = second, first
        run = first.pop(now) or second.pop(now)
        self._urgent_next = not self._urgent_next
        return run

    def _pop_probe(self, now: float) -> Group | None:
        while (group := self._probes.pop(now)) is not None:
            if group.alive:
                group.probed_at = now
                return group
        return None

    def _schedule(self, run: Run, due: float, now: float) -> None:
        deadline = run.watched.deadline
        urgent = run.ended is not None
        if deadline is not None and now < deadline:
            if now < deadline - LAST_LOOK_S:
                urgent = urgent or due >= deadline - LAST_LOOK_S
                due = min(due, deadline - LAST_LOOK_S)
            else:
                urgent = True
                due = min(due, now + LAST_STEP_S)
        self._strike(run)
        run.asked = False
        run.due = due
        (self._urgent if urgent else self._due).put(run, due)

    def _strike(self, run: Run) -> None:
        self._urgent.strike(run)
        self._due.strike(run)

    def _probe(self, group: Group, at: float) -> None:
        """Ask for the function's configuration at that time, or later: only every `PROBE_S`."""
        if group not in self._probes:
            self._probes.put(group, max(at, group.probed_at + PROBE_S))

    # -- What came of it

    def shown(self, look: GetTask, task: Task, now: float) -> list[News]:
        """Take the task that was asked for."""
        self.pace.answered()
        run = look.run
        if not self._is_watched(run):
            return []
        news = self._works(run.group)
        run.group.looked(ended=task.verdict is not None)
        if task.verdict is not None:
            run.group.asked_result(found=bool(task.return_payload))
            return [*news, self._end(run, task, was_asked=True)]
        if run.ended is not None:  # a listing knew better, or it lags behind
            return [*news, self._end(run, run.ended)]
        self._goes_on(run, task, now)
        return news

    def listed(self, look: ListTasks, tasks: list[Task], *, more: bool, now: float) -> list[News]:
        """Take the answer to a listing; *more*: there are tasks that it does not show."""
        self.pace.answered()
        group = look.runs[0].group
        news: list[News] = []
        useful = 0
        for task in tasks:
            run = group.by_task.get(task.task_id or "")
            if run is None or run.ended is not None:
                continue
            useful += 1
            news += self._works(group)
            group.looked(ended=task.verdict is not None)
            if task.verdict is None:
                self._goes_on(run, task, now)
            elif not task.return_payload and self._waits_for_result(run, task, now):
                pass
            else:
                news.append(self._end(run, task))
        group.listed(look.status, len(tasks), useful, full=more)
        self._not_listed(look, {task.task_id for task in tasks}, more=more, now=now)
        return news

    def _not_listed(
        self, look: ListTasks, shown: set[str | None], *, more: bool, now: float
    ) -> None:
        group = look.runs[0].group
        absent = [
            run for run in look.runs if self._is_watched(run) and run.watched.task_id not in shown
        ]
        for run in absent:
            if group.problem is None:
                # Behind the end of the page, or not to be found this way.
                run.alone = not more
                self._schedule(run, now, now)
        ran = sum(run.on_instance for run in absent)
        if look.status is None and not more and 2 * ran > len(look.runs):
            group.lists_from = now + LISTS_DOUBTED_S

    def missing(self, look: GetTask, why: str, now: float) -> list[News]:
        """Take note that the task is not known (404)."""
        self.pace.answered()
        run, group = look.run, look.run.group
        if not self._is_watched(run):
            return []
        if run.ended is not None:
            return [self._end(run, run.ended)]
        age_s = now - run.watched.sent_at
        if age_s > KEPT_S:
            self.forget(run.watched.id)
            return []
        if group.problem is not None:
            self._probe(group, now)
            return []
        run.alone = True
        if not group.seen and age_s > REGISTERED_S:
            self._probe(group, now)
            if age_s > UNKNOWN_MAX_S and not group.task_mode:
                return self._fails(group, f"its tasks cannot be found: {why}", now)
        self._schedule(run, group.next_look(run, self.clock, now), now)
        return []

    def configured(self, look: GetConfig, *, task_mode: bool, why: str, now: float) -> list[News]:
        """Take the answer to the question whether task mode is on."""
        self.pace.answered()
        group = look.group
        group.task_mode = task_mode
        if not task_mode:
            return self._fails(group, why, now)
        self._try(group, now)
        return []

    def denied(self, look: Look, why: str, now: float) -> list[News]:
        """Take note that the account's keys do not have the right for this request (403)."""
        self.pace.answered()
        match look:
            case ListTasks():
                look.runs[0].group.lists_from = now + LISTS_DENIED_S
                self._ask_again(look, now, now)
            case GetConfig(group=group):
                if group.problem is None:
                    self._probe(group, now)
                self._try(group, now)
            case GetTask(run=run) if self._is_watched(run):
                return self._denied_task(run, why, now)
            case GetTask():
                pass
        return []

    def _denied_task(self, run: Run, why: str, now: float) -> list[News]:
        group = run.group
        if run.ended is not None:
            return [self._end(run, run.ended)]
        if group.problem is not None:
            self._probe(group, now)
            return []
        group.denials += 1
        if group.denials >= DENIALS_MAX:
            return self._fails(group, why, now)
        self._schedule(run, now + group.denials, now)
        return []

    def throttled(self, look: Look, retry_after_s: float | None, now: float) -> list[News]:
        """Take note that there were too many requests (429)."""
        self.pace.throttled(now, retry_after_s)
        self._ask_again(look, now, now)
        return self._settle_results()

    def failed(self, look: Look, now: float) -> list[News]:
        """Take note that no answer came, or none that can be read."""
        self.pace.failed(now)
        self._ask_again(look, now, now)
        return self._settle_results()

    def interrupted(self, look: Look, now: float) -> None:
        """Take note that nobody waited for the answer."""
        self._ask_again(look, now, now)

    # -- What follows

    def _is_watched(self, run: Run) -> bool:
        return self._runs.get(run.watched.id) is run

    def _end(self, run: Run, task: Task, *, was_asked: bool = False) -> Completion:
        """Return the news of an end; *was_asked*: for this task alone, which shows its result."""
        news = completion(run.watched, task, self.clock)
        if run.group.has_results and not was_asked and _has_no_result(news):
            news = replace(news, failure=RESULT_NOT_FETCHED)
        run.group.learn(task, news.start_delay_s)
        self.forget(run.watched.id)
        return news

    def _goes_on(self, run: Run, task: Task, now: float) -> None:
        run.on_instance = task.on_instance
        run.started_s = task.started_s
        run.alone = False
        self._schedule(run, run.group.next_look(run, self.clock, now), now)

    def _waits_for_result(self, run: Run, task: Task, now: float) -> bool:
        """Ask for the result before the end is told, unless too many such questions wait."""
        if len(self._results_waiting) >= RESULTS_WAITING_MAX or not run.group.wants_result():
            return False
        run.ended = task
        self._results_waiting[run.watched.id] = run
        self._schedule(run, now, now)
        return True

    def _settle_results(self) -> list[News]:
        """Give up the results that are waited for: slots must not wait for them."""
        waiting = list(self._results_waiting.values())
        return [self._end(run, run.ended) for run in waiting if run.ended is not None]

    def _ask_again(self, look: Look, at: float, now: float) -> None:
        match look:
            case GetTask(run=run):
                runs: tuple[Run, ...] = (run,)
            case ListTasks():
                runs = look.runs
            case GetConfig(group=group):
                self._probe(group, at)
                return
        for run in runs:
            if self._is_watched(run):
                self._schedule(run, at, now)

    def _works(self, group: Group) -> list[News]:
        """Take note that a task of the function was found."""
        group.seen = True
        group.denials = 0
        if group.problem is None:
            return []
        group.problem = None
        for _, _, run in group.alive:
            run.asked = False
            self._to_take_up.append(run)
        return [Tracking(group.function, group.qualifier, None)]

    def _take_some_up(self, now: float) -> None:
        for _ in range(min(len(self._to_take_up), TAKEN_UP_AT_ONCE)):
            run = self._to_take_up.popleft()
            scheduled = run.asked or run in self._due or run in self._urgent
            if not scheduled and run.group.problem is None and self._is_watched(run):
                self._schedule(run, now, now)

    def _fails(self, group: Group, why: str, now: float) -> list[News]:
        """Look no more at the tasks of the function, but from time to time whether that helps."""
        group.problem = why
        group.seen = False
        group.denials = 0
        for _, _, run in group.alive:
            self._strike(run)
        self._probe(group, now)
        return [Tracking(group.function, group.qualifier, why)]

    def _try(self, group: Group, now: float) -> None:
        """
        Ask for the latest task of a function that had a problem.

        The latest, because tasks from the time without task mode will never be found. Only a
        task that is found proves that the problem is over.
        """
        if group.alive and group.problem is not None:
            run = group.alive[-1][2]
            run.alone = True
            self._schedule(run, now, now)


def _has_no_result(news: Completion) -> bool:
    return news.verdict is Verdict.SUCCEEDED and news.result is None
