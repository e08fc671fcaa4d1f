"""What holds a slot, for how long: the whole of it is tested by the machine."""

import math

import pytest

from dispatcher.core.deadlines import Deadlines, source_of
from dispatcher.core.gates import Slot
from dispatcher.core.job import Job
from dispatcher.core.model import Accepted, CallType, Source, State, Verdict
from tests.core.world import World, function_of, rules_of

SLOT = {"attempt": 1, "share": 1, "price": 1.0, "labels": ("f", "t")}


def job_of(completion: Source = Source.TASK, qualifier: str | None = None, **rules: float) -> Job:
    world = World(rules_of({"f": function_of(completion, **rules)}))
    return world.job(qualifier=qualifier)


def slot_of(job: Job) -> Slot:
    return Slot(job=job, **SLOT, taken_at=0.0, charged_s=0.0)  # type: ignore[arg-type]


def test_the_earliest_comes_first_and_only_once_it_is_due():
    deadlines, job = Deadlines(), job_of()
    late, early = slot_of(job), slot_of(job)
    deadlines.hold(late, 9.0)
    deadlines.hold(early, 4.0)
    assert (len(deadlines), deadlines.next_time(), deadlines.first(3.9)) == (2, 4.0, None)
    assert deadlines.first(4.0) is early
    deadlines.keep(early)
    assert early.deadline == math.inf
    assert (len(deadlines), deadlines.first(8.9), deadlines.next_time()) == (1, None, 9.0)
    deadlines.hold(late, 12.0)
    assert (len(deadlines), deadlines.first(11.0)) == (1, None)
    deadlines.keep(late)
    assert deadlines.first(99.0) is None
    assert deadlines.next_time() == math.inf


@pytest.mark.parametrize(
    ("completion", "declared_s", "held_s", "exact"),
    [
        (Source.TASK, 5.0, 20.0, True),
        (Source.DURATION, 5.0, 5.0, False),
        (Source.DURATION, 50.0, 20.0, False),
        (Source.DURATION, None, 20.0, True),
    ],
)
def test_a_run_holds_its_slot_to_its_end_as_far_as_that_is_estimated(
    completion, declared_s, held_s, exact
):
    job = job_of(completion, duration_s=declared_s, hold_max_s=20.0)
    deadlines, slot = Deadlines(), slot_of(job)
    deadlines.hold_run(slot, 100.0, source_of(job))
    assert (slot.deadline, slot.exact) == (100.0 + held_s, exact)


def test_the_source_is_that_of_the_rules_as_far_as_it_works():
    job, other = job_of(), job_of(qualifier="v1")
    assert source_of(job) is Source.TASK
    job.lane.function.untracked[None] = "off"
    assert source_of(job) is Source.DURATION
    assert source_of(other) is Source.TASK
    job.type = CallType.SYNC
    assert source_of(job) is Source.RESPONSE


class Held:
    """Slots of what runs of three kinds, all held for `hold_max_s`, with their estimates at hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        monkeypatch.setattr("dispatcher.core.deadlines.HELD_ANEW_AT_ONCE", 2)
        functions = {"*": function_of(Source.TASK, duration_s=5, hold_max_s=100)}
        self.world = World(rules_of(functions, quota=count))
        self.deadlines = self.world.machine._deadlines
        for number in range(count):
            function, qualifier = (("f", None), ("f", "v1"), ("g", None))[number % 3]
            self.world.admit(function, qualifier=qualifier)
        self.jobs = self.world.run()
        assert len(self.jobs) == count

    def change(self, function: str, qualifier: str | None, why: str | None) -> None:
        assert self.world.machine.tracking_changed("main", function, qualifier, why)

    def looked_at(self) -> list[float]:
        """Let one part be looked at; return the deadlines of all."""
        assert self.deadlines.first(self.world.now) is None
        return [job.slot.deadline for job in self.jobs if job.slot is not None]


@pytest.fixture
def held(monkeypatch):
    return Held(monkeypatch, 9)


def test_what_runs_is_held_anew_a_few_at_a_time(held):
    held.change("f", None, "off")
    assert held.looked_at().count(5.0) <= 2
    while held.deadlines.next_time() == -math.inf:
        before = held.looked_at().count(5.0)
    assert held.deadlines.next_time() == 5.0
    assert before <= 3
    assert held.looked_at() == [5.0, 100.0, 100.0] * 3


def test_nothing_is_given_up_before_all_are_looked_at(held):
    held.world.now = 100.0  # both the estimates and the longest holds are over
    held.change("f", None, "off")
    calls = 0
    while (slot := held.deadlines.first(100.0)) is None:
        calls += 1
    assert calls == 4
    assert not slot.exact
    assert [job.slot.exact for job in held.jobs] == [False, True, True] * 3


def test_what_ends_or_changes_again_meanwhile(held):
    held.change("f", None, "off")
    held.looked_at()
    held.looked_at()
    held.world.complete(held.jobs[0])
    held.change("g", None, "off, too")
    assert held.world.machine.next_deadline(1.0) == 1.0
    held.looked_at()
    held.change("f", None, None)
    held.change("f", "v1", "off")
    held.world.admit("f"), held.world.admit("g")
    held.world.complete(held.jobs[8])
    later = held.world.run()
    assert len(later) == 2
    live = {job: job.slot.deadline for job in [*held.jobs, *later] if job.slot is not None}
    assert len(live) == 9
    for job, deadline in live.items():
        lane = job.lane
        tracked = (lane.function.name, lane.qualifier) == ("f", None)
        assert deadline == (100.0 if tracked else 5.0), job


def test_what_runs_again_meanwhile_is_held_by_its_new_slot(held):
    job = held.jobs[0]
    world, old = held.world, job.slot
    job.lane.function.rules = function_of(Source.TASK, duration_s=5, hold_max_s=100, attempts_max=2)
    held.change("f", None, "off")
    world.complete(job, Verdict.FAILED)
    world.now = 4.0
    world.carry_out(world.machine.due(world.now))
    world.answer(job, Accepted("r"))
    assert job.state is State.RUNNING
    while held.deadlines.next_time() == -math.inf:
        held.looked_at()
    assert (old.entry, job.slot.deadline) == (None, 9.0)


def test_the_slots_of_a_hundred_functions_are_gone_through_once(monkeypatch):
    held = Held(monkeypatch, 30)
    held.change("f", None, "off")
    held.change("f", "v1", "off")
    held.change("g", None, "off")
    calls = 0
    while held.deadlines.next_time() == -math.inf:
        held.looked_at()
        calls += 1
    assert calls == 30 / 2
    assert held.looked_at() == [5.0] * 30
