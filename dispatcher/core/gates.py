"""
Gates: counts with a limit, and times before which nothing passes.

A gate is arithmetic. It never waits and knows no waiters; the machine asks all gates, takes
from all of them together, and gives back when the slot ends.
"""

import math
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from dispatcher.core.adaptive import Adaptive
from dispatcher.core.circuit import Circuit
from dispatcher.core.function_gate import Blocked, FunctionGate, milli, rules_for
from dispatcher.core.model import Denied, GateKind, Lost, NotSent, Outcome, Throttled
from dispatcher.core.ramp import Pace, paced
from dispatcher.core.rate import Rate
from dispatcher.core.retry import Budget
from dispatcher.core.rules import AccountRules, TenantRules

if TYPE_CHECKING:
    from dispatcher.core.job import Job

__all__ = ["AccountGate", "Blocked", "FunctionGate", "Slot", "TenantGate", "rules_for"]


class Slot(Struct, eq=False, kw_only=True, gc=False):
    """
    The right of one attempt to run: taken from every gate at once, given back once.

    It remembers what was taken, since the rules may change while it is held. `gc` is off, as
    with jobs: its cycles (job, entry) are undone when it is given back.
    """

    job: "Job"  #: whose attempt
    attempt: int
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
    entry: tuple[Any, ...] | None = None  #: its place among the deadlines
    lost_at: float = -math.inf
    """By then a send that nobody knows the fate of had begun to run, if it ever did."""
    lost_until: float = -math.inf
    """Until then it may be running at most."""
    exact: bool = True
    """False: the deadline is the estimated end, not a forced one."""


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

    def fits(self, share: int, kept: float = 0.0) -> bool:
        """Tell whether one more invocation stays within the ceiling less what is *kept*."""
        limit = self.rules.limit
        return limit is None or self.in_use + 1 / share + kept <= limit + 1e-9

    @property
    def floor_part(self) -> float | None:
        """Return the part that it holds of what is reserved for it; None: all, or nothing is."""
        reserved = self.rules.reserved
        if not reserved:
            return None
        held = self.in_use
        return held / reserved if held + 1e-9 < reserved else None

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
        "calm",
        "ceiling",
        "circuit",
        "closed_until",
        "foreign",
        "in_use",
        "milli_vcpu",
        "name",
        "pace",
        "packs",
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
        self.milli_vcpu = 0
        self.pace = paced(None, rules.ramp)
        self.requests = 0
        self.calm = False
        """Only the requests in flight can shut it: `shut` finds out, whatever else may do so ends it."""
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
    def limit(self) -> int:
        """Return how many instances may be held: the limit in force."""
        return self.ceiling if self.adaptive is None else self.adaptive.limit

    def set_rules(self, rules: AccountRules) -> None:
        """Take new rules. A limit below what is held drains: nothing new until it fits."""
        self.rules = rules
        self.calm = False
        self.ceiling = rules.quota - rules.headroom  #: what the limit is at most
        #: Any function has several invocations on an instance: there may be room on one that is held.
        self.packs = any(each.instance_concurrency > 1 for each in rules.functions.values())
        self.rate.set(rules.rate_max_per_s)
        self.pace = paced(self.pace, rules.ramp)
        self.foreign = min(self.foreign, rules.quota)
        floor = min(rules.limit_min, self.ceiling)
        if rules.limit == "fixed":
            self.adaptive = None
        elif self.adaptive is None:
            self.adaptive = Adaptive(floor, self.ceiling, self.in_use)
        else:
            self.adaptive.set_bounds(floor, self.ceiling)

    def shut(self, now: float) -> Blocked | None:
        """Return why nothing at all of this account may be sent now, instances apart."""
        if self.calm and self.requests < self.rules.requests_max:
            return None
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
        self.calm = not self.rules.rate_max_per_s and not self.circuit.is_open
        return None

    def pause(self, *, paused: bool) -> None:
        """Let nothing pass any more, or everything again."""
        if self.paused and not paused:
            self.starts_again()
        self.paused = paused
        self.calm = False

    @property
    def full(self) -> bool:
        """Tell whether there is no room for anything, whoever's turn it is."""
        adaptive = self.adaptive
        limit = self.ceiling if adaptive is None else adaptive.limit
        return not self.packs and self.in_use >= limit

    def no_room(self, function: FunctionGate, qualifier: str | None, now: float) -> Blocked | None:
        """Return why the account has no room for one more invocation of *function*."""
        if function.concurrency > 1 and not function.instances_for_one_more(qualifier):
            return None
        adaptive = self.adaptive
        if self.in_use >= (self.ceiling if adaptive is None else adaptive.limit):
            return Blocked(GateKind.ACCOUNT, self.name, self.limit, self.in_use)
        resources = self.rules.resources
        if resources is not None:
            milli_vcpu = self.milli_vcpu + function.milli_vcpu
            if milli_vcpu > milli(resources.vcpu):
                return Blocked(GateKind.RESOURCE, "vcpu", resources.vcpu, self.milli_vcpu / 1000)
        if self.pace is None:
            return None
        opens = self.pace.opens_at(now, self.in_use, cold=function.starts_cold(now))
        return None if opens <= now else Blocked(GateKind.RAMP, self.name, until=opens)

    def starts_again(self) -> None:
        """Have the account come back little by little after a pause or an outage."""
        self.pace = self.pace or Pace(self.rules.ramp)
        self.pace.starts_again(self.limit)
        if self.adaptive is not None:
            self.adaptive.restart(self.in_use)

    def sent(self, slot: Slot, now: float) -> None:
        """Count a send as begun."""
        self.requests += 1
        slot.sent_at = now
        if self.calm:
            slot.era = self.circuit.era
        else:
            self.rate.take(now)
            slot.era = self.circuit.sent(now)

    def launch(self, function: FunctionGate, qualifier: str | None, now: float) -> None:
        """Count what *function* is about to take against how fast instances may begin."""
        if self.pace is not None and function.instances_for_one_more(qualifier):
            self.pace.take(now, cold=function.starts_cold(now))

    def answered(self, slot: Slot, outcome: Outcome, now: float) -> bool:
        """Count a send as over; True: the circuit opened for what came of it."""
        self.requests -= 1
        assert self.requests >= 0, self
        match outcome:
            case Denied():
                self.calm = False
                return self.circuit.denied(slot.era, now)
            case _ if self.calm:  # so the circuit is closed
                pass
            case NotSent() | Lost():
                self.circuit.unanswered(slot.era)
            case _:
                if self.circuit.reached(slot.era):
                    self.starts_again()
        return False

    def ran(self, run_s: float | None, now: float) -> None:
        """Note that the cloud ran something of ours at once, which still counts as held."""
        if self.foreign:
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
        self.calm = False
        if throttled.gate is GateKind.RATE:
            self.rate_closed_until = max(self.rate_closed_until, until)
        else:
            self.closed_until = max(self.closed_until, until)

    def take(self, instances: int, milli_vcpu: int = 0) -> None:
        """Count instances as held; fewer where a function now runs more on each."""
        self.in_use += instances
        self.milli_vcpu += milli_vcpu
        assert self.in_use >= 0 <= self.milli_vcpu, self

    def give_back(self, instances: int, milli_vcpu: int = 0) -> None:
        """Count instances as free."""
        self.in_use -= instances
        self.milli_vcpu -= milli_vcpu
        assert self.in_use >= 0 <= self.milli_vcpu, self
