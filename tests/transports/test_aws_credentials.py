"""aiobotocore's chain, asked in threads, against a container's credentials endpoint."""

import asyncio
import datetime as dt
import json
import threading
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import pytest

from dispatcher.transports.aws_credentials import AwsChain, environment
from dispatcher.transports.credentials import CredentialsError, Keys
from tests.transports.keyrings import in_thread
from tests.transports.servers import Peer, Request, raw_server

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

pytestmark = pytest.mark.real_time  # the chain has loops of its own, in threads


def temporary(number: int, minutes: float) -> str:
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=minutes)
    return json.dumps(
        {
            "AccessKeyId": f"AK{number}",
            "SecretAccessKey": "secret",
            "Token": "token",
            "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    )


@pytest.mark.parametrize(("minutes", "again"), [(60, False), (5, True)])
async def test_temporary_keys_are_fetched_again_before_they_expire(
    monkeypatch, minutes: float, again: bool
):
    async def handle(request: Request, peer: Peer):
        await peer.reply("200 OK", temporary(len(server.requests), minutes))

    async with raw_server(handle) as server:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.url}/keys")
        chain = AwsChain()
        first = await chain.load(in_thread, renew=False)
        assert first == Keys(f"AK{len(server.requests)}", "secret", "token")
        second = await chain.load(in_thread, renew=False)
        assert (second != first) is again
        renewed = await chain.load(in_thread, renew=True)
        assert renewed not in (first, second)


async def test_lasting_keys_are_read_again_when_they_are_refused(monkeypatch, tmp_path):
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    chain = AwsChain()
    with pytest.raises(CredentialsError, match="no source of the AWS chain"):
        await chain.load(in_thread, renew=False)
    for number in (1, 2):
        file.write_text(
            f"[default]\naws_access_key_id = AK{number}\naws_secret_access_key = secret\n"
        )
        assert await chain.load(in_thread, renew=number > 1) == Keys(f"AK{number}", "secret")


async def test_nothing_runs_on_the_loop(monkeypatch):
    threads: list[threading.Thread] = []

    async def recording(function: Callable[[*Ts], T], *args: *Ts) -> T:
        def run() -> T:
            threads.append(threading.current_thread())
            return function(*args)

        return await asyncio.to_thread(run)

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert await AwsChain().load(recording, renew=False) == Keys("AK", "secret")
    assert len(threads) == 3  # import, choice, keys
    assert threading.main_thread() not in threads


async def test_the_environment_alone(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    assert await environment().load(in_thread, renew=False) == Keys("AK", "secret", "token")
