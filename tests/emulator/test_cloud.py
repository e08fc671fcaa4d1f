"""The cloud's promises: quotas hold, books balance, everything accepted comes to an end."""

import random
from collections import Counter
from collections.abc import Iterator
from math import ceil
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dispatcher.emulator.account import AccountState, FunctionState
from dispatcher.emulator.cloud import Answered, Cloud, Delivery
from dispatcher.emulator.invocation import ENDED, ON_INSTANCE, Invocation, Status
from dispatcher.emulator.providers import Shortage
from dispatcher.emulator.refusals import (
    FunctionMissing,
    PayloadTooLarge,
    QualifierMissing,
    TaskExists,
    Throttled,
)
from dispatcher.emulator.settings import Account, Function, Ramp, Settings
from dispatcher.emulator.statistics import account_statistics


def make_account(provider: Any = "aliyun-fc", quota: int = 10, **fields: Any) -> Account:
    return Account(provider=provider, account_id="1", region="here", quota=quota, **fields)


def make_cloud(account: Account) -> tuple[Cloud, AccountState]:
    cloud = Cloud(Settings(accounts={"a": account}), random.Random(1))
    return cloud, cloud.accounts["a"]


def run_to(cloud: Cloud, until: float) -> list[tuple[float, object]]:
    """Drive the cloud as its server does, deadline by deadline; return the effects."""
    effects: list[tuple[float, object]] = []
    while (deadline := cloud.next_deadline()) is not None and deadline <= until:
        effects += [(deadline, effect) for effect in cloud.due(deadline)]
    effects += [(until, effect) for effect in cloud.due(until)]
    return effects


class Caller:
    """Calls one function of one account."""

    def __init__(self, account: Account, name: str = "f") -> None:
        self.cloud, self.account = make_cloud(account)
        self.function = self.cloud.find(self.account, name)

    def call(self, now: float, payload: bytes = b"{}", **fields: Any) -> Invocation:
        fields = {"asynchronous": True, **fields}
        invocation = self.cloud.invoke(self.function, self.account, now, payload=payload, **fields)
        self.cloud.due(now)
        return invocation

    def counted(self, now: float = 1e9) -> Any:
        return account_statistics(self.account, now)


def state(invocation: Invocation) -> Status:
    return invocation.status


def starts(caller: Caller) -> list[float]:
    return [run.started_at for run in caller.cloud.runs]


# -- Asynchronous invocations ---------------------------------------------------------------------


def test_lambda_repeats_a_failing_function_after_one_and_two_minutes():
    caller = Caller(make_account("aws-lambda", functions={"*": Function(duration_s=1)}))
    event = caller.call(0, b'{"emulate": {"fail": true}}')
    run_to(caller.cloud, 1000)
    assert starts(caller) == [0, 61, 182]
    assert state(event) is Status.FAILED
    assert [run.request_id for run in caller.cloud.runs] == [event.request_id] * 3
    assert caller.counted().repeats == 2


def test_fc_repeats_three_times_unless_told_otherwise():
    account = make_account(functions={"*": Function(duration_s=1)})
    caller = Caller(account)
    task = caller.call(0, b'{"emulate": {"fail_attempts": 3}}', task_id="t")
    run_to(caller.cloud, 1000)
    assert starts(caller) == [0, 2, 5, 10]
    assert state(task) is Status.SUCCEEDED
    caller = Caller(make_account(functions={"*": Function(max_async_retry_attempts=0)}))
    task = caller.call(0, b'{"emulate": {"fail_attempts": 1}}', task_id="t")
    run_to(caller.cloud, 1000)
    assert state(task) is Status.FAILED
    assert task.attempts == 1


