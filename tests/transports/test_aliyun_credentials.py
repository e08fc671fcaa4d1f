"""The chain of alibabacloud-credentials, asked in a thread."""

import datetime as dt
import json
import logging

import pytest
from alibabacloud_credentials import provider
from alibabacloud_credentials.provider import ecs_ram_role
from alibabacloud_credentials.utils import auth_util

from dispatcher.transports.aliyun_credentials import AliyunChain, chain, environment
from dispatcher.transports.credentials import CredentialsError, Keys
from tests.transports.keyrings import in_thread
from tests.transports.servers import Peer, Request, raw_server

pytestmark = pytest.mark.real_time  # the chain is asked in threads


class Scheduler:
    """Stands in for the thread that the SDK would start and never end."""

    started = 0

    def add_job(self, *_, **__): ...

    def shutdown(self, *_, **__): ...

    def start(self):
        Scheduler.started += 1


@pytest.fixture
def everything(monkeypatch, tmp_path):
    """An environment in which the SDK tries all its providers."""
    monkeypatch.setattr(ecs_ram_role, "BackgroundScheduler", Scheduler)
    monkeypatch.setattr(Scheduler, "started", 0)
    monkeypatch.setattr(auth_util, "enable_oidc_credential", True)
    for name in ("oidc_provider_arn", "role_arn"):
        monkeypatch.setattr(auth_util, f"environment_{name}", "acs:ram::1:x/y")
    monkeypatch.setattr(auth_util, "environment_oidc_token_file", str(tmp_path / "token"))
    monkeypatch.setattr(auth_util, "environment_ecs_metadata_disabled", "false")
    monkeypatch.setattr(auth_util, "environment_credentials_uri", "http://127.0.0.1:9/")


@pytest.mark.parametrize("all_of_them", [True, False])
def test_it_asks_whom_the_sdk_asks_in_its_order(request, all_of_them: bool):
    if all_of_them:
        request.getfixturevalue("everything")
    ours = [type(source) for source in chain()]
    assert Scheduler.started == 0
    default = provider.DefaultCredentialsProvider()
    theirs = [type(source) for source in default._DefaultCredentialsProvider__providers_chain]
    assert ours == theirs
    assert len(ours) == (6 if all_of_them else 3)


@pytest.mark.parametrize(("minutes", "asked"), [(60, 1), (5, 2)])
async def test_temporary_keys_are_fetched_again_before_they_expire(monkeypatch, minutes, asked):
    async def handle(request: Request, peer: Peer):
        expires = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=minutes)
        await peer.reply(
            "200 OK",
            json.dumps(
                {
                    "Code": "Success",
                    "AccessKeyId": f"AK{len(server.requests)}",
                    "AccessKeySecret": "secret",
                    "SecurityToken": "token",
                    "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
                }
            ),
        )

    async with raw_server(handle) as server:
        monkeypatch.setattr(auth_util, "environment_credentials_uri", f"{server.url}/keys")
        source = AliyunChain()
        assert await source.load(in_thread, renew=False) == Keys("AK1", "secret", "token")
        assert (await source.load(in_thread, renew=False)).access_key_id == f"AK{asked}"
        renewed = await source.load(in_thread, renew=True)
        assert renewed.access_key_id == f"AK{asked + 1}"


async def test_lasting_keys_are_read_again_when_they_are_refused(monkeypatch, tmp_path):
    file = tmp_path / "credentials.ini"
    monkeypatch.setattr(auth_util, "environment_credentials_file", str(file))
    source = AliyunChain()
    for number in (1, 2):
        file.write_text(
            "[default]\ntype = access_key\n"
            f"access_key_id = AK{number}\naccess_key_secret = secret\n"
        )
        assert await source.load(in_thread, renew=number > 1) == Keys(f"AK{number}", "secret")


async def test_a_profile_of_temporary_keys_is_not_made_again(monkeypatch):
    made = []

    class FakeProfileCredentialsProvider:
        def __init__(self):
            made.append(self)

        def get_credentials(self):
            return provider.StaticSTSCredentialsProvider(
                access_key_id="AK", access_key_secret="secret", security_token="token"
            ).get_credentials()

    monkeypatch.setattr(provider, "ProfileCredentialsProvider", FakeProfileCredentialsProvider)
    source = AliyunChain()
    for renew in (False, True, True):
        assert (await source.load(in_thread, renew=renew)).access_key_id == "AK"
    assert len(made) == 1


async def test_without_any_each_says_why():
    with pytest.raises(CredentialsError, match=r"EnvironmentVariable.*CLIProfile.*Profile"):
        await AliyunChain().load(in_thread, renew=False)
    assert logging.getLogger("credentials").handlers == []  # nothing goes past our log


async def test_the_environment_alone(monkeypatch):
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "secret")
    monkeypatch.setenv("ALIBABA_CLOUD_SECURITY_TOKEN", "token")
    assert await environment().load(in_thread, renew=False) == Keys("AK", "secret", "token")
