"""A mapping with an entry for each of a million, of which no step takes long."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar, overload

#: Prime, so that all bits of a hash have their say: those that choose the table and no others
#: would be the same for all of it, and a dict looks by them.
TABLES: Final = 251

Value = TypeVar("Value")
Default = TypeVar("Default")


class Spread(Mapping[str, Value]):
    """
    Values by ids, spread over many dicts.

    A dict that is full is copied in one go, also where as many come as leave: 25 ms for a
    million. Here that is one of the tables, each at a moment of its own, since by chance each has
    a few more or less. Of the ids there is no order.
    """

    __slots__ = ("_count", "_tables")

    def __init__(self) -> None:
        self._tables: list[dict[str, Value]] = [{} for _ in range(TABLES)]
        self._count = 0

    def __repr__(self) -> str:
        return f"<Spread of {self._count}>"

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        for table in self._tables:
            yield from table

    def __contains__(self, key: object) -> bool:
        return key in self._tables[hash(key) % TABLES]

    def __getitem__(self, key: str) -> Value:
        return self._tables[hash(key) % TABLES][key]

    @overload
    def get(self, key: str) -> Value | None: ...
    @overload
    def get(self, key: str, default: Value | Default) -> Value | Default: ...
    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of *key*, or *default*."""
        return self._tables[hash(key) % TABLES].get(key, default)

    # By names rather than brackets: those cost twice as much to call.

    def add(self, key: str, value: Value) -> None:
        """Give *key*, which is new, a value."""
        table = self._tables[hash(key) % TABLES]
        assert key not in table, key
        table[key] = value
        self._count += 1

    def remove(self, key: str) -> None:
        """Take *key* out, which must be in."""
        del self._tables[hash(key) % TABLES][key]
        self._count -= 1
