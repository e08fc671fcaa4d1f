"""What differs between the two clouds, as data: limits, default retries, and the names of refusals."""

from enum import StrEnum

import msgspec

MIB = 1024 * 1024


class Shortage(StrEnum):
    """What a refused invocation lacked."""

    ACCOUNT = "account"
    """Instances of the account's quota, which all functions and all callers share."""
    FUNCTION = "function"
    """Instances of the function's own reservation or cap."""
    RAMP = "ramp"
    """Permission to create one more instance at this moment: the scale-out rate."""
    RESOURCE = "resource"
    """vCPUs of the account."""
    RATE = "rate"
    """Requests per second of the caller."""
    QUEUE = "queue"
    """Room in the hidden queue of asynchronous invocations."""


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of one cloud. Times are in seconds, sizes in bytes."""

    name: str
    payload_sync_max: int
    payload_async_max: int
    retry_attempts_max: int
    """How often the cloud itself repeats an asynchronous invocation whose function failed."""
    retry_waits_s: tuple[float, ...]
    """The waits before those repeats; the last one serves for all that follow."""
    event_age_max_s: float
    throttle_wait_base_s: float
    throttle_wait_max_s: float
    zero_reserved_drops: bool
    """Whether a reservation of zero ends a queued invocation at once instead of keeping it."""
    ramp_per_function: bool
    codes: dict[Shortage, str]
    """The cloud's own word for each shortage: the `Reason` of Lambda, the `Code` of FC."""


LAMBDA = Provider(
    name="aws-lambda",
    # "MB" means 1024 KB in the quota table: lambda/latest/dg/gettingstarted-limits.html.
    payload_sync_max=6 * MIB,
    payload_async_max=MIB,
    # lambda/latest/dg/invocation-async-error-handling.html: two repeats, a minute and two
    # minutes apart; throttles from 1 s, doubling, up to 5 minutes, for 6 hours.
    retry_attempts_max=2,
    retry_waits_s=(60.0, 120.0),
    event_age_max_s=21600.0,
    throttle_wait_base_s=1.0,
    throttle_wait_max_s=300.0,
    zero_reserved_drops=True,
    ramp_per_function=True,
    codes={
        Shortage.ACCOUNT: "ConcurrentInvocationLimitExceeded",
        Shortage.FUNCTION: "ReservedFunctionConcurrentInvocationLimitExceeded",
        Shortage.RAMP: "ConcurrentInvocationLimitExceeded",
        Shortage.RESOURCE: "ConcurrentInvocationLimitExceeded",
        Shortage.RATE: "CallerRateLimitExceeded",
        Shortage.QUEUE: "FunctionInvocationRateLimitExceeded",
    },
)

FC = Provider(
    name="aliyun-fc",
    # help.aliyun.com: functioncompute/limits-of-usage.
    payload_sync_max=32 * MIB,
    payload_async_max=128 * 1024,
    # help.aliyun.com: functioncompute/retry-policy. The waits between repeats of a failing
    # function are not documented; those of throttles are, but not where their doubling ends.
    retry_attempts_max=3,
    retry_waits_s=(1.0, 2.0, 4.0),
    event_age_max_s=86400.0,
    throttle_wait_base_s=0.5,
    throttle_wait_max_s=300.0,
    zero_reserved_drops=False,
    ramp_per_function=False,
    codes={
        Shortage.ACCOUNT: "ResourceExhausted",
        Shortage.FUNCTION: "FunctionResourceExhausted",
        Shortage.RAMP: "ResourceExhausted",
        Shortage.RESOURCE: "ResourceThrottled",
        Shortage.RATE: "Throttling.User",
        Shortage.QUEUE: "ResourceExhausted",
    },
)

TASK_RATE_CODE = "Throttling.Api"
"""FC's word for too many requests on tasks."""

PROVIDERS = {provider.name: provider for provider in (LAMBDA, FC)}
