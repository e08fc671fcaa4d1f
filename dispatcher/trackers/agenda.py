"""What is due when: a heap whose entries can be put off and struck out. Free of clocks."""

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

_SLACK = 64
"""Void entries that are not worth a clean-up."""


class Agenda(Generic[T]):
    """Items in the order in which they are due; each of them stands in it once."""

    __slots__ = ("_entries", "_heap", "_put")

    def __init__(self) -> None:
        self._entries: dict[T, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, T]] = []
        self._put = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item: T) -> bool:
        return item in self._entries

    def __repr__(self) -> str:
        return f"<Agenda of {len(self)}, next at {self.head()}>"

    def put(self, item: T, due: float) -> None:
        """Make *item* due at that time, and at no other."""
        self._put += 1
        self._entries[item] = (due, self._put)
        heapq.heappush(self._heap, (due, self._put, item))
        self._tidy()

    def _tidy(self) -> None:
        if len(self._heap) > _SLACK + 2 * len(self._entries):
            self._heap = [(*entry, each) for each, entry in self._entries.items()]
            heapq.heapify(self._heap)

    def strike(self, item: T) -> None:
        """Take *item* out, if it is there."""
        self._entries.pop(item, None)

    def head(self) -> float | None:
        """Return when the first item is due; None: there is none."""
        self._tidy()  # many may have been struck out: cheaper than one by one
        heap = self._heap
        while heap:
            due, put, item = heap[0]
            if self._entries.get(item) == (due, put):
                return due
            heapq.heappop(heap)
        return None

    def pop(self, now: float) -> T | None:
        """Take out the item that has been due for longest; None: nothing is due."""
        due = self.head()
        if due is None or due > now:
            return None
        item = heapq.heappop(self._heap)[2]
        del self._entries[item]
        return item
