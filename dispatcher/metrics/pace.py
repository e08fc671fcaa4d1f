"""Computing in a thread without taking the interpreter from the event loop."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

# Left alone, a thread that computes gives the interpreter back only every 5 ms, and gets it again
# at the event loop's next system call. 100 samples take about half a millisecond.
_ITEMS = 100
_PAUSE_S = 0.0002


def paced(items: Iterable[T]) -> Iterator[T]:
    """Yield *items*, stepping aside for other threads between them. Never on an event loop."""
    for number, item in enumerate(items, start=1):
        yield item
        if number % _ITEMS == 0:
            time.sleep(_PAUSE_S)
