"""Instances: what a quota counts, who holds how many, and whether one more may start."""

from collections import deque

from dispatcher.emulator.providers import Shortage
from dispatcher.emulator.settings import Account, Function, Ramp


class Instance:
    """One sandbox of a function. *load* is the number of runs that it carries."""

    __slots__ = ("id", "idle_since", "load")

    def __init__(self, identity: str) -> None:
        self.id = identity
        self.load = 0
        self.idle_since = 0.0

    def __repr__(self) -> str:
        return f"<Instance {self.id} load={self.load}>"


class Bucket:
    """A token bucket: *burst* at once, refilled by *per_s* tokens a second."""

    def __init__(self, burst: float, per_s: float) -> None:
        assert burst >= 1, burst
        self._burst = float(burst)
        self._per_s = per_s
        self._tokens = self._burst
        self._filled_at: float | None = None

    def take(self, now: float) -> bool:
        """Take one token if there is one."""
        if self._filled_at is not None:
            grown = max(0.0, now - self._filled_at) * self._per_s
            self._tokens = min(self._burst, self._tokens + grown)
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Pool:
    """The instances of one function: busy ones, and idle ones that are still warm."""

    def __init__(self, name: str, function: Function) -> None:
        self.name = name
        self.function = function
        self.created = 0
        self.peak = 0
        self.seconds = 0.0
        """Instance-seconds held so far."""
        self._busy: dict[Instance, None] = {}
        self._open: list[Instance] = []
        self._idle: deque[Instance] = deque()
        self._counted_at: float | None = None
        self.ramp: Bucket | None = None

    def __repr__(self) -> str:
        return f"<Pool {self.name} in_use={self.in_use} idle={len(self._idle)}>"

    @property
    def in_use(self) -> int:
        """How many instances carry at least one run."""
        return len(self._busy)

    @property
    def fits(self) -> bool:
        """Whether one more run would fit on a busy instance."""
        return bool(self._open)

    def warm(self, now: float) -> bool:
        """Return whether an idle instance is still warm; forget those that are not."""
        idle = self._idle
        while idle and idle[0].idle_since + self.function.idle_s < now:
            idle.popleft()
        return bool(idle)

    def place(self, now: float) -> tuple[Instance, bool]:
        """Put a run on the fullest instance with room; return it, and whether it is cold."""
        self.count(now)
        cold = False
        if self._open:
            instance = max(self._open, key=lambda candidate: candidate.load)
        else:
            if self.warm(now):
                instance = self._idle.pop()
            else:
                self.created += 1
                instance = Instance(f"{self.name}-{self.created:x}")
                cold = True
            assert instance.load == 0, instance
            self._busy[instance] = None
            self._open.append(instance)
            self.peak = max(self.peak, len(self._busy))
        instance.load += 1
        if instance.load >= self.function.instance_concurrency:
            self._open.remove(instance)
        return instance, cold

    def release(self, instance: Instance, now: float) -> None:
        """Take a run off its instance or, where runs are packed, off the emptiest one."""
        self.count(now)
        if self.function.placement == "packed":
            if self._open:
                instance = min(self._open, key=lambda candidate: candidate.load)
            elif instance.load == 0:
                instance = next(iter(self._busy))
        assert instance.load > 0, (instance, self)
        instance.load -= 1
        if instance.load == 0:
            del self._busy[instance]
            if instance in self._open:
                self._open.remove(instance)
            instance.idle_since = now
            self._idle.append(instance)
        elif instance.load < self.function.instance_concurrency and instance not in self._open:
            self._open.append(instance)

    def change(self, function: Function, now: float) -> None:
        """Go on with other settings; what runs keeps its place."""
        self.count(now)
        self.function = function
        self._open = [item for item in self._busy if item.load < function.instance_concurrency]

    def count(self, now: float) -> None:
        """Add the instance-seconds since the last change."""
        if self._counted_at is not None and now > self._counted_at:
            self.seconds += len(self._busy) * (now - self._counted_at)
        self._counted_at = now


