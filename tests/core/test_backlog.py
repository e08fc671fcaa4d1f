"""Who goes next: order, fairness, parking. Time passes in a simulation of runs that end."""

import itertools
import math
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core import backlog, lazy_heap
from dispatcher.core.effects import Effect, Launch
from dispatcher.core.job import Job
from dispatcher.core.model import Accepted, GateKind, State
from dispatcher.core.rules import TenantRules
from tests.core.simulation import Simulation
from tests.core.world import World, check_heaps, function_of, live_of, only, rules_of

# -- Inside a tenant


def test_older_goes_first_and_priority_is_a_head_start_in_seconds():
    w = World(rules_of(quota=1))
    w.now = 100.0
    names = {}
    for name, due_at, priority in [
        ("a", 90.0, 0.0),
        ("b", 80.0, 0.0),
        ("c", 95.0, 20.0),  # as if due at 75
        ("d", 70.0, -15.0),  # as if due at 85
        ("e", 80.0, 0.0),  # as old as b, but came later
        ("f", 74.0, 0.0),
    ]:
        job = w.job(function=name, priority=priority)
        job.due_at = due_at
        w.machine.admit(job, w.now)
        names[job.id] = name
    order = []
    for _ in names:
        order += w.run()
        w.end(order[-1:])
    assert "".join(names[job.id] for job in order) == "fcbeda"


def test_head_starts_do_not_starve_what_is_old():
    s = Simulation(rules_of(quota=1), lambda _: 1.0)
    old = s.admit("f")
    s.admit_many(3, "f", priority=10.0)
    while old.first_sent_at is None:
        s.admit("f", priority=10.0)  # one for each that ends, with a head start of ten runs
        s.step()
    assert old.first_sent_at <= 15


@pytest.mark.parametrize("parked", [False, True])
def test_what_stands_behind_many_that_were_cancelled_has_its_turn(monkeypatch, parked):
    w = World(rules_of({"f": function_of(instances_max=1)}, quota=2 if parked else 1))
    first, *jobs = w.admit_many(13, "f")
    w.run()
    assert (first.lane.line is not None) == parked
    monkeypatch.setattr(lazy_heap, "MADE_ANEW_MAX", 0)
    monkeypatch.setattr(lazy_heap, "SWEPT_AT_ONCE", 0)
    monkeypatch.setattr(lazy_heap, "CLEARED_IN_PASSING", 0)
    monkeypatch.setattr(backlog, "CLEARED_AT_ONCE", 1)
    for job in (*jobs[1:6], jobs[0]):
        w.cancel(job)
    w.complete(first)
    assert w.machine.due(w.now) == []
    assert w.machine.next_deadline(w.now) == w.now
    late = w.admit("f")
    decide_all(w, jobs[6])
    for job in (*jobs[8:], late, jobs[7]):
        w.cancel(job)
    last = w.admit("f")
    w.complete(jobs[6])
    decide_all(w, last)
    assert not w.main.backlog.due


def test_nothing_goes_until_it_is_known_who_is_first(monkeypatch):
    monkeypatch.setattr(lazy_heap, "CLEARED_IN_PASSING", 0)
    w = World(rules_of(quota=2))
    first, *gone = w.admit_many(4, "f")
    second = w.admit("g")
    w.admit_many(4, "f")
    for job in gone:
        w.cancel(job)
    assert w.run() == [first, second]


def test_many_lanes_in_which_little_is_to_be_cleared_are_seen_to_together(monkeypatch):
    monkeypatch.setattr(lazy_heap, "CLEARED_IN_PASSING", 0)
    w = World(rules_of(quota=1))
    w.machine.pause("main", None, paused=True)
    of_tenant = [w.admit_many(6, "f", tenant=f"t{number}") for number in range(40)]
    for jobs in of_tenant:
        for job in (jobs[1], jobs[2], jobs[0]):  # of six, so that nothing is made anew
            assert w.machine.cancel(job, w.now, can_stop=False)
    assert len(w.main.backlog.unclear) == 40
    monkeypatch.setattr(backlog, "CLEARED_AT_ONCE", 32)
    turns = 0
    while w.machine.next_deadline(w.now) == w.now:
        w.machine.due(w.now)
        turns += 1
    assert turns == 40 * (3 + 1) / 32
    assert not w.main.backlog.unclear


