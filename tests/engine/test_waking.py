import asyncio
import itertools

import anyio
import anyio.lowlevel

from dispatcher.engine.waking import WAKE_AT_ONCE, Waking


def futures(count: int) -> list[asyncio.Future[int]]:
    return [asyncio.get_running_loop().create_future() for _ in range(count)]


async def test_few_are_woken_at_once():
    waking, waiters = Waking(), futures(3)
    for number, waiter in enumerate(waiters):
        waking.wake(waiter, number)
    assert [waiter.result() for waiter in waiters] == [0, 1, 2]
    assert len(waking) == 0


async def test_many_are_woken_turn_by_turn_in_their_order():
    waking, waiters = Waking(), futures(5 * WAKE_AT_ONCE)
    went_on: list[int] = []

    async def wait(waiter: asyncio.Future[int]) -> None:
        went_on.append(await waiter)

    async with anyio.create_task_group() as tasks:
        for waiter in waiters:
            tasks.start_soon(wait, waiter)
        await anyio.lowlevel.checkpoint()
        for number, waiter in enumerate(waiters):
            waking.wake(waiter, number)
        turns = [0]
        while len(went_on) < len(waiters):
            await anyio.lowlevel.checkpoint()
            turns.append(len(went_on))
    steps = [after - before for before, after in itertools.pairwise(turns)]
    assert max(steps) <= WAKE_AT_ONCE
    assert went_on == sorted(went_on)
    await anyio.lowlevel.checkpoint()
    waking.wake(last := futures(1)[0], 7)
    assert last.result() == 7


async def test_who_waits_no_more_is_let_be():
    waking, waiters = Waking(), futures(2 * WAKE_AT_ONCE)
    waiters[0].cancel()
    for waiter in waiters:
        waking.wake(waiter, 1)
    waiters[-1].cancel()
    await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()
    assert [waiter.cancelled() for waiter in waiters].count(True) == 2
    assert all(waiter.done() for waiter in waiters)


async def test_at_the_end_none_is_left():
    waking, waiters = Waking(), futures(3 * WAKE_AT_ONCE)
    for waiter in waiters[: 2 * WAKE_AT_ONCE]:
        waking.wake(waiter, 1)
    assert len(waking) == WAKE_AT_ONCE
    waking.hurry()
    for waiter in waiters[2 * WAKE_AT_ONCE :]:
        waking.wake(waiter, 1)
    assert len(waking) == 0
    assert all(waiter.done() for waiter in waiters)
