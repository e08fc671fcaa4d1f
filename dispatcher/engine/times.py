"""The two clocks, and what the journal and the machine each keep of an invocation."""

import asyncio
import hashlib
import math
import os
import time
from collections.abc import Callable

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


def new_id(wall_ms: int) -> str:
    """Return an id that sorts by time, is unique, and can be a task id of Function Compute."""
    number = int.from_bytes(wall_ms.to_bytes(6, "big") + os.urandom(10), "big") << 2
    return "i" + "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])


# Base 32 with digits in the order of ASCII, ten bits at a time: half the time of `base64`'s.
_DIGITS = "0123456789abcdefghijklmnopqrstuv"
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]
_SHIFTS = tuple(range(120, -1, -10))


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


def job_of(record: Record, payload: bytes | None, account: Account, seq: int, clock: Clock) -> Job:
    """Return what the machine keeps of an invocation, whether it is new or from the journal."""
    now, wall_ms, ahead_s = clock.now(), clock.wall_ms(), clock.ahead_s()

    # The clock has been set back since: as if it were accepted now, or it would wait for hours.
    early_ms = max(0, record.accepted_ms - wall_ms)

    def on_loop(ms: int) -> float:
        at = (ms - early_ms) / 1000 + ahead_s
        return min(at, now) if ms <= wall_ms + early_ms else at

    accepted_at = min(now, on_loop(record.accepted_ms))
    # Where it is the same number it is the same object: a million of them are 24 MB.
    due_at = accepted_at if record.due_ms == record.accepted_ms else on_loop(record.due_ms)
    return Job(
        id=record.id,
        seq=seq,
        lane=account.lane(record.function, record.qualifier, record.tenant),
        payload=payload,
        type=record.type,
        accepted_at=accepted_at,
        due_at=due_at,
        priority=record.priority,
        expires_at=_expires_at(record, on_loop),
        attempt=record.attempt,
        wakes_at=due_at if due_at > now else -math.inf,
        waits_for=_waits_for(record) if due_at > now else None,
        request_id=record.request_id,
        chosen_task_id=record.task_id,
        options=record.options or None,
        callback_url=record.callback_url,
    )


def _expires_at(record: Record, on_loop: Callable[[int], float]) -> float:
    """Return when it expires: what has run once does not any more."""
    if record.expires_ms is None or record.attempt > 1:
        return math.inf
    return on_loop(record.expires_ms)


def _waits_for(record: Record) -> GateKind:
    tried = record.first_sent_ms is not None or record.attempt > 1
    return GateKind.RETRY if tried else GateKind.DELAY
