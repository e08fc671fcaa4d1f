"""One function: its instances, how fast they may grow in number, and whether it may be called."""

import math
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from dispatcher.core.adaptive import Adaptive
from dispatcher.core.durations import Durations
from dispatcher.core.model import GateKind, Source
from dispatcher.core.ramp import Pace, Warm, paced
from dispatcher.core.rules import FunctionRules


class Blocked(Struct, frozen=True):
    """The gate that says no, and what is known of it."""

    gate: GateKind
    name: str
    limit: float | None = None
    in_use: float | None = None
    until: float | None = None


class FunctionGate:
    """The instances of one function, and whether it may be called at all."""

    __slots__ = (
        "adaptive",
        "closed_until",
        "concurrency",
        "durations",
        "entry",
        "forgotten",
        "in_flight",
        "in_use",
        "jobs",
        "label",
        "listed",
        "milli_vcpu",
        "name",
        "pace",
        "paused",
        "rules",
        "untracked",
        "warm",
    )

    def __init__(self, name: str, rules: FunctionRules, label: str, *, listed: bool) -> None:
        self.name = name
        self.listed = listed  #: it has a section of its own
        self.jobs = 0  #: invocations that wait for it or run, or may be running
        self.label = label
        self.paused = False
        self.closed_until = -math.inf  #: set back as soon as that time is over
        self.entry: tuple[Any, ...] | None = None  #: its place among those that are closed
        self.forgotten = False  #: another gate may have its name by now
        # An instance serves one version only, so each qualifier fills its own.
        self.in_flight: dict[str | None, int] = {}
        self.in_use = 0
        self.durations = Durations()
        #: By qualifier: why the ends of its runs cannot be learned as its rules say.
        self.untracked: dict[str | None, str] = {}
        self.adaptive: Adaptive | None = None  #: once the cloud has named a limit of its own
        self.pace: Pace | None = None
        # Of all qualifiers together: it errs by a few tokens of the ramp.
        self.warm = Warm()
        self._follow(rules)

    def __repr__(self) -> str:
        return f"<FunctionGate {self.name} {self.in_use}/{self.rules.instances_max}>"

    def instances_for_one_more(self, qualifier: str | None) -> int:
        """Return how many instances (0 or 1) another invocation would add."""
        return 1 if self.in_flight.get(qualifier, 0) % self.concurrency == 0 else 0

    def shut(self, now: float) -> Blocked | None:
        """Return why nothing at all may be sent to it now, instances apart."""
        if self.paused:
            return Blocked(GateKind.PAUSED, self.name)
        if self.closed_until > now:
            return Blocked(GateKind.RETRY_AFTER, self.name, until=self.closed_until)
        return None

    @property
    def limit(self) -> int | None:
        """Return how many instances it may hold; None: as many as the account."""
        limit, adaptive = self.rules.instances_max, self.adaptive
        if adaptive is None:
            return limit
        return adaptive.limit if limit is None else min(limit, adaptive.limit)

    def blocked(self, qualifier: str | None, now: float) -> Blocked | None:
        """Return why an invocation may not pass now; None: it may."""
        if self.paused or self.closed_until > now:
            return self.shut(now)
        limit = self.rules.instances_max if self.adaptive is None else self.limit
        if limit is None and self.pace is None:  # as with most functions
            return None
        if not self.instances_for_one_more(qualifier):
            return None
        if limit is not None and self.in_use >= limit:
            return Blocked(GateKind.FUNCTION, self.name, limit, self.in_use)
        if self.pace is None:
            return None
        opens = self.pace.opens_at(now, self.in_use, cold=self.starts_cold(now))
        return None if opens <= now else Blocked(GateKind.RAMP, self.name, until=opens)

    def starts_cold(self, now: float) -> bool:
        """Tell whether one more instance would probably be a new one."""
        return self.in_use >= self.warm.level(self.in_use, now)

    def take(self, qualifier: str | None, now: float) -> int:
        """Count one more invocation; return how many instances that added."""
        count = self.in_flight.get(qualifier, 0)
        self.in_flight[qualifier] = count + 1
        if count % self.concurrency:
            return 0
        if self.pace is not None:
            self.pace.take(now, cold=self.starts_cold(now))
        self.in_use += 1
        self.warm.count(self.in_use, now)
        return 1

    def give_back(self, qualifier: str | None) -> int:
        """Count one invocation less; return how many instances that freed."""
        count = self.in_flight[qualifier] - 1
        assert count >= 0, self
        if count:
            self.in_flight[qualifier] = count
        else:
            del self.in_flight[qualifier]
        if count % self.concurrency:
            return 0
        self.in_use -= 1
        assert self.in_use >= 0, self
        return 1

    def set_rules(self, rules: FunctionRules) -> int:
        """Take new rules; return by how many instances the use changed with them."""
        before, declared_s = self.in_use, self.rules.duration_s
        self._follow(rules)
        self.in_use = sum(-(-n // rules.instance_concurrency) for n in self.in_flight.values())
        if rules.duration_s not in (None, declared_s):
            self.durations = Durations()  # else what was learned since is worth more
        return self.in_use - before

    def _follow(self, rules: FunctionRules) -> None:
        self.rules = rules
        self.concurrency = rules.instance_concurrency
        #: Thousandths of vCPUs of one instance, so that sums come back to zero exactly.
        self.milli_vcpu = milli(rules.vcpu)
        self.pace = paced(self.pace, rules.ramp)

    def starts_again(self, limit: int) -> None:
        """Have it come back little by little after a pause, up to *limit* or its own."""
        self.pace = self.pace or Pace(self.rules.ramp)
        self.pace.starts_again(min(limit, self.rules.instances_max or limit))

    def met_limit(self, sent_at: float, ceiling: int, now: float) -> None:
        """Note that a send of *sent_at* met a limit of the function's own, such as a reservation."""
        if self.adaptive is None:
            self.adaptive = Adaptive(1, max(1, ceiling, self.in_use), self.in_use)
        self.adaptive.dropped(sent_at, self.in_use, now)

    def ran(self, run_s: float | None, now: float) -> None:
        """Note that it ran at once, and still counts as held."""
        if self.adaptive is None:
            return
        self.adaptive.succeeded(self.in_use, run_s, now)
        if self.adaptive.limit >= self.adaptive.ceiling:
            self.adaptive = None  # there is no such limit any more

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
        remembered = remembered or self.adaptive is not None
        return not self.jobs and not remembered


def rules_for(functions: Mapping[str, FunctionRules], name: str) -> FunctionRules:
    """Return the rules of a function: its own, or those of `*`."""
    return functions.get(name) or functions.get("*") or FunctionRules()


def milli(vcpu: float) -> int:
    """Return thousandths."""
    return round(vcpu * 1000)
