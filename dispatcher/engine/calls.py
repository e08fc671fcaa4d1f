"""What callers can ask of the engine: enqueue, look, cancel, complete, redrive, pause."""

import asyncio
import logging
import threading
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import anyio.lowlevel
from msgspec.structs import replace

from dispatcher import failpoints
from dispatcher.config import Settings
from dispatcher.core.account import OTHER
from dispatcher.core.backlog import Job
from dispatcher.core.callback import attempt_of, offered_bytes_max, wants_offer
from dispatcher.core.gates import rules_for
from dispatcher.core.intake import callback_flaw, examine
from dispatcher.core.lifecycle import ENDED
from dispatcher.core.model import (
    CallType,
    Completion,
    Duplicate,
    Ended,
    Entry,
    Invocation,
    Provider,
    Query,
    Record,
    Returned,
    Source,
    State,
)
from dispatcher.core.statistics import COMMIT_BOUNDS_S, Histogram
from dispatcher.core.views import End, Labels, View
from dispatcher.engine.pump import Pump, Trackers
from dispatcher.engine.tickets import Ticket
from dispatcher.engine.times import job_of, new_record
from dispatcher.errors import (
    DiskFull,
    Draining,
    Invalid,
    JournalError,
    KeyReused,
    NotAllowed,
    NotFound,
    NotPossible,
    PayloadTooLarge,
    QueueFull,
    Rejected,
)
from dispatcher.ports import Journal, Transport

logger = logging.getLogger("dispatcher.engine")

#: Invocations that are looked at in one go, before others get a turn.
LOOK_AT_ONCE = 2000
#: New invocations that the journal is given in one go: as many as one call of the HTTP API hands over.
ACCEPT_AT_ONCE = 10_000
#: Dead invocations that are redriven in one go.
REDRIVE_AT_ONCE = 500
#: What a caller is asked to wait when the queue is full, or while the process starts or ends.
RETRY_AFTER_S = 1.0

_Incoming = tuple[Ticket, Entry, str, float]


