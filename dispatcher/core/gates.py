"""
Gates: counts with a limit, and times before which nothing passes.

A gate is arithmetic. It never waits and knows no waiters; the machine asks all gates, takes
from all of them together, and gives back when the slot ends.
"""

import math
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from dispatcher.core.adaptive import Adaptive
from dispatcher.core.circuit import Circuit
from dispatcher.core.durations import Durations
from dispatcher.core.model import (
    AccountRules,
    Denied,
    FunctionRules,
    GateKind,
    Lost,
    NotSent,
    Outcome,
    Source,
    TenantRules,
    Throttled,
)
from dispatcher.core.rate import Rate
from dispatcher.core.retry import Budget


class Blocked(Struct, frozen=True):
    """The gate that says no, and what is known of it."""

    gate: GateKind
    name: str
    limit: float | None = None
    in_use: float | None = None
    until: float | None = None


class Slot(Struct, eq=False, kw_only=True):
    """
    The right of one attempt to run: taken from every gate at once, given back once.

    It remembers what was taken, since the rules may change while it is held.
    """

    attempt: int
    qualifier: str | None
    share: int  #: invocations per instance: it counts 1/share at the tenant's gate
    price: float  #: what a second costs its tenant's place in the order: 1/share/weight
    labels: tuple[str, str]  #: of its function and tenant
    taken_at: float
    charged_s: float  #: what its tenant was charged in advance
    sent_at: float = 0.0  #: its latest send
    era: int = 0  #: of the circuit, at that send
    deadline: float = math.inf
    """When it is given up without news; while its request is out, the transport's time-outs
    bound it instead."""
    hold: tuple[Any, ...] | None = None  #: its place among the deadlines
    lost_until: float = -math.inf
    """Until then a send that nobody knows the fate of may be running on it."""
    exact: bool = True
    """False: the deadline is the estimated end, not a forced one."""


