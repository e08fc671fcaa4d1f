import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.model import GateKind, Source
from dispatcher.core.ramp import RESTART_BURST, RESTART_S, WARM_S, Pace, Ramp, Restart, Warm
from dispatcher.core.rules import AccountRules, FunctionRules, RampRules, Rules
from tests.core.simulation import Simulation
from tests.core.world import World, function_of, rules_of

FC = RampRules(burst=300, per_minute=300)


def begun(pace: Ramp, start: float, count: int) -> list[float]:
    """Return when so many instances begin, each as soon as it may."""
    now, times = start, []
    for _ in range(count):
        now = max(now, pace.open_at(now))
        pace.take(now)
        times.append(now - start)
    return times


def test_a_burst_and_then_a_rate():
    times = begun(Ramp(FC), 100.0, 310)
    assert times[299] == 0.0
    assert times[300] == pytest.approx(0.2, abs=1e-6)
    assert times[309] == pytest.approx(2.0, abs=1e-6)


def test_a_lull_fills_the_bucket_and_no_more():
    ramp = Ramp(FC)
    begun(ramp, 0.0, 300)
    assert begun(ramp, 30.0, 160)[149:152] == pytest.approx([0.0, 0.2, 0.4], abs=1e-6)
    assert begun(ramp, 9999.0, 310)[300] == pytest.approx(0.2, abs=1e-6)


@given(
    st.integers(1, 20),
    st.floats(1.0, 6000.0),
    st.lists(st.floats(0.0, 30.0), min_size=1, max_size=100),
)
def test_in_no_time_more_begin_than_burst_and_rate(burst, per_minute, pauses):
    ramp, now, times = Ramp(RampRules(burst=burst, per_minute=per_minute)), 0.0, []
    for pause in pauses:
        now += pause
        if ramp.open_at(now) <= now:
            ramp.take(now)
            times.append(now)
    for i, first in enumerate(times):
        for j, last in enumerate(times[i:], i):
            assert j - i + 1 <= burst + (last - first) * per_minute / 60 + 1e-6


def test_instances_that_ran_of_late_are_warm():
    warm = Warm()
    assert warm.level(5, 0.0) == 5
    assert warm.level(1, 10.0) == 5
    assert warm.level(1, WARM_S * 1.5) == 5
    assert warm.level(1, WARM_S * 2.5) == 1
    assert warm.level(2, WARM_S * 9) == 2


def test_a_restart_lets_the_limit_come_back_in_its_time():
    restart = Restart(300)
    now, count = 1000.0, 0
    while (opens := restart.open_at(now, count)) is not None:
        if opens > now:
            now = opens
            continue
        restart.take(now)
        count += 1
        if count == RESTART_BURST:
            assert now == 1000.0
    assert now == 1000.0 + RESTART_S
    assert count == pytest.approx(300 + 15, abs=2)


def test_a_restart_holds_up_nobody_while_few_are_held():
    """Short runs, one after the other, are no burst of instances that begin."""
    restart = Restart(300)
    for number in range(1000):
        now = number * 0.001
        assert restart.open_at(now, in_use=14) == now
        restart.take(now)
    opens = restart.open_at(1.0, in_use=15)
    assert opens is not None
    assert 1.0 < opens <= 1.0 + RESTART_S / 300 + 1e-9


def test_a_pace_without_anything_holds_nobody_up():
    pace = Pace(None)
    assert not pace
    assert pace.opens_at(5.0, 0, cold=True) == 5.0
    pace.starts_again(100)
    assert pace
    assert pace.opens_at(5.0, 0, cold=False) == 5.0
    assert pace.opens_at(5.0 + RESTART_S, 99, cold=False) == 5.0 + RESTART_S
    assert not pace


def test_only_cold_starts_take_from_the_ramp():
    pace = Pace(RampRules(burst=1, per_minute=1.0))
    pace.take(0.0, cold=False)
    assert pace.opens_at(0.0, 0, cold=True) == 0.0
    pace.take(0.0, cold=True)
    assert pace.opens_at(0.0, 0, cold=True) == 60.0
    assert pace.opens_at(0.0, 0, cold=False) == 0.0


