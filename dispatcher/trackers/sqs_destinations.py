"""
Ends of Lambda's asynchronous invocations, read from the queue that destinations write to.

What the messages mean is decided in `sqs_inbox`; this module polls and deletes. One queue
belongs to one dispatcher: records that nobody here knows are deleted after a while, since a
queue in which they stay would soon give nothing else.
"""

import logging
import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import anyio
import msgspec
from anyio.abc import TaskGroup

from dispatcher.config import AccountSettings
from dispatcher.core.model import Watched
from dispatcher.ports import Report
from dispatcher.trackers.sqs_client import WAIT_S, Clients, Response, SqsClients
from dispatcher.trackers.sqs_inbox import Inbox, InboxCounts

logger = logging.getLogger(__name__)

BATCH: Final = 10
"""Messages in one call at most, by SQS' API."""
POLLERS_MAX: Final = 8
VISIBILITY_S: Final = 60
"""How long a message that was taken stays hidden; longer than the inbox keeps any. A message that
is in memory when the process dies is given again after this time."""

UNSETTLED_MAX: Final = 2000
"""Ends that wait for the journal before no more messages are taken."""

DELETE_LINGER_S: Final = 0.05
"""How long deletions wait for others to share a request."""
DELETES_MAX: Final = 4
DELETE_TRIES_MAX: Final = 3

PAUSE_BASE_S: Final = 0.5
PAUSE_MAX_S: Final = 30.0
FAREWELL_MAX_S: Final = 3.0

_REFUSALS: Final = ("AccessDenied", "Expired", "Invalid", "Unrecognized", "Signature", "Missing")


class InboxSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What was read so far, and what came of it."""

    counts: InboxCounts
    awaited: int
    pollers: int
    deleted: int
    failures: int


class SqsDestinations:
    """The tracker of the destination records of one account."""

    def __init__(
        self,
        account: AccountSettings,
        *,
        name: str,
        clients: Clients | None = None,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        """
        Read the account's `completion_queue`; *name* is the account's, for the log.

        Raises `ConfigError` if the extra `aws` is not installed.
        """
        assert account.completion_queue is not None, name
        self._queue = account.completion_queue
        self._name = name
        self._clients: Clients = clients or SqsClients(account, name=name)
        self._uniform = uniform
        self._inbox = Inbox()
        self._report: Report | None = None
        self._pollers = 0
        self._deleted = 0
        self._failures = 0
        self._failures_in_a_row = 0
        self._to_delete = anyio.Event()
        self._kept_changed = anyio.Event()
        self._room = anyio.Event()

    def watch(self, run: Watched) -> None:
        """Watch for the end of a run."""
        self._inbox.watch(run)
        self._tell()

    def forget(self, run_id: str) -> None:
        """Stop watching a run."""
        self._inbox.forget(run_id)

    def hurry(self, run_id: str) -> None:
        """Do nothing: Lambda stops no run, and records are read as they come."""

    def snapshot(self) -> InboxSnapshot:
        """Return what was read so far."""
        return InboxSnapshot(
            counts=msgspec.structs.replace(self._inbox.counts),
            awaited=self._inbox.awaited,
            pollers=self._pollers,
            deleted=self._deleted,
            failures=self._failures,
        )

    async def run(self, report: Report) -> None:
        """
        Watch until cancelled.

        Runs that an earlier process began must be watched before or soon after: a record that
        nobody knows is kept for less than a minute.
        """
        self._report = report
        try:
            async with anyio.create_task_group() as tasks:
                self._tell()
                tasks.start_soon(self._delete, name=f"deletes of {self._name}")
                tasks.start_soon(self._expire, name=f"unwanted records of {self._name}")
                self._start_poller(tasks, stays=True)
        finally:
            self._report = None
            with anyio.move_on_after(FAREWELL_MAX_S, shield=True):
                await self._farewell()
            with anyio.move_on_after(FAREWELL_MAX_S, shield=True):
                await self._clients.aclose()

    # -- Receiving

    def _start_poller(self, tasks: TaskGroup, *, stays: bool) -> None:
        self._pollers += 1
        tasks.start_soon(partial(self._poll, tasks, stays=stays), name=f"poller of {self._name}")

    async def _poll(self, tasks: TaskGroup, *, stays: bool) -> None:
        try:
            while True:
                while self._inbox.unsettled >= UNSETTLED_MAX:
                    self._room = anyio.Event()
                    await self._room.wait()
                messages = await self._receive()
                if messages is None:
                    if not stays:
                        return
                    await self._pause()
                    continue
                self._take(messages)
                if len(messages) == BATCH and self._pollers < POLLERS_MAX:
                    self._start_poller(tasks, stays=False)
                elif not messages and not stays:
                    return
        finally:
            self._pollers -= 1

    async def _receive(self) -> list[Response] | None:
        """Take messages; None: that failed."""
        sent_at = anyio.current_time()
        try:
            async with self._clients.lend() as client:
                response = await client.receive_message(
                    QueueUrl=self._queue,
                    MaxNumberOfMessages=BATCH,
                    WaitTimeSeconds=WAIT_S,
                    VisibilityTimeout=VISIBILITY_S,
                )
        except Exception as error:  # noqa: BLE001 -- see _failed
            self._failed("receive from", error)
            return None
        self._succeeded(response, sent_at)
        return list(response.get("Messages", ()))

    def _take(self, messages: list[Response]) -> None:
        now = anyio.current_time()
        for message in messages:
            self._inbox.deliver(message["Body"], message["ReceiptHandle"], now)
        self._kept_changed.set()
        self._tell()

    def _tell(self) -> None:
        """Report what is known, and let deletions begin."""
        inbox = self._inbox
        while self._report is not None and inbox.news:
            request_id, completion = inbox.news.popleft()
            self._report(completion, partial(self._settled, request_id))
        if inbox.deletable:
            self._to_delete.set()

    def _settled(self, request_id: str) -> None:
        """Go on once an end is in the journal."""
        self._inbox.settle(request_id)
        self._to_delete.set()
        self._room.set()

    async def _expire(self) -> None:
        while True:
            self._kept_changed = anyio.Event()
            deadline = self._inbox.next_deadline()
            with anyio.CancelScope(deadline=math.inf if deadline is None else deadline):
                await self._kept_changed.wait()
            self._inbox.expire(anyio.current_time())
            self._tell()

    # -- Deleting

    async def _delete(self) -> None:
        """Delete what is done with, for ever."""
        places = anyio.Semaphore(DELETES_MAX)
        async with anyio.create_task_group() as deletes:
            while True:
                await self._to_delete.wait()
                self._to_delete = anyio.Event()
                if len(self._inbox.deletable) < BATCH:
                    await anyio.sleep(DELETE_LINGER_S)
                while batch := self._next_batch():
                    await places.acquire()
                    deletes.start_soon(self._delete_and_release, batch, places)

    def _next_batch(self) -> list[str]:
        deletable = self._inbox.deletable
        return [deletable.popleft() for _ in range(min(BATCH, len(deletable)))]

    async def _delete_and_release(self, batch: list[str], places: anyio.Semaphore) -> None:
        try:
            await self._delete_batch(batch)
        finally:
            places.release()

    async def _delete_batch(self, batch: list[str]) -> None:
        for attempt in range(DELETE_TRIES_MAX):
            batch = await self._not_deleted(batch)
            if not batch:
                return
            if attempt < DELETE_TRIES_MAX - 1:
                await anyio.sleep(PAUSE_BASE_S * 2.0**attempt)
        # They come again, are known as repeats, and are deleted then.
        logger.warning(
            "messages_left: account %s: %d messages were not deleted", self._name, len(batch)
        )

    async def _not_deleted(self, batch: list[str]) -> list[str]:
        """Delete messages; return the receipts of those that were not."""
        entries = [{"Id": str(i), "ReceiptHandle": each} for i, each in enumerate(batch)]
        sent_at = anyio.current_time()
        try:
            async with self._clients.lend() as client:
                response = await client.delete_message_batch(QueueUrl=self._queue, Entries=entries)
        except Exception as error:  # noqa: BLE001 -- see _failed
            self._failed("delete from", error)
            return batch
        self._succeeded(response, sent_at)
        failed = [batch[int(each["Id"])] for each in response.get("Failed", ())
                  if not each.get("SenderFault")]  # fmt: skip
        self._deleted += len(batch) - len(response.get("Failed", ()))
        return failed

    async def _farewell(self) -> None:
        """Delete what is done with, and give back what is not."""
        while batch := self._next_batch():
            await self._not_deleted(batch)
        receipts = self._inbox.abandon()
        for start in range(0, len(receipts), BATCH):
            entries: list[dict[str, str | int]] = [
                {"Id": str(i), "ReceiptHandle": each, "VisibilityTimeout": 0}
                for i, each in enumerate(receipts[start : start + BATCH])
            ]
            try:
                async with self._clients.lend() as client:
                    await client.change_message_visibility_batch(
                        QueueUrl=self._queue, Entries=entries
                    )
            except Exception as error:  # noqa: BLE001 -- see _failed
                self._failed("give messages back to", error)
                return

    # -- Trouble

    def _succeeded(self, response: Response, sent_at: float) -> None:
        self._failures_in_a_row = 0
        headers: Any = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        self._inbox.clock.observe(headers.get("date"), sent_at, anyio.current_time())

    def _failed(self, what: str, error: Exception) -> None:
        """
        Take note of a call that failed.

        botocore, aiohttp and the sources of credentials raise what they like. None of it may
        end the watch: the queue keeps the records until it works again.
        """
        self._failures += 1
        self._failures_in_a_row += 1
        code = _code(error)
        if code.startswith(_REFUSALS):
            self._clients.refused()
        logger.warning(
            "queue_failed: account %s: cannot %s the completion queue (failure %d in a row): %s",
            self._name,
            what,
            self._failures_in_a_row,
            f"{type(error).__name__}: {error}"[:500],
        )

    async def _pause(self) -> None:
        pause_s = min(PAUSE_MAX_S, PAUSE_BASE_S * 2.0 ** min(self._failures_in_a_row - 1, 16))
        await anyio.sleep(pause_s * (0.5 + 0.5 * self._uniform()))


def _code(error: Exception) -> str:
    """Return the code of a botocore ClientError, an empty text of any other error."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