def decide_all(w: World, first: Job) -> None:
    """Decide bit by bit until *first* goes, before which nothing may."""
    effects: list[Effect] = []
    for _ in range(20):
        effects += w.carry_out(w.machine.due(w.now))
    assert only(effects, Launch).job is first
    w.answer(first, Accepted("r"))


def test_a_retry_keeps_its_place():
    w = World(rules_of(quota=2))
    first = w.admit("f")
    w.run()
    rest = w.admit_many(3, "f")
    w.machine.pause("main", None, paused=True)
    w.cancel(rest[1])
    w.machine.pause("main", None, paused=False)
    assert w.run() == rest[:1]
    w.end([first])
    assert w.run() == rest[2:]


# -- Between tenants


def shares_of(s: Simulation, until: float) -> dict[str, float]:
    """Let everybody's backlog run, and return each tenant's share of the instance-seconds."""
    s.run(until / 4)  # whatever the start was like
    s.used_s.clear()
    s.run(until)
    total = sum(s.used_s.values())
    return {tenant: used / total for tenant, used in s.used_s.items()}


WEIGHTS = {"a": TenantRules(weight=1), "b": TenantRules(weight=1), "c": TenantRules(weight=2)}


@pytest.mark.parametrize(
    ("durations", "declared_s"),
    [
        ({"a": 2.0, "b": 2.0, "c": 2.0}, None),
        ({"a": 1.0, "b": 5.0, "c": 2.0}, None),
        ({"a": 1.0, "b": 5.0, "c": 2.0}, 30.0),
    ],
)
def test_backlogged_tenants_share_the_instance_seconds_by_weight(durations, declared_s):
    functions = {tenant: function_of(duration_s=declared_s) for tenant in WEIGHTS}
    s = Simulation(
        rules_of(functions, WEIGHTS, quota=20),
        lambda job: durations[job.lane.tenant.name] * s.random.uniform(0.5, 1.5),
    )
    for tenant in WEIGHTS:
        s.admit_many(6000, tenant, tenant)
    shares = shares_of(s, 400.0)
    assert shares == pytest.approx({"a": 0.25, "b": 0.25, "c": 0.5}, rel=0.05)


def test_behind_a_functions_cap_tenants_take_turns_by_weight():
    s = Simulation(
        rules_of({"f": function_of(instances_max=4)}, WEIGHTS, quota=20),
        lambda _: s.random.uniform(1.0, 3.0),
    )
    for tenant in WEIGHTS:
        s.admit_many(1000, "f", tenant)
    assert shares_of(s, 400.0) == pytest.approx({"a": 0.25, "b": 0.25, "c": 0.5}, rel=0.05)


def test_invocations_that_share_an_instance_are_charged_their_part_of_it():
    s = Simulation(rules_of({"packs": function_of(instance_concurrency=4)}, quota=8), lambda _: 2.0)
    s.admit_many(4000, "packs", "a")
    s.admit_many(4000, "alone", "b")
    shares = shares_of(s, 200.0)
    assert shares == pytest.approx({"a": 0.5, "b": 0.5}, rel=0.1)


def test_a_flood_of_one_tenant_does_not_make_the_quiet_ones_wait():
    def p99(flood: int) -> float:
        s = Simulation(rules_of(quota=10), lambda _: s.random.uniform(0.5, 1.5), seed=3)
        s.admit_many(flood, "f", "loud")
        for i in range(400):
            s.run(i * 0.5)
            s.admit("g", f"quiet{i % 4}")
        s.run(1000.0)
        waits = sorted(wait for i in range(4) for wait in s.waited(f"quiet{i}"))
        return waits[int(len(waits) * 0.99)]

    assert p99(0) == 0.0
    assert p99(4000) <= 2.0


