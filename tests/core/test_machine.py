"""What the machine decides, case by case; tests/core/test_promises.py has what holds in any case."""

import ast
from pathlib import Path

import pytest

import dispatcher.core
from dispatcher.core.doubt import ARRIVES_S
from dispatcher.core.durations import RUNS_MIN
from dispatcher.core.effects import Effect, Finish, Launch, Return
from dispatcher.core.model import (
    Accepted,
    CallType,
    Denied,
    GateKind,
    Lost,
    NotSent,
    Refused,
    Source,
    State,
    Throttled,
    Verdict,
)
from dispatcher.core.rules import TenantRules
from tests.core.world import FAILURE, World, function_of, only, rules_of, states, world_of

LOST = Lost(FAILURE)
THROTTLED = Throttled(gate=GateKind.ACCOUNT, reason="busy")


# -- Sends that do not succeed


def test_a_throttle_gives_the_slot_back_and_costs_no_attempt():
    w = world_of(quota=1)
    first, second = w.admit_many(2)
    w.due()
    back = only(w.answer(first, THROTTLED), Return)
    assert (back.failure.reason, back.maybe_sent, first.attempt) == ("busy", False, 1)
    assert w.run() == [second]


def test_retries_wait_twice_as_long_each_time_and_longest_on_an_empty_budget():
    w = world_of()
    job = w.admit()
    waits = []
    for _ in range(4):
        w.due()
        w.answer(job, NotSent(FAILURE))
        waits.append(job.wakes_at - w.now)
        w.now = job.wakes_at
    assert waits == [0.25, 0.5, 1.0, 2.0]
    w.main.gate.budget.tokens = 0
    w.due()
    w.answer(job, NotSent(FAILURE))
    assert job.wakes_at - w.now == 60


@pytest.mark.parametrize(
    ("asked_s", "waits_s"), [(None, 0.25), (0.1, 0.25), (9.0, 9.0), (1e12, 3600.0), (-5.0, 0.25)]
)
def test_a_send_waits_as_long_as_the_cloud_asks_within_reason(asked_s, waits_s):
    w = world_of()
    job = w.admit()
    w.due()
    w.answer(job, NotSent(FAILURE, retry_after_s=asked_s))
    assert job.wakes_at == waits_s


def test_what_is_not_taken_for_too_long_since_its_first_send_is_dead():
    w = world_of()
    w.machine.rules = rules_of()
    job = w.admit()
    w.due()  # at 0.0, which is a time like any other
    w.answer(job, THROTTLED)
    w.advance(w.machine.rules.retry.age_max_s + 1)
    finish = only(w.answer(job, THROTTLED), Finish)
    assert finish.state is State.DEAD
    assert finish.failure.reason == "busy"


def test_what_the_cloud_will_never_take_is_dead():
    w = world_of()
    job = w.admit()
    w.due()
    assert only(w.answer(job, Refused(FAILURE)), Finish).state is State.DEAD


def test_retry_after_closes_the_gate_that_the_throttle_names():
    w = world_of(quota=9)
    gates = {GateKind.FUNCTION: "f", GateKind.ACCOUNT: "g", GateKind.RATE: "h"}
    jobs = {gate: w.admit(name) for gate, name in gates.items()}
    w.due()
    for seconds, (gate, job) in enumerate(jobs.items(), start=1):
        w.answer(
            job, Throttled(gate=gate, function_rate=True, reason="r", retry_after_s=seconds * 10)
        )
    more = [w.admit("f"), w.admit("other")]
    assert [w.main.waiting_for(job, w.now).gate for job in more] == [GateKind.RETRY_AFTER] * 2
    assert w.advance(29) == []
    w.advance(0.5)
    assert w.main.waiting_for(more[0], 29.5).gate is GateKind.RATE
    w.advance(0.5)
    assert states(*more) == ["sending", "sending"]


def test_a_function_that_is_closed_holds_only_itself_up():
    w = world_of()
    job = w.admit("f")
    w.due()
    w.answer(
        job, Throttled(gate=GateKind.FUNCTION, function_rate=True, reason="r", retry_after_s=5)
    )
    closed, other = w.admit("f"), w.admit("g")
    assert w.run() == [other]
    assert w.main.waiting_for(closed, 1.0).until_s == 4.0
    w.now = 5.0
    assert w.run() == [job, closed]


