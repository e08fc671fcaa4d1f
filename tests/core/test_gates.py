import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.gates import (
    AccountGate,
    FunctionGate,
    Slot,
    TenantGate,
    rules_for,
)
from dispatcher.core.model import (
    Accepted,
    Denied,
    Failure,
    GateKind,
    Lost,
    NotSent,
    Refused,
    Source,
    Throttled,
)
from dispatcher.core.rules import AccountRules, FunctionRules, TenantRules
from tests.core.world import World, rules_of

FAILURE = Failure("kind", "message")


def function(**rules: object) -> FunctionGate:
    return FunctionGate("f", FunctionRules(**rules), "f", listed=False)  # type: ignore[arg-type]


def account(**rules: object) -> AccountGate:
    return AccountGate("main", AccountRules(**({"quota": 4} | rules)))  # type: ignore[arg-type]


def slot() -> Slot:
    return Slot(
        job=World(rules_of()).job(),
        attempt=1,
        share=1,
        price=1.0,
        labels=("f", "default"),
        taken_at=0.0,
        charged_s=1.0,
    )


# -- Instances of a function


@pytest.mark.parametrize(
    ("concurrency", "in_flight", "instances"),
    [(1, 0, 0), (1, 3, 3), (10, 1, 1), (10, 10, 1), (10, 11, 2), (3, 7, 3), (100, 300, 3)],
)
def test_n_in_flight_hold_n_by_concurrency_instances_rounded_up(concurrency, in_flight, instances):
    gate = function(instance_concurrency=concurrency)
    added = sum(gate.take(None, 0.0) for _ in range(in_flight))
    assert gate.in_use == added == instances
    freed = sum(gate.give_back(None) for _ in range(in_flight))
    assert (freed, gate.in_use, gate.in_flight) == (instances, 0, {})


def test_each_version_fills_instances_of_its_own():
    gate = function(instance_concurrency=10)
    assert [gate.take(q, 0.0) for q in (None, "1", "2", "1", None)] == [1, 1, 1, 0, 0]
    assert gate.in_use == 3
    assert gate.instances_for_one_more("3") == 1
    assert gate.instances_for_one_more("1") == 0


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("take"), st.sampled_from([None, "1"])),
            st.tuples(st.just("give back"), st.sampled_from([None, "1"])),
            st.tuples(st.just("rules"), st.integers(1, 4)),
        ),
        max_size=40,
    )
)
def test_instances_add_up_whatever_the_rules_become(steps):
    gate, flights, concurrency, total = function(), {None: 0, "1": 0}, 1, 0
    for what, value in steps:
        if what == "take":
            expected = gate.instances_for_one_more(value)
            total += gate.take(value, 0.0)
            flights[value] += 1
            assert gate.in_use == total
            assert expected in (0, 1)
        elif what == "give back" and flights[value]:
            total -= gate.give_back(value)
            flights[value] -= 1
        elif what == "rules":
            concurrency = value
            total += gate.set_rules(FunctionRules(instance_concurrency=value))
        assert gate.in_use == total == sum(math.ceil(n / concurrency) for n in flights.values())


def test_why_an_invocation_may_not_pass():
    gate = function(instances_max=1, instance_concurrency=2)
    assert gate.blocked(None, 0.0) is None
    gate.take(None, 0.0)
    assert gate.blocked(None, 0.0) is None, "there is room on the instance that runs"
    gate.take(None, 0.0)
    blocked = gate.blocked(None, 0.0)
    assert blocked is not None
    assert (blocked.gate, blocked.limit, blocked.in_use) == (GateKind.FUNCTION, 1, 1)
    gate.closed_until = 9.0
    blocked = gate.blocked(None, 8.0)
    assert blocked is not None
    assert (blocked.gate, blocked.until) == (GateKind.RETRY_AFTER, 9.0)
    assert gate.shut(9.0) is None
    gate.paused = True
    shut = gate.shut(9.0)
    assert shut is not None
    assert shut.gate is GateKind.PAUSED


