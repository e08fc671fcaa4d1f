"""
What was told to a journal, numbered, so that what is left of it can be held against it.

Each piece of news carries its number in the one stamp that it sets. A journal that was told
news 1 to n and survived a crash must stand exactly where it stood after some news m, with m no
less than the last that it acknowledged.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import Struct

from dispatcher.core.model import (
    Change,
    Ended,
    Entry,
    Query,
    Record,
    Returned,
    Running,
    Sending,
    State,
)
from dispatcher.journals import reading
from dispatcher.journals.opening import Connection
from dispatcher.ports import Journal
from tests.journals.asking import entry

_ENDS = (State.SUCCEEDED, State.DEAD, State.EXPIRED, State.CANCELLED, State.UNCERTAIN)
_NO_PAYLOAD = (State.SUCCEEDED, State.EXPIRED, State.CANCELLED)


class Standing(Struct, frozen=True):
    """Where one invocation stands, and by which news."""

    state: State
    number: int
    payload: bytes | None
    result: bytes | None = None


class Loss(Struct, frozen=True, kw_only=True):
    """What a crash took, of what it must not."""

    news: int = 0  #: acknowledged, and gone
    resurrected: int = 0  #: invocations that had ended for good, and have not
    torn: bool = False  #: what is left is no moment of the story


class Story:
    """Makes news up and remembers them."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._news: list[Entry | Change] = []
        self._now: dict[str, Standing] = {}
        self.prunable = 0
        """What ended with this news or an earlier one may be gone, and is not spoken of any more."""

    @property
    def number(self) -> int:
        """Return the number of the last news."""
        return len(self._news)

    def go_on(self) -> list[Entry] | list[Change]:
        """Return what to tell next: new invocations, or what became of some."""
        if not self._now or self._chance.random() < 0.4:
            return self._accepted()
        return self._changes()

    def _accepted(self) -> list[Entry]:
        """Return some new invocations."""
        new = []
        for _ in range(self._chance.randint(1, 6)):
            number = self.number + 1
            size = self._chance.choice((0, 100, 1000, 5000, 9000))
            one = entry(
                self._chance.randbytes(size),
                id=f"i{number}",
                accepted_ms=number,
                due_ms=number,
                key=self._chance.choice((None, f"key {number}")),
                account=self._chance.choice(("a", "b")),
            )
            self._tell(one)
            new.append(one)
        return new

    def _changes(self) -> list[Change]:
        """Return what became of some of them."""
        changes: list[Change] = []
        for key in self._some():
            at, state = self.number + 1, self._now[key].state
            choices: list[Change] = [Ended(id=key, state=state, at_ms=at) for state in _ENDS]
            choices[0] = Ended(id=key, state=State.SUCCEEDED, at_ms=at, result=b"result" * 9)
            match state:
                case State.WAITING:
                    choices += [Sending(key, 1, at)] * 6
                case State.SENDING:
                    choices += [Running(key, f"request {at}", at)] * 6
                    choices.append(Returned(key, 1, at))
                case State.DEAD:
                    choices = [Returned(key, 2, at)]
                case State.UNCERTAIN:
                    choices = [choices[0], Returned(key, 2, at)]
                case _:
                    pass
            change = self._chance.choice(choices)
            self._tell(change)
            changes.append(change)
        return changes

    def _some(self) -> Iterable[str]:
        open_ones = [
            key
            for key, one in self._now.items()
            if one.state not in _NO_PAYLOAD and not self._may_be_gone(one)
        ]
        return self._chance.sample(open_ones, min(len(open_ones), self._chance.randint(1, 8)))

    def _tell(self, news: Entry | Change) -> None:
        self._news.append(news)
        _apply(self._now, self.number, news)

    def standing_after(self, number: int) -> dict[str, Standing]:
        """Return where everything stood after the news *number*."""
        standing: dict[str, Standing] = {}
        for at, news in enumerate(self._news[:number], start=1):
            _apply(standing, at, news)
        return standing

    def forget_after(self, number: int) -> None:
        """Go on from the news *number*, as if nothing had been said since."""
        del self._news[number:]
        self._now = self.standing_after(number)

    def _may_be_gone(self, one: Standing) -> bool:
        return one.state in _ENDS and one.number <= self.prunable

    def judge(self, found: dict[str, Standing], acknowledged: int) -> tuple[Loss, int]:
        """Say what is missing, and after which news *found* stands."""
        reached = max((one.number for one in found.values()), default=0)
        resurrected = 0
        for key, one in self.standing_after(acknowledged).items():
            if one.state in _NO_PAYLOAD and not self._may_be_gone(one):
                resurrected += key not in found or found[key].state is not one.state
        expected = {
            key: one
            for key, one in self.standing_after(reached).items()
            if key in found or not self._may_be_gone(one)
        }
        lost = max(0, acknowledged - reached)
        return Loss(news=lost, resurrected=resurrected, torn=found != expected), reached


def _apply(standing: dict[str, Standing], number: int, news: Entry | Change) -> None:
    match news:
        case Entry(record=record, payload=payload):
            standing[record.id] = Standing(State.WAITING, number, payload)
        case Sending(id=key):
            standing[key] = Standing(State.SENDING, number, standing[key].payload)
        case Running(id=key):
            standing[key] = Standing(State.RUNNING, number, standing[key].payload)
        case Returned(id=key):
            standing[key] = Standing(State.WAITING, number, standing[key].payload)
        case Ended(id=key, state=state, result=result):
            left = None if state in _NO_PAYLOAD else standing[key].payload
            standing[key] = Standing(state, number, left, result)


def found_standing(records: Sequence[tuple[Record, bytes | None]]) -> dict[str, Standing]:
    """Return where the records say that everything stands."""
    return {
        one.id: Standing(
            one.state,
            max(one.accepted_ms, one.due_ms, one.sent_ms or 0, one.ended_ms or 0),
            payload,
            one.result,
        )
        for one, payload in records
    }


def everything(connection: Connection) -> list[tuple[Record, bytes | None]]:
    """Return all invocations in a journal's file."""
    records, after = reading.find(connection, Query(), after=None, limit=100_000)
    assert after is None
    payloads = dict(
        connection.execute(
            "SELECT id, payload FROM payloads JOIN invocations USING (seq)"
        ).fetchall()
    )
    return [(one, payloads.get(one.id)) for one in records]


def give(journal: Journal, news: list[Entry] | list[Change], done: Callable[[Any], None]) -> None:
    """Tell *journal* the news."""
    entries = [one for one in news if isinstance(one, Entry)]
    if entries:
        journal.accept(entries, done)
    else:
        journal.record([one for one in news if not isinstance(one, Entry)], done)
