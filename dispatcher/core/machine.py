"""
The machine: stimuli in, effects out.

It decides what is sent when, and what an outcome or a completion means. It asks the gates, the
backlog, the retry rules and the life-cycle table, and computes nothing itself. Slots are
taken here, at the decision; whoever carries the effects out must do so before he asks again.
"""

import heapq
from collections.abc import Callable
from typing import assert_never

from msgspec import Struct

from dispatcher.core.account import Account
from dispatcher.core.backlog import UNKNOWN_RUN_S, Job
from dispatcher.core.gates import Slot
from dispatcher.core.lifecycle import ENDED, Move, after
from dispatcher.core.model import (
    Accepted,
    CallType,
    Completion,
    Denied,
    Failure,
    GateKind,
    Lost,
    NotSent,
    Outcome,
    Refused,
    Replied,
    Rules,
    Source,
    State,
    Throttled,
    Verdict,
)
from dispatcher.core.retry import COST_FAILED, COST_THROTTLED, backoff_s
from dispatcher.core.statistics import Counters


class Launch(Struct, frozen=True):
    """Send it: first note in the journal that it is being sent, then begin."""

    job: Job
    slot: Slot


class Watch(Struct, frozen=True):
    """The cloud took it: note that, and find out when it ends."""

    job: Job


class Return(Struct, frozen=True):
    """It waits again: note that."""

    job: Job
    failure: Failure | None
    maybe_sent: bool


class Stop(Struct, frozen=True):
    """Ask the cloud to stop it."""

    job: Job


class Finish(Struct, frozen=True, kw_only=True):
    """It ended: note that and tell whoever waits for it."""

    job: Job
    state: State
    result: bytes | None = None
    failure: Failure | None = None
    estimated: bool = False
    reply: Replied | None = None
    forced: bool = False
    """Its slot was taken away, and the function may still run: keep listening."""


class Warn(Struct, frozen=True):
    """Somebody should look at this."""

    event: str
    account: str
    failure: Failure


Effect = Launch | Watch | Return | Stop | Finish | Warn


