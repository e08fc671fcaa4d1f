"""
What the core's decisions cost: `python benchmarks/bench_core.py [--jobs N]`.

One invocation's whole way through the machine, without anything around it, and the memory
that one waiting invocation takes. Times are those of this process on a CPU, so neighbours do not
count; "ops" are instructions of the interpreter, which no neighbour changes at all.
"""

import argparse
import gc
import statistics
import sys
import time
import tracemalloc
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from common import machine, table

from dispatcher.core.effects import Launch
from dispatcher.core.job import Job
from dispatcher.core.machine import Machine
from dispatcher.core.model import Accepted, CallType, Completion, Source, Verdict
from dispatcher.core.rules import AccountRules, FunctionRules, Rules
from tests.core.test_cost import instructions

QUOTA = 300
RUN_S = 0.3
CYCLES = 500
ROUNDS = 12

ACCEPTED = Accepted("5f6a4e1c-8d0e-4c43-b6c8-2a3a2bd5f8d7")


OTHER_CASES: dict[str, dict[str, Any]] = {
    "function at its cap": {"instances_max": QUOTA - 100},
    "4 runs an instance": {"instance_concurrency": 4},
    "duration": {"completion": Source.DURATION, "duration_s": RUN_S},
    "accepted": {"completion": Source.ACCEPTED},
    "20 idle accounts": {"idle_accounts": 20},
}


class Load:
    """A backlog of many tenants in front of a full account, among others that are idle."""

    def __init__(
        self,
        tenants: int,
        jobs: int,
        *,
        completion: Source = Source.CALLBACK,
        idle_accounts: int = 0,
        **function: Any,
    ) -> None:
        functions = {"*": FunctionRules(completion=completion, **function)}
        rules = AccountRules(quota=QUOTA, requests_max=QUOTA, functions=functions)
        names = ["main", *(f"idle-{i}" for i in range(idle_accounts))]
        self.machine = Machine(
            Rules(accounts=dict.fromkeys(names, rules), jobs_max=10**9), lambda: 0.5
        )
        self.now = 1000.0
        self.tenants = tenants
        self.count = 0
        self.completion = completion
        self.running: list[Job] = []
        self.launched: deque[Launch] = deque()
        self.answers = 0
        for count in range(jobs):
            self.admit()
            if count < QUOTA:  # one after the other, so that they end like that
                self.due()
                self.sent()
                self.now += RUN_S / QUOTA

    @property
    def is_all_sends(self) -> bool:
        """Tell whether slots end with the answer to the send: then all but one of them are out."""
        return self.completion is Source.ACCEPTED

    def admit(self) -> None:
        """Take a new invocation, its making included."""
        self.count = count = self.count + 1
        lane = self.machine.accounts["main"].lane(
            "thumbnail", None, f"tenant-{count % self.tenants}"
        )
        self.machine.admit(
            Job(
                id=f"i06am5d0rk{count:016d}",
                seq=count,
                lane=lane,
                payload=b"",
                type=CallType.ASYNC,
                accepted_at=self.now,
                due_at=self.now,
            ),
            self.now,
        )

    def due(self) -> None:
        """Decide who goes next, and take the slot."""
        for effect in self.machine.due(self.now):
            if isinstance(effect, Launch):
                self.launched.append(effect)

    def next_deadline(self) -> None:
        """Ask when to come again."""
        self.machine.next_deadline(self.now)

    def sent(self) -> None:
        """Take the cloud's word that it has it."""
        for _ in range(self.answers if self.is_all_sends else len(self.launched)):
            launch = self.launched.popleft()
            self.machine.sent(launch.job, launch.slot, ACCEPTED, self.now)
            if self.completion is Source.CALLBACK:
                self.running.append(launch.job)
        self.answers = 0

    def completed(self) -> None:
        """End a run by the news of its end, or let the time pass that it takes."""
        self.now += RUN_S / QUOTA
        self.answers += 1
        if self.running:
            job = self.running.pop(self.count % len(self.running))
            done = Completion(id=job.id, verdict=Verdict.SUCCEEDED, run_s=RUN_S)
            self.machine.completed(job, done, self.now)


BATCH = 100
COLUMNS = ("admit", "due", "sent", "completed", "deadline", "decision", "alone", "life")
ALONE = COLUMNS.index("alone")


def timed(step: Callable[[], None], count: int) -> float:
    """Return the microseconds of CPU that each of *count* steps in a row takes."""
    began = time.process_time_ns()
    for _ in range(count):
        step()
    return (time.process_time_ns() - began) / count / 1e3


def microseconds(load: Load) -> list[float]:
    """
    Return what each of `COLUMNS` takes for one invocation, in the median of several rounds.

    The first five are steps by the hundred, as under load. A decision is `due`, which chooses and
    takes the slot, and `completed`, which gives it back. Alone is what due, sent and completed
    take one invocation after the other, and a life is that and its admission.
    """

    def one_at_a_time() -> None:
        load.due()
        load.sent()
        load.completed()

    for _ in range(QUOTA):
        one_at_a_time()
    rounds = []
    for _ in range(ROUNDS):
        admit = timed(load.admit, CYCLES)
        cycle = timed(one_at_a_time, CYCLES)
        deadline = timed(load.next_deadline, CYCLES)
        completed = timed(load.completed, BATCH)
        due = timed(load.due, 1) / BATCH
        sent = timed(load.sent, 1) / BATCH
        decision = due + completed
        rounds.append([admit, due, sent, completed, deadline, decision, cycle, admit + cycle])
    return [statistics.median(each) for each in zip(*rounds, strict=True)]


def operations(load: Load) -> int:
    """Return how many instructions the decisions of one invocation take."""

    def decide() -> None:
        for _ in range(QUOTA):
            load.due()
            load.sent()
            load.completed()

    decide()
    return instructions(decide) // QUOTA


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


def measure(name: str, load: Load, rows: list[list[str]]) -> dict[str, float]:
    """Measure a case and add its line to *rows*."""
    times = microseconds(load)
    whole = load.completion is Source.CALLBACK  # else not every step has its own stimulus
    shown = [f"{each:.1f}" if whole or i >= ALONE else "" for i, each in enumerate(times)]
    rows.append([name, *shown, str(operations(load))])
    return dict(zip(COLUMNS, times, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="how many wait at most")
    most = parser.parse_args().jobs
    print(
        f"{machine()}; quota {QUOTA}; us of CPU for one invocation, median of {ROUNDS}", flush=True
    )
    sizes = [size for size in (10_000, 100_000, 1_000_000) if size <= most]
    rows: list[list[str]] = []
    found = {
        (size, tenants): measure(
            f"{size:,} waiting, {tenants:,} tenants", Load(tenants, size), rows
        )
        for size in sizes
        for tenants in (1, 100, 10_000)
    }
    for name, given in OTHER_CASES.items():
        measure(f"{sizes[0]:,} waiting, {name}", Load(100, sizes[0], **given), rows)
    table(("core", *COLUMNS, "ops"), rows)
    few, many = found[sizes[-1], 1]["decision"], found[sizes[-1], 10_000]["decision"]
    print(f"decisions with 10 000 tenants are {few / many:.2f} times as fast as with one")
    first, last = found[sizes[0], 100]["admit"], found[sizes[-1], 100]["admit"]
    print(f"to enqueue at {sizes[-1]} takes {last / first:.2f} of the time at {sizes[0]}")
    each = ", ".join(f"{bytes_per_waiting_job(size):.0f} at {size}" for size in sizes)
    print(f"bytes per waiting invocation, no payload: {each}")


if __name__ == "__main__":
    main()
