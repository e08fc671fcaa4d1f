"""
A decision costs the same however much waits: counted in instructions, not in seconds.

What is counted is every instruction of the interpreter, which finds each loop over what
waits. A heap's own logarithm happens in C and is not seen.
"""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from msgspec import Struct

from dispatcher.core import effects, model
from dispatcher.core.effects import Launch
from dispatcher.core.gates import FunctionGate, Slot
from dispatcher.core.job import Job
from dispatcher.core.model import Completion, GateKind, Source, Throttled, Verdict
from dispatcher.core.rules import TenantRules
from dispatcher.core.views import Acceptance, End, View, WaitingFor
from tests.core.simulation import Simulation
from tests.core.world import function_of, rules_of

LITTLE, MUCH = 10, 10_000


def instructions(call: Callable[[], Any]) -> int:
    """Return how many instructions of the interpreter *call* executes."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def full(rules: Any = None) -> Simulation:
    """Return a simulation whose account is full for a long time."""
    rules = rules or rules_of(quota=8)
    assert rules.accounts["main"].quota <= rules.accounts["main"].requests_max
    return Simulation(rules, lambda job: 100.0 + job.seq / 1000)


def cycle(s: Simulation) -> Callable[[], None]:
    """Return what lets twenty runs end, one after the other, and as many be launched."""

    def twenty() -> None:
        for _ in range(20):
            assert s.step()
        s.decide()

    return twenty


def assert_flat(cost: Callable[[int], int]) -> None:
    little, much = cost(LITTLE), cost(MUCH)
    assert 0 < much <= 1.2 * little, (little, much)


def test_instructions_are_counted():
    assert instructions(lambda: [None for _ in range(1000)]) > 1000
    assert instructions(lambda: None) < 20


def test_a_decision_is_lean():
    """A run's end and the launch of the next, of 10 000 that wait: about 10 µs, by what it takes."""
    s = full()
    for i in range(MUCH):
        s.admit("f", f"t{i % 100}")
    s.decide()
    assert instructions(cycle(s)) / 20 < 4000  # 2800 on Python 3.11, the simulation's own included


@pytest.mark.parametrize("reserved", [0, 1])
def test_a_decision_among_many_tenants(reserved):
    def cost(tenants: int) -> int:
        rules = {f"t{i}": TenantRules(reserved=reserved) for i in range(tenants)}
        quota = 8 + reserved * tenants // 2
        s = full(rules_of(tenants=rules, quota=quota, requests_max=MUCH))
        for i in range(tenants):
            s.admit_many(4 if tenants == MUCH else 40, "f", f"t{i}")
        s.decide()
        return instructions(cycle(s))

    assert_flat(cost)


def test_a_decision_among_many_functions():
    def cost(functions: int) -> int:
        s = full()
        for i in range(functions):
            s.admit_many(4 if functions == MUCH else 40, f"f{i}")
        s.decide()
        return instructions(cycle(s))

    assert_flat(cost)


@pytest.mark.parametrize("priority", [0.0, 1.0])
def test_a_decision_among_many_invocations(priority):
    def cost(jobs: int) -> int:
        s = full()
        for i in range(max(jobs * 10, 100)):
            s.admit("f", priority=i * priority)
        s.decide()
        return instructions(cycle(s))

    assert_flat(cost)


def test_a_room_at_a_function_behind_which_many_wait():
    def cost(tenants: int) -> int:
        s = full(rules_of({"f": function_of(instances_max=2)}, quota=100))
        for i in range(tenants):
            s.admit_many(4 if tenants == MUCH else 40, "f", f"t{i}")
        s.decide()
        return instructions(cycle(s))

    assert_flat(cost)


@pytest.mark.parametrize("what", ["pause and resume", "close and open"])
def test_a_function_behind_which_many_wait_is_opened(what):
    def cost(tenants: int) -> int:
        s = full(rules_of({"f": function_of(instances_max=2)}, quota=100))
        for i in range(tenants):
            s.admit("f", f"t{i}")
        s.decide()

        def open_it() -> None:
            if what == "pause and resume":
                s.machine.pause("main", "f", paused=True)
                s.decide()
                s.machine.pause("main", "f", paused=False)
            else:
                closed = Throttled(gate=GateKind.FUNCTION, reason="r", retry_after_s=1)
                s.main.gate.requests += 1
                slot = next(job.slot for _, job in s.launches if job.slot)
                s.main.answered(s.main.function("f"), slot, closed, s.now)
                s.decide()
                s.now += 1.0
            s.decide()

        return instructions(open_it)

    assert_flat(cost)