class Machine:
    """All accounts and every invocation that has not ended."""

    def __init__(self, rules: Rules, uniform: Callable[[], float]) -> None:
        """*uniform* gives random numbers from 0 up to 1; nothing else here is left to chance."""
        self.rules = rules
        self.counters = Counters()
        self.jobs: dict[str, Job] = {}
        self.accounts: dict[str, Account] = {}
        self._uniform = uniform
        self._deadlines: list[tuple[float, int, Job, Slot]] = []
        self._held = 0
        for name in rules.accounts:
            self._add_account(name)

    def _add_account(self, name: str) -> None:
        self.accounts[name] = Account(name, self.rules.accounts[name])
        self.counters.add_account(name)

    def account_of(self, job: Job) -> Account:
        """Return the account that *job* belongs to."""
        return self.accounts[job.lane.tenant.account]

    # -- Stimuli: what comes in, and what an operator wants

    def admit(self, job: Job, now: float) -> None:
        """Take a job that is on disk."""
        assert job.id not in self.jobs, job.id
        self.jobs[job.id] = job
        job.lane.function.jobs += 1
        self.account_of(job).backlog.add(job, now)

    def restore(self, job: Job, state: State, sent_ago_s: float, now: float) -> list[Effect]:
        """
        Take a job that an earlier process had begun to send, or that runs.

        It gets its slot back even over the limit: what runs in the cloud holds an instance.
        """
        account = self.account_of(job)
        self.jobs[job.id] = job
        job.lane.function.jobs += 1
        job.sent_at = job.first_sent_at = now - sent_ago_s
        account.take(job, self._new_slot(job, now))
        self._charge(job)
        if state is State.RUNNING:
            job.state = after(after(State.WAITING, Move.LAUNCH), Move.ACCEPT)
            return self._runs(job, now - sent_ago_s)
        if self.rules.at_most_once:
            return [self._lose(job, Failure("uncertain", "it was being sent when we stopped"), now)]
        job.waits_for, job.wakes_at = GateKind.RETRY, now
        account.backlog.add(job, now)
        return []

    def cancel(self, job: Job, now: float, *, can_stop: bool) -> list[Effect] | None:
        """Cancel *job*; None: it is too late. A running one ends when the cloud has stopped it."""
        if job.state is State.WAITING:
            account = self.account_of(job)
            account.backlog.drop(job)
            return [self._finish(job, Move.CANCEL, now)]
        if not can_stop or self._source(job) is not Source.TASK:
            return None
        job.stopping = True
        return [Stop(job)] if job.state is State.RUNNING else []

    def pause(self, account: str, function: str | None, *, paused: bool) -> None:
        """Stop or resume the sends of an account, or of one function."""
        owner = self.accounts[account]
        if function is None:
            owner.gate.paused = paused
        else:
            gate = owner.function(function)
            gate.paused = paused
            if not paused:
                owner.backlog.wake_all(gate)

    def set_rules(self, rules: Rules) -> None:
        """Take new rules. Accounts stay: who an account is cannot change while it has jobs."""
        assert set(rules.accounts) == set(self.accounts)
        self.rules = rules
        for name, account in self.accounts.items():
            account.set_rules(rules.accounts[name])

    # -- Stimuli: what came of a send

    def sent(self, job: Job, slot: Slot, outcome: Outcome, now: float) -> list[Effect]:
        """Take the outcome of the send that *slot* was taken for."""
        account = self.account_of(job)
        gate = account.gate
        gate.requests -= 1
        assert gate.requests >= 0, gate
        sent_at = job.sent_at if job.sent_at is not None else now
        self._count_send(job, outcome, now - sent_at)
        self._judge_circuit(account, outcome, sent_at, now)
        if isinstance(outcome, Throttled):
            self._close_gate(job, outcome, now)
        effects: list[Effect] = []
        if isinstance(outcome, Denied) and gate.circuit.denied(sent_at, now):
            effects.append(Warn("circuit_open", account.name, outcome.failure))
        if job.slot is not slot or job.state is not State.SENDING:
            return effects  # its completion was faster, or it was taken away
        match outcome:
            case Accepted(request_id=request_id):
                effects += self._accepted(job, request_id, now)
            case Replied():
                effects += self._replied(job, outcome, now)
            case Throttled(reason=reason, message=message, status=status):
                failure = Failure("throttled", message, reason, status)
                effects.append(self._return(job, failure, COST_THROTTLED, now))
            case Denied(failure=failure):
                effects.append(self._return(job, failure, None, now))
            case NotSent(failure=failure, retry_after_s=wait_s):
                effects.append(self._return(job, failure, COST_FAILED, now, wait_s=wait_s))
            case Lost():
                effects.append(self._lost(job, outcome, now))
            case Refused(failure=failure):
                effects.append(self._finish(job, Move.BURY, now, failure=failure))
            case _:
                assert_never(outcome)
        return effects

    def _accepted(self, job: Job, request_id: str, now: float) -> list[Effect]:
        job.state = after(job.state, Move.ACCEPT)
        job.request_id = request_id
        job.failures = 0
        self.account_of(job).gate.budget.reward()
        return self._runs(job, now)

    def _runs(self, job: Job, since: float) -> list[Effect]:
        """Begin to wait for the end of what the cloud took at *since*."""
        function, slot = job.lane.function, job.slot
        assert slot is not None
        source = self._source(job)
        if source is Source.ACCEPTED:
            return [self._finish(job, Move.SUCCEED, since, estimated=True)]
        slot.deadline = since + function.rules.hold_max_s
        if source is Source.DURATION:
            slot.exact = False
            slot.deadline = since + (function.duration_s or function.rules.hold_max_s)
        self._held += 1
        heapq.heappush(self._deadlines, (slot.deadline, self._held, job, slot))
        effects: list[Effect] = [Watch(job)]
        if job.stopping:
            effects.append(Stop(job))
        return effects

    def _replied(self, job: Job, reply: Replied, now: float) -> list[Effect]:
        job.request_id = reply.request_id
        job.failures = 0
        self.account_of(job).gate.budget.reward()
        verdict = Verdict.FAILED if reply.failure else Verdict.SUCCEEDED
        return [self._run_ended(job, verdict, reply.payload, reply.failure, now, reply)]

    def _lost(self, job: Job, lost: Lost, now: float) -> Effect:
        # A synchronous call that timed out may run on; to send it again would run it twice
        # at the same time, and its slot has been held as long as it may be.
        if self.rules.at_most_once or (job.type is CallType.SYNC and lost.timed_out):
            return self._lose(job, lost.failure, now)
        return self._return(
            job, lost.failure, COST_FAILED, now, wait_s=lost.retry_after_s, keep_slot=True
        )

    def _return(
        self,
        job: Job,
        failure: Failure,
        cost: float | None,
        now: float,
        *,
        wait_s: float | None = None,
        keep_slot: bool = False,
    ) -> Effect:
        """
        Let a job wait again whose send did not succeed; a *cost* of None means without delay.

        What may be in the cloud keeps its slot, for it may be running there.
        """
        rules = self.rules.retry
        if job.first_sent_at is not None and now - job.first_sent_at > rules.age_max_s:
            return self._finish(job, Move.BURY, now, failure=failure)
        account = self.account_of(job)
        job.state = after(job.state, Move.RETURN)
        if cost is not None:
            job.failures += 1
            delay_s = backoff_s(rules, job.failures, self._uniform)
            if not account.gate.budget.spend(cost):
                delay_s = rules.delay_max_s
            job.waits_for = GateKind.RETRY
            job.wakes_at = now + max(delay_s, wait_s or 0.0)
        if not keep_slot:
            self._release(job, now)
        account.backlog.add(job, now)
        return Return(job, failure, keep_slot)

    # -- Stimuli: the end of a run

    def completed(self, job: Job, completion: Completion, now: float) -> list[Effect]:
        """Take the news that an attempt of *job* has ended; repeats and strangers do nothing."""
        stale = completion.attempt is not None and completion.attempt != job.attempt
        if stale or job.slot is None:
            self.counters.late_completions[job.lane.tenant.account,] += 1
            return []
        if job.state is State.WAITING:  # about to be sent again, and it ran after all
            self.account_of(job).backlog.drop(job)
        self._learn(job, completion, now)
        return [
            self._run_ended(job, completion.verdict, completion.result, completion.failure, now)
        ]

    def _run_ended(
        self,
        job: Job,
        verdict: Verdict,
        result: bytes | None,
        failure: Failure | None,
        now: float,
        reply: Replied | None = None,
    ) -> Effect:
        if verdict is Verdict.SUCCEEDED:
            return self._finish(job, Move.SUCCEED, now, result=result, reply=reply)
        if verdict is Verdict.STOPPED:
            return self._finish(job, Move.CANCEL, now, failure=failure)
        if verdict is Verdict.EXPIRED:
            return self._finish(job, Move.EXPIRE, now, failure=failure)
        failure = failure or Failure("function_error", "the function failed")
        if job.attempt >= job.lane.function.rules.attempts_max or job.stopping:
            return self._finish(job, Move.BURY, now, result=result, failure=failure, reply=reply)
        if job.state is not State.WAITING:
            job.state = after(job.state, Move.RETURN)
        self._release(job, now)
        job.failures = 0
        job.attempt += 1
        job.first_sent_at = job.sent_at = job.request_id = None
        job.waits_for = GateKind.RETRY
        job.wakes_at = now + backoff_s(self.rules.retry, job.attempt - 1, self._uniform)
        self.account_of(job).backlog.add(job, now)
        return Return(job, failure, maybe_sent=False)

    def _learn(self, job: Job, completion: Completion, now: float) -> None:
        run_s = completion.run_s
        if run_s is None and job.sent_at is not None:
            run_s = now - job.sent_at
        if run_s is not None:
            self.counters.run_s[job.lane.tenant.account,].observe(run_s)
            function = job.lane.function
            if self._source(job) is not Source.DURATION or function.duration_s is None:
                old = function.duration_s
                function.duration_s = run_s if old is None else old + 0.1 * (run_s - old)

    def _lose(self, job: Job, failure: Failure, now: float) -> Finish:
        return self._finish(job, Move.LOSE, now, failure=failure, forced=True)

    def _finish(
        self,
        job: Job,
        move: Move,
        now: float,
        *,
        result: bytes | None = None,
        failure: Failure | None = None,
        estimated: bool = False,
        reply: Replied | None = None,
        forced: bool = False,
    ) -> Finish:
        job.state = after(job.state, move)
        assert job.state in ENDED
        if job.slot is not None:
            self._release(job, now)
        del self.jobs[job.id]
        lane = job.lane
        lane.function.jobs -= 1
        self.counters.ended[
            lane.tenant.account, lane.function.label, lane.tenant.label, job.state
        ] += 1
        return Finish(
            job=job,
            state=job.state,
            result=result,
            failure=failure,
            estimated=estimated,
            reply=reply,
            forced=forced,
        )

    # -- Decisions

    def due(self, now: float) -> list[Effect]:
        """Return what is to be done now. Slots are taken here."""
        effects: list[Effect] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, job, slot = heapq.heappop(self._deadlines)
            if job.slot is slot:
                effects.append(self._out_of_time(job, slot, now))
        for account in self.accounts.values():
            backlog = account.backlog
            for job in backlog.expired(now):
                backlog.drop(job)
                failure = Failure("expired", "it was not sent in time")
                effects.append(self._finish(job, Move.EXPIRE, now, failure=failure))
            backlog.wake(now)
            account.reopen(now)
            if backlog.due or account.blocked_by is not None:
                self._launch_from(account, now, effects)
        return effects

    def _out_of_time(self, job: Job, slot: Slot, now: float) -> Effect:
        if job.state is State.WAITING:  # its send was lost, and it is about to be sent again
            self.account_of(job).backlog.drop(job)
        if not slot.exact and job.state is State.RUNNING:
            if job.sent_at is not None:
                self.counters.run_s[job.lane.tenant.account,].observe(now - job.sent_at)
            return self._finish(job, Move.SUCCEED, now, estimated=True)
        function = job.lane.function
        self.counters.forced_releases[job.lane.tenant.account, function.label] += 1
        limit_s = function.rules.hold_max_s
        return self._lose(job, Failure("no_completion", f"no news for {limit_s:g} s"), now)

    def _launch_from(self, account: Account, now: float, effects: list[Effect]) -> None:
        gate, backlog = account.gate, account.backlog
        blocked = None
        while backlog.due:
            shut = gate.shut(now)
            if shut is not None:
                blocked = shut.gate
                break
            if backlog.resends:
                job = backlog.resend()
            else:
                lane = backlog.next_lane(now)
                if lane is None:
                    blocked = GateKind.FUNCTION if backlog.any_parked else GateKind.TENANT
                    break
                if gate.full(lane.function.instances_for_one_more(lane.qualifier)) is not None:
                    blocked = GateKind.ACCOUNT
                    break
                job = backlog.take(lane)
                account.take(job, self._new_slot(job, now))
                self._charge(job)
                backlog.rerank(lane.tenant)
            effects.append(self._launch(account, job, now))
        account.note_blocked(blocked, now, self.counters.blocked_seconds)

    def _launch(self, account: Account, job: Job, now: float) -> Launch:
        assert job.slot is not None
        if job.first_sent_at is None:
            job.first_sent_at = now
            waited_s = max(0.0, now - max(job.due_at, job.accepted_at))
            self.counters.queue_wait_s[account.name,].observe(waited_s)
        job.sent_at = now
        job.state = after(job.state, Move.LAUNCH)
        account.gate.requests += 1
        account.gate.rate.take(now)
        account.gate.circuit.sent(now)
        return Launch(job, job.slot)

    def next_deadline(self, now: float) -> float | None:
        """Return when to ask `due` again, later than *now*; None: no time alone changes anything."""
        while self._deadlines and self._deadlines[0][2].slot is not self._deadlines[0][3]:
            heapq.heappop(self._deadlines)
        times = [self._deadlines[0][0]] if self._deadlines else []
        for account in self.accounts.values():
            times += account.times(now)
        return min(times, default=None)

    # -- Small steps

    def _source(self, job: Job) -> Source:
        if job.type is CallType.SYNC:
            return Source.RESPONSE
        return job.lane.function.rules.completion or Source.CALLBACK

    def _new_slot(self, job: Job, now: float) -> Slot:
        rules = job.lane.function.rules
        return Slot(
            attempt=job.attempt,
            qualifier=job.lane.qualifier,
            share=rules.instance_concurrency,
            taken_at=now,
            deadline=now + rules.hold_max_s,
        )

    def _charge(self, job: Job) -> None:
        slot = job.slot
        assert slot is not None
        slot.charged_s = job.lane.function.duration_s or UNKNOWN_RUN_S
        job.lane.tenant.charge(slot.charged_s, slot.share)

    def _release(self, job: Job, now: float) -> None:
        """Give the slot back and settle what it was charged."""
        slot = job.slot
        assert slot is not None
        job.lane.tenant.charge(now - slot.taken_at - slot.charged_s, slot.share)
        self.account_of(job).give_back(job)

    def _judge_circuit(
        self, account: Account, outcome: Outcome, sent_at: float, now: float
    ) -> None:
        match outcome:
            case NotSent() | Lost():
                account.gate.circuit.unanswered()
            case Denied():
                pass
            case _:
                account.gate.circuit.reached(sent_at, now)

    def _close_gate(self, job: Job, throttled: Throttled, now: float) -> None:
        """Close the gate whose limit was met for as long as the cloud asks."""
        account, function = self.account_of(job), job.lane.function
        reason = throttled.reason
        self.counters.throttles[account.name, function.label, reason] += 1
        if throttled.retry_after_s is None:
            return
        until = now + throttled.retry_after_s
        if throttled.gate is GateKind.FUNCTION:
            function.closed_until = max(function.closed_until, until)
            account.closed_functions.add(function.name)
        elif throttled.gate is GateKind.RATE:
            account.gate.rate_closed_until = max(account.gate.rate_closed_until, until)
        else:
            account.gate.closed_until = max(account.gate.closed_until, until)

    def _count_send(self, job: Job, outcome: Outcome, took_s: float) -> None:
        match outcome:
            case Accepted() | Replied():
                result = "ok"
            case Throttled():
                result = "throttled"
            case Refused() | Denied():
                result = "refused"
            case Lost(timed_out=True):
                result = "timeout"
            case _:
                result = "error"
        account, label = job.lane.tenant.account, job.lane.function.label
        self.counters.send_attempts[account, label, result] += 1
        self.counters.send_s[account,].observe(took_s)
