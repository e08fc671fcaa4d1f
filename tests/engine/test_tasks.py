import asyncio

import anyio

from dispatcher.engine.tasks import BEGIN_AT_ONCE, Tasks


async def test_all_have_ended_once_it_is_closed():
    ended: list[BaseException | None] = []
    left: list[int] = []

    async def work(number: int) -> None:
        try:
            await anyio.sleep(number)
        finally:
            left.append(number)

    tasks = Tasks(ended.append)
    for number in (1, 2, 3):
        tasks.start(work, number)
    await anyio.sleep(1.5)
    assert (len(tasks), left, ended) == (2, [1], [None])
    await tasks.aclose()
    assert sorted(left) == [1, 2, 3]
    assert len(tasks) == 0
    assert anyio.current_time() == 1.5


async def test_nothing_begins_after_the_end():
    tasks = Tasks(lambda _: None)
    await tasks.aclose()
    tasks.start(anyio.sleep_forever)
    assert len(tasks) == 0


async def test_the_owner_is_told_what_failed():
    ended: list[BaseException | None] = []

    async def fail() -> None:
        raise ValueError("a bug")

    tasks = Tasks(ended.append)
    tasks.start(fail)
    await anyio.sleep(1)
    assert isinstance(ended[0], ValueError)
    await tasks.aclose()


async def test_what_does_not_end_is_not_waited_for_for_ever():
    freed = anyio.Event()

    async def stubborn() -> None:
        try:
            await freed.wait()
        except asyncio.CancelledError:
            await freed.wait()

    tasks = Tasks(lambda _: None)
    tasks.start(stubborn)
    await anyio.sleep(0.1)
    await tasks.aclose()
    assert 0.1 < anyio.current_time() < 10
    assert len(tasks) == 1
    freed.set()
    await anyio.sleep(0.1)


async def test_it_is_closed_although_its_owner_is_cancelled():
    left: list[str] = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            left.append("work")

    tasks = Tasks(lambda _: None)
    with anyio.move_on_after(1):
        try:
            tasks.start(work)
            await anyio.sleep_forever()
        finally:
            await tasks.aclose()
    assert left == ["work"]


async def test_of_many_only_some_begin_in_one_turn_and_all_in_their_order():
    turn = 0
    begun: list[tuple[int, int]] = []

    async def work(number: int) -> None:
        begun.append((turn, number))

    tasks = Tasks(lambda _: None)
    for number in range(2 * BEGIN_AT_ONCE + 5):
        tasks.start(work, number)
    assert len(tasks) == 2 * BEGIN_AT_ONCE + 5
    while len(tasks):
        turn += 1
        await asyncio.sleep(0)
    assert [number for _, number in begun] == list(range(2 * BEGIN_AT_ONCE + 5))
    turns = [at for at, _ in begun]
    assert max(turns.count(at) for at in turns) == BEGIN_AT_ONCE
    assert len({*turns}) == 3


async def test_what_has_not_begun_never_does_once_it_is_closed():
    begun: list[int] = []

    async def work(number: int) -> None:
        begun.append(number)
        await anyio.sleep_forever()

    tasks = Tasks(lambda _: None)
    for number in range(BEGIN_AT_ONCE + 1):
        tasks.start(work, number)
    await tasks.aclose()
    await anyio.sleep(1)
    assert len(tasks) == 0
    assert BEGIN_AT_ONCE not in begun
