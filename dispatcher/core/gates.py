"""
Gates: counts with a limit, and times before which nothing passes.

A gate is arithmetic. It never waits and knows no waiters; the machine asks all gates, takes
from all of them together, and gives back when the slot ends.
"""

import math
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from dispatcher.core.model import AccountRules, FunctionRules, GateKind, TenantRules
from dispatcher.core.retry import Budget

#: How long sends of an account stop after its credentials or rights were refused, first and
#: at most. Each refusal of the single probe after that doubles the time.
CIRCUIT_FIRST_S: Final = 30.0
CIRCUIT_MAX_S: Final = 300.0


class Blocked(Struct, frozen=True):
    """The gate that says no, and what is known of it."""

    gate: GateKind
    name: str
    limit: float | None = None
    in_use: float | None = None
    until: float | None = None


class Slot(Struct, eq=False):
    """
    The right of one attempt to run: taken from every gate at once, given back once.

    It remembers what was taken, since the rules may change while it is held.
    """

    attempt: int
    qualifier: str | None
    share: int  #: invocations per instance: it counts 1/share at the tenant's gate
    taken_at: float
    deadline: float
    charged_s: float = 0.0
    """Instance-seconds that its tenant was charged in advance."""
    labels: tuple[str, str] = ("", "")
    """Of its function and tenant, as they were when it was taken."""
    exact: bool = True
    """False: the deadline is the estimated end, not a forced one."""