def test_a_closed_function_stays_closed_although_it_is_idle_and_many_others_come(monkeypatch):
    monkeypatch.setattr("dispatcher.core.account.IDLE_KEPT", 1)
    w = world_of(quota=1000)
    job = w.admit("f")
    w.due()
    w.answer(job, Throttled(gate=GateKind.FUNCTION, reason="r", retry_after_s=50))
    w.cancel(job)
    w.end([w.admit(f"g{i}") for i in range(20)] and w.run())
    late = w.admit("f")
    assert late not in w.run()
    w.now = 50
    assert late in w.run()


# -- Sends that nobody knows the fate of


def test_a_lost_send_keeps_its_slot_and_goes_again_with_the_same_id():
    w = world_of({"f": function_of(Source.TASK)}, quota=1)
    job, other = w.admit_many(2)
    w.due()
    task_id, slot = job.task_id, job.slot
    assert only(w.answer(job, LOST), Return).maybe_sent
    assert w.due() == []
    w.now = job.wakes_at
    assert w.run() == [job]
    assert (job.task_id, job.slot) == (task_id, slot)
    assert other.state is State.WAITING


@pytest.mark.parametrize("outcome", [THROTTLED, NotSent(FAILURE), Denied(FAILURE)])
def test_what_comes_after_a_lost_send_does_not_prove_that_nothing_runs(outcome):
    w = world_of({"f": function_of(Source.TASK)}, quota=1)
    job = w.admit()
    w.due()
    w.answer(job, LOST)
    w.now = job.wakes_at
    w.due()
    assert only(w.answer(job, outcome)[-1:], Return).maybe_sent
    assert w.main.gate.in_use == 1
    assert only(w.complete(job), Finish).state is State.SUCCEEDED


@pytest.mark.parametrize("at_end", [Refused(FAILURE), LOST])
def test_what_may_have_run_is_uncertain_and_not_dead(at_end):
    w = world_of({"f": function_of(Source.TASK, hold_max_s=1e6)})
    job = w.admit()
    w.due()
    w.answer(job, LOST)
    w.now = 30000.0
    w.due()
    finish = only(w.answer(job, at_end), Finish)
    assert (finish.state, finish.forced) == (State.UNCERTAIN, True)


def test_a_lost_send_holds_its_slot_no_longer_than_the_function_may_run():
    w = world_of({"f": function_of(hold_max_s=20)}, quota=1)
    lost, other = w.admit("f"), w.admit("g")
    w.due()
    w.machine.pause("main", "f", paused=True)
    w.answer(lost, LOST)
    assert w.advance(19) == []
    assert only(w.advance(1), Launch).job is other
    assert lost.slot is None
    assert w.machine.counters.forced_releases["main", "f"] == 1
    w.answer(other, Accepted("r"))
    w.end([other])
    w.machine.pause("main", "f", paused=False)
    assert w.run() == [lost]


def test_the_end_of_a_lost_send_is_believed_after_its_slot_is_gone():
    w = world_of({"f": function_of(hold_max_s=20)})
    job = w.admit()
    w.due()
    w.machine.pause("main", None, paused=True)
    w.answer(job, LOST)
    w.advance(100)
    assert (job.state, job.slot) == (State.WAITING, None)
    assert only(w.complete(job, attempt=1), Finish).state is State.SUCCEEDED


def test_a_synchronous_call_that_timed_out_may_run_on_and_is_not_sent_again():
    w = world_of()
    job = w.admit(type=CallType.SYNC)
    w.due()
    assert only(w.answer(job, Lost(FAILURE, timed_out=True)), Finish).state is State.UNCERTAIN


def test_at_most_once_sends_nothing_again_that_may_have_been_sent():
    w = World(rules_of(at_most_once=True), lambda: 0.5)
    lost, throttled = w.admit_many(2)
    w.due()
    assert only(w.answer(lost, LOST), Finish).state is State.UNCERTAIN
    only(w.answer(throttled, THROTTLED), Return)


