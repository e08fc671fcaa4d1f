"""What holds a slot, for how long: the whole of it is tested by the machine."""

import math

import pytest

from dispatcher.core.deadlines import Deadlines, source_of
from dispatcher.core.gates import Slot
from dispatcher.core.job import Job
from dispatcher.core.model import CallType, Source
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


def test_what_is_held_for_a_function_is_found_by_its_qualifier():
    world = World(rules_of())
    deadlines = Deadlines()
    jobs = [world.job("f"), world.job("f", qualifier="v1"), world.job("g")]
    slots = [slot_of(job) for job in jobs]
    for slot in slots:
        deadlines.hold(slot, 1.0)
    for job, slot in zip(jobs, slots, strict=True):
        assert deadlines.of(job.lane.function, job.lane.qualifier) == [slot]
