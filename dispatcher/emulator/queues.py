"""SQS queues without their wire format: visibility time-outs, delays, receipts. Pure."""

import hashlib
import heapq
import math
from collections import deque
from typing import Final

import msgspec

MESSAGE_BYTES_MAX: Final = 1024 * 1024
"""SQS quotas: a message is at most 1 MiB."""
MESSAGES_MAX: Final = 1_000_000
VISIBILITY_S: Final = 30.0
RETENTION_S: Final = 345_600.0


class QueueFull(Exception):
    """The queue holds as many messages as it can."""


class Message:
    """One message. It is invisible until `visible_at`."""

    __slots__ = (
        "attributes",
        "body",
        "first_received_at",
        "id",
        "received",
        "sent_at",
        "visible_at",
    )

    def __init__(self, identity: str, body: str, now: float, attributes: object) -> None:
        self.id = identity
        self.body = body
        self.sent_at = now
        self.visible_at = now
        self.received = 0
        self.first_received_at: float | None = None
        self.attributes = attributes
        """MessageAttributes as they came, or None."""

    @property
    def receipt(self) -> str:
        """The receipt handle of the latest delivery."""
        return f"{self.id}/{self.received}"

    @property
    def md5(self) -> str:
        """The digest that SQS shows of a body."""
        return hashlib.md5(self.body.encode(), usedforsecurity=False).hexdigest()


class QueueCounts(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of a queue."""

    visible: int
    in_flight: int
    delayed: int
    sent: int
    received: int
    deleted: int


class Queue:
    """A standard queue: at least once, in roughly the order of sending."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.visibility_s = VISIBILITY_S
        self.wait_s = 0.0
        self.delay_s = 0.0
        self.retention_s = RETENTION_S
        self.attributes: dict[str, str] = {}
        self._messages: dict[str, Message] = {}
        self._visible: deque[Message] = deque()
        self._hidden: list[tuple[float, int, Message]] = []
        self._hidden_seq = 0
        self._sent = self._received = self._deleted = 0

    def __repr__(self) -> str:
        return f"<Queue {self.name} messages={len(self._messages)}>"

    def send(
        self, body: str, now: float, delay_s: float | None = None, attributes: object = None
    ) -> Message:
        """Put a message in. Raises `QueueFull`."""
        if len(self._messages) >= MESSAGES_MAX:
            raise QueueFull(self.name)
        self._sent += 1
        serial = f"{self._sent:032x}"
        identity = f"{serial[:8]}-{serial[8:12]}-4{serial[13:16]}-8{serial[17:20]}-{serial[20:]}"
        message = Message(identity, body, now, attributes)
        self._messages[identity] = message
        wait_s = self.delay_s if delay_s is None else delay_s
        if wait_s > 0:
            self._hide(message, now + wait_s)
        else:
            self._visible.append(message)
        return message

    def receive(self, now: float, count: int, visibility_s: float | None = None) -> list[Message]:
        """Take up to *count* messages, and hide them for the visibility time-out."""
        self._show(now)
        hidden_s = self.visibility_s if visibility_s is None else visibility_s
        taken: list[Message] = []
        while self._visible and len(taken) < count:
            message = self._visible.popleft()
            if self._messages.get(message.id) is not message:
                continue
            if message.sent_at + self.retention_s <= now:
                del self._messages[message.id]
                continue
            message.received += 1
            if message.first_received_at is None:
                message.first_received_at = now
            self._received += 1
            taken.append(message)
        # Only now: with a time-out of zero one receive must not return a message twice.
        for message in taken:
            self._hide(message, now + hidden_s)
        return taken

    def delete(self, receipt: str) -> bool:
        """Delete the message of a receipt; False: not a receipt of this queue."""
        identity, slash, received = receipt.rpartition("/")
        if not (slash and received.isdigit()):
            return False
        if self._messages.pop(identity, None) is not None:
            self._deleted += 1
        return True

    def hide(self, receipt: str, now: float, hidden_s: float) -> bool:
        """Set when a received message shows again; False: no such message is in flight."""
        message = self._messages.get(receipt.rpartition("/")[0])
        if message is None or message.receipt != receipt or message.visible_at <= now:
            return False
        self._hide(message, now + hidden_s)
        return True

    def purge(self) -> None:
        """Delete all messages."""
        self._deleted += len(self._messages)
        self._messages.clear()
        self._visible.clear()
        self._hidden.clear()

    def has_visible(self, now: float) -> bool:
        """Return whether a receive would return something."""
        self._show(now)
        while self._visible and self._messages.get(self._visible[0].id) is not self._visible[0]:
            self._visible.popleft()
        return bool(self._visible)

    def next_deadline(self) -> float | None:
        """Return when the next hidden message shows; None: none is hidden."""
        hidden = self._hidden
        while hidden and self._void(hidden[0][0], hidden[0][2]):
            heapq.heappop(hidden)
        return hidden[0][0] if hidden else None

    def counts(self, now: float) -> QueueCounts:
        """Return a snapshot."""
        self._show(now)
        hidden = [m for m in self._messages.values() if m.visible_at > now]
        in_flight = sum(1 for message in hidden if message.received)
        return QueueCounts(
            visible=len(self._messages) - len(hidden),
            in_flight=in_flight,
            delayed=len(hidden) - in_flight,
            sent=self._sent,
            received=self._received,
            deleted=self._deleted,
        )

    def _hide(self, message: Message, until: float) -> None:
        message.visible_at = until
        self._hidden_seq += 1
        heapq.heappush(self._hidden, (until, self._hidden_seq, message))

    def _show(self, now: float) -> None:
        hidden = self._hidden
        while hidden and hidden[0][0] <= now:
            until, _, message = heapq.heappop(hidden)
            if not self._void(until, message):
                # Another entry for the same moment must not show it a second time.
                message.visible_at = -math.inf
                self._visible.append(message)

    def _void(self, until: float, message: Message) -> bool:
        return self._messages.get(message.id) is not message or message.visible_at != until
