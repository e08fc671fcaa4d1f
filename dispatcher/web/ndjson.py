"""Many invocations in one request: a line in, a line out, each accepted or refused for itself."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Final

import msgspec

from dispatcher.core.model import Invocation
from dispatcher.core.views import Acceptance
from dispatcher.errors import DispatcherError, PayloadTooLarge, Rejected
from dispatcher.web import problems, wire
from dispatcher.web.bodies import decode
from dispatcher.web.ports import Engine, Ticket

BODY_MAX_BYTES: Final = 64 * 1024 * 1024
"""Of a whole request: room for the largest payload, or for 100 000 of 600 bytes."""
LINES_MAX: Final = 100_000
"""Lines of a request. With it the answer is bounded as well: a refused line is 300 bytes."""
COMMIT_LINES: Final = 10_000
"""Lines that one journal commit takes; longer requests need several."""
TURN_LINES: Final = 100
"""Lines that are read before others get their turn: two milliseconds at most."""
TURN_BYTES: Final = 1024 * 1024

Line = Acceptance | wire.RefusedLine

_decoder: Final = msgspec.json.Decoder(wire.NewInvocation)
_encode_lines: Final = msgspec.json.Encoder().encode_lines


async def accept(engine: Engine, body: bytes, trace: dict[str, str] | None = None) -> bytes:
    """
    Accept the invocations of *body* and return the lines of the answer, in the same order.

    All of them belong to their caller's *trace*.

    Raises a `Refusal` of 413, before any is accepted, when there are too many lines.
    """
    count = body.count(b"\n") + (not body.endswith(b"\n") and bool(body))
    if count > LINES_MAX:
        raise problems.refusal(413, f"{count} lines; at most {LINES_MAX} are taken at once")
    answer: list[Line] = []
    lines = _lines(body)
    while handed_over := await _hand_over(engine, lines, trace):
        answer += [await _outcome(each) for each in handed_over]
    return _encode_lines(answer)


async def _hand_over(
    engine: Engine, lines: Iterator[bytes], trace: dict[str, str] | None
) -> list[Ticket | Rejected]:
    """Hand over what one commit takes of *lines*; return a ticket for each, or why it has none."""
    handed_over: list[Ticket | Rejected] = []
    turn = 0
    with engine.batch(source="http") as take:
        for line in itertools.islice(lines, COMMIT_LINES):
            read = _read(line, trace)
            taken = read if isinstance(read, Rejected) else take(read)
            if isinstance(taken, PayloadTooLarge):
                wire.point_as_sent(taken, decode(_decoder, line))
            handed_over.append(taken)
            turn += 1 + len(line) * TURN_LINES // TURN_BYTES
            if turn >= TURN_LINES:
                turn = 0
                await asyncio.sleep(0)
    return handed_over


def _lines(body: bytes) -> Iterator[bytes]:
    """Cut *body* at its line ends, without a copy of all of it. The last one may be missing."""
    begin = 0
    while begin < len(body):
        end = body.find(b"\n", begin)
        if end < 0:
            end = len(body)
        yield body[begin:end]
        begin = end + 1


def _read(line: bytes, trace: dict[str, str] | None) -> Invocation | Rejected:
    if not line.strip():
        # It has its line in the answer too, or all further ones would seem to belong to others.
        return problems.Malformed("the line is blank")
    try:
        return wire.invocation_of(decode(_decoder, line), trace=trace)
    except Rejected as error:
        return error


async def _outcome(ticket: Ticket | Rejected) -> Line:
    if isinstance(ticket, Rejected):
        return wire.RefusedLine(problems.of(ticket))
    try:
        return await ticket.accepted()
    except DispatcherError as error:
        return wire.RefusedLine(problems.of(error))
