"""Immutable snapshots of what the cloud has counted, for tests, the demo and the control API."""

from collections import Counter
from collections.abc import Iterable

import msgspec

from dispatcher.emulator.account import AccountState, FunctionState
from dispatcher.emulator.cloud import Cloud
from dispatcher.emulator.providers import TASK_RATE_CODE


class StartDelays(msgspec.Struct, frozen=True, kw_only=True):
    """How long asynchronous invocations waited in the hidden queue for their first run, in s."""

    count: int
    p50_s: float
    p99_s: float
    max_s: float


class FunctionStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One function."""

    instances: int
    instances_peak: int
    instance_seconds: float
    queued: int
    running: int
    running_async: int
    accepted_sync: int
    accepted_async: int
    runs_sync: int
    runs_async: int
    cold_starts: int
    answered: int
    answered_failed: int
    abandoned: int
    succeeded: int
    failed: int
    expired: int
    dropped: int
    stopped: int
    duplicates_refused: int
    repeats: int
    throttles_sync: dict[str, int]
    throttles_async: dict[str, int]
    refusals: dict[str, int]
    start_delays: StartDelays


class AccountStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One account; the sums are those of its functions."""

    provider: str
    account_id: str
    region: str
    quota: int
    foreign: int
    instances: int
    instances_peak: int
    """The most of our instances at once."""
    total_peak: int
    """The most instances at once, the foreign ones included."""
    instance_seconds: float
    free_seconds: float
    """What the quota left beside the foreign load: the utilisation is their ratio."""
    queued: int
    queued_peak: int
    running: int
    accepted_sync: int
    accepted_async: int
    runs: int
    repeats: int
    answered: int
    answered_failed: int
    abandoned: int
    succeeded: int
    failed: int
    expired: int
    dropped: int
    stopped: int
    duplicates_refused: int
    throttles_sync: dict[str, int]
    """Requests that got a throttle for a reply, by code."""
    throttles_async: dict[str, int]
    """Attempts of the hidden queue that found no instance, by code."""
    refusals: dict[str, int]
    start_delays: StartDelays
    functions: dict[str, FunctionStatistics]


def account_statistics(account: AccountState, now: float) -> AccountStatistics:
    """Return the snapshot of an account."""
    fleet, functions = account.fleet, list(account.functions.values())
    fleet.count(now)
    each = {function.name: _function_statistics(function, now) for function in functions}
    parts = each.values()

    def total(name: str) -> int:
        return sum(getattr(part, name) for part in parts)

    throttles_sync = _sum(part.throttles_sync for part in parts)
    refusals = _sum(part.refusals for part in parts)
    rate_limited = {*account.rules.codes.values(), TASK_RATE_CODE}
    for code, count in account.refused.items():
        counter = throttles_sync if code in rate_limited else refusals
        counter[code] = counter.get(code, 0) + count
    return AccountStatistics(
        provider=account.settings.provider,
        account_id=account.settings.account_id,
        region=account.settings.region,
        quota=fleet.quota,
        foreign=fleet.foreign,
        instances=fleet.in_use,
        instances_peak=fleet.peak,
        total_peak=fleet.total_peak,
        instance_seconds=sum(part.instance_seconds for part in parts),
        free_seconds=fleet.free_seconds,
        queued=account.queued,
        queued_peak=account.queued_max,
        running=total("running"),
        accepted_sync=total("accepted_sync"),
        accepted_async=total("accepted_async"),
        runs=total("runs_sync") + total("runs_async"),
        repeats=total("repeats"),
        answered=total("answered"),
        answered_failed=total("answered_failed"),
        abandoned=total("abandoned"),
        succeeded=total("succeeded"),
        failed=total("failed"),
        expired=total("expired"),
        dropped=total("dropped"),
        stopped=total("stopped"),
        duplicates_refused=total("duplicates_refused"),
        throttles_sync=throttles_sync,
        throttles_async=_sum(part.throttles_async for part in parts),
        refusals=refusals,
        start_delays=_delays(functions),
        functions=each,
    )


def cloud_statistics(cloud: Cloud, now: float) -> dict[str, AccountStatistics]:
    """Return the snapshots of all accounts, by name."""
    return {name: account_statistics(account, now) for name, account in cloud.accounts.items()}


def _function_statistics(function: FunctionState, now: float) -> FunctionStatistics:
    counts, pool = function.counts, function.pool
    pool.count(now)
    return FunctionStatistics(
        instances=pool.in_use,
        instances_peak=pool.peak,
        instance_seconds=pool.seconds,
        queued=function.queued,
        running=function.running,
        running_async=function.running_async,
        accepted_sync=counts.accepted_sync,
        accepted_async=counts.accepted_async,
        runs_sync=counts.runs_sync,
        runs_async=counts.runs_async,
        cold_starts=counts.cold_starts,
        answered=counts.answered,
        answered_failed=counts.answered_failed,
        abandoned=counts.abandoned,
        succeeded=counts.succeeded,
        failed=counts.failed,
        expired=counts.expired,
        dropped=counts.dropped,
        stopped=counts.stopped,
        duplicates_refused=counts.duplicates_refused,
        repeats=counts.repeats,
        throttles_sync=dict(counts.throttles_sync),
        throttles_async=dict(counts.throttles_async),
        refusals=dict(counts.refusals),
        start_delays=_delays([function]),
    )


def _delays(functions: Iterable[FunctionState]) -> StartDelays:
    """Percentiles are those of each function's last 10 000; the maximum is of all."""
    counts = [function.counts for function in functions]
    delays = sorted(delay for count in counts for delay in count.start_delays)
    if not delays:
        return StartDelays(count=0, p50_s=0.0, p99_s=0.0, max_s=0.0)
    return StartDelays(
        count=len(delays),
        p50_s=delays[len(delays) // 2],
        p99_s=delays[min(len(delays) - 1, len(delays) * 99 // 100)],
        max_s=max(count.start_delay_max_s for count in counts),
    )


def _sum(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)
