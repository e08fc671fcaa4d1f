"""An account's transport opens with whatever keys its configuration names, or without any."""

import asyncio
import importlib
import sys
from contextlib import aclosing

import pytest

from dispatcher.config import (
    AccountSettings,
    Credentials,
    DefaultCredentials,
    EnvCredentials,
    StaticCredentials,
)
from dispatcher.core.model import Accepted, Call, CallType, Denied, Provider
from dispatcher.errors import ConfigError
from dispatcher.transports import FcTransport, LambdaTransport, open_transport
from tests.transports.servers import Peer, RawServer, Request, raw_server

BOTH = pytest.mark.parametrize("provider", list(Provider))
ENVIRONMENT = {
    Provider.AWS_LAMBDA: ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    Provider.ALIYUN_FC: ("ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"),
}
CALL = Call(function="f", qualifier=None, type=CallType.ASYNC, task_id="t", payload=b"{}")


def account(provider: Provider, credentials: Credentials, url: str) -> AccountSettings:
    return AccountSettings(
        provider=provider,
        account_id="1031",
        region="cn-shanghai",
        quota=1,
        endpoint=url,
        credentials=credentials,
    )


async def accept(request: Request, peer: Peer) -> None:
    await peer.reply("202 Accepted")


def key_ids(server: RawServer) -> list[str]:
    credentials = [
        request.headers["Authorization"].partition("Credential=") for request in server.requests
    ]
    return [text.partition(",")[0].partition("/")[0] for _, _, text in credentials]


@BOTH
async def test_a_provider_has_its_transport(provider: Provider):
    kind = {Provider.AWS_LAMBDA: LambdaTransport, Provider.ALIYUN_FC: FcTransport}[provider]
    settings = account(provider, EnvCredentials(), "http://127.0.0.1:9")
    async with aclosing(await open_transport(settings, name="a")) as transport:
        assert type(transport) is kind


@BOTH
async def test_keys_of_the_environment(provider: Provider, monkeypatch):
    for name in ENVIRONMENT[provider]:
        monkeypatch.setenv(name, "ENVKEY")
    async with raw_server(accept) as server:
        settings = account(provider, EnvCredentials(), server.url)
        async with aclosing(await open_transport(settings, name="a")) as transport:
            assert isinstance(await transport.send(CALL), Accepted)
        assert key_ids(server) == ["ENVKEY"]


@BOTH
async def test_keys_of_a_file(provider: Provider, tmp_path):
    (tmp_path / "secret").write_text("s\n")
    (tmp_path / "token").write_text("temporary\n")
    credentials = StaticCredentials(
        access_key_id="FILEKEY",
        access_key_secret_file=str(tmp_path / "secret"),
        security_token_file=str(tmp_path / "token"),
    )
    async with raw_server(accept) as server:
        settings = account(provider, credentials, server.url)
        async with aclosing(await open_transport(settings, name="a")) as transport:
            assert isinstance(await transport.send(CALL), Accepted)
        assert key_ids(server) == ["FILEKEY"]
        assert "temporary" in server.requests[0].headers.values()


@BOTH
@pytest.mark.real_time  # the chains are asked in threads
async def test_keys_of_the_providers_own_chain(provider: Provider, monkeypatch, tmp_path):
    if provider is Provider.AWS_LAMBDA:
        for name in ENVIRONMENT[provider]:
            monkeypatch.setenv(name, "CHAINKEY")
    else:
        # Alibaba's reads the environment once, when it is imported.
        auth_util = importlib.import_module("alibabacloud_credentials.utils.auth_util")
        file = tmp_path / "credentials.ini"
        file.write_text("[default]\ntype=access_key\naccess_key_id=CHAINKEY\naccess_key_secret=s\n")
        monkeypatch.setattr(auth_util, "environment_credentials_file", str(file))
    async with raw_server(accept) as server:
        settings = account(provider, DefaultCredentials(), server.url)
        async with aclosing(await open_transport(settings, name="a")) as transport:
            assert isinstance(await transport.send(CALL), Accepted)
        assert key_ids(server) == ["CHAINKEY"]


@BOTH
@pytest.mark.parametrize("source", [EnvCredentials(), DefaultCredentials()])
@pytest.mark.real_time
async def test_without_keys_it_opens_says_so_and_denies(provider: Provider, source, caplog):
    async with raw_server(accept) as server:
        settings = account(provider, source, server.url)
        async with aclosing(await open_transport(settings, name="cn-prod")) as transport:
            outcome = await transport.send(CALL)
        assert isinstance(outcome, Denied)
        assert outcome.failure.kind == "no_credentials"
        assert server.requests == []
    assert "account cn-prod: cannot get credentials" in caplog.text


@pytest.mark.parametrize(
    ("provider", "module", "extra"),
    [
        (Provider.AWS_LAMBDA, "aiobotocore.session", "aws"),
        (Provider.ALIYUN_FC, "alibabacloud_credentials.provider", "aliyun"),
    ],
)
async def test_a_missing_extra_is_named(provider: Provider, module: str, extra: str, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    settings = account(provider, DefaultCredentials(), "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=rf"accounts\.a\.credentials: .*'{extra}'"):
        await open_transport(settings, name="a")
    # Without the chains nothing of the extra is needed.
    monkeypatch.setenv(ENVIRONMENT[provider][0], "K")
    settings = account(provider, EnvCredentials(), "http://127.0.0.1:9")
    async with aclosing(await open_transport(settings, name="a")):
        pass


@BOTH
async def test_nothing_is_left_behind(provider: Provider):
    before = asyncio.all_tasks()
    async with raw_server(accept) as server:
        settings = account(provider, EnvCredentials(), server.url)
        transport = await open_transport(settings, name="a")
        await transport.send(CALL)
        await transport.aclose()
        await transport.aclose()
    assert {task for task in asyncio.all_tasks() - before if not task.done()} == set()


async def test_an_opening_that_is_cancelled_leaves_nothing(monkeypatch, tmp_path):
    before = asyncio.all_tasks()
    monkeypatch.setattr(
        "dispatcher.transports.credentials.EnvironmentSource.load",
        lambda *_, **__: asyncio.sleep(1000),
    )
    settings = account(Provider.AWS_LAMBDA, EnvCredentials(), "http://127.0.0.1:9")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await open_transport(settings, name="a")
    assert {task for task in asyncio.all_tasks() - before if not task.done()} == set()
