"""The client against a server that shows what was sent; see tests/real for queues that work."""

import importlib.util
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from dispatcher.config import AccountSettings, DefaultCredentials, EnvCredentials, StaticCredentials
from dispatcher.core.model import Provider
from dispatcher.errors import ConfigError, DispatcherError
from dispatcher.trackers import sqs_client
from dispatcher.trackers.sqs_client import SqsClients

pytestmark = pytest.mark.real_time


class Server:
    """Answers every request like an empty queue, after *answered* is set."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self._came = anyio.Event()
        self.answered = anyio.Event()
        self.answered.set()
        self.url = ""

    async def serve(self, request: web.BaseRequest) -> web.Response:
        self.requests.append(request.headers)
        self._came.set()
        await self.answered.wait()
        return web.Response(body=b"{}", content_type="application/x-amz-json-1.0")

    async def got(self, count: int) -> None:
        while len(self.requests) < count:
            self._came = anyio.Event()
            await self._came.wait()

    def keys(self) -> list[str]:
        """Return the access keys that requests were signed with."""
        return [
            headers["Authorization"].partition("Credential=")[2].split("/")[0]
            for headers in self.requests
        ]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    runner = web.ServerRunner(web.Server(made.serve), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = "http://{}:{}".format(*runner.addresses[0][:2])
    yield made
    await runner.cleanup()


def account(server: Server, credentials: Any) -> AccountSettings:
    return AccountSettings(
        provider=Provider.AWS_LAMBDA,
        account_id="123456789012",
        region="eu-west-3",
        quota=10,
        completion_queue=f"{server.url}/123456789012/ends",
        credentials=credentials,
    )


def static(path: Path) -> Callable[..., StaticCredentials]:
    def write(key: str, token: str | None = None) -> StaticCredentials:
        (path / "secret").write_text(f"secret of {key}\n")
        if token is not None:
            (path / "token").write_text(token)
        return StaticCredentials(
            access_key_id=key,
            access_key_secret_file=str(path / "secret"),
            security_token_file=None if token is None else str(path / "token"),
        )

    return write


async def receive(clients: SqsClients) -> Any:
    async with clients.lend() as client:
        return await client.receive_message(
            QueueUrl="http://somewhere.else/123456789012/ends",
            MaxNumberOfMessages=10,
            WaitTimeSeconds=20,
            VisibilityTimeout=60,
        )


async def test_the_queues_own_host_is_called_signed_for_the_accounts_region(
    server: Server, tmp_path: Path
):
    clients = SqsClients(account(server, static(tmp_path)("AK", "token 1")), name="a")
    assert "Messages" not in await receive(clients)
    await clients.aclose()
    (headers,) = server.requests
    assert headers["Host"] == server.url.removeprefix("http://")
    assert "/eu-west-3/sqs/aws4_request" in headers["Authorization"]
    assert headers["X-Amz-Target"] == "AmazonSQS.ReceiveMessage"
    assert headers["X-Amz-Security-Token"] == "token 1"


async def test_keys_of_the_environment_are_taken_as_they_are_now(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    clients = SqsClients(account(server, EnvCredentials()), name="a")
    with pytest.raises(DispatcherError, match="AWS_ACCESS_KEY_ID is not set"):
        await receive(clients)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK1")
    with pytest.raises(DispatcherError, match="AWS_SECRET_ACCESS_KEY is not set"):
        await receive(clients)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK1")
    await receive(clients)
    await clients.aclose()
    assert server.keys() == ["AK1"]


async def test_a_chain_without_any_source_says_so(server: Server):
    clients = SqsClients(account(server, DefaultCredentials()), name="a")
    with pytest.raises(DispatcherError, match="no source of the AWS chain"):
        await receive(clients)
    await clients.aclose()


async def test_changed_keys_are_used_from_the_next_call_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK1")
    clients = SqsClients(account(server, EnvCredentials()), name="a")
    await receive(clients)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK2")
    await receive(clients)
    monkeypatch.setattr(sqs_client, "KEYS_ASKED_EVERY_S", 0.0)
    await receive(clients)
    await clients.aclose()
    assert server.keys() == ["AK1", "AK1", "AK2"]


async def test_a_refusal_makes_it_ask_for_keys_but_not_all_the_time(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sqs_client, "KEYS_RENEWED_EVERY_S", 3600.0)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK1")
    clients = SqsClients(account(server, EnvCredentials()), name="a")
    await receive(clients)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK2")
    clients.refused()
    await receive(clients)
    monkeypatch.setattr(sqs_client, "KEYS_RENEWED_EVERY_S", 0.0)
    clients.refused()
    await receive(clients)
    await clients.aclose()
    assert server.keys() == ["AK1", "AK1", "AK2"]


async def test_a_client_that_is_used_is_closed_only_afterwards(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK1")
    monkeypatch.setattr(sqs_client, "KEYS_ASKED_EVERY_S", 0.0)
    clients = SqsClients(account(server, EnvCredentials()), name="a")
    server.answered = anyio.Event()
    answers: list[Any] = []

    async def poll() -> None:
        answers.append(await receive(clients))

    async with anyio.create_task_group() as polls:
        polls.start_soon(poll)
        await server.got(1)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK2")
        polls.start_soon(poll)
        await server.got(2)
        server.answered.set()
    await clients.aclose()
    assert len(answers) == 2
    assert server.keys() == ["AK1", "AK2"]


async def test_without_aiobotocore_the_extra_is_named(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'accounts\.a\.completion_queue: needs the extra "aws"'):
        SqsClients(account(server, EnvCredentials()), name="a")


def test_keys_do_not_show_their_secrets():
    assert "SECRET" not in repr(sqs_client._Keys("AK", "SECRET", "SECRET"))
