"""
What Function Compute says about asynchronous tasks, and what that means.

Free of I/O and clocks. Statuses: help.aliyun.com, functioncompute, AsyncTask of API 2023-03-30.
"""

from typing import Final

import msgspec

from dispatcher.core.model import Completion, Failure, Verdict, Watched
from dispatcher.trackers.cloud_clock import CloudClock

_VERDICTS: Final = {
    "succeeded": Verdict.SUCCEEDED,
    "failed": Verdict.FAILED,
    "stopped": Verdict.STOPPED,
    "expired": Verdict.EXPIRED,
    # "Not executed due to specific reasons, for example the function is deleted."
    "invalid": Verdict.FAILED,
}
_ON_INSTANCE: Final = frozenset({"running", "stopping"})

MESSAGE_CHARS_MAX: Final = 4096
"""An error message is kept up to this length; it may hold a whole stack trace."""


class Event(msgspec.Struct, frozen=True):
    """One change of a task's status; the time is in milliseconds since 1970."""

    status: str | None = None
    timestamp: float | None = None


class Task(msgspec.Struct, frozen=True, rename="camel"):
    """A task as GetAsyncTask and ListAsyncTasks show it; times are milliseconds since 1970."""

    task_id: str | None = None
    status: str | None = None
    started_time: float | None = None
    end_time: float | None = None
    duration_ms: float | None = None
    already_retried_times: int | None = None
    task_error_message: str | None = None
    return_payload: str | None = None
    events: list[Event] | None = None

    @property
    def verdict(self) -> Verdict | None:
        """How it ended; None: it has not, as far as the status is one that we know."""
        return _VERDICTS.get((self.status or "").lower())

    @property
    def on_instance(self) -> bool:
        """Whether it holds an instance now. A task that waits to be retried does not."""
        return (self.status or "").lower() in _ON_INSTANCE

    @property
    def started_s(self) -> float | None:
        """When it began to run, on the cloud's clock; None: it has not, or nobody says."""
        begun = self.on_instance or self.verdict is not None
        return self.started_time / 1000.0 if begun and self.started_time else None

    @property
    def run_s(self) -> float | None:
        """How long it ran, once it has ended."""
        if self.verdict is None:
            return None
        if self.duration_ms is not None and self.duration_ms >= 0:
            return self.duration_ms / 1000.0
        if self.started_time and self.end_time:
            return max(0.0, (self.end_time - self.started_time) / 1000.0)
        return None


class _Page(msgspec.Struct, frozen=True, rename="camel"):
    tasks: list[Task] | None = None
    next_token: str | None = None


class _Config(msgspec.Struct, frozen=True, rename="camel"):
    async_task: bool | None = None


# Not strict: numbers may come as text. Unknown members are passed over.
_task = msgspec.json.Decoder(Task, strict=False)
_page = msgspec.json.Decoder(_Page, strict=False)
_config = msgspec.json.Decoder(_Config, strict=False)


def read_task(body: bytes) -> Task | None:
    """Read a reply to GetAsyncTask; None: it is not one."""
    try:
        return _task.decode(body)
    except msgspec.DecodeError:
        return None


def read_page(body: bytes) -> tuple[list[Task], bool] | None:
    """Read a reply to ListAsyncTasks: its tasks, and whether there are more. None: not one."""
    try:
        page = _page.decode(body)
    except msgspec.DecodeError:
        return None
    return page.tasks or [], bool(page.next_token)


def read_config(body: bytes) -> bool | None:
    """Read a reply to GetAsyncInvokeConfig: is task mode on? None: it is no such reply."""
    try:
        return bool(_config.decode(body).async_task)
    except msgspec.DecodeError:
        return None


def completion(run: Watched, task: Task, clock: CloudClock) -> Completion:
    """Return the news of the end of *run*, which *task* shows."""
    verdict = task.verdict
    assert verdict is not None, task
    result = None if task.return_payload is None else task.return_payload.encode()
    return Completion(
        id=run.id,
        attempt=run.attempt,
        verdict=verdict,
        result=result or None,
        failure=None if verdict is Verdict.SUCCEEDED else _failure(task, verdict),
        start_delay_s=_start_delay_s(run, task, clock),
        run_s=task.run_s,
    )


def _failure(task: Task, verdict: Verdict) -> Failure:
    message = (task.task_error_message or "").strip()[:MESSAGE_CHARS_MAX]
    match verdict:
        case Verdict.EXPIRED:
            return Failure(
                "expired", message or "the cloud dropped it from its own queue", task.status
            )
        case Verdict.STOPPED:
            return Failure("stopped", message or "the task was stopped", task.status)
        case _:
            return Failure("function_error", message or "the function failed", task.status)


def _start_delay_s(run: Watched, task: Task, clock: CloudClock) -> float | None:
    """
    Return how long the cloud kept the task queued before its first run.

    From the task's own events where it has them: two times of one clock. Otherwise from its
    start and the time of our send, if the two clocks are known to agree well enough; after a
    retry inside the cloud the start is that of a later run.
    """
    times = {
        (event.status or "").lower(): event.timestamp
        for event in reversed(task.events or [])
        if event.timestamp
    }
    enqueued, running = times.get("enqueued"), times.get("running")
    if enqueued and running:
        return max(0.0, (running - enqueued) / 1000.0)
    if task.started_s is None or task.already_retried_times or not clock.is_good:
        return None
    return max(0.0, clock.to_loop(task.started_s) - run.sent_at)