def test_a_new_invocation():
    def cost(jobs: int) -> int:
        s = full()
        s.admit_many(jobs * 10, "f", expires_at=1e9)
        s.decide()
        return instructions(lambda: [s.admit("f", expires_at=1e9) for _ in range(20)])

    assert_flat(cost)


def test_cancelling_them_all():
    """From the last to the first, so that nothing ever comes up in its heap."""

    def cost(count: int) -> int:
        s = full()
        jobs = s.admit_many(count, "f", expires_at=1e9)
        jobs += s.admit_many(
            count, "f", wakes_at=1e6, due_at=1e6, waits_for=GateKind.DELAY, expires_at=1e9
        )
        s.decide()
        waiting = [job for job in reversed(jobs) if job.slot is None]

        def cancel() -> None:
            for job in waiting:
                s.machine.cancel(job, s.now, can_stop=False)

        each = instructions(cancel) / len(waiting)
        assert s.main.backlog.due == s.main.backlog.delayed == 0
        return int(each)

    little, much = cost(LITTLE), cost(MUCH // 10)
    assert 0 < much <= 1.2 * little, (little, much)


def all_cancelled(s: Simulation, jobs: list[Job]) -> None:
    for job in jobs:
        s.machine.cancel(job, s.now, can_stop=False)


def expiring(count: int) -> Simulation:
    """Return one in which the first is about to expire, and many behind it were cancelled."""
    s = full()
    s.machine.pause("main", None, paused=True)
    jobs = [s.admit("f", expires_at=10.0 + i / count) for i in range(3 * count)]
    all_cancelled(s, jobs[1:count])
    return s


def delayed(count: int) -> Simulation:
    """Return one in which the time of the first has come, and many behind it were cancelled."""
    s = full()
    s.machine.pause("main", None, paused=True)
    due_at = [10.0 + i / count for i in range(3 * count)]
    jobs = [s.admit("f", due_at=at, wakes_at=at, waits_for=GateKind.DELAY) for at in due_at]
    all_cancelled(s, jobs[1:count])
    return s


def untracked(count: int) -> Simulation:
    """Return one in which many ends that run have to be estimated, and can be learned again."""
    functions = {"f": function_of(Source.TASK, duration_s=20.0, hold_max_s=500.0)}
    s = Simulation(rules_of(functions, quota=count, requests_max=count), lambda _: 1e6)
    s.admit_many(count, "f")
    s.decide()
    s.machine.tracking_changed("main", "f", None, "off")
    while s.machine.next_deadline(s.now) == s.now:
        s.decide()
    s.machine.tracking_changed("main", "f", None, None)
    return s


def cancelled(count: int) -> Simulation:
    """Return one with room for the next two, and between them many that were cancelled."""
    s = full()
    s.now = 10.0
    jobs = s.admit_many(3 * count, "f")
    s.decide()
    all_cancelled(s, jobs[9:count])
    for _, job in s.launches[:2]:
        s.machine.completed(job, Completion(id=job.id, verdict=Verdict.SUCCEEDED), s.now)
    return s


@pytest.mark.parametrize("those", [expiring, delayed, untracked, cancelled])
def test_what_is_much_is_done_in_parts(those):
    """So many that are not there any more, or run, that they cannot be looked at in one go."""

    def cost(count: int) -> int:
        s = those(count)
        s.now = 10.0
        most = instructions(s.decide)
        while s.machine.next_deadline(s.now) == s.now:
            most = max(most, instructions(s.decide))
            most = max(most, instructions(lambda: s.machine.next_deadline(s.now)))
        return most

    little, much = cost(2000), cost(MUCH)
    assert 0 < much <= 1.2 * little, (little, much)


def test_when_to_come_again():
    def cost(functions: int) -> int:
        s = full(rules_of(quota=functions + 8, requests_max=2 * MUCH))
        for i in range(functions):
            s.admit(f"f{i}")
        s.decide()
        for i, (_, job) in enumerate(s.launches):
            close(s, job.lane.function, 10.0 + i)
        s.admit_many(20, "f0")
        s.decide()
        return instructions(lambda: s.machine.next_deadline(s.now))

    assert_flat(cost)


def close(s: Simulation, function: FunctionGate, seconds: float) -> None:
    s.main._close(function, s.now + seconds)


#: What does not come with each invocation.
FEW = {"Pause", "Query", "Warn"}


def test_the_garbage_collector_does_not_look_at_what_comes_with_each_invocation():
    nouns: set[type[Struct]] = {
        each
        for module in (model, effects)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Struct) and each.__name__ not in FEW
    } - {Struct}
    assert {Job, Slot, Completion, Launch} <= nouns
    nouns |= {Acceptance, End, View, WaitingFor}
    assert not [each for each in nouns if each.__struct_config__.gc]
