"""A journal that lasts as long as the process: for tests, and where losing the backlog is fine."""

import copy
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from dispatcher.core.lifecycle import FINAL
from dispatcher.core.model import (
    Change,
    Duplicate,
    Ended,
    Entry,
    Pause,
    Query,
    Record,
    Returned,
    Running,
    Sending,
    State,
)
from dispatcher.errors import JournalError
from dispatcher.journals.pages import cursor_of, position_of
from dispatcher.ports import AcceptDone, ChangeDone

#: Ended invocations, and bytes of their payloads and results, that are kept within the retention.
ENDED_MAX = 100_000
ENDED_BYTES_MAX = 64 * 1024 * 1024

#: Idempotency keys that are remembered within the retention.
KEYS_MAX = 1_000_000

_SLICE = 1000

#: How many invocations one page of `find` looks at, since others wait for the loop meanwhile.
_LOOK_MAX = 20_000


class _Kept(Struct, gc=False):
    record: Record
    payload: bytes | None
    seq: int

    @property
    def size_bytes(self) -> int:
        return len(self.payload or b"") + len(self.record.result or b"")


class _Key(Struct, frozen=True, gc=False):
    id: str
    digest: bytes
    at_ms: int


class MemoryJournal:
    """
    Keeps everything in memory; every `done` is called before the call returns.

    Ended invocations are kept for *retention_s* as on disk, but no more than *ended_max* of
    them and *ended_bytes_max* of their payloads and results, and of the idempotency keys the
    latest *keys_max*. Time is what the engine says it is: the latest of the stamps it gave.
    """

    on_disk = False

    def __init__(
        self,
        *,
        retention_s: float,
        ended_max: int = ENDED_MAX,
        ended_bytes_max: int = ENDED_BYTES_MAX,
        keys_max: int = KEYS_MAX,
    ) -> None:
        self._retention_ms = int(retention_s * 1000)
        self._ended_max = ended_max
        self._ended_bytes_max = ended_bytes_max
        self._keys_max = keys_max
        self._by_id: dict[str, _Kept] = {}
        self._by_seq: dict[int, _Kept] = {}
        self._keys: OrderedDict[tuple[str, str], _Key] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()  #: in the order of their ends
        self._ended_bytes = 0
        self._payload_bytes = 0
        self._paused: dict[tuple[str, str], Pause] = {}
        self._last_seq = 0
        self._closed = False

    # -- Writing

    def accept(self, entries: Sequence[Entry], done: AcceptDone) -> None:
        """Keep new invocations, each unless its key is known already."""
        if self._closed:
            done(_closed())
            return
        done([self._accept(entry) for entry in entries])

    def record(self, changes: Sequence[Change], done: ChangeDone | None = None) -> None:
        """Keep what became of invocations."""
        if not self._closed:
            for change in changes:
                kept = self._by_id.get(change.id)
                if kept is not None:
                    self._apply(kept, change)
        if done is not None:
            done(_closed() if self._closed else None)

    def pause(self, pause: Pause, done: ChangeDone | None = None) -> None:
        """Keep that an account or a function is paused, or that it is no more."""
        if not self._closed:
            self._paused.pop((pause.account, pause.function or ""), None)
            if pause.paused:
                self._paused[pause.account, pause.function or ""] = pause
        if done is not None:
            done(_closed() if self._closed else None)

    def _accept(self, entry: Entry) -> Duplicate | None:
        record = entry.record
        if record.key is not None:
            first = self._keys.get((record.account, record.key))
            if first is not None and first.at_ms > record.accepted_ms - self._retention_ms:
                return Duplicate(first.id, first.digest == record.digest)
            # Taken out first, so that they stay in the order of acceptance.
            self._keys.pop((record.account, record.key), None)
            self._keys[record.account, record.key] = _Key(
                record.id, record.digest, record.accepted_ms
            )
        assert record.id not in self._by_id, f"the id {record.id} was given before"
        self._last_seq += 1
        kept = _Kept(replace(record, digest=b""), entry.payload, self._last_seq)
        self._by_id[record.id] = self._by_seq[kept.seq] = kept
        self._payload_bytes += kept.size_bytes
        self._prune(record.accepted_ms)
        return None

    def _apply(self, kept: _Kept, change: Change) -> None:
        record = kept.record
        match change:
            case Ended(state=state):
                settled = record.ended_ms is not None and (
                    record.state is not State.UNCERTAIN or state is State.UNCERTAIN
                )
                if not settled:
                    self._end(kept, change)
            case Returned() if record.state not in FINAL:
                self._forget_end(kept)
                # What the cloud may have is still being sent, for whoever reads this later.
                record.state = State.SENDING if change.maybe_sent else State.WAITING
                record.attempt = change.attempt
                record.due_ms = change.due_ms
                record.failure = change.failure
                record.ended_ms = record.result = None
                record.estimated, record.start_delay_s = False, None
            case Sending(attempt=attempt, at_ms=at_ms) if record.ended_ms is None:
                record.state = State.SENDING
                record.attempt = attempt
                record.request_id = None
                self._sent(record, at_ms)
            case Running(request_id=request_id, at_ms=at_ms) if record.ended_ms is None:
                record.state = State.RUNNING
                record.request_id = request_id
                self._sent(record, at_ms)
            case _:
                pass

    @staticmethod
    def _sent(record: Record, at_ms: int) -> None:
        record.sent_ms = at_ms
        if record.first_sent_ms is None:
            record.first_sent_ms = at_ms

    def _end(self, kept: _Kept, end: Ended) -> None:
        self._forget_end(kept)
        record = kept.record
        record.state = end.state
        record.ended_ms = end.at_ms
        record.request_id = record.request_id if end.request_id is None else end.request_id
        # What nobody knows the end of has no result yet.
        record.result = None if end.state is State.UNCERTAIN else end.result
        record.failure = end.failure
        record.estimated = end.estimated
        record.start_delay_s = end.start_delay_s
        self._payload_bytes -= len(kept.payload or b"")
        if record.state in FINAL:
            kept.payload = None
        self._ended[record.id] = None
        self._ended_bytes += kept.size_bytes
        self._prune(end.at_ms)

    def _forget_end(self, kept: _Kept) -> None:
        """Take it out of the ended, so that it counts among the living again."""
        if kept.record.ended_ms is not None:
            del self._ended[kept.record.id]
            self._ended_bytes -= kept.size_bytes
            self._payload_bytes += len(kept.payload or b"")

    def _prune(self, now_ms: int) -> None:
        before_ms = now_ms - self._retention_ms
        while self._ended:
            kept = self._by_id[next(iter(self._ended))]
            ended_ms = kept.record.ended_ms
            assert ended_ms is not None
            if (
                ended_ms > before_ms
                and len(self._ended) <= self._ended_max
                and self._ended_bytes <= self._ended_bytes_max
            ):
                break
            del self._ended[kept.record.id], self._by_id[kept.record.id], self._by_seq[kept.seq]
            self._ended_bytes -= kept.size_bytes
        while self._keys:
            oldest = next(iter(self._keys))
            if self._keys[oldest].at_ms > before_ms and len(self._keys) <= self._keys_max:
                break
            del self._keys[oldest]

    # -- Reading

    async def recover(self) -> AsyncIterator[list[tuple[Record, bytes | None]]]:
        """Give what has not ended, and what is uncertain, without the payloads of the latter."""
        left = [
            (copy.copy(kept.record), kept.payload if kept.record.ended_ms is None else None)
            for kept in self._by_seq.values()
            if kept.record.ended_ms is None or kept.record.state is State.UNCERTAIN
        ]
        for start in range(0, len(left), _SLICE):
            yield left[start : start + _SLICE]

    async def get(self, invocation_id: str) -> Record | None:
        """Return what is kept of one invocation."""
        kept = self._by_id.get(invocation_id)
        return None if kept is None else copy.copy(kept.record)

    async def keyed(self, account: str, key: str) -> str | None:
        """Return the id of the invocation that was accepted with *key*, while it is known."""
        first = self._keys.get((account, key))
        return None if first is None else first.id

    async def payload(self, invocation_id: str) -> bytes | None:
        """Return the payload, None once it is not needed any more."""
        kept = self._by_id.get(invocation_id)
        return None if kept is None else kept.payload

    async def find(
        self, query: Query, *, after: str | None = None, limit: int = 100
    ) -> tuple[list[Record], str | None]:
        """Return a page of invocations, newest first; it may be short, and still have a next one."""
        assert limit >= 1
        newest = self._last_seq if after is None else position_of(after) - 1
        oldest = next(iter(self._by_seq), newest + 1)
        page: list[Record] = []
        for seq in range(newest, oldest - 1, -1):
            kept = self._by_seq.get(seq)
            if kept is not None and _matches(kept.record, query):
                if len(page) == limit:
                    return page, cursor_of(seq + 1)
                page.append(copy.copy(kept.record))
            if newest - seq >= _LOOK_MAX and seq > oldest:
                return page, cursor_of(seq)
        return page, None

    async def paused(self) -> list[Pause]:
        """Return what is paused, in the order of names."""
        return [pause for _, pause in sorted(self._paused.items(), key=lambda item: item[0])]

    async def dead(self) -> dict[str, int]:
        """Count the dead invocations of each account."""
        counts: dict[str, int] = {}
        for invocation_id in self._ended:
            record = self._by_id[invocation_id].record
            if record.state is State.DEAD:
                counts[record.account] = counts.get(record.account, 0) + 1
        return counts

    # -- State

    def size_bytes(self) -> int:
        """Return the bytes of all payloads and results."""
        return self._payload_bytes + self._ended_bytes

    def failed(self) -> JournalError | None:
        """Return None: memory does not fail."""
        return None

    def accepting(self) -> bool:
        """Tell whether new invocations can be kept now."""
        return not self._closed

    async def aclose(self) -> None:
        """Take nothing more."""
        self._closed = True


def _closed() -> JournalError:
    return JournalError("the journal is closed")


def _matches(record: Record, query: Query) -> bool:
    return (
        (query.state is None or record.state is query.state)
        and (query.account is None or record.account == query.account)
        and (query.function is None or record.function == query.function)
        and (query.tenant is None or record.tenant == query.tenant)
    )