def test_idle_tenants_save_no_credit():
    s = Simulation(rules_of(quota=1), lambda _: 1.0)
    s.admit_many(100, "f", "busy")
    s.run(50.0)
    s.admit_many(100, "f", "late")
    s.launches.clear()
    s.run(70.0)
    assert len(s.waited("busy")) == pytest.approx(10, abs=2)


def test_what_a_tenant_could_not_use_while_it_was_blocked_is_no_credit_either():
    functions = {"capped": function_of(instances_max=1)}
    s = Simulation(rules_of(functions, quota=4), lambda _: 1.0)
    s.admit_many(1000, "capped", "a")
    s.admit_many(2000, "free", "b")
    s.run(100.0)  # b used three times as much: a could not
    s.admit_many(200, "free", "a")
    s.launches.clear()
    s.run(110.0)
    launched = [job.lane for _, job in s.launches]
    by_a = sum(lane.tenant.name == "a" for lane in launched)
    assert by_a == pytest.approx(len(launched) / 2, abs=4)


@pytest.mark.parametrize("newcomers", ["fresh", "returning"])
def test_an_endless_row_of_newcomers_does_not_starve_who_has_used_much(newcomers):
    s = Simulation(rules_of(quota=2), lambda job: 50.0 if job.lane.function.name == "slow" else 1.0)
    s.admit_many(2, "slow", "debtor")  # thought to take a second each
    s.run(60.0)
    victim = s.admit("f", "debtor")
    s.admit_many(4, "f", "t")
    count = 0
    while victim.first_sent_at is None:
        count += 1
        s.admit("f", f"t{count if newcomers == 'fresh' else count % 50}")
        s.step()
        assert count < 800
    assert count > 10, "there was a debt to pay"


# -- Floors and ceilings


RESERVED = {"owner": TenantRules(reserved=5)}


def test_others_borrow_a_floor_while_it_is_idle_and_give_it_back_as_their_runs_end():
    s = Simulation(rules_of(tenants=RESERVED, quota=10), lambda _: s.random.uniform(0.0, 10.0))
    s.admit_many(500, "f", "borrower")
    s.run(30.0)
    assert s.holds("borrower") == 10
    s.admit_many(500, "f", "owner")
    s.run(40.0)  # within the longest run
    assert s.holds("owner") >= 5
    for now in range(41, 100):
        s.run(float(now))
        assert s.holds("owner") >= 5
        assert s.holds("owner") + s.holds("borrower") == 10


def test_a_floor_is_part_of_the_share_and_not_on_top_of_it():
    s = Simulation(rules_of(tenants=RESERVED, quota=10), lambda _: s.random.uniform(0.5, 1.5))
    for tenant in ("owner", "other"):
        s.admit_many(4000, "f", tenant)
    assert shares_of(s, 200.0) == pytest.approx({"owner": 0.5, "other": 0.5}, rel=0.05)


def test_a_floor_above_the_share_leaves_the_rest_to_the_others():
    rules = rules_of(tenants={"owner": TenantRules(reserved=8)}, quota=10)
    s = Simulation(rules, lambda _: s.random.uniform(0.5, 1.5))
    for tenant in ("owner", "other"):
        s.admit_many(4000, "f", tenant)
    assert shares_of(s, 200.0) == pytest.approx({"owner": 0.8, "other": 0.2}, rel=0.05)


def test_a_floor_leaves_no_debt_for_hours_when_it_is_taken_away():
    rules = rules_of(tenants={"owner": TenantRules(reserved=8)}, quota=10)
    s = Simulation(rules, lambda _: 1.0)
    for tenant in ("owner", "other"):
        s.admit_many(20_000, "f", tenant)
    s.run(1000.0)
    s.machine.set_rules(rules_of(quota=10))
    s.launches.clear()
    s.run(1060.0)
    assert len(s.waited("owner")) > 200


