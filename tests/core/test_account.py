"""Names, labels, views, and why an invocation waits."""

from collections import defaultdict

import pytest
from msgspec import UNSET

from dispatcher.core.account import LABELS_MAX, OTHER, Account
from dispatcher.core.model import Denied, GateKind, Lost, Source, Throttled
from dispatcher.core.rules import AccountRules, FunctionRules, TenantRules
from dispatcher.core.views import FunctionView, Queued, TenantView, WaitingFor
from tests.core.world import FAILURE, World, function_of, rules_of

# -- Names and labels


def test_functions_without_a_section_have_the_rules_of_all():
    w = World(rules_of({"*": function_of(instances_max=7), "f": function_of(instances_max=3)}))
    assert w.main.function("f").rules.instances_max == 3
    assert w.main.function("g").rules.instances_max == 7
    assert w.main.function("g") is w.main.function("g")
    assert not w.main.function("g").listed


def test_tenants_without_a_section_have_weight_one_and_share_a_label():
    w = World(rules_of(tenants={"a": TenantRules(weight=3)}))
    assert (w.main.tenant("a").label, w.main.tenant("default").label) == ("a", "default")
    assert w.main.tenant("made-up").label == OTHER
    assert w.main.tenant("made-up").gate.rules.weight == 1


def test_whoever_makes_up_names_does_not_fill_the_metrics():
    account = Account("main", AccountRules(quota=1, functions={"own": FunctionRules()}))
    labels = {account.function(f"f{i}").label for i in range(LABELS_MAX * 3)}
    assert len(labels) == LABELS_MAX + 1
    assert OTHER in labels
    assert account.function("own").label == "own"
    assert {account.tenant(f"t{i}").label for i in range(300)} == {OTHER}


def test_a_new_section_gives_its_function_and_tenant_their_labels():
    w = World(rules_of())
    for i in range(LABELS_MAX):
        w.main.function(f"x{i}")
    assert w.main.function("f").label == w.main.tenant("t").label == OTHER
    w.machine.set_rules(rules_of({"f": function_of(instances_max=2)}, {"t": TenantRules(weight=2)}))
    assert (w.main.function("f").label, w.main.tenant("t").label) == ("f", "t")
    assert w.main.function("f").rules.instances_max == 2
    assert w.main.tenant("t").gate.rules.weight == 2
    assert w.main.function("f").listed


def test_what_is_in_flight_is_counted_by_the_labels_that_it_was_launched_with():
    w = World(rules_of(tenants={"a": TenantRules()}))
    jobs = [w.admit("f", "a"), w.admit("f", "a"), w.admit("g", "unknown")]
    w.run()
    assert w.main.in_flight == {("f", "a"): 2, ("g", OTHER): 1}
    w.machine.set_rules(rules_of(tenants={"unknown": TenantRules()}))
    w.end(jobs)
    assert not any(w.main.in_flight.values())


# -- Why it waits


def waits(w: World, job_id: str) -> WaitingFor:
    return w.main.waiting_for(w.jobs[job_id], w.now)


def test_it_waits_for_its_time():
    w = World(rules_of())
    w.admit(delay_s=8)
    w.now = 3.0
    assert waits(w, "i1") == WaitingFor(gate=GateKind.DELAY, name="f", until_s=5.0)


def test_it_waits_to_be_tried_again():
    w = World(rules_of(), lambda: 0.5)
    job = w.admit()
    w.due()
    w.answer(job, Throttled(gate=GateKind.ACCOUNT, reason="r"))
    assert waits(w, "i1") == WaitingFor(gate=GateKind.RETRY, name="f", until_s=0.25)


def test_it_waits_for_an_instance_of_the_account():
    w = World(rules_of(quota=2))
    w.admit_many(3)
    w.due()
    assert waits(w, "i3") == WaitingFor(gate=GateKind.ACCOUNT, name="main", limit=2, in_use=2)


def test_it_waits_for_an_instance_of_its_function():
    w = World(rules_of({"f": function_of(instances_max=1)}, quota=1))
    w.admit_many(2)
    w.due()
    assert waits(w, "i2") == WaitingFor(gate=GateKind.FUNCTION, name="f", limit=1, in_use=1)


def test_it_waits_for_its_tenants_ceiling():
    w = World(rules_of(tenants={"a": TenantRules(limit=1)}, quota=1))
    w.admit_many(2, tenant="a")
    w.due()
    assert waits(w, "i2") == WaitingFor(gate=GateKind.TENANT, name="a", limit=1, in_use=1)


def test_it_waits_for_a_place_among_the_requests():
    w = World(rules_of(requests_max=1))
    w.admit_many(2)
    w.due()
    assert waits(w, "i2") == WaitingFor(gate=GateKind.RATE, name="requests_max", limit=1, in_use=1)


def test_it_waits_for_the_rate():
    w = World(rules_of(rate_max_per_s=2.0))
    w.admit_many(2)
    w.due()
    assert waits(w, "i2") == WaitingFor(gate=GateKind.RATE, name="main", limit=2.0, until_s=0.5)


def test_a_narrower_gate_is_named_before_the_rate():
    w = World(rules_of({"f": function_of(instances_max=1)}, requests_max=1))
    w.admit_many(2)
    w.due()
    assert waits(w, "i2").gate is GateKind.FUNCTION