def test_a_resend_waits_while_its_function_is_paused_and_holds_nobody_up():
    w = world_of({"*": function_of(Source.TASK)})
    lost, also = w.admit("f"), w.admit("g")
    w.due()
    for job in (lost, also):
        w.answer(job, LOST)
    w.machine.pause("main", "f", paused=True)
    fresh = w.admit("g")
    w.now = 1.0
    assert w.run() == [also, fresh]
    assert w.main.waiting_for(lost, w.now).gate is GateKind.PAUSED
    w.machine.pause("main", "f", paused=False)
    assert w.run() == [lost]


def test_a_resend_that_waits_for_its_function_can_be_cancelled():
    w = world_of()
    jobs = w.admit_many(2)
    w.due()
    for job in jobs:
        w.answer(job, LOST)
    w.machine.pause("main", "f", paused=True)
    w.advance(1)
    for job in jobs:
        assert w.cancel(job)
    assert w.main.gate.in_use == 2, "they may be running all the same"
    w.advance(900)
    assert w.main.gate.in_use == 0
    assert w.main.backlog.parked_by(w.now) is None


# -- Expiry


def test_what_was_not_sent_in_time_expires():
    w = world_of(quota=1)
    job, expiring = w.admit(), w.admit(expires_s=5)
    w.run()
    assert w.machine.next_deadline(0.0) == 5
    finish = only(w.advance(5), Finish)
    assert (finish.job, finish.state) == (expiring, State.EXPIRED)
    w.end([job])


def test_what_was_throttled_beyond_its_time_is_not_sent_any_more():
    w = world_of()
    job = w.admit(expires_s=5)
    w.due()
    w.advance(6)  # its time runs out while it is being sent
    assert job.state is State.SENDING
    w.answer(job, THROTTLED)
    assert only(w.due(), Finish).state is State.EXPIRED


def test_what_is_throttled_within_its_time_still_expires_on_time():
    w = world_of()
    job = w.admit(expires_s=5)
    w.due()
    w.answer(job, Throttled(gate=GateKind.ACCOUNT, reason="r", retry_after_s=60))
    assert w.advance(4) == []
    assert w.machine.next_deadline(w.now) == 5
    assert only(w.advance(1), Finish).state is State.EXPIRED


def test_what_may_have_been_sent_does_not_expire():
    w = world_of()
    job = w.admit(expires_s=5)
    w.due()
    w.answer(job, LOST)
    w.machine.pause("main", None, paused=True)
    w.advance(6)
    assert job.state is State.WAITING


# -- Cancelling


def test_what_waits_is_cancelled_at_once():
    w = world_of(quota=1)
    running, due, delayed = w.admit(), w.admit(), w.admit(delay_s=9)
    w.run()
    assert w.cancel(due)
    assert w.cancel(delayed)
    assert not w.cancel(running, can_stop=False)
    assert not w.cancel(due)
    assert w.stopped == []
    assert {w.finishes[job.id].state for job in (due, delayed)} == {State.CANCELLED}


def test_a_running_task_is_stopped_in_the_cloud_and_ends_when_the_cloud_says_so():
    w = world_of({"f": function_of(Source.TASK, attempts_max=3)})
    job = w.admit()
    w.run()
    assert w.cancel(job)
    assert (w.stopped, job.state) == (["i1"], State.RUNNING)
    assert only(w.complete(job, Verdict.STOPPED), Finish).state is State.CANCELLED


def test_what_is_stopped_and_fails_first_is_not_tried_again():
    w = world_of({"f": function_of(Source.TASK, attempts_max=3)})
    job = w.admit()
    w.run()
    w.cancel(job)
    assert only(w.complete(job, Verdict.FAILED), Finish).state is State.DEAD


def test_only_tasks_can_be_stopped():
    w = world_of({"f": function_of(Source.CALLBACK)})
    jobs = w.admit_many(2)
    w.run(*jobs)
    assert not any(w.cancel(job) for job in jobs)