def test_those_who_come_while_a_floor_is_used_are_not_put_behind_its_owner():
    rules = rules_of(tenants={"owner": TenantRules(reserved=8)}, quota=10)
    s = Simulation(rules, lambda _: 1.0)
    for tenant in ("owner", "other"):
        s.admit_many(20_000, "f", tenant)
    s.run(500.0)
    new = s.admit("f", "new")
    s.run(503.0)
    assert new.first_sent_at is not None


def test_a_floor_cannot_be_more_than_there_is():
    tenants = {"a": TenantRules(reserved=10), "b": TenantRules(reserved=10)}
    s = Simulation(rules_of(tenants=tenants, quota=4), lambda _: 1.0)
    for tenant in tenants:
        s.admit_many(500, "f", tenant)
    assert shares_of(s, 100.0) == pytest.approx({"a": 0.5, "b": 0.5}, rel=0.05)


def test_a_ceiling_holds_and_leaves_the_rest_to_others():
    s = Simulation(rules_of(tenants={"a": TenantRules(limit=3)}, quota=10), lambda _: 1.0)
    for tenant in ("a", "b"):
        s.admit_many(200, "f", tenant)
    s.run(5.5)
    assert (s.holds("a"), s.holds("b")) == (3, 7)


def test_a_ceiling_counts_invocations_by_their_part_of_an_instance():
    functions = {"packs": function_of(instance_concurrency=4)}
    w = World(rules_of(functions, {"a": TenantRules(limit=2)}, quota=10))
    w.admit_many(4, "packs", "a")
    w.admit_many(2, "alone", "a")
    assert len(w.run()) == 5
    waiting = next(job for job in w.jobs.values() if job.slot is None)
    view = w.main.waiting_for(waiting, w.now)
    assert (view.gate, view.limit, view.in_use) == (GateKind.TENANT, 2, 2)


def test_when_what_did_not_fit_under_a_ceiling_is_cancelled_others_of_the_tenant_go():
    functions = {"packs": function_of(instance_concurrency=4)}
    w = World(rules_of(functions, {"a": TenantRules(limit=1)}, quota=10))
    first = w.admit("packs", "a")
    w.run()
    big, small = w.admit("alone", "a"), w.admit("packs", "a")
    assert w.run() == []
    w.cancel(big)
    assert w.run() == [small]
    assert first.slot is not None


# -- Parking


def test_a_function_at_its_cap_never_holds_up_the_next():
    w = World(rules_of({"f": function_of(instances_max=1)}, quota=10))
    jobs = [w.admit(name) for name in "ffgfg"]
    assert w.run() == [jobs[0], jobs[2], jobs[4]]
    w.end(jobs[:1])
    assert w.run() == jobs[1:2]


def test_no_more_are_let_out_than_there_is_room_for():
    w = World(rules_of({"f": function_of(instances_max=2)}, quota=100))
    for i in range(30):
        w.admit("f", f"t{i}")
    first = w.run()
    assert len(first) == 2
    w.end(first[:1])
    assert len(w.run()) == 1
    w.machine.set_rules(rules_of({"f": function_of(instances_max=7)}, quota=100))
    assert len(w.run()) == 5


def test_room_that_the_first_in_line_cannot_use_goes_to_the_next():
    """Its tenant is at the ceiling; the tenant's turn comes again when it has room."""
    functions = {"f": function_of(instances_max=1)}
    w = World(rules_of(functions, {"a": TenantRules(limit=1)}, quota=10))
    holder = w.admit("f", "x")
    w.run()
    parked = w.admit("f", "a")
    w.run()
    other = w.admit("f", "b")
    busy = w.admit("g", "a")
    assert w.run() == [busy]
    w.end([holder])
    assert w.run() == [other]
    w.end([other, busy])
    assert w.run() == [parked]


