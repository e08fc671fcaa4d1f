"""What a peer that stalls, floods or says nothing can do: nothing to the others."""

import asyncio
import logging

import pytest
from aiohttp import http_parser
from msgspec.structs import replace

from dispatcher.web import guard
from tests.web.fakes import FakeEngine
from tests.web.test_api import ENDED
from tests.web.wires import GET, serving

POST = (
    b"POST /v1/invocations HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)
JOB = b'{"account":"cn","function":"resize"}'


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_connection_that_says_nothing_is_closed():
    async with serving(head_max_s=2) as site:
        wire = await site.wire()
        assert await wire.closed() == b""
        assert now() == 2


@pytest.mark.parametrize("pieces", [[GET[:20]], [GET[i : i + 1] for i in range(len(GET) - 1)]])
async def test_half_a_head_is_closed_however_it_trickles(pieces):
    async with serving(head_max_s=2) as site:
        wire = await site.wire()
        begun = now()
        for piece in pieces:
            wire.say(piece)
            await asyncio.sleep(1.9 / len(pieces))
        assert await wire.closed() == b""
        assert now() - begun == pytest.approx(2)


async def test_half_a_second_head_is_closed_as_well():
    async with serving(head_max_s=2, idle_max_s=60) as site:
        wire = await site.wire()
        assert await wire.status_of(GET) == 200
        await asyncio.sleep(30)
        begun = now()
        wire.say(GET[:-1])
        assert await wire.closed() == b""
        assert now() - begun == pytest.approx(2)


async def test_a_head_in_pieces_is_served_if_it_comes_in_time():
    async with serving(head_max_s=2) as site:
        wire = await site.wire()
        for piece in (GET[:9], GET[9:30]):
            wire.say(piece)
            await asyncio.sleep(0.9)
        assert await wire.status_of(GET[30:]) == 200
        await asyncio.sleep(5)
        assert await wire.status_of(GET) == 200


async def test_an_idle_connection_is_closed_after_its_time():
    async with serving(head_max_s=2, idle_max_s=60) as site:
        wire = await site.wire()
        assert await wire.status_of(GET) == 200
        await asyncio.sleep(59)
        assert await wire.status_of(GET) == 200
        begun = now()
        assert await wire.closed() == b""
        assert now() - begun == pytest.approx(60)


async def test_a_body_that_stalls_is_408_and_closed():
    engine = FakeEngine()
    async with serving(engine, body_grace_s=3) as site:
        wire = await site.wire()
        wire.say(POST % len(JOB) + JOB[:10])
        status, headers, body = await wire.answer()
        assert status == 408
        assert now() == pytest.approx(3, abs=0.01)
        assert b"10 bytes" in body
        assert headers["connection"] == "close"
        await wire.closed()
        assert now() <= 3 + 2 + 0.01  # what it still sends is read that long, and thrown away
    assert not engine.invocations


async def test_a_body_that_trickles_is_408_but_one_that_flows_is_not():
    async with serving(body_grace_s=3, body_min_per_s=1000) as site:
        slow, fast = await site.wire(), await site.wire()
        padding = b" " * (10_000 - len(JOB))
        slow.say(POST % 10_000)
        fast.say(POST % 10_000)
        fast.say(padding[:4000])
        for _ in range(5):
            slow.say(b" ")
            await asyncio.sleep(1)
        fast.say(padding[4000:] + JOB)
        assert (await slow.answer())[0] == 408
        assert (await fast.answer())[0] == 202


async def test_a_peer_that_reads_slowly_but_reads_gets_all_of_its_answer():
    async with serving(BigEngine(), stall_max_s=30) as site:
        wire = await site.wire(receives=16_384)
        wire.say(GET_BIG)
        read = 0
        while read < BIG:
            await asyncio.sleep(1)
            read += len(await wire.reader.read(200_000))
            assert not wire.reader.at_eof()
        assert now() > 80


async def test_a_peer_that_does_not_read_its_answer_is_closed():
    async with serving(BigEngine(), stall_max_s=5) as site:
        wire = await site.wire(receives=16_384)
        wire.say(GET_BIG)
        await asyncio.sleep(11)
        assert len(await wire.closed()) < BIG


BIG = 12_000_000
GET_BIG = b"GET /v1/invocations/big HTTP/1.1\r\nHost: localhost\r\n\r\n"


class BigEngine(FakeEngine):
    async def get(self, invocation_id):
        self.put(replace(ENDED, id="big", result=b'"%b"' % (b"x" * BIG)))
        return await super().get(invocation_id)


# -- Many connections -----------------------------------------------------------------------------


async def test_beyond_the_cap_the_idle_give_way_and_the_honest_are_served():
    async with serving(connections_max=8, head_max_s=60) as site:
        honest = await site.wire()
        assert await honest.status_of(GET) == 200
        attackers = []
        for i in range(40):
            attackers.append(await site.wire())
            attackers[-1].say(GET[: i % 5])
            await asyncio.sleep(0.01)
            assert await honest.status_of(GET) == 200
        late = await site.wire()
        assert await late.status_of(GET) == 200
        gone = [wire for wire in attackers if wire.reader.at_eof() or wire.reader.exception()]
        assert len(gone) >= 40 - 8


async def test_stalled_bodies_give_way_too():
    async with serving(connections_max=4, body_grace_s=60) as site:
        for _ in range(12):
            (await site.wire()).say(POST % 100 + b"{")
            await asyncio.sleep(0.01)
        late = await site.wire()
        assert await late.status_of(GET) == 200


async def test_requests_in_the_works_do_not_give_way():
    engine = FakeEngine()
    engine.journal_writes.clear()
    async with serving(engine, connections_max=2) as site:
        working = [await site.wire() for _ in range(2)]
        for wire in working:
            wire.say(POST % len(JOB) + JOB)
        await asyncio.sleep(1)
        assert await (await site.wire()).closed() == b""
        engine.journal_writes.set()
        for wire in working:
            assert (await wire.answer())[0] == 202


async def test_large_bodies_are_bounded_all_together_and_let_go():
    engine = FakeEngine()
    size = 200_000
    body = JOB + b" " * (size - len(JOB))
    async with serving(engine, bodies_max_bytes=500_000, body_grace_s=60) as site:
        wires = [await site.wire() for _ in range(3)]
        for wire in wires:
            wire.say(POST % size + body[:-1])
            await asyncio.sleep(0.1)
        status, headers, _ = await wires[2].answer()
        assert (status, headers["retry-after"]) == (503, "1")
        small = await site.wire()
        assert await small.status_of(POST % len(JOB) + JOB) == 202
        for wire in wires[:2]:
            assert await wire.status_of(body[-1:]) == 202
        again = await site.wire()
        assert await again.status_of(POST % size + body) == 202


# -- Smuggling, garbage, and what is said and logged about it -------------------------------------

HEAD = b"POST /v1/invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GARBAGE = {
    "no http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length and chunks": HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a signed length": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "space before colon": b"GET /healthz HTTP/1.1\r\nHost : localhost\r\n\r\n",
    "folded": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
    "nul": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
    "bare lf": b"GET /healthz HTTP/1.1\nHost: localhost\n\n",
    "long target": b"GET /" + b"a" * 16_384 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "long header": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 16_384 + b"\r\n\r\n",
    "many headers": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 5000 + b"\r\n",
    "bad chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_what_is_no_http_is_a_problem_without_a_word_in_the_log(garbage, caplog):
    caplog.set_level(logging.INFO)
    engine = FakeEngine()
    async with serving(engine) as site:
        wire, honest = await site.wire(), await site.wire()
        wire.say(garbage)
        status, headers, body = await wire.answer()
        assert status in (400, 421), body
        assert headers["content-type"].startswith("application/problem+json")
        assert "aiohttp" not in str(headers)
        assert await honest.status_of(GET) == 200
    assert not caplog.records
    assert not engine.invocations


async def test_what_follows_a_request_in_its_packet_is_a_request_of_its_own():
    async with serving() as site:
        wire = await site.wire()
        wire.say(POST % len(JOB) + JOB + GET + GET)
        assert [(await wire.answer())[0] for _ in range(3)] == [202, 200, 200]


async def test_a_peer_that_leaves_in_the_middle_of_a_body_is_not_worth_a_line(caplog):
    caplog.set_level(logging.INFO)
    async with serving() as site:
        wire = await site.wire()
        wire.say(POST % 100 + b"{")
        await asyncio.sleep(0.1)
        wire.writer.transport.abort()
        await asyncio.sleep(1)
    assert not caplog.records


def test_the_slow_parser_is_refused(monkeypatch):
    guard.require_fast_parser()
    monkeypatch.setattr(http_parser, "HttpRequestParser", http_parser.HttpRequestParserPy)
    with pytest.raises(RuntimeError, match="C extension"):
        guard.require_fast_parser()
