"""New invocations: judged, given a place in the queue, kept by the journal, admitted."""

import asyncio
import logging
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from dispatcher import failpoints
from dispatcher.config import Settings
from dispatcher.core.account import OTHER
from dispatcher.core.backlog import Job
from dispatcher.core.callback import offered_bytes_max, wants_offer
from dispatcher.core.intake import Target, callback_flaw, examine, target_of
from dispatcher.core.model import (
    CallType,
    Duplicate,
    Entry,
    Invocation,
)
from dispatcher.core.statistics import COMMIT_BOUNDS_S, Histogram
from dispatcher.core.views import Labels
from dispatcher.engine.news import News
from dispatcher.engine.pump import Trackers
from dispatcher.engine.tickets import Ticket
from dispatcher.engine.times import Moment, job_of, new_record
from dispatcher.errors import (
    DiskFull,
    Draining,
    Invalid,
    JournalError,
    KeyReused,
    PayloadTooLarge,
    QueueFull,
    Rejected,
)
from dispatcher.ports import Journal, Transport

logger = logging.getLogger("dispatcher.engine")

#: New invocations that the journal is given in one go: as many as one call of the HTTP API hands over.
ACCEPT_AT_ONCE = 10_000
#: New invocations that are admitted in one turn of the loop: about two milliseconds' worth.
JUDGE_AT_ONCE = 200
#: What a caller is asked to wait when the queue is full, or while the process starts or ends.
RETRY_AFTER_S = 1.0

#: Combinations of names of which it is remembered what they lead to.
TARGETS_KEPT = 10_000

_Names = tuple[str, str, str | None, str, CallType | None]
_Incoming = tuple[Ticket, Entry, str, float]
_Verdicts = Sequence[Duplicate | None] | Exception