def narrow_at_both(cap: int, ceiling: int, quota: int = 50) -> Simulation:
    """Return what has a function at its cap, busy with others, and a tenant at its ceiling."""
    functions = {"f": function_of(instances_max=cap)}
    rules = rules_of(functions, {"t": TenantRules(limit=ceiling)}, quota=quota)
    s = Simulation(rules, lambda _: s.random.uniform(1.0, 2.0))
    s.admit_many(500, "f", "other")
    s.admit_many(500, "g", "t")
    s.admit_many(500, "h", "t")
    s.decide()
    return s


@given(
    cap=st.integers(1, 3),
    ceiling=st.integers(1, 3),
    others=st.integers(1, 4),
    quota=st.sampled_from([3, 6, 50]),
    seed=st.integers(0, 99),
)
def test_who_needs_two_rooms_at_once_is_not_overtaken_for_ever(cap, ceiling, others, quota, seed):
    """His function's and his tenant's: the one must not go to others while he waits for the other."""
    s = narrow_at_both(cap, ceiling, quota)
    s.random.seed(seed)
    for i in range(others):
        s.admit_many(100, "f", f"o{i}")
    victim = s.admit("f", "t", due_at=-1000.0)
    at_f = sum(job.lane.function.name == "f" for _, job in s.launches)
    while victim.first_sent_at is None:
        assert s.step()
        assert s.now < 100, "starved"
    overtaken = sum(job.lane.function.name == "f" for _, job in s.launches) - at_f - 1
    # Each other tenant may go before him as often as there are rooms, in a few rounds at most.
    assert overtaken <= 4 * cap * (others + 2)


def test_the_room_that_is_kept_costs_nobody_else_and_is_not_kept_while_the_function_is_shut():
    s = narrow_at_both(cap=1, ceiling=1)
    victim = s.admit("f", "t", due_at=-1000.0)
    while s.main.tenant("t").owed is None:
        assert s.step()
    while s.holds("t"):
        assert s.step()
    s.decide()
    assert (victim.first_sent_at, s.holds("t")) == (None, 0.0), "its room is kept"
    s.machine.pause("main", "f", paused=True)
    s.decide()
    assert s.holds("t") == 1.0, "others of the tenant have it again"
    s.machine.pause("main", "f", paused=False)
    while victim.first_sent_at is None:
        assert s.step()


def test_the_room_that_is_kept_for_what_is_cancelled_goes_to_others():
    s = narrow_at_both(cap=1, ceiling=1)
    victim = s.admit("f", "t", due_at=-1000.0)
    while s.main.tenant("t").owed is None or s.holds("t"):
        assert s.step()
    s.decide()
    s.machine.cancel(victim, s.now, can_stop=False)
    s.decide()
    assert s.holds("t") == 1.0


def test_room_that_was_meant_for_what_is_cancelled_goes_to_the_next():
    functions = {"f": function_of(instance_concurrency=2, instances_max=1)}
    w = World(rules_of(functions, quota=10))
    running = w.admit_many(2, "f", qualifier="1")
    w.run()
    other_version = w.admit("f", qualifier="2")
    w.run()
    same_version = w.admit("f", qualifier="1")
    w.end(running[:1])
    assert w.run() == [], "the one that needs an instance of its own came first"
    w.cancel(other_version)
    assert w.run() == [same_version]


def test_who_waits_in_line_goes_before_what_comes_just_when_there_is_room():
    functions = {"f": function_of(instance_concurrency=10, instances_max=1)}
    w = World(rules_of(functions, quota=5))
    running = w.admit("f", qualifier="1")
    w.run()
    waiting = w.admit("f", qualifier="2")
    w.run()
    w.end([running])
    w.admit("f", qualifier="1")
    assert w.run() == [waiting]


