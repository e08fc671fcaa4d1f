"""What the cloud says of one function's own limits; its instances are in test_gates.py."""

import pytest

from dispatcher.core.account import RATE_CLOSED_S
from dispatcher.core.function_gate import FunctionGate, milli
from dispatcher.core.model import Accepted, GateKind, Throttled
from dispatcher.core.rules import FunctionRules
from tests.core.world import World, function_of, rules_of


def test_the_concurrency_of_a_function_is_its_own_gates_affair():
    w = World(rules_of(quota=50, limit="adaptive", limit_min=20))
    jobs = w.admit_many(10, "f")
    w.due()
    for job in jobs[:6]:
        w.answer(job, Accepted("r"))
    limit = w.main.gate.limit
    for job in jobs[6:]:
        w.answer(job, Throttled(gate=GateKind.FUNCTION, reason="ReservedFunctionConcurrency..."))
    w.due()
    function = w.main.function("f")
    assert function.limit == 9  # a tenth less than what was held, once
    assert w.main.gate.limit == limit
    assert w.main.gate.foreign == 0
    other = w.admit("g")
    assert w.run() == [other]


def test_it_forgets_a_limit_that_is_no_more():
    gate = FunctionGate("f", FunctionRules(), "f", listed=False)
    for _ in range(20):
        gate.take(None, 0.0)
    gate.met_limit(0.0, 30, 1.0)
    assert gate.limit == 18
    assert not gate.idle
    for _ in range(4):
        gate.give_back(None)
    now = 1.0
    while gate.adaptive is not None:
        now += 0.1
        while gate.in_use < (gate.limit or 0):
            gate.take(None, now)
        gate.ran(1.0, now)
        assert now < 60
    assert gate.limit is None


def test_its_rate_and_the_callers_rate_rest_for_a_moment():
    w = World(rules_of(quota=50))
    first = w.admit("f")
    w.due()
    w.answer(first, Throttled(gate=GateKind.FUNCTION, function_rate=True, reason="r"))
    later, other = w.admit("f"), w.admit("g")
    assert w.run() == [other]
    assert w.main.function("f").limit is None
    waiting = w.main.waiting_for(later, w.now)
    assert (waiting.gate, waiting.until_s) == (GateKind.RETRY_AFTER, RATE_CLOSED_S)
    assert w.main.blocked_by is waiting.gate
    third = w.admit("h")
    w.due()
    w.answer(third, Throttled(gate=GateKind.RATE, reason="CallerRateLimitExceeded"))
    w.admit("i")
    assert w.run() == []
    assert w.main.blocked_by is GateKind.RATE


def test_what_is_blocked_says_so_by_the_gate_that_each_invocation_is_told():
    w = World(rules_of({"f": function_of(instances_max=1)}, quota=50))
    _, waits = w.admit_many(2, "f")
    w.due()
    said = [(w.main.blocked_by, w.main.waiting_for(waits, w.now).gate)]
    w.machine.pause("main", "f", paused=True)
    w.due()
    said.append((w.main.blocked_by, w.main.waiting_for(waits, w.now).gate))
    assert said == [(GateKind.FUNCTION,) * 2, (GateKind.PAUSED,) * 2]


def test_a_resource_that_is_used_up_holds_up_who_needs_it():
    rules = {"big": function_of(vcpu=2.0), "small": function_of(vcpu=0.35)}
    w = World(rules_of(rules, quota=50, resources={"vcpu": 5}))
    jobs = w.admit_many(3, "big")
    assert w.run() == jobs[:2]
    waiting = w.main.waiting_for(jobs[2], w.now)
    assert (waiting.gate, waiting.name) == (GateKind.RESOURCE, "vcpu")
    assert (waiting.limit, waiting.in_use) == (5, 4)
    assert w.main.blocked_by is GateKind.RESOURCE
    w.end(jobs[:1])
    assert w.run() == [jobs[2]]


def test_resources_follow_the_rules():
    w = World(rules_of({"f": function_of(vcpu=1.0)}, quota=50))
    jobs = w.admit_many(4, "f")
    assert w.run() == jobs
    w.machine.set_rules(
        rules_of({"f": function_of(vcpu=0.1, instance_concurrency=2)}, resources={"vcpu": 1})
    )
    assert w.main.gate.milli_vcpu == 200
    w.due()
    w.end(jobs)
    assert w.main.gate.milli_vcpu == 0


@pytest.mark.parametrize(("vcpu", "thousandths"), [(0.05, 50), (0.1 + 0.2, 300), (16, 16000)])
def test_resources_are_whole_thousandths(vcpu, thousandths):
    assert milli(vcpu) == thousandths
