"""What callers can ask of the engine: enqueue, look, cancel, complete, redrive, pause."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import anyio.lowlevel
from msgspec.structs import replace

from dispatcher.config import adjusted, differences, pointer
from dispatcher.core.callback import attempt_of
from dispatcher.core.gates import rules_for
from dispatcher.core.model import (
    CallType,
    Completion,
    Ended,
    Pause,
    Provider,
    Query,
    Record,
    Returned,
    Source,
    State,
)
from dispatcher.core.views import View
from dispatcher.engine.accepting import Accepting, spaced
from dispatcher.engine.times import job_of
from dispatcher.errors import (
    ConfigError,
    Invalid,
    JournalError,
    NotAllowed,
    NotFound,
    NotPossible,
    Rejected,
)

logger = logging.getLogger("dispatcher.engine")

#: Invocations that are looked at in one go, before others get a turn.
LOOK_AT_ONCE = 2000
#: Invocations of a list that are described in one go.
VIEW_AT_ONCE = 100
#: Dead invocations that are redriven in one go.
REDRIVE_AT_ONCE = 200


class Calls(Accepting):
    """A pump that takes calls."""

    def __init__(self, *args: Any, **more: Any) -> None:
        """Take what `Accepting` takes."""
        super().__init__(*args, **more)
        self._redriving: set[str] = set()

    # -- Look

    async def keyed(self, account: str, key: str, *, key_space: str) -> View | None:
        """Return the invocation that was accepted with a key; None: it is not known any more."""
        invocation_id = await self.journal.keyed(account, spaced(key_space, key))
        record = None if invocation_id is None else await self.journal.get(invocation_id)
        return None if record is None else self._view(record)

    async def payload(self, invocation_id: str) -> bytes | None:
        """Return the payload of an invocation; None: it is not needed any more."""
        return await self.journal.payload(invocation_id)

    async def get(self, invocation_id: str) -> View:
        """Return an invocation as it stands. Raises `NotFound`."""
        view = self._view(await self.record_of(invocation_id))
        if view.waiting_for is None:
            return view
        job = self.machine.jobs[invocation_id]
        ahead = 0
        for looked_at, before in enumerate(self.machine.account_of(job).backlog.ahead_of(job)):
            ahead += before
            if looked_at % LOOK_AT_ONCE == LOOK_AT_ONCE - 1:
                await anyio.lowlevel.checkpoint()
        return replace(view, waiting_for=replace(view.waiting_for, ahead=ahead))

    async def find(
        self, query: Query, *, after: str | None = None, limit: int = 100
    ) -> tuple[list[View], str | None]:
        """Return a page of invocations, newest first, and the cursor of the next page."""
        records, following = await self.journal.find(query, after=after, limit=limit)
        if any(self.is_behind(record) for record in records):
            await self.durable()
            records, following = await self.journal.find(query, after=after, limit=limit)
        views = []
        for looked_at, record in enumerate(records, start=1):
            views.append(self._view(record))
            if looked_at % VIEW_AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()
        return views, following

    def _view(self, record: Record) -> View:
        """Return what is shown: the journal's row, and what memory knows better."""
        job = self.machine.jobs.get(record.id)
        if job is None:
            return View(record=record)
        record = replace(record, state=job.state, attempt=job.attempt, request_id=job.request_id)
        if job.state is not State.WAITING:
            return View(record=record)
        account = self.machine.account_of(job)
        return View(record=record, waiting_for=account.waiting_for(job, self.clock.now()))

    # -- Act

    async def cancel(self, invocation_id: str) -> State:
        """
        Cancel an invocation, or dismiss one whose end is uncertain.

        Returns CANCELLED when it is gone, RUNNING when the cloud was asked to stop it.
        Raises `NotFound`, and `NotPossible` when it has ended or cannot be stopped.
        """
        job = self.machine.jobs.get(invocation_id)
        if job is None:
            record = await self.record_of(invocation_id)
            if record.state is not State.UNCERTAIN:
                raise NotPossible(f"it has ended: {record.state}")
            end = Ended(id=record.id, state=State.CANCELLED, at_ms=self.clock.wall_ms())
            self.journal.record([end], self.fail_if)
            await self.durable()
            return State.CANCELLED
        provider = self.places[job.lane.tenant.account].provider
        can_stop = provider is Provider.ALIYUN_FC
        effects = self.machine.cancel(job, self.clock.now(), can_stop=can_stop)
        if effects is None:
            raise NotPossible(
                f"it is {job.state}, and "
                + (
                    "only asynchronous tasks can be stopped"
                    if can_stop
                    else f"{provider} cannot stop a run"
                )
            )
        self.carry_out(effects)
        self.wake()
        await self.durable()
        return State.CANCELLED if job.state is State.CANCELLED else State.RUNNING

    async def complete(
        self, completion: Completion, *, token: str | None = None, is_known: bool = True
    ) -> None:
        """
        Take the news that an invocation has ended, as often as it comes.

        *token* is the one that the function was offered; it is good for its attempt only. Who
        *is_known* needs none. Raises `NotFound` for an id that is not known, `NotAllowed` where
        the token is wrong, or is missing although the function ends by callback.
        """
        if token is not None:
            attempt = attempt_of(self.callback_key, completion.id, token)
            if attempt is None:
                raise NotAllowed("the token is not one of this invocation")
            completion = replace(completion, attempt=attempt)
        elif not is_known and await self._ends_by_callback(completion.id):
            raise NotAllowed(
                'functions with completion = "callback" end by the token that they were offered'
            )
        job = self.machine.jobs.get(completion.id)
        if job is not None:
            self.completed(job, completion)
        else:
            record = await self.record_of(completion.id)
            await self.complete_late(record.account, completion)
        await self.durable()

    async def _ends_by_callback(self, invocation_id: str) -> bool:
        record = await self.record_of(invocation_id)
        rules = self.settings.accounts.get(record.account)
        if rules is None or record.type is CallType.SYNC:
            return False
        return rules_for(rules.functions, record.function).completion is Source.CALLBACK

    async def redrive(self, invocation_id: str) -> None:
        """
        Let a dead or uncertain invocation run again, as a new attempt.

        Raises `NotFound`, and `NotPossible` in any other state.
        """
        record = await self.record_of(invocation_id)
        if (why_not := self._not_redriven(record)) is not None:
            raise NotPossible(why_not)
        await self._redrive([record])

    async def redrive_dead(self, query: Query) -> int:
        """
        Redrive every dead invocation that *query* selects; return how many.

        Raises `NotFound` for an account that is not one of the configuration.
        """
        if query.account is not None and query.account not in self.machine.accounts:
            raise NotFound(f"there is no account {query.account!r}")
        query = replace(query, state=State.DEAD)
        count, after = 0, None
        while True:
            records, after = await self.journal.find(query, after=after, limit=REDRIVE_AT_ONCE)
            # What cannot be redriven any more has been by somebody else.
            able = [record for record in records if self._not_redriven(record) is None]
            await self._redrive(able)
            count += len(able)
            if after is None:
                return count
            await anyio.lowlevel.checkpoint()

    def _not_redriven(self, record: Record) -> str | None:
        """Return why an invocation cannot be redriven; None: it can."""
        busy = record.id in self._redriving or record.id in self.machine.jobs
        if busy or record.state not in (State.DEAD, State.UNCERTAIN):
            return f"only what is dead or uncertain can be redriven; it is {record.state}"
        if record.account not in self.machine.accounts:
            return f"there is no account {record.account!r} any more"
        return None

    async def _redrive(self, records: Sequence[Record]) -> None:
        """
        Have *records* run again, kept by one commit.

        Raises `Rejected` where there is no room for all, once as many wait as there is room for.
        """
        taken, refusal = self._with_room(records)
        ids = {record.id for record in taken}
        self._redriving |= ids
        wall_ms = self.clock.wall_ms()
        changes = [Returned(record.id, record.attempt + 1, wall_ms) for record in taken]

        # Whether or not its caller still waits then: in the journal it runs again.
        def kept(error: JournalError | None) -> None:
            self.fail_if(error)
            if error is None:
                for record in taken:
                    self._admit_again(record, wall_ms)
                self.wake()
            self._redriving.difference_update(ids)
            self._leave(len(taken), 0)

        self.journal.record(changes, kept)
        await self.durable()
        if refusal is not None:
            raise refusal

    def _with_room(self, records: Sequence[Record]) -> tuple[Sequence[Record], Rejected | None]:
        """Take a place in the queue for each, as far as there are any; return who has one."""
        for count, _ in enumerate(records):
            try:
                self._reserve(0)
            except Rejected as error:
                return records[:count], error
        return records, None

    def _admit_again(self, record: Record, wall_ms: int) -> None:
        again = replace(record, attempt=record.attempt + 1, due_ms=wall_ms, request_id=None)
        account = self.machine.accounts[record.account]
        moment = self.clock.moment()
        self.machine.admit(job_of(again, None, account, self.next_seq(), moment), moment.now)
        if record.state is State.DEAD:
            # A recount that began before its end was kept does not know of it.
            self.dead[record.account] = max(0, self.dead.get(record.account, 0) - 1)

    def pause(self, account: str, function: str | None = None) -> None:
        """
        Stop the sends of an account, or of one function, until `resume`, restarts or not.

        Raises `NotFound`.
        """
        self._pause(account, function, paused=True)

    def resume(self, account: str, function: str | None = None) -> None:
        """Undo `pause`. Raises `NotFound`."""
        self._pause(account, function, paused=False)

    def _pause(self, account: str, function: str | None, *, paused: bool) -> None:
        if account not in self.machine.accounts:
            raise NotFound(f"there is no account {account!r}")
        if function is not None:
            rules = self.settings.accounts[account]
            if function not in rules.functions and not rules.unlisted:
                raise NotFound(f"account {account!r} has no function {function!r}")
        pause = Pause(account, function, paused=paused)
        self.machine.pause(account, function, paused=paused)
        self.journal.pause(pause, self.fail_if)
        logger.warning("%s: %s", "paused" if paused else "resumed", pause.name)
        self.wake()

    def adjust(self, account: str, changes: Mapping[str, Any]) -> None:
        """
        Change weights, reservations and limits of an account, until the next reload or restart.

        *changes* are a JSON merge patch of its section in the configuration: all of them are
        taken at once, or none. Raises `NotFound`, and `Invalid` for what a configuration may
        not say.
        """
        if account not in self.settings.accounts:
            raise NotFound(f"there is no account {account!r}")
        try:
            settings = adjusted(self.settings, account, changes)
        except ConfigError as error:
            raise Invalid(str(error), pointer=pointer(error.problems[0][0])) from error
        changed = differences(self.settings, settings, account)
        self._follow(settings)
        logger.warning("adjusted: account %s: %s", account, ", ".join(changed) or "nothing")

    def not_ready(self) -> str | None:
        """Return why no work should come now; None: it may."""
        if self.draining:
            return "draining"
        if not self.ready:
            return "recovering"
        if (error := self.journal.failed()) is not None:
            return f"journal failed: {error}"
        return None if self.journal.accepting() else "the journal's disk is full"
