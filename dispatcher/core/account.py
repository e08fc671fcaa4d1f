"""One account: its gates, its functions, its tenants and what waits of it."""

from collections.abc import MutableMapping
from typing import Any, Final

from dispatcher.core.backlog import Backlog, Job, Lane, TenantQueue
from dispatcher.core.gates import AccountGate, Blocked, FunctionGate, Slot, TenantGate, rules_for
from dispatcher.core.model import AccountRules, GateKind, TenantRules
from dispatcher.core.views import FunctionView, Labels, Queued, TenantView, WaitingFor

#: Functions without a section that get a metric label of their own.
LABELS_MAX: Final = 100
#: Idle functions without a section, and idle tenants, that are remembered.
IDLE_KEPT: Final = 1024

OTHER: Final = "other"
DEFAULT: Final = "default"


class Account:
    """What belongs together under one quota."""

    def __init__(self, name: str, rules: AccountRules) -> None:
        self.name = name
        self.gate = AccountGate(name, rules)
        self.backlog = Backlog()
        self.functions: dict[str, FunctionGate] = {}
        self.closed_functions: set[str] = set()
        #: Invocations that hold a slot, by the labels of their function and tenant.
        self.in_flight: dict[tuple[str, str], int] = {}
        self.blocked_by: GateKind | None = None
        self.blocked_since = 0.0
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
            queue = self.backlog.tenants[name] = TenantQueue(self.name, name, label, gate)
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
        self.functions = {name: gate for name, gate in self.functions.items() if not gate.idle}
        self._forget_functions_at = IDLE_KEPT + 2 * len(self.functions)

    def _forget_tenants(self) -> None:
        rules = self.gate.rules.tenants
        for name, queue in list(self.backlog.tenants.items()):
            if name not in rules and name != DEFAULT:
                self.backlog.forget_idle(queue)
        self._forget_tenants_at = IDLE_KEPT + 2 * len(self.backlog.tenants)

    # -- Slots

    def take(self, job: Job, slot: Slot) -> None:
        """Give *job* the slot, counted at every gate."""
        assert job.slot is None, job.id
        lane = job.lane
        self.gate.take(lane.function.take(slot.qualifier))
        lane.tenant.gate.take(slot.share)
        slot.labels = (lane.function.label, lane.tenant.label)
        self.in_flight[slot.labels] = self.in_flight.get(slot.labels, 0) + 1
        job.slot = slot

    def give_back(self, job: Job) -> Slot:
        """Take the slot of *job* back and let others use the room."""
        slot, lane = job.slot, job.lane
        assert slot is not None, job.id
        job.slot = None
        self.in_flight[slot.labels] -= 1
        self.gate.give_back(lane.function.give_back(slot.qualifier))
        lane.tenant.gate.give_back(slot.share)
        self.backlog.rerank(lane.tenant)
        self.backlog.wake_one(lane.function)
        return slot

    # -- Time

    def reopen(self, now: float) -> None:
        """Let out what waits for functions whose closing time is over."""
        for name in list(self.closed_functions):
            gate = self.functions.get(name)
            if gate is None or gate.closed_until <= now:
                self.closed_functions.discard(name)
                if gate is not None:
                    self.backlog.wake_all(gate)

    def times(self, now: float) -> list[float]:
        """Return the times after *now* at which time alone lets something happen."""
        times = [
            gate.closed_until
            for name in self.closed_functions
            if (gate := self.functions.get(name)) is not None
        ]
        if (at := self.backlog.next_time()) is not None:
            times.append(at)
        if self.backlog.due:
            shut = self.gate.shut(now)
            if shut is not None and shut.until is not None:
                times.append(shut.until)
        return times

    def note_blocked(
        self, gate: GateKind | None, now: float, seconds: MutableMapping[Labels, float]
    ) -> None:
        """Note which gate holds due work up from now on, and add up what was until now."""
        if self.blocked_by is not None:
            seconds[self.name, self.blocked_by] += now - self.blocked_since
        self.blocked_by = gate
        self.blocked_since = now

    # -- Rules that change

    def set_rules(self, rules: AccountRules) -> None:
        """Take new limits, functions and tenants; what is held stays held."""
        self.gate.set_rules(rules)
        for name, function in self.functions.items():
            function.listed = name in rules.functions
            self.gate.in_use += function.set_rules(rules_for(rules.functions, name))
            self.backlog.wake_all(function)
        for name in rules.functions:
            if name != "*":
                self.function(name).label = name
        for name in rules.tenants:
            self.tenant(name).label = name
        for name, tenant in self.backlog.tenants.items():
            tenant.gate.rules = rules.tenants.get(name, TenantRules())
            self.backlog.rerank(tenant)

    # -- What others want to know

    def waiting_for(self, job: Job, now: float) -> WaitingFor:
        """Say which gate *job* waits for."""
        lane = job.lane
        if job.waits_for is not None and job.wakes_at > now:
            return WaitingFor(
                gate=job.waits_for, name=lane.function.name, until_s=job.wakes_at - now
            )
        return _explained(self._blocked(lane, now), now)

    def _blocked(self, lane: Lane, now: float) -> Blocked:
        shut = self.gate.shut(now)
        if shut is not None and shut.gate is not GateKind.RATE:
            return shut
        if (blocked := lane.function.blocked(lane.qualifier, now)) is not None:
            return blocked
        tenant = lane.tenant.gate
        if not tenant.fits(lane.function.rules.instance_concurrency):
            return Blocked(GateKind.TENANT, lane.tenant.name, tenant.rules.limit, tenant.in_use)
        instances = lane.function.instances_for_one_more(lane.qualifier)
        if (blocked := self.gate.full(instances)) is not None:
            return blocked
        # Nothing but the order, or the pump that has not come round yet.
        return shut or Blocked(GateKind.ACCOUNT, self.name, self.gate.limit, self.gate.in_use)

    def function_views(self) -> dict[str, FunctionView]:
        """Return every function that is listed or in use."""
        queued: dict[str, int] = {}
        for tenant in self.backlog.tenants.values():
            for lane in tenant.lanes.values():
                if lane.count:
                    queued[lane.function.name] = queued.get(lane.function.name, 0) + lane.count
        return {
            name: FunctionView(
                limit=gate.rules.instances_max,
                in_use=gate.in_use,
                queued=queued.get(name, 0),
                paused=gate.paused,
            )
            for name, gate in self.functions.items()
            if not gate.idle
        }

    def tenant_views(self) -> dict[str, TenantView]:
        """Return every tenant that is configured or in use."""
        return {
            name: TenantView(
                weight=queue.gate.rules.weight,
                reserved=queue.gate.rules.reserved,
                limit=queue.gate.rules.limit,
                in_use=round(queue.gate.in_use, 6),
                queued=queue.due + queue.delayed,
            )
            for name, queue in self.backlog.tenants.items()
            if not queue.idle or name in self.gate.rules.tenants
        }

    def queued(self) -> Queued:
        """Return how much waits."""
        return Queued(due=self.backlog.due, delayed=self.backlog.delayed)

    def oldest_age_s(self, now: float) -> float:
        """Return how long the longest waiting due invocation has been due."""
        since = self.backlog.oldest_due_at()
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
