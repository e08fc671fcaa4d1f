"""Calls back: what is sent, to whom, and above all to whom not."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from dispatcher.config import CallbackSettings
from dispatcher.core.model import Failure, Notice, State
from dispatcher.notices import BODY_MAX_BYTES, Notices, PublicOnly, Refused, is_public, written
from tests.certificates import certificate

pytestmark = pytest.mark.real_time  # names are looked up in threads

KEY = "k3y"


def notice(url: str = "https://hooks.example/x", **fields: Any) -> Notice:
    plain: dict[str, Any] = {
        "url": url,
        "id": "i1",
        "state": State.SUCCEEDED,
        "account": "main",
        "function": "f",
        "qualifier": None,
        "tenant": "default",
        "attempt": 2,
        "ended_ms": 1_700_000_000_123,
        "request_id": "r1",
    }
    return Notice(**(plain | fields))


# -- Addresses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1",
        "169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16", "198.18.0.1", "224.0.0.1", "240.0.0.1",
        "255.255.255.255", "192.0.2.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1",
        "fd00:ec2::254", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
        "::ffff:8.8.8.8%1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "2002:7f00:1::", "2001::1",
        "::127.0.0.1", "", "localhost", "2130706433", "0x7f.1", "127.1",
    ],
)  # fmt: skip
def test_what_is_not_public_is_not_called(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "47.100.1.2", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_what_is_public_may_be(address):
    assert is_public(address)


def answers(monkeypatch: pytest.MonkeyPatch, *rounds: list[str]) -> list[str]:
    """Have look-ups answer with these addresses, round by round; return what was looked up."""
    asked: list[str] = []

    async def getaddrinfo(_loop: Any, host: str, port: int, **_: Any) -> list[Any]:
        found = rounds[min(len(asked), len(rounds) - 1)]
        asked.append(host)
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (address, port),
            )
            for address in found
        ]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["10.0.0.1", "8.8.8.8"], ["::1"], []]
)
async def test_one_address_that_is_not_public_refuses_the_name(monkeypatch, addresses):
    answers(monkeypatch, addresses)
    with pytest.raises(Refused):
        await PublicOnly().resolve("hooks.example", 443)


async def test_the_addresses_that_were_judged_are_those_that_are_used(monkeypatch):
    answers(monkeypatch, ["8.8.8.8", "2606:4700::1111"])
    found = await PublicOnly().resolve("hooks.example", 443)
    assert [each["host"] for each in found] == ["8.8.8.8", "2606:4700::1111"]
    assert all(each["flags"] & socket.AI_NUMERICHOST for each in found)


# -- A receiver ------------------------------------------------------------------------------------


class Receiver:
    """Takes requests, and answers each with the next of *answers*, the last one for ever."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[bytes] = [b"HTTP/1.1 204 No Content\r\n\r\n"]
        self.port = 0
        self.tls: ssl.SSLContext | bool = True

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            body = await reader.readexactly(int(headers["Content-Length"]))
            self.requests.append((head[0], headers, body))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if answer == b"hang":
                await asyncio.sleep(60)
            writer.write(answer)
            await writer.drain()
        writer.close()


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    made = Receiver()
    server_tls, made.tls = certificate("hooks.example", tmp_path)
    server = await asyncio.start_server(made.take, "127.0.0.1", 0, ssl=server_tls)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


@contextlib.asynccontextmanager
async def notices(
    receiver: Receiver, folder: Path, *, pauses_s: tuple[float, ...] = (0.01, 0.01), **more: Any
) -> AsyncIterator[Notices]:
    (folder / "secret").write_text(f"{KEY}\n")
    settings = CallbackSettings(hosts=("hooks.example",), secret_file=str(folder / "secret"))
    more = {"allowed": lambda address: address == "127.0.0.1", "tls": receiver.tls} | more
    made = Notices(lambda: settings, pauses_s=pauses_s, wall_s=lambda: 1_700_000_001.9, **more)
    async with anyio.create_task_group() as tasks:
        await tasks.start(made.run)
        yield made
        tasks.cancel_scope.cancel()


async def result_of(made: Notices) -> str:
    """Return what came of the one notice."""
    with anyio.fail_after(60):
        while not made.counts:  # noqa: ASYNC110 -- nobody tells
            await anyio.sleep(0.005)
    (((_, result), count),) = made.counts.items()
    assert count == 1
    return result


async def test_the_receiver_can_tell_who_sends_what_and_when(receiver, tmp_path, monkeypatch):
    answers(monkeypatch, ["127.0.0.1"])
    async with notices(receiver, tmp_path) as made:
        made.tell(
            notice(f"https://hooks.example:{receiver.port}/x?y=z", result=b'{"a": [1, null]}')
        )
        assert await result_of(made) == "ok"
    ((line, headers, body),) = receiver.requests
    assert line == "POST /x?y=z HTTP/1.1"
    assert headers["Host"] == f"hooks.example:{receiver.port}"
    signature = hmac.new(
        KEY.encode(), headers["Dispatcher-Timestamp"].encode() + b"." + body, hashlib.sha256
    )
    assert headers["Dispatcher-Signature"] == "v1=" + signature.hexdigest()
    assert headers["Dispatcher-Timestamp"] == "1700000001"
    assert headers["Dispatcher-Delivery"] == "i1.2.succeeded"
    assert json.loads(body) == {
        "id": "i1",
        "state": "succeeded",
        "account": "main",
        "function": "f",
        "qualifier": None,
        "tenant": "default",
        "attempts": 2,
        "ended_at": "2023-11-14T22:13:20.123Z",
        "request_id": "r1",
        "estimated": False,
        "result": {"a": [1, None]},
    }