class Fleet:
    """
    All instances of an account, and the rules by which another one may start.

    Reservations are kept free for their functions. *Foreign* instances are those of callers
    that are not emulated: they want so many, and never more than the unreserved part is had.
    """

    def __init__(self, account: Account) -> None:
        self.quota = account.quota
        self.foreign_wanted = account.foreign
        self.in_use = 0
        self.peak = 0
        self.total_peak = 0
        """The most instances in use at once, the foreign ones included."""
        self.free_seconds = 0.0
        """Instance-seconds that the quota left to us beside the foreign load."""
        self.pools: dict[str, Pool] = {}
        self._account = account
        self._ramp = None if account.rules.ramp_per_function else _ramp(account.ramp)
        self._reserved = 0
        self._reserved_in_use = 0
        self._vcpu_milli = 0
        self._counted_at: float | None = None

    def __repr__(self) -> str:
        return f"<Fleet in_use={self.in_use} foreign={self.foreign} quota={self.quota}>"

    @property
    def unreserved(self) -> int:
        """The part of the quota that no function has reserved."""
        return max(0, self.quota - self._reserved)

    @property
    def foreign(self) -> int:
        """The instances that foreign callers hold now."""
        left = self.unreserved - (self.in_use - self._reserved_in_use)
        return max(0, min(self.foreign_wanted, left))

    def add(self, pool: Pool) -> None:
        """Take a function's instances under this quota."""
        assert pool.name not in self.pools, pool
        assert pool.in_use == 0, pool
        if self._account.rules.ramp_per_function:
            pool.ramp = _ramp(self._account.ramp)
        self.pools[pool.name] = pool
        self._reserved += pool.function.reserved or 0

    def acquire(self, pool: Pool, now: float) -> tuple[Instance, bool] | Shortage:
        """Return an instance for one more run, and whether it is cold; or what is short."""
        self.count(now)
        if not pool.fits:
            shortage = self._shortage(pool, now)
            if shortage is not None:
                return shortage
            self.in_use += 1
            if pool.function.reserved is not None:
                self._reserved_in_use += 1
            self._vcpu_milli += _milli(pool.function.vcpu)
        placed = pool.place(now)
        self.peak = max(self.peak, self.in_use)
        self.total_peak = max(self.total_peak, self.in_use + self.foreign)
        return placed

    def release(self, pool: Pool, instance: Instance, now: float) -> None:
        """Take one run off its instance, which is idle when that was the last."""
        self.count(now)
        before = pool.in_use
        pool.release(instance, now)
        if pool.in_use < before:
            self.in_use -= 1
            if pool.function.reserved is not None:
                self._reserved_in_use -= 1
            self._vcpu_milli -= _milli(pool.function.vcpu)
        assert self.in_use >= 0, self

    def change(self, now: float, *, quota: int | None = None, foreign: int | None = None) -> None:
        """Set the quota or the foreign load; nothing that runs is ended."""
        self.count(now)
        if quota is not None:
            assert quota >= 0, quota
            self.quota = quota
        if foreign is not None:
            assert foreign >= 0, foreign
            self.foreign_wanted = foreign
        self.total_peak = max(self.total_peak, self.in_use + self.foreign)

    def change_function(self, pool: Pool, function: Function, now: float) -> None:
        """Give a function other settings; nothing that runs is ended."""
        self.count(now)
        pool.change(function, now)
        pools = self.pools.values()
        self._reserved = sum(item.function.reserved or 0 for item in pools)
        self._reserved_in_use = sum(
            item.in_use for item in pools if item.function.reserved is not None
        )
        self._vcpu_milli = sum(item.in_use * _milli(item.function.vcpu) for item in pools)

    def count(self, now: float) -> None:
        """Add the instance-seconds that were free for us since the last change."""
        if self._counted_at is not None and now > self._counted_at:
            free = max(0, self.quota - self.foreign)
            self.free_seconds += free * (now - self._counted_at)
        self._counted_at = now

    def _shortage(self, pool: Pool, now: float) -> Shortage | None:
        function = pool.function
        caps = [cap for cap in (function.reserved, function.instances_max) if cap is not None]
        if caps and pool.in_use >= min(caps):
            return Shortage.FUNCTION
        if self.in_use + self.foreign + 1 > self.quota:
            return Shortage.ACCOUNT
        if function.reserved is None:
            mine = self.in_use - self._reserved_in_use
            if mine + self.foreign + 1 > self.unreserved:
                return Shortage.ACCOUNT
        vcpu_max = self._account.vcpu_max
        if vcpu_max and self._vcpu_milli + _milli(function.vcpu) > _milli(vcpu_max):
            return Shortage.RESOURCE
        # Last, since it takes a token.
        ramp = self._ramp or pool.ramp
        if ramp is not None and not pool.warm(now) and not ramp.take(now):
            return Shortage.RAMP
        return None


def _ramp(ramp: Ramp | None) -> Bucket | None:
    return None if ramp is None else Bucket(ramp.burst, ramp.per_minute / 60.0)


def _milli(vcpu: float) -> int:
    """Return thousandths, so that sums come back to zero exactly."""
    return round(vcpu * 1000)
