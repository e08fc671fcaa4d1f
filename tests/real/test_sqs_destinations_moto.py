"""The tracker of destination records against the SQS of moto, a queue that nobody here wrote."""

import asyncio
import json
import logging
import re
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import boto3
import pytest
from moto.server import ThreadedMotoServer

from dispatcher.config import AccountSettings, EnvCredentials, StaticCredentials
from dispatcher.core.model import Completion, Provider, Verdict
from dispatcher.trackers.sqs_destinations import VISIBILITY_S, SqsDestinations
from tests.trackers.fake_fc import watched

pytestmark = pytest.mark.real_time

REGION = "eu-west-3"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class Queue:
    """A queue at moto, used with boto3 from threads."""

    def __init__(self, endpoint: str, name: str) -> None:
        self._sqs = boto3.client(
            "sqs",
            endpoint_url=endpoint,
            region_name=REGION,
            aws_access_key_id="AK",
            aws_secret_access_key="SK",
        )
        url = self._sqs.create_queue(QueueName=name)["QueueUrl"]
        # moto names its queues by a public host.
        self.url = endpoint + urllib.parse.urlsplit(url).path

    def send(self, *bodies: str) -> None:
        for start in range(0, len(bodies), 10):
            self._sqs.send_message_batch(
                QueueUrl=self.url,
                Entries=[
                    {"Id": str(i), "MessageBody": body}
                    for i, body in enumerate(bodies[start : start + 10])
                ],
            )

    def left(self) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        counts = self._sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)
        return sum(int(counts["Attributes"][name]) for name in names)

    def visible(self) -> int:
        name = "ApproximateNumberOfMessages"
        counts = self._sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=[name])
        return int(counts["Attributes"][name])

    def close(self) -> None:
        self._sqs.close()


@pytest.fixture
def queue(moto: str, request: pytest.FixtureRequest) -> Iterator[Queue]:
    made = Queue(moto, re.sub(r"\W", "-", request.node.name)[:80])
    yield made
    made.close()


def account(queue: Queue, **more: Any) -> AccountSettings:
    return AccountSettings(
        provider=Provider.AWS_LAMBDA,
        account_id="123456789012",
        region=REGION,
        quota=10,
        completion_queue=queue.url,
        **more,
    )


def record(request_id: str, **more: Any) -> str:
    return json.dumps(
        {
            "version": "1.0",
            "timestamp": "2026-11-23T18:16:05.568Z",
            "requestContext": {
                "requestId": request_id,
                "functionArn": "arn:aws:lambda:eu-west-3:123456789012:function:f:$LATEST",
                "condition": "Success",
                "approximateInvokeCount": 1,
            },
            "requestPayload": {},
            "responseContext": {"statusCode": 200, "executedVersion": "$LATEST"},
            "responsePayload": {"answer": 42},
        }
        | more
    )


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK")


@asynccontextmanager
async def running(tracker: SqsDestinations) -> AsyncIterator[list[Completion]]:
    told: list[Completion] = []

    def report(completion: Completion, done: Any) -> None:
        told.append(completion)
        asyncio.get_running_loop().call_soon(done)  # the journal has it

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tracker.run, report)
        yield told
        tasks.cancel_scope.cancel()


async def until(condition: Any, tracker: SqsDestinations) -> None:
    # Twice as long as a message stays hidden that was given and not deleted.
    with anyio.move_on_after(2 * VISIBILITY_S):
        while not condition():  # noqa: ASYNC110 -- it is a snapshot's, and has no event
            await anyio.sleep(0.02)
    assert condition(), tracker.snapshot()


@pytest.mark.parametrize("source", ["default", "env", "static"])
async def test_ends_are_learned_and_their_messages_deleted(
    queue: Queue, keys: None, tmp_path: Path, source: str
):
    secret = tmp_path / "secret"
    secret.write_text("SK\n")
    secret.chmod(0o600)
    credentials: dict[str, Any] = {
        "default": {},
        "env": {"credentials": EnvCredentials()},
        "static": {
            "credentials": StaticCredentials(access_key_id="AK", access_key_secret_file=str(secret))
        },
    }
    tracker = SqsDestinations(account(queue, **credentials[source]), name="a")
    runs = [watched(i, 0.0) for i in range(35)]
    for run in runs:
        tracker.watch(run)
    async with running(tracker) as told:
        await anyio.to_thread.run_sync(queue.send, *(record(run.request_id) for run in runs))
        # moto may give a message to two pollers at once, and that is deleted twice then.
        await until(lambda: tracker.snapshot().deleted >= len(runs), tracker)
    assert {end.id for end in told} == {run.id for run in runs}
    assert len(told) == len(runs)
    assert {end.verdict for end in told} == {Verdict.SUCCEEDED}
    assert {end.result for end in told} == {b'{"answer": 42}'}
    assert await anyio.to_thread.run_sync(queue.left) == 0
    assert tracker.snapshot().failures == 0


async def test_what_is_not_wanted_yet_is_given_back_at_the_end(queue: Queue, keys: None):
    tracker = SqsDestinations(account(queue), name="a")
    await anyio.to_thread.run_sync(queue.send, record("stranger"))
    async with running(tracker) as told:
        await until(lambda: tracker.snapshot().counts.received >= 1, tracker)
        assert await anyio.to_thread.run_sync(queue.visible) == 0
    assert told == []
    assert await anyio.to_thread.run_sync(queue.visible) == 1


async def test_a_queue_that_is_missing_is_tried_again(moto: str, keys: None, caplog: Any):
    queue = Queue(moto, "there")
    queue.url += "-not"
    tracker = SqsDestinations(account(queue), name="a", uniform=lambda: 0.0)
    tracker.watch(watched(1, 0.0))
    async with running(tracker) as told:
        await until(lambda: tracker.snapshot().failures >= 2, tracker)
        made = await anyio.to_thread.run_sync(Queue, moto, "there-not")
        await anyio.to_thread.run_sync(made.send, record(watched(1, 0.0).request_id))
        await until(lambda: told, tracker)
    assert "cannot receive from the completion queue" in caplog.text
    queue.close()
    made.close()