@pytest.mark.parametrize(
    "location", ["https://hooks.example/again", "http://169.254.169.254/latest", "/again"]
)
async def test_redirects_are_not_followed(receiver, tmp_path, monkeypatch, location):
    answers(monkeypatch, ["127.0.0.1"])
    receiver.answers = [f"HTTP/1.1 307 X\r\nLocation: {location}\r\n\r\n".encode()]
    async with notices(receiver, tmp_path) as made:
        made.tell(notice(f"https://hooks.example:{receiver.port}/"))
        assert await result_of(made) == "refused"
    assert len(receiver.requests) == 1


async def test_a_name_that_moves_to_a_private_address_between_tries_is_not_called(
    receiver, tmp_path, monkeypatch
):
    asked = answers(monkeypatch, ["127.0.0.1"], ["10.0.0.1"])
    receiver.answers = [b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n"]
    async with notices(receiver, tmp_path) as made:
        made.tell(notice(f"https://hooks.example:{receiver.port}/"))
        assert await result_of(made) == "refused"
    assert asked == ["hooks.example"] * 2, "each try looks once, and connects to what it saw"
    assert len(receiver.requests) == 1


async def test_a_name_that_is_private_is_not_called_even_if_it_is_listed(
    receiver, tmp_path, monkeypatch
):
    answers(monkeypatch, ["127.0.0.1"])
    async with notices(receiver, tmp_path, allowed=is_public) as made:
        made.tell(notice(f"https://hooks.example:{receiver.port}/"))
        assert await result_of(made) == "refused"
    assert receiver.requests == []


async def test_an_address_in_the_url_is_judged_too(receiver, tmp_path):
    (tmp_path / "secret").write_text(KEY)
    settings = CallbackSettings(hosts=("127.0.0.1",), secret_file=str(tmp_path / "secret"))
    made = Notices(lambda: settings, tls=False)
    async with anyio.create_task_group() as tasks:
        await tasks.start(made.run)
        made.tell(notice(f"https://127.0.0.1:{receiver.port}/"))
        assert await result_of(made) == "refused"
        tasks.cancel_scope.cancel()
    assert receiver.requests == []


async def test_a_host_that_is_no_longer_listed_is_not_called(receiver, tmp_path):
    async with notices(receiver, tmp_path) as made:
        made.tell(notice(f"https://other.example:{receiver.port}/"))
        assert await result_of(made) == "refused"


async def test_the_certificate_must_be_that_of_the_name(receiver, tmp_path, monkeypatch):
    answers(monkeypatch, ["127.0.0.1"])
    async with notices(receiver, tmp_path, tls=True, pauses_s=(0.01,)) as made:
        made.tell(notice(f"https://hooks.example:{receiver.port}/"))
        assert await result_of(made) == "failed"
    assert receiver.requests == []


@pytest.mark.parametrize(
    ("status", "result", "requests"),
    [
        (200, "ok", 1),
        (500, "failed", 3),
        (429, "failed", 3),
        (400, "refused", 1),
        (410, "refused", 1),
    ],
)
async def test_what_may_pass_is_tried_again_so_often_and_no_more(
    receiver, tmp_path, monkeypatch, status, result, requests
):
    answers(monkeypatch, ["127.0.0.1"])
    receiver.answers = [f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode()]
    async with notices(receiver, tmp_path) as made:
        made.tell(notice(f"https://hooks.example:{receiver.port}/"))
        assert await result_of(made) == result
    assert len(receiver.requests) == requests
    assert len({headers["Dispatcher-Delivery"] for _, headers, _ in receiver.requests}) == 1


async def test_who_never_answers_or_never_stops_costs_a_bounded_time(
    receiver, tmp_path, monkeypatch
):
    answers(monkeypatch, ["127.0.0.1"])
    monkeypatch.setattr("dispatcher.notices.TRY_MAX_S", 0.2)
    receiver.answers = [b"hang", b"HTTP/1.1 200 X\r\n" + b"A: b\r\n" * 100_000, b"no HTTP at all"]
    async with notices(receiver, tmp_path) as made:
        made.tell(notice(f"https://hooks.example:{receiver.port}/"))
        assert await result_of(made) == "failed"
    assert len(receiver.requests) == 3


async def test_more_than_can_be_kept_are_dropped_and_counted(receiver, tmp_path, monkeypatch):
    monkeypatch.setattr("dispatcher.notices.PENDING_MAX", 2)
    answers(monkeypatch, ["127.0.0.1"])
    async with notices(receiver, tmp_path) as made:
        for _ in range(5):
            made.tell(notice(f"https://hooks.example:{receiver.port}/"))
        await made.first_tries()
        assert len(receiver.requests) == 2
        assert made.counts["main", "dropped"] == 3
    made.tell(notice())
    assert made.counts["main", "dropped"] == 4, "after the end nothing is begun"


def test_a_result_is_told_as_it_is_unless_it_is_too_large():
    assert json.loads(written(notice(result=b"\xff")))["result_base64"] == "/w=="
    assert "result" not in json.loads(written(notice()))
    large = written(notice(result=b'"' + b"x" * BODY_MAX_BYTES + b'"'))
    assert len(large) < 1000
    assert json.loads(large)["result_omitted"] is True
    failed = json.loads(written(notice(state=State.DEAD, failure=Failure("k", "why", "R", 500))))
    assert failed["error"] == {"kind": "k", "message": "why", "reason": "R", "status": 500}
