"""The whole list of metrics: names, types, labels, meanings, and where each value is."""

import platform
import sqlite3
from collections.abc import Callable, Mapping
from enum import StrEnum

from msgspec import Struct

from dispatcher.core.views import HistogramView, Labels, Statistics
from dispatcher.errors import DiskFull, QueueFull
from dispatcher.version import __version__

Values = Mapping[Labels, float | HistogramView]


class Kind(StrEnum):
    """The types of metrics in use, in Prometheus' own words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Family(Struct, frozen=True):
    """One metric."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str
    read: Callable[[Statistics], Values]
    """Gives the values by their label values, in the order of *labels*."""


def _build_info(_: Statistics) -> Values:
    return {(__version__, platform.python_version(), sqlite3.sqlite_version): 1}


# -- Zeros: a counter that first shows above zero hides its first event from `increase` ----------


def _rejected(statistics: Statistics) -> Values:
    reasons = (QueueFull.reason, DiskFull.reason)
    zeros = {(*account, reason): 0 for account in statistics.instances_quota for reason in reasons}
    return zeros | statistics.rejected


def _forced_releases(statistics: Statistics) -> Values:
    # A slot is forced free long after its send, so the zero has been scraped by then.
    zeros = {(account, function): 0 for account, function, _ in statistics.send_attempts}
    return zeros | statistics.forced_releases


# -- The list ------------------------------------------------------------------------------------

_ACCOUNT = ("account",)
_FUNCTION = ("account", "function")

