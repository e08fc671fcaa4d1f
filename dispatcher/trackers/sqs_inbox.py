"""
Which records belong to which run, and which messages may be deleted.

Free of I/O and clocks. Records come before the run is watched, several times, late, never, for
runs of strangers, or are no records at all. A message is deleted only when its news is in the
journal, or when nobody has wanted it for `KEEP_S`.
"""

from collections import OrderedDict, deque
from typing import Final, TypeVar

import msgspec

from dispatcher.core.model import Completion, Watched
from dispatcher.trackers.cloud_clock import CloudClock
from dispatcher.trackers.duration import FUNCTIONS_MAX, Excess
from dispatcher.trackers.sqs_records import Record, completion, read_record

T = TypeVar("T")

KEEP_S: Final = 45.0
"""How long a record is kept whose request id nobody knows: longer than a send may take, since a
function can end before its 202 has been read."""
KEPT_MAX: Final = 10_000
KEPT_CHARS_MAX: Final = 64 * 1024 * 1024

FORMER_MAX: Final = 10_000
"""Runs whose end was given up and may still come."""
SETTLED_MAX: Final = 20_000
"""Request ids whose end is in the journal, to tell a repeat from a stranger."""


class InboxCounts(msgspec.Struct, kw_only=True):
    """What became of the messages so far."""

    received: int = 0
    reported: int = 0
    early: int = 0
    """Records that came before their run was watched."""
    late: int = 0
    """Records of runs whose end had been given up."""
    repeated: int = 0
    foreign: int = 0
    """Records of runs that nobody here began; they are deleted."""
    unreadable: int = 0
    """Messages that are no destination records; they are deleted."""
    let_go: int = 0
    """Messages for which there was no room; the queue gives them again."""


class _Kept(msgspec.Struct):
    """A record that nobody is waiting for yet."""

    record: Record
    until: float
    chars: int
    receipts: list[str]


class Inbox:
    """The runs that are waited for, and the messages that are not deleted yet."""

    def __init__(self) -> None:
        self.counts = InboxCounts()
        self.clock = CloudClock()
        self.news: deque[tuple[str, Completion]] = deque()
        """Ends to report, each with the request id to settle once it is in the journal."""
        self.deletable: deque[str] = deque()
        """Receipts of messages that are done with."""
        self._awaited: dict[str, Watched] = {}
        self._request_of: dict[str, str] = {}
        self._former: OrderedDict[str, Watched] = OrderedDict()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._kept_chars = 0
        self._reported: dict[str, list[str]] = {}
        self._settled: OrderedDict[str, None] = OrderedDict()
        self._excess: OrderedDict[str, Excess] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Inbox awaits {len(self._awaited)}, keeps {len(self._kept)}>"

    @property
    def awaited(self) -> int:
        """How many runs are watched."""
        return len(self._awaited)

    @property
    def unsettled(self) -> int:
        """How many ends were reported and are not in the journal yet."""
        return len(self._reported)

    # -- Runs

    def watch(self, run: Watched) -> None:
        """Wait for the record of *run*, which may be here already."""
        self.forget(run.id)
        if not run.request_id:
            return  # its 202 said nothing that a record could be known by
        self._awaited[run.request_id] = run
        self._request_of[run.id] = run.request_id
        kept = self._kept.pop(run.request_id, None)
        if kept is not None:
            self._kept_chars -= kept.chars
            self.counts.early += 1
            self._report(run, kept.record, kept.receipts)

    def forget(self, run_id: str) -> None:
        """Wait no more; a record that comes all the same is still told."""
        request_id = self._request_of.pop(run_id, None)
        if request_id is not None:
            self._former[request_id] = self._awaited.pop(request_id)
            _shorten(self._former, FORMER_MAX)

    # -- Messages

    def deliver(self, body: str, receipt: str, now: float) -> None:
        """Take a message that the queue gave."""
        self.counts.received += 1
        record = read_record(body)
        if record is None:
            self.counts.unreadable += 1
            self.deletable.append(receipt)
            return
        request_id = record.request_id
        if request_id in self._awaited:
            self._report(self._awaited[request_id], record, [receipt])
        elif request_id in self._reported:
            self.counts.repeated += 1
            self._reported[request_id].append(receipt)
        elif request_id in self._settled:
            self.counts.repeated += 1
            self.deletable.append(receipt)
        elif request_id in self._former:
            self.counts.late += 1
            self._report(self._former[request_id], record, [receipt])
        elif request_id in self._kept:
            self.counts.repeated += 1
            self._kept[request_id].receipts.append(receipt)
        else:
            self._keep(record, len(body), receipt, now)

    def _keep(self, record: Record, chars: int, receipt: str, now: float) -> None:
        if len(self._kept) >= KEPT_MAX or self._kept_chars + chars > KEPT_CHARS_MAX:
            self.counts.let_go += 1
            return
        self._kept[record.request_id] = _Kept(record, now + KEEP_S, chars, [receipt])
        self._kept_chars += chars

    def _report(self, run: Watched, record: Record, receipts: list[str]) -> None:
        request_id = record.request_id
        self._awaited.pop(request_id, None)
        self._former.pop(request_id, None)
        if self._request_of.get(run.id) == request_id:
            del self._request_of[run.id]
        self._reported[request_id] = receipts
        self.counts.reported += 1
        run_s, start_delay_s = self._times(run, record)
        news = completion(run, record, run_s=run_s, start_delay_s=start_delay_s)
        self.news.append((request_id, news))

    def _times(self, run: Watched, record: Record) -> tuple[float | None, float | None]:
        """Return how long it ran and how long it was queued before; the record only has its end."""
        if record.written_s is None or not self.clock.is_good:
            return None, None
        if (record.request_context.approximate_invoke_count or 1) > 1:
            return None, None  # Lambda's own retries and their pauses are in it
        elapsed_s = max(0.0, self.clock.to_loop(record.written_s) - run.sent_at)
        excess = self._excess.get(run.function)
        if excess is None:
            excess = self._excess[run.function] = Excess()
            _shorten(self._excess, FUNCTIONS_MAX)
        start_delay_s = excess.start_delay_s(elapsed_s)
        return elapsed_s - (start_delay_s or 0.0), start_delay_s

    def settle(self, request_id: str) -> None:
        """Take note that an end is in the journal."""
        receipts = self._reported.pop(request_id, None)
        if receipts is None:
            return
        self.deletable.extend(receipts)
        self._settled[request_id] = None
        _shorten(self._settled, SETTLED_MAX)

    # -- Time

    def expire(self, now: float) -> None:
        """Give up the records that nobody has wanted for long enough."""
        while self._kept:
            request_id, kept = next(iter(self._kept.items()))
            if kept.until > now:
                return
            del self._kept[request_id]
            self._kept_chars -= kept.chars
            self.counts.foreign += 1
            self.deletable.extend(kept.receipts)

    def next_deadline(self) -> float | None:
        """Return when to call `expire`."""
        return next(iter(self._kept.values())).until if self._kept else None

    def abandon(self) -> list[str]:
        """Return the receipts of all messages that somebody else may want after us."""
        receipts = [receipt for kept in self._kept.values() for receipt in kept.receipts]
        return receipts + [each for unsettled in self._reported.values() for each in unsettled]


def _shorten(entries: OrderedDict[str, T], entries_max: int) -> None:
    while len(entries) > entries_max:
        entries.popitem(last=False)