def test_what_is_cancelled_while_it_is_sent_is_stopped_once_it_runs():
    w = world_of({"f": function_of(Source.TASK)})
    job = w.admit()
    w.due()
    assert w.cancel(job)
    assert w.stopped == []
    w.answer(job, Accepted("r"))
    assert w.stopped == ["i1"]


@pytest.mark.parametrize(
    ("outcome", "stopped"), [(THROTTLED, []), (NotSent(FAILURE), []), (LOST, ["i1"])]
)
def test_what_is_cancelled_while_it_is_sent_is_not_sent_again(outcome, stopped):
    w = world_of({"f": function_of(Source.TASK)})
    job = w.admit()
    w.due()
    w.cancel(job)
    assert only(w.answer(job, outcome)[-1:], Finish).state is State.CANCELLED
    assert w.stopped == stopped


def test_a_lost_task_is_stopped_in_the_cloud_when_it_is_cancelled():
    w = world_of({"f": function_of(Source.TASK)})
    job = w.admit()
    w.due()
    w.answer(job, LOST)
    w.cancel(job)
    assert (w.stopped, job.state) == (["i1"], State.CANCELLED)


# -- The circuit


def test_refused_credentials_stop_all_sends_but_a_single_probe():
    w = world_of()
    jobs = w.admit_many(4)
    w.due()
    for job in jobs[:3]:
        w.answer(job, Denied(FAILURE))
    assert [warning.event for warning in w.warnings] == ["circuit_open"]
    assert w.due() == []
    assert w.machine.next_deadline(w.now) == 30
    assert w.main.waiting_for(jobs[0], w.now).gate is GateKind.CIRCUIT
    assert len(w.advance(30)) == 1
    w.answer(jobs[0], Denied(FAILURE))
    assert w.advance(59) == []
    probe = only(w.advance(1), Launch)
    w.answer(probe.job, Accepted("r"))
    assert len(w.due()) == 2


# -- Restoring


def test_what_ran_when_we_stopped_gets_its_slot_back_over_the_limit_for_the_time_that_is_left():
    w = world_of({"f": function_of(hold_max_s=100)}, quota=1)
    jobs = [w.job() for _ in range(3)]
    for job in jobs:
        w.restore(job, State.RUNNING, 30.0)
    assert (w.main.gate.in_use, states(*jobs)) == (3, ["running"] * 3)
    waiting = w.admit()
    assert w.due() == []
    assert w.machine.next_deadline(0.0) == 70
    w.end(jobs[:2])
    assert w.run() == []
    w.end(jobs[2:])
    assert w.run() == [waiting]


def test_what_may_have_begun_before_a_crash_is_not_sent_beside_itself():
    functions = {
        "f": function_of(duration_s=5.0),
        "unknown": function_of(),
        "task": function_of(Source.TASK, duration_s=5.0),
    }
    w = world_of(functions, quota=9)
    jobs = {name: w.job(name) for name in functions}
    for job in jobs.values():
        w.restore(job, State.SENDING, 1.0)
    assert w.run() == [jobs["task"]], "a repeated task id is refused"
    assert w.main.gate.in_use == 3
    assert w.main.waiting_for(jobs["f"], w.now).gate is GateKind.RETRY
    assert w.advance(9.9) == []
    assert only(w.advance(0.1), Launch).job is jobs["f"]
    assert w.main.gate.in_use == 3


def test_what_was_being_sent_when_we_stopped_is_sent_again_or_uncertain():
    w = world_of({"f": function_of(Source.TASK, hold_max_s=100)}, quota=1)
    before = w.admit()
    job = w.job(chosen_task_id="mine")
    w.restore(job, State.SENDING, 30.0)
    assert w.run() == [job]
    assert job.task_id == "mine"
    assert before.state is State.WAITING

    w = World(rules_of(at_most_once=True))
    job = w.job()
    w.restore(job, State.SENDING)
    assert w.finishes[job.id].state is State.UNCERTAIN
    assert w.main.gate.in_use == 1, "it may be running"