# -- In the machine


def test_an_accounts_ramp_holds_new_instances_up_and_says_so():
    w = World(rules_of(quota=50, ramp=RampRules(burst=3, per_minute=60)))
    jobs = w.admit_many(6)
    assert w.run() == jobs[:3]
    waiting = w.main.waiting_for(jobs[3], w.now)
    assert waiting.gate is GateKind.RAMP
    assert waiting.until_s == pytest.approx(1.0)
    assert w.main.blocked_by is GateKind.RAMP
    assert w.machine.next_deadline(w.now) == pytest.approx(1.0)
    w.now = w.machine.next_deadline(w.now) or 0.0
    assert w.run() == [jobs[3]]
    # What runs gives its warm instances to the others without the ramp.
    w.end(jobs[:2])
    assert w.run() == jobs[4:]


def test_a_functions_ramp_holds_up_nobody_else():
    ramped = function_of(ramp=RampRules(burst=1, per_minute=60))
    w = World(rules_of({"f": ramped}, quota=50))
    first, second, third = w.admit_many(3, "f")
    other = w.admit("g")
    assert w.run() == [first, other]
    waiting = w.main.waiting_for(second, w.now)
    assert (waiting.gate, waiting.name) == (GateKind.RAMP, "f")
    assert w.main.blocked_by is GateKind.RAMP
    w.now = w.machine.next_deadline(w.now) or 0.0
    assert w.now == pytest.approx(1.0)
    assert w.run() == [second]
    w.end([first])
    assert w.run() == [third]


def test_a_ramp_that_is_taken_away_holds_nobody_up_any_more():
    for function, account in ((FC, None), (None, FC)):
        slow = RampRules(burst=1, per_minute=1)
        rules = rules_of(
            {"f": function_of(ramp=slow if function else None)}, ramp=slow if account else None
        )
        w = World(rules)
        jobs = w.admit_many(3, "f")
        assert w.run() == jobs[:1]
        w.machine.set_rules(rules_of({"f": function_of()}))
        assert w.run() == jobs[1:]


@pytest.mark.parametrize("what", ["account", "function", "circuit"])
def test_after_a_pause_or_an_outage_the_sends_come_back_gently(what):
    quota = 300
    rules = AccountRules(
        quota=quota,
        requests_max=2 * quota,
        functions={"*": FunctionRules(completion=Source.CALLBACK)},
    )
    s = Simulation(Rules(accounts={"main": rules}), lambda _: 1000.0)
    s.admit_many(2 * quota)
    if what == "circuit":
        era = s.main.gate.circuit.era
        s.main.gate.circuit.denied(era, 0.0)
        s.now = 30.0  # the probe closes it again
    else:
        function = "f" if what == "function" else None
        s.machine.pause("main", function, paused=True)
        s.decide()
        assert not s.launches
        s.machine.pause("main", function, paused=False)
    start = s.now
    s.decide()
    s.decide()
    assert RESTART_BURST <= len(s.launches) <= quota // 10
    while len(s.launches) < quota:
        deadline = s.machine.next_deadline(s.now)
        assert deadline is not None
        s.now = deadline
        s.decide()
    assert start + RESTART_S * 0.8 <= s.now <= start + RESTART_S


@pytest.mark.parametrize("what", ["account", "function"])
def test_after_a_pause_an_instance_that_is_free_again_is_used_at_once(what):
    w = World(rules_of(quota=50))
    jobs = w.admit_many(RESTART_BURST + 1, "f")
    function = "f" if what == "function" else None
    w.machine.pause("main", function, paused=True)
    w.machine.pause("main", function, paused=False)
    assert w.run() == jobs[:-1]
    waiting = w.main.waiting_for(jobs[-1], w.now)
    assert waiting.gate is GateKind.RAMP
    w.end(jobs[:1])
    assert w.run() == jobs[-1:]
