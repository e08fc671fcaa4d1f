"""
The one timer that drives the cloud and the queues, and the futures of those who wait for them.

No task belongs to an invocation: what is due is carried out by a single timer of the loop.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable

import msgspec

from dispatcher.emulator.cloud import Answered, Cloud, Delivery
from dispatcher.emulator.invocation import Invocation
from dispatcher.emulator.queues import MESSAGE_BYTES_MAX, Message, Queue, QueueFull
from dispatcher.emulator.settings import Records, Settings

logger = logging.getLogger("dispatcher.emulator")


class RecordCounts(msgspec.Struct, kw_only=True):
    """What became of Lambda's destination records."""

    delivered: int = 0
    lost: int = 0
    doubled: int = 0
    delayed: int = 0
    undeliverable: int = 0
    """No such queue, or too large a record: CloudWatch's DestinationDeliveryFailures."""


class _Waiter(msgspec.Struct, eq=False):
    future: "asyncio.Future[list[Message]]"
    count: int
    visibility_s: float | None


class Driver:
    """Drives a cloud and its queues by the clock of the running loop."""

    def __init__(self, settings: Settings, wall: Callable[[], float]) -> None:
        self._loop = asyncio.get_running_loop()
        self.wall = wall
        # Random behaviour of an emulated cloud, not a secret.
        self.rng = random.Random(settings.seed)  # noqa: S311
        self.cloud = Cloud(settings, self.rng, epoch_s=wall() - self._loop.time())
        self.records: Records = settings.records
        self.record_counts = RecordCounts()
        self.queues: dict[tuple[str, str], Queue] = {}
        """By account id and name."""
        self._answers: dict[Invocation, asyncio.Future[None]] = {}
        self._waiters: dict[Queue, deque[_Waiter]] = {}
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0
        self._closed = False
        for account in settings.accounts.values():
            for name in account.queues:
                self.open_queue(account.account_id, name)
            for function in account.functions.values():
                for target in (function.on_success, function.on_failure):
                    if target is not None:
                        self._open_target(target, account.account_id)

    def now(self) -> float:
        """Return the time by which everything here goes."""
        return self._loop.time()

    def pump(self) -> None:
        """Carry out what is due, tell who waits, and set the timer. Call it after each change."""
        now = self._loop.time()
        for effect in self.cloud.due(now):
            if isinstance(effect, Answered):
                future = self._answers.pop(effect.invocation, None)
                if future is not None and not future.done():
                    future.set_result(None)
            else:
                self._deliver(effect, now)
        deadline = self.cloud.next_deadline()
        for queue, waiters in list(self._waiters.items()):
            self._serve(queue, waiters, now)
            shows_at = queue.next_deadline() if waiters else None
            if shows_at is not None and (deadline is None or shows_at < deadline):
                deadline = shows_at
            if not waiters:
                del self._waiters[queue]
        self._arm(deadline)

    def close(self) -> None:
        """Stop the timer; whoever still waits is cancelled."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for future in self._answers.values():
            future.cancel()
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.future.cancel()

    async def answered(self, invocation: Invocation) -> None:
        """Wait until a synchronous invocation has ended. Cancelled: its caller has hung up."""
        future = self._loop.create_future()
        self._answers[invocation] = future
        self.pump()
        try:
            await future
        except asyncio.CancelledError:
            self._answers.pop(invocation, None)
            self.cloud.abandon(invocation, self.now())
            self.pump()
            raise

    def reset_counts(self) -> None:
        """Begin to count anew, and forget the finished runs."""
        for account in self.cloud.accounts.values():
            account.forget_counts(self.now())
        self.cloud.runs.clear()
        self.record_counts = RecordCounts()

    def open_queue(self, account_id: str, name: str) -> Queue:
        """Return the queue, created if need be."""
        return self.queues.setdefault((account_id, name), Queue(name))

    def drop_queue(self, account_id: str, name: str) -> None:
        """Delete a queue with all its messages; those who wait for one get none."""
        queue = self.queues.pop((account_id, name), None)
        for waiter in self._waiters.pop(queue, ()) if queue is not None else ():
            if not waiter.future.done():
                waiter.future.set_result([])

    async def receive(
        self, queue: Queue, count: int, wait_s: float, visibility_s: float | None
    ) -> list[Message]:
        """Take messages, waiting for the first one for at most *wait_s*."""
        taken = queue.receive(self.now(), count, visibility_s)
        if taken or wait_s <= 0:
            return taken
        future: asyncio.Future[list[Message]] = self._loop.create_future()
        waiter = _Waiter(future, count, visibility_s)
        self._waiters.setdefault(queue, deque()).append(waiter)
        self.pump()
        try:
            async with asyncio.timeout(wait_s):
                return await future
        except TimeoutError:
            # Both may have come in the same turn of the loop.
            return future.result() if future.done() and not future.cancelled() else []
        finally:
            waiters = self._waiters.get(queue)
            if waiters is not None and waiter in waiters:
                waiters.remove(waiter)

    def _serve(self, queue: Queue, waiters: deque[_Waiter], now: float) -> None:
        while waiters and queue.has_visible(now):
            waiter = waiters.popleft()
            if not waiter.future.done():
                waiter.future.set_result(queue.receive(now, waiter.count, waiter.visibility_s))

    def _deliver(self, delivery: Delivery, now: float) -> None:
        counts, records = self.record_counts, self.records
        queue = self._target(delivery.arn)
        if queue is None or len(delivery.body) > MESSAGE_BYTES_MAX:
            counts.undeliverable += 1
            return
        if self._happens(records.lost):
            counts.lost += 1
            return
        doubled = self._happens(records.doubled)
        counts.doubled += doubled
        body = delivery.body.decode()
        for _ in range(1 + doubled):
            delayed = self._happens(records.delayed)
            counts.delayed += delayed
            try:
                queue.send(body, now, records.delay_s if delayed else None)
            except QueueFull:
                counts.undeliverable += 1
                logger.warning("queue %s is full: a destination record is dropped", queue.name)
                continue
            counts.delivered += 1

    def _target(self, arn: str) -> Queue | None:
        parts = arn.split(":")
        if len(parts) != 6 or parts[2] != "sqs":
            return None
        return self.queues.get((parts[4], parts[5]))

    def _open_target(self, target: str, account_id: str) -> None:
        parts = target.split(":")
        if len(parts) == 6 and parts[2] == "sqs":
            self.open_queue(parts[4], parts[5])
        elif len(parts) == 1:
            self.open_queue(account_id, target)

    def _arm(self, deadline: float | None) -> None:
        # A timer that fires too early costs one look; making a new one each time costs more.
        if self._closed or deadline is None:
            return
        if self._timer is not None and self._timer_at <= deadline:
            return
        if self._timer is not None:
            self._timer.cancel()
        # Its own `when` is not asked: uvloop gives another kind of handle for what is due.
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self.pump()

    def _happens(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability
