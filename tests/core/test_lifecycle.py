import pytest

from dispatcher.core.lifecycle import ENDED, FINAL, Move, after, can
from dispatcher.core.model import State

TABLE = """
              LAUNCH  ACCEPT  RETURN  SUCCEED   BURY EXPIRE  CANCEL    LOSE      REDRIVE
    waiting   sending -       -       succeeded dead expired cancelled uncertain -
    sending   -       running waiting succeeded dead expired cancelled uncertain -
    running   -       -       waiting succeeded dead expired cancelled uncertain -
    succeeded -       -       -       -         -    -       -         -         -
    dead      -       -       -       -         -    -       -         -         waiting
    expired   -       -       -       -         -    -       -         -         -
    cancelled -       -       -       -         -    -       -         -         -
    uncertain -       -       -       succeeded dead expired cancelled -         waiting
"""


def cells() -> list[tuple[State, Move, str]]:
    head, *rows = [line.split() for line in TABLE.strip().splitlines()]
    moves = [Move(name.lower()) for name in head]
    return [
        (State(row[0]), move, cell)
        for row in rows
        for move, cell in zip(moves, row[1:], strict=True)
    ]


@pytest.mark.parametrize(("state", "move", "expected"), cells())
def test_every_move_from_every_state(state, move, expected):
    assert can(state, move) == (expected != "-")
    if expected == "-":
        with pytest.raises(AssertionError, match=f"that is {state} cannot {move}"):
            after(state, move)
    else:
        assert after(state, move) is State(expected)


def test_the_table_is_whole():
    assert {state for state, _, _ in cells()} == set(State)
    assert {move for _, move, _ in cells()} == set(Move)


def test_ends():
    live = {State.WAITING, State.SENDING, State.RUNNING}
    assert set(State) - live == ENDED
    assert {State.SUCCEEDED, State.EXPIRED, State.CANCELLED} == FINAL


def test_whatever_lives_can_come_to_any_end():
    for state in set(State) - ENDED:
        for move in (Move.SUCCEED, Move.BURY, Move.EXPIRE, Move.CANCEL, Move.LOSE):
            assert after(state, move) in ENDED
