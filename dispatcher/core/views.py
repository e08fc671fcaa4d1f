"""What callers and dashboards are shown: immutable, taken from one moment."""

from collections.abc import AsyncIterator, Awaitable
from typing import NamedTuple, Protocol

from msgspec import UNSET, Struct, UnsetType

from dispatcher.core.model import Failure, GateKind, Provider, Record, Replied, State


class WaitingFor(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Why an invocation waits. `until` is in seconds from now; the HTTP API makes it a time."""

    gate: GateKind
    name: str
    limit: float | UnsetType = UNSET
    in_use: float | UnsetType = UNSET
    ahead: int | UnsetType = UNSET
    """Due invocations of the same account and tenant that come before it."""
    until_s: float | UnsetType = UNSET


class View(Struct, frozen=True, kw_only=True, gc=False):
    """One invocation as it stands."""

    record: Record
    waiting_for: WaitingFor | None = None


class Acceptance(Struct, frozen=True, gc=False):
    """An invocation that is on disk."""

    id: str
    state: State
    duplicate: bool
    """The key was known: this is the id of the first."""


class End(Struct, frozen=True, kw_only=True, gc=False):
    """How an invocation ended."""

    id: str
    state: State
    result: bytes | None = None
    failure: Failure | None = None
    estimated: bool = False

    @property
    def error(self) -> Failure | None:
        """Return why it did not succeed, or why the result of a success is not here."""
        return self.failure


class Queued(Struct, frozen=True, kw_only=True):
    """How many invocations wait."""

    due: int = 0
    delayed: int = 0


class FunctionView(Struct, frozen=True, kw_only=True):
    """One function of an account."""

    limit: int | None
    in_use: int
    queued: int
    paused: bool
    untracked: str | UnsetType = UNSET
    """Why its ends are estimated although they should be learned."""


class TenantView(Struct, frozen=True, kw_only=True):
    """One tenant of an account; `in_use` in instances, so it may be a fraction."""

    weight: float
    reserved: int
    limit: int | None
    in_use: float
    queued: int
    oldest_age_s: float = 0.0
    """How long its longest waiting due invocation has been due."""


class AccountView(Struct, frozen=True, kw_only=True):
    """One account: its limits, what is held and what waits."""

    name: str
    provider: Provider
    account_id: str
    region: str
    quota: int
    limit: int
    in_use: int
    paused: bool
    queued: Queued
    oldest_age_s: float
    functions: dict[str, FunctionView]
    tenants: dict[str, TenantView]
    headroom: int = 0
    """The part of the quota that is left to others."""
    adaptive_limit: int | UnsetType = UNSET
    """Where the limit is adaptive: what it has come to, which is `limit`."""
    foreign: int | UnsetType = UNSET
    """An estimate of the instances that others use of the quota, from when it was last met."""
    blocked_by: GateKind | UnsetType = UNSET
    """The gate that holds due work up, if any does."""
    adjusted: tuple[str, ...] | UnsetType = UNSET
    """Pointers of what differs from the configuration, until the next reload or restart."""


class HistogramView(Struct, frozen=True):
    """A histogram: upper bounds, the count of each bucket (the last one is +Inf), the sum."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


Labels = tuple[str, ...]


class Statistics(Struct, frozen=True, kw_only=True):
    """
    Everything that is measured, from one moment, by the names of the metrics.

    Keys of the mappings are label values in the order in which the metric names its labels.
    """

    accepted: dict[Labels, int]  #: account, tenant, source
    rejected: dict[Labels, int]  #: account, reason
    ended: dict[Labels, int]  #: account, function, tenant, state
    send_attempts: dict[Labels, int]  #: account, function, result
    throttles: dict[Labels, int]  #: account, function, reason
    forced_releases: dict[Labels, int]  #: account, function
    late_completions: dict[Labels, int]  #: account
    blocked_seconds: dict[Labels, float]  #: account, gate
    recovered: dict[Labels, int]  #: state
    requests_in_flight: dict[Labels, int]  #: account
    in_flight: dict[Labels, int]  #: account, function, tenant
    instances_in_use: dict[Labels, int]  #: account
    instances_limit: dict[Labels, int]  #: account
    instances_quota: dict[Labels, int]  #: account
    queue_jobs: dict[Labels, int]  #: account, tenant, state (due, delayed)
    queue_oldest_age_s: dict[Labels, float]  #: account
    queue_jobs_max: int
    dead_jobs: dict[Labels, int]  #: account
    circuit_open: dict[Labels, int]  #: account; 1 while sends are stopped after a 403
    paused: dict[Labels, int]  #: account
    queue_wait_s: dict[Labels, HistogramView]  #: account
    send_s: dict[Labels, HistogramView]  #: account
    run_s: dict[Labels, HistogramView]  #: account
    start_delay_s: dict[Labels, HistogramView]  #: account
    reclaim_s: dict[Labels, HistogramView]  #: account
    adaptive_limit: dict[Labels, int]  #: account; only where the limit is adaptive
    foreign_instances: dict[Labels, int]  #: account
    untracked: dict[
        Labels, int
    ]  #: account, function; 1 while its ends are estimated for want of news
    accept_s: dict[Labels, HistogramView]  #: account
    journal_commit_s: HistogramView
    loop_lag_s: HistogramView
    journal_bytes: int
    journal_errors: int
    config_reloads: dict[Labels, int]  #: result
    notices: dict[Labels, int]  #: account, result


class Parts(Protocol):
    """A body that comes part by part; whoever takes it closes it in the end."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Give the parts."""
        ...

    def __anext__(self) -> Awaitable[bytes]:
        """Return the next part. Raises `ConnectionError` where the body breaks off."""
        ...

    def aclose(self) -> Awaitable[None]:
        """Want no more of them."""
        ...


class Streamed(NamedTuple):
    """A good reply whose body is large, and still on its way."""

    reply: Replied
    """Without its payload."""
    body: Parts
