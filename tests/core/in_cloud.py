"""What may be running in the cloud, by what was sent and what was heard of it: the worst of it."""

import math
from collections import Counter

from msgspec import Struct

from dispatcher.core.deadlines import source_of
from dispatcher.core.doubt import ARRIVES_S, PATIENCE
from dispatcher.core.job import Job
from dispatcher.core.lanes import Lane
from dispatcher.core.model import Accepted, CallType, Lost, Outcome, Replied, Source


class Run(Struct):
    """One run that may be going on."""

    lane: Lane
    began_by: float = math.inf  #: infinity: it is not in doubt
    ends_by: float = math.inf


class InCloud:
    """Keeps the runs that may be going on; a repeat must be no second one beside the first."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, int], Run] = {}

    def sent(self, job: Job, now: float) -> None:
        key = job.id, job.attempt
        earlier = self.runs.get(key)
        if earlier is not None and source_of(job) not in (Source.TASK, Source.ACCEPTED):
            assert now >= _must_have_ended(earlier), ("beside itself", job)
        if earlier is None or source_of(job) is not Source.TASK:
            self.runs[key] = Run(job.lane)

    def answered(self, job: Job, attempt: int, outcome: Outcome, now: float) -> None:
        key = job.id, attempt
        run = self.runs.get(key)
        if run is None:
            return  # its end was known before
        if isinstance(outcome, Accepted) and source_of(job) is not Source.ACCEPTED:
            self.runs[key] = Run(job.lane)
        elif isinstance(outcome, Lost) and not _says_that_nothing_runs(job, outcome):
            hold_s = job.lane.function.rules.hold_max_s
            self.runs[key] = Run(job.lane, now, now + hold_s)
        elif run.began_by == math.inf or isinstance(outcome, Replied):
            del self.runs[key]

    def restored(self, job: Job, now: float, sent_at: float, *, is_running: bool) -> None:
        key = job.id, job.attempt
        began_by = min(now, sent_at + ARRIVES_S)
        if not is_running:
            self.runs[key] = Run(job.lane, began_by, began_by + job.lane.function.rules.hold_max_s)
        elif source_of(job) is not Source.ACCEPTED:
            self.runs[key] = Run(job.lane)

    def ended(self, job: Job, attempt: int, now: float, *, is_known: bool) -> None:
        """Take note that an attempt has ended for the machine, by news of its end or without."""
        key = job.id, attempt
        run = self.runs.get(key)
        if run is None:
            return
        if is_known or run.began_by == math.inf or source_of(job) is Source.ACCEPTED:
            del self.runs[key]
        else:
            run.ends_by = max(now, _must_have_ended(run))

    def check(self, now: float) -> None:
        """Check that each holds a slot."""
        self.runs = {key: run for key, run in self.runs.items() if run.ends_by > now}
        needed = Counter((run.lane.function, run.lane.qualifier) for run in self.runs.values())
        for (function, qualifier), count in needed.items():
            assert count <= function.in_flight.get(qualifier, 0), (function, count)


def _must_have_ended(run: Run) -> float:
    cautious_s = run.lane.function.cautious_s
    if cautious_s is None:
        return run.ends_by
    return min(run.ends_by, run.began_by + PATIENCE * cautious_s)


def _says_that_nothing_runs(job: Job, lost: Lost) -> bool:
    return job.type is CallType.SYNC and (lost.timed_out or lost.failure.status is not None)
