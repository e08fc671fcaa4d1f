"""Heaps out of which entries can be taken anywhere: a stale entry stays until it comes up."""

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush, heapreplace
from typing import Any, Final, Generic, Protocol, TypeVar

#: Entries of a heap that is made anew in one go.
MADE_ANEW_MAX: Final = 1024
#: Entries of a larger one that are looked at with each lapse beyond its half: of those that lapse
#: in the end, this finds more than come to it meanwhile.
SWEPT_AT_ONCE: Final = 4
#: Stale entries that are taken off the top in a turn of the loop, and in passing: 2 us each at most.
CLEARED_AT_ONCE: Final = 500
CLEARED_IN_PASSING: Final = 20

Entry = TypeVar("Entry", bound=tuple[Any, ...])


class _Heap(Generic[Entry]):
    """
    A heap whose entries may go stale where they are.

    Whoever makes an entry stale says so with `lapse`. There are hardly ever more stale entries
    than good ones: a small heap is made anew before, out of a large one each further lapse
    takes a few, since to make a million anew at once would stop everything else.
    """

    __slots__ = ("_good", "_heap", "_live", "_swept")

    def __init__(self, good: Callable[[Entry], bool]) -> None:
        self._good = good
        self._heap: list[Entry] = []
        self._live = 0
        self._swept = 0  #: where the search for stale entries of a large heap goes on

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._live}, and {len(self._heap) - self._live} stale>"

    def __len__(self) -> int:
        return self._live

    @property
    def size(self) -> int:
        """Return how many entries there are, stale ones too."""
        return len(self._heap)

    def entries(self) -> list[Entry]:
        """Return a copy of all entries, stale ones too, in no order: cheap even if they are many."""
        return self._heap.copy()

    def push(self, entry: Entry) -> None:
        """Add an entry. Its owner comes last and is never compared: what precedes it is unique."""
        heappush(self._heap, entry)
        self._live += 1

    def lapse(self) -> None:
        """Note that one entry has gone stale."""
        self._live = live = self._live - 1
        assert live >= 0, self
        if len(self._heap) > 2 * live:
            self._tidy()

    def clear_top(self, at_most: int) -> bool:
        """
        Take *at_most* so many stale entries off the top; False: there may be more of them.

        They are all that `first` has to look at; thousands may come up at once when what was
        before them goes.
        """
        heap, good = self._heap, self._good
        if not heap or good(heap[0]):
            return True
        for _ in range(at_most):
            heappop(heap)
            if not heap or good(heap[0]):
                return True
        return False

    def _tidy(self) -> None:
        heap, good = self._heap, self._good
        if len(heap) <= MADE_ANEW_MAX:
            self._heap = list(filter(good, heap))
            heapify(self._heap)
            return
        # From the end on: half of a heap are leaves, which nothing has to move up for.
        at = self._swept
        for _ in range(min(SWEPT_AT_ONCE, len(heap))):
            at = at - 1 if 0 < at <= len(heap) else len(heap) - 1
            if not good(heap[at]):
                _take_out(heap, at)
        self._swept = at


def _take_out(heap: list[Any], at: int) -> None:
    """Take out what stands at *at*, and leave a heap."""
    moved = heap.pop()
    end = len(heap)
    if at == end:
        return
    # As heapq does it: the lesser children move up as far as there are any, and what was last
    # comes from below to its place.
    while (child := 2 * at + 1) < end:
        if child + 1 < end and heap[child + 1] < heap[child]:
            child += 1
        heap[at] = heap[child]
        at = child
    while at and moved < heap[(at - 1) >> 1]:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = moved


class LazyHeap(_Heap[Entry]):
    """A lazy heap of entries of which *good* tells whether they still stand."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Entry]:
        """Give the good entries, in no order."""
        return filter(self._good, self._heap)

    def first(self) -> Entry | None:
        """Return the least good entry."""
        heap = self._heap
        while heap:
            if self._good(heap[0]):
                return heap[0]
            heappop(heap)
        return None

    def pop(self) -> Entry:
        """Take the least good entry out; there must be one."""
        entry = self.first()
        assert entry is not None, self
        heappop(self._heap)
        self.lapse()
        return entry


class Ranked(Protocol):
    """What can stand in a `Ranking`, in one at a time."""

    entry: tuple[Any, ...] | None
    """Its place there; nobody else writes it."""


Owner = TypeVar("Owner", bound=Ranked)


class Ranking(_Heap[tuple[Any, ...]], Generic[Owner]):
    """Owners in the order of their keys, each at most once; an entry is its key and its owner."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(_stands)

    def __iter__(self) -> Iterator[Owner]:
        """Give the owners, in no order."""
        return (entry[-1] for entry in self._heap if _stands(entry))

    def place(self, entry: tuple[Any, ...]) -> None:
        """
        Put the owner that *entry* ends with in its place, or in another one.

        No two owners ever have the same key, which is what precedes the owner.
        """
        owner: Owner = entry[-1]
        old, heap = owner.entry, self._heap
        if old is None:
            self._live += 1
            owner.entry = entry
            heappush(heap, entry)
        elif old != entry:
            owner.entry = entry
            if heap[0] is old:  # the most common move: whoever went steps back
                heapreplace(heap, entry)
                return
            heappush(heap, entry)
            if len(heap) > 2 * self._live:
                self._tidy()

    def remove(self, owner: Owner) -> None:
        """Take *owner* out, if it is in."""
        if owner.entry is not None:
            owner.entry = None
            self.lapse()

    def first(self) -> Owner | None:
        """Return whose key is the least."""
        heap = self._heap
        while heap:
            entry = heap[0]
            owner: Owner = entry[-1]
            if owner.entry is entry:
                return owner
            heappop(heap)
        return None

    def head(self) -> Owner | None:
        """Return whose key is the least; None: nobody's, or `clear_top` has to find out."""
        return self.first() if self.clear_top(CLEARED_IN_PASSING) else None

    @property
    def unclear(self) -> bool:
        """Tell whether `clear_top` has something to do."""
        heap = self._heap
        return bool(heap) and not _stands(heap[0])

    def pop(self) -> Owner:
        """Take out whose key is the least; there must be one."""
        owner = self.first()
        assert owner is not None, self
        heappop(self._heap)
        owner.entry = None
        self.lapse()
        return owner


def _stands(entry: tuple[Any, ...]) -> bool:
    return entry[-1].entry is entry