class Accepting(News):
    """A pump that takes new invocations."""

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
        self._targets: dict[_Names, Target] = {}  #: of names that were asked for before
        self._incoming: deque[_Incoming] = deque()
        self._arriving = 0  #: accepted by nobody yet, but with a place in the queue
        self._arriving_bytes = 0
        self._flush_is_due = False
        self._unjudged: deque[tuple[list[_Incoming], _Verdicts]] = deque()

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
        self._incoming.append(incoming := self._take(invocation, source, key_space))
        if not self._flush_is_due:
            self._flush_is_due = True
            if threading.get_ident() == self._thread:
                self._loop.call_soon(self._flush)
            else:
                self._loop.call_soon_threadsafe(self._flush)
        return incoming[0]

    def _take(self, invocation: Invocation, source: str, key_space: str = "") -> _Incoming:
        try:
            entry = self._examined(invocation)
            if entry.record.key is not None and key_space:
                entry.record.key = spaced(key_space, entry.record.key)
            self._reserve(len(entry.payload))
        except Rejected as error:
            known = invocation.account in self.settings.accounts
            self.rejected[invocation.account if known else OTHER, error.reason] += 1
            raise
        if self.tracer is not None:
            self.tracer.accepting(entry.record, source=source)
        return Ticket(entry.record.id, self), entry, source, self.clock.now()

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

    @contextmanager
    def batch(self, *, source: str) -> Iterator[Callable[[Invocation], Ticket | Rejected]]:
        """
        Give what takes invocations one by one, over any time; one commit keeps them at the end.

        If the body fails, none of them is kept. Only on the loop.
        """
        taken: list[_Incoming] = []

        def take(invocation: Invocation) -> Ticket | Rejected:
            try:
                taken.append(incoming := self._take(invocation, source))
            except Rejected as error:
                return error
            return incoming[0]

        try:
            yield take
        except BaseException:
            self._leave(len(taken), _payload_bytes(taken))
            raise
        if taken:
            self._hand_over(taken)

    def _examined(self, invocation: Invocation) -> Entry:
        invocation, call_type = self._judged(invocation)
        record = new_record(invocation, call_type, self.clock.wall_ms())
        return Entry(record, invocation.payload)

    def _judged(self, invocation: Invocation) -> tuple[Invocation, CallType]:
        # One table for all that is asked here: another thread may begin a new one meanwhile.
        targets = self._targets
        names = (
            invocation.account,
            invocation.function,
            invocation.qualifier,
            invocation.tenant,
            invocation.type,
        )
        target = targets.get(names)
        if target is None:
            target = self._target_of(invocation)
            if len(targets) >= TARGETS_KEPT:
                targets.clear()  # or those of long ago would be kept, and those of today not
            targets[names] = target
        if invocation.callback_url is not None:
            flaw = callback_flaw(invocation.callback_url, self.settings.callbacks.hosts)
            if flaw is not None:
                raise Invalid(flaw, pointer="/callback_url")
        invocation = examine(invocation, target)
        if target.is_offered_callback and wants_offer(invocation.payload):
            self._check_room_for_offer(invocation.payload, target.payload_bytes_max)
        return invocation, target.call_type

    def _target_of(self, invocation: Invocation) -> Target:
        rules = self.settings.accounts.get(invocation.account)
        if rules is None:
            raise Invalid(f"there is no account {invocation.account!r}", pointer="/account")
        place = self.places[invocation.account]
        transport = self.transports[invocation.account]
        return target_of(invocation, rules, place, transport.payload_max_bytes)

    def _follow(self, settings: Settings) -> None:
        super()._follow(settings)
        self._targets = {}

    def _check_room_for_offer(self, payload: bytes, most: int) -> None:
        """Refuse a payload that is too large with what the function is offered in it."""
        size = offered_bytes_max(payload, self.url_base)
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
            held = self.payloads.held_bytes + self._arriving_bytes + payload_bytes
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
            self._hand_over(batch)

    def _hand_over(self, batch: list[_Incoming]) -> None:
        self.journal.accept([entry for _, entry, _, _ in batch], partial(self._heard, batch))

    def _heard(self, batch: list[_Incoming], verdicts: _Verdicts) -> None:
        """Take the journal's word on a batch."""
        if isinstance(verdicts, JournalError):
            self.fail(verdicts)
        failpoints.reach("engine.after_accept")
        self._unjudged.append((batch, verdicts))
        if len(self._unjudged) == 1:
            self._judge_some()

    def _judge_some(self) -> None:
        """Judge what the journal has kept; of much of it, a part in each turn of the loop."""
        room = sys.maxsize if self.draining else JUDGE_AT_ONCE
        while self._unjudged and room > 0:
            batch, verdicts = self._unjudged[0]
            part, rest = batch[:room], batch[room:]
            if isinstance(verdicts, Exception):
                self._judge(part, [verdicts] * len(part))
            else:
                self._judge(part, verdicts[:room])
                verdicts = verdicts[room:]
            room -= len(part)
            if rest:
                self._unjudged[0] = rest, verdicts
            else:
                self._unjudged.popleft()
        self.wake()
        if self._unjudged:
            self._loop.call_soon(self._judge_some)

    def _judge(
        self, batch: list[_Incoming], verdicts: Sequence[Duplicate | Exception | None]
    ) -> None:
        moment = self.clock.moment()
        for (ticket, entry, source, since), verdict in zip(batch, verdicts, strict=True):
            account = entry.record.account
            if self.tracer is not None:
                self.tracer.accepted(entry.record.id, verdict)
            with self._lock:  # so that who asks from another thread sees it counted once
                job = self._admit(entry, moment) if verdict is None else None
                self._arriving -= 1
                self._arriving_bytes -= len(entry.payload)
            if job is not None:
                ticket.settle(job)
                self.accepted[account, job.lane.tenant.label, source] += 1
                self.accept_s[account,].observe(moment.now - since)
            elif isinstance(verdict, Duplicate) and verdict.same_job:
                ticket.settle(verdict.id)
            else:
                assert verdict is not None
                error = _refusal(verdict)
                self.rejected[account, getattr(error, "reason", "journal")] += 1
                ticket.settle(error)

    def _admit(self, entry: Entry, moment: Moment) -> Job:
        account = self.machine.accounts[entry.record.account]
        job = job_of(entry.record, entry.payload, account, self.next_seq(), moment)
        self.payloads.keep(job, self.settings.queue.bytes_max)
        self.machine.admit(job, moment.now)
        return job


def _payload_bytes(batch: Sequence[_Incoming]) -> int:
    return sum([len(entry.payload) for _, entry, _, _ in batch])


def spaced(key_space: str, key: str) -> str:
    """Return *key* as the journal knows it, apart from those of other spaces."""
    # With a blank, which no key has that a caller can give.
    return f"{key_space} {key}"


def _refusal(verdict: Duplicate | Exception) -> Exception:
    if isinstance(verdict, Duplicate):
        return KeyReused(
            f"the idempotency key belongs to another job, {verdict.id}", pointer="/idempotency_key"
        )
    return verdict
