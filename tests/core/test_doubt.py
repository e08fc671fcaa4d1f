"""What may be running holds a slot: the whole of it is a promise, see test_promises.py."""

import pytest

from dispatcher.core.doubt import ARRIVES_S, LOOK_AGAIN_S, PATIENCE
from dispatcher.core.effects import Finish, Launch
from dispatcher.core.job import Job
from dispatcher.core.model import (
    Accepted,
    CallType,
    Failure,
    GateKind,
    Lost,
    Refused,
    Source,
    State,
    Throttled,
    Verdict,
)
from tests.core.world import FAILURE, World, function_of, rules_of

LOST = Lost(FAILURE)
ANSWERED_LOST = Lost(Failure("server_error", "", status=502))
RUN_S = 10.0


def world_of(completion: Source = Source.CALLBACK, **rules: object) -> World:
    fields = {"duration_s": RUN_S, "hold_max_s": 100.0} | rules
    return World(rules_of({"f": function_of(completion, **fields)}, quota=2), lambda: 0.5)


def lost(w: World, outcome: Lost = LOST, **fields: object) -> Job:
    job = w.admit(**fields)
    w.due()
    w.answer(job, outcome)
    return job


def launched_at(w: World) -> float:
    """Return when the next launch is, with nothing but time passing."""
    while not any(isinstance(each, Launch) for each in w.due()):
        deadline = w.machine.next_deadline(w.now)
        assert deadline is not None
        w.now = deadline
    return w.now


def test_it_is_sent_again_once_what_may_run_must_have_ended():
    w = world_of()
    job = lost(w)
    assert launched_at(w) == PATIENCE * RUN_S
    assert (job.state, w.main.gate.in_use) == (State.SENDING, 1), "on the slot it held"


@pytest.mark.parametrize("completion", [Source.TASK, Source.ACCEPTED])
def test_what_is_refused_or_not_counted_beside_itself_goes_after_its_backoff(completion):
    w = world_of(completion)
    lost(w)
    assert launched_at(w) < 1.0


@pytest.mark.parametrize(("outcome", "waits"), [(LOST, True), (ANSWERED_LOST, False)])
def test_a_synchronous_call_that_was_answered_runs_no_more(outcome, waits):
    w = world_of()
    lost(w, outcome, type=CallType.SYNC)
    assert (launched_at(w) >= PATIENCE * RUN_S) is waits


def test_nobody_waits_longer_than_a_slot_may_be_held_at_all():
    w = world_of(hold_max_s=15.0)
    lost(w)
    assert launched_at(w) == 15.0


def test_where_nothing_is_known_it_is_looked_at_again_until_something_is():
    w = world_of(duration_s=None)
    job = lost(w)
    w.advance(1.0)
    assert w.main.waiting_for(job, w.now).gate is GateKind.RETRY
    assert w.machine.next_deadline(w.now) == 1.0 + LOOK_AGAIN_S
    for _ in range(8):
        other = w.admit()
        w.run()
        w.complete(other, run_s=3.0)
    assert launched_at(w) == PATIENCE * 3.0
    w = world_of(duration_s=None)
    lost(w)
    assert launched_at(w) == 100.0, "it never was"


def test_a_function_with_room_for_one_waits_for_itself_and_not_for_ever():
    w = world_of(instances_max=1)
    job, other = lost(w), w.admit()
    assert w.advance(PATIENCE * RUN_S - 0.5) == []
    assert launched_at(w) == PATIENCE * RUN_S
    assert w.launched[-1] == job.id
    w.answer(job, Accepted("r"))
    w.complete(job)
    assert w.run() == [other]


def test_its_end_may_be_told_meanwhile_and_then_it_does_not_run_twice():
    w = world_of()
    job = lost(w)
    w.advance(5.0)
    w.complete(job)
    assert (job.state, w.launched, w.main.gate.in_use) == (State.SUCCEEDED, [job.id], 0)


def test_what_is_cancelled_or_given_up_leaves_its_slot_behind():
    w = world_of()
    cancelled = lost(w)
    assert w.cancel(cancelled)
    assert (w.main.gate.in_use, w.main.function("f").queued) == (1, 0)
    w.admit_many(2)
    assert len(w.run()) == 1, "the other instance may be in use"
    w.advance(PATIENCE * RUN_S)
    assert (w.main.gate.in_use, len(w.machine.orphans)) == (2, 0)


def test_at_most_once_counts_what_may_run():
    w = World(rules_of({"f": function_of(duration_s=RUN_S)}, quota=1, at_most_once=True))
    gone, restored = lost(w), w.job()
    w.restore(restored, State.SENDING, 1.0)
    assert {gone.state, restored.state} == {State.UNCERTAIN}
    assert w.main.gate.in_use == 2
    w.admit()
    assert w.due() == []
    w.complete(gone, attempt=2)  # another one
    assert w.main.gate.in_use == 2
    w.complete(gone, attempt=1)
    w.complete(gone)  # told twice
    assert w.main.gate.in_use == 1
    assert launched_at(w) == PATIENCE * RUN_S
    assert w.machine.counters.forced_releases == {}


def test_what_is_refused_after_all_is_held_only_while_the_first_send_may_run():
    w = world_of(Source.TASK)
    job = lost(w)
    launched_at(w)
    effects = w.answer(job, Refused(FAILURE))
    assert [each.state for each in effects if isinstance(each, Finish)] == [State.UNCERTAIN]
    assert w.main.gate.in_use == 1
    w = world_of()
    job = lost(w)
    launched_at(w)
    w.answer(job, Refused(FAILURE))
    assert w.main.gate.in_use == 0, "it had to be over before"


def test_a_stopped_task_is_not_in_doubt():
    w = world_of(Source.TASK)
    job = lost(w)
    w.complete(job, Verdict.STOPPED)
    assert (job.state, w.main.gate.in_use) == (State.CANCELLED, 0)


def test_a_throttled_repeat_says_nothing_of_the_first_send():
    w = world_of(Source.TASK)
    job = lost(w)
    launched_at(w)
    w.answer(job, Throttled(gate=GateKind.ACCOUNT, reason="r"))
    assert w.main.gate.in_use == 1


def test_what_was_being_sent_at_a_crash_is_in_doubt_from_when_it_arrived_at_the_latest():
    w = world_of()
    w.now = 1000.0
    for sent_ago_s in (1.0, ARRIVES_S + 3.0):
        w.restore(w.job(), State.SENDING, sent_ago_s)
    assert launched_at(w) == 1000.0 + PATIENCE * RUN_S - 3.0
    assert launched_at(w) == 1000.0 + PATIENCE * RUN_S