FAMILIES: tuple[Family, ...] = (
    Family(
        "dispatcher_accepted_total",
        Kind.COUNTER,
        ("account", "tenant", "source"),
        "Invocations accepted, by the way in that they came.",
        lambda statistics: statistics.accepted,
    ),
    Family(
        "dispatcher_rejected_total",
        Kind.COUNTER,
        ("account", "reason"),
        "Invocations refused at the door; they never run.",
        _rejected,
    ),
    Family(
        "dispatcher_ended_total",
        Kind.COUNTER,
        ("account", "function", "tenant", "state"),
        "Invocations that ended, by the state that they ended in.",
        lambda statistics: statistics.ended,
    ),
    Family(
        "dispatcher_send_attempts_total",
        Kind.COUNTER,
        ("account", "function", "result"),
        "Sends to the cloud, by their result: ok, throttled, refused, error or timeout.",
        lambda statistics: statistics.send_attempts,
    ),
    Family(
        "dispatcher_throttles_total",
        Kind.COUNTER,
        ("account", "function", "reason"),
        "Sends that the cloud refused for want of capacity, by the cloud's own code.",
        lambda statistics: statistics.throttles,
    ),
    Family(
        "dispatcher_forced_releases_total",
        Kind.COUNTER,
        _FUNCTION,
        "Slots taken back at hold_max_s, since no completion had come.",
        _forced_releases,
    ),
    Family(
        "dispatcher_late_completions_total",
        Kind.COUNTER,
        _ACCOUNT,
        "Completions that came after their slot had been taken back.",
        lambda statistics: statistics.late_completions,
    ),
    Family(
        "dispatcher_blocked_seconds_total",
        Kind.COUNTER,
        ("account", "gate"),
        "Time during which due invocations waited, by the gate that held them up.",
        lambda statistics: statistics.blocked_seconds,
    ),
    Family(
        "dispatcher_requests_in_flight",
        Kind.GAUGE,
        _ACCOUNT,
        "HTTP requests to the cloud under way.",
        lambda statistics: statistics.requests_in_flight,
    ),
    Family(
        "dispatcher_in_flight",
        Kind.GAUGE,
        ("account", "function", "tenant"),
        "Invocations that hold a slot.",
        lambda statistics: statistics.in_flight,
    ),
    Family(
        "dispatcher_instances_in_use",
        Kind.GAUGE,
        _ACCOUNT,
        "Instances that the slots stand for.",
        lambda statistics: statistics.instances_in_use,
    ),
    Family(
        "dispatcher_instances_limit",
        Kind.GAUGE,
        _ACCOUNT,
        "Instances that may be held: the limit in force.",
        lambda statistics: statistics.instances_limit,
    ),
    Family(
        "dispatcher_adaptive_limit",
        Kind.GAUGE,
        _ACCOUNT,
        "What the adaptive limit has come to, for accounts that have one.",
        lambda statistics: statistics.adaptive_limit,
    ),
    Family(
        "dispatcher_foreign_instances",
        Kind.GAUGE,
        _ACCOUNT,
        "Instances of the quota that others seemed to use when it was last met: an estimate.",
        lambda statistics: statistics.foreign_instances,
    ),
    Family(
        "dispatcher_instances_quota",
        Kind.GAUGE,
        _ACCOUNT,
        "Instances of the whole account, as configured.",
        lambda statistics: statistics.instances_quota,
    ),
    Family(
        "dispatcher_queue_jobs",
        Kind.GAUGE,
        ("account", "tenant", "state"),
        "Invocations that wait, due or delayed.",
        lambda statistics: statistics.queue_jobs,
    ),
    Family(
        "dispatcher_queue_jobs_max",
        Kind.GAUGE,
        (),
        "Invocations that may be accepted and not ended; more are refused.",
        lambda statistics: {(): statistics.queue_jobs_max},
    ),
    Family(
        "dispatcher_queue_oldest_age_seconds",
        Kind.GAUGE,
        _ACCOUNT,
        "How long the oldest due invocation has waited.",
        lambda statistics: statistics.queue_oldest_age_s,
    ),
    Family(
        "dispatcher_dead_jobs",
        Kind.GAUGE,
        _ACCOUNT,
        "Dead letters that are kept and can be redriven.",
        lambda statistics: statistics.dead_jobs,
    ),
    Family(
        "dispatcher_circuit_open",
        Kind.GAUGE,
        _ACCOUNT,
        "1 while nothing is sent because the cloud denied the account's credentials.",
        lambda statistics: statistics.circuit_open,
    ),
    Family(
        "dispatcher_paused",
        Kind.GAUGE,
        _ACCOUNT,
        "1 while the account is paused by hand.",
        lambda statistics: statistics.paused,
    ),
    Family(
        "dispatcher_queue_wait_seconds",
        Kind.HISTOGRAM,
        _ACCOUNT,
        "From the moment an invocation was due to its send.",
        lambda statistics: statistics.queue_wait_s,
    ),
    Family(
        "dispatcher_send_seconds",
        Kind.HISTOGRAM,
        _ACCOUNT,
        "Requests to the cloud, from start to reply.",
        lambda statistics: statistics.send_s,
    ),
    Family(
        "dispatcher_run_seconds",
        Kind.HISTOGRAM,
        _ACCOUNT,
        "From the cloud's acceptance of an invocation to its end.",
        lambda statistics: statistics.run_s,
    ),
    Family(
        "dispatcher_start_delay_seconds",
        Kind.HISTOGRAM,
        _ACCOUNT,
        "How long the cloud kept invocations queued after it had accepted them, where that is known.",
        lambda statistics: statistics.start_delay_s,
    ),
    Family(
        "dispatcher_reclaim_seconds",
        Kind.HISTOGRAM,
        _ACCOUNT,
        "How long tenants with due work waited for instances reserved for them that others had borrowed.",
        lambda statistics: statistics.reclaim_s,
    ),
    Family(
        "dispatcher_untracked",
        Kind.GAUGE,
        _FUNCTION,
        "1 while the ends of a function are estimated because the cloud does not tell them.",
        lambda statistics: statistics.untracked,
    ),
    Family(
        "dispatcher_accept_seconds",
        Kind.HISTOGRAM,
        _ACCOUNT,
        "From enqueue to the journal's commit.",
        lambda statistics: statistics.accept_s,
    ),
    Family(
        "dispatcher_journal_commit_seconds",
        Kind.HISTOGRAM,
        (),
        "Commits of the journal.",
        lambda statistics: {(): statistics.journal_commit_s},
    ),
    Family(
        "dispatcher_journal_bytes",
        Kind.GAUGE,
        (),
        "Size of the journal, its write-ahead log included.",
        lambda statistics: {(): statistics.journal_bytes},
    ),
    Family(
        "dispatcher_journal_errors_total",
        Kind.COUNTER,
        (),
        "Writes to the journal that failed.",
        lambda statistics: {(): statistics.journal_errors},
    ),
    Family(
        "dispatcher_recovered_total",
        Kind.COUNTER,
        ("state",),
        "Invocations found in the journal at the start, by the state they were in.",
        lambda statistics: statistics.recovered,
    ),
    Family(
        "dispatcher_loop_lag_seconds",
        Kind.HISTOGRAM,
        (),
        "How late the event loop runs what is due.",
        lambda statistics: {(): statistics.loop_lag_s},
    ),
    Family(
        "dispatcher_config_reloads_total",
        Kind.COUNTER,
        ("result",),
        "Re-readings of the configuration: ok, or refused, which left the old one in force.",
        lambda statistics: statistics.config_reloads,
    ),
    Family(
        "dispatcher_notices_total",
        Kind.COUNTER,
        ("account", "result"),
        "Calls back to the URLs of invocations that ended: ok, failed after all tries, refused, "
        "or dropped since too many waited.",
        lambda statistics: statistics.notices,
    ),
    Family(
        "dispatcher_build_info",
        Kind.GAUGE,
        ("version", "python", "sqlite"),
        "Always 1: the versions of the dispatcher, Python and SQLite.",
        _build_info,
    ),
)
