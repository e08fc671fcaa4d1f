"""When a peer is given up, in virtual time; `test_guard.py` tests it on the wire."""

import asyncio

import pytest

from dispatcher.web.patience import Patience


class Held:
    """A connection as far as its times go."""

    def __init__(self) -> None:
        self.given_up_at: list[float] = []
        self.left = 100
        self.patience = Patience(lambda: self.given_up_at.append(asyncio.get_running_loop().time()))

    def watch(self) -> None:
        self.patience.watch(lambda: self.left, 5)


async def test_a_request_that_does_not_come_is_waited_for_so_long():
    held = Held()
    held.patience.expect_within(10)
    await asyncio.sleep(30)
    assert held.given_up_at == [10]


@pytest.mark.parametrize(("then_s", "given_up_at"), [(75, 78), (2, 5)])
async def test_what_is_expected_last_holds_whether_it_is_later_or_earlier(then_s, given_up_at):
    held = Held()
    held.patience.expect_within(10)
    await asyncio.sleep(3)
    held.patience.expect_within(then_s)
    await asyncio.sleep(100)
    assert held.given_up_at == [given_up_at]


async def test_while_a_request_is_in_the_works_nothing_is_expected():
    held = Held()
    held.patience.expect_within(10)
    held.patience.expect_nothing()
    await asyncio.sleep(30)
    held.patience.expect_within(10)
    await asyncio.sleep(30)
    assert held.given_up_at == [40]


async def test_an_answer_has_to_be_taken_but_may_be_taken_slowly():
    held = Held()
    held.watch()
    held.watch()
    for _ in range(4):
        await asyncio.sleep(4.9)
        held.left -= 1
    await asyncio.sleep(0.9)
    assert held.given_up_at == []
    await asyncio.sleep(10)
    assert held.given_up_at == [25]


async def test_an_answer_that_has_been_taken_is_not_watched():
    held = Held()
    held.watch()
    await asyncio.sleep(1)
    held.patience.look_away()
    await asyncio.sleep(30)
    assert held.given_up_at == []


async def test_in_the_end_nothing_is_waited_for():
    held = Held()
    held.patience.expect_within(10)
    held.watch()
    held.patience.end()
    held.patience.expect_within(10)
    await asyncio.sleep(30)
    assert held.given_up_at == []
