"""News of ends: from trackers, from callers, and late, of what was given up."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from dispatcher import failpoints
from dispatcher.core.effects import Finish
from dispatcher.core.job import Job
from dispatcher.core.lifecycle import ENDED, FINAL
from dispatcher.core.model import Completion, Ended, Record, State, Verdict
from dispatcher.core.views import End
from dispatcher.engine.forms import notice_of_late
from dispatcher.engine.sends import Sends
from dispatcher.engine.waking import Waking
from dispatcher.errors import JournalError, NotFound

logger = logging.getLogger("dispatcher.engine")

#: A larger result is read from the journal by whoever comes to ask for it later.
NOTED_RESULT_BYTES_MAX = 4096

_STATE_AFTER = {
    Verdict.SUCCEEDED: State.SUCCEEDED,
    Verdict.FAILED: State.DEAD,
    Verdict.EXPIRED: State.EXPIRED,
    Verdict.STOPPED: State.CANCELLED,
}


class News(Sends):
    """A pump that takes news, and gives them to those who wait for them."""

    def __init__(self, *args: Any, **more: Any) -> None:
        """Take what `Sends` takes."""
        super().__init__(*args, **more)
        self._enders: dict[str, list[asyncio.Future[End]]] = {}
        self._waking = Waking()
        self._is_over = False  #: no end will be told any more

    def report(self, account: str, completion: Completion, done: Callable[[], None] | None) -> None:
        """Take a tracker's news; *done* is called when the end is on disk."""
        failpoints.reach("engine.completion")
        job = self.machine.jobs.get(completion.id)
        if job is not None:
            self.completed(job, completion)
            if done is not None:
                self._settle(done)
        else:
            self.tasks.start(self._late, account, completion, done)

    def completed(self, job: Job, completion: Completion) -> None:
        """Take the news of the end of a live job."""
        self.carry_out(self.machine.completed(job, completion, self.clock.now()))
        self.wake()

    async def _late(
        self, account: str, completion: Completion, done: Callable[[], None] | None
    ) -> None:
        """Take news of what this process does not hold: ended long ago, or given up."""
        await self.complete_late(account, completion)
        if done is not None:
            self._settle(done)

    def _settle(self, done: Callable[[], None]) -> None:
        """Let a tracker forget its news once they are on disk."""

        # The journal keeps its order: once this is written, so is what came before.
        def written(error: JournalError | None) -> None:
            failpoints.reach("engine.before_settled")
            if error is None:
                done()

        self.journal.record((), written)

    async def complete_late(self, account: str, completion: Completion) -> None:
        """Tell the true end of an invocation that was given up as uncertain."""
        record = await self._kept(completion.id)
        if record is None:
            return
        attempt = completion.attempt or record.attempt
        held = self.machine.ended_after_all(record.id, attempt, self.clock.now())
        self.wake()
        # A queue may give a record twice: what had its end told in time is not late with it.
        if not held and (record.state is State.UNCERTAIN or record.estimated):
            self.machine.counters.late_completions[account,] += 1
        if record.state is not State.UNCERTAIN:
            return
        if completion.attempt is not None and completion.attempt != record.attempt:
            return
        state = _STATE_AFTER[completion.verdict]
        if state is State.DEAD:
            self.dead[account] = self.dead.get(account, 0) + 1
        end = Ended(
            id=completion.id,
            state=state,
            at_ms=self.clock.wall_ms(),
            request_id=record.request_id,
            result=completion.result,
            failure=completion.failure,
            start_delay_s=completion.true_start_delay_s,
        )
        self.journal.record([end], partial(self._told_late, record, end))

    def _told_late(self, record: Record, end: Ended, error: JournalError | None) -> None:
        self.fail_if(error)
        if error is None and record.callback_url is not None and self._tell is not None:
            self._tell(notice_of_late(record, end))

    def tracking_changed(
        self, account: str, function: str, qualifier: str | None, why: str | None
    ) -> None:
        """Note that the ends of a function cannot be learned, or (None) that they can be."""
        if not self.machine.tracking_changed(account, function, qualifier, why):
            return
        name = f"{account}/{function}" + ("" if qualifier is None else f":{qualifier}")
        if why is None:
            logger.warning("tracking_back: %s: its ends are known again", name)
        else:
            logger.error(
                "tracking_lost: %s: its ends are estimated, so the quota may be exceeded: %s",
                name,
                why,
            )
        self.wake()

    # -- Those who wait for news

    def told(self, finish: Finish) -> None:
        """Tell those who wait for the end of an invocation that it is on disk."""
        result = finish.result
        end = End(
            id=finish.job.id,
            state=finish.state,
            result=result,
            failure=finish.failure,
            estimated=finish.estimated,
        )
        self._ending.discard(end.id)
        if end.state in FINAL and (result is None or len(result) <= NOTED_RESULT_BYTES_MAX):
            finish.job.owner = end  # for its ticket, if somebody still has it
        for waiter in self._enders.pop(end.id, ()):
            self._waking.wake(waiter, end)

    def send_waiters_away(self) -> None:
        """Tell those who wait for further ends that this process will see none."""
        # After the last ends that were decided, which are on their way to the journal.
        self.journal.record((), self._end_waits)

    def _end_waits(self, _: JournalError | None) -> None:
        self._is_over = True
        self._waking.hurry()
        for waiters in self._enders.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(_ended_before())

    async def end_of(self, invocation_id: str) -> End:
        """
        Wait for the end of an invocation, or return it.

        Raises `NotFound`, and `JournalError` where this process ends before.
        """
        # Before anything is read: the end may be told before the reader hears what he has read.
        with self._waiter(invocation_id) as waiter:
            if invocation_id in self.machine.jobs or invocation_id in self._ending:
                return await waiter
            record = await self.record_of(invocation_id)
            if record.state not in ENDED:
                return await waiter
        return End(
            id=record.id,
            state=record.state,
            result=record.result,
            failure=record.failure,
            estimated=record.estimated,
        )

    @contextmanager
    def _waiter(self, invocation_id: str) -> Iterator[asyncio.Future[End]]:
        """Give what will have the next end of an invocation."""
        waiter: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        if self._is_over:
            waiter.set_exception(_ended_before())
        self._enders.setdefault(invocation_id, []).append(waiter)
        try:
            yield waiter
        finally:
            if not waiter.cancel() and not waiter.cancelled():
                waiter.exception()  # or asyncio complains of one that nobody wanted to know
            waiters = self._enders.get(invocation_id)
            if waiters is not None and waiter in waiters:
                waiters.remove(waiter)
                if not waiters:
                    del self._enders[invocation_id]

    async def state_of(self, invocation_id: str) -> State:
        """Return where an invocation stands. Raises `NotFound`."""
        job = self.machine.jobs.get(invocation_id)
        return (await self.record_of(invocation_id)).state if job is None else job.state

    async def record_of(self, invocation_id: str) -> Record:
        """Return what is kept of an invocation. Raises `NotFound`."""
        record = await self._kept(invocation_id)
        if record is None:
            raise NotFound(f"there is no invocation {invocation_id!r}")
        return record

    async def _kept(self, invocation_id: str) -> Record | None:
        record = await self.journal.get(invocation_id)
        if record is not None and self.is_behind(record):
            await self.durable()
            record = await self.journal.get(invocation_id)
        return record

    def is_behind(self, record: Record) -> bool:
        """Tell whether its end has been decided, and is on its way to the journal."""
        live = record.id in self.machine.jobs or record.account not in self.machine.accounts
        return not live and record.state not in ENDED

    async def durable(self) -> None:
        """Return once everything that was decided so far is in the journal."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: JournalError | None) -> None:
            if error is None:
                self._waking.wake(written)
                return
            self.fail(error)
            if not written.done():
                written.set_exception(error)

        self.journal.record((), done)
        await written


def _ended_before() -> JournalError:
    return JournalError("the dispatcher ended before the invocation: the journal keeps it")
