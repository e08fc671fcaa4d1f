"""Keys are fresh without anybody waiting; a refusal renews them once for all who were refused."""

import asyncio
import itertools
import logging
from contextlib import aclosing, asynccontextmanager

import anyio
import pytest

from dispatcher.config import StaticCredentials
from dispatcher.core.model import Accepted, Denied, Failure
from dispatcher.transports import credentials
from dispatcher.transports.credentials import (
    CredentialsError,
    EnvironmentSource,
    InThread,
    Keyring,
    Keys,
    StaticSource,
    harmless,
)

OLD, NEW = Keys("OLD", "old-secret", "old-token"), Keys("NEW", "new-secret")
DENIED = Denied(Failure("denied", "no"))


class Scripted:
    """Gives what the script says, the last line again and again; an exception is raised."""

    def __init__(self, *script: Keys | Exception, takes_s: float = 0.0) -> None:
        self.script = list(script)
        self.takes_s = takes_s
        self.asked: list[tuple[float, bool]] = []

    async def load(self, in_thread: InThread, *, renew: bool) -> Keys:
        self.asked.append((anyio.current_time(), renew))
        await anyio.sleep(self.takes_s)
        line = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(line, Exception):
            raise line
        return line

    @property
    def renewals(self) -> int:
        return sum(renew for _, renew in self.asked)


@asynccontextmanager
async def opened(source):
    async with aclosing(Keyring(source, name="test")) as keyring:
        await keyring.open()
        yield keyring


class Cloud:
    """Accepts only one key."""

    def __init__(self, good: Keys, takes_s: float = 0.03) -> None:
        self.good = good
        self.takes_s = takes_s
        self.seen: list[str] = []

    async def __call__(self, keys: Keys) -> Accepted | Denied:
        self.seen.append(keys.access_key_id)
        await anyio.sleep(self.takes_s)
        return Accepted("r") if keys == self.good else DENIED


# -- In the background ----------------------------------------------------------------------------


async def test_sends_use_what_was_read_last():
    source = Scripted(OLD, NEW)
    async with opened(source) as keyring:
        assert await keyring.signed(Cloud(OLD)) == Accepted("r")
        await anyio.sleep(credentials.POLL_S)
        cloud = Cloud(NEW)
        assert await keyring.signed(cloud) == Accepted("r")
        assert cloud.seen == ["NEW"]
    assert source.renewals == 0


async def test_no_send_waits_for_a_refresh():
    async with opened(Scripted(OLD)) as keyring:
        keyring._source.takes_s = 30.0
        await anyio.sleep(credentials.POLL_S + 1)  # and now one is under way
        before = anyio.current_time()
        assert await keyring.signed(Cloud(OLD, takes_s=0)) == Accepted("r")
        assert anyio.current_time() == before


async def test_a_refresh_that_fails_leaves_the_keys(caplog):
    source = Scripted(OLD, OSError("metadata service gone"))
    async with opened(source) as keyring:
        await anyio.sleep(10 * credentials.POLL_S)
        assert await keyring.signed(Cloud(OLD)) == Accepted("r")
    assert "metadata service gone" in caplog.text
    pauses = [later - sooner for (sooner, _), (later, _) in itertools.pairwise(source.asked)]
    assert pauses[:6] == [60, 5, 10, 20, 40, 60]


async def test_an_account_without_keys_is_denied_and_sends_nothing(caplog):
    caplog.set_level(logging.INFO)
    source = Scripted(CredentialsError("none at all"), NEW)
    async with opened(source) as keyring:
        cloud = Cloud(NEW)
        outcome = await keyring.signed(cloud)
        assert isinstance(outcome, Denied)
        assert outcome.failure.kind == "no_credentials"
        assert "none at all" in outcome.failure.message
        assert cloud.seen == []
        await anyio.sleep(credentials.PAUSE_BASE_S + 1)  # it gets them later
        assert await keyring.signed(cloud) == Accepted("r")
    assert "account test: credentials of key NEW" in caplog.text
    assert NEW.access_key_secret not in caplog.text


