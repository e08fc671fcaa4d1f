"""The rules: the part of the configuration that the core decides by."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from dispatcher.core.model import CallType, Source

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]
PositiveSeconds = Annotated[float, Meta(gt=0)]


class RampRules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast the cloud lets the number of instances grow."""

    burst: Positive
    """Instances that may begin at once after a lull."""
    per_minute: Annotated[float, Meta(gt=0)]
    """Instances that may begin each minute after that."""


class ResourceRules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the quota counts beside instances."""

    vcpu: Annotated[float, Meta(gt=0)]
    """vCPUs of all instances together; each function needs its own `vcpu` then."""


class FunctionRules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known and wanted of one function."""

    type: CallType = CallType.ASYNC
    """How the function is called when the invocation does not say."""
    completion: Source | None = None
    """
    How its end is known. By default `task` at aliyun-fc; at aws-lambda `destination` if the
    account has a `completion_queue`, else `duration`; `response` with `type = "sync"`.
    """
    instance_concurrency: Positive = 1
    """Invocations that one instance runs at the same time."""
    instances_max: Positive | None = None
    """Instances that the function may hold; unset: as many as the account."""
    hold_max_s: PositiveSeconds = 900.0
    """
    How long a slot is held when no completion comes. Keep it above the function's own time-out:
    a slot that is freed while the function still runs breaks the account's quota.
    """
    duration_s: PositiveSeconds | None = None
    """How long a run takes: required with `completion = "duration"`, elsewhere a first guess."""
    attempts_max: Positive = 1
    """Runs in all that the dispatcher starts when the function fails; 1 is no retry."""
    vcpu: Annotated[float, Meta(ge=0)] = 0.0
    """vCPUs of one instance, for the account's `resources.vcpu`."""
    ramp: RampRules | None = None
    """
    How fast its instances may grow in number. Lambda adds at most 1000 in 10 s to a function:
    `{ burst = 1000, per_minute = 6000 }`. Unset: as fast as the account's.
    """


class TenantRules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The share of one tenant in an account."""

    weight: Annotated[float, Meta(gt=0)] = 1.0
    """Its share of the instance-seconds, relative to the other tenants that have work."""
    reserved: Count = 0
    """Instances that it gets back first; others may borrow them while it is idle."""
    limit: Positive | None = None
    """Instances that it may hold at most; unset: as many as the account."""


class AccountRules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The quota of one account in one region and how it is shared."""

    quota: Positive
    """Instances of the whole account in this region. No default: ask the provider's console."""
    headroom: Count = 0
    """Instances left to callers that do not come through here."""
    limit: Literal["fixed", "adaptive"] = "fixed"
    """
    The limit in force: `fixed` is the quota less the headroom, `adaptive` goes below that while
    the cloud throttles or delays.
    """
    limit_min: Positive = 1
    """What the adaptive limit never goes below, however much others use."""
    unlisted: bool = True
    """Functions without a section of their own are allowed."""
    requests_max: Positive = 256
    """HTTP requests in flight to the cloud."""
    rate_max_per_s: Annotated[float, Meta(ge=0)] = 0.0
    """Sends per second; 0: no limit."""
    ramp: RampRules | None = None
    """
    How fast the instances of all functions together may grow in number. Function Compute starts
    300 at once and then 300 a minute: `{ burst = 300, per_minute = 300 }`. Unset: no limit.
    """
    resources: ResourceRules | None = None
    """What the quota counts beside instances, such as `{ vcpu = 600 }`."""
    functions: dict[str, FunctionRules] = {}
    """By name; `*` holds what is true of every function without a section."""
    tenants: dict[str, TenantRules] = {}
    """By name; an invocation without a tenant belongs to `default`."""


class RetryRules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a send that was throttled, refused for a while, or lost is tried again."""

    delay_base_s: PositiveSeconds = 0.5
    """The longest first delay; each further one may be twice as long (full jitter)."""
    delay_max_s: PositiveSeconds = 60.0
    """The longest delay of all."""
    age_max_s: PositiveSeconds = 21600.0
    """After this time since its first send an invocation that still was not taken is dead."""


class Rules(Struct, frozen=True, kw_only=True):
    """All that the machine decides by."""

    accounts: dict[str, AccountRules]
    retry: RetryRules = RetryRules()
    jobs_max: Positive = 1_000_000
    at_most_once: bool = False