@pytest.mark.parametrize(
    ("named", "closed"), [(GateKind.FUNCTION, "f"), (GateKind.ACCOUNT, "main")]
)
def test_it_waits_as_long_as_the_cloud_asks(named, closed):
    w = World(rules_of())
    job = w.admit()
    w.due()
    w.answer(job, Throttled(gate=named, reason="r", retry_after_s=5))
    w.advance(3)
    assert waits(w, "i1") == WaitingFor(gate=GateKind.RETRY_AFTER, name=closed, until_s=2.0)


def test_it_waits_for_the_circuit():
    w = World(rules_of())
    job = w.admit()
    w.due()
    w.answer(job, Denied(FAILURE))
    assert waits(w, "i1") == WaitingFor(gate=GateKind.CIRCUIT, name="main", until_s=30.0)


@pytest.mark.parametrize(("function", "name"), [(None, "main"), ("f", "f")])
def test_it_waits_until_somebody_resumes(function, name):
    w = World(rules_of())
    w.machine.pause("main", function, paused=True)
    w.admit()
    w.due()
    assert waits(w, "i1") == WaitingFor(gate=GateKind.PAUSED, name=name)


def test_what_holds_its_slot_waits_for_none_of_the_counts():
    w = World(rules_of({"f": function_of(Source.TASK, instances_max=1)}, quota=1, requests_max=1))
    job = w.admit("f")
    w.due()
    w.answer(job, Lost(FAILURE))
    w.now = job.wakes_at
    w.machine.pause("main", "f", paused=True)
    w.due()
    assert waits(w, "i1").gate is GateKind.PAUSED
    w.machine.pause("main", "f", paused=False)
    assert waits(w, "i1").limit is not UNSET, "the pump has not come round yet"
    assert w.run() == [job]


def test_it_waits_behind_somebody_who_does_not_fit():
    w = World(rules_of({"f": function_of(instances_max=1, instance_concurrency=2)}, quota=5))
    w.admit("f", qualifier="1")
    w.run()
    w.admit("f", qualifier="2")
    w.run()
    w.admit("f", qualifier="1")
    assert w.run() == []
    assert waits(w, "i3") == WaitingFor(gate=GateKind.FUNCTION, name="f", limit=1, in_use=1)


# -- Views


def test_views():
    w = World(
        rules_of(
            {"f": function_of(instances_max=1, instance_concurrency=2), "idle": function_of()},
            {"a": TenantRules(weight=2, reserved=1, limit=3)},
            quota=4,
        )
    )
    w.admit_many(3, "f", "a")
    w.admit("g", "b")
    w.admit("g", "b", delay_s=60)
    w.main.function("unused")
    w.main.tenant("unused")
    w.run()
    w.now = 7.0
    assert w.main.function_views() == {
        "f": FunctionView(limit=1, in_use=1, queued=1, paused=False),
        "idle": FunctionView(limit=None, in_use=0, queued=0, paused=False),
        "g": FunctionView(limit=None, in_use=1, queued=1, paused=False),
    }
    assert w.main.tenant_views(w.now) == {
        "a": TenantView(weight=2, reserved=1, limit=3, in_use=1.0, queued=1, oldest_age_s=7.0),
        "b": TenantView(weight=1, reserved=0, limit=None, in_use=1.0, queued=1),
    }
    assert w.main.queued() == Queued(due=1, delayed=1)
    assert w.main.oldest_age_s(w.now) == 7.0


def test_a_paused_function_is_shown_although_nothing_uses_it():
    w = World(rules_of())
    w.machine.pause("main", "f", paused=True)
    assert w.main.function_views()["f"].paused


def test_blocked_time_is_added_up_by_gate():
    w = World(rules_of(quota=1))
    seconds: defaultdict[tuple[str, ...], float] = defaultdict(float)
    w.main.note_blocked(GateKind.RATE, 1.0, seconds)
    assert seconds == {}
    w.main.note_blocked(GateKind.ACCOUNT, 3.0, seconds)
    w.main.note_blocked(None, 7.0, seconds)
    w.main.note_blocked(None, 9.0, seconds)
    assert seconds == {("main", "rate"): 2.0, ("main", "account"): 4.0}


def test_next_to_go_says_which_gate_holds_everything_up():
    w = World(rules_of({"f": function_of(instances_max=1)}, {"a": TenantRules(limit=1)}, quota=2))
    assert w.main.next_to_go(0.0) is None
    first = w.admit("f", "a")
    w.run()
    w.admit("f", "a")
    assert w.main.next_to_go(0.0) is GateKind.FUNCTION
    w.admit("g", "a")
    w.due()
    w.machine.set_rules(rules_of(tenants={"a": TenantRules(limit=1)}, quota=2))
    assert w.main.next_to_go(0.0) is GateKind.TENANT
    w.machine.set_rules(rules_of(quota=1))
    assert w.main.next_to_go(0.0) is GateKind.ACCOUNT
    w.machine.pause("main", None, paused=True)
    assert w.main.next_to_go(0.0) is GateKind.PAUSED
    w.machine.pause("main", None, paused=False)
    w.end([first])
    assert len(w.run()) == 1
