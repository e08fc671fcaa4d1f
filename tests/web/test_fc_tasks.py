from types import SimpleNamespace
from typing import Any

import pytest
from multidict import MultiDict

from dispatcher.core.model import CallType, Failure, Query, Record, State
from dispatcher.core.views import View
from dispatcher.web import fc_tasks
from dispatcher.web.dropin import Trouble
from dispatcher.web.fc_dialects import FC3, FC2021
from tests.web.fakes import settings

ACCOUNT = settings().accounts["cn"]


def record(number: int = 0, **fields: Any) -> Record:
    fields = {"account": "cn", "function": "svc$f", "accepted_ms": 1000, **fields}
    return Record(id=f"i{number:04}", **fields)


def asked(dialect: Any = FC3, qualifier: str | None = None, **query: str) -> fc_tasks.Wanted:
    request: Any = SimpleNamespace(query=MultiDict(query))
    return fc_tasks.wanted(request, dialect, "cn", "svc$f", qualifier)


class FakeEngine:
    """Pages of some records, newest first."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records

    async def find(self, query: Query, *, after: str | None = None, limit: int = 100) -> Any:
        begin = int(after or 0)
        rows = [
            each
            for each in self.records[::-1]
            if query.state in (None, each.state) and query.function == each.function
        ]
        views = [View(record=each) for each in rows[begin : begin + limit]]
        return views, str(begin + limit) if begin + limit < len(rows) else None


async def listed(records: list[Record], **query: str) -> list[str]:
    """Return the ids of all pages."""
    engine: Any = FakeEngine(records)
    ids: list[str] = []
    token: str | None = ""
    while token is not None:
        found, token = await fc_tasks.page(engine, asked(**query, nextToken=token))
        ids += [each.id for each in found]
    return ids


def test_all_states_have_a_status_of_their_own():
    assert set(fc_tasks.STATUSES) == set(State)
    assert len(set(fc_tasks.STATUSES.values())) == len(State)


def test_a_task_that_waits():
    fields = fc_tasks.shown(record(), ACCOUNT, FC3, b"x")
    assert fields["taskId"] == fields["requestId"] == "i0000"
    assert (fields["status"], fields["startedTime"], fields["endTime"]) == ("Enqueued", 0, 0)
    assert fields["taskPayload"] == "x"
    assert fields["functionArn"] == "acs:fc:cn-shanghai:1031234567890123:functions/svc$f/LATEST"
    assert [event["status"] for event in fields["events"]] == ["Enqueued"]  # type: ignore[attr-defined]


def test_a_task_that_has_ended():
    dead = record(
        state=State.DEAD,
        task_id="mine",
        qualifier="prod",
        sent_ms=2000,
        ended_ms=3500,
        attempt=2,
        failure=Failure("function_error", "boom"),
        result=b"\xff",
    )
    fields = fc_tasks.shown(dead, ACCOUNT, FC2021, b"\xff")
    assert (fields["invocationId"], fields["requestId"]) == ("mine", "i0000")
    assert (fields["serviceName"], fields["functionName"]) == ("svc", "f")
    assert (fields["status"], fields["invocationErrorMessage"]) == ("Failed", "boom")
    assert (fields["durationMs"], fields["alreadyRetriedTimes"]) == (1500, 1)
    assert fields["invocationPayload"] == "/w=="
    events: Any = fields["events"]
    assert [(event["status"], event["timestamp"]) for event in events] == [
        ("Enqueued", 1000),
        ("Dequeued", 2000),
        ("Running", 2000),
        ("Failed", 3500),
    ]
    assert fc_tasks.shown(dead, ACCOUNT, FC3, None)["returnPayload"] == "/w=="


async def test_lists_are_paged_in_either_order():
    records = [record(number) for number in range(1200)]
    ids = [each.id for each in records]
    assert await listed(records, limit="100") == ids[::-1]
    assert await listed(records, limit="100", sortOrderByTime="asc") == ids
    assert await listed([]) == []


async def test_lists_are_filtered():
    records = [
        record(1, task_id="t_1", sent_ms=5000, qualifier="prod"),
        record(2, task_id="t_2", state=State.RUNNING, sent_ms=6000),
        record(3, type=CallType.SYNC),
        record(4, function="other"),
    ]
    assert await listed(records) == ["i0002", "i0001"]
    assert await listed(records, prefix="t_1") == ["i0001"]
    assert await listed(records, status="Running") == ["i0002"]
    assert await listed(records, status="Retrying") == []
    assert await listed(records, startedTimeBegin="5001") == ["i0002"]
    assert await listed(records, startedTimeEnd="5001") == ["i0001"]
    assert asked(qualifier="prod").fits(records[0])
    assert not asked(qualifier="LATEST").fits(records[0])
    assert asked(qualifier="LATEST").fits(records[1])
    assert asked(FC2021, invocationIdPrefix="t_2").prefix == "t_2"
    assert asked(includePayload="True").payloads
    assert not asked(includePayload="False").payloads


@pytest.mark.parametrize(
    "query",
    [
        {"status": "Sleeping"},
        {"sortOrderByTime": "up"},
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "\u0663"},
        {"startedTimeBegin": "-1"},
        {"startedTimeEnd": "9" * 19},
    ],
)
def test_what_is_wrong_is_refused(query):
    with pytest.raises(Trouble):
        asked(**query)


async def test_a_token_of_another_list_is_refused():
    engine: Any = FakeEngine([record(1)])
    with pytest.raises(Trouble):
        await fc_tasks.page(engine, asked(sortOrderByTime="asc", nextToken="i0009"))


async def test_one_list_looks_at_so_many_and_no_more(monkeypatch):
    monkeypatch.setattr(fc_tasks, "LOOK_MAX", 100)
    engine: Any = FakeEngine([record(number) for number in range(300)])
    found, token = await fc_tasks.page(engine, asked(prefix="none"))
    assert (found, token) == ([], "100")
