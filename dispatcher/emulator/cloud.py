"""
The cloud behind the wire formats: accepts invocations, runs them on instances, repeats them.

Pure: the time is an argument, randomness is given, nothing waits. `due` carries out what the
time has brought and returns what has to be told; `next_deadline` says when to call it again.
Whoever calls `invoke`, `stop` or `abandon` calls `due` right after.
"""

import heapq
import math
import random
from collections import deque

import msgspec

from dispatcher.emulator.account import AccountState, FunctionState
from dispatcher.emulator.invocation import (
    ENDED,
    ON_INSTANCE,
    Failure,
    Invocation,
    Run,
    Status,
)
from dispatcher.emulator.providers import Shortage
from dispatcher.emulator.records import destination_record
from dispatcher.emulator.refusals import (
    FunctionMissing,
    PayloadTooLarge,
    QualifierMissing,
    TaskExists,
    Throttled,
)
from dispatcher.emulator.settings import Settings


class Answered(msgspec.Struct, frozen=True):
    """A synchronous invocation has ended; whoever waits for it can have the result."""

    invocation: Invocation


class Delivery(msgspec.Struct, frozen=True):
    """A destination record is to be put into the queue of that ARN."""

    arn: str
    body: bytes


Effect = Answered | Delivery


class Cloud:
    """All accounts. *epoch_s* is the wall-clock time (Unix) at which *now* is zero."""

    def __init__(self, settings: Settings, rng: random.Random, epoch_s: float = 0.0) -> None:
        self.settings = settings
        self.epoch_s = epoch_s
        self.rng = rng
        self.accounts = {
            name: AccountState(name, account, tasks_max=settings.tasks_max)
            for name, account in settings.accounts.items()
        }
        self.runs: deque[Run] = deque(maxlen=settings.runs_max)
        self._timers: list[tuple[float, int, int, Invocation]] = []
        self._timers_set = 0
        self._accepted = 0
        self._ids = 0
        self._effects: list[Effect] = []

    def admit(self, account: AccountState, now: float) -> None:
        """Count an invoke request against the caller's rate. Raises `Throttled`."""
        if account.rate is not None and not account.rate.take(now):
            code = account.rules.codes[Shortage.RATE]
            account.refused[code] += 1
            raise Throttled(Shortage.RATE, code)

    def find(self, account: AccountState, name: str, qualifier: str | None = None) -> FunctionState:
        """Return the function. Raises `FunctionMissing` and `QualifierMissing`."""
        function = account.find(name)
        if function is None:
            account.refused["FunctionMissing"] += 1
            raise FunctionMissing(name)
        known = function.settings.qualifiers
        if qualifier is not None and known is not None and qualifier not in known:
            function.counts.refusals["QualifierMissing"] += 1
            raise QualifierMissing(qualifier)
        return function

    def invoke(
        self,
        function: FunctionState,
        account: AccountState,
        now: float,
        *,
        payload: bytes,
        asynchronous: bool,
        qualifier: str | None = None,
        task_id: str | None = None,
        delay_s: float = 0.0,
    ) -> Invocation:
        """Accept an invocation: run it at once if it is synchronous, else queue it."""
        rules, counts = account.rules, function.counts
        size_max = rules.payload_async_max if asynchronous else rules.payload_sync_max
        if len(payload) > size_max:
            counts.refusals["PayloadTooLarge"] += 1
            raise PayloadTooLarge(len(payload), size_max)
        self._accepted += 1
        invocation = Invocation(
            account,
            function,
            seq=self._accepted,
            request_id=self.new_request_id(),
            payload=payload,
            asynchronous=asynchronous,
            qualifier=qualifier,
            now=now,
        )
        if asynchronous:
            self._enqueue(invocation, now, task_id, delay_s)
        else:
            invocation.task_id = task_id
            self._run_or_refuse(invocation, now)
        return invocation

    def abandon(self, invocation: Invocation, now: float) -> None:
        """
        Take note that the caller of a synchronous invocation has hung up.

        FC ends the run (499 ClientClosedRequest); on Lambda it goes on.
        """
        assert not invocation.asynchronous, invocation
        if invocation.status in ENDED or invocation.account.settings.provider == "aws-lambda":
            return
        self._leave_instance(invocation, now, succeeded=False)
        invocation.function.counts.abandoned += 1
        self._end(invocation, Status.STOPPED, now)

    def stop(self, task: Invocation, now: float) -> None:
        """Stop a task: at once if it waits, else after `stop_s`. Ended ones stay as they are."""
        if task.status in ENDED or task.status is Status.STOPPING:
            return
        if task.status is not Status.RUNNING:
            self._finish(task, Status.STOPPED, now)
            return
        self._turn(task, Status.STOPPING, now)
        assert task.ended_at is not None, task
        self._set_timer(task, min(task.ended_at, now + task.function.settings.stop_s))

    def due(self, now: float) -> list[Effect]:
        """Carry out what is due, and return what there is to tell since the last call."""
        timers = self._timers
        while timers and timers[0][0] <= now:
            at, _, generation, invocation = heapq.heappop(timers)
            if generation != invocation.generation:
                continue
            # At the time it was set for: a late call must not stretch what it counts.
            if invocation.status in ON_INSTANCE:
                self._run_ended(invocation, at)
            else:
                self._attempt(invocation, at)
        effects, self._effects = self._effects, []
        return effects

    def next_deadline(self) -> float | None:
        """Return when to call `due` again; None: nothing is under way."""
        timers = self._timers
        while timers and timers[0][2] != timers[0][3].generation:
            heapq.heappop(timers)
        return timers[0][0] if timers else None

    def new_request_id(self) -> str:
        """Return an id that no other request has."""
        # The count keeps them apart even if the given randomness repeats itself.
        self._ids += 1
        bits = f"{self.rng.getrandbits(80):020x}{self._ids:012x}"
        return f"{bits[:8]}-{bits[8:12]}-4{bits[13:16]}-a{bits[17:20]}-{bits[20:]}"

    def _enqueue(
        self, invocation: Invocation, now: float, task_id: str | None, delay_s: float
    ) -> None:
        account, function = invocation.account, invocation.function
        config = function.config(invocation.qualifier)
        invocation.tracked = config.async_task
        invocation.task_id = task_id
        if invocation.account.settings.provider == "aliyun-fc" and task_id is None:
            invocation.task_id = invocation.request_id
        if invocation.tracked:
            assert invocation.task_id is not None, invocation
            if account.tasks.find(function.name, invocation.task_id, now) is not None:
                function.counts.duplicates_refused += 1
                raise TaskExists(invocation.task_id)
        if account.queued >= self.settings.queue_max:
            raise self._throttled(invocation, Shortage.QUEUE)
        function.counts.accepted_async += 1
        self._queue(invocation, 1)
        invocation.due_at = now + delay_s
        invocation.expires_at = now + delay_s + config.event_age_max_s
        if invocation.tracked:
            lost = self._happens(function.settings.task_lost_rate)
            invocation.visible_at = (
                math.inf if lost else now + function.settings.task_registration_s
            )
            invocation.steps.append((Status.ENQUEUED, now))
            account.tasks.add(invocation)
        self._set_timer(invocation, invocation.due_at + function.settings.dequeue_s)

    def _run_or_refuse(self, invocation: Invocation, now: float) -> None:
        # What ended before this moment has given its instance back.
        self._effects = self.due(now)
        shortage = self._begin(invocation, now)
        if shortage is not None:
            raise self._throttled(invocation, shortage)
        invocation.function.counts.accepted_sync += 1

    def _throttled(self, invocation: Invocation, shortage: Shortage) -> Throttled:
        code = invocation.account.rules.codes[shortage]
        invocation.function.counts.throttles_sync[code] += 1
        return Throttled(shortage, code)

    def _attempt(self, invocation: Invocation, now: float) -> None:
        function, rules = invocation.function, invocation.account.rules
        if function.settings.reserved == 0 and rules.zero_reserved_drops:
            self._finish(invocation, Status.DROPPED, now)
            return
        if now >= invocation.expires_at:
            self._finish(invocation, Status.EXPIRED, now)
            return
        shortage = self._begin(invocation, now)
        if shortage is None:
            return
        invocation.throttle = rules.codes[shortage]
        function.counts.throttles_async[invocation.throttle] += 1
        # The exponent is bounded: a power of two that is too large for a float is an error.
        wait_s = min(
            rules.throttle_wait_max_s,
            rules.throttle_wait_base_s * 2.0 ** min(invocation.throttles, 32),
        )
        invocation.throttles += 1
        self._set_timer(invocation, min(now + wait_s, invocation.expires_at))

    def _begin(self, invocation: Invocation, now: float) -> Shortage | None:
        """Put the invocation on an instance, or return what is short."""
        function = invocation.function
        acquired = invocation.account.fleet.acquire(function.pool, now)
        if isinstance(acquired, Shortage):
            return acquired
        invocation.instance, invocation.cold = acquired
        invocation.instance_id = invocation.instance.id
        counts = function.counts
        invocation.attempts += 1
        invocation.throttles = 0
        invocation.throttle = None
        if invocation.first_started_at is None:
            invocation.first_started_at = now
        else:
            counts.repeats += 1
        invocation.started_at = now
        function.running += 1
        counts.cold_starts += invocation.cold
        if invocation.asynchronous:
            self._queue(invocation, -1)
            function.running_async += 1
            counts.runs_async += 1
            if invocation.attempts == 1:
                delay_s = now - invocation.due_at
                counts.start_delays.append(delay_s)
                counts.start_delay_max_s = max(counts.start_delay_max_s, delay_s)
        else:
            counts.runs_sync += 1
        if invocation.tracked:
            invocation.steps.append((Status.DEQUEUED, now))
        self._turn(invocation, Status.RUNNING, now)
        duration_s, invocation.failure = self._play(invocation)
        invocation.ended_at = now + duration_s
        self._set_timer(invocation, invocation.ended_at)
        return None

    def _play(self, invocation: Invocation) -> tuple[float, Failure | None]:
        """Return how long the run takes, and why it fails if it does."""
        settings, directive = invocation.function.settings, invocation.directive
        duration_s = settings.duration_s
        if directive.duration_s is not None and directive.duration_s >= 0:
            duration_s = directive.duration_s
        elif settings.jitter == "uniform":
            duration_s *= self.rng.uniform(1 - settings.jitter_spread, 1 + settings.jitter_spread)
        elif settings.jitter == "lognormal":
            # Bounded, since the exponential of an odd draw is too large for a float.
            exponent = self.rng.gauss(0.0, settings.jitter_spread)
            duration_s *= math.exp(min(50.0, max(-50.0, exponent)))
        failure = None
        if directive.fail or invocation.attempts <= directive.fail_attempts:
            kind = "Unhandled" if directive.unhandled else "Handled"
            failure = Failure(kind, "EmulatedError", "the payload asked for a failure")
        elif self._happens(settings.failure_rate):
            failure = Failure("Handled", "EmulatedError", "one of failure_rate")
        if duration_s > settings.timeout_s:
            duration_s = settings.timeout_s
            message = f"Task timed out after {settings.timeout_s:.2f} seconds"
            failure = Failure("Unhandled", "Sandbox.Timedout", message)
        if invocation.cold:
            duration_s += settings.cold_start_s
        return duration_s, failure

    def _run_ended(self, invocation: Invocation, now: float) -> None:
        stopped = invocation.status is Status.STOPPING
        failed = invocation.failure is not None
        self._leave_instance(invocation, now, succeeded=not (failed or stopped))
        if not invocation.asynchronous:
            counts = invocation.function.counts
            counts.answered += 1
            counts.answered_failed += failed
            self._end(invocation, Status.FAILED if failed else Status.SUCCEEDED, now)
            self._effects.append(Answered(invocation))
            return
        invocation.function.running_async -= 1
        self._queue(invocation, 1)
        if stopped:
            self._finish(invocation, Status.STOPPED, now)
        elif not failed:
            self._finish(invocation, Status.SUCCEEDED, now)
        elif invocation.attempts > self._retries_max(invocation):
            self._finish(invocation, Status.FAILED, now)
        else:
            self._turn(invocation, Status.RETRYING, now)
            waits_s = invocation.function.settings.retry_waits_s
            waits_s = invocation.account.rules.retry_waits_s if waits_s is None else waits_s
            wait_s = waits_s[min(invocation.attempts, len(waits_s)) - 1]
            self._set_timer(invocation, min(now + wait_s, max(now, invocation.expires_at)))

    def _leave_instance(self, invocation: Invocation, now: float, *, succeeded: bool) -> None:
        assert invocation.instance is not None, invocation
        assert invocation.started_at is not None, invocation
        account, function = invocation.account, invocation.function
        account.fleet.release(function.pool, invocation.instance, now)
        invocation.instance = None
        invocation.ended_at = now
        invocation.generation += 1
        function.running -= 1
        assert function.running >= 0, invocation
        self.runs.append(
            Run(
                account=account.name,
                function=function.name,
                request_id=invocation.request_id,
                task_id=invocation.task_id,
                asynchronous=invocation.asynchronous,
                attempt=invocation.attempts,
                started_at=invocation.started_at,
                ended_at=now,
                succeeded=succeeded,
                cold=invocation.cold,
                payload_head=invocation.payload[:256],
            )
        )

    def _finish(self, invocation: Invocation, status: Status, now: float) -> None:
        """End an asynchronous invocation that is on no instance, and tell its destination."""
        assert invocation.asynchronous, invocation
        self._queue(invocation, -1)
        counts = invocation.function.counts
        match status:
            case Status.SUCCEEDED:
                counts.succeeded += 1
            case Status.FAILED:
                counts.failed += 1
            case Status.EXPIRED:
                counts.expired += 1
            case Status.DROPPED:
                counts.dropped += 1
            case Status.STOPPED:
                counts.stopped += 1
            case _:
                raise AssertionError(status)
        self._end(invocation, status, now)
        config = invocation.function.config(invocation.qualifier)
        succeeded = status is Status.SUCCEEDED
        destination = config.on_success if succeeded else config.on_failure
        if destination is not None and destination.startswith("arn:"):
            body = destination_record(invocation, now + self.epoch_s)
            self._effects.append(Delivery(destination, body))

    def _end(self, invocation: Invocation, status: Status, now: float) -> None:
        invocation.ended_at = now
        invocation.generation += 1
        self._turn(invocation, status, now)

    def _turn(self, invocation: Invocation, status: Status, now: float) -> None:
        before, invocation.status = invocation.status, status
        if invocation.tracked:
            invocation.steps.append((status, now))
            invocation.account.tasks.moved(invocation, before, now)

    def _retries_max(self, invocation: Invocation) -> int:
        return invocation.function.config(invocation.qualifier).retry_attempts_max

    def _queue(self, invocation: Invocation, change: int) -> None:
        account, function = invocation.account, invocation.function
        function.queued += change
        account.queued += change
        assert 0 <= function.queued <= account.queued, invocation
        account.queued_max = max(account.queued_max, account.queued)

    def _set_timer(self, invocation: Invocation, at: float) -> None:
        self._timers_set += 1
        heapq.heappush(self._timers, (at, self._timers_set, invocation.generation, invocation))

    def _happens(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability
