"""What the cloud knows of an account: its functions, their configuration, and what was counted."""

from collections import Counter, deque

import msgspec

from dispatcher.emulator.instances import Bucket, Fleet, Pool
from dispatcher.emulator.settings import DEFAULT_FUNCTION, Account, Function
from dispatcher.emulator.tasks import TaskIndex

FUNCTIONS_MAX = 100_000
"""How many functions without a section an account may come to know."""

DELAYS_KEPT = 10_000

_LATEST = frozenset({None, "$LATEST", "LATEST"})


class AsyncConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How asynchronous invocations of a function (or one of its qualifiers) are handled."""

    retry_attempts_max: int
    event_age_max_s: float
    on_success: str | None = None
    on_failure: str | None = None
    async_task: bool = False
    created_at: float | None = None
    """Seconds on the cloud's clock; None: nobody put it, it is the default."""
    modified_at: float | None = None


class Counts:
    """What happened to a function's invocations since the start or the last reset."""

    def __init__(self) -> None:
        self.accepted_sync = 0
        self.accepted_async = 0
        self.runs_sync = 0
        self.runs_async = 0
        self.cold_starts = 0
        self.answered = 0
        """Synchronous calls that have ended, whether the function failed or not."""
        self.answered_failed = 0
        self.abandoned = 0
        """Synchronous runs that ended because their caller hung up: FC only."""
        self.succeeded = 0
        self.failed = 0
        self.expired = 0
        self.dropped = 0
        self.stopped = 0
        self.duplicates_refused = 0
        self.repeats = 0
        """Runs of an invocation after its first: the cloud's own repeats."""
        self.throttles_sync: Counter[str] = Counter()
        """Refused synchronous calls (and asynchronous ones over the rate), by code."""
        self.throttles_async: Counter[str] = Counter()
        """Attempts of the hidden queue that found no instance, by code."""
        self.refusals: Counter[str] = Counter()
        self.start_delays: deque[float] = deque(maxlen=DELAYS_KEPT)
        self.start_delay_max_s = 0.0


class FunctionState:
    """One function: its settings, its instances, what waits and runs."""

    def __init__(self, name: str, settings: Function, account: Account) -> None:
        self.name = name
        self.pool = Pool(name, settings)
        self.counts = Counts()
        self.configs: dict[str | None, AsyncConfig] = {}
        self.queued = 0
        """Asynchronous invocations that have been accepted and do not run."""
        self.running = 0
        self.running_async = 0
        self._account = account

    @property
    def settings(self) -> Function:
        """How the function behaves now."""
        return self.pool.function

    def arn(self, qualifier: str | None = None) -> str:
        """Return the ARN, in the form of the account's cloud."""
        account = self._account
        if account.provider == "aliyun-fc":
            base = f"acs:fc:{account.region}:{account.account_id}:functions/{self.name}"
            return base if qualifier is None else f"{base}/{qualifier}"
        base = f"arn:aws:lambda:{account.region}:{account.account_id}:function:{self.name}"
        return base if qualifier is None else f"{base}:{qualifier}"

    def config(self, qualifier: str | None) -> AsyncConfig:
        """Return what was put for the qualifier, or else what the settings say."""
        # Unqualified calls run the latest version, and follow its configuration.
        put = self.configs.get(None if qualifier in _LATEST else qualifier)
        return self.default_config() if put is None else put

    def default_config(self) -> AsyncConfig:
        """Return what the settings say."""
        settings, rules = self.settings, self._account.rules
        attempts, age_s = settings.max_async_retry_attempts, settings.max_async_event_age_s
        return AsyncConfig(
            retry_attempts_max=rules.retry_attempts_max if attempts is None else attempts,
            event_age_max_s=rules.event_age_max_s if age_s is None else age_s,
            on_success=self._queue_arn(settings.on_success),
            on_failure=self._queue_arn(settings.on_failure),
            async_task=settings.async_task and self._account.provider == "aliyun-fc",
        )

    def _queue_arn(self, queue: str | None) -> str | None:
        if queue is None or queue.startswith("arn:"):
            return queue
        return f"arn:aws:sqs:{self._account.region}:{self._account.account_id}:{queue}"


class AccountState:
    """One account: the fleet under its quota, its functions and FC tasks."""

    def __init__(self, name: str, settings: Account, *, tasks_max: int) -> None:
        self.name = name
        self.settings = settings
        self.rules = settings.rules
        self.fleet = Fleet(settings)
        self.tasks = TaskIndex(tasks_max)
        self.functions: dict[str, FunctionState] = {}
        self.queued = 0
        self.queued_max = 0
        self.refused: Counter[str] = Counter()
        """Requests refused before a function was found, by code."""
        self.rate = bucket_of(settings.rate_max_per_s)
        self.task_rate = bucket_of(settings.task_rate_max_per_s)
        for function, section in settings.functions.items():
            if function != DEFAULT_FUNCTION:
                self.put(function, section)

    def find(self, name: str) -> FunctionState | None:
        """Return the function; None where there is none of that name."""
        known = self.functions.get(name)
        if known is not None or not self.settings.unlisted or len(self.functions) > FUNCTIONS_MAX:
            return known
        return self.put(name, self.default_function())

    def default_function(self) -> Function:
        """Return the settings of functions without a section of their own."""
        return self.settings.functions.get(DEFAULT_FUNCTION, Function())

    def put(self, name: str, section: Function) -> FunctionState:
        """Create a function."""
        state = FunctionState(name, section, self.settings)
        self.fleet.add(state.pool)
        self.functions[name] = state
        return state

    def forget_counts(self, now: float) -> None:
        """Begin to count anew; what waits and runs stays."""
        self.fleet.count(now)
        self.fleet.peak = self.fleet.in_use
        self.fleet.total_peak = self.fleet.in_use + self.fleet.foreign
        self.fleet.free_seconds = 0.0
        self.queued_max = self.queued
        self.refused.clear()
        for function in self.functions.values():
            function.counts = Counts()
            function.pool.count(now)
            function.pool.peak = function.pool.in_use
            function.pool.seconds = 0.0


def bucket_of(rate_per_s: float) -> Bucket | None:
    """Return a bucket for so many requests a second; 0: unlimited, no bucket."""
    return Bucket(max(1.0, rate_per_s), rate_per_s) if rate_per_s else None