def test_who_becomes_first_in_line_goes_at_once_if_it_fits():
    functions = {"f": function_of(instance_concurrency=2, instances_max=1)}
    w = World(rules_of(functions, {"heavy": TenantRules(weight=9)}, quota=5))
    w.admit("f", qualifier="1")
    w.run()
    w.admit("f", qualifier="2")
    w.run()
    heavy = w.admit("f", "heavy", qualifier="1")
    assert w.run() == [heavy]


def packers_do_not_starve(s: Simulation, victim: Job, *packers: tuple[str, str, str | None]) -> int:
    """Keep *packers* coming while the victim waits; return how many runs ended meanwhile."""
    while victim.first_sent_at is None:
        for function, tenant, qualifier in packers:
            s.admit(function, tenant, qualifier)
        assert s.step()
        assert s.slot_ends < 500
    return s.slot_ends


def test_those_that_fit_into_running_instances_do_not_starve_who_needs_a_new_one():
    rules = rules_of({"packs": function_of(instance_concurrency=10)}, quota=1)
    s = Simulation(rules, lambda _: s.random.uniform(0.5, 1.5))
    s.admit_many(9, "packs", "a")
    s.decide()
    victim = s.admit("alone", "b")
    packers_do_not_starve(s, victim, ("packs", "a", None), ("packs", "c", None))


def test_one_version_of_a_function_does_not_starve_the_other():
    rules = rules_of({"f": function_of(instance_concurrency=10, instances_max=1)}, quota=5)
    s = Simulation(rules, lambda _: s.random.uniform(0.5, 1.5))
    s.admit_many(9, "f", "a", "1")
    s.decide()
    victim = s.admit("f", "a", "2")
    packers_do_not_starve(s, victim, ("f", "a", "1"), ("f", "b", "1"))


def test_nobody_is_starved_in_a_line_by_those_who_come_fresh():
    rules = rules_of({"f": function_of(instances_max=1)}, quota=50)
    s = Simulation(rules, lambda _: 1.0)
    s.admit_many(5, "f", "a")
    s.run(5.5)
    s.admit("f", "b")
    s.decide()
    victim = s.admit("f", "a")
    count = 0
    while victim.first_sent_at is None:
        count += 1
        s.admit("f", f"new{count}")
        assert s.step()
        assert count < 50


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("capped_by", ["account", "function", "tenant"])
def test_everything_is_launched_within_a_bounded_number_of_slot_ends(capped_by, seed):
    """A thousand invocations of any kind, and as many more as end: all of the first get through."""
    functions = {
        "f": function_of(instance_concurrency=3),
        "g": function_of(duration_s=5.0),
        "h": function_of(instance_concurrency=2),
    }
    tenants = {"a": TenantRules(weight=3, reserved=2), "b": TenantRules(weight=0.5)}
    if capped_by == "function":
        functions = {
            name: function_of(instance_concurrency=rules.instance_concurrency, instances_max=2)
            for name, rules in functions.items()
        }
    if capped_by == "tenant":
        tenants = {name: TenantRules(weight=2, limit=2) for name in "abc"}
    s = Simulation(
        rules_of(functions, tenants, quota=5),
        lambda job: (
            {"f": 1.0, "g": 2.0, "h": 0.5}[job.lane.function.name] * s.random.uniform(0.1, 3.0)
        ),
        seed=seed,
    )

    def one() -> Job:
        return s.admit(
            s.random.choice("fgh"),
            s.random.choice("abc"),
            s.random.choice([None, "1"]),
            priority=s.random.choice([0.0, 0.0, 20.0, -20.0]),
        )

    first = [one() for _ in range(1000)]
    while any(job.first_sent_at is None for job in first):
        assert s.step()
        one()
        assert s.slot_ends < 8000


# -- What others want to know


