"""An accepted invocation, as the machine keeps it."""

import math
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from dispatcher.core.gates import Slot
from dispatcher.core.model import CallType, GateKind, State

if TYPE_CHECKING:
    from dispatcher.core.lanes import Lane


class Job(Struct, eq=False, kw_only=True, gc=False):
    """
    An invocation that has been accepted and has not ended.

    One lives for each waiting invocation, a million perhaps, hence the bare fields. `gc` is
    off, so that a large backlog costs no pauses; its only cycles (lane, entry, expiry) are
    undone when it ends.
    """

    id: str
    seq: int  #: order of acceptance
    lane: "Lane"
    payload: bytes | None  #: None: still in the journal
    type: CallType
    accepted_at: float
    due_at: float
    priority: float = 0.0
    expires_at: float = math.inf  #: not sent later than this
    state: State = State.WAITING
    attempt: int = 1
    failures: int = 0  #: failed sends in a row
    wakes_at: float = -math.inf  #: while `waits_for` is set: not before this
    waits_for: GateKind | None = None  #: DELAY or RETRY
    slot: Slot | None = None
    maybe_sent: bool = False  #: the cloud may have this attempt, although it waits
    first_sent_at: float | None = None  #: of this attempt
    sent_at: float | None = None
    request_id: str | None = None
    chosen_task_id: str | None = None
    options: dict[str, str] | None = None
    callback_url: str | None = None
    stopping: bool = False  #: to be stopped in the cloud as soon as that can be
    owner: object = None  #: the engine's own note
    once: bool = False  #: somebody waits for the reply: whatever comes of its run is the end
    entry: tuple[Any, ...] | None = None  #: its place in its lane, or among those not due
    expiry: tuple[float, int, "Job"] | None = None  #: its place among those that will expire

    @property
    def rank(self) -> float:
        """Return its place in its tenant's queue: less goes first."""
        # The same number, not an equal one: a million of them are 24 MB.
        return self.due_at - self.priority if self.priority else self.due_at

    @property
    def task_id(self) -> str:
        """Return the id under which the cloud knows this attempt."""
        if self.attempt == 1:
            return self.chosen_task_id or self.id
        return f"{self.id}_{self.attempt}"

    def next_attempt(self) -> None:
        """Begin anew after a run that failed; what has run does not expire any more."""
        self.attempt += 1
        self.failures = 0
        self.expires_at = math.inf
        self.maybe_sent = False
        self.first_sent_at = self.sent_at = self.request_id = None
