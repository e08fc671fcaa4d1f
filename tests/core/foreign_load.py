"""
The core against the emulator's cloud while others use the same quota, on a clock of its own.

Four cases: the foreign load is a square wave or a random walk, runs take 0.5, 2 or 20 s, the
quota is 300 or 1000. Calls are synchronous; request and reply take 15 ms each, refusals too.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from dispatcher.core.effects import Effect, Launch
from dispatcher.core.gates import Slot
from dispatcher.core.job import Job
from dispatcher.core.machine import Machine
from dispatcher.core.model import (
    Accepted,
    CallType,
    Completion,
    GateKind,
    Outcome,
    Replied,
    Source,
    Throttled,
    Verdict,
)
from dispatcher.core.rules import AccountRules, FunctionRules, Rules
from dispatcher.emulator import cloud, refusals, settings

WAY_S = 0.015
JITTER_SPREAD = 0.5  # lognormal
BACKLOG = 3000


class Case(NamedTuple):
    """One load: the waves' time is in seconds."""

    name: str
    quota: int
    run_s: float
    low: int
    high: int
    half_period_s: float
    periods: int = 2
    walk: bool = False

    @property
    def until_s(self) -> float:
        return self.half_period_s * 2 * self.periods

    def foreign(self, rng: random.Random) -> Iterator[tuple[float, int]]:
        """Give the times at which the foreign load changes, and what it wants from then on."""
        if not self.walk:
            for half in range(2 * self.periods):
                yield half * self.half_period_s, self.high if half % 2 else self.low
            return
        wanted = (self.low + self.high) // 2
        for second in range(int(self.until_s)):
            yield float(second), wanted
            wanted = min(self.high, max(self.low, wanted + rng.randint(-5, 5)))


CASES = {
    "A": Case("A: quota 300, 2 s, square 50/200", 300, 2.0, 50, 200, 60.0),
    "B": Case("B: quota 300, 2 s, random walk 50-200", 300, 2.0, 50, 200, 60.0, walk=True),
    "C": Case("C: quota 1000, 0.5 s, square 100/700", 1000, 0.5, 100, 700, 60.0, periods=1),
    "D": Case("D: quota 300, 20 s, square 50/200", 300, 20.0, 50, 200, 600.0),
}


Sent = tuple[Job, Slot]


class Limiter(Protocol):
    """What can stand in the place of the adaptive limit."""

    @property
    def limit(self) -> int: ...
    def set_bounds(self, floor: int, ceiling: int) -> None: ...
    def restart(self, in_use: int) -> None: ...
    def succeeded(self, in_use: int, run_s: float | None, now: float) -> None: ...
    def dropped(self, sent_at: float, in_use: int, now: float) -> bool: ...


class Result(NamedTuple):
    """What came of a run."""

    throttled: float
    """The share of our calls that the cloud refused or, asynchronous ones, put off."""
    used: float
    """The share of the instance-seconds used that the foreign load left free."""
    sends: int