def test_a_limit_below_what_is_held_lets_nothing_new_in():
    gate = function()
    for _ in range(5):
        gate.take(None, 0.0)
    gate.set_rules(FunctionRules(instances_max=2))
    for _ in range(3):
        assert gate.blocked(None, 0.0) is not None
        gate.give_back(None)
    assert gate.blocked(None, 0.0) is not None
    gate.give_back(None)
    assert gate.blocked(None, 0.0) is None


def test_nothing_is_given_back_that_was_not_taken():
    with pytest.raises(KeyError):
        function().give_back(None)
    with pytest.raises(KeyError):
        TenantGate(TenantRules()).give_back(1)
    with pytest.raises(AssertionError):
        account().give_back(1)


def test_a_duration_is_what_was_learned_of_the_runs():
    gate = function()
    known = [(gate.duration_s, gate.cautious_s)]
    for run_s in (10.0, 20.0, 30.0, 40.0, 50.0):
        gate.learn(run_s)
        known.append((gate.duration_s, gate.cautious_s))
    assert known[:3] == [(None, None), (10.0, None), (10.0, None)]
    assert known[-1] == (30.0, 50.0)


def test_only_task_mode_can_be_missing():
    for completion, source in [(Source.TASK, Source.DURATION), (Source.CALLBACK, Source.CALLBACK)]:
        gate = function(completion=completion)
        gate.untracked["v1"] = "off"
        assert gate.source("v1") is source
        assert gate.source(None) is completion
        assert gate.problem == ("off" if completion is Source.TASK else None)


def test_what_must_be_remembered_of_an_idle_function():
    for name, value in [("paused", True), ("listed", True), ("closed_until", 1.0), ("jobs", 1)]:
        gate = function()
        assert gate.idle
        setattr(gate, name, value)
        assert not gate.idle


# -- Tenants


def test_a_tenant_holds_parts_of_instances():
    gate = TenantGate(TenantRules(limit=2))
    for _ in range(3):
        gate.take(2)
    assert (gate.in_use, gate.invocations) == (1.5, 3)
    assert gate.fits(2)
    assert not gate.fits(1)
    gate.take(2)
    assert not gate.fits(1000)


@pytest.mark.parametrize("share", [3, 7, 10, 49])
def test_parts_add_up_to_whole_instances(share):
    gate = TenantGate(TenantRules(limit=5))
    taken = 0
    while gate.fits(share):
        gate.take(share)
        taken += 1
    assert taken == 5 * share
    for _ in range(taken):
        gate.give_back(share)
    assert gate.in_use == 0


@pytest.mark.parametrize(
    ("reserved", "held", "below"), [(0, 0, False), (2, 1, True), (2, 2, False), (2, 3, False)]
)
def test_floors(reserved, held, below):
    gate = TenantGate(TenantRules(reserved=reserved))
    for _ in range(held):
        gate.take(1)
    assert gate.floor_part == (held / reserved if below else None)


def test_no_limit_is_no_ceiling():
    gate = TenantGate(TenantRules())
    for _ in range(1000):
        gate.take(1)
    assert gate.fits(1)


# -- Accounts


def test_the_limit_is_the_quota_less_the_headroom():
    gate = account(quota=300, headroom=25)
    assert gate.limit == 275
    gate.take(275)
    assert gate.full
    gate.set_rules(AccountRules(quota=100))
    assert gate.limit == 100
    assert gate.full
    gate.give_back(176)
    assert not gate.full


def test_a_full_account_may_have_room_on_an_instance_where_any_function_shares_them():
    shares = FunctionRules(instance_concurrency=2)
    gate = account(quota=1, functions={"*": FunctionRules(), "f": shares})
    gate.take(1)
    assert not gate.full
    gate.set_rules(AccountRules(quota=1))
    assert gate.full


