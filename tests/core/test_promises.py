"""Any stimuli in any order keep the promises of the machine."""

import math
from typing import Any
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dispatcher.core.effects import Effect
from dispatcher.core.model import (
    Accepted,
    CallType,
    Denied,
    GateKind,
    Lost,
    NotSent,
    Refused,
    Replied,
    Source,
    State,
    Throttled,
    Verdict,
)
from dispatcher.core.rules import (
    AccountRules,
    FunctionRules,
    RampRules,
    ResourceRules,
    RetryRules,
    Rules,
    TenantRules,
)
from tests.core.world import FAILURE, World, live_of

FUNCTIONS = ("f", "g", "h", "k")
TENANTS = ("default", "a", "b", "c")
QUALIFIERS = (None, "1", "2")

retry_afters = st.sampled_from([None, None, 0.0, 0.5, 40.0, 1e12])

outcomes = st.one_of(
    st.just(Accepted("r")),
    st.builds(
        Replied,
        request_id=st.just("r"),
        payload=st.just(b""),
        failure=st.sampled_from([None, FAILURE]),
    ),
    st.builds(
        Throttled,
        gate=st.sampled_from([GateKind.ACCOUNT, GateKind.FUNCTION, GateKind.RATE]),
        function_rate=st.booleans(),
        reason=st.sampled_from(["one", "two"]),
        retry_after_s=retry_afters,
    ),
    st.just(Refused(FAILURE)),
    st.just(Denied(FAILURE)),
    st.builds(NotSent, st.just(FAILURE), retry_after_s=retry_afters),
    st.builds(Lost, st.just(FAILURE), timed_out=st.booleans(), retry_after_s=retry_afters),
)

ramps = st.sampled_from(
    [
        None,
        None,
        RampRules(burst=1, per_minute=20.0),
        RampRules(burst=3, per_minute=600.0),
    ]
)

functions = st.builds(
    FunctionRules,
    completion=st.sampled_from(
        [Source.TASK, Source.TASK, Source.CALLBACK, Source.DURATION, Source.ACCEPTED]
    ),
    instance_concurrency=st.sampled_from([1, 1, 2, 3]),
    instances_max=st.sampled_from([None, None, 1, 2]),
    hold_max_s=st.sampled_from([3.0, 20.0, 900.0]),
    duration_s=st.sampled_from([0.5, 4.0]),
    attempts_max=st.sampled_from([1, 2, 3]),
    vcpu=st.sampled_from([0.0, 0.0, 0.35, 1.0]),
    ramp=ramps,
)

tenants = st.builds(
    TenantRules,
    weight=st.sampled_from([1.0, 0.25, 3.0]),
    reserved=st.sampled_from([0, 0, 1, 2]),
    limit=st.sampled_from([None, None, 1, 2]),
)


@st.composite
def accounts(draw: st.DrawFn) -> AccountRules:
    quota = draw(st.integers(1, 6))
    return AccountRules(
        quota=quota,
        headroom=draw(st.integers(0, quota - 1)),
        limit=draw(st.sampled_from(["fixed", "adaptive"])),
        limit_min=draw(st.sampled_from([1, 3])),
        ramp=draw(ramps),
        resources=draw(
            st.sampled_from([None, None, ResourceRules(vcpu=1.0), ResourceRules(vcpu=2.5)])
        ),
        requests_max=draw(st.sampled_from([1, 3, 256])),
        rate_max_per_s=draw(st.sampled_from([0.0, 0.0, 2.0, 100.0])),
        functions=draw(st.dictionaries(st.sampled_from(["*", *FUNCTIONS]), functions, min_size=1)),
        tenants=draw(st.dictionaries(st.sampled_from(TENANTS), tenants, max_size=3)),
    )


@st.composite
def all_rules(draw: st.DrawFn) -> Rules:
    return Rules(
        accounts={"main": draw(accounts()), "other": draw(accounts())},
        retry=RetryRules(
            delay_base_s=0.5, delay_max_s=8.0, age_max_s=draw(st.sampled_from([30.0, 21600.0]))
        ),
        at_most_once=draw(st.booleans()),
    )


def plain(effects: list[Effect]) -> list[tuple[Any, ...]]:
    """Return effects in a form that those of two machines can be compared in."""
    return [
        (
            type(effect).__name__,
            getattr(getattr(effect, "job", None), "id", None),
            getattr(effect, "state", None),
            getattr(effect, "failure", None),
            getattr(effect, "forced", None),
        )
        for effect in effects
    ]


