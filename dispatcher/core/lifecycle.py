"""
The life of an invocation: every move that there is, in one table.

Rule 1: a state changes through `move` and nowhere else. Rule 2: what is not in the table is
a bug in this program and stops it.
"""

from enum import StrEnum
from typing import Final

from dispatcher.core.model import State


class Move(StrEnum):
    """What can happen to an invocation."""

    LAUNCH = "launch"  #: it got a slot; its send is about to begin
    ACCEPT = "accept"  #: the cloud took it
    RETURN = "return"  #: it waits again: the send failed, or the next attempt is due
    SUCCEED = "succeed"
    BURY = "bury"  #: it ended without success and will not be tried again
    EXPIRE = "expire"
    CANCEL = "cancel"
    LOSE = "lose"  #: nobody knows how it ended
    REDRIVE = "redrive"


_AFTER: Final[dict[State, dict[Move, State]]] = {
    State.WAITING: {
        Move.LAUNCH: State.SENDING,
        Move.EXPIRE: State.EXPIRED,
        Move.CANCEL: State.CANCELLED,
        # A function whose rules changed for the worse while it waited.
        Move.BURY: State.DEAD,
        # Its earlier attempt, which was thought lost, ends after all.
        Move.SUCCEED: State.SUCCEEDED,
        # What may have been sent before a crash, with at-most-once delivery.
        Move.LOSE: State.UNCERTAIN,
    },
    State.SENDING: {
        Move.ACCEPT: State.RUNNING,
        Move.RETURN: State.WAITING,
        Move.SUCCEED: State.SUCCEEDED,
        Move.BURY: State.DEAD,
        Move.EXPIRE: State.EXPIRED,
        Move.CANCEL: State.CANCELLED,
        Move.LOSE: State.UNCERTAIN,
    },
    State.RUNNING: {
        Move.RETURN: State.WAITING,
        Move.SUCCEED: State.SUCCEEDED,
        Move.BURY: State.DEAD,
        Move.EXPIRE: State.EXPIRED,
        Move.CANCEL: State.CANCELLED,
        Move.LOSE: State.UNCERTAIN,
    },
    # A late completion still tells the true end.
    State.UNCERTAIN: {
        Move.SUCCEED: State.SUCCEEDED,
        Move.BURY: State.DEAD,
        Move.EXPIRE: State.EXPIRED,
        Move.CANCEL: State.CANCELLED,
        Move.REDRIVE: State.WAITING,
    },
    State.DEAD: {Move.REDRIVE: State.WAITING},
    State.SUCCEEDED: {},
    State.EXPIRED: {},
    State.CANCELLED: {},
}
assert set(_AFTER) == set(State), "a state without a row"

#: States in which an invocation is done with, unless news or an operator say otherwise.
ENDED: Final = frozenset(
    {State.SUCCEEDED, State.DEAD, State.EXPIRED, State.CANCELLED, State.UNCERTAIN}
)

#: States that nothing leads out of.
FINAL: Final = frozenset(state for state, moves in _AFTER.items() if not moves)


def after(state: State, move: Move) -> State:
    """Return the state that *move* leads to from *state*; an impossible move is a bug."""
    found = _AFTER[state].get(move)
    assert found is not None, f"an invocation that is {state} cannot {move}"
    return found


def can(state: State, move: Move) -> bool:
    """Tell whether *move* is possible in *state*."""
    return move in _AFTER[state]