@pytest.mark.parametrize(
    ("provider", "expected"),
    [("aws-lambda", [1, 3, 7, 15, 31]), ("aliyun-fc", [0.5, 1.5, 3.5, 7.5, 15.5])],
)
def test_throttled_events_back_off_doubling_and_use_up_no_retry(provider, expected):
    function = Function(max_async_retry_attempts=0)
    caller = Caller(make_account(provider, quota=0, functions={"*": function}))
    event = caller.call(0)
    seen: list[float] = []
    while len(seen) < len(expected):
        deadline = caller.cloud.next_deadline()
        assert deadline is not None
        seen.append(deadline)
        caller.cloud.due(deadline)
    assert seen == expected
    assert state(event) is Status.ENQUEUED
    caller.account.fleet.change(20, quota=1)
    run_to(caller.cloud, 100)
    assert state(event) is Status.SUCCEEDED
    assert event.attempts == 1
    assert sum(caller.counted().throttles_async.values()) == len(expected) + 1


def test_the_backoff_begins_anew_after_a_run():
    function = Function(duration_s=1, retry_waits_s=(10,))
    caller = Caller(make_account("aws-lambda", quota=0, functions={"*": function}))
    caller.call(0, b'{"emulate": {"fail_attempts": 1}}')
    run_to(caller.cloud, 8)
    caller.account.fleet.change(8, quota=1)
    run_to(caller.cloud, 17)
    caller.account.fleet.change(17, quota=0)
    assert starts(caller) == [15]
    # Back at 26, refused, and again after one second.
    run_to(caller.cloud, 26.5)
    caller.account.fleet.change(26.5, quota=1)
    run_to(caller.cloud, 100)
    assert starts(caller) == [15, 27]


def test_the_backoff_ends_at_five_minutes():
    caller = Caller(make_account("aws-lambda", quota=0))
    caller.call(0)
    moments = []
    for _ in range(14):
        deadline = caller.cloud.next_deadline()
        assert deadline is not None
        moments.append(deadline)
        caller.cloud.due(deadline)
    assert moments[-1] - moments[-2] == 300
    assert moments[-2] - moments[-3] == 300


@pytest.mark.parametrize("provider", ["aws-lambda", "aliyun-fc"])
def test_events_that_wait_too_long_expire_unrun(provider):
    function = Function(max_async_event_age_s=100)
    caller = Caller(make_account(provider, quota=0, functions={"*": function}))
    event = caller.call(0)
    run_to(caller.cloud, 99.9)
    assert state(event) is Status.ENQUEUED
    run_to(caller.cloud, 100)
    assert state(event) is Status.EXPIRED
    assert not caller.cloud.runs
    assert caller.counted().expired == 1


def test_a_retry_that_would_come_too_late_expires():
    function = Function(duration_s=1, max_async_event_age_s=30)
    caller = Caller(make_account("aws-lambda", functions={"*": function}))
    event = caller.call(0, b'{"emulate": {"fail": true}}')
    run_to(caller.cloud, 1000)
    assert state(event) is Status.EXPIRED
    assert event.ended_at == 30
    assert event.attempts == 1


def test_lambda_drops_events_of_a_function_without_concurrency_and_fc_keeps_them():
    function = Function(reserved=0)
    caller = Caller(make_account("aws-lambda", functions={"f": function}))
    event = caller.call(0)
    assert state(event) is Status.DROPPED
    assert caller.counted().dropped == 1
    caller = Caller(make_account(functions={"f": function}))
    event = caller.call(0)
    run_to(caller.cloud, 100)
    assert state(event) is Status.ENQUEUED
    assert caller.counted().throttles_async == {"FunctionResourceExhausted": 8}


def test_a_delayed_invocation_is_due_later_and_ages_from_then():
    function = Function(duration_s=1, max_async_event_age_s=10)
    caller = Caller(make_account(functions={"*": function}))
    task = caller.call(0, delay_s=60)
    run_to(caller.cloud, 59.9)
    assert state(task) is Status.ENQUEUED
    run_to(caller.cloud, 61)
    assert starts(caller) == [60]
    assert caller.counted().start_delays.max_s == 0


def test_start_delays_tell_how_long_the_queue_was():
    account = make_account("aws-lambda", quota=1, functions={"*": Function(duration_s=4)})
    caller = Caller(account)
    for _ in range(2):
        caller.call(0)
    run_to(caller.cloud, 100)
    assert starts(caller) == [0, 7]
    assert caller.counted().start_delays.max_s == 7
    assert caller.counted().queued_peak == 2


