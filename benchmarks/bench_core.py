"""
What the core's decisions cost: `python benchmarks/bench_core.py [--jobs N]`.

One invocation's whole way through the machine, without anything around it, and the memory
that one waiting invocation takes.
"""

import argparse
import gc
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from dispatcher.core.effects import Launch
from dispatcher.core.job import Job
from dispatcher.core.machine import Machine
from dispatcher.core.model import (
    Accepted,
    AccountRules,
    CallType,
    Completion,
    FunctionRules,
    Rules,
    Source,
    Verdict,
)

QUOTA = 300
ROUNDS = 8
CYCLES = 2000

ACCEPTED = Accepted("5f6a4e1c-8d0e-4c43-b6c8-2a3a2bd5f8d7")


def machine_of(**function: int) -> Machine:
    functions = {"*": FunctionRules(completion=Source.CALLBACK, **function)}  # type: ignore[arg-type]
    rules = AccountRules(quota=QUOTA, requests_max=QUOTA, functions=functions)
    return Machine(Rules(accounts={"main": rules}, jobs_max=10**9), lambda: 0.5)


def new_job(machine: Machine, seq: int, tenant: str, now: float) -> Job:
    return Job(
        id=f"i06am5d0rk{seq:016d}",
        seq=seq,
        lane=machine.accounts["main"].lane("thumbnail", None, tenant),
        payload=b"",
        type=CallType.ASYNC,
        accepted_at=now,
        due_at=now,
    )


class Load:
    """A backlog of many tenants in front of a full account."""

    def __init__(self, tenants: int, jobs: int, **function: int) -> None:
        self.machine = machine_of(**function)
        self.now = 1000.0
        self.tenants = tenants
        self.count = 0
        self.running: list[Job] = []
        self.launched: list[Launch] = []
        for _ in range(jobs):
            self.admit()
        self.due()
        self.sent()

    def admit(self) -> None:
        """Take a new invocation, its making included."""
        self.count += 1
        self.now += 1e-4
        tenant = f"tenant-{self.count % self.tenants}"
        self.machine.admit(new_job(self.machine, self.count, tenant, self.now), self.now)

    def completed(self) -> None:
        """End a run, and give its slot back."""
        job = self.running.pop(self.count % len(self.running))
        self.now += 1e-3
        done = Completion(id=job.id, verdict=Verdict.SUCCEEDED, run_s=0.3)
        self.machine.completed(job, done, self.now)

    def due(self) -> None:
        """Decide who goes next, and take the slot."""
        for effect in self.machine.due(self.now):
            assert isinstance(effect, Launch)
            self.launched.append(effect)

    def sent(self) -> None:
        """Take the cloud's word that it has it."""
        for launch in self.launched:
            self.machine.sent(launch.job, launch.slot, ACCEPTED, self.now)
            self.running.append(launch.job)
        self.launched.clear()

    def next_deadline(self) -> None:
        """Ask when to come again."""
        self.machine.next_deadline(self.now)


STEPS: tuple[Callable[[Load], None], ...] = (
    Load.admit,
    Load.completed,
    Load.due,
    Load.sent,
    Load.next_deadline,
)


def microseconds(load: Load) -> list[float]:
    """Return what each step takes for one invocation, in the best of several rounds of many."""
    rounds = []
    for _ in range(ROUNDS):
        spent = [0.0] * len(STEPS)
        for _ in range(CYCLES):
            for i, step in enumerate(STEPS):
                start = time.perf_counter()
                step(load)
                spent[i] += time.perf_counter() - start
        rounds.append([seconds / CYCLES * 1e6 for seconds in spent])
    return [min(each) for each in zip(*rounds, strict=True)]


def bytes_per_waiting_job(jobs: int) -> float:
    """Return what a waiting invocation takes beside its payload, its id included."""
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    load = Load(100, jobs)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(load.machine.jobs) == jobs
    return (after - before) / jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000, help="how many wait")
    jobs = parser.parse_args().jobs
    version = sys.version.split()[0]
    print(f"Python {version}, {jobs} waiting, quota {QUOTA}; µs each, best of {ROUNDS} rounds")
    print(f"{'':36}" + "".join(f"{step.__name__:>15}" for step in STEPS))
    cases = {
        "1 tenant": Load(1, jobs),
        "10 000 tenants": Load(10_000, jobs),
        "10 000 tenants, function at its cap": Load(10_000, jobs, instances_max=200),
    }
    for name, load in cases.items():
        print(f"{name:36}" + "".join(f"{each:15.1f}" for each in microseconds(load)))
    print(f"{'bytes per waiting job, no payload':36}{bytes_per_waiting_job(jobs):15.0f}")


if __name__ == "__main__":
    main()
