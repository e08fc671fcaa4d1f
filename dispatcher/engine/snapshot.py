"""The engine: a pump that takes calls and shows its numbers, all of one moment."""

from collections import Counter
from collections.abc import Mapping

import anyio
from msgspec import UNSET, UnsetType

from dispatcher.config import differences
from dispatcher.core.account import Account
from dispatcher.core.model import Source, State
from dispatcher.core.statistics import COMMIT_BOUNDS_S, Histogram
from dispatcher.core.views import AccountView, HistogramView, Labels, Statistics
from dispatcher.engine.direct import Direct
from dispatcher.errors import NotFound

LAG_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
#: How often the loop's lag is measured: what takes a tenth of that is met once in ten times.
LAG_EVERY_S = 0.1
#: How often the dead are counted in the journal.
RECOUNT_EVERY_S = 60.0

Accounts = dict[Labels, Account]


class Engine(Direct):
    """The whole dispatcher between its edges."""

    def __init__(
        self,
        *args: object,
        commit_s: Histogram | None = None,
        notices: Mapping[Labels, int] | None = None,
        **more: object,
    ) -> None:
        """*commit_s* is filled by whoever opened the journal, *notices* by whoever tells them."""
        super().__init__(*args, **more)
        self._notices = {} if notices is None else notices
        self._commit_s = commit_s or Histogram(COMMIT_BOUNDS_S)
        self._lag_s = Histogram(LAG_BOUNDS_S)
        self.reloads: dict[Labels, int] = {("ok",): 0, ("refused",): 0}

    async def measure_lag(self) -> None:
        """Measure until cancelled how late the loop comes to what is due."""
        while True:
            due = self.clock.now() + LAG_EVERY_S
            await anyio.sleep(LAG_EVERY_S)
            self._lag_s.observe(max(0.0, self.clock.now() - due))

    async def recount_dead(self) -> None:
        """Count the dead anew until cancelled: the journal forgets them after the retention."""
        while True:
            await anyio.sleep(RECOUNT_EVERY_S)
            self.dead = await self.journal.dead()

    def accounts(self) -> list[AccountView]:
        """Return every account as it stands."""
        return [self.account(name) for name in self.machine.accounts]

    def account(self, name: str) -> AccountView:
        """Return one account as it stands. Raises `NotFound`."""
        account = self.machine.accounts.get(name)
        if account is None:
            raise NotFound(f"there is no account {name!r}")
        place, adaptive = self.places[name], account.gate.adaptive
        return AccountView(
            name=name,
            provider=place.provider,
            account_id=place.account_id,
            region=place.region,
            quota=account.gate.rules.quota,
            limit=account.gate.limit,
            in_use=account.gate.in_use,
            paused=account.gate.paused,
            queued=account.queued(),
            oldest_age_s=account.oldest_age_s(self.clock.now()),
            functions=account.function_views(),
            tenants=account.tenant_views(self.clock.now()),
            headroom=account.gate.rules.headroom,
            adaptive_limit=UNSET if adaptive is None else adaptive.limit,
            foreign=account.gate.foreign,
            blocked_by=account.blocked_by or UNSET,
            adjusted=self._adjusted(name),
        )

    def _adjusted(self, name: str) -> tuple[str, ...] | UnsetType:
        now, then = self.settings, self.configured
        # Mostly the same object, and then nothing has to be looked at.
        if now.accounts[name] is then.accounts[name]:
            return UNSET
        return differences(then, now, name) or UNSET

    def statistics(self) -> Statistics:
        """Return every number of the metrics."""
        now = self.clock.now()
        counters = self.machine.counters
        accounts: Accounts = {(name,): account for name, account in self.machine.accounts.items()}
        return Statistics(
            accepted=dict(self.accepted),
            rejected=dict(self.rejected),
            ended=dict(counters.ended),
            send_attempts=dict(counters.send_attempts),
            throttles=dict(counters.throttles),
            forced_releases=dict(counters.forced_releases),
            late_completions=dict(counters.late_completions),
            blocked_seconds=_blocked_seconds(counters.blocked_seconds, accounts, now),
            recovered={
                (state,): self.recovered.get(state, 0)
                for state in (State.WAITING, State.SENDING, State.RUNNING)
            },
            requests_in_flight={key: a.gate.requests for key, a in accounts.items()},
            in_flight={
                (a.name, *labels): count
                for a in accounts.values()
                for labels, count in a.in_flight.items()
            },
            instances_in_use={key: a.gate.in_use for key, a in accounts.items()},
            instances_limit={key: a.gate.limit for key, a in accounts.items()},
            instances_quota={key: a.gate.rules.quota for key, a in accounts.items()},
            queue_jobs=_queue_jobs(accounts),
            queue_jobs_max=self.settings.queue.jobs_max,
            queue_oldest_age_s={key: a.oldest_age_s(now) for key, a in accounts.items()},
            dead_jobs={key: self.dead.get(a.name, 0) for key, a in accounts.items()},
            circuit_open={key: int(a.gate.circuit.is_open) for key, a in accounts.items()},
            paused={key: int(a.gate.paused) for key, a in accounts.items()},
            queue_wait_s=_views({key: a.times.queue_wait_s for key, a in accounts.items()}),
            send_s=_views({key: a.times.send_s for key, a in accounts.items()}),
            run_s=_views({key: a.times.run_s for key, a in accounts.items()}),
            start_delay_s=_views({key: a.times.start_delay_s for key, a in accounts.items()}),
            untracked=_untracked(accounts),
            reclaim_s=_views({key: a.times.reclaim_s for key, a in accounts.items()}),
            adaptive_limit={
                key: a.gate.adaptive.limit
                for key, a in accounts.items()
                if a.gate.adaptive is not None
            },
            foreign_instances={key: a.gate.foreign for key, a in accounts.items()},
            accept_s=_views(self.accept_s),
            journal_commit_s=self._commit_s.view(),
            loop_lag_s=self._lag_s.view(),
            journal_bytes=self.journal.size_bytes(),
            journal_errors=0 if self.journal.failed() is None else 1,
            config_reloads=dict(self.reloads),
            notices=dict(self._notices),
        )


def _views(histograms: Mapping[Labels, Histogram]) -> dict[Labels, HistogramView]:
    return {key: histogram.view() for key, histogram in histograms.items()}


def _untracked(accounts: Accounts) -> dict[Labels, int]:
    """Tell of each function that was ever untracked whether it is, by its label."""
    told: dict[Labels, int] = {}
    for account in accounts.values():
        for function in account.functions.values():
            key = (account.name, function.label)
            if function.problem is not None:
                told[key] = 1
            elif function.rules.completion is Source.TASK:
                told.setdefault(key, 0)
    return told


def _queue_jobs(accounts: Accounts) -> dict[Labels, int]:
    """Count what waits by the labels of its tenants, several of which may share one."""
    counts: Counter[Labels] = Counter()
    for account in accounts.values():
        for tenant in account.backlog.tenants.values():
            counts[account.name, tenant.label, "due"] += tenant.due
            counts[account.name, tenant.label, "delayed"] += tenant.delayed
    return dict(counts)


def _blocked_seconds(
    counted: dict[Labels, float], accounts: Accounts, now: float
) -> dict[Labels, float]:
    """Add the time since the pump last came round to what was counted then."""
    seconds = dict(counted)
    for account in accounts.values():
        if account.blocked_by is not None:
            key = (account.name, account.blocked_by)
            seconds[key] = seconds.get(key, 0.0) + now - account.blocked_since
    return seconds