def test_a_full_hidden_queue_refuses():
    limited = Settings(accounts={"a": make_account(quota=0)}, queue_max=2)
    cloud = Cloud(limited, random.Random(1))
    account = cloud.accounts["a"]
    function = cloud.find(account, "f")
    for _ in range(2):
        cloud.invoke(function, account, 0, payload=b"", asynchronous=True)
    with pytest.raises(Throttled) as caught:
        cloud.invoke(function, account, 0, payload=b"", asynchronous=True)
    assert caught.value.shortage is Shortage.QUEUE


# -- Synchronous invocations ----------------------------------------------------------------------


def test_a_synchronous_call_runs_at_once_and_is_answered_at_its_end():
    caller = Caller(make_account("aws-lambda", functions={"*": Function(duration_s=2)}))
    invocation = caller.call(5, asynchronous=False)
    assert state(invocation) is Status.RUNNING
    assert run_to(caller.cloud, 100) == [(7, Answered(invocation))]
    assert invocation.duration_s == 2


@pytest.mark.parametrize(
    ("provider", "reason"),
    [("aws-lambda", "ConcurrentInvocationLimitExceeded"), ("aliyun-fc", "ResourceExhausted")],
)
def test_synchronous_calls_over_the_quota_are_refused_and_asynchronous_ones_are_not(
    provider, reason
):
    caller = Caller(make_account(provider, quota=1, functions={"*": Function(duration_s=1)}))
    caller.call(0)
    with pytest.raises(Throttled, match=reason):
        caller.call(0, asynchronous=False)
    caller.call(0)
    assert caller.counted().throttles_sync == {reason: 1}


def test_what_has_ended_by_now_makes_room():
    caller = Caller(make_account(quota=1, functions={"*": Function(duration_s=1)}))
    caller.call(0, asynchronous=False)
    assert caller.call(1, asynchronous=False).status is Status.RUNNING


def test_a_caller_who_hangs_up_ends_the_run_on_fc_only():
    caller = Caller(make_account(functions={"*": Function(duration_s=9)}))
    invocation = caller.call(0, asynchronous=False)
    caller.cloud.abandon(invocation, 1)
    assert state(invocation) is Status.STOPPED
    assert caller.account.fleet.in_use == 0
    assert caller.counted().abandoned == 1
    caller = Caller(make_account("aws-lambda", functions={"*": Function(duration_s=9)}))
    invocation = caller.call(0, asynchronous=False)
    caller.cloud.abandon(invocation, 1)
    assert state(invocation) is Status.RUNNING
    run_to(caller.cloud, 9)
    assert caller.counted().answered == 1


# -- Refusals -------------------------------------------------------------------------------------


def test_unknown_functions_and_qualifiers_are_refused():
    function = Function(qualifiers=("prod",))
    cloud, account = make_cloud(make_account(unlisted=False, functions={"f": function}))
    cloud.find(account, "f", "prod")
    with pytest.raises(FunctionMissing):
        cloud.find(account, "g")
    with pytest.raises(QualifierMissing):
        cloud.find(account, "f", "test")


@pytest.mark.parametrize(
    ("provider", "asynchronous", "size_max"),
    [
        ("aws-lambda", True, 1024 * 1024),
        ("aws-lambda", False, 6 * 1024 * 1024),
        ("aliyun-fc", True, 128 * 1024),
        ("aliyun-fc", False, 32 * 1024 * 1024),
    ],
)
def test_payloads_are_limited_as_the_provider_says(provider, asynchronous, size_max):
    caller = Caller(make_account(provider))
    caller.call(0, bytes(size_max), asynchronous=asynchronous)
    with pytest.raises(PayloadTooLarge):
        caller.call(0, bytes(size_max + 1), asynchronous=asynchronous)


def test_the_rate_of_a_caller_is_limited():
    cloud, account = make_cloud(make_account(rate_max_per_s=2))
    cloud.admit(account, 0)
    cloud.admit(account, 0)
    with pytest.raises(Throttled, match=r"Throttling\.User"):
        cloud.admit(account, 0)
    cloud.admit(account, 0.5)
    assert account_statistics(account, 1).throttles_sync == {"Throttling.User": 1}