def test_ahead_counts_the_due_invocations_of_the_tenant_that_come_before():
    w = World(rules_of({"f": function_of(instances_max=1)}, quota=2))
    w.admit_many(2, "f", "a")
    w.admit_many(3, "g", "a")
    w.run()
    w.admit_many(5, "g", "b")
    w.admit("g", "a", delay_s=60)
    last = w.admit("g", "a")
    assert w.main.backlog.due == 3 + 5 + 1
    assert sum(w.main.backlog.ahead_of(last)) == 3
    w.cancel(w.jobs["i4"])
    assert sum(w.main.backlog.ahead_of(last)) == 2
    assert sum(w.main.backlog.ahead_of(w.jobs["i2"])) == 0


def test_a_count_of_those_ahead_may_be_spread_over_time():
    w = World(rules_of(quota=1))
    jobs = w.admit_many(6)
    counting = w.main.backlog.ahead_of(jobs[5])
    counted = [next(counting), next(counting)]
    w.end(w.run())  # the first goes while we count
    w.cancel(jobs[3])
    counted += counting
    assert sum(counted) in (4, 3)


def test_the_age_is_of_what_has_been_due_for_longest():
    w = World(rules_of(quota=2))
    assert w.main.oldest_age_s(w.now) == 0.0
    w.admit(delay_s=5)
    first, second = w.admit("f"), w.admit("g")
    w.now = 2.0
    assert w.main.oldest_age_s(w.now) == 2.0
    w.run()
    assert w.main.oldest_age_s(w.now) == 0.0
    late = w.admit("f")
    w.now = 10.0
    w.due()
    assert w.main.oldest_age_s(w.now) == 8.0
    w.cancel(late)
    assert w.main.oldest_age_s(w.now) == 5.0
    w.end([first, second])


def test_delays_end_in_order_and_on_time():
    w = World(rules_of(quota=100))
    jobs = [w.admit(delay_s=delay_s) for delay_s in (3.0, 1.0, 2.0, 1.0)]
    assert w.due() == []
    went: list[tuple[float, int]] = []
    while (deadline := w.machine.next_deadline(w.now)) is not None and len(went) < 4:
        w.now = deadline
        went += [(w.now, job.seq) for job in w.run()]
    assert went == [(1.0, 2), (1.0, 4), (2.0, 3), (3.0, 1)]
    assert all(job.first_sent_at == job.due_at for job in jobs)
    assert not math.isinf(w.now)


# -- Bounds


def test_names_that_are_made_up_are_forgotten(monkeypatch):
    monkeypatch.setattr("dispatcher.core.account.IDLE_KEPT", 16)
    monkeypatch.setattr("dispatcher.core.lanes.LANES_KEPT", 16)
    s = Simulation(rules_of(quota=1), lambda _: 1.0)
    for i in range(500):
        s.admit(f"f{i}", f"t{i}")
        s.admit(f"f{i}", "default")
        s.step()
        s.step()
    assert len(s.main.functions) <= 40
    assert len(s.main.backlog.tenants) <= 40
    assert len(s.main.tenant("default").lanes) <= 40


def test_the_largest_debts_are_remembered_and_the_others_forgotten(monkeypatch):
    monkeypatch.setattr("dispatcher.core.account.IDLE_KEPT", 8)
    s = Simulation(
        rules_of(quota=1), lambda job: 500.0 if job.lane.tenant.name == "debtor" else 1.0
    )
    s.admit("f", "debtor")
    s.run(600.0)
    owes = s.main.tenant("debtor").passed
    for i in range(100):
        s.admit("f", f"t{i}")
        s.step()
    assert "debtor" in s.main.backlog.tenants
    assert s.main.tenant("debtor").passed == owes
    assert len(s.main.backlog.tenants) <= 24


@pytest.mark.parametrize("priority", [0.0, 1.0, -1.0])
def test_nothing_piles_up_while_one_function_is_paused_and_others_flow(priority):
    s = Simulation(rules_of(quota=3), lambda _: s.random.uniform(0.5, 1.5))
    s.machine.pause("main", "paused", paused=True)
    for i in range(50):
        s.admit("paused", f"t{i % 5}")
    for i in range(2000):
        s.admit("f", f"t{i % 5}", priority=i * priority, expires_at=1e9)
        s.step()
    check_heaps(s.machine)
    held = [job for job in s.machine.jobs.values() if job.slot is not None]
    assert len(s.machine.jobs) - len(held) <= 60
    assert s.main.backlog.due == len(s.machine.jobs) - len(held)
    assert all(len(tenant.ages) <= 60 for tenant in s.main.backlog.tenants.values())


