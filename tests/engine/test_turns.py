import asyncio
import math

from dispatcher.engine.turns import Turns


async def test_so_many_are_taken_in_a_turn_and_all_in_their_order():
    turns = Turns(2)
    taken: list[int] = []
    for number in range(5):
        turns.take(taken.append, number)
    seen = [list(taken)]
    while len(turns):
        await asyncio.sleep(0)
        seen.append(list(taken))
    assert seen == [[0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4]]


async def test_a_step_may_bring_another_which_waits_for_its_turn():
    turns = Turns(1)
    taken: list[str] = []

    def first() -> None:
        taken.append("first")
        turns.take(taken.append, "second")

    turns.take(first)
    assert taken == ["first"]
    await asyncio.sleep(0)
    assert taken == ["first", "second"]


async def test_what_is_forgotten_is_never_taken():
    turns = Turns(1)
    taken: list[int] = []
    for number in range(3):
        turns.take(taken.append, number)
    turns.forget()
    await asyncio.sleep(0.1)
    assert taken == [0]


async def test_in_a_hurry_nothing_is_left_for_later():
    turns = Turns(1)
    taken: list[int] = []
    for number in range(3):
        turns.take(taken.append, number)
    turns.hurry(math.inf)
    turns.take(taken.append, 3)
    assert taken == [0, 1, 2, 3]
    assert len(turns) == 0
