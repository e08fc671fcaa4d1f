"""
What the machine wants done, to be carried out in this order before it is asked again.

`gc` is off: nothing refers to an effect, and 100 000 that end at once stopped the loop to be looked at.
"""

from typing import TypedDict

from msgspec import Struct

from dispatcher.core.gates import Slot
from dispatcher.core.job import Job
from dispatcher.core.model import Failure, Replied, State


class Launch(Struct, frozen=True, gc=False):
    """Send it: first note in the journal that it is being sent, then begin."""

    job: Job
    slot: Slot


class Watch(Struct, frozen=True, gc=False):
    """The cloud took it: note that, and find out when it ends."""

    job: Job


class Return(Struct, frozen=True, gc=False):
    """It waits again: note that."""

    job: Job
    failure: Failure | None
    maybe_sent: bool
    """The cloud may have this attempt: after a crash it is not simply waiting."""


class Stop(Struct, frozen=True, gc=False):
    """Ask the cloud to stop it, also where it is finished in the same breath."""

    job: Job


class Finish(Struct, frozen=True, kw_only=True, gc=False):
    """It ended: note that and tell whoever waits for it."""

    job: Job
    state: State
    result: bytes | None = None
    failure: Failure | None = None
    estimated: bool = False
    start_delay_s: float | None = None
    reply: Replied | None = None
    forced: bool = False
    """Its slot was taken away, and the function may still run: keep listening."""


class Known(TypedDict, total=False):
    """What may be known of an end: the fields of `Finish`."""

    result: bytes | None
    failure: Failure | None
    estimated: bool
    start_delay_s: float | None
    reply: Replied | None
    forced: bool


class Warn(Struct, frozen=True):
    """Somebody should look at this."""

    event: str
    account: str
    failure: Failure


Effect = Launch | Watch | Return | Stop | Finish | Warn
