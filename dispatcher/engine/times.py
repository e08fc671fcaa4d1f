"""The two clocks, and what the journal and the machine each keep of an invocation."""

import asyncio
import functools
import hashlib
import math
import os
import time
from collections.abc import Callable

from msgspec import Struct

from dispatcher.core.account import Account
from dispatcher.core.backlog import Job
from dispatcher.core.model import CallType, GateKind, Invocation, Record

#: How late the loop's time may be before that counts as a jump of the wall's.
LATE_MAX_S = 0.1


class Clock:
    """
    The loop's clock for everything that lasts, the wall's for what is stored and shown.

    A jump of the wall clock moves neither delays nor deadlines of what is in memory.
    """

    def __init__(self, wall_s: Callable[[], float] = time.time) -> None:
        """Only in the thread of the loop whose clock it is."""
        self._wall_s = wall_s
        self.now: Callable[[], float] = asyncio.get_running_loop().time
        """Return the loop's time in seconds; from any thread."""
        self._ahead_s = -math.inf

    def ahead_s(self) -> float:
        """
        Return what the loop's time is more than the wall's, in seconds.

        It never falls while neither jumps, so that two times of the wall keep their order on
        the loop's clock, however close they are. uvloop has one time for all of a turn of
        the loop, so what is measured late in a long turn is too little.
        """
        ahead_s = self.now() - self._wall_s()
        if not self._ahead_s - LATE_MAX_S <= ahead_s <= self._ahead_s:
            self._ahead_s = ahead_s
        return self._ahead_s

    def wall_ms(self) -> int:
        """Return milliseconds since 1970, UTC."""
        return int(self._wall_s() * 1000)

    def moment(self) -> "Moment":
        """Return what both clocks say."""
        return Moment(self.now(), self.wall_ms(), self.ahead_s())


class Moment(Struct, frozen=True, gc=False):
    """One moment on both clocks."""

    now: float  #: of the loop, in seconds
    wall_ms: int
    ahead_s: float  #: what the loop's time is more than the wall's

    def on_loop(self, wall_ms: int, early_ms: int = 0) -> float:
        """Return the loop's time for one of the wall, which is *early_ms* too late."""
        at = (wall_ms - early_ms) / 1000 + self.ahead_s
        return min(at, self.now) if wall_ms <= self.wall_ms + early_ms else at


def new_id(wall_ms: int) -> str:
    """Return an id that sorts by time, is unique, and can be a task id of Function Compute."""
    return _begin_of_id(wall_ms) + os.urandom(16).translate(_DIGIT_OF_BYTE).decode()


@functools.lru_cache(maxsize=4)
def _begin_of_id(wall_ms: int) -> str:
    """Return what the ids of one millisecond begin with: a letter and 50 bits of time."""
    return "i" + "".join([_DIGITS[(wall_ms << 2) >> shift & 31] for shift in range(45, -1, -5)])


# Base 32 with digits in the order of ASCII. Of 16 random bytes 5 bits each are 80.
_DIGITS = "0123456789abcdefghijklmnopqrstuv"
_DIGIT_OF_BYTE = _DIGITS.encode() * 8


def digest(invocation: Invocation, call_type: CallType) -> bytes:
    """Return what two invocations share if, and only if, they are the same job."""
    parts = (
        invocation.function.encode(),
        (invocation.qualifier or "").encode(),
        call_type.encode(),
        invocation.payload,
    )
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "big"))
        hasher.update(part)
    return hasher.digest()


def new_record(invocation: Invocation, call_type: CallType, wall_ms: int) -> Record:
    """Return what the journal keeps of a new invocation."""
    keyed = invocation.idempotency_key is not None
    return Record(
        id=new_id(wall_ms),
        account=invocation.account,
        function=invocation.function,
        qualifier=invocation.qualifier,
        tenant=invocation.tenant,
        type=call_type,
        priority=invocation.priority,
        payload_bytes=len(invocation.payload),
        accepted_ms=wall_ms,
        due_ms=wall_ms + int(invocation.delay_s * 1000),
        expires_ms=(
            None if invocation.expires_s is None else wall_ms + int(invocation.expires_s * 1000)
        ),
        task_id=invocation.task_id,
        key=invocation.idempotency_key,
        digest=digest(invocation, call_type) if keyed else b"",
        callback_url=invocation.callback_url,
        options=invocation.options,
    )


def job_of(
    record: Record, payload: bytes | None, account: Account, seq: int, moment: Moment
) -> Job:
    """Return what the machine keeps of an invocation, whether it is new or from the journal."""
    now = moment.now
    # The clock has been set back since: as if it were accepted now, or it would wait for hours.
    early_ms = max(0, record.accepted_ms - moment.wall_ms)
    accepted_at = min(now, moment.on_loop(record.accepted_ms, early_ms))
    # Where it is the same number it is the same object: a million of them are 24 MB.
    is_due = record.due_ms == record.accepted_ms
    due_at = accepted_at if is_due else moment.on_loop(record.due_ms, early_ms)
    expires_at = math.inf
    if record.expires_ms is not None and record.attempt == 1:  # what has run once expires no more
        expires_at = moment.on_loop(record.expires_ms, early_ms)
    return Job(
        id=record.id,
        seq=seq,
        lane=account.lane(record.function, record.qualifier, record.tenant),
        payload=payload,
        type=record.type,
        accepted_at=accepted_at,
        due_at=due_at,
        priority=record.priority,
        expires_at=expires_at,
        attempt=record.attempt,
        wakes_at=due_at if due_at > now else -math.inf,
        waits_for=_waits_for(record) if due_at > now else None,
        request_id=record.request_id,
        chosen_task_id=record.task_id,
        options=record.options or None,
        callback_url=record.callback_url,
    )


def _waits_for(record: Record) -> GateKind:
    tried = record.first_sent_ms is not None or record.attempt > 1
    return GateKind.RETRY if tried else GateKind.DELAY
