"""One account: its gates, its functions, its tenants and what waits of it."""

import math
from collections import defaultdict
from typing import Any, Final

from msgspec import UNSET

from dispatcher.core.adaptive import START_DELAY_S
from dispatcher.core.backlog import Backlog
from dispatcher.core.gates import (
    AccountGate,
    Blocked,
    FunctionGate,
    Slot,
    TenantGate,
    rules_for,
)
from dispatcher.core.job import Job
from dispatcher.core.lanes import Lane, TenantQueue
from dispatcher.core.lazy_heap import Ranking
from dispatcher.core.model import Completion, GateKind, Outcome, Replied, Throttled
from dispatcher.core.retry import retry_after_s
from dispatcher.core.rules import AccountRules, TenantRules
from dispatcher.core.statistics import Times
from dispatcher.core.views import FunctionView, Labels, Queued, TenantView, WaitingFor

#: Functions without a section that get a metric label of their own.
LABELS_MAX: Final = 100
#: Idle functions without a section, and idle tenants, that are remembered.
IDLE_KEPT: Final = 1024
#: What a run is thought to take before anything is known, for the charge at its launch.
UNKNOWN_RUN_S: Final = 1.0

#: How long a rate is let rest that the cloud found too high, where it does not say itself.
RATE_CLOSED_S: Final = 0.5

OTHER: Final = "other"
DEFAULT: Final = "default"