def test_what_was_being_sent_long_ago_runs_no_more_and_needs_a_new_slot():
    w = world_of({"f": function_of(hold_max_s=100)}, quota=1)
    jobs = [w.job() for _ in range(2)]
    for job in jobs:
        w.restore(job, State.SENDING, 100.0 + ARRIVES_S)
    assert w.main.gate.in_use == 0
    assert w.run() == jobs[:1]
    assert only(w.complete(jobs[1]), Finish).state is State.SUCCEEDED


def test_restored_runs_that_are_only_accepted_earn_their_tenant_no_credit():
    w = world_of({"f": function_of(Source.ACCEPTED)})
    before = w.main.tenant("default").passed
    w.restore(w.job(), State.RUNNING, 1e6)
    assert w.main.tenant("default").passed >= before


# -- Pausing and new rules


def test_pause_and_resume():
    w = world_of()
    w.machine.pause("main", None, paused=True)
    job, other = w.admit("f"), w.admit("g")
    assert w.due() == []
    assert w.main.waiting_for(job, w.now).gate is GateKind.PAUSED
    w.machine.pause("main", "f", paused=True)
    w.machine.pause("main", None, paused=False)
    assert w.run() == [other]
    w.machine.pause("main", "f", paused=False)
    assert w.run() == [job]


def test_a_paused_function_is_remembered_by_name(monkeypatch):
    monkeypatch.setattr("dispatcher.core.account.IDLE_KEPT", 1)
    w = world_of(quota=1000)
    w.machine.pause("main", "f", paused=True)
    w.end([w.admit(f"g{i}") for i in range(20)] and w.run())
    job = w.admit("f")
    assert job not in w.run()


def test_a_limit_below_what_is_held_drains():
    w = world_of(quota=4)
    jobs = w.admit_many(6)
    w.run()
    w.machine.set_rules(rules_of(quota=2))
    assert w.due() == []
    w.end(jobs[:2])
    assert w.run() == []
    w.end(jobs[2:3])
    assert w.run() == jobs[4:5]
    w.machine.set_rules(rules_of(quota=9))
    assert w.run() == jobs[5:]


def test_instances_are_counted_anew_when_a_function_runs_more_or_fewer_on_each():
    w = world_of({"f": function_of(instance_concurrency=3)}, quota=2)
    jobs = w.admit_many(7)
    assert len(w.run()) == 6
    assert w.main.gate.in_use == 2
    w.machine.set_rules(rules_of({"f": function_of(instance_concurrency=2)}, quota=2))
    w.due()
    assert w.main.gate.in_use == 3
    w.machine.set_rules(rules_of({"f": function_of(instance_concurrency=4)}, quota=2))
    assert w.run() == jobs[6:]
    w.end(jobs)
    assert w.main.gate.in_use == 0


def test_what_was_learned_survives_a_reload_that_declares_nothing_new():
    rules = rules_of({"f": function_of(duration_s=10)})
    w = World(rules)
    for _ in range(RUNS_MIN):
        w.admit()
        w.complete(w.run()[0], run_s=20.0)
    assert w.main.function("f").duration_s == 20
    w.machine.set_rules(rules)
    assert w.main.function("f").duration_s == 20
    w.machine.set_rules(rules_of({"f": function_of(duration_s=3)}))
    assert w.main.function("f").duration_s == 3


def test_a_change_of_weight_does_not_turn_an_estimate_into_a_fortune():
    slow = function_of(duration_s=900)
    w = World(rules_of({"f": slow}, {"a": TenantRules(weight=1000.0)}, quota=1))
    job = w.admit(tenant="a")
    w.run()
    w.machine.set_rules(rules_of({"f": slow}, {"a": TenantRules(weight=0.001)}, quota=1))
    w.advance(1)
    w.complete(job)
    assert abs(w.main.tenant("a").passed) < 2000


# -- Names that are forgotten


def test_a_lane_that_was_looked_up_long_ago_does_not_bring_a_forgotten_gate_back(monkeypatch):
    monkeypatch.setattr("dispatcher.core.account.IDLE_KEPT", 1)
    w = world_of({"*": function_of(instances_max=1)}, quota=1000)
    early = w.job("f", tenant="t")
    for i in range(20):
        w.end([w.admit(f"g{i}", tenant=f"t{i}")] and w.run())
    late = w.admit("f", tenant="t")
    w.machine.admit(early, w.now)
    assert w.run() == [early]  # of the two the one that came first, and not both
    assert late.state is State.WAITING


