"""Those that go again with the slot that they hold: they take no room, so they stand in no order."""

import itertools
from collections import OrderedDict
from collections.abc import Iterator

from dispatcher.core.gates import FunctionGate
from dispatcher.core.job import Job


class Resends:
    """
    Invocations that are due again and hold their slot, in the order in which they came due.

    Those of a function that is found shut stand apart until it is `opened`, and hold nobody up.
    """

    def __init__(self) -> None:
        self._ready: OrderedDict[str, Job] = OrderedDict()
        self._shut: dict[str, OrderedDict[str, Job]] = {}

    def __bool__(self) -> bool:
        """Tell whether one may go whose function is not known to be shut."""
        return bool(self._ready)

    def __iter__(self) -> Iterator[Job]:
        """Give all of them, those apart last."""
        apart = itertools.chain.from_iterable(shut.values() for shut in self._shut.values())
        return itertools.chain(self._ready.values(), apart)

    def add(self, job: Job) -> None:
        """Take one in."""
        self._ready[job.id] = job

    def remove(self, job: Job) -> None:
        """Take one out, wherever it stands."""
        if self._ready.pop(job.id, None) is None:
            name = job.lane.function.name
            shut = self._shut[name]
            del shut[job.id]
            if not shut:
                del self._shut[name]

    def first(self, now: float) -> Job | None:
        """Return the first of those whose function is not shut."""
        while self._ready:
            job_id, job = next(iter(self._ready.items()))
            if job.lane.function.shut(now) is None:
                return job
            del self._ready[job_id]
            self._shut.setdefault(job.lane.function.name, OrderedDict())[job_id] = job
        return None

    def first_shut(self) -> Job | None:
        """Return the first of a function that was found shut."""
        for shut in self._shut.values():
            return next(iter(shut.values()))
        return None

    def opened(self, function: FunctionGate) -> None:
        """Let those of *function* go after all others: it is shut no more, or may not be."""
        self._ready.update(self._shut.pop(function.name, {}))
