"""One quota, shared fairly and used fully: the figures of docs/fairness.md, in virtual time."""

import math

import pytest

from dispatcher.core.account import LABELS_MAX, OTHER
from dispatcher.core.effects import Launch
from dispatcher.core.model import Accepted, CallType, Completion, GateKind, Throttled, Verdict
from dispatcher.core.rules import TenantRules
from dispatcher.core.statistics import REASONS_MAX
from tests.core.simulation import Simulation
from tests.core.world import World, rules_of

RUN_S = 2.0
QUOTA = 100
WEIGHTS = {"a": 1.0, "b": 1.0, "c": 2.0}


def weighted() -> dict[str, TenantRules]:
    return {name: TenantRules(weight=weight) for name, weight in WEIGHTS.items()}


def spread(s: Simulation) -> float:
    """Return a lognormal duration with the given mean."""
    return RUN_S * math.exp(s.random.gauss(-0.125, 0.5))


def held_seconds(s: Simulation, start: float, until: float, step_s: float) -> dict[str, float]:
    """Run on, and return the instance-seconds that each tenant held."""
    held = dict.fromkeys(WEIGHTS, 0.0)
    for number in range(round((until - start) / step_s)):
        s.run(start + (number + 1) * step_s)
        for tenant in held:
            held[tenant] += s.holds(tenant) * step_s
    return held


def test_shares_are_those_of_the_weights_over_any_twenty_durations():
    s = Simulation(rules_of(tenants=weighted(), quota=QUOTA), lambda _: spread(s))
    for tenant in WEIGHTS:
        s.admit_many(20_000, "f", tenant)
    step_s = 2 * RUN_S
    s.run(5 * RUN_S)
    steps = [
        held_seconds(s, 5 * RUN_S + at * step_s, 5 * RUN_S + (at + 1) * step_s, 0.1)
        for at in range(60)
    ]
    worst = 0.0
    for first in range(len(steps) - 9):  # any ten steps of two durations
        window = steps[first : first + 10]
        total = sum(sum(step.values()) for step in window)
        for tenant, weight in WEIGHTS.items():
            share = sum(step[tenant] for step in window) / total
            worst = max(worst, abs(share / (weight / 4) - 1))
    print(f"shares within {worst:.1%} of the weights")
    assert worst <= 0.05


def test_a_hundredfold_flood_keeps_the_quiet_ones_waiting_no_longer_than_two_durations():
    def p99(flood: int) -> float:
        s = Simulation(rules_of(quota=QUOTA), lambda _: spread(s), seed=3)
        quiet_every_s = 0.5
        for i in range(600):
            s.run(i * quiet_every_s)
            s.admit("g", f"quiet{i % 4}")
            s.admit_many(flood, "f", "loud")
        waits = sorted(wait for i in range(4) for wait in s.waited(f"quiet{i}"))
        return waits[int(len(waits) * 0.99)]

    alone, flooded = p99(0), p99(100)
    print(f"p99 wait {alone:.2f} s alone, {flooded:.2f} s under the flood")
    assert flooded - alone <= 2 * RUN_S


def test_a_reservation_is_restored_within_the_longest_run_and_measured():
    tenants = {"owner": TenantRules(reserved=40)}
    longest_s = 10.0
    s = Simulation(
        rules_of(tenants=tenants, quota=QUOTA), lambda _: s.random.uniform(0.0, longest_s)
    )
    s.admit_many(5000, "f", "borrower")
    s.run(60.0)
    assert s.holds("borrower") == QUOTA
    began = s.now
    s.admit_many(5000, "f", "owner")
    while s.holds("owner") < 40:
        assert s.step()
        s.decide()
    took_s = s.now - began
    print(f"restored in {took_s:.1f} s; the longest run takes {longest_s:g} s")
    assert 0.0 < took_s <= longest_s
    view = s.main.times.reclaim_s.view()
    assert sum(view.counts) == 1
    assert view.total == pytest.approx(took_s)


def test_idle_reservations_leave_nothing_unused():
    tenants = {f"idle{i}": TenantRules(reserved=20) for i in range(4)}
    s = Simulation(rules_of(tenants=tenants, quota=QUOTA), lambda _: spread(s))
    s.admit_many(8000, "f", "busy")
    s.run(10 * RUN_S)
    held, start = 0.0, s.now
    for number in range(1000):
        s.run(start + (number + 1) * 0.1)
        held += s.holds("busy")
    used = held / 1000 / QUOTA
    print(f"{used:.1%} used")
    assert used >= 0.97


def test_a_limit_below_what_is_held_drains():
    s = Simulation(rules_of(tenants=weighted(), quota=QUOTA), lambda _: spread(s))
    s.admit_many(2000, "f", "a")
    s.run(10.0)
    assert s.main.gate.in_use == QUOTA
    s.machine.set_rules(rules_of(tenants={"a": TenantRules(limit=30)}, quota=50))
    before = s.main.gate.in_use
    launched = len(s.launches)
    while s.main.gate.in_use > 30:
        assert s.step()
        s.decide()
        assert s.main.gate.in_use < before
        before = s.main.gate.in_use
    assert len(s.launches) == launched
    s.run(s.now + 20.0)
    assert s.main.gate.in_use == 30


def test_labels_are_bounded_however_many_names_come():
    """A flood of names of functions, tenants and reasons makes no flood of time series."""
    w = World(rules_of(tenants=weighted(), quota=100_000, requests_max=100_000))
    count = 3000
    for number in range(count):
        job = w.admit(f"f{number}", f"t{number}", type=CallType.ASYNC)
        [launch] = [e for e in w.machine.due(w.now) if isinstance(e, Launch)]
        if number % 2:
            outcome = Throttled(gate=GateKind.RATE, reason=f"R{number}", retry_after_s=None)
            w.machine.sent(job, launch.slot, outcome, w.now)
            w.now += 1.0
            w.machine.cancel(job, w.now, can_stop=False)
        else:
            w.machine.sent(job, launch.slot, Accepted("r"), w.now)
            done = Completion(id=job.id, verdict=Verdict.SUCCEEDED)
            w.machine.completed(job, done, w.now)
    counters = w.machine.counters
    functions = {labels[1] for labels in counters.send_attempts}
    assert len(functions) == LABELS_MAX + 1
    assert {labels[2] for labels in counters.ended} == {OTHER}
    assert len({labels[2] for labels in counters.throttles}) == REASONS_MAX + 1
    assert len(w.main.in_flight) <= LABELS_MAX + 1
    assert {queue.label for queue in w.main.backlog.tenants.values()} <= {
        *WEIGHTS,
        "default",
        OTHER,
    }
    assert sum(counters.ended.values()) == count