# -- The machine as a whole


def test_the_state_of_a_job_is_changed_by_the_table_and_nothing_else():
    assigned = []
    for path in Path(dispatcher.core.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(t, ast.Attribute) and t.attr == "state" for t in targets):
                    assigned.append(ast.unparse(node.value) if node.value else "")
    assert assigned
    assert all(value.startswith("after(") for value in assigned), assigned


def test_the_machine_sleeps_when_only_a_stimulus_would_help():
    w = world_of(quota=1)
    w.admit_many(2)
    w.due()
    assert w.machine.next_deadline(w.now) is None
    w.machine.pause("main", None, paused=True)
    assert w.machine.next_deadline(w.now) is None


def test_sends_keep_to_the_rate():
    w = world_of(quota=100, rate_max_per_s=2.0)
    w.admit_many(5)
    times = []
    for _ in range(5):
        times += [w.now] * len(w.run())
        w.now = w.machine.next_deadline(w.now) or w.now
    assert times == [0.0, 0.5, 1.0, 1.5, 2.0]


def test_no_more_requests_than_allowed_are_in_flight():
    w = world_of(quota=100, requests_max=2)
    jobs = w.admit_many(3)
    assert len(w.due()) == 2
    assert w.main.waiting_for(jobs[2], w.now).gate is GateKind.RATE
    assert w.machine.next_deadline(w.now) is None
    w.answer(jobs[0], Accepted("r"))
    assert len(w.due()) == 1


def test_the_time_that_work_was_held_up_is_counted_by_gate():
    w = world_of({"f": function_of(instances_max=1)}, quota=2)
    jobs = [*w.admit_many(2, "f"), *w.admit_many(2, "g")]
    w.run()
    w.advance(3)
    w.end(jobs[2:3])
    w.run()
    w.advance(4)
    w.end(jobs[3:])
    w.advance(5)
    w.end(jobs[:1])
    w.run()
    w.advance(1)
    seconds = w.machine.counters.blocked_seconds
    assert dict(seconds) == {("main", "account"): 3.0, ("main", "function"): 9.0}


def crowded() -> World:
    """Return a world in which much ends, expires, comes due and may be launched at once."""
    w = world_of({"f": function_of(Source.DURATION, duration_s=5.0)}, quota=10)
    w.admit_many(10)
    w.run()
    w.admit_many(6, expires_s=5.0)
    w.admit_many(6, delay_s=5.0)
    w.admit_many(8)
    w.now = 5.0
    return w


@pytest.mark.parametrize("at_most", [1, 2, 5, 1000])
def test_what_is_done_little_by_little_is_in_all_the_same(at_most):
    whole, parts = crowded(), crowded()
    expected = whole.machine.due(whole.now)
    effects: list[Effect] = []
    while (deadline := parts.machine.next_deadline(parts.now)) is None or deadline <= parts.now:
        part = parts.machine.due(parts.now, at_most=at_most)
        assert len(part) <= 2 * at_most
        effects += part
        if len(part) < at_most and parts.machine.next_deadline(parts.now) is None:
            break
    went = [e.job.id for e in effects if isinstance(e, Launch)]
    assert went == [e.job.id for e in expected if isinstance(e, Launch)]
    ended = sorted(e.job.id for e in effects if isinstance(e, Finish))
    assert ended == sorted(e.job.id for e in expected if isinstance(e, Finish))
    assert (len(went), len(ended)) == (10, 16)
    assert parts.main.gate.in_use == whole.main.gate.in_use == 10
    assert parts.main.blocked_by is whole.main.blocked_by is GateKind.ACCOUNT


def test_nothing_is_launched_that_has_expired_and_was_not_looked_at_yet():
    w = world_of(quota=10)
    w.admit_many(5, expires_s=1.0)
    w.now = 1.0
    for left in (4, 3, 2, 1, 0):
        only(w.machine.due(w.now, at_most=1), Finish)
        assert w.main.backlog.due == left
    assert w.machine.due(w.now, at_most=1) == []
