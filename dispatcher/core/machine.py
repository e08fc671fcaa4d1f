"""
The machine: stimuli in, effects out.

It decides what is sent when, and what an outcome or a completion means. It asks the gates, the
backlog, the retry rules and the life-cycle table, and computes nothing itself. Slots are
taken here, at the decision; whoever carries the effects out must do so before he asks again.
"""

import math
from typing import assert_never

from dispatcher.core.account import Account
from dispatcher.core.deadlines import source_of
from dispatcher.core.doubt import ARRIVES_S, doubt, may_go_again_at
from dispatcher.core.effects import Effect, Finish, Launch, Return, Stop, Warn, Watch
from dispatcher.core.ends import Ends
from dispatcher.core.gates import Slot
from dispatcher.core.job import Job
from dispatcher.core.lifecycle import ENDED, Move, after
from dispatcher.core.model import (
    Accepted,
    CallType,
    Denied,
    Failure,
    GateKind,
    Lost,
    NotSent,
    Outcome,
    Refused,
    Replied,
    Source,
    State,
    Throttled,
    Verdict,
)
from dispatcher.core.retry import (
    NotTaken,
    backoff_s,
    cost_of,
    failure_of,
    retry_after_s,
)
from dispatcher.core.rules import Rules

__all__ = ["Effect", "Finish", "Launch", "Machine", "Return", "Stop", "Warn", "Watch"]


