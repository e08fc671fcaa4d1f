"""Runs a machine against functions that take their time, on a clock of its own."""

import heapq
import itertools
import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from dispatcher.core.account import Account
from dispatcher.core.effects import Effect, Launch, Watch
from dispatcher.core.job import Job
from dispatcher.core.machine import Machine
from dispatcher.core.model import Accepted, CallType, Completion, Verdict
from dispatcher.core.rules import Rules

Duration = Callable[[Job], float]


class Simulation:
    """Sends are accepted at once, and every run ends well after what *duration* says."""

    def __init__(self, rules: Rules, duration: Duration, *, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.machine = Machine(rules, self.random.random)
        self.duration = duration
        self.now = 0.0
        self.launches: list[tuple[float, Job]] = []
        self.used_s: defaultdict[str, float] = defaultdict(float)  # by tenant, as runs end
        self.slot_ends = 0
        self._ends: list[tuple[float, int, Job]] = []
        self._seq = itertools.count(1)

    @property
    def main(self) -> Account:
        return self.machine.accounts["main"]

    def admit(
        self,
        function: str = "f",
        tenant: str = "default",
        qualifier: str | None = None,
        **fields: Any,
    ) -> Job:
        seq = next(self._seq)
        fields.setdefault("due_at", self.now)
        job = Job(
            id=f"i{seq}",
            seq=seq,
            lane=self.main.lane(function, qualifier, tenant),
            payload=None,
            type=CallType.ASYNC,
            accepted_at=self.now,
            **fields,
        )
        self.machine.admit(job, self.now)
        return job

    def admit_many(self, count: int, *args: Any, **fields: Any) -> list[Job]:
        return [self.admit(*args, **fields) for _ in range(count)]

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Launch(job=job, slot=slot):
                    self.launches.append((self.now, job))
                    accepted = Accepted(f"r-{job.id}")
                    self.carry_out(self.machine.sent(job, slot, accepted, self.now))
                case Watch(job=job):
                    end = (self.now + self.duration(job), job.seq, job)
                    heapq.heappush(self._ends, end)
                case _:
                    pass

    def decide(self) -> None:
        self.carry_out(self.machine.due(self.now))

    def step(self) -> bool:
        """Let the next run end; False: nothing runs."""
        self.decide()
        if not self._ends:
            return False
        self.now, _, job = heapq.heappop(self._ends)
        slot = job.slot
        assert slot is not None
        self.used_s[job.lane.tenant.name] += (self.now - slot.taken_at) / slot.share
        self.slot_ends += 1
        done = Completion(id=job.id, verdict=Verdict.SUCCEEDED)
        self.carry_out(self.machine.completed(job, done, self.now))
        return True

    def run(self, until: float) -> None:
        """Run until that time, or until nothing runs any more."""
        self.decide()
        while self._ends and self._ends[0][0] <= until:
            self.step()
            self.decide()
        self.now = max(self.now, until)

    def waited(self, tenant: str) -> list[float]:
        """Return how long each launched invocation of a tenant had waited."""
        return [at - job.due_at for at, job in self.launches if job.lane.tenant.name == tenant]

    def holds(self, tenant: str) -> float:
        return self.main.tenant(tenant).gate.in_use