class FunctionGate:
    """The instances of one function, and whether it may be called at all."""

    __slots__ = (
        "closed_until",
        "durations",
        "in_flight",
        "in_use",
        "jobs",
        "label",
        "listed",
        "name",
        "paused",
        "rules",
        "untracked",
    )

    def __init__(self, name: str, rules: FunctionRules, label: str, *, listed: bool) -> None:
        self.name = name
        self.listed = listed  #: it has a section of its own
        self.jobs = 0  #: invocations that wait for it or run
        self.label = label
        self.rules = rules
        self.paused = False
        self.closed_until = -math.inf  #: set back as soon as that time is over
        # An instance serves one version only, so each qualifier fills its own.
        self.in_flight: dict[str | None, int] = {}
        self.in_use = 0
        self.durations = Durations()
        #: By qualifier: why the ends of its runs cannot be learned as its rules say.
        self.untracked: dict[str | None, str] = {}

    def __repr__(self) -> str:
        return f"<FunctionGate {self.name} {self.in_use}/{self.rules.instances_max}>"

    def instances_for_one_more(self, qualifier: str | None) -> int:
        """Return how many instances (0 or 1) another invocation would add."""
        return 1 if self.in_flight.get(qualifier, 0) % self.rules.instance_concurrency == 0 else 0

    def shut(self, now: float) -> Blocked | None:
        """Return why nothing at all may be sent to it now, instances apart."""
        if self.paused:
            return Blocked(GateKind.PAUSED, self.name)
        if self.closed_until > now:
            return Blocked(GateKind.RETRY_AFTER, self.name, until=self.closed_until)
        return None

    def blocked(self, qualifier: str | None, now: float) -> Blocked | None:
        """Return why an invocation may not pass now; None: it may."""
        if (shut := self.shut(now)) is not None:
            return shut
        limit = self.rules.instances_max
        if limit is not None and self.in_use + self.instances_for_one_more(qualifier) > limit:
            return Blocked(GateKind.FUNCTION, self.name, limit, self.in_use)
        return None

    def take(self, qualifier: str | None) -> int:
        """Count one more invocation; return how many instances that added."""
        added = self.instances_for_one_more(qualifier)
        self.in_flight[qualifier] = self.in_flight.get(qualifier, 0) + 1
        self.in_use += added
        return added

    def give_back(self, qualifier: str | None) -> int:
        """Count one invocation less; return how many instances that freed."""
        count = self.in_flight[qualifier] - 1
        assert count >= 0, self
        if count:
            self.in_flight[qualifier] = count
        else:
            del self.in_flight[qualifier]
        freed = 1 if count % self.rules.instance_concurrency == 0 else 0
        self.in_use -= freed
        assert self.in_use >= 0, self
        return freed

    def set_rules(self, rules: FunctionRules) -> int:
        """Take new rules; return by how many instances the use changed with them."""
        before, declared_s = self.in_use, self.rules.duration_s
        self.rules = rules
        self.in_use = sum(-(-n // rules.instance_concurrency) for n in self.in_flight.values())
        if rules.duration_s not in (None, declared_s):
            self.durations = Durations()  # else what was learned since is worth more
        return self.in_use - before

    def learn(self, run_s: float) -> None:
        """Take note of how long a run took."""
        self.durations.add(run_s)

    @property
    def duration_s(self) -> float | None:
        """Return how long a run is thought to take; None: nobody knows."""
        return self.durations.expected_s(self.rules.duration_s)

    @property
    def cautious_s(self) -> float | None:
        """Return how long a run takes at most, as far as an estimate can say; None: no idea."""
        return self.durations.cautious_s(self.rules.duration_s)

    @property
    def problem(self) -> str | None:
        """Return why its ends cannot be learned as its rules say, of any qualifier."""
        if self.rules.completion is not Source.TASK:
            return None
        return next(iter(self.untracked.values()), None)

    def source(self, qualifier: str | None) -> Source:
        """Return how the end of an asynchronous run becomes known, as things stand."""
        if self.rules.completion is Source.TASK and qualifier in self.untracked:
            return Source.DURATION
        return self.rules.completion or Source.CALLBACK

    @property
    def queued(self) -> int:
        """Return how many invocations wait for it, delayed ones included."""
        return self.jobs - sum(self.in_flight.values())

    @property
    def idle(self) -> bool:
        """Tell whether nothing of it waits or runs and nothing needs to be remembered."""
        remembered = self.paused or self.listed or self.closed_until > -math.inf
        return not self.jobs and not remembered


class TenantGate:
    """What one tenant holds of an account, in instances: an invocation counts 1/share."""

    __slots__ = ("_held", "rules")

    def __init__(self, rules: TenantRules) -> None:
        self.rules = rules
        # By share rather than as one sum of fractions, which would drift.
        self._held: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<TenantGate {self.in_use:g}/{self.rules.limit}>"

    @property
    def in_use(self) -> float:
        """Return the instances that it holds."""
        return sum(count / share for share, count in self._held.items())

    @property
    def invocations(self) -> int:
        """Return the invocations that hold a slot."""
        return sum(self._held.values())

    def fits(self, share: int) -> bool:
        """Tell whether one more invocation stays within the ceiling."""
        limit = self.rules.limit
        return limit is None or self.in_use + 1 / share <= limit + 1e-9

    @property
    def below_floor(self) -> bool:
        """Tell whether it holds less than what is reserved for it."""
        reserved = self.rules.reserved
        return reserved > 0 and self.in_use + 1e-9 < reserved

    def take(self, share: int) -> None:
        """Count one more invocation."""
        self._held[share] = self._held.get(share, 0) + 1

    def give_back(self, share: int) -> None:
        """Count one invocation less."""
        count = self._held[share] - 1
        assert count >= 0, self
        if count:
            self._held[share] = count
        else:
            del self._held[share]


class AccountGate:
    """Everything that one account's limits say about the next send."""

    __slots__ = (
        "adaptive",
        "budget",
        "circuit",
        "closed_until",
        "foreign",
        "in_use",
        "name",
        "paused",
        "rate",
        "rate_closed_until",
        "requests",
        "rules",
    )

    def __init__(self, name: str, rules: AccountRules) -> None:
        self.name = name
        self.rules = rules
        self.adaptive: Adaptive | None = None
        self.foreign = 0
        """Instances of the quota that others seemed to use when it was last felt."""
        self.in_use = 0
        self.requests = 0
        self.paused = False
        self.closed_until = -math.inf
        self.rate_closed_until = -math.inf
        self.rate = Rate(rules.rate_max_per_s)
        self.circuit = Circuit()
        self.budget = Budget()
        self.set_rules(rules)

    def __repr__(self) -> str:
        return f"<AccountGate {self.name} {self.in_use}/{self.limit}>"

    @property
    def ceiling(self) -> int:
        """Return what the limit is at most: the quota less the headroom."""
        return self.rules.quota - self.rules.headroom

    @property
    def limit(self) -> int:
        """Return how many instances may be held: the limit in force."""
        return self.ceiling if self.adaptive is None else self.adaptive.limit

    def set_rules(self, rules: AccountRules) -> None:
        """Take new rules. A limit below what is held drains: nothing new until it fits."""
        self.rules = rules
        self.rate.set(rules.rate_max_per_s)
        self.foreign = min(self.foreign, rules.quota)
        floor = min(rules.limit_min, self.ceiling)
        if rules.limit == "fixed":
            self.adaptive = None
        elif self.adaptive is None:
            self.adaptive = Adaptive(floor, self.ceiling)
            self.adaptive.restart(self.in_use)
        else:
            self.adaptive.set_bounds(floor, self.ceiling)

    def shut(self, now: float) -> Blocked | None:
        """Return why nothing at all of this account may be sent now, instances apart."""
        if self.paused:
            return Blocked(GateKind.PAUSED, self.name)
        if (until := self.circuit.until(now)) is not None:
            return Blocked(GateKind.CIRCUIT, self.name, until=until)
        if self.closed_until > now:
            return Blocked(GateKind.RETRY_AFTER, self.name, until=self.closed_until)
        return self._too_fast(now)

    def _too_fast(self, now: float) -> Blocked | None:
        if self.rate_closed_until > now:
            return Blocked(GateKind.RATE, self.name, until=self.rate_closed_until)
        if self.requests >= self.rules.requests_max:
            return Blocked(GateKind.RATE, "requests_max", self.rules.requests_max, self.requests)
        if (opens := self.rate.open_at(now)) > now:
            return Blocked(GateKind.RATE, self.name, self.rules.rate_max_per_s, until=opens)
        return None

    def full(self, instances: int) -> bool:
        """Tell whether there is no room for so many more instances; for none there always is."""
        return instances > 0 and self.in_use + instances > self.limit

    def sent(self, slot: Slot, now: float) -> None:
        """Count a send as begun."""
        self.requests += 1
        self.rate.take(now)
        slot.sent_at = now
        slot.era = self.circuit.sent(now)

    def answered(self, slot: Slot, outcome: Outcome, now: float) -> bool:
        """Count a send as over; True: the circuit opened for what came of it."""
        self.requests -= 1
        assert self.requests >= 0, self
        match outcome:
            case Denied():
                return self.circuit.denied(slot.era, now)
            case NotSent() | Lost():
                self.circuit.unanswered(slot.era)
            case _:
                self.circuit.reached(slot.era)
        return False

    def ran(self, run_s: float | None, now: float) -> None:
        """Note that the cloud ran something of ours at once, which still counts as held."""
        self.foreign = max(0, min(self.foreign, self.rules.quota - self.in_use))
        if self.adaptive is not None:
            self.adaptive.succeeded(self.in_use, run_s, now)

    def met_quota(self, sent_at: float, running: int, now: float) -> None:
        """
        Note that a send of *sent_at* found no instance free.

        *running* instances of ours were thought to run then, that one included.
        """
        # Cut is what may be held, the queued ones included: they are in nobody else's way yet.
        if self.adaptive is None or self.adaptive.dropped(sent_at, self.in_use, now):
            self.foreign = max(0, self.rules.quota - max(0, running - 1))

    def close(self, throttled: Throttled, until: float) -> None:
        """Let nothing pass before *until*: the account's or the caller's limit was met."""
        if throttled.gate is GateKind.RATE:
            self.rate_closed_until = max(self.rate_closed_until, until)
        else:
            self.closed_until = max(self.closed_until, until)

    def take(self, instances: int) -> None:
        """Count instances as held; fewer where a function now runs more on each."""
        self.in_use += instances
        assert self.in_use >= 0, self

    def give_back(self, instances: int) -> None:
        """Count instances as free."""
        self.in_use -= instances
        assert self.in_use >= 0, self


def rules_for(functions: Mapping[str, FunctionRules], name: str) -> FunctionRules:
    """Return the rules of a function: its own, or those of `*`."""
    return functions.get(name) or functions.get("*") or FunctionRules()
