"""What one commit takes: new invocations and changes, and what those who wait are told."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, assert_never

from msgspec import Struct

from dispatcher.core.model import (
    Change,
    Duplicate,
    Ended,
    Entry,
    Pause,
    Returned,
    Running,
    Sending,
    State,
)
from dispatcher.journals.opening import Connection
from dispatcher.journals.rows import (
    Row,
    ended_row,
    invocation_row,
    returned_row,
    running_row,
    sending_row,
)
from dispatcher.journals.statements import Statement, run
from dispatcher.ports import AcceptDone, ChangeDone


class Accept(Struct, frozen=True, gc=False):
    """New invocations and who waits for them."""

    entries: Sequence[Entry]
    done: AcceptDone
    size_bytes: int

    @property
    def rows(self) -> int:
        """Return how many there are."""
        return len(self.entries)


class Note(Struct, frozen=True, gc=False):
    """Changes and who waits for them, if anybody."""

    changes: Sequence[Change]
    done: ChangeDone | None
    pause: Pause | None = None

    @property
    def rows(self) -> int:
        """Return how many there are."""
        return len(self.changes)


Work = Accept | Note

Told = Sequence[tuple[Work, Any]]
"""Works, each with what its `done` is to be called with."""

Step = tuple[Statement, list[Row]]


class Arrivals:
    """The new invocations of a batch, once it is known which of them are repeats."""

    def __init__(
        self,
        works: Iterable[Work],
        connection: Connection,
        *,
        last_seq: int,
        retention_ms: int,
    ) -> None:
        """Look the keys up; the new ones get the numbers after *last_seq*."""
        self.last_seq = last_seq
        self._retention_ms = retention_ms
        self._verdicts: dict[int, list[Duplicate | None]] = {}
        self._invocations: list[Row] = []
        self._payloads: list[Row] = []
        self._keys: dict[tuple[str, str], Row] = {}
        accepts = [work for work in works if isinstance(work, Accept)]
        self._holders = _holders(accepts, connection)
        for work in accepts:
            self._verdicts[id(work)] = [self._take(entry) for entry in work.entries]

    def verdict(self, work: Accept) -> list[Duplicate | None]:
        """Return what is known of each entry."""
        return self._verdicts[id(work)]

    def steps(self) -> Iterator[Step]:
        """Yield the statements that keep them, each with its rows."""
        if self._invocations:
            yield Statement.ADD_INVOCATIONS, self._invocations
            yield Statement.ADD_PAYLOADS, self._payloads
        if self._keys:
            yield Statement.TAKE_KEYS, list(self._keys.values())

    def _take(self, entry: Entry) -> Duplicate | None:
        record = entry.record
        if record.key is not None:
            holder = self._holders.get((record.account, record.key))
            if holder is not None and holder[4] > record.accepted_ms - self._retention_ms:
                return Duplicate(holder[2], holder[3] == record.digest)
            mine = (record.account, record.key, record.id, record.digest, record.accepted_ms)
            self._holders[mine[:2]] = self._keys[mine[:2]] = mine
        self.last_seq += 1
        self._invocations.append(invocation_row(record, self.last_seq))
        self._payloads.append((self.last_seq, entry.payload))
        return None


def _holders(accepts: Iterable[Accept], connection: Connection) -> dict[tuple[str, str], Row]:
    """Return the rows of the keys that are known already, by account and key."""
    wanted = [
        (entry.record.account, entry.record.key)
        for work in accepts
        for entry in work.entries
        if entry.record.key is not None
    ]
    return {(row[0], row[1]): row for row in run(connection, Statement.FIND_KEYS, wanted)}


_KEEPS_PAYLOAD = frozenset({State.DEAD, State.UNCERTAIN})


def change_steps(works: Iterable[Work]) -> Iterator[Step]:
    """
    Yield the statements that make the changes in *works*, each with its rows.

    A statement must not meet an invocation twice: there is no order within it. So all first
    changes of the invocations come first, then all second ones, and so on.
    """
    waves: list[list[Change]] = []
    met: dict[str, int] = {}
    for work in works:
        for change in work.changes if isinstance(work, Note) else ():
            wave = met.get(change.id, 0)
            met[change.id] = wave + 1
            if wave == len(waves):
                waves.append([])
            waves[wave].append(change)
    for changes in waves:
        yield from _wave_steps(changes)
    yield from _pause_steps(works)


def _pause_steps(works: Iterable[Work]) -> Iterator[Step]:
    pauses: dict[Row, bool] = {}  # the latest of each counts
    for work in works:
        if isinstance(work, Note) and work.pause is not None:
            pauses[work.pause.account, work.pause.function or ""] = work.pause.paused
    for statement, paused in ((Statement.BEGIN_PAUSES, True), (Statement.END_PAUSES, False)):
        if rows := [row for row, each in pauses.items() if each is paused]:
            yield statement, rows


def _wave_steps(changes: Sequence[Change]) -> Iterator[Step]:
    rows: defaultdict[Statement, list[Row]] = defaultdict(list)
    for change in changes:
        match change:
            case Sending():
                rows[Statement.SENDING].append(sending_row(change))
            case Running():
                rows[Statement.RUNNING].append(running_row(change))
            case Ended():
                rows[Statement.ENDED].append(ended_row(change))
                # What nobody knows the end of has no result yet.
                if change.result is not None and change.state is not State.UNCERTAIN:
                    rows[Statement.ADD_RESULTS].append((change.id, change.result))
                if change.state not in _KEEPS_PAYLOAD:
                    rows[Statement.DROP_PAYLOADS].append((change.id,))
            case Returned():
                rows[Statement.RETURNED].append(returned_row(change))
                rows[Statement.DROP_RESULTS].append((change.id,))
            case _:
                assert_never(change)
    for statement in _WAVE:
        if statement in rows:
            yield statement, rows[statement]


#: The order within a wave: results look forward to the change, what is dropped looks back.
_WAVE: Final = (
    Statement.ADD_RESULTS,
    Statement.SENDING,
    Statement.RUNNING,
    Statement.ENDED,
    Statement.RETURNED,
    Statement.DROP_PAYLOADS,
    Statement.DROP_RESULTS,
)