async def test_opening_does_not_wait_for_ever():
    async with opened(Scripted(NEW, takes_s=40.0)) as keyring:
        assert anyio.current_time() == credentials.FIRST_LOAD_MAX_S
        assert isinstance(await keyring.signed(Cloud(NEW)), Denied)
        await anyio.sleep(31)
        assert await keyring.signed(Cloud(NEW)) == Accepted("r")


async def test_a_source_that_hangs_is_given_up():
    source = Scripted(NEW, takes_s=10_000.0)
    async with opened(source):
        await anyio.sleep(300)
    assert len(source.asked) >= 3


# -- After a refusal ------------------------------------------------------------------------------


async def test_a_refusal_renews_once_for_all_and_each_is_sent_once_more():
    source = Scripted(OLD, NEW, takes_s=1.0)
    cloud = Cloud(NEW)
    outcomes = []
    async with opened(source) as keyring:

        async def send():
            outcomes.append(await keyring.signed(cloud))

        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(send)
                # Some are refused during the renewal, some when it is over already.
                await anyio.sleep(0.0 if number < 25 else 0.01)
                cloud.takes_s += 0.05
    assert outcomes == [Accepted("r")] * 50
    assert source.renewals == 1
    assert max(cloud.seen.count("OLD"), cloud.seen.count("NEW")) <= 50


async def test_when_renewing_changes_nothing_each_is_denied_after_one_more_try():
    source = Scripted(OLD)
    cloud = Cloud(NEW)
    async with opened(source) as keyring:
        assert await keyring.signed(cloud) == DENIED
        assert cloud.seen == ["OLD", "OLD"]
        # Soon after there is nothing new to hope for, so that no request is wasted.
        assert await keyring.signed(cloud) == DENIED
        assert cloud.seen == ["OLD"] * 3
        assert source.renewals == 1


async def test_fruitless_renewals_become_rarer():
    source = Scripted(OLD)
    async with opened(source) as keyring:
        for _ in range(1200):
            await keyring.signed(Cloud(NEW, takes_s=0.0))
            await anyio.sleep(1)
    times = [at for at, renew in source.asked if renew]
    pauses = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert pauses == [30, 60, 120, 240, 300, 300]


async def test_a_renewal_that_fails_denies():
    source = Scripted(OLD, OSError("gone"))
    cloud = Cloud(NEW)
    async with opened(source) as keyring:
        assert await keyring.signed(cloud) == DENIED
    assert cloud.seen == ["OLD"]


async def test_a_renewal_that_takes_too_long_denies():
    source = Scripted(OLD)
    async with opened(source) as keyring:
        source.takes_s = 45.0
        before = anyio.current_time()
        assert await keyring.signed(Cloud(NEW, takes_s=0)) == DENIED
        assert anyio.current_time() - before == credentials.RENEWAL_MAX_S


async def test_a_renewal_that_is_asked_for_during_a_refresh_still_happens():
    source = Scripted(OLD, OLD, NEW)
    async with opened(source) as keyring:
        source.takes_s = 2.0
        await anyio.sleep(credentials.POLL_S + 1)  # in the middle of a refresh
        assert await keyring.signed(Cloud(NEW)) == Accepted("r")
        assert source.renewals == 1


