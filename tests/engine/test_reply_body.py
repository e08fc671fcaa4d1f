"""The body of a large reply: in order, in bounded room, and never short without a word."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.model import Failure, Lost
from dispatcher.engine.reply_body import ROOM_BYTES, ReplyBody, ReplyBroken

LOST = Lost(Failure("connection_lost", "the other side has hung up"))


class Cloud:
    """Counts how often it was asked to go on."""

    def __init__(self) -> None:
        self.asked = 0
        self.body = ReplyBody(self.go_on)

    def go_on(self) -> None:
        self.asked += 1


async def test_parts_come_in_order_as_they_come():
    body = Cloud().body
    assert body.feed(b"a")
    assert await anext(body) == b"a"
    waiting = asyncio.ensure_future(anext(body))
    await asyncio.sleep(1)
    assert not waiting.done()
    body.feed(b"b")
    assert await waiting == b"b"
    body.feed(b"c")
    body.end(None)
    assert [part async for part in body] == [b"c"]


async def test_a_body_that_breaks_off_gives_what_there_was_and_then_an_error():
    body = Cloud().body
    body.feed(b"a")
    body.end(LOST)
    assert await anext(body) == b"a"
    with pytest.raises(ReplyBroken, match="hung up"):
        await anext(body)


@given(sizes=st.lists(st.integers(1, ROOM_BYTES), min_size=1, max_size=40))
async def test_no_more_is_held_than_there_is_room_for_and_the_cloud_is_asked_to_go_on(sizes):
    cloud = Cloud()
    taken, left = 0, list(sizes)
    while left:
        asked = cloud.asked
        while left and cloud.body.feed(b"x" * left.pop(0)):
            pass
        assert cloud.body.held_bytes < 2 * ROOM_BYTES
        if not left:
            break
        while cloud.asked == asked:
            taken += len(await anext(cloud.body))
        assert cloud.body.held_bytes < ROOM_BYTES
    cloud.body.end(None)
    async for part in cloud.body:
        taken += len(part)
    assert taken == sum(sizes)


async def test_of_who_has_left_nothing_is_kept_and_the_cloud_goes_on():
    cloud = Cloud()
    assert not cloud.body.feed(b"x" * ROOM_BYTES)
    await cloud.body.aclose()
    assert cloud.asked == 1
    assert cloud.body.feed(b"x" * ROOM_BYTES)
    assert cloud.body.held_bytes == 0
    cloud.body.end(None)
    assert [part async for part in cloud.body] == []


async def test_once_it_has_ended_nobody_is_asked_to_go_on():
    cloud = Cloud()
    cloud.body.feed(b"x" * ROOM_BYTES)
    cloud.body.end(None)
    assert len(await anext(cloud.body)) == ROOM_BYTES
    await cloud.body.aclose()
    assert cloud.asked == 0
