"""What is repeated and what is not, time-outs, and answers that are none of ours."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from dispatcher import errors
from dispatcher.client import Client, Unreachable, Unwilling
from dispatcher.client.connection import error_of
from dispatcher.core.model import Invocation, Query
from dispatcher.web import problems
from tests.web.fakes import FakeEngine
from tests.web.test_problems import WORDS
from tests.web.wires import serving

JOB = Invocation(account="cn", function="resize")
KEYED = replace(JOB, idempotency_key="k")


def answer(status: bytes, media: bytes, body: bytes, more: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: %b\r\n%bContent-Length: %d\r\n\r\n"
    return head % (status, media, more, len(body)) + body


ACCEPTED = b'{"id":"i000001","state":"waiting","duplicate":true}'
OK = answer(b"202 Accepted", b"application/json", ACCEPTED)


@asynccontextmanager
async def peer(*answers: bytes | None):
    """Answer each request with the next of *answers*; None: hang up without one."""
    requests: list[bytes] = []
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
                requests.append(head + await reader.readexactly(int(length or 0)))
                said = left.pop(0)
                if said is None:
                    return
                writer.write(said)
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}", requests
    finally:
        server.close()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# -- Repeats --------------------------------------------------------------------------------------


async def test_a_refused_connection_is_tried_again_whatever_the_request(monkeypatch):
    monkeypatch.setattr("dispatcher.client.connection.random.random", lambda: 1.0)
    engine = FakeEngine()
    port = free_port()
    async with Client(f"http://127.0.0.1:{port}") as client:
        ticket = client.enqueue(JOB)
        await asyncio.sleep(0.5)
        async with serving(engine, listen=f"127.0.0.1:{port}"):
            assert (await ticket.accepted()).id == "i000000"
    assert len(engine.invocations) == 1


async def test_a_sidecar_that_is_not_there_is_unreachable_after_a_moment():
    async with Client(f"http://127.0.0.1:{free_port()}") as client:
        for call in (client.enqueue(JOB), client.get("i1"), client.redrive("i1")):
            with pytest.raises(Unreachable) as caught:
                await call
            assert not caught.value.maybe_done
    assert 0 < asyncio.get_running_loop().time() < 5


async def test_an_answer_that_is_lost_is_asked_for_again_if_there_is_a_key():
    async with peer(None, None, OK) as (url, requests), Client(url) as client:
        assert (await client.enqueue(KEYED).accepted()).duplicate
    assert len(requests) == 3
    assert len(set(requests)) == 1


async def test_an_answer_that_is_lost_is_not_asked_for_again_without_a_key():
    async with peer(None, OK) as (url, requests), Client(url) as client:
        with pytest.raises(Unreachable) as caught:
            await client.enqueue(JOB)
        assert caught.value.maybe_done
    assert len(requests) == 1


async def test_many_are_asked_for_again_only_if_all_have_keys():
    lines = answer(b"200 OK", b"application/x-ndjson", ACCEPTED + b"\n" + ACCEPTED + b"\n")
    async with peer(None, lines) as (url, requests), Client(url) as client:
        first, second = await client.enqueue_many([KEYED, replace(KEYED, function="other")])
        assert not isinstance(first, Exception)
        assert not isinstance(second, Exception)
    assert len(requests) == 2
    async with peer(None, OK) as (url, requests), Client(url) as client:
        outcomes = await client.enqueue_many([KEYED, JOB])
        assert [type(one) for one in outcomes] == [Unreachable, Unreachable]
    assert len(requests) == 1


async def test_looking_is_repeated_but_redriving_and_cancelling_are_not():
    for call, times in (
        (lambda client: client.get("i1"), 4),
        (lambda client: client.page(Query()), 4),
        (lambda client: client.accounts(), 4),
        (lambda client: client.pause("cn"), 4),
        (lambda client: client.redrive("i1"), 1),
        (lambda client: client.redrive_dead(), 1),
        (lambda client: client.cancel("i1"), 1),
    ):
        async with peer(*[None] * 8) as (url, requests), Client(url) as client:
            with pytest.raises(Unreachable):
                await call(client)
        assert len(requests) == times


async def test_what_is_refused_is_not_repeated():
    full = answer(
        b"429 Too Many Requests",
        b"application/problem+json",
        b'{"type":"urn:dispatcher:problem:queue_full","title":"t","status":429,"detail":"d"}',
        b"Retry-After: 7\r\n",
    )
    async with peer(full, OK) as (url, requests), Client(url) as client:
        with pytest.raises(errors.QueueFull) as caught:
            await client.enqueue(KEYED)
        assert caught.value.retry_after_s == 7.0
    assert len(requests) == 1


# -- Time -----------------------------------------------------------------------------------------


async def test_an_answer_that_does_not_come_is_given_up():
    engine = FakeEngine()
    engine.journal_writes.clear()
    async with serving(engine) as site:
        url = f"http://{site.listener.addresses[0]}"
        async with Client(url, request_max_s=3) as client:
            begun = asyncio.get_running_loop().time()
            with pytest.raises(Unreachable) as caught:
                await client.enqueue(JOB)
            assert caught.value.maybe_done
            assert asyncio.get_running_loop().time() - begun == pytest.approx(3, abs=1.1)
        engine.journal_writes.set()


async def test_to_wait_for_a_turn_is_no_part_of_the_time_out():
    engine = FakeEngine()
    engine.journal_writes.clear()
    async with serving(engine) as site:
        url = f"http://{site.listener.addresses[0]}"
        async with Client(url, requests_max=1, request_max_s=4) as client:
            first, second = client.enqueue(JOB), client.enqueue(JOB)
            with pytest.raises(Unreachable):
                await first.accepted()
            asyncio.get_running_loop().call_later(2, engine.journal_writes.set)
            await second.accepted()


# -- Addresses and tokens -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8700", "ftp://localhost", "unix:relative", "http://", "http://h/?q", "unix:"],
)
def test_what_is_no_address_is_refused_at_once(url):
    with pytest.raises(ValueError, match="expected"):
        Client(url)


@pytest.mark.parametrize("token", ["", "to\nken", "to\0ken"])
def test_what_is_no_token_is_refused_at_once(token):
    with pytest.raises(ValueError, match="a token"):
        Client(token=token)


async def test_a_path_before_the_api_is_kept():
    async with peer(OK) as (url, requests), Client(f"{url}/sidecar/") as client:
        await client.enqueue(JOB)
    assert requests[0].startswith(b"POST /sidecar/v1/invocations HTTP/1.1\r\n")


async def test_over_a_unix_socket(socket_dir):
    engine = FakeEngine()
    listen = f"unix:{socket_dir}/s"
    async with serving(engine, listen=listen), Client(listen) as client:
        assert (await client.enqueue(JOB)).id == "i000000"


async def test_the_token_is_shown(tmp_path):
    (tmp_path / "tokens").write_text("secret-token\n")
    async with serving(token_file=str(tmp_path / "tokens")) as site:
        url = f"http://{site.listener.addresses[0]}"
        async with Client(url, "secret-token") as client:
            assert (await client.enqueue(JOB)).id == "i000000"
        for token in (None, "other"):
            async with Client(url, token) as client:
                with pytest.raises(Unwilling, match="bearer token") as caught:
                    await client.accounts()
                assert caught.value.status == 401


# -- Strange answers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "strange",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 599 Odd\r\nContent-Type: application/problem+json\r\nContent-Length: 1\r\n\r\n{",
    ],
)
async def test_an_answer_that_is_none_of_ours_is_said_to_be(strange):
    async with peer(strange) as (url, requests), Client(url) as client:
        with pytest.raises(Unwilling):
            await client.enqueue(JOB)
    assert len(requests) == 1
    async with peer(strange) as (url, _), Client(url) as client:
        [outcome] = await client.enqueue_many([JOB])
        assert isinstance(outcome, Unwilling)


async def test_garbage_is_unreachable():
    async with peer(b"garbage\r\n\r\n") as (url, _), Client(url) as client:
        with pytest.raises(Unreachable):
            await client.enqueue(JOB)


@pytest.mark.parametrize("kind", WORDS, ids=lambda kind: kind.__name__)
def test_every_problem_is_read_as_the_error_that_it_was_made_of(kind):
    made = problems.refuse(kind("why")).reply()
    assert isinstance(made.body, bytes)
    read = error_of(
        made.body, made.headers["Content-Type"], made.status, made.headers.get("Retry-After")
    )
    if kind is problems.Malformed:
        kind = errors.Invalid
    expected = errors.JournalError if issubclass(kind, errors.JournalError) else kind
    assert type(read) is expected
    assert str(read) == "why"
