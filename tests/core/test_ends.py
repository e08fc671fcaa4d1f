"""How invocations end, case by case; tests/core/test_promises.py has what holds in any case."""

import math

import pytest
from msgspec import UNSET

from dispatcher.core.durations import RUNS_MIN
from dispatcher.core.effects import Finish, Return, Watch
from dispatcher.core.model import (
    Accepted,
    CallType,
    GateKind,
    Lost,
    Refused,
    Replied,
    Source,
    State,
    Throttled,
    Verdict,
)
from tests.core.world import FAILURE, World, function_of, only, world_of

LOST = Lost(FAILURE)
THROTTLED = Throttled(gate=GateKind.ACCOUNT, reason="busy")


# -- A slot is held until the function has ended


def test_a_slot_is_held_from_the_launch_to_the_completion():
    w = world_of(quota=2)
    jobs = w.admit_many(3)
    assert w.run() == jobs[:2]
    assert (w.main.gate.in_use, w.main.gate.requests) == (2, 0)
    assert w.due() == []
    w.complete(jobs[1], result=b"ok")
    assert w.finishes["i2"].result == b"ok"
    assert w.run() == jobs[2:]


def test_a_completion_that_is_faster_than_the_202_ends_it_once():
    w = world_of(quota=1)
    first, second = w.admit_many(2)
    w.due()
    finish = only(w.complete(first), Finish)
    assert finish.state is State.SUCCEEDED
    assert w.answer(first, Accepted("r")) == []
    assert w.run() == [second]


@pytest.mark.parametrize("outcome", [Accepted("r"), LOST, THROTTLED, Refused(FAILURE)])
def test_what_a_send_came_to_does_not_matter_once_its_next_attempt_is_on_its_way(outcome):
    w = world_of({"f": function_of(attempts_max=2)})
    job = w.admit()
    w.due()
    w.complete(job, Verdict.FAILED)
    w.advance(10)
    assert (job.state, job.attempt) == (State.SENDING, 2)
    assert w.answer(job, outcome, attempt=1) == []
    assert (job.state, job.attempt) == (State.SENDING, 2)
    only(w.answer(job, Accepted("r"), attempt=2), Watch)


def test_news_of_another_attempt_or_of_what_ended_do_nothing():
    w = world_of({"f": function_of(attempts_max=2)})
    job = w.admit()
    waiting = w.admit(delay_s=60)
    w.run()
    assert w.complete(job, attempt=0) == []
    assert w.complete(job, attempt=2) == []
    assert w.complete(waiting) == []
    w.complete(job, attempt=1)
    assert w.complete(job, attempt=1) == []
    assert w.machine.counters.late_completions["main",] == 0


def test_no_news_by_hold_max_frees_the_slot_and_leaves_the_end_uncertain():
    w = world_of({"f": function_of(hold_max_s=30)})
    job = w.admit()
    w.run()
    assert w.machine.next_deadline(w.now) == 30
    assert w.advance(29) == []
    finish = only(w.advance(1), Finish)
    assert (finish.state, finish.forced) == (State.UNCERTAIN, True)
    assert w.machine.counters.forced_releases["main", "f"] == 1
    assert w.complete(job) == []


def test_an_estimated_end_is_labelled():
    w = world_of({"f": function_of(Source.DURATION, duration_s=5)})
    w.admit()
    w.run()
    finish = only(w.advance(5), Finish)
    assert (finish.state, finish.estimated, finish.forced) == (State.SUCCEEDED, True, False)
    assert w.machine.counters.forced_releases == {}


def test_an_estimate_does_not_hold_a_slot_longer_than_it_may_be_held():
    w = world_of({"f": function_of(Source.DURATION, duration_s=50, hold_max_s=20)})
    w.admit()
    w.run()
    assert w.machine.next_deadline(w.now) == 20


def test_the_slot_ends_at_the_202_where_nothing_else_is_wanted():
    w = world_of({"f": function_of(Source.ACCEPTED)})
    job = w.admit()
    w.due()
    finish = only(w.answer(job, Accepted("r")), Finish)
    assert (finish.state, finish.estimated) == (State.SUCCEEDED, True)


def test_a_reply_ends_a_synchronous_call_and_tells_how_long_it_took():
    w = world_of()
    job = w.admit(type=CallType.SYNC)
    w.due()
    w.now = 3.0
    reply = Replied(request_id="r", payload=b"out")
    finish = only(w.answer(job, reply), Finish)
    assert (finish.state, finish.result, finish.reply) == (State.SUCCEEDED, b"out", reply)
    assert job.request_id == "r"
    assert w.main.function("f").duration_s == 3.0
    assert w.main.times.run_s.view().total == 3.0


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        (Verdict.SUCCEEDED, State.SUCCEEDED),
        (Verdict.FAILED, State.DEAD),
        (Verdict.EXPIRED, State.EXPIRED),
        (Verdict.STOPPED, State.CANCELLED),
    ],
)
def test_verdicts(verdict, state):
    w = world_of()
    job = w.admit()
    w.run()
    w.complete(job, verdict)
    assert w.finishes[job.id].state is state


