"""Statistics in which nothing is missing, so that every metric has samples."""

import itertools
import math
from typing import Any

import msgspec

from dispatcher.core.model import GateKind, State
from dispatcher.core.statistics import COMMIT_BOUNDS_S, RUN_BOUNDS_S, SEND_BOUNDS_S, WAIT_BOUNDS_S
from dispatcher.core.views import HistogramView, Statistics
from dispatcher.errors import Rejected

ACCOUNTS = ("cn-prod", "us-prod")
FUNCTIONS = ("m42-ng-fc$surf2surf", "resize", "other")
TENANTS = ("research", "shop", "default")


def statistics(functions: tuple[str, ...] = FUNCTIONS, **changes: Any) -> Statistics:
    """Return statistics with a number of its own for every counter, gauge and bucket."""
    number = itertools.count(1)

    def numbers(*labels: tuple[str, ...]) -> dict[tuple[str, ...], int]:
        return {key: next(number) for key in itertools.product(*labels)}

    def histogram(bounds: tuple[float, ...]) -> HistogramView:
        counts = tuple(next(number) for _ in range(len(bounds) + 1))
        return HistogramView(bounds, counts, next(number) / 8)

    def histograms(bounds: tuple[float, ...]) -> dict[tuple[str, ...], HistogramView]:
        return {(account,): histogram(bounds) for account in ACCOUNTS}

    whole = Statistics(
        accepted=numbers(ACCOUNTS, TENANTS, ("in_process", "http", "lambda", "fc")),
        rejected=numbers(ACCOUNTS, sorted_reasons()),
        ended=numbers(ACCOUNTS, functions, TENANTS, ENDS),
        send_attempts=numbers(
            ACCOUNTS, functions, ("ok", "throttled", "refused", "error", "timeout")
        ),
        throttles=numbers(ACCOUNTS, functions, ("ResourceExhausted", "CallerRateLimitExceeded")),
        forced_releases=numbers(ACCOUNTS, functions),
        late_completions=numbers(ACCOUNTS),
        blocked_seconds={
            key: count + 0.25 for key, count in numbers(ACCOUNTS, tuple(GateKind)).items()
        },
        recovered=numbers((State.WAITING, State.SENDING, State.RUNNING)),
        requests_in_flight=numbers(ACCOUNTS),
        in_flight=numbers(ACCOUNTS, functions, TENANTS),
        instances_in_use=numbers(ACCOUNTS),
        instances_limit=numbers(ACCOUNTS),
        instances_quota=numbers(ACCOUNTS),
        queue_jobs=numbers(ACCOUNTS, TENANTS, ("due", "delayed")),
        queue_jobs_max=next(number),
        queue_oldest_age_s={key: count + 0.5 for key, count in numbers(ACCOUNTS).items()},
        dead_jobs=numbers(ACCOUNTS),
        circuit_open=numbers(ACCOUNTS),
        paused=numbers(ACCOUNTS),
        queue_wait_s=histograms(WAIT_BOUNDS_S),
        send_s=histograms(SEND_BOUNDS_S),
        run_s=histograms(RUN_BOUNDS_S),
        start_delay_s=histograms(WAIT_BOUNDS_S),
        untracked=numbers(ACCOUNTS, functions),
        reclaim_s=histograms(WAIT_BOUNDS_S),
        adaptive_limit=numbers(ACCOUNTS),
        foreign_instances=numbers(ACCOUNTS),
        accept_s=histograms(SEND_BOUNDS_S),
        journal_commit_s=histogram(COMMIT_BOUNDS_S),
        loop_lag_s=histogram(COMMIT_BOUNDS_S),
        journal_bytes=next(number),
        journal_errors=next(number),
        config_reloads=numbers(("ok", "refused")),
        notices=numbers(ACCOUNTS, ("ok", "failed", "refused", "dropped")),
    )
    return msgspec.structs.replace(whole, **changes)


ENDS = (State.SUCCEEDED, State.DEAD, State.EXPIRED, State.CANCELLED, State.UNCERTAIN)


def nothing_yet() -> Statistics:
    """Return the statistics of an engine that has two accounts and has done nothing."""
    whole = statistics()
    per_account = {(account,) for account in ACCOUNTS}
    zeros: dict[str, Any] = {}
    for field in msgspec.structs.fields(Statistics):
        value = getattr(whole, field.name)
        if isinstance(value, HistogramView):
            zeros[field.name] = _empty(value)
        elif isinstance(value, dict) and all(key in per_account for key in value):
            zeros[field.name] = {
                key: _empty(each) if isinstance(each, HistogramView) else 0
                for key, each in value.items()
            }
        else:
            zeros[field.name] = {} if isinstance(value, dict) else 0
    return Statistics(**zeros)


def many_series(at_least: int) -> Statistics:
    """Return statistics that make at least so many series, as many functions would."""
    per_function = 2 * (5 * 3 + 5 + 2 + 1 + 3 + 1)
    functions = tuple(f"function-{n}" for n in range(math.ceil(at_least / per_function)))
    return statistics(functions)


def sorted_reasons() -> tuple[str, ...]:
    """Return the words that a rejection may be counted under."""
    kinds = [kind for kind in _rejections(Rejected) if kind.__module__ == Rejected.__module__]
    return tuple(sorted({"journal", *(kind.reason for kind in kinds)}))


def _rejections(kind: type[Rejected]) -> list[type[Rejected]]:
    below = kind.__subclasses__()
    return below + [each for sub in below for each in _rejections(sub)]


def _empty(histogram: HistogramView) -> HistogramView:
    return HistogramView(histogram.bounds, (0,) * len(histogram.counts), 0.0)