class Promises(RuleBasedStateMachine):
    """Two worlds that are told the same; each checks itself, and both must do the same."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = [
            patch("dispatcher.core.account.IDLE_KEPT", 2),
            patch("dispatcher.core.lanes.LANES_KEPT", 1),
            patch("dispatcher.core.ramp.RESTART_BURST", 1),
        ]
        for each in self.patches:
            each.start()

    @initialize(rules=all_rules(), start=st.sampled_from([0.0, 1e6]))
    def begin(self, rules: Rules, start: float) -> None:
        self.worlds = [World(rules), World(rules)]
        for world in self.worlds:
            world.now = start

    @property
    def world(self) -> World:
        return self.worlds[0]

    def both(self, stimulus: Any) -> None:
        """Give the stimulus to both worlds, then let both decide, one of them bit by bit."""
        first = self.given(stimulus, self.worlds[0])
        with (
            patch("dispatcher.core.deadlines.HELD_ANEW_AT_ONCE", 1),
            patch("dispatcher.core.backlog.CLEARED_AT_ONCE", 1),
            patch("dispatcher.core.lazy_heap.CLEARED_IN_PASSING", 0),
        ):
            assert self.given(stimulus, self.worlds[1]) == first

    def given(self, stimulus: Any, world: World) -> Any:
        result = stimulus(world)
        effects = result if isinstance(result, list) else []
        return plain(effects), plain(world.due())

    @rule(
        function=st.sampled_from(FUNCTIONS),
        tenant=st.sampled_from(TENANTS),
        qualifier=st.sampled_from(QUALIFIERS),
        account=st.sampled_from(["main", "main", "other"]),
        delay_s=st.sampled_from([0.0, 0.0, 0.0, 1.0, 6.0]),
        expires_s=st.sampled_from([math.inf, math.inf, 2.0, 8.0]),
        priority=st.sampled_from([0.0, 0.0, 10.0, -5.0]),
        type=st.sampled_from([CallType.ASYNC, CallType.ASYNC, CallType.SYNC]),
        count=st.sampled_from([1, 1, 2, 5]),
    )
    def admit(self, count: int, **fields: Any) -> None:
        self.both(lambda world: world.admit_many(count, **fields) and None)

    @rule(
        function=st.sampled_from(FUNCTIONS),
        tenant=st.sampled_from(TENANTS),
        state=st.sampled_from([State.SENDING, State.RUNNING]),
        sent_ago_s=st.sampled_from([0.0, 1.0, 10.0, 1000.0]),
        attempt=st.sampled_from([1, 2]),
        expires_s=st.sampled_from([math.inf, 2.0]),
    )
    def restore(self, state: State, sent_ago_s: float, **fields: Any) -> None:
        self.both(lambda world: world.restore(world.job(**fields), state, sent_ago_s))

    @precondition(lambda self: self.world.sending)
    @rule(pick=st.integers(0, 1000), outcome=outcomes)
    def answer(self, pick: int, outcome: Any) -> None:
        keys = list(self.world.sending)
        job_id, attempt = keys[pick % len(keys)]
        self.both(lambda world: world.answer(world.jobs[job_id], outcome, attempt))

    @precondition(lambda self: self.world.sending)
    @rule()
    def answer_all_well(self) -> None:
        for job_id, attempt in list(self.world.sending):
            self.both(lambda world: world.answer(world.jobs[job_id], Accepted("r"), attempt))  # noqa: B023

    @precondition(lambda self: self.world.jobs)
    @rule(
        pick=st.integers(0, 1000),
        verdict=st.sampled_from(Verdict),
        attempt=st.sampled_from([None, 0, 0, -1, 1]),
        run_s=st.sampled_from([None, 0.25, 7.0, math.nan, -1.0]),
        start_delay_s=st.sampled_from([None, 0.0, 0.5, 100.0, math.inf, math.nan]),
        live=st.booleans(),
    )
    def complete(
        self,
        pick: int,
        verdict: Verdict,
        attempt: int | None,
        live: bool,
        **fields: float | None,
    ) -> None:
        """News of any attempt of any job, also of one that ended long ago or was never sent."""
        ids = self.live_ids() if live else list(self.world.jobs)
        if not ids:
            return
        job_id = ids[pick % len(ids)]

        def tell(world: World) -> list[Effect]:
            job = world.jobs[job_id]
            number = None if attempt is None else job.attempt + attempt
            return world.complete(job, verdict, attempt=number, **fields)

        self.both(tell)

    def live_ids(self) -> list[str]:
        return [job.id for job in live_of(self.world.machine)]

    @rule(seconds=st.sampled_from([0.0, 0.125, 1.0, 5.0, 30.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.both(lambda world: world.advance(seconds))

    @rule()
    def wait_for_the_deadline(self) -> None:
        deadline = self.world.machine.next_deadline(self.world.now)
        if deadline is not None:
            self.both(lambda world: world.advance(deadline - world.now))

    @precondition(lambda self: self.world.machine.jobs)
    @rule(pick=st.integers(0, 1000), can_stop=st.booleans())
    def cancel(self, pick: int, can_stop: bool) -> None:
        ids = self.live_ids()
        job_id = ids[pick % len(ids)]
        self.both(lambda world: world.cancel(world.jobs[job_id], can_stop=can_stop) and None)

    @rule(
        account=st.sampled_from(["main", "main", "other"]),
        function=st.sampled_from([None, *FUNCTIONS]),
        paused=st.booleans(),
    )
    def pause(self, account: str, function: str | None, paused: bool) -> None:
        self.both(lambda world: world.machine.pause(account, function, paused=paused))

    @rule(
        account=st.sampled_from(["main", "main", "other"]),
        function=st.sampled_from(FUNCTIONS),
        qualifier=st.sampled_from(QUALIFIERS),
        why=st.sampled_from([None, "task mode is off"]),
    )
    def change_the_tracking(self, **news: Any) -> None:
        self.both(lambda world: world.machine.tracking_changed(**news))

    @rule(rules=all_rules())
    def change_the_rules(self, rules: Rules) -> None:
        self.both(lambda world: world.machine.set_rules(rules))

    @invariant()
    def ends_add_up(self) -> None:
        if not hasattr(self, "worlds"):
            return
        for world in self.worlds:
            assert world.jobs.keys() == world.machine.jobs.keys() ^ world.finishes.keys()
            assert sum(world.machine.counters.ended.values()) == len(world.finishes)

    def teardown(self) -> None:
        """Let all go well from here: everything that waits must come to its end."""
        try:
            for world in getattr(self, "worlds", []):
                for name, account in world.machine.accounts.items():
                    world.machine.pause(name, None, paused=False)
                    for function in list(account.functions):
                        world.machine.pause(name, function, paused=False)
                world.drain()
                for account in world.machine.accounts.values():
                    assert account.gate.in_use == 0
                    assert not any(account.in_flight.values())
        finally:
            for each in self.patches:
                each.stop()


TestPromises = Promises.TestCase
TestPromises.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