def test_why_nothing_may_be_sent():
    gate = account(requests_max=2, rate_max_per_s=2.0)
    assert gate.shut(0.0) is None
    gate.sent(slot(), 0.0)
    blocked = gate.shut(0.0)
    assert blocked is not None
    assert (blocked.gate, blocked.limit, blocked.until) == (GateKind.RATE, 2.0, 0.5)
    gate.sent(slot(), 0.5)
    blocked = gate.shut(9.0)
    assert blocked is not None
    assert (blocked.gate, blocked.limit, blocked.in_use) == (GateKind.RATE, 2, 2)
    assert blocked.until is None, "only an answer helps"
    gate.close(Throttled(gate=GateKind.RATE, reason="r"), 20.0)
    blocked = gate.shut(9.0)
    assert blocked is not None
    assert (blocked.gate, blocked.until) == (GateKind.RATE, 20.0)
    gate.close(Throttled(gate=GateKind.ACCOUNT, reason="r"), 15.0)
    gate.close(Throttled(gate=GateKind.ACCOUNT, reason="r"), 12.0)
    blocked = gate.shut(9.0)
    assert blocked is not None
    assert (blocked.gate, blocked.until) == (GateKind.RETRY_AFTER, 15.0)
    gate.answered(slot(), Denied(FAILURE), 9.0)
    blocked = gate.shut(9.0)
    assert blocked is not None
    assert (blocked.gate, blocked.until) == (GateKind.CIRCUIT, 39.0)
    gate.pause(paused=True)
    blocked = gate.shut(9.0)
    assert blocked is not None
    assert blocked.gate is GateKind.PAUSED


@pytest.mark.parametrize(
    "shut",
    [
        lambda gate: gate.pause(paused=True),
        lambda gate: gate.close(Throttled(gate=GateKind.RATE, reason="r"), 9.0),
        lambda gate: gate.close(Throttled(gate=GateKind.ACCOUNT, reason="r"), 9.0),
        lambda gate: gate.answered(slot(), Denied(FAILURE), 0.0),
        lambda gate: gate.set_rules(AccountRules(quota=9, rate_max_per_s=0.1)),
        lambda gate: gate.set_rules(AccountRules(quota=9, requests_max=1)),
    ],
)
def test_what_was_found_open_is_shut_by_whatever_shuts_it(shut):
    gate = account(quota=9)
    assert gate.shut(0.0) is None
    gate.sent(slot(), 0.0)
    shut(gate)
    gate.sent(slot(), 0.0)
    assert gate.shut(0.0) is not None


@pytest.mark.parametrize(
    ("outcome", "opens", "closes"),
    [
        (Accepted("r"), False, True),
        (Refused(FAILURE), False, True),
        (Throttled(gate=GateKind.ACCOUNT, reason="r"), False, True),
        (NotSent(FAILURE), False, False),
        (Lost(FAILURE), False, False),
        (Denied(FAILURE), True, False),
    ],
)
def test_what_an_outcome_says_of_our_credentials(outcome, opens, closes):
    gate = account()
    first, probe = slot(), slot()
    gate.sent(first, 0.0)
    assert gate.answered(first, outcome, 0.0) is opens
    gate.circuit = type(gate.circuit)()
    gate.sent(first, 0.0)
    gate.answered(first, Denied(FAILURE), 0.0)
    gate.sent(probe, 30.0)
    assert probe.sent_at == 30.0
    assert gate.answered(probe, outcome, 31.0) is opens
    assert gate.circuit.is_open is not closes


def test_no_answer_without_a_send():
    with pytest.raises(AssertionError):
        account().answered(slot(), Accepted("r"), 0.0)


# -- Rules


def test_a_function_has_its_own_rules_or_those_of_all():
    own, star = FunctionRules(instances_max=1), FunctionRules(instances_max=2)
    assert rules_for({"f": own, "*": star}, "f") is own
    assert rules_for({"f": own, "*": star}, "g") is star
    assert rules_for({"f": own}, "g") == FunctionRules()