class ForeignLoad:
    """An endless backlog of one account in front of a cloud that others use, too."""

    def __init__(
        self,
        case: Case,
        limiter: Limiter | None = None,
        *,
        asynchronous: bool = False,
        seed: int = 1,
    ) -> None:
        self.case = case
        self.asynchronous = asynchronous
        rng = random.Random(seed)
        self.now = 0.0
        self.sends = self.throttled = 0
        self.limits: list[tuple[float, int]] = []
        function = FunctionRules(completion=Source.TASK, hold_max_s=7200.0)
        rules = AccountRules(
            quota=case.quota,
            limit="adaptive",
            requests_max=10 * case.quota,
            functions={"*": function},
        )
        self.machine = Machine(Rules(accounts={"main": rules}, jobs_max=10**9), rng.random)
        self.account = self.machine.accounts["main"]
        if limiter is not None:
            self.account.gate.adaptive = limiter  # type: ignore[assignment]
        emulated = settings.Account(
            provider="aliyun-fc",
            account_id="1",
            region="r",
            quota=case.quota,
            functions={
                "f": settings.Function(
                    duration_s=case.run_s,
                    jitter="lognormal",
                    jitter_spread=JITTER_SPREAD,
                    timeout_s=86400.0,
                )
            },
        )
        self.cloud = cloud.Cloud(settings.Settings(accounts={"main": emulated}), rng)
        self.theirs = self.cloud.accounts["main"]
        self.function = self.cloud.find(self.theirs, "f")
        self._events: list[tuple[float, int, Callable[..., None], Any]] = []
        self._serials = itertools.count()
        self._seq = itertools.count(1)
        self._calls: dict[str, tuple[float, Sent]] = {}
        for at, wanted in case.foreign(rng):
            self._at(at, self._foreign, wanted)

    def run(self, until: float | None = None) -> Result:
        """Run to the end of the case, or until then."""
        until = self.case.until_s if until is None else until
        self._fill()
        self._decide()
        while True:
            next_end = self.cloud.next_deadline()
            next_time = self.machine.next_deadline(self.now)
            times = [self._events[0][0]] if self._events else []
            times += [at for at in (next_end, next_time) if at is not None]
            if not times or min(times) > until:
                break
            self.now = max(self.now, min(times))
            while self._events and self._events[0][0] <= self.now:
                _, _, call, argument = heapq.heappop(self._events)
                call(argument)
            self._cloud_due()
            self._decide()
        self.now = until
        fleet, pool = self.theirs.fleet, self.function.pool
        fleet.count(until)
        pool.count(until)
        return Result(self.throttled / self.sends, pool.seconds / fleet.free_seconds, self.sends)

    def _at(self, at: float, call: Callable[..., None], argument: Any) -> None:
        heapq.heappush(self._events, (at, next(self._serials), call, argument))

    def _foreign(self, wanted: int) -> None:
        self.theirs.fleet.change(self.now, foreign=wanted)

    def _fill(self) -> None:
        for _ in range(BACKLOG - self.account.backlog.due):
            seq = next(self._seq)
            job = Job(
                id=f"i{seq}",
                seq=seq,
                lane=self.account.lane("f", None, "default"),
                payload=None,
                type=CallType.ASYNC if self.asynchronous else CallType.SYNC,
                accepted_at=self.now,
                due_at=self.now,
            )
            self.machine.admit(job, self.now)

    def _decide(self) -> None:
        if self.account.backlog.due < BACKLOG // 2:
            self._fill()
        self._carry_out(self.machine.due(self.now))

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Launch):
                self.sends += 1
                self._at(self.now + WAY_S, self._arrives, (effect.job, effect.slot))

    def _arrives(self, sent: Sent) -> None:
        try:
            call = self.cloud.invoke(
                self.function, self.theirs, self.now, payload=b"", asynchronous=self.asynchronous
            )
        except refusals.Throttled as refused:
            self.throttled += 1
            self._answer(sent, Throttled(gate=GateKind.ACCOUNT, reason=refused.code))
            return
        self._calls[call.request_id] = (self.now, sent)
        if self.asynchronous:
            self._answer(sent, Accepted(call.request_id))

    def _cloud_due(self) -> None:
        self.cloud.due(self.now)
        while self.cloud.runs:
            run = self.cloud.runs.popleft()
            arrived_at, sent = self._calls.pop(run.request_id)
            if not self.asynchronous:
                self._answer(sent, Replied(request_id=run.request_id, payload=b""))
                continue
            delay_s = run.started_at - arrived_at
            self.throttled += delay_s > 0
            end = Completion(
                id=sent[0].id,
                verdict=Verdict.SUCCEEDED,
                start_delay_s=delay_s,
                run_s=run.ended_at - run.started_at,
            )
            self._at(self.now + WAY_S, self._completed, (sent[0], end))

    def _answer(self, sent: Sent, outcome: Outcome) -> None:
        self._at(self.now + WAY_S, self._answered, (*sent, outcome))

    def _answered(self, answer: tuple[Job, Slot, Outcome]) -> None:
        self._carry_out(self.machine.sent(*answer, self.now))
        self.limits.append((self.now, self.account.gate.limit))

    def _completed(self, news: tuple[Job, Completion]) -> None:
        self._carry_out(self.machine.completed(*news, self.now))
