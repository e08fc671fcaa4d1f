"""What the engine asks of the outside world. Protocols, nothing else."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from dispatcher.core.effects import Effect
from dispatcher.core.job import Job
from dispatcher.core.model import (
    Call,
    CallType,
    Change,
    Completion,
    Duplicate,
    Entry,
    Lost,
    Notice,
    Outcome,
    Pause,
    Query,
    Record,
    Replied,
    Watched,
)
from dispatcher.core.rules import AccountRules
from dispatcher.errors import JournalError


class Sink(Protocol):
    """Takes the body of a reply while it comes."""

    def feed(self, part: bytes) -> bool:
        """Take some more of it; False: no further ones until there is room again."""
        ...

    def end(self, lost: Lost | None) -> None:
        """Take the end; *lost*: why it is not whole."""
        ...


Begin = Callable[[Replied, Callable[[], None]], Sink]
"""
Called with a good reply of which only the head is there yet, when its body turns out to be a large
one, and with what is to be called whenever there is room for more of it.
"""


class Transport(Protocol):
    """Sends to one account. Never raises for what the cloud or the network does."""

    def payload_max_bytes(self, call_type: CallType) -> int:
        """Return the largest payload that the provider takes."""
        ...

    async def send(self, call: Call, begin: Begin | None = None) -> Outcome:
        """
        Send once, without any retry but that after a refresh of the credentials.

        With *begin* the body of a large reply goes to the sink that it gives; the outcome comes
        when all of it has, with an empty payload. Cancelling it leaves the outcome unknown.
        """
        ...

    def reconfigure(self, account: AccountRules) -> None:
        """Take new limits of requests and times; what is in flight goes on."""
        ...

    async def stop(self, call: Call) -> bool:
        """
        Ask the cloud to stop a running asynchronous invocation; True: it will.

        False where the provider cannot (Lambda) or does not know the task.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections; sends in flight are lost."""
        ...


AcceptDone = Callable[[Sequence[Duplicate | None] | Exception], None]
"""Called once on the loop with a verdict for each entry, None for one that is now on disk."""

ChangeDone = Callable[[JournalError | None], None]


class Journal(Protocol):
    """
    Keeps accepted invocations.

    Changes reach the disk in the order in which they were given. The two writing methods
    return at once and never block; *done* is called on the event loop once what was given is
    durable, or with the error, and may be called before they return.
    """

    @property
    def on_disk(self) -> bool:
        """Tell whether payloads can be read back, so that memory need not hold them."""
        ...

    def accept(self, entries: Sequence[Entry], done: AcceptDone) -> None:
        """
        Keep new invocations, each unless its key is known already.

        *done* gets `DiskFull` when there is no room for new ones, `JournalError` when nothing
        can be kept any more.
        """
        ...

    def record(self, changes: Sequence[Change], done: ChangeDone | None = None) -> None:
        """
        Keep what became of invocations; a change of an unknown id is passed over.

        Without *changes*, *done* is called once everything given before is durable.
        """
        ...

    def pause(self, pause: Pause, done: ChangeDone | None = None) -> None:
        """Keep that an account or a function is paused, or that it is no more."""
        ...

    async def paused(self) -> list[Pause]:
        """Return what is paused, in the order of names."""
        ...

    def recover(self) -> AsyncIterator[list[tuple[Record, bytes | None]]]:
        """
        Give what has not ended, in slices, with payloads as far as memory allows.

        In the order of acceptance. Called once, before anything else is written.
        """
        ...

    async def get(self, invocation_id: str) -> Record | None:
        """Return what is kept of one invocation."""
        ...

    async def keyed(self, account: str, key: str) -> str | None:
        """Return the id of the invocation that was accepted with *key*, while it is known."""
        ...

    async def payload(self, invocation_id: str) -> bytes | None:
        """Return the payload, None once it is not needed any more."""
        ...

    async def find(
        self, query: Query, *, after: str | None = None, limit: int = 100
    ) -> tuple[list[Record], str | None]:
        """Return a page of invocations, newest first, and the cursor of the next page."""
        ...

    async def dead(self) -> dict[str, int]:
        """Count the dead invocations of each account."""
        ...

    def size_bytes(self) -> int:
        """Return how much room the journal takes."""
        ...

    def failed(self) -> JournalError | None:
        """Return the error after which nothing can be kept any more."""
        ...

    def accepting(self) -> bool:
        """Tell whether new invocations can be kept now."""
        ...

    async def aclose(self) -> None:
        """Write all that was given, then close."""
        ...


Tell = Callable[[Notice], None]
"""Takes the notice of an end for whoever asked to be told; never waits and never raises."""


class Tracer(Protocol):
    """
    Writes down how invocations spend their time. Never waits and never raises.

    The trace that an invocation belongs to is among its options, and so in the journal.
    """

    def accepting(self, record: Record, *, source: str) -> None:
        """Begin to accept; *record* is put into a trace. From any thread."""
        ...

    def accepted(self, invocation_id: str, verdict: Duplicate | Exception | None = None) -> None:
        """Note the journal's verdict: None is that it is on disk."""
        ...

    def observe(self, effects: Sequence[Effect], now: float) -> None:
        """Note what the machine decided at *now*, on the loop's clock."""
        ...

    def sending(self, job: Job, call: Call) -> Call:
        """Begin to send; return the call with what the function shall know of the trace."""
        ...

    def sent(self, job: Job, outcome: Outcome | None) -> None:
        """Note what came of the send; None: it was broken off."""
        ...


Report = Callable[[Completion, Callable[[], None] | None], None]
"""
Takes the news of an end. The second argument, if any, is called on the loop once the end is
in the journal; a source that can be asked again waits for it before it forgets.
"""


class Tracker(Protocol):
    """
    Finds out when functions of one account have ended.

    It may report an end twice, late, or never; it never waits for the engine.
    """

    def watch(self, run: Watched) -> None:
        """Watch for the end of a run."""
        ...

    def forget(self, run_id: str) -> None:
        """Stop watching an invocation that has ended; unknown ids are fine."""
        ...

    def hurry(self, run_id: str) -> None:
        """Expect the end soon: the cloud was asked to stop the run; unknown ids are fine."""
        ...

    async def run(self, report: Report) -> None:
        """Watch until cancelled."""
        ...