async def test_who_is_cancelled_while_waiting_takes_nobody_along():
    source = Scripted(OLD, NEW)
    async with opened(source) as keyring:
        source.takes_s = 5.0
        outcomes = []

        async def send():
            outcomes.append(await keyring.signed(Cloud(NEW)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            with anyio.move_on_after(1):
                await send()
        assert outcomes == [Accepted("r")]


async def test_closing_lets_go_who_waits_and_leaves_no_task():
    source = Scripted(OLD)
    keyring = Keyring(source, name="test")
    await keyring.open()
    source.takes_s = 8.0
    async with anyio.create_task_group() as tasks:
        outcomes = []

        async def send():
            outcomes.append(await keyring.signed(Cloud(NEW, takes_s=0)))

        tasks.start_soon(send)
        await anyio.sleep(1)
        await keyring.aclose()
    assert outcomes == [DENIED]
    assert anyio.current_time() < credentials.RENEWAL_MAX_S
    assert not [task for task in asyncio.all_tasks() if "credentials" in task.get_name()]
    await keyring.aclose()  # once more is harmless


# -- Where keys come from -------------------------------------------------------------------------


async def test_files_are_read_again(tmp_path):
    secret, token = tmp_path / "secret", tmp_path / "token"
    secret.write_text("one\n")
    token.write_text("old")
    source = StaticSource(
        StaticCredentials(
            access_key_id="AK",
            access_key_secret_file=str(secret),
            security_token_file=str(token),
        )
    )
    async with opened(source) as keyring:
        assert await keyring.signed(Cloud(Keys("AK", "one", "old"))) == Accepted("r")
        secret.write_text("two")
        token.write_text("t\n")
        assert await keyring.signed(Cloud(Keys("AK", "two", "t"))) == Accepted("r")


async def test_a_file_that_is_gone_is_named(tmp_path, caplog):
    missing = str(tmp_path / "token")
    source = StaticSource(StaticCredentials(access_key_id="AK", access_key_secret_file=missing))
    async with opened(source) as keyring:
        outcome = await keyring.signed(Cloud(NEW))
    assert isinstance(outcome, Denied)
    assert missing in outcome.failure.message
    assert "No such file" in caplog.text


async def test_the_environment(monkeypatch):
    source = EnvironmentSource("TEST_ID", "TEST_SECRET", ("TEST_TOKEN", "TEST_OLD_TOKEN"))
    monkeypatch.setenv("TEST_ID", "AK")
    async with opened(source) as keyring:
        outcome = await keyring.signed(Cloud(NEW))
        assert isinstance(outcome, Denied)
        assert "TEST_SECRET is not set" in outcome.failure.message
        monkeypatch.setenv("TEST_SECRET", "s")
        monkeypatch.setenv("TEST_OLD_TOKEN", "t")
        await anyio.sleep(credentials.PAUSE_BASE_S + 1)
        assert await keyring.signed(Cloud(Keys("AK", "s", "t"))) == Accepted("r")


@pytest.mark.parametrize(
    "keys", [Keys("", "s"), Keys("AK", ""), Keys("AK", "s", "a\nb"), Keys("AK", "\u4e2d", None)]
)
async def test_keys_that_no_header_bears_are_not_used(keys: Keys, caplog):
    async with opened(Scripted(keys)) as keyring:
        assert isinstance(await keyring.signed(Cloud(keys)), Denied)
    assert "no printable ASCII" in caplog.text


# -- Secrets --------------------------------------------------------------------------------------


def test_keys_do_not_show_their_secrets():
    assert repr(OLD) == str(OLD) == f"{OLD}" == "Keys('OLD')"
    assert "secret" not in f"{[OLD]} {(OLD,)}"


async def test_what_a_cloud_quotes_of_the_keys_is_taken_out():
    quoted = Denied(Failure("denied", f"x-acs-security-token:{OLD.security_token} is not right"))

    async def attempt(_: Keys) -> Denied:
        return quoted

    async with opened(Scripted(OLD)) as keyring:
        outcome = await keyring.signed(attempt)
    assert isinstance(outcome, Denied)
    assert outcome.failure.message == "x-acs-security-token:*** is not right"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("plain words", "plain words"),
        ("first line\n\nThe Canonical String: secret", "first line"),
        ('{"AccessKeyId": "AK", "AccessKeySecret": "xyz"}', '{"AccessKeyId": "AK", "AccessKeySecret": "***"}'),
        ("{'SecurityToken': 'xyz', 'a': 1}", "{'SecurityToken': '***', 'a': 1}"),
        ("GET /?SecurityToken=xyz&a=b", "GET /?SecurityToken=***&a=b"),
        ("cannot read /run/secrets/token: gone", "cannot read /run/secrets/token: gone"),
        ("x" * 1000, "x" * 500),
    ],
)  # fmt: skip
def test_messages_are_made_harmless(text: str, left: str):
    assert harmless(text) == left
