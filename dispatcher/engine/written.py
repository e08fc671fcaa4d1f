"""What goes on once the journal has written what was decided."""

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from dispatcher.core.effects import Finish, Launch
from dispatcher.errors import JournalError


class Written(Struct, frozen=True, gc=False):
    """
    Has *go_on* called with the launches and ends that waited, and the error if there was one.

    `gc` is off, and with tuples of effects, which have it off too, the collector soon looks at none of this:
    thousands may wait for one commit. It is a part of a cycle only while it waits.
    """

    go_on: Callable[[tuple[Launch, ...], tuple[Finish, ...], JournalError | None], Any]
    launches: tuple[Launch, ...]
    finishes: tuple[Finish, ...]

    def __call__(self, error: JournalError | None) -> None:
        """Go on."""
        self.go_on(self.launches, self.finishes, error)