def test_a_task_id_is_accepted_once_while_task_mode_is_on():
    caller = Caller(make_account())
    caller.call(0, task_id="t")
    run_to(caller.cloud, 10)
    with pytest.raises(TaskExists):
        caller.call(10, task_id="t")
    # After seven days it is forgotten.
    caller.call(10 + 7 * 86400, task_id="t")
    caller = Caller(make_account(functions={"f": Function(async_task=False)}))
    for _ in range(2):
        caller.call(0, task_id="t")
    assert caller.account.tasks.find("f", "t", 0) is None


# -- Tasks ----------------------------------------------------------------------------------------


def test_stopping_ends_a_waiting_task_at_once_and_a_running_one_after_its_grace():
    function = Function(duration_s=10, stop_s=2)
    caller = Caller(make_account(quota=1, functions={"f": function}))
    running, waiting = caller.call(0, task_id="r"), caller.call(0, task_id="w")
    caller.cloud.stop(waiting, 1)
    caller.cloud.stop(running, 1)
    assert state(waiting) is Status.STOPPED
    assert state(running) is Status.STOPPING
    assert caller.account.fleet.in_use == 1
    run_to(caller.cloud, 3)
    assert state(running) is Status.STOPPED
    assert running.ended_at == 3
    assert caller.account.fleet.in_use == 0
    run_to(caller.cloud, 100)
    assert [run.ended_at for run in caller.cloud.runs] == [3]
    assert [status for status, _ in running.steps] == [
        Status.ENQUEUED,
        Status.DEQUEUED,
        Status.RUNNING,
        Status.STOPPING,
        Status.STOPPED,
    ]


def test_a_retrying_task_holds_no_instance():
    function = Function(duration_s=1, retry_waits_s=(5,))
    caller = Caller(make_account(functions={"f": function}))
    task = caller.call(0, b'{"emulate": {"fail_attempts": 1}}', task_id="t")
    run_to(caller.cloud, 2)
    assert state(task) is Status.RETRYING
    assert caller.account.fleet.in_use == 0
    run_to(caller.cloud, 6)
    assert state(task) is Status.RUNNING


# -- How runs go ----------------------------------------------------------------------------------


def test_cold_starts_take_longer_and_warm_instances_do_not():
    function = Function(duration_s=1, cold_start_s=3, idle_s=10)
    caller = Caller(make_account(functions={"f": function}))
    for now in (0, 5, 20):
        caller.call(now)
        run_to(caller.cloud, now + 4)
    assert [(run.ended_at, run.cold) for run in caller.cloud.runs] == [
        (4, True),
        (6, False),
        (24, True),
    ]


@pytest.mark.parametrize(("jitter", "low", "high"), [("uniform", 0.5, 1.5), ("lognormal", 0, 99)])
def test_durations_scatter(jitter, low, high):
    function = Function(duration_s=1, jitter=jitter, jitter_spread=0.5)
    caller = Caller(make_account(quota=500, functions={"f": function}))
    for _ in range(500):
        caller.call(0)
    run_to(caller.cloud, 1000)
    took = sorted(run.ended_at for run in caller.cloud.runs)
    assert low <= took[0] < 0.9
    assert 1.1 < took[-1] <= high
    assert took[250] == pytest.approx(1, abs=0.1)


def test_a_run_beyond_the_timeout_fails_at_the_timeout():
    caller = Caller(make_account("aws-lambda", functions={"f": Function(timeout_s=3)}))
    invocation = caller.call(0, b'{"emulate": {"duration_s": 5}}', asynchronous=False)
    run_to(caller.cloud, 100)
    assert invocation.duration_s == 3
    assert invocation.failure is not None
    assert invocation.failure.type == "Sandbox.Timedout"


def test_failures_come_at_their_rate():
    function = Function(failure_rate=0.3, max_async_retry_attempts=0)
    caller = Caller(make_account(quota=1000, functions={"f": function}))
    for _ in range(1000):
        caller.call(0)
    run_to(caller.cloud, 10)
    assert 230 < caller.counted().failed < 370