class Machine(Ends):
    """All accounts and every invocation that has not ended."""

    # -- Stimuli: what comes in, and what an operator wants

    def admit(self, job: Job, now: float) -> None:
        """Take a job that is on disk."""
        self._enter(job).backlog.add(job, now)

    def restore(self, job: Job, state: State, sent_ago_s: float, now: float) -> list[Effect]:
        """
        Take a job that an earlier process had begun to send, or that runs.

        It gets its slot back even over the limit, for as long as it had: what runs in the
        cloud holds an instance.
        """
        account = self._enter(job)
        job.sent_at = job.first_sent_at = sent_at = now - sent_ago_s
        job.waits_for = None
        if state is State.RUNNING:
            slot = account.take(job, now)
            job.state = after(job.state, Move.LAUNCH)
            return self._runs(job, slot, sent_at, now)
        assert state is State.SENDING, state
        job.maybe_sent = True
        began_by = min(now, sent_at + ARRIVES_S)
        if began_by + job.lane.function.rules.hold_max_s > now:
            slot = account.take(job, now)
            doubt(slot, began_by)
            self._deadlines.hold(slot, slot.lost_until)
        if self.rules.at_most_once:
            return [self._lose(job, Failure("uncertain", "it was being sent when we stopped"), now)]
        account.backlog.add(job, now)
        return []

    def _enter(self, job: Job) -> Account:
        lane = job.lane
        account = self.accounts[lane.tenant.account]
        if lane.forgotten or lane.tenant.forgotten or lane.function.forgotten:
            job.lane = lane = account.lane(lane.function.name, lane.qualifier, lane.tenant.name)
        self.jobs.add(job.id, job)
        lane.function.jobs += 1
        return account

    def cancel(self, job: Job, now: float, *, can_stop: bool) -> list[Effect] | None:
        """
        Cancel *job*; None: it is too late. A running one ends when the cloud has stopped it.

        *can_stop* tells whether its provider can stop asynchronous tasks.
        """
        can_stop = can_stop and source_of(job) is Source.TASK
        if job.state is State.WAITING:
            self.account_of(job).backlog.drop(job)
            return self._cancelled(job, now, can_stop=can_stop)
        if not can_stop or job.state in ENDED:
            return None
        job.stopping = True
        return [Stop(job)] if job.state is State.RUNNING else []

    def _cancelled(self, job: Job, now: float, *, can_stop: bool) -> list[Effect]:
        stop: list[Effect] = [Stop(job)] if job.maybe_sent and can_stop else []
        return [*stop, self._finish(job, Move.CANCEL, now)]

    def pause(self, account: str, function: str | None, *, paused: bool) -> None:
        """Stop or resume the sends of an account, or of one function."""
        self.accounts[account].pause(function, paused=paused)

    def set_rules(self, rules: Rules) -> None:
        """Take new rules. Accounts stay: who an account is cannot change while it has jobs."""
        assert set(rules.accounts) == set(self.accounts)
        self.rules = rules
        for name, account in self.accounts.items():
            account.set_rules(rules.accounts[name])

    # -- Stimuli: what came of a send

    def sent(self, job: Job, slot: Slot, outcome: Outcome, now: float) -> list[Effect]:
        """Take the outcome of the send that *slot* was taken for."""
        account, function = self.account_of(job), job.lane.function
        self.counters.sent(account.name, function.label, outcome)
        account.times.send_s.observe(now - slot.sent_at)
        opened = account.answered(function, slot, outcome, now)
        # Else its completion was faster: what the send came to does not matter any more.
        is_news = job.slot is slot and job.state is State.SENDING
        effects = self._came_of(account, job, slot, outcome, now) if is_news else []
        if opened and isinstance(outcome, Denied):
            effects.insert(0, Warn("circuit_open", account.name, outcome.failure))
        return effects

    def _came_of(
        self, account: Account, job: Job, slot: Slot, outcome: Outcome, now: float
    ) -> list[Effect]:
        match outcome:
            case Accepted():
                self._taken(account, job, outcome.request_id)
                return self._runs(job, slot, now, now)
            case Replied():
                self._taken(account, job, outcome.request_id)
                self._learn(account, job, now - slot.sent_at)
                verdict = Verdict.FAILED if outcome.failure else Verdict.SUCCEEDED
                return [
                    self._run_ended(
                        job, verdict, now, outcome.payload, outcome.failure, reply=outcome
                    )
                ]
            case Denied(failure=failure) if job.once:
                return [self._give_up(job, failure, now)]
            case Throttled() | Denied() | NotSent():
                return self._return(job, slot, outcome, now)
            case Lost():
                return self._lost(job, slot, outcome, now)
            case Refused(failure=failure):
                return [self._give_up(job, failure, now)]
            case _:
                assert_never(outcome)

    def _taken(self, account: Account, job: Job, request_id: str) -> None:
        job.request_id = request_id
        job.failures = 0
        account.gate.budget.reward()

    def _runs(self, job: Job, slot: Slot, since: float, now: float) -> list[Effect]:
        """Begin to wait for the end of what the cloud took at *since*."""
        source = source_of(job)
        if source is Source.ACCEPTED:
            return [self._finish(job, Move.SUCCEED, now, estimated=True)]
        job.state = after(job.state, Move.ACCEPT)
        slot.lost_until = -math.inf  # it is this run that is waited for
        self._deadlines.hold_run(slot, since, source)
        return [Watch(job), Stop(job)] if job.stopping else [Watch(job)]

    def _lost(self, job: Job, slot: Slot, lost: Lost, now: float) -> list[Effect]:
        # A reply to a synchronous call, even that of a server in trouble, says that it runs no
        # more; and the slot of one that timed out has been held as long as it may be.
        if job.type is CallType.ASYNC or not (lost.timed_out or lost.failure.status is not None):
            doubt(slot, now)
        timed_out = job.type is CallType.SYNC and lost.timed_out
        if self.rules.at_most_once or job.once or timed_out:
            return [self._lose(job, lost.failure, now)]
        job.maybe_sent = True
        return self._return(job, slot, lost, now)

    def _return(self, job: Job, slot: Slot, outcome: NotTaken, now: float) -> list[Effect]:
        """
        Let a job wait again whose send did not succeed.

        What may be in the cloud keeps its slot, for it may be running there.
        """
        if job.stopping:
            return self._cancelled(job, now, can_stop=True)
        assert job.first_sent_at is not None, job.id
        if now - job.first_sent_at > self.rules.retry.age_max_s:
            return [self._give_up(job, failure_of(outcome), now)]
        account = self.account_of(job)
        job.state = after(job.state, Move.RETURN)
        if (cost := cost_of(outcome)) is not None:
            job.failures += 1
            delay_s = backoff_s(self.rules.retry, job.failures, self._uniform)
            if not account.gate.budget.spend(cost):
                delay_s = self.rules.retry.delay_max_s
            if not isinstance(outcome, Throttled):  # there the gate is closed for that long
                delay_s = max(delay_s, retry_after_s(outcome))
            job.waits_for, job.wakes_at = GateKind.RETRY, now + delay_s
        if slot.lost_until > now:
            self._deadlines.hold(slot, slot.lost_until)
        else:
            self._release(account, slot, now)
        account.backlog.add(job, now)
        return [Return(job, failure_of(outcome), job.maybe_sent)]

    # -- Decisions

    def due(self, now: float, *, at_most: float = math.inf) -> list[Effect]:
        """
        Return what is to be done now. Slots are taken here.

        Time that has run out gives *at_most* so many effects, and each account as many; who is
        given that many has to ask again, soon.
        """
        effects: list[Effect] = []
        while len(effects) < at_most and (slot := self._deadlines.first(now)) is not None:
            effects += self._out_of_time(slot, now)
        for account in self.accounts.values():
            backlog, enough = account.backlog, len(effects) + at_most
            # Nothing goes before all is looked at that time brings: it may have expired, or be
            # the turn of what comes due at the same time.
            if backlog.wakes_at <= now and not self._wake(account, now, effects, at_most):
                continue
            if account.reopens_at <= now:
                account.reopen(now)
            if backlog.due or account.blocked_by is not None:
                self._launch_from(account, now, effects, enough)
        return effects

    def _wake(self, account: Account, now: float, effects: list[Effect], at_most: float) -> bool:
        """
        Let go what has expired, and let the others take their turn whose time has come.

        Returns whether that was all.
        """
        backlog, enough = account.backlog, len(effects) + at_most
        while (job := backlog.expired(now)) is not None:
            if len(effects) >= enough:
                return False
            backlog.drop(job)
            failure = Failure("expired", "it was not sent in time")
            effects.append(self._finish(job, Move.EXPIRE, now, failure=failure))
        return backlog.wake(now, at_most)

    def _out_of_time(self, slot: Slot, now: float) -> list[Effect]:
        job = slot.job
        account, function = self.account_of(job), job.lane.function
        if job.slot is not slot:
            self.ended_after_all(job.id, slot.attempt, now)
            return []
        if job.state is State.RUNNING and not slot.exact:
            if job.sent_at is not None:
                account.times.run_s.observe(now - job.sent_at)
            return [self._finish(job, Move.SUCCEED, now, estimated=True)]
        self.counters.forced_releases[account.name, function.label] += 1
        if job.state is State.RUNNING:
            limit_s = function.rules.hold_max_s
            return [self._lose(job, Failure("no_completion", f"no news for {limit_s:g} s"), now)]
        # Its send was lost, and it has yet to be sent again: whatever ran has ended by now.
        account.backlog.drop(job)
        self._release(account, slot, now)
        account.backlog.add(job, now)
        return []

    def _launch_from(
        self, account: Account, now: float, effects: list[Effect], enough: float
    ) -> None:
        while isinstance(job := account.next_to_go(now), Job):
            slot = job.slot
            assert slot is not None, job.id
            if slot.lost_until > now and (again_at := may_go_again_at(slot, now)) > now:
                job.waits_for, job.wakes_at = GateKind.RETRY, again_at
                account.backlog.add(job, now)
                continue
            if job.first_sent_at is None:
                job.first_sent_at = now
                waited_s = max(0.0, now - max(job.due_at, job.accepted_at))
                account.times.queue_wait_s.observe(waited_s)
            job.sent_at = now
            job.state = after(job.state, Move.LAUNCH)
            if slot.entry is not None:
                self._deadlines.keep(slot)
            account.gate.sent(slot, now)
            effects.append(Launch(job, slot))
            if len(effects) >= enough or account.backlog.unclear:
                return
        account.note_blocked(job, now, self.counters.blocked_seconds)

    def next_deadline(self, now: float) -> float | None:
        """
        Return when to ask `due` again; None: no time alone changes anything.

        Later than *now*, unless `due` has more to do than is done in one go.
        """
        at = self._deadlines.next_time()
        for account in self.accounts.values():
            at = min(at, account.next_time(now))
        return None if at == math.inf else max(at, now)
