"""Many entries, and never many of them moved at once."""

import sys
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.spread import Spread

#: What comes in one turn of the loop.
TURN = 200
MANY = 40_000


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 9))))
def test_it_is_a_mapping(steps):
    spread: Spread[int] = Spread()
    model: dict[str, int] = {}
    for key, value in steps:
        assert (key in spread, spread.get(key), spread.get(key, -1)) == (
            key in model,
            model.get(key),
            model.get(key, -1),
        )
        if key in model:
            assert spread[key] == model.pop(key)
            spread.remove(key)
        else:
            spread.add(key, value)
            model[key] = value
        assert len(spread) == len(model)
        assert spread == model
        assert sorted(spread) == sorted(model)


def test_what_is_not_in_cannot_be_had_and_what_is_cannot_be_added():
    spread: Spread[int] = Spread()
    spread.add("a", 1)
    for ask in (spread.__getitem__, spread.remove):
        with pytest.raises(KeyError):
            ask("b")
    with pytest.raises(AssertionError):
        spread.add("a", 2)
    assert dict(spread) == {"a": 1}
    assert repr(spread) == "<Spread of 1>"


class Copies:
    """Counts the entries that are copied: all of a dict that has another size than before."""

    def __init__(self, tables: list[dict[str, Any]]) -> None:
        self._tables = tables
        self._sizes = self._measured()

    def _measured(self) -> list[int]:
        return [sys.getsizeof(table) for table in self._tables]

    def since(self) -> int:
        """Return how many were copied since this was asked last."""
        before, self._sizes = self._sizes, self._measured()
        pairs = zip(self._tables, before, self._sizes, strict=True)
        return sum(len(table) for table, then, now in pairs if then != now)


def most_copied(tables: list[dict[str, Any]], held: Mapping[str, int], add: Any, drop: Any) -> int:
    """Return what a turn copies at most while many come, and then as many come as leave."""
    copies, most = Copies(tables), 0
    turns = [range(start, start + TURN) for start in range(0, 3 * MANY, TURN)]
    for turn in turns:
        for number in turn:
            add(f"i{number}", number)
            if number >= MANY:
                drop(f"i{number - MANY}")
        most = max(most, copies.since())
    assert len(held) == MANY
    return most


def test_a_turn_copies_few_of_many_entries():
    table: dict[str, int] = {}
    assert most_copied([table], table, table.__setitem__, table.pop) > MANY / 3
    spread: Spread[int] = Spread()
    assert most_copied(spread._tables, spread, spread.add, spread.remove) < MANY / 8


def test_the_ids_of_a_table_have_different_places_in_it():
    spread: Spread[int] = Spread()
    for number in range(MANY):
        spread.add(f"i{number}", number)
    tables = sorted(len(table) for table in spread._tables)
    assert tables[-1] < 2 * tables[0]
    # A dict looks first where the lowest bits of the hash say.
    for table in spread._tables[:9]:
        assert len({hash(key) % 64 for key in table}) > 32
