"""An SQS queue in memory, on the loop's clock, and the records that Lambda writes to one."""

# ruff: noqa: N803 -- the names of arguments are those of SQS

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any

import anyio

from tests.trackers.fake_fc import EPOCH

RESULT = {"answer": 42}


def record(
    request_id: str,
    condition: str = "Success",
    *,
    at: float | None = None,
    count: int = 1,
    **more: Any,
) -> str:
    """Write a destination record; *at* is the time of the end on the loop's clock."""
    body = {
        "version": "1.0",
        "timestamp": None,
        "requestContext": {
            "requestId": request_id,
            "functionArn": "arn:aws:lambda:eu-west-3:123456789012:function:f:$LATEST",
            "condition": condition,
            "approximateInvokeCount": count,
        },
        "requestPayload": {"a": 1},
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST"},
        "responsePayload": RESULT,
    }
    if at is not None:
        moment = datetime.fromtimestamp(at + EPOCH, UTC)
        body["timestamp"] = f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
    return json.dumps(body | more)


class Message:
    def __init__(self, body: str) -> None:
        self.body = body
        self.visible_at = anyio.current_time()
        self.deliveries = 0


class FakeSqs:
    """The calls of an SQS client, and the `Clients` that lends it."""

    def __init__(self, latency_s: float = 0.01) -> None:
        self.latency_s = latency_s
        self.messages: dict[str, Message] = {}
        self.sent = 0
        self.receives = 0
        self.receiving = 0
        self.receiving_max = 0
        self.delete_sizes: list[int] = []
        self.errors: list[Exception] = []
        self.delete_errors: list[Exception] = []
        self.undeletable = 0
        self.undeletable_by_fault_of_the_sender = False
        self.refusals = 0
        self.closed = False
        self._arrived = anyio.Event()

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self.sent += 1
            self.messages[str(self.sent)] = Message(body)
        self._arrived.set()
        self._arrived = anyio.Event()

    # -- The client

    async def receive_message(
        self,
        *,
        QueueUrl: str,
        MaxNumberOfMessages: int,
        WaitTimeSeconds: int,
        VisibilityTimeout: int,
    ) -> Mapping[str, Any]:
        assert MaxNumberOfMessages <= 10
        assert WaitTimeSeconds <= 20
        self.receives += 1
        self.receiving += 1
        self.receiving_max = max(self.receiving_max, self.receiving)
        try:
            await anyio.sleep(self.latency_s)
            if self.errors:
                raise self.errors.pop(0)
            with anyio.move_on_after(WaitTimeSeconds):
                while not (found := self._visible()):
                    arrived = self._arrived
                    shows = [each.visible_at for each in self.messages.values()]
                    with anyio.CancelScope(deadline=min(shows, default=float("inf"))):
                        await arrived.wait()
            found = self._visible()[:MaxNumberOfMessages]
        finally:
            self.receiving -= 1
        for number in found:
            self.messages[number].visible_at = anyio.current_time() + VisibilityTimeout
            self.messages[number].deliveries += 1
        messages = [
            {
                "Body": self.messages[number].body,
                "ReceiptHandle": f"{number}/{self.messages[number].deliveries}",
            }
            for number in found
        ]
        return self._response({"Messages": messages} if messages else {})

    async def delete_message_batch(
        self, *, QueueUrl: str, Entries: Sequence[Mapping[str, str]]
    ) -> Mapping[str, Any]:
        assert 1 <= len(Entries) <= 10
        assert len({entry["Id"] for entry in Entries}) == len(Entries)
        await anyio.sleep(self.latency_s)
        if self.delete_errors:
            raise self.delete_errors.pop(0)
        self.delete_sizes.append(len(Entries))
        failed = []
        for entry in Entries:
            if self.undeletable:
                self.undeletable -= 1
                fault = self.undeletable_by_fault_of_the_sender
                failed.append({"Id": entry["Id"], "SenderFault": fault, "Code": "Whatever"})
            else:
                self.messages.pop(entry["ReceiptHandle"].partition("/")[0], None)
        return self._response({"Failed": failed} if failed else {})

    async def change_message_visibility_batch(
        self, *, QueueUrl: str, Entries: Sequence[Mapping[str, str | int]]
    ) -> Mapping[str, Any]:
        assert 1 <= len(Entries) <= 10
        await anyio.sleep(self.latency_s)
        for entry in Entries:
            message = self.messages.get(str(entry["ReceiptHandle"]).partition("/")[0])
            if message is not None:
                message.visible_at = anyio.current_time() + int(entry["VisibilityTimeout"])
        self._arrived.set()
        self._arrived = anyio.Event()
        return self._response({})

    def _visible(self) -> list[str]:
        now = anyio.current_time()
        return [number for number, each in self.messages.items() if each.visible_at <= now]

    def _response(self, body: dict[str, Any]) -> Mapping[str, Any]:
        date = formatdate(int(anyio.current_time() + EPOCH), usegmt=True)
        return body | {"ResponseMetadata": {"HTTPHeaders": {"date": date}}}

    # -- Clients

    @asynccontextmanager
    async def lend(self) -> AsyncIterator["FakeSqs"]:
        assert not self.closed
        yield self

    def refused(self) -> None:
        self.refusals += 1

    async def aclose(self) -> None:
        self.closed = True
