from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dispatcher.config import ClientSettings, Settings
from dispatcher.core.canonical import ACS3, SIGV4
from dispatcher.core.model import Provider
from dispatcher.errors import ConfigError
from dispatcher.web.clients import Clients, Repeats, only_account
from dispatcher.web.signatures import FC, Claim, Fault, Head, Signer, Unproved
from tests.web.fakes import settings


def with_client(folder: Path, secret: str = "s3cret") -> Settings:
    file = folder / "secret"
    file.write_text(secret)
    client = ClientSettings(access_key_id="K", access_key_secret_file=str(file), account="cn")
    return replace(settings(), clients={"one": client})


async def test_keys_are_read_and_put_in_force_apart(tmp_path: Path):
    clients = Clients()
    config = with_client(tmp_path)
    known = await clients.read(config)
    assert {key: (client.name, secret) for key, (client, secret) in known.items()} == {
        "K": ("one", "s3cret")
    }
    assert clients.accounts == {}
    clients.take(config, known)
    assert clients.accounts == config.accounts


async def test_a_secret_that_cannot_be_read_is_named(tmp_path: Path):
    config = with_client(tmp_path)
    (tmp_path / "secret").unlink()
    with pytest.raises(ConfigError) as caught:
        await Clients.read(config)
    assert caught.value.problems[0][0] == "clients.one.access_key_secret_file"


class Asked:
    """As much of a request as is looked at."""

    def __init__(self, peer: Any) -> None:
        self.connection = self
        self.peer = peer


@pytest.mark.parametrize(
    ("peer", "let_in"),
    [
        (("127.0.0.1", 1), True),
        (("127.8.8.8", 1), True),
        (("::1", 1, 0, 0), True),
        (("::ffff:127.0.0.1", 1, 0, 0), True),
        ("", True),  # a Unix socket
        (("10.0.0.1", 1), False),
        (("::ffff:10.0.0.1", 1, 0, 0), False),
        (("fe80::1%eth0", 1, 0, 0), False),
    ],
)
def test_without_clients_only_this_machine_may_call(peer, let_in):
    asked: Any = Asked(peer)
    if let_in:
        anyone = Clients().anyone_of(asked)
        assert anyone is not None
        assert (anyone.account, anyone.tenant) == (None, "default")
    else:
        with pytest.raises(Unproved) as caught:
            Clients().anyone_of(asked)
        assert caught.value.fault is Fault.MISSING


async def test_with_clients_nobody_is_let_in_unverified(tmp_path: Path):
    clients = Clients()
    config = with_client(tmp_path)
    clients.take(config, await clients.read(config))
    asked: Any = Asked(("127.0.0.1", 1))
    assert clients.anyone_of(asked) is None


def test_a_key_that_is_taken_away_is_unknown():
    claimed = Claim(SIGV4, Signer("K"), "0")
    with pytest.raises(Unproved) as caught:
        Clients().prove(request(), claimed, b"")
    assert caught.value.fault is Fault.UNKNOWN_KEY


def request(**headers: str) -> Head:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Head("POST", "/", "", named)


NEAR, FAR = Asked(("127.0.0.1", 1)), Asked(("10.0.0.1", 1))


def is_repeat(
    clients: Clients,
    scheme: str,
    signature: str,
    asked: Asked = FAR,
    signed_at_s: float = 1000.0,
    **headers: str,
) -> bool:
    near: Any = asked
    try:
        claimed = Claim(scheme, Signer("K"), signature, signed_at_s=signed_at_s)
        clients.once(request(**headers), claimed, near)
    except Unproved as error:
        assert error.fault is Fault.REPEATED
        return True
    return False


def test_a_request_is_let_in_once():
    clients = Clients(clock=lambda: 1000.0)
    assert not is_repeat(clients, SIGV4, "a")
    assert is_repeat(clients, SIGV4, "a")
    assert not is_repeat(clients, ACS3, "b")
    assert is_repeat(clients, ACS3, "b")
    # Equal calls of one second that only an SDK's unsigned id tells apart.
    assert not is_repeat(clients, SIGV4, "a", amz_sdk_invocation_id="1")
    assert not is_repeat(clients, SIGV4, "a", amz_sdk_invocation_id="2")
    assert is_repeat(clients, SIGV4, "a", amz_sdk_invocation_id="2")
    # Two calls of one second look the same.
    assert not is_repeat(clients, FC, "c")
    assert not is_repeat(clients, FC, "c")


def test_equal_calls_of_one_second_are_let_in_from_this_machine():
    now_s = 1000.0
    clients = Clients(clock=lambda: now_s)
    assert not is_repeat(clients, SIGV4, "a", NEAR)
    assert not is_repeat(clients, SIGV4, "a", NEAR)
    now_s = 1001.9
    assert not is_repeat(clients, SIGV4, "a", NEAR)
    assert is_repeat(clients, SIGV4, "a", FAR)
    now_s = 1002.0
    assert is_repeat(clients, SIGV4, "a", NEAR)
    # What has an id of its own is no other call.
    now_s = 1000.0
    assert not is_repeat(clients, SIGV4, "a", NEAR, amz_sdk_invocation_id="1")
    assert is_repeat(clients, SIGV4, "a", NEAR, amz_sdk_invocation_id="1")
    assert not is_repeat(clients, ACS3, "b", NEAR)
    assert is_repeat(clients, ACS3, "b", NEAR)


def test_repeats_are_known_for_their_time_and_in_bounded_room():
    repeats = Repeats(3)
    assert repeats.is_new("a", 0, 10)
    assert not repeats.is_new("a", 9, 10)
    assert repeats.is_new("a", 10, 10)
    for name in "bcde":
        assert repeats.is_new(name, 11, 10)
        assert len(repeats) <= 3
    assert not repeats.is_new("e", 12, 10)
    assert repeats.is_new("f", 30, 10)
    assert len(repeats) == 1


def test_the_account_that_a_caller_without_a_key_means():
    accounts = settings().accounts
    assert only_account(accounts, Provider.ALIYUN_FC, "another", "anywhere") == "cn"
    assert only_account({}, Provider.ALIYUN_FC) is None
    more = {**accounts, "cn2": replace(accounts["cn"], account_id="2", region="cn-hangzhou")}
    assert only_account(more, Provider.ALIYUN_FC) is None
    assert only_account(more, Provider.ALIYUN_FC, "2") == "cn2"
    assert only_account(more, Provider.ALIYUN_FC, "", "cn-shanghai") == "cn"
    assert only_account(more, Provider.ALIYUN_FC, "3") is None