def test_durations_are_learned_from_true_ends_only():
    w = world_of({"f": function_of(duration_s=10), "g": function_of(Source.DURATION, duration_s=4)})
    for run_s in (math.nan, -1.0, math.inf):
        w.admit()
        w.end(w.run())
        w.admit()
        w.complete(w.run()[0], run_s=run_s)
    durations = w.main.function("f").durations
    assert (len(durations), durations.quantile(1.0)) == (3, 0.0)  # three ends at once
    w.admit("g")
    w.run()
    w.advance(4)
    assert w.main.function("g").duration_s == 4
    assert w.main.times.run_s.view().counts[4:8] == (0, 0, 1, 0)


def test_what_is_posted_about_an_estimated_run_is_learned():
    w = world_of({"f": function_of(Source.DURATION, duration_s=10)})
    for _ in range(RUNS_MIN):
        job = w.admit()
        w.run()
        w.advance(4)
        w.complete(job)
    assert w.main.function("f").duration_s == 4


def test_how_long_the_cloud_kept_runs_queued_is_counted():
    w = world_of()
    for delay_s in (None, math.nan, -1.0, 0.25, 7.0):
        w.admit()
        (finish,) = w.complete(w.run()[0], start_delay_s=delay_s)
        assert isinstance(finish, Finish)
        assert finish.start_delay_s == (delay_s if delay_s in (0.25, 7.0) else None)
    view = w.main.times.start_delay_s.view()
    assert (sum(view.counts), view.total) == (2, 7.25)


# -- Task mode that is off


def tracking(w: World, why: str | None, qualifier: str | None = None) -> bool:
    return w.machine.tracking_changed("main", "f", qualifier, why)


def test_without_task_mode_ends_are_estimated_those_of_running_ones_too():
    w = world_of({"f": function_of(Source.TASK, duration_s=10, hold_max_s=100)}, quota=9)
    early, late = w.admit(), w.admit(qualifier="v1")
    w.run()
    w.advance(4)
    assert tracking(w, "task mode is off")
    assert not tracking(w, "task mode is off, still")
    assert not w.cancel(early), "no task, nothing to stop"
    later = w.admit()
    w.run()
    finish = only(w.advance(6), Finish)
    assert (finish.job, finish.estimated, finish.forced) == (early, True, False)
    assert only(w.advance(4), Finish).job is later
    assert late.state is State.RUNNING
    assert w.machine.next_deadline(w.now) == 100
    assert w.main.function_views()["f"].untracked == "task mode is off"


def test_once_tasks_are_found_again_their_ends_are_waited_for():
    w = world_of({"f": function_of(Source.TASK, duration_s=10, hold_max_s=100)})
    job = w.admit()
    w.run()
    tracking(w, "off")
    w.advance(5)
    assert tracking(w, None)
    assert not tracking(w, None)
    assert w.due() == []
    assert w.machine.next_deadline(w.now) == 100
    w.advance(20)
    assert job.state is State.RUNNING
    assert w.cancel(job)
    assert w.main.function_views()["f"].untracked is UNSET


def test_an_estimate_that_has_passed_already_ends_at_once():
    w = world_of({"f": function_of(Source.TASK, duration_s=3)})
    w.admit()
    w.run()
    w.advance(30)
    tracking(w, "off")
    assert only(w.due(), Finish).estimated


def test_where_nothing_is_known_of_the_duration_slots_are_held_as_long_as_they_may_be():
    w = world_of({"f": function_of(Source.TASK, hold_max_s=50)})
    w.admit()
    w.run()
    tracking(w, "off")
    finish = only(w.advance(50), Finish)
    assert (finish.state, finish.forced) == (State.UNCERTAIN, True)


def test_a_synchronous_call_has_no_task():
    w = world_of({"f": function_of(Source.TASK, duration_s=3)})
    job = w.admit(type=CallType.SYNC)
    w.due()
    tracking(w, "off")
    w.advance(30)
    assert job.state is State.SENDING


# -- Failures of the function


def test_a_failed_run_is_tried_again_with_a_new_task_id_and_then_dead():
    w = world_of({"f": function_of(attempts_max=2)})
    job = w.admit(chosen_task_id="mine")
    assert job.task_id == "mine"
    w.run()
    back = only(w.complete(job, Verdict.FAILED), Return)
    assert (back.maybe_sent, job.attempt, job.task_id) == (False, 2, "i1_2")
    assert job.waits_for is GateKind.RETRY
    assert w.run() == []
    w.now = 0.25  # a half of the base delay
    assert w.run() == [job]
    finish = only(w.complete(job, Verdict.FAILED, failure=FAILURE), Finish)
    assert (finish.state, finish.failure) == (State.DEAD, FAILURE)


def test_a_retry_of_what_has_run_does_not_expire():
    w = world_of({"f": function_of(attempts_max=2)})
    job = w.admit(expires_s=1)
    w.run()
    w.now = 0.9
    w.complete(job, Verdict.FAILED)
    w.advance(5)
    assert job.state is State.SENDING


@pytest.mark.parametrize("state", [State.RUNNING, State.SENDING])
def test_how_long_nobody_listened_is_not_how_long_a_function_runs(state):
    w = world_of(quota=50)
    w.now = 1000.0
    for _ in range(RUNS_MIN):
        job = w.job()
        w.restore(job, state, sent_ago_s=300.0)
        w.complete(job)
    assert w.main.function("f").cautious_s is None
    for _ in range(RUNS_MIN):
        w.admit()
        (job,) = w.run()
        w.advance(2.0)
        w.complete(job)
    assert w.main.function("f").cautious_s == pytest.approx(2.0)
