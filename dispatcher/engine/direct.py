"""
Calls whose callers wait for the function's reply: the same gates, the same order, no journal.

Nobody would want the reply after a restart, so there is nothing to keep. Such a call is sent
once: a second run is for its caller to ask for. While it waits it is only a place in the queue,
and gone without a trace when its caller leaves or has waited long enough.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from dispatcher.core.account import OTHER
from dispatcher.core.job import Job
from dispatcher.core.machine import Finish, Launch, Return, Stop, Watch
from dispatcher.core.model import (
    CallType,
    Denied,
    Failure,
    Invocation,
    Lost,
    Outcome,
    Refused,
    Replied,
    State,
)
from dispatcher.core.views import Streamed
from dispatcher.engine.accepting import RETRY_AFTER_S
from dispatcher.engine.calls import Calls
from dispatcher.engine.reply_body import ReplyBody
from dispatcher.engine.times import job_of, new_record
from dispatcher.errors import Draining, Invalid, Rejected, WaitedTooLong, Withdrawn

Told = Replied | Refused | Denied | Lost
Answer = Told | Streamed
"""What came of a call that was sent."""

RETRY_AFTER_MIN_S: Final = 1.0
RETRY_AFTER_MAX_S: Final = 60.0


class _Caller:
    """Whoever waits for the reply of one call."""

    __slots__ = ("body", "reply", "until")

    def __init__(self, until: float) -> None:
        self.reply: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.until = until
        self.body: ReplyBody | None = None

    def leave(self) -> None:
        """Want nothing any more, not even what was told a moment ago."""
        if self.body is not None:
            self.body.leave()

    def tell(self, answer: Answer | Rejected) -> None:
        """Tell the first thing that there is to tell, if anybody is there to hear it."""
        if self.reply.done():
            return
        if isinstance(answer, Rejected):
            self.reply.set_exception(answer)
        else:
            self.reply.set_result(answer)


class Direct(Calls):
    """Calls, those among them that are answered with the function's reply."""

    def __init__(self, *args: Any, **more: Any) -> None:
        """Take what `Calls` takes."""
        super().__init__(*args, **more)
        self._calling: set[Job] = set()

    async def call(self, invocation: Invocation, *, source: str, wait_max_s: float) -> Answer:
        """
        Run a function when its turn comes and return what came of it.

        Raises `Rejected`: it did not run, `WaitedTooLong` if its turn had not come in
        *wait_max_s*. Cancelled while it waits, it never runs; later, it runs to its end. A large
        reply is `Streamed`, and holds its slot until all of it has come.
        """
        try:
            job = self._enter_call(invocation, wait_max_s, source)
        except Rejected as error:
            known = invocation.account in self.settings.accounts
            self.rejected[invocation.account if known else OTHER, error.reason] += 1
            raise
        caller = _caller(job)
        timer = self._loop.call_at(caller.until, self._waited_long_enough, job)
        try:
            return await caller.reply
        except WaitedTooLong as error:
            self.rejected[invocation.account, error.reason] += 1
            raise
        except asyncio.CancelledError:
            caller.leave()
            raise
        finally:
            timer.cancel()
            self._leave_queue(job)
            # Else what is raised here would have, by its traceback, what has it by its reply: a
            # circle, and the collector does not look at jobs.
            del job, caller

    def _enter_call(self, invocation: Invocation, wait_max_s: float, source: str) -> Job:
        invocation, call_type = self._judged(invocation)
        if call_type is not CallType.SYNC:
            raise Invalid("only a synchronous call has a reply to wait for", pointer="/type")
        payload = invocation.payload
        self._reserve(len(payload), journaled=False)
        self._leave(1, len(payload))  # from here on the machine counts it
        record = new_record(invocation, call_type, self.clock.wall_ms())
        account = self.machine.accounts[record.account]
        if self.tracer is not None:
            self.tracer.accepting(record, source=source)
            self.tracer.accepted(record.id)
        moment = self.clock.moment()
        job = job_of(record, payload, account, self.next_seq(), moment)
        job.once = True
        job.owner = _Caller(moment.now + wait_max_s)
        self.payloads.keep(job)
        self._calling.add(job)
        self.machine.admit(job, moment.now)
        self.accepted[record.account, job.lane.tenant.label, source] += 1
        self.wake()
        return job

    def for_caller(self, effect: Launch | Watch | Return | Finish | Stop) -> None:
        """Do what the machine said of a call: its journal is whoever waits."""
        job = effect.job
        if isinstance(effect, Launch):
            self._sending.add(job)
            self.tasks.start(self.send, job, effect.slot)
        elif isinstance(effect, Finish):
            self.payloads.drop(job)
            self._calling.discard(job)
            _caller(job).tell(Withdrawn("somebody cancelled it"))

    def answer(self, job: Job, outcome: Outcome) -> None:
        """Tell whoever waits for the reply what came of the send."""
        caller = _caller(job)
        if job.state is State.WAITING:
            # The cloud would not take it now. Its time may have run out meanwhile.
            if caller.reply.done():
                self._loop.call_soon(self._leave_queue, job)
            elif self.clock.now() >= caller.until:
                self._loop.call_soon(self._waited_long_enough, job)
            return
        assert isinstance(outcome, Told), outcome
        caller.tell(outcome)

    def begin(self, job: Job, reply: Replied, go_on: Callable[[], None]) -> ReplyBody:
        """Tell whoever waits that the head of a large reply is there."""
        caller, body = _caller(job), ReplyBody(go_on)
        if caller.reply.done():
            body.leave()
        else:
            caller.body = body
            caller.tell(Streamed(reply, body))
        return body

    def _waited_long_enough(self, job: Job) -> None:
        caller = _caller(job)
        if job.state is not State.WAITING or caller.reply.done():
            return
        waits_for = self.machine.account_of(job).waiting_for(job, self.clock.now())
        until_s = waits_for.until_s if isinstance(waits_for.until_s, float) else 0.0
        caller.tell(
            WaitedTooLong(
                f"it waited its turn in vain; it is held up by: {waits_for.gate} {waits_for.name}",
                gate=waits_for.gate,
                retry_after_s=min(max(until_s, RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S),
            )
        )
        self._leave_queue(job)

    def _leave_queue(self, job: Job) -> None:
        """Take a call out whose caller is gone, unless it is being sent or has ended."""
        if job.state is not State.WAITING:
            return
        effects = self.machine.cancel(job, self.clock.now(), can_stop=False)
        assert effects is not None, job.id
        self.carry_out(effects)
        self.wake()

    def send_callers_away(self) -> None:
        """Tell those whose calls still wait that nothing is sent any more."""
        for job in list(self._calling):
            if job in self._sending and self.tasks.open:
                continue  # it may still come back
            if job in self._sending:
                _caller(job).tell(Lost(Failure("draining", "the dispatcher ended meanwhile")))
            _caller(job).tell(
                Draining("the dispatcher is about to end", retry_after_s=RETRY_AFTER_S)
            )
            self._leave_queue(job)


def _caller(job: Job) -> _Caller:
    assert isinstance(job.owner, _Caller), job.id
    return job.owner
