"""
How invocations end: by their replies, by news, by estimates, or because no news came.

What a failed run means is decided here, too, and whose slot is given back when.
"""

import math
from collections.abc import Callable
from typing import Final, Unpack

from dispatcher.core.account import Account
from dispatcher.core.deadlines import Deadlines
from dispatcher.core.doubt import Orphans
from dispatcher.core.effects import Effect, Finish, Known, Return
from dispatcher.core.gates import Slot
from dispatcher.core.job import Job
from dispatcher.core.lifecycle import ENDED, Move, after
from dispatcher.core.model import Completion, Failure, GateKind, Replied, State, Verdict
from dispatcher.core.retry import backoff_s
from dispatcher.core.rules import Rules
from dispatcher.core.spread import Spread
from dispatcher.core.statistics import Counters

#: Moves to an end which does not say that nothing runs.
_MAY_RUN_ON: Final = (Move.LOSE, Move.CANCEL)

#: How an attempt may end that is the end of its invocation, too.
_MOVE_AFTER: Final = {
    Verdict.SUCCEEDED: Move.SUCCEED,
    Verdict.STOPPED: Move.CANCEL,
    Verdict.EXPIRED: Move.EXPIRE,
}


class Ends:
    """What holds all accounts and every invocation that has not ended, and ends them."""

    def __init__(self, rules: Rules, uniform: Callable[[], float]) -> None:
        """*uniform* gives random numbers from 0 up to 1; nothing else here is left to chance."""
        self.rules = rules
        self.counters = Counters()
        self.jobs: Spread[Job] = Spread()
        self.accounts: dict[str, Account] = {}
        self._uniform = uniform
        self._deadlines = Deadlines()
        self.orphans = Orphans(self._deadlines)
        for name in rules.accounts:
            self.accounts[name] = Account(name, rules.accounts[name])
            self.counters.add_account(name)

    def account_of(self, job: Job) -> Account:
        """Return the account that *job* belongs to."""
        return self.accounts[job.lane.tenant.account]

    # -- News

    def completed(self, job: Job, completion: Completion, now: float) -> list[Effect]:
        """Take the news that an attempt of *job* has ended; repeats and strangers do nothing."""
        account, slot, verdict = self.account_of(job), job.slot, completion.verdict
        stale = completion.attempt not in (None, job.attempt) or job.state in ENDED
        if stale or (slot is None and not job.maybe_sent):
            return []
        if job.state is State.WAITING:  # about to be sent again, and it ran after all
            account.backlog.drop(job)
            if slot is not None:
                slot.lost_until = -math.inf
        if verdict is Verdict.SUCCEEDED or verdict is Verdict.FAILED:
            run_s = completion.run_s
            if run_s is None and slot is not None and slot.sent_at == job.sent_at:
                # Not of what an earlier process sent: it may have ended while nobody listened.
                run_s = now - slot.sent_at
            self._learn(account, job, run_s)
        if slot is not None:
            account.ended(job.lane.function, slot, completion, now)
        delay_s = completion.true_start_delay_s
        if delay_s is not None:
            account.times.start_delay_s.observe(delay_s)
        return [self._run_ended(job, verdict, now, completion.result, completion.failure, delay_s)]

    def _run_ended(
        self,
        job: Job,
        verdict: Verdict,
        now: float,
        result: bytes | None,
        failure: Failure | None,
        start_delay_s: float | None = None,
        reply: Replied | None = None,
    ) -> Effect:
        known: Known = {
            "result": result,
            "failure": failure,
            "start_delay_s": start_delay_s,
            "reply": reply,
        }
        if (move := _MOVE_AFTER.get(verdict)) is not None:
            return self._finish(job, move, now, **known)
        failure = known["failure"] = failure or Failure("function_error", "the function failed")
        attempts_max = 1 if job.once else job.lane.function.rules.attempts_max
        if job.attempt >= attempts_max or job.stopping:
            return self._finish(job, Move.BURY, now, **known)
        if job.state is not State.WAITING:
            job.state = after(job.state, Move.RETURN)
        if job.slot is not None:
            self._release(self.account_of(job), job.slot, now)
        job.next_attempt()
        job.waits_for = GateKind.RETRY
        job.wakes_at = now + backoff_s(self.rules.retry, job.attempt - 1, self._uniform)
        self.account_of(job).backlog.add(job, now)
        return Return(job, failure, maybe_sent=False)

    def ended_after_all(self, invocation_id: str, attempt: int, now: float) -> bool:
        """
        Take the news that what ended uncertain or cancelled runs no more: its slot is free.

        Returns whether it still held one.
        """
        slot = self.orphans.pop(invocation_id, attempt)
        if slot is None:
            return False
        slot.job.lane.function.jobs -= 1
        self._release(self.account_of(slot.job), slot, now)
        return True

    def _learn(self, account: Account, job: Job, run_s: float | None) -> None:
        if run_s is None or not 0.0 <= run_s < math.inf:
            return  # nobody measured it, or whoever did was wrong
        account.times.run_s.observe(run_s)
        job.lane.function.durations.add(run_s)

    def tracking_changed(
        self, account: str, function: str, qualifier: str | None, why: str | None
    ) -> bool:
        """
        Take note that ends of a function cannot be learned, and why, or (None) that they can.

        Meanwhile the ends of its runs are estimated, also of those that run already, which `due`
        sees to. Returns whether this is news.
        """
        gate = self.accounts[account].function(function)
        if (gate.untracked.get(qualifier) is None) == (why is None):
            return False
        if why is None:
            del gate.untracked[qualifier]
        else:
            gate.untracked[qualifier] = why
        self._deadlines.source_changed(gate, qualifier)
        return True

    # -- Ending

    def _give_up(self, job: Job, failure: Failure, now: float) -> Finish:
        """End what will not be sent again; an earlier send may still come to something."""
        if job.maybe_sent:
            return self._lose(job, failure, now)
        return self._finish(job, Move.BURY, now, failure=failure)

    def _lose(self, job: Job, failure: Failure, now: float) -> Finish:
        return self._finish(job, Move.LOSE, now, failure=failure, forced=True)

    def _finish(self, job: Job, move: Move, now: float, **known: Unpack[Known]) -> Finish:
        function, tenant, slot = job.lane.function, job.lane.tenant, job.slot
        job.state = state = after(job.state, move)
        assert state in ENDED, state
        orphaned = False
        if slot is not None:
            if slot.lost_until > now and move in _MAY_RUN_ON:
                job.slot = None
                orphaned = self.orphans.adopt(slot, now)
            if not orphaned:
                self._release(self.accounts[tenant.account], slot, now)
        self.jobs.remove(job.id)
        if not orphaned:
            function.jobs -= 1
        self.counters.ended[tenant.account, function.label, tenant.label, state] += 1
        return Finish(job=job, state=state, **known)

    def _release(self, account: Account, slot: Slot, now: float) -> None:
        slot.job.slot = None
        if slot.entry is not None:
            self._deadlines.keep(slot)
        account.give_back(slot, now)