class Calls(Pump):
    """A pump that takes calls."""

    def __init__(
        self,
        settings: Settings,
        *,
        journal: Journal,
        transports: Mapping[str, Transport],
        trackers: Trackers,
        **more: Any,
    ) -> None:
        """Only in the thread whose loop will `run` it."""
        super().__init__(
            settings, journal=journal, transports=transports, trackers=trackers, **more
        )
        self.accepted: defaultdict[Labels, int] = defaultdict(int)
        self.rejected: defaultdict[Labels, int] = defaultdict(int)
        self.accept_s: dict[Labels, Histogram] = {
            (name,): Histogram(COMMIT_BOUNDS_S) for name in settings.accounts
        }
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._incoming: deque[_Incoming] = deque()
        self._arriving = 0  #: accepted by nobody yet, but with a place in the queue
        self._arriving_bytes = 0
        self._flush_is_due = False
        self._redriving: set[str] = set()

    # -- Enqueue

    def enqueue(
        self, invocation: Invocation, *, source: str = "in_process", key_space: str = ""
    ) -> Ticket:
        """
        Take an invocation without ever waiting; its ticket says when it is on disk.

        May be called from any thread. *source* says which way it came, for the metrics. Keys of
        one *key_space* are apart from those of another. Raises `Rejected`: what is refused
        here never runs.
        """
        try:
            entry = self._examined(invocation)
            if entry.record.key is not None and key_space:
                entry.record.key = _spaced(key_space, entry.record.key)
            self._reserve(len(entry.payload))
        except Rejected as error:
            known = invocation.account in self.settings.accounts
            self.rejected[invocation.account if known else OTHER, error.reason] += 1
            raise
        ticket = Ticket(entry.record.id, self._state_of, self._end_of)
        self._incoming.append((ticket, entry, source, self.clock.now()))
        if not self._flush_is_due:
            self._flush_is_due = True
            if threading.get_ident() == self._thread:
                self._loop.call_soon(self._flush)
            else:
                self._loop.call_soon_threadsafe(self._flush)
        return ticket

    def enqueue_many(
        self, invocations: Sequence[Invocation], *, source: str = "in_process"
    ) -> list[Ticket | Rejected]:
        """Take many invocations with one commit; each gets its ticket, or why it has none."""
        taken: list[Ticket | Rejected] = []
        for invocation in invocations:
            try:
                taken.append(self.enqueue(invocation, source=source))
            except Rejected as error:
                taken.append(error)
        return taken

    def _examined(self, invocation: Invocation) -> Entry:
        invocation, call_type = self._judged(invocation)
        record = new_record(invocation, call_type, self.clock.wall_ms())
        return Entry(record, invocation.payload)

    def _judged(self, invocation: Invocation) -> tuple[Invocation, CallType]:
        rules = self.settings.accounts.get(invocation.account)
        if rules is None:
            raise Invalid(f"there is no account {invocation.account!r}", pointer="/account")
        if invocation.callback_url is not None:
            flaw = callback_flaw(invocation.callback_url, self.settings.callbacks.hosts)
            if flaw is not None:
                raise Invalid(flaw, pointer="/callback_url")
        invocation, call_type = examine(
            invocation,
            rules,
            self.places[invocation.account],
            self.transports[invocation.account].payload_max_bytes,
        )
        self._check_room_for_offer(invocation, call_type)
        return invocation, call_type

    def _check_room_for_offer(self, invocation: Invocation, call_type: CallType) -> None:
        """Refuse a payload that is too large with what the function is offered in it."""
        rules = self.settings.accounts[invocation.account].functions
        source = rules_for(rules, invocation.function).completion
        if call_type is CallType.SYNC or source is not Source.CALLBACK:
            return
        if not wants_offer(invocation.payload):
            return
        most = self.transports[invocation.account].payload_max_bytes(call_type)
        size = offered_bytes_max(invocation.payload, self.url_base)
        if size > most:
            raise PayloadTooLarge(
                f"with the URL and token for its completion the payload may have {size} bytes; "
                f"the provider takes at most {most}",
                pointer="/payload",
            )

    def _reserve(self, payload_bytes: int, *, journaled: bool = True) -> None:
        """Take a place in the queue, or raise: this is where the queue is bounded."""
        if self.draining or not self.ready:
            word = "about to end" if self.draining else "still recovering"
            raise Draining(f"the dispatcher is {word}", retry_after_s=RETRY_AFTER_S)
        if (error := self.journal.failed()) is not None:
            raise Draining(f"the journal failed: {error}", retry_after_s=RETRY_AFTER_S)
        if journaled and not self.journal.accepting():
            raise DiskFull("the journal's disk is full", retry_after_s=RETRY_AFTER_S)
        queue = self.settings.queue
        with self._lock:
            if len(self.machine.jobs) + self._arriving >= queue.jobs_max:
                raise QueueFull(
                    f"{queue.jobs_max} invocations wait already (queue.jobs_max)",
                    retry_after_s=RETRY_AFTER_S,
                )
            held = self.payload_bytes + self._arriving_bytes + payload_bytes
            if held > queue.bytes_max and not (journaled and self.journal.on_disk):
                raise QueueFull(
                    f"the payloads that wait have {queue.bytes_max} bytes already "
                    "(queue.bytes_max; a journal on disk has no such limit)",
                    retry_after_s=RETRY_AFTER_S,
                )
            self._arriving += 1
            self._arriving_bytes += payload_bytes

    def _leave(self, count: int, payload_bytes: int) -> None:
        with self._lock:
            self._arriving -= count
            self._arriving_bytes -= payload_bytes

    def _flush(self) -> None:
        """Give what has come in to the journal."""
        self._flush_is_due = False
        failpoints.reach("engine.before_accept")
        while self._incoming:
            batch = [
                self._incoming.popleft() for _ in range(min(len(self._incoming), ACCEPT_AT_ONCE))
            ]
            self.journal.accept(
                [entry for _, entry, _, _ in batch],
                lambda verdicts, batch=batch: self._kept(batch, verdicts),  # type: ignore[misc]
            )

    def _kept(
        self, batch: list[_Incoming], verdicts: Sequence[Duplicate | None] | Exception
    ) -> None:
        """Take the journal's word on a batch."""
        if isinstance(verdicts, JournalError):
            self.fail(verdicts)
        failpoints.reach("engine.after_accept")
        now = self.clock.now()
        for i, (ticket, entry, source, since) in enumerate(batch):
            verdict = verdicts if isinstance(verdicts, Exception) else verdicts[i]
            account = entry.record.account
            if verdict is None:
                ticket.settle(self._admit(entry))
                tenant = self.machine.accounts[account].tenant(entry.record.tenant).label
                self.accepted[account, tenant, source] += 1
                self.accept_s[account,].observe(now - since)
            elif isinstance(verdict, Duplicate) and verdict.same_job:
                ticket.settle(verdict.id)
            else:
                error = _refusal(verdict)
                self.rejected[account, getattr(error, "reason", "journal")] += 1
                ticket.settle(error)
        self._leave(len(batch), sum(len(entry.payload) for _, entry, _, _ in batch))
        self.wake()

    def _admit(self, entry: Entry) -> Job:
        record = entry.record
        account = self.machine.accounts[record.account]
        job = job_of(record, entry.payload, account, self.next_seq(), self.clock)
        self.keep_payload(job)
        self.machine.admit(job, self.clock.now())
        return job

    # -- Look

    async def keyed(self, account: str, key: str, *, key_space: str) -> View | None:
        """Return the invocation that was accepted with a key; None: it is not known any more."""
        invocation_id = await self.journal.keyed(account, _spaced(key_space, key))
        record = None if invocation_id is None else await self.journal.get(invocation_id)
        return None if record is None else self._view(record)

    async def payload(self, invocation_id: str) -> bytes | None:
        """Return the payload of an invocation; None: it is not needed any more."""
        return await self.journal.payload(invocation_id)

    async def get(self, invocation_id: str) -> View:
        """Return an invocation as it stands. Raises `NotFound`."""
        view = self._view(await self._record(invocation_id))
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
        return [self._view(record) for record in records], following

    async def _record(self, invocation_id: str) -> Record:
        record = await self.journal.get(invocation_id)
        if record is None:
            raise NotFound(f"there is no invocation {invocation_id!r}")
        return record

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

    async def _state_of(self, invocation_id: str) -> State:
        job = self.machine.jobs.get(invocation_id)
        return (await self._record(invocation_id)).state if job is None else job.state

    async def _end_of(self, invocation_id: str) -> End:
        if invocation_id in self.machine.jobs:
            return await self.end_of(invocation_id)
        await self.durable()  # its end may be on its way to the journal
        record = await self._record(invocation_id)
        if record.state not in ENDED:
            return await self.end_of(invocation_id)
        return End(
            id=record.id,
            state=record.state,
            result=record.result,
            failure=record.failure,
            estimated=record.estimated,
        )

    async def durable(self) -> None:
        """Return once everything that was decided so far is in the journal."""
        written: asyncio.Future[None] = self._loop.create_future()

        def done(error: JournalError | None) -> None:
            if error is not None:
                self.fail(error)
            if written.done():
                return
            if error is None:
                written.set_result(None)
            else:
                written.set_exception(error)

        self.journal.record((), done)
        await written

    # -- Act

    async def cancel(self, invocation_id: str) -> State:
        """
        Cancel an invocation, or dismiss one whose end is uncertain.

        Returns CANCELLED when it is gone, RUNNING when the cloud was asked to stop it.
        Raises `NotFound`, and `NotPossible` when it has ended or cannot be stopped.
        """
        job = self.machine.jobs.get(invocation_id)
        if job is None:
            record = await self._record(invocation_id)
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
            record = await self._record(completion.id)
            await self.complete_late(record.account, completion)
        await self.durable()

    async def _ends_by_callback(self, invocation_id: str) -> bool:
        record = await self._record(invocation_id)
        rules = self.settings.accounts.get(record.account)
        if rules is None or record.type is CallType.SYNC:
            return False
        return rules_for(rules.functions, record.function).completion is Source.CALLBACK

    async def redrive(self, invocation_id: str) -> None:
        """
        Let a dead or uncertain invocation run again, as a new attempt.

        Raises `NotFound`, and `NotPossible` in any other state.
        """
        await self._redrive(await self._record(invocation_id))
        await self.durable()

    async def redrive_dead(self, query: Query) -> int:
        """Redrive every dead invocation that *query* selects; return how many."""
        query = replace(query, state=State.DEAD)
        count, after = 0, None
        while True:
            records, after = await self.journal.find(query, after=after, limit=REDRIVE_AT_ONCE)
            for record in records:
                try:
                    await self._redrive(record)
                except NotPossible:
                    continue  # somebody else was faster
                count += 1
            if after is None:
                await self.durable()
                return count

    async def _redrive(self, record: Record) -> None:
        busy = record.id in self._redriving or record.id in self.machine.jobs
        if busy or record.state not in (State.DEAD, State.UNCERTAIN):
            raise NotPossible(
                f"only what is dead or uncertain can be redriven; it is {record.state}"
            )
        account = self.machine.accounts.get(record.account)
        if account is None:
            raise NotPossible(f"there is no account {record.account!r} any more")
        self._reserve(0)
        self._redriving.add(record.id)
        wall_ms = self.clock.wall_ms()
        attempt = record.attempt + 1
        try:
            self.journal.record([Returned(record.id, attempt, wall_ms)], self.fail_if)
            await self.durable()
            again = replace(record, attempt=attempt, due_ms=wall_ms, request_id=None)
            job = job_of(again, None, account, self.next_seq(), self.clock)
            self.machine.admit(job, self.clock.now())
            if record.state is State.DEAD:
                self.dead[record.account] -= 1
        finally:
            self._redriving.discard(record.id)
            self._leave(1, 0)
        self.wake()

    def pause(self, account: str, function: str | None = None) -> None:
        """Stop the sends of an account, or of one function. Raises `NotFound`."""
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
        self.machine.pause(account, function, paused=paused)
        what = account if function is None else f"{account}/{function}"
        logger.warning("%s: %s", "paused" if paused else "resumed", what)
        self.wake()

    def not_ready(self) -> str | None:
        """Return why no work should come now; None: it may."""
        if self.draining:
            return "draining"
        if not self.ready:
            return "recovering"
        if (error := self.journal.failed()) is not None:
            return f"journal failed: {error}"
        return None if self.journal.accepting() else "the journal's disk is full"


def _spaced(key_space: str, key: str) -> str:
    # With a blank, which no key has that a caller can give.
    return f"{key_space} {key}"


def _refusal(verdict: Duplicate | Exception) -> Exception:
    if isinstance(verdict, Duplicate):
        return KeyReused(
            f"the idempotency key belongs to another job, {verdict.id}", pointer="/idempotency_key"
        )
    return verdict
