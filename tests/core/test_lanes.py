from collections import Counter

import pytest

from dispatcher.core.gates import TenantGate
from dispatcher.core.lanes import Lane, Line, TenantQueue
from dispatcher.core.rules import TenantRules
from tests.core.world import World, rules_of


def tenant(weight: float = 1.0, **rules: int) -> TenantQueue:
    gate = TenantGate(TenantRules(weight=weight, **rules))
    return TenantQueue("main", f"t{weight}", "other", gate, serial=0)


def lanes_with_work(*tenants: TenantQueue, each: int = 1000) -> list[Lane]:
    w = World(rules_of())
    lanes = [tenant.lane(w.main.function("f"), None) for tenant in tenants]
    for lane in lanes:
        for _ in range(each):
            job = w.job()
            lane.jobs.place((job.rank, job.seq, job))
    return lanes


def take_turns(line: Line, count: int) -> Counter[float]:
    """Let so many invocations go; return how many of each weight."""
    went: Counter[float] = Counter()
    for _ in range(count):
        lane = line.lanes.first()
        assert lane is not None
        lane.jobs.pop()
        line.went(lane)
        went[lane.tenant.gate.rules.weight] += 1
    return went


def test_turns_go_by_weight():
    line = Line(0)
    for lane in lanes_with_work(tenant(1.0), tenant(2.0), tenant(0.5)):
        line.park(lane)
    assert take_turns(line, 350) == {1.0: 100, 2.0: 200, 0.5: 50}


def test_equals_take_turns_in_the_order_in_which_they_came():
    line = Line(0)
    lanes = lanes_with_work(tenant(), tenant(), tenant())
    for lane in reversed(lanes):
        line.park(lane)
    order = []
    for _ in range(6):
        first = line.lanes.first()
        assert first is not None
        line.went(first)
        order.append(lanes.index(first))
    assert order == [2, 1, 0, 2, 1, 0]


def test_who_comes_later_is_one_turn_behind_and_has_saved_nothing():
    line = Line(0)
    early, late = lanes_with_work(tenant(1.0), tenant(4.0))
    line.park(early)
    take_turns(line, 500)
    line.park(late)
    assert late.turn == line.turn + 0.25
    assert take_turns(line, 100)[4.0] == pytest.approx(80, abs=2)


def test_a_lane_with_nothing_left_leaves_the_line():
    line = Line(0)
    (lane,) = lanes_with_work(tenant(), each=1)
    line.park(lane)
    take_turns(line, 1)
    assert (lane.line, len(line.lanes)) == (None, 0)


def test_below_the_floor_comes_first_by_the_part_that_is_held():
    poor, rich, other = tenant(reserved=4), tenant(reserved=40), tenant()
    for _ in range(2):
        poor.gate.take(1)
    for _ in range(10):
        rich.gate.take(1)
    poor.passed, rich.passed, other.passed = 1e6, 1e9, 0.0
    assert sorted([poor, rich, other], key=lambda t: t.place) == [rich, poor, other]
    for _ in range(2):
        poor.gate.take(1)
    assert poor.place == (True, 1e6)


def test_a_lane_for_each_function_and_version():
    w = World(rules_of())
    t = w.main.tenant("t")
    f, g = w.main.function("f"), w.main.function("g")
    lane = t.lane(f, None)
    assert t.lane(f, None) is lane
    assert len({lane, t.lane(f, "1"), t.lane(g, None)}) == 3
    assert lane.key == ("f", None)


def test_a_lane_does_not_outlive_its_functions_gate():
    w = World(rules_of())
    t = w.main.tenant("t")
    before = t.lane(w.main.function("f"), None)
    del w.main.functions["f"]
    again = t.lane(w.main.function("f"), None)
    assert again is not before
    assert again.function is w.main.function("f")


def test_empty_lanes_are_forgotten_and_others_are_not(monkeypatch):
    monkeypatch.setattr("dispatcher.core.lanes.LANES_KEPT", 4)
    w = World(rules_of())
    job = w.admit("f", "t", "kept")
    t = w.main.tenant("t")
    for i in range(100):
        t.lane(w.main.function("f"), str(i))
        assert len(t.lanes) <= 8
    assert t.lane(w.main.function("f"), "kept") is job.lane