def test_a_million_cancelled_leave_nothing_behind():
    s = Simulation(rules_of(quota=1), lambda _: 1.0)
    jobs = s.admit_many(5_000, "f", expires_at=1e9)
    jobs += s.admit_many(
        5_000, "f", waits_for=GateKind.DELAY, wakes_at=1e6, due_at=1e6, expires_at=1e9
    )
    s.decide()
    kept = jobs[2_500]
    for job in reversed(jobs):
        if job.slot is None and job is not kept:
            s.machine.cancel(job, s.now, can_stop=False)
    check_heaps(s.machine)
    (lane,) = s.main.tenant("default").lanes.values()
    assert list(lane.jobs) == [kept]
    assert len(lane.jobs.entries()) <= 2
    assert len(s.main.backlog._delayed.entries()) == 0
    assert len(s.main.backlog._expiries.entries()) <= 2


# -- In parts

_of = st.sampled_from([("g", "a", None), ("g", "a", "1"), ("g", "b"), ("f", "a"), ("f", "b")])
_steps = st.one_of(
    st.tuples(st.just("admit"), _of, st.integers(1, 8), st.sampled_from([0.0, 0.0, 1.0, 3.0])),
    st.tuples(st.just("cancel"), st.sets(st.integers(0, 7), min_size=3)),
    st.tuples(st.just("end"), st.integers(1, 4)),
    st.tuples(st.just("advance"), st.sampled_from([0.5, 2.0])),
)


def tell(w: World, step: Any) -> None:
    match step:
        case "admit", names, count, delay_s:
            w.admit_many(count, *names, delay_s=delay_s, expires_s=5.0 + 3 * delay_s)
        case "cancel", rests:
            # The oldest last: what stands behind it is stale by then.
            for job in reversed(live_of(w.machine)):
                if job.state is State.WAITING and job.seq % 8 in rests:
                    w.cancel(job)
        case "end", count:
            w.end([job for job in live_of(w.machine) if job.state is State.RUNNING][:count])
        case "advance", seconds:
            w.now += seconds
        case _:
            raise AssertionError(step)


def launched(steps: list[Any], at_most: float) -> list[str]:
    """Return what goes in which order, of *at_most* so much in each turn."""
    w = World(rules_of({"f": function_of(instances_max=1), "g": function_of()}, quota=3))
    for step in steps:
        tell(w, step)
        effects: list[Effect] | None = None
        turns = itertools.count()
        while effects != [] or w.machine.next_deadline(w.now) == w.now:
            assert next(turns) < 1000, "it spins"
            effects = w.carry_out(w.machine.due(w.now, at_most=at_most))
            for launch in [each for each in effects if isinstance(each, Launch)]:
                w.answer(launch.job, Accepted("r"))
        assert w.machine.due(w.now) == []
        w.check_work_is_conserved(w.main, live_of(w.machine))
    return w.launched


@given(st.lists(_steps, min_size=8, max_size=40))
def test_in_parts_it_goes_as_it_does_at_once(steps):
    """Also where heaps are full of what was cancelled, in many lanes."""
    at_once = launched(steps, math.inf)
    with (
        patch("dispatcher.core.lazy_heap.MADE_ANEW_MAX", 0),
        patch("dispatcher.core.lazy_heap.SWEPT_AT_ONCE", 0),
        patch("dispatcher.core.lazy_heap.CLEARED_IN_PASSING", 0),
        patch("dispatcher.core.backlog.CLEARED_AT_ONCE", 2),
    ):
        for at_most in (1, math.inf):
            assert launched(steps, at_most) == at_once