def test_the_ramp_limits_new_instances_only():
    account = make_account(
        quota=100, ramp=Ramp(burst=2, per_minute=60), functions={"f": Function(duration_s=0.5)}
    )
    caller = Caller(account)
    for _ in range(2):
        caller.call(0, asynchronous=False)
    with pytest.raises(Throttled) as caught:
        caller.call(0, asynchronous=False)
    assert caught.value.shortage is Shortage.RAMP
    run_to(caller.cloud, 0.6)
    for _ in range(2):
        caller.call(0.6, asynchronous=False)
    with pytest.raises(Throttled):
        caller.call(0.6, asynchronous=False)
    caller.call(1.7, asynchronous=False)


# -- Records --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "function", "arn", "condition"),
    [
        (b'{"a": 1}', Function(), "arn:aws:sqs:here:1:good", "Success"),
        (b'{"emulate": {"fail": true}}', Function(), "arn:aws:sqs:here:1:bad", "RetriesExhausted"),
        (b"{}", Function(max_async_event_age_s=0), "arn:aws:sqs:here:1:bad", "EventAgeExceeded"),
        (b"{}", Function(reserved=0), "arn:aws:sqs:here:1:bad", "ZeroReservedConcurrency"),
    ],
)
def test_the_end_of_an_event_is_told_to_its_destination(payload, function, arn, condition):
    function = msgspec.structs.replace(function, on_success="good", on_failure="bad")
    caller = Caller(make_account("aws-lambda", functions={"f": function}))
    event = caller.cloud.invoke(
        caller.function, caller.account, 0, payload=payload, asynchronous=True
    )
    [(_, told)] = run_to(caller.cloud, 1000)
    assert isinstance(told, Delivery)
    assert told.arn == arn
    record = msgspec.json.decode(told.body)
    assert record["requestContext"]["condition"] == condition
    assert record["requestContext"]["requestId"] == event.request_id


# -- Any order of events --------------------------------------------------------------------------

FUNCTIONS = {
    "plain": Function(duration_s=1, on_success=None),
    "jitter": Function(duration_s=2, jitter="lognormal", jitter_spread=1, failure_rate=0.3),
    "packed": Function(duration_s=3, instance_concurrency=3, vcpu=0.35),
    "pinned": Function(duration_s=3, instance_concurrency=3, placement="pinned", cold_start_s=1),
    "reserved": Function(duration_s=2, reserved=2),
    "stopping": Function(duration_s=5, stop_s=1, max_async_event_age_s=20),
    "refused": Function(reserved=0),
}


