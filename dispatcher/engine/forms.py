"""An invocation in the forms that those around the engine want."""

from dispatcher.core.effects import Finish
from dispatcher.core.job import Job
from dispatcher.core.model import Call, Ended, Notice, Record, Watched


def call_of(job: Job, payload: bytes) -> Call:
    """Return the request that a transport sends."""
    return Call(
        function=job.lane.function.name,
        qualifier=job.lane.qualifier,
        type=job.type,
        task_id=job.task_id,
        payload=payload,
        options=job.options or {},
    )


def watched_of(job: Job, now: float) -> Watched:
    """Return the run that a tracker watches."""
    return Watched(
        id=job.id,
        account=job.lane.tenant.account,
        function=job.lane.function.name,
        qualifier=job.lane.qualifier,
        attempt=job.attempt,
        task_id=job.task_id,
        request_id=job.request_id or "",
        sent_at=now if job.sent_at is None else job.sent_at,
        expected_s=job.lane.function.duration_s,
        deadline=None if job.slot is None else job.slot.deadline,
    )


def notice_of(finish: Finish, wall_ms: int) -> Notice:
    """Return the notice of an end, for whoever asked to be told."""
    job = finish.job
    assert job.callback_url is not None, job.id
    return Notice(
        url=job.callback_url,
        id=job.id,
        state=finish.state,
        account=job.lane.tenant.account,
        function=job.lane.function.name,
        qualifier=job.lane.qualifier,
        tenant=job.lane.tenant.name,
        attempt=job.attempt,
        ended_ms=wall_ms,
        request_id=job.request_id,
        estimated=finish.estimated,
        result=finish.result,
        failure=finish.failure,
    )


def notice_of_late(record: Record, end: Ended) -> Notice:
    """Return the notice of the true end of what had been given up as uncertain."""
    assert record.callback_url is not None, record.id
    return Notice(
        url=record.callback_url,
        id=record.id,
        state=end.state,
        account=record.account,
        function=record.function,
        qualifier=record.qualifier,
        tenant=record.tenant,
        attempt=record.attempt,
        ended_ms=end.at_ms,
        request_id=end.request_id,
        result=end.result,
        failure=end.failure,
    )


def whose(job: Job) -> dict[str, str]:
    """Return what a log line says of whose it is."""
    tenant = job.lane.tenant
    return {"invocation": job.id, "account": tenant.account, "tenant": tenant.name}