class Account:
    """What belongs together under one quota."""

    def __init__(self, name: str, rules: AccountRules) -> None:
        self.name = name
        self.gate = AccountGate(name, rules)
        self.backlog = Backlog()
        self.functions: dict[str, FunctionGate] = {}
        self._closings: Ranking[FunctionGate] = Ranking()  #: by when they open again
        #: Invocations that hold a slot, by the labels of their function and tenant.
        self.in_flight: dict[tuple[str, str], int] = {}
        self.blocked_by: GateKind | None = None
        self.blocked_since = 0.0
        self.reopens_at = math.inf  #: no function that is closed opens before this
        self.ramp_opens_at: float | None = None  #: when time alone lets the next one pass
        self.times = Times()
        self._labelled: set[str] = set()
        self._forget_functions_at = IDLE_KEPT
        self._forget_tenants_at = IDLE_KEPT
        for function in rules.functions:
            if function != "*":
                self.function(function)
        for tenant in (DEFAULT, *rules.tenants):
            self.tenant(tenant)

    def __repr__(self) -> str:
        return f"<Account {self.gate!r} waiting={self.backlog.due}+{self.backlog.delayed}>"

    # -- Names

    def function(self, name: str) -> FunctionGate:
        """Return the gate of a function, made at the first mention."""
        gate = self.functions.get(name)
        if gate is None:
            if len(self.functions) >= self._forget_functions_at:
                self._forget_functions()
            rules = self.gate.rules.functions
            gate = self.functions[name] = FunctionGate(
                name, rules_for(rules, name), self._label(name), listed=name in rules
            )
        return gate

    def tenant(self, name: str) -> TenantQueue:
        """Return the queue of a tenant, made at the first mention."""
        queue = self.backlog.tenants.get(name)
        if queue is None:
            if len(self.backlog.tenants) >= self._forget_tenants_at:
                self._forget_tenants()
            tenants = self.gate.rules.tenants
            label = name if name in tenants or name == DEFAULT else OTHER
            gate = TenantGate(tenants.get(name, TenantRules()))
            queue = self.backlog.tenants[name] = TenantQueue(
                self.name, name, label, gate, self.backlog.next_serial()
            )
        return queue

    def lane(self, function: str, qualifier: str | None, tenant: str) -> Lane:
        """Return where an invocation waits."""
        return self.tenant(tenant).lane(self.function(function), qualifier)

    def _label(self, name: str) -> str:
        if name in self.gate.rules.functions or name in self._labelled:
            return name
        if len(self._labelled) < LABELS_MAX:
            self._labelled.add(name)
            return name
        return OTHER

    def _forget_functions(self) -> None:
        for gate in self.functions.values():
            gate.forgotten = gate.idle
        self.functions = {name: gate for name, gate in self.functions.items() if not gate.forgotten}
        self._forget_functions_at = IDLE_KEPT + 2 * len(self.functions)

    def _forget_tenants(self) -> None:
        known = {DEFAULT, *self.gate.rules.tenants}
        self.backlog.forget_idle(self.backlog.tenants.keys() - known, IDLE_KEPT // 2)
        self._forget_tenants_at = IDLE_KEPT + 2 * len(self.backlog.tenants)

    # -- Slots

    def take(self, job: Job, now: float) -> Slot:
        """Give *job* a slot, counted at every gate and charged to its tenant in advance."""
        assert job.slot is None, job.id
        lane = job.lane
        function, tenant = lane.function, lane.tenant
        share = function.concurrency
        duration_s = function.durations.expected_s(function.rules.duration_s)
        labels = (function.label, tenant.label)
        slot = job.slot = Slot(
            job=job,
            attempt=job.attempt,
            share=share,
            price=1 / share / tenant.gate.rules.weight,
            labels=labels,
            taken_at=now,
            charged_s=UNKNOWN_RUN_S if duration_s is None else duration_s,
        )
        if function.take(lane.qualifier, now):
            self.gate.take(1, function.milli_vcpu)
        tenant.gate.take(share)
        self.in_flight[labels] = self.in_flight.get(labels, 0) + 1
        tenant.passed += slot.charged_s * slot.price
        self.backlog.rerank(tenant)
        if tenant.short_since is not None:
            self._note_reclaimed(tenant, now)
        return slot

    def _note_reclaimed(self, tenant: TenantQueue, now: float) -> None:
        since = tenant.short_since
        if since is None or (tenant.due and tenant.gate.floor_part is not None):
            return
        tenant.short_since = None
        if now > since:  # else nobody had borrowed it
            self.times.reclaim_s.observe(now - since)

    def give_back(self, slot: Slot, now: float) -> None:
        """Take a slot back, settle what it cost, and let others use the room."""
        lane = slot.job.lane
        function, tenant = lane.function, lane.tenant
        self.in_flight[slot.labels] -= 1
        if function.give_back(lane.qualifier):
            self.gate.give_back(1, function.milli_vcpu)
        tenant.gate.give_back(slot.share)
        tenant.passed += (now - slot.taken_at - slot.charged_s) * slot.price
        self.backlog.rerank(tenant)
        if tenant.gate.rules.reserved:
            tenant.note_short(now)
        self.backlog.room_at(function)

    def next_to_go(self, now: float) -> Job | GateKind | None:
        """
        Return the job that is to be launched now, with its slot taken; None: nothing is due.

        Where something is due and may not go, return the gate that says no.
        """
        gate, backlog = self.gate, self.backlog
        if not backlog.due:
            return None
        if (shut := gate.shut(now)) is not None:
            return shut.gate
        if backlog.resends and (job := backlog.resends.first(now)) is not None:
            backlog.resend(job)
            return job
        if gate.full and backlog.any_ready:
            return GateKind.ACCOUNT  # whoever it would be
        return self._next_of_lanes(now)

    def _next_of_lanes(self, now: float) -> Job | GateKind:
        gate, backlog = self.gate, self.backlog
        lane = backlog.next_lane(now)
        if lane is None:
            self.ramp_opens_at = None  # when a function's own does, the backlog knows
            return backlog.parked_by(now) or GateKind.TENANT
        if (no_room := gate.no_room(lane.function, lane.qualifier, now)) is not None:
            self.ramp_opens_at = no_room.until
            return no_room.gate
        if gate.pace is not None:
            gate.launch(lane.function, lane.qualifier, now)
        job = backlog.take(lane)
        self.take(job, now)
        return job

    def answered(self, function: FunctionGate, slot: Slot, outcome: Outcome, now: float) -> bool:
        """Count a send as over; True: the circuit opened for what came of it."""
        if isinstance(outcome, Throttled):
            self._throttled(function, slot, outcome, now)
        elif isinstance(outcome, Replied):
            self._ran(function, now - slot.sent_at, now)
        return self.gate.answered(slot, outcome, now)

    def ended(self, function: FunctionGate, slot: Slot, completion: Completion, now: float) -> None:
        """Learn from the end of an asynchronous run whose slot is still held."""
        delay_s = completion.start_delay_s
        if delay_s is not None and START_DELAY_S <= delay_s < math.inf:
            # What is held is held for the wait and the run: so much of it is queued over there.
            held_s = now - slot.sent_at
            running = self.gate.in_use * max(0.0, 1.0 - delay_s / held_s) if held_s > 0 else 0.0
            self.gate.met_quota(slot.sent_at, max(1, round(running)), now)
        else:
            run_s = completion.run_s
            if run_s is not None and not 0.0 <= run_s < math.inf:
                run_s = None
            self._ran(function, run_s, now)

    def _throttled(
        self, function: FunctionGate, slot: Slot, outcome: Throttled, now: float
    ) -> None:
        """Take a refusal to the gate whose limit it names, and close it for as long as was asked."""
        wait_s = retry_after_s(outcome)
        if outcome.gate is GateKind.FUNCTION:
            if outcome.function_rate:
                wait_s = wait_s or RATE_CLOSED_S
            else:
                function.met_limit(slot.sent_at, self.gate.ceiling, now)
            if wait_s:
                self._close(function, now + wait_s)
            return
        if outcome.gate is GateKind.RATE:
            wait_s = wait_s or RATE_CLOSED_S
        else:
            self.gate.met_quota(slot.sent_at, self.gate.in_use, now)
        if wait_s:
            self.gate.close(outcome, now + wait_s)

    def _ran(self, function: FunctionGate, run_s: float | None, now: float) -> None:
        if self.gate.foreign or self.gate.adaptive is not None:
            self.gate.ran(run_s, now)
        if function.adaptive is not None:
            function.ran(run_s, now)

    # -- Time

    def _close(self, function: FunctionGate, until: float) -> None:
        if until > function.closed_until:
            function.closed_until = until
            self._closings.place((until, function.name, function))
            self.backlog.shut(function)
            self.reopens_at = min(self.reopens_at, until)

    def reopen(self, now: float) -> None:
        """Let out what waits for functions whose closing time is over."""
        while (function := self._closings.first()) is not None and function.closed_until <= now:
            self._closings.pop()
            function.closed_until = -math.inf
            self.backlog.opened(function)
        self.reopens_at = math.inf if function is None else function.closed_until

    def next_time(self, now: float) -> float:
        """Return when time alone lets something happen, later than *now*; infinity: never."""
        at = min(self.backlog.wakes_at, self.reopens_at)
        if self.backlog.due:
            shut = self.gate.shut(now)
            if shut is not None and shut.until is not None:
                at = min(at, shut.until)
            if self.blocked_by is GateKind.RAMP and self.ramp_opens_at is not None:
                at = min(at, self.ramp_opens_at)
        return at

    def note_blocked(
        self, gate: GateKind | None, now: float, seconds: defaultdict[Labels, float]
    ) -> None:
        """Note which gate holds due work up from now on, and add up what was until now."""
        if self.blocked_by is not None:
            seconds[self.name, self.blocked_by] += now - self.blocked_since
        self.blocked_by = gate
        self.blocked_since = now

    # -- Rules that change

    def pause(self, function: str | None, *, paused: bool) -> None:
        """Stop or resume all sends, or those to one function."""
        if function is None:
            self.gate.pause(paused=paused)
            return
        gate = self.function(function)
        if gate.paused and not paused:
            gate.starts_again(self.gate.limit)
        gate.paused = paused
        if paused:
            self.backlog.shut(gate)
        self.backlog.opened(gate)

    def set_rules(self, rules: AccountRules) -> None:
        """Take new limits, functions and tenants; what is held stays held."""
        self.gate.set_rules(rules)
        for name, function in self.functions.items():
            function.listed = name in rules.functions
            vcpu = function.in_use * function.milli_vcpu
            added = function.set_rules(rules_for(rules.functions, name))
            self.gate.take(added, function.in_use * function.milli_vcpu - vcpu)
            self.backlog.opened(function)
        for name in rules.functions:
            if name != "*":
                self.function(name).label = name
        for name in rules.tenants:
            self.tenant(name).label = name
        for name, tenant in self.backlog.tenants.items():
            tenant.gate.rules = rules.tenants.get(name, TenantRules())
            tenant.short_since = None  # counted anew from its next invocation or end
            self.backlog.rerank(tenant)

    # -- What others want to know

    def waiting_for(self, job: Job, now: float) -> WaitingFor:
        """Say which gate *job* waits for."""
        if job.waits_for is not None and job.wakes_at > now:
            return WaitingFor(
                gate=job.waits_for, name=job.lane.function.name, until_s=job.wakes_at - now
            )
        return _explained(self._blocked(job, now), now)

    def _blocked(self, job: Job, now: float) -> Blocked:
        lane = job.lane
        function, tenant = lane.function, lane.tenant
        shut = self.gate.shut(now)
        if shut is not None and shut.gate is not GateKind.RATE:
            return shut
        if (blocked := function.shut(now)) is not None:
            return blocked
        if job.slot is None:
            if lane.line is not None or function.blocked(lane.qualifier, now) is not None:
                blocked = function.blocked(lane.qualifier, now)
                return blocked or Blocked(
                    GateKind.FUNCTION, function.name, function.limit, function.in_use
                )
            if tenant.at_ceiling or not lane.fits_tenant:
                held = tenant.gate
                return Blocked(GateKind.TENANT, tenant.name, held.rules.limit, held.in_use)
            if (no_room := self.gate.no_room(function, lane.qualifier, now)) is not None:
                return no_room
        # Nothing but the order, or the pump that has not come round yet.
        return shut or Blocked(GateKind.ACCOUNT, self.name, self.gate.limit, self.gate.in_use)

    def function_views(self) -> dict[str, FunctionView]:
        """Return every function that is listed or in use."""
        return {
            name: FunctionView(
                limit=gate.limit,
                in_use=gate.in_use,
                queued=gate.queued,
                paused=gate.paused,
                untracked=UNSET if gate.problem is None else gate.problem,
            )
            for name, gate in self.functions.items()
            if not gate.idle
        }

    def tenant_views(self, now: float) -> dict[str, TenantView]:
        """Return every tenant that is configured or in use."""
        return {
            name: TenantView(
                weight=queue.gate.rules.weight,
                reserved=queue.gate.rules.reserved,
                limit=queue.gate.rules.limit,
                in_use=round(queue.gate.in_use, 6),
                queued=queue.due + queue.delayed,
                oldest_age_s=_age_s(queue.ages.oldest(), now),
            )
            for name, queue in self.backlog.tenants.items()
            if not queue.idle or name in self.gate.rules.tenants
        }

    def queued(self) -> Queued:
        """Return how much waits."""
        return Queued(due=self.backlog.due, delayed=self.backlog.delayed)

    def oldest_age_s(self, now: float) -> float:
        """Return how long the longest waiting due invocation has been due."""
        return _age_s(self.backlog.oldest_due_at(), now)


def _age_s(since: float | None, now: float) -> float:
    return 0.0 if since is None else max(0.0, now - since)


def _explained(blocked: Blocked, now: float) -> WaitingFor:
    """Turn a gate's answer into what callers are shown."""
    fields: dict[str, Any] = {}
    if blocked.limit is not None:
        fields["limit"] = blocked.limit
    if blocked.in_use is not None:
        fields["in_use"] = round(blocked.in_use, 6)
    if blocked.until is not None:
        fields["until_s"] = max(0.0, blocked.until - now)
    return WaitingFor(gate=blocked.gate, name=blocked.name, **fields)