class Promises(RuleBasedStateMachine):
    """Any order of calls, stops and changes keeps the cloud's promises."""

    @initialize(
        provider=st.sampled_from(["aws-lambda", "aliyun-fc"]),
        rng=st.randoms(use_true_random=False),
        quota=st.integers(3, 8),
        ramp=st.sampled_from([None, Ramp(burst=2, per_minute=30)]),
    )
    def begin(self, provider: Any, rng: random.Random, quota: int, ramp: Ramp | None) -> None:
        account = make_account(provider, quota, ramp=ramp, vcpu_max=2, functions=FUNCTIONS)
        self.cloud = Cloud(Settings(accounts={"a": account}, tasks_max=5), rng)
        self.account = self.cloud.accounts["a"]
        self.now = 0.0
        self.accepted: list[Invocation] = []
        self.answered: Counter[Invocation] = Counter()
        self.in_use = 0

    @rule(
        name=st.sampled_from(sorted(FUNCTIONS)),
        asynchronous=st.booleans(),
        fails=st.booleans(),
        task=st.sampled_from([None, "t1", "t2", "t3"]),
        delay_s=st.sampled_from([0, 0, 7]),
        count=st.integers(1, 4),
    )
    def call(
        self, name: str, asynchronous: bool, fails: bool, task: str, delay_s: float, count: int
    ) -> None:
        function = self.cloud.find(self.account, name)
        for _ in range(count):
            try:
                invocation = self.cloud.invoke(
                    function,
                    self.account,
                    self.now,
                    payload=b'{"emulate": {"fail_attempts": 2}}' if fails else b"{}",
                    asynchronous=asynchronous,
                    task_id=task,
                    delay_s=delay_s,
                )
            except (Throttled, TaskExists):
                continue
            self.accepted.append(invocation)
        self.tell()

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 3.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.tell()

    @rule()
    def wait_for_the_next(self) -> None:
        deadline = self.cloud.next_deadline()
        if deadline is not None:
            self.now = max(self.now, deadline)
            self.tell()

    @rule(quota=st.none() | st.integers(0, 8), foreign=st.none() | st.integers(0, 10))
    def change(self, quota: int | None, foreign: int | None) -> None:
        self.account.fleet.change(self.now, quota=quota, foreign=foreign)

    @rule(name=st.sampled_from(sorted(FUNCTIONS)), reserved=st.sampled_from([None, 0, 1]))
    def reserve(self, name: str, reserved: int | None) -> None:
        pool = self.cloud.find(self.account, name).pool
        changed = msgspec.structs.replace(pool.function, reserved=reserved)
        self.account.fleet.change_function(pool, changed, self.now)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        alive = [item for item in self.accepted if item.status not in ENDED]
        if not alive:
            return
        invocation = data.draw(st.sampled_from(alive))
        if invocation.asynchronous:
            self.cloud.stop(invocation, self.now)
        else:
            self.cloud.abandon(invocation, self.now)
        self.tell()

    def tell(self) -> None:
        for effect in self.cloud.due(self.now):
            assert isinstance(effect, Answered)
            self.answered[effect.invocation] += 1

    @invariant()
    def the_quota_is_never_exceeded(self) -> None:
        fleet = self.account.fleet
        if fleet.in_use > self.in_use:
            assert fleet.in_use + fleet.foreign <= fleet.quota, fleet
        self.in_use = fleet.in_use

    @invariant()
    def instances_are_those_of_the_runs(self) -> None:
        running: dict[str, list[Invocation]] = {}
        for item in self.accepted:
            if item.status in ON_INSTANCE:
                running.setdefault(item.function.name, []).append(item)
        for function in self.functions():
            items = running.get(function.name, [])
            if function.settings.placement == "packed":
                held = ceil(len(items) / function.settings.instance_concurrency)
            else:
                held = len({item.instance for item in items})
                loads = Counter(item.instance for item in items)
                assert all(load <= 3 for load in loads.values())
            assert function.pool.in_use == held, function.pool
        assert self.account.fleet.in_use == sum(f.pool.in_use for f in self.functions())

    @invariant()
    def the_books_balance(self) -> None:
        for function in self.functions():
            counts = function.counts
            ended = counts.succeeded + counts.failed + counts.expired
            ended += counts.dropped + counts.stopped
            alive = function.queued + function.running_async
            assert counts.accepted_async == ended + alive
            running_sync = function.running - function.running_async
            assert counts.accepted_sync == counts.answered + counts.abandoned + running_sync

    @invariant()
    def nothing_spins(self) -> None:
        deadline = self.cloud.next_deadline()
        assert deadline is None or deadline > self.now

    @invariant()
    def tasks_are_listed_where_they_stand(self) -> None:
        self.account.tasks.check()

    def teardown(self) -> None:
        if not hasattr(self, "cloud"):
            return
        while (deadline := self.cloud.next_deadline()) is not None:
            self.now = max(self.now, deadline)
            self.tell()
        assert all(item.status in ENDED for item in self.accepted)
        self.instances_are_those_of_the_runs()
        self.the_books_balance()
        assert self.account.fleet.in_use == self.account.queued == 0
        assert self.account.fleet._vcpu_milli == self.account.fleet._reserved_in_use == 0
        ran = Counter(run.request_id for run in self.cloud.runs)
        for item in self.accepted:
            assert ran[item.request_id] == item.attempts
            if not item.asynchronous:
                told = item.status is not Status.STOPPED
                assert self.answered[item] == told

    def functions(self) -> Iterator[FunctionState]:
        return iter(self.account.functions.values())


TestPromises = Promises.TestCase
TestPromises.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
