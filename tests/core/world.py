"""Rules, jobs and ends for tests of the core, and a world that checks the machine's books."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

from dispatcher.core.account import Account
from dispatcher.core.effects import Effect, Finish, Launch, Return, Stop, Warn, Watch
from dispatcher.core.gates import FunctionGate, Slot
from dispatcher.core.job import Job
from dispatcher.core.lanes import Lane
from dispatcher.core.lazy_heap import LazyHeap, Ranking
from dispatcher.core.lifecycle import ENDED
from dispatcher.core.machine import Machine
from dispatcher.core.model import (
    Accepted,
    CallType,
    Completion,
    Failure,
    GateKind,
    Source,
    State,
    Verdict,
)
from dispatcher.core.rules import AccountRules, FunctionRules, ResourceRules, Rules, TenantRules
from tests.core.in_cloud import InCloud

FAILURE = Failure("test", "made up")


def rules_of(
    functions: dict[str, FunctionRules] | None = None,
    tenants: dict[str, TenantRules] | None = None,
    *,
    at_most_once: bool = False,
    **account: Any,
) -> Rules:
    """Return the rules of one account, `main`, whose functions end by callbacks."""
    account.setdefault("quota", 4)
    if isinstance(resources := account.get("resources"), dict):
        account["resources"] = ResourceRules(**resources)
    functions = {"*": FunctionRules(completion=Source.CALLBACK)} | (functions or {})
    return Rules(
        accounts={"main": AccountRules(functions=functions, tenants=tenants or {}, **account)},
        at_most_once=at_most_once,
    )


def function_of(completion: Source = Source.CALLBACK, **fields: Any) -> FunctionRules:
    return FunctionRules(completion=completion, **fields)


def world_of(functions: Any = None, tenants: Any = None, **account: Any) -> "World":
    """Return a world of one account whose random delays are always a half of their bound."""
    return World(rules_of(functions, tenants, **account), lambda: 0.5)


def only(effects: list[Effect], kind: type[Any]) -> Any:
    """Return the one effect that there is."""
    (effect,) = effects
    assert isinstance(effect, kind), effects
    return effect


def states(*jobs: Job) -> list[str]:
    return [job.state for job in jobs]


class World:
    """A machine and what surrounds it; every effect is checked, and carried out as far as told."""

    def __init__(self, rules: Rules, uniform: Callable[[], float] | None = None) -> None:
        draws = itertools.cycle([0.5, 0.25, 0.875])
        self.machine = Machine(rules, uniform or (lambda: next(draws)))
        self.now = 0.0
        self.jobs: dict[str, Job] = {}
        self.sending: dict[tuple[str, int], tuple[Job, Slot]] = {}
        self.finishes: dict[str, Finish] = {}
        self.launched: list[str] = []
        self.warnings: list[Warn] = []
        self.stopped: list[str] = []
        self.in_cloud = InCloud()
        self._seq = 0

    # -- Stimuli

    def job(
        self,
        function: str = "f",
        tenant: str = "default",
        qualifier: str | None = None,
        *,
        account: str = "main",
        delay_s: float = 0.0,
        expires_s: float = math.inf,
        type: CallType = CallType.ASYNC,  # noqa: A002
        **fields: Any,
    ) -> Job:
        """Return a job that nobody has been told of."""
        self._seq += 1
        job = Job(
            id=f"i{self._seq}",
            seq=self._seq,
            lane=self.machine.accounts[account].lane(function, qualifier, tenant),
            payload=None,
            type=type,
            accepted_at=self.now,
            due_at=self.now + delay_s,
            expires_at=self.now + expires_s,
            wakes_at=self.now + delay_s if delay_s else -math.inf,
            waits_for=GateKind.DELAY if delay_s else None,
            **fields,
        )
        self.jobs[job.id] = job
        return job

    def admit(self, *args: Any, **fields: Any) -> Job:
        job = self.job(*args, **fields)
        self.machine.admit(job, self.now)
        return job

    def admit_many(self, count: int, *args: Any, **fields: Any) -> list[Job]:
        return [self.admit(*args, **fields) for _ in range(count)]

    def restore(self, job: Job, state: State, sent_ago_s: float = 1.0) -> None:
        effects = self.machine.restore(job, state, sent_ago_s, self.now)
        is_running = state is State.RUNNING
        self.in_cloud.restored(job, self.now, self.now - sent_ago_s, is_running=is_running)
        self.carry_out(effects)

    def answer(self, job: Job, outcome: Any, attempt: int | None = None) -> list[Effect]:
        """Answer the send of the job's attempt; by default of the latest that has no answer."""
        attempts = [number for job_id, number in self.sending if job_id == job.id]
        key = (job.id, max(attempts) if attempt is None else attempt)
        _, slot = self.sending.pop(key)
        self.in_cloud.answered(job, key[1], outcome, self.now)
        return self.carry_out(self.machine.sent(job, slot, outcome, self.now))

    def complete(
        self, job: Job, verdict: Verdict = Verdict.SUCCEEDED, **fields: Any
    ) -> list[Effect]:
        completion = Completion(id=job.id, verdict=verdict, **fields)
        attempt = job.attempt
        effects = self.machine.completed(job, completion, self.now)
        if effects:
            self.in_cloud.ended(job, attempt, self.now, is_known=True)
        elif job.id not in self.machine.jobs:
            attempt = completion.attempt or job.attempt
            self.machine.ended_after_all(job.id, attempt, self.now)
            self.in_cloud.ended(job, attempt, self.now, is_known=True)
        return self.carry_out(effects)

    def cancel(self, job: Job, *, can_stop: bool = True) -> bool:
        effects = self.machine.cancel(job, self.now, can_stop=can_stop)
        self.carry_out(effects or [])
        return effects is not None

    def advance(self, seconds: float) -> list[Effect]:
        self.now += seconds
        return self.due()

    def due(self) -> list[Effect]:
        """Let the machine decide, then look at everything that it holds."""
        before = {id(slot) for slot in slots_of(self.machine)}
        effects = self.carry_out(self.machine.due(self.now))
        while self.machine.next_deadline(self.now) == self.now:  # it was not all
            effects += self.carry_out(self.machine.due(self.now))
        launched = [e.slot for e in effects if isinstance(e, Launch)]
        self.check_limits([slot for slot in launched if id(slot) not in before])
        self.check()
        return effects

    def run(self, *jobs: Job) -> list[Job]:
        """Decide, and let everything that is launched be accepted; return what was launched."""
        launched = [e.job for e in self.due() if isinstance(e, Launch)]
        for job in launched:
            self.answer(job, Accepted(f"r-{job.id}"))
        return launched

    def end(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self.complete(job)

    def drain(self, rounds_max: int = 1000) -> None:
        """Let everything end well, for as long as anything happens."""
        for _ in range(rounds_max):
            self.due()
            for job, _ in list(self.sending.values()):
                attempts = sorted(number for job_id, number in self.sending if job_id == job.id)
                for attempt in attempts:
                    self.answer(job, Accepted("r"), attempt)
            self.end([job for job in live_of(self.machine) if job.state is State.RUNNING])
            if not self.machine.jobs and not self.machine.orphans:
                return
            self.due()
            if not self.sending:
                deadline = self.machine.next_deadline(self.now)
                assert deadline is not None, ("stuck", live_of(self.machine))
                self.now = deadline
        raise AssertionError(("starving", live_of(self.machine)))

    # -- Effects

    def carry_out(self, effects: list[Effect]) -> list[Effect]:
        for effect in effects:
            match effect:
                case Launch(job=job, slot=slot):
                    assert job.state is State.SENDING
                    assert job.slot is slot
                    assert (job.id, job.attempt) not in self.sending, "two sends at once"
                    self.sending[job.id, job.attempt] = (job, slot)
                    self.in_cloud.sent(job, self.now)
                    self.launched.append(job.id)
                case Watch(job=job):
                    assert job.state is State.RUNNING
                    assert job.slot is not None
                    assert job.slot.deadline < math.inf
                case Return(job=job):
                    assert job.state is State.WAITING
                    assert job.id in self.machine.jobs
                case Finish(job=job, state=state):
                    assert job.id not in self.finishes, "it ended twice"
                    assert job.state is state
                    assert state in ENDED
                    assert job.id not in self.machine.jobs
                    assert (job.slot, job.entry, job.expiry) == (None, None, None)
                    self.finishes[job.id] = effect
                    self.in_cloud.ended(job, job.attempt, self.now, is_known=False)
                case Stop(job=job):
                    self.stopped.append(job.id)
                case Warn():
                    self.warnings.append(effect)
        return effects

    # -- What must be true at any time

    @property
    def main(self) -> Account:
        return self.machine.accounts["main"]

    def check(self) -> None:
        """Check what must be true whenever the machine has decided."""
        self.check_no_spin()
        self.in_cloud.check(self.now)
        for account in self.machine.accounts.values():
            jobs = [job for job in live_of(self.machine) if self.machine.account_of(job) is account]
            check_books(account, jobs, slots_of(self.machine, account))
            check_queues(account, jobs)
            self.check_work_is_conserved(account, jobs)
            in_flight = [
                job for job, _ in self.sending.values() if job.lane.tenant.account == account.name
            ]
            assert account.gate.requests == len(in_flight)
        check_heaps(self.machine)

    def check_no_spin(self) -> None:
        deadline = self.machine.next_deadline(self.now)
        assert deadline is None or deadline > self.now
        assert self.machine.due(self.now) == []

    def check_limits(self, fresh: list[Slot]) -> None:
        """Check that every slot was taken within the limits as they were then."""
        held = [slot for slot in slots_of(self.machine) if slot not in fresh]
        for slot in fresh:
            account, lane = self.machine.account_of(slot.job), slot.job.lane
            before = [each for each in held if self.machine.account_of(each.job) is account]
            held.append(slot)
            after = [*before, slot]
            if instances(after) > instances(before):
                assert instances(after) <= account.gate.limit
                resources = account.gate.rules.resources
                assert resources is None or vcpus(after) <= resources.vcpu + 1e-9
                at_function = [each for each in after if each.job.lane.function is lane.function]
                assert instances(at_function) <= (lane.function.rules.instances_max or math.inf)
            of_tenant = [each for each in after if each.job.lane.tenant is lane.tenant]
            assert shares(of_tenant) <= (lane.tenant.gate.rules.limit or math.inf)

    def check_work_is_conserved(self, account: Account, jobs: list[Job]) -> None:
        """
        Check that nothing waits that may go.

        Excused is who waits behind somebody that does not fit: at a full account, at the same
        function, or under the same tenant's ceiling.
        """
        if account.gate.shut(self.now) is not None:
            return
        due = [job for job in jobs if job.state is State.WAITING and job.waits_for is None]
        for job in due:
            if job.slot is not None:
                assert job.lane.function.shut(self.now) is not None, job
        if account.gate.in_use >= account.gate.limit:
            return
        lanes = {job.lane for job in due if job.slot is None}
        if any(account.gate.no_room(each.function, each.qualifier, self.now) for each in lanes):
            return  # whoever is first waits for a ramp or a resource
        for line in account.backlog._lines.values():
            first = line.lanes.first()
            assert first is not None
            assert _blocked(first, self.now), "the first in line fits"
        at_function = {lane.function for lane in lanes if _blocked(lane, self.now)}
        at_ceiling = {lane.tenant for lane in lanes if not lane.fits_tenant}
        for lane in lanes:
            assert lane.function in at_function or lane.tenant in at_ceiling, (lane, self.now)


def _blocked(lane: Lane, now: float) -> bool:
    return lane.function.blocked(lane.qualifier, now) is not None


def live_of(machine: Machine) -> list[Job]:
    """Return what has not ended, in the order of acceptance."""
    return sorted(machine.jobs.values(), key=lambda job: job.seq)


def slots_of(machine: Machine, account: Account | None = None) -> list[Slot]:
    """Return the slots that are held, of one account or of all."""
    held = [job.slot for job in live_of(machine) if job.slot is not None]
    return [
        slot
        for slot in (*held, *machine.orphans)
        if account in (None, machine.account_of(slot.job))
    ]


def instances(slots: Iterable[Slot]) -> int:
    """Count the instances that these slots are, by the definition."""
    flights = Counter((slot.job.lane.function, slot.job.lane.qualifier) for slot in slots)
    return sum(
        math.ceil(count / function.rules.instance_concurrency)
        for (function, _), count in flights.items()
    )


def vcpus(slots: Iterable[Slot]) -> float:
    """Count the vCPUs that these slots are."""
    by_function: dict[FunctionGate, list[Slot]] = {}
    for slot in slots:
        by_function.setdefault(slot.job.lane.function, []).append(slot)
    return sum(instances(each) * function.rules.vcpu for function, each in by_function.items())


def shares(slots: Iterable[Slot]) -> Fraction:
    return sum((Fraction(1, slot.share) for slot in slots), Fraction(0))


def check_books(account: Account, jobs: list[Job], slots: list[Slot]) -> None:
    """Check every count against the slots and jobs themselves."""
    assert account.gate.in_use == instances(slots)
    assert account.gate.milli_vcpu == sum(
        function.in_use * function.milli_vcpu for function in account.functions.values()
    )
    assert sum(account.in_flight.values()) == len(slots)
    for function in account.functions.values():
        of_function = {job for job in jobs if job.lane.function is function}
        held = [slot for slot in slots if slot.job.lane.function is function]
        of_function |= {slot.job for slot in held}
        assert function.in_use == instances(held)
        assert function.in_flight == Counter(slot.job.lane.qualifier for slot in held)
        assert function.jobs == len(of_function)
        assert function.queued == len(of_function) - len(held)
    for tenant in account.backlog.tenants.values():
        of_tenant = [job for job in jobs if job.lane.tenant is tenant]
        held = [slot for slot in slots if slot.job.lane.tenant is tenant]
        assert math.isclose(tenant.gate.in_use, shares(held))
        assert tenant.gate.invocations == len(held)
        waiting = [job for job in of_tenant if job.state is State.WAITING]
        assert tenant.delayed == sum(job.waits_for is not None for job in waiting)
        assert tenant.due == sum(job.waits_for is None for job in waiting)
    assert account.backlog.due == sum(t.due for t in account.backlog.tenants.values())
    assert account.backlog.delayed == sum(t.delayed for t in account.backlog.tenants.values())
    for job in jobs:
        assert job.state in (State.WAITING, State.SENDING, State.RUNNING)
        assert (job.slot is not None) or job.state is State.WAITING
        assert account.functions[job.lane.function.name] is job.lane.function
        assert account.backlog.tenants[job.lane.tenant.name] is job.lane.tenant


def check_queues(account: Account, jobs: list[Job]) -> None:
    """Check that whatever waits stands in one place, and where it can be found."""
    backlog = account.backlog
    waiting = [job for job in jobs if job.state is State.WAITING]
    delayed = {job for job in waiting if job.waits_for is not None}
    assert set(backlog._delayed) == delayed
    resends = list(backlog.resends)
    assert len(resends) == len(set(resends))
    assert all(backlog.resends._shut.values())
    assert set(resends) == {
        job for job in waiting if job.waits_for is None and job.slot is not None
    }
    lanes = [lane for tenant in backlog.tenants.values() for lane in tenant.lanes.values()]
    in_lanes = [job for lane in lanes for job in lane.jobs]
    assert len(in_lanes) == len(set(in_lanes))
    assert {*in_lanes} == {job for job in waiting if job.waits_for is None and job.slot is None}
    assert not backlog.unclear
    for lane in lanes:
        assert not lane.jobs.unclear
        if lane.line is not None:
            assert lane.jobs
            assert lane in list(lane.line.lanes)
            assert backlog._lines[lane.function.name] is lane.line
            assert lane not in list(lane.tenant.ready)
        else:
            assert (lane in list(lane.tenant.ready)) == bool(lane.jobs)
        for job in lane.jobs:
            assert job.lane is lane
    for line in backlog._lines.values():
        assert line.lanes
    for tenant in backlog.tenants.values():
        if (owed := tenant.owed) is not None:
            assert owed in lanes
            assert owed.jobs
            assert tenant in backlog._owed[owed.function.name]
    assert sum(map(len, backlog._owed.values())) == sum(
        tenant.owed is not None for tenant in backlog.tenants.values()
    )
    for tenant in backlog.tenants.values():
        assert (tenant.entry is not None) == (bool(tenant.ready) and not tenant.at_ceiling)
        assert tenant.entry is None or tenant.entry[:2] == tenant.place
    expiring = {job for job in waiting if job.expires_at < math.inf and not job.maybe_sent}
    assert {entry[2] for entry in backlog._expiries} == expiring
    due = [job for job in waiting if job.waits_for is None]
    check_oldest(backlog.oldest_due_at(), due)
    for tenant in backlog.tenants.values():
        check_oldest(tenant.ages.oldest(), [job for job in due if job.lane.tenant is tenant])


def check_oldest(since: float | None, due: list[Job]) -> None:
    """Check that *since* is the second in which the first of *due* came due."""
    oldest = min((job.due_at for job in due), default=None)
    assert (since is None) == (oldest is None)
    assert since is None or oldest is None or math.floor(since) == math.floor(oldest)


def check_heaps(machine: Machine) -> None:
    """Check that no heap keeps more stale entries than good ones, and that it can count."""
    slots = slots_of(machine)
    assert len(machine._deadlines) == sum(slot.deadline < math.inf for slot in slots)
    heaps: list[LazyHeap[Any] | Ranking[Any]] = [machine._deadlines._slots]
    for account in machine.accounts.values():
        backlog = account.backlog
        heaps += [
            account._closings,
            backlog._expiries,
            backlog._order,
            backlog._delayed,
        ]
        heaps += [line.lanes for line in backlog._lines.values()]
        for tenant in backlog.tenants.values():
            heaps.append(tenant.ready)
            heaps += [lane.jobs for lane in tenant.lanes.values()]
    for heap in heaps:
        assert len(list(heap)) == len(heap)
        assert len(heap._heap) <= 2 * len(heap)