class FunctionGate:
    """The instances of one function, and whether it may be called at all."""

    __slots__ = (
        "closed_until",
        "duration_s",
        "in_flight",
        "in_use",
        "jobs",
        "label",
        "listed",
        "name",
        "paused",
        "rules",
    )

    def __init__(self, name: str, rules: FunctionRules, label: str, *, listed: bool) -> None:
        self.name = name
        self.listed = listed  #: it has a section of its own
        self.jobs = 0  #: invocations that wait for it or run
        self.label = label
        self.rules = rules
        self.paused = False
        self.closed_until = -math.inf
        # An instance serves one version only, so each qualifier fills its own.
        self.in_flight: dict[str | None, int] = {}
        self.in_use = 0
        self.duration_s = rules.duration_s

    def __repr__(self) -> str:
        return f"<FunctionGate {self.name} {self.in_use}/{self.rules.instances_max}>"

    def instances_for_one_more(self, qualifier: str | None) -> int:
        """Return how many instances (0 or 1) another invocation would add."""
        if self.rules.instance_concurrency == 1:
            return 1
        return 1 if self.in_flight.get(qualifier, 0) % self.rules.instance_concurrency == 0 else 0

    def blocked(self, qualifier: str | None, now: float) -> Blocked | None:
        """Return why an invocation may not pass now; None: it may."""
        if self.paused:
            return Blocked(GateKind.PAUSED, self.name)
        if self.closed_until > now:
            return Blocked(GateKind.RETRY_AFTER, self.name, until=self.closed_until)
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
        before = self.in_use
        self.rules = rules
        self.in_use = sum(-(-n // rules.instance_concurrency) for n in self.in_flight.values())
        if rules.duration_s is not None:
            self.duration_s = rules.duration_s
        return self.in_use - before

    @property
    def idle(self) -> bool:
        """Tell whether nothing of it waits or runs and nothing needs to be remembered."""
        return not self.jobs and not self.paused and not self.listed


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


class Rate:
    """A rate with a small burst, by one time stamp (GCRA)."""

    __slots__ = ("_arrival", "_interval_s", "_tolerance_s")

    #: Sends may bunch up by this much time; timers and the loop are no more exact than that.
    BURST_S: Final = 0.1

    def __init__(self, max_per_s: float) -> None:
        self._arrival = -math.inf
        self.set(max_per_s)

    def set(self, max_per_s: float) -> None:
        """Change the rate; 0: none."""
        self._interval_s = 1.0 / max_per_s if max_per_s else 0.0
        self._tolerance_s = max(0.0, self.BURST_S - self._interval_s)

    def open_at(self, now: float) -> float:
        """Return when the next send may go: *now*, or later."""
        return max(now, self._arrival - self._tolerance_s) if self._interval_s else now

    def take(self, now: float) -> None:
        """Count a send."""
        if self._interval_s:
            self._arrival = max(now, self._arrival) + self._interval_s


class Circuit:
    """
    Stops the sends of an account whose credentials or rights the cloud refuses.

    When its time is over a single probe may go; what comes of it closes the circuit or
    opens it again for twice as long.
    """

    __slots__ = ("_delay_s", "_probe_at", "changed_at", "open_until")

    def __init__(self) -> None:
        self.open_until = -math.inf
        self.changed_at = -math.inf
        self._delay_s = CIRCUIT_FIRST_S
        self._probe_at: float | None = None

    @property
    def is_open(self) -> bool:
        """Tell whether it is open, or a probe has yet to show that it may close."""
        return self.open_until > -math.inf

    def until(self, now: float) -> float | None:
        """Return until when nothing may be sent; None: something may."""
        if not self.is_open:
            return None
        until = self.open_until
        if self._probe_at is not None:
            # A probe that never comes back must not hold the account for ever.
            until = self._probe_at + CIRCUIT_MAX_S
        return until if until > now else None

    def sent(self, now: float) -> None:
        """Note a send: while open, it is the probe."""
        if self.is_open:
            self._probe_at = now

    def denied(self, sent_at: float, now: float) -> bool:
        """Note a refusal of what was sent at *sent_at*; True: the circuit opened for it."""
        if sent_at <= self.changed_at:
            return False  # sent before we knew
        self._delay_s = min(CIRCUIT_MAX_S, self._delay_s * 2) if self.is_open else CIRCUIT_FIRST_S
        self.open_until = now + self._delay_s
        self.changed_at = now
        self._probe_at = None
        return True

    def reached(self, sent_at: float, now: float) -> bool:
        """Note that the cloud knew us at a send of *sent_at*; True: that closed the circuit."""
        if not self.is_open or sent_at <= self.changed_at:
            return False
        self.open_until = -math.inf
        self.changed_at = now
        self._probe_at = None
        return True

    def unanswered(self) -> None:
        """Note that a send's outcome says nothing about us: another probe may go."""
        self._probe_at = None


class AccountGate:
    """Everything that one account's limits say about the next send."""

    __slots__ = (
        "budget",
        "circuit",
        "closed_until",
        "in_use",
        "limit",
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
        self.limit = rules.quota - rules.headroom
        self.in_use = 0
        self.requests = 0
        self.paused = False
        self.closed_until = -math.inf
        self.rate_closed_until = -math.inf
        self.rate = Rate(rules.rate_max_per_s)
        self.circuit = Circuit()
        self.budget = Budget()

    def __repr__(self) -> str:
        return f"<AccountGate {self.name} {self.in_use}/{self.limit}>"

    def set_rules(self, rules: AccountRules) -> None:
        """Take new rules. A limit below what is held drains: nothing new until it fits."""
        self.rules = rules
        self.limit = rules.quota - rules.headroom
        self.rate.set(rules.rate_max_per_s)

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

    def full(self, instances: int) -> Blocked | None:
        """Return the answer to a wish for so many more instances; None: they are free."""
        if self.in_use + instances > self.limit and instances:
            return Blocked(GateKind.ACCOUNT, self.name, self.limit, self.in_use)
        return None

    def take(self, instances: int) -> None:
        """Count instances as held."""
        self.in_use += instances

    def give_back(self, instances: int) -> None:
        """Count instances as free."""
        self.in_use -= instances
        assert self.in_use >= 0, self


def rules_for(functions: Mapping[str, FunctionRules], name: str) -> FunctionRules:
    """Return the rules of a function: its own, or those of `*`."""
    return functions.get(name) or functions.get("*") or FunctionRules()
