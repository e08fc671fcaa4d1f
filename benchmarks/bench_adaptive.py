"""
How well limits find what others leave of a quota: `python benchmarks/bench_adaptive.py`.

Virtual time, the core in front of the emulator's own cloud, an endless backlog, four loads by
callers beyond our sight. Each cell: the share of our calls that the cloud refused / the share
used of the instance-seconds that the others left free. `docs/fairness.md` has this table.
"""
# ruff: noqa: ARG002 -- each limiter takes what the core tells, and heeds what it likes

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from dispatcher.core.adaptive import Adaptive
from tests.core.foreign_load import CASES, Case, ForeignLoad, Limiter, Result


class Fixed:
    """A semaphore of the whole quota, or of a part of it."""

    def __init__(self, part: float, quota: int) -> None:
        self.limit = int(part * quota)

    def set_bounds(self, floor: int, ceiling: int) -> None:
        """Nothing to keep to."""

    def restart(self, in_use: int) -> None:
        """Nothing to begin anew."""

    def succeeded(self, in_use: int, run_s: float | None, now: float) -> None:
        """Learn nothing."""

    def dropped(self, sent_at: float, in_use: int, now: float) -> bool:
        """Learn nothing."""
        return False


class Aimd(Fixed):
    """
    Additive increase, multiplicative decrease.

    As Netflix's `AIMDLimit` has it: 1 more with each success while half the limit is used,
    a tenth less with each drop. Or with one cut per epoch, and *per_run* more per run.
    """

    def __init__(self, quota: int, per_run: float | None = None) -> None:
        super().__init__(1, quota)
        self.quota = quota
        self.value = 20.0
        self.per_run = per_run
        self.slow = per_run is not None
        self.cut_at = -1.0
        self._set()

    def _set(self) -> None:
        self.value = min(float(self.quota), max(1.0, self.value))
        self.limit = int(self.value)

    def succeeded(self, in_use: int, run_s: float | None, now: float) -> None:
        """Grow, if half of the limit is used."""
        if 2 * in_use >= self.limit:
            gain = 1.0 if self.per_run is None or self.slow else self.per_run / self.value
            self.value += gain
            self._set()

    def dropped(self, sent_at: float, in_use: int, now: float) -> bool:
        """Cut."""
        if self.per_run is not None and sent_at <= self.cut_at:
            return False
        self.slow = False
        self.cut_at = now
        self.value *= 0.9
        self._set()
        return True


class Gradient2(Fixed):
    """Netflix's `Gradient2Limit`: round trips against their long-term mean; drops are not read."""

    def __init__(self, quota: int) -> None:
        super().__init__(1, quota)
        self.quota = quota
        self.limit = 20
        self.value = 20.0
        self.long_s = 0.0
        self.samples = 0

    def succeeded(self, in_use: int, run_s: float | None, now: float) -> None:
        """Take a sample."""
        assert run_s is not None
        self._sample(run_s, in_use)

    def dropped(self, sent_at: float, in_use: int, now: float) -> bool:
        """Take a sample like any other."""
        self._sample(now - sent_at, in_use)
        return False

    def _sample(self, short_s: float, in_use: int) -> None:
        self.samples += 1
        weight = 1 / self.samples if self.samples <= 10 else 2 / 601
        self.long_s += weight * (short_s - self.long_s)
        if self.long_s / short_s > 2:
            self.long_s *= 0.95
        if in_use < self.value / 2:
            return
        gradient = max(0.5, min(1.0, 1.5 * self.long_s / short_s))
        self.value = 0.8 * self.value + 0.2 * (self.value * gradient + 4)
        self.value = max(20.0, min(float(self.quota), self.value))
        self.limit = int(self.value)


LIMITERS: dict[str, tuple[Callable[[Case], Limiter], bool]] = {
    "semaphore of the quota": (lambda case: Fixed(1, case.quota), True),
    "semaphore of a third": (lambda case: Fixed(1 / 3, case.quota), False),
    "AIMD, a cut for each drop": (lambda case: Aimd(case.quota), False),
    "AIMD, a cut per epoch, +8": (lambda case: Aimd(case.quota, 8.0), False),
    "Gradient2": (lambda case: Gradient2(case.quota), True),
    '`limit = "adaptive"`': (lambda case: Adaptive(1, case.quota), False),
}

#: Those that do not heed refusals send thousands a second, for ever alike: less of it will do.
FLOODS_S = {"A": 20.0, "B": 40.0, "C": 6.0, "D": 60.0}


ASYNCHRONOUS = "the same, asynchronous calls"


def measured(title: str, name: str) -> Result:
    """Play one case before one limiter."""
    case = CASES[name]
    if title == ASYNCHRONOUS:
        return ForeignLoad(case, asynchronous=True).run()
    make, floods = LIMITERS[title]
    if floods:
        case = case._replace(half_period_s=FLOODS_S[name], periods=1)
    return ForeignLoad(case, make(case)).run()


def main() -> None:
    for case in CASES.values():
        print(case.name)
    print("\n| limit | " + " | ".join(CASES) + " |")
    print("|---|" + "---|" * len(CASES), flush=True)
    with ProcessPoolExecutor() as processes:
        rows = {
            title: [processes.submit(measured, title, name) for name in CASES]
            for title in (*LIMITERS, ASYNCHRONOUS)
        }
        for title, cells in rows.items():
            results = [cell.result() for cell in cells]
            row = " | ".join(f"{each.throttled:.1%} / {each.used:.0%}" for each in results)
            print(f"| {title} | {row} |", flush=True)


if __name__ == "__main__":
    main()
