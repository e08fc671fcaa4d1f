import asyncio

import pytest


async def test_statistics_tell_what_happened(client):
    await client.event()
    await client.task("t")
    await asyncio.sleep(5)
    told = (await client("GET", "/_emulator/statistics")).json
    assert told["accounts"]["aws"]["succeeded"] == 1
    assert told["accounts"]["aws"]["functions"]["f"]["instances_peak"] == 1
    assert told["accounts"]["fc"]["instance_seconds"] == pytest.approx(2)
    assert told["queues"]["123456789012/ends"]["sent"] == 0
    assert told["runs_kept"] == 2


async def test_runs_can_be_read_page_by_page(client):
    for index in range(3):
        await client.task(f"t{index}")
    await asyncio.sleep(5)
    page = (await client("GET", "/_emulator/runs?limit=2")).json
    assert page["next"] == 2
    rest = (await client("GET", "/_emulator/runs?after=2")).json
    assert rest["next"] is None
    ids = [run["task_id"] for run in page["runs"] + rest["runs"]]
    assert ids == ["t0", "t1", "t2"]


async def test_a_reset_begins_to_count_anew(client):
    await client.event()
    await asyncio.sleep(1)
    assert (await client("POST", "/_emulator/reset")).status == 204
    counted = client.emulator.statistics()["aws"]
    assert (counted.accepted_async, counted.running, counted.instances_peak) == (0, 1, 1)
    await asyncio.sleep(5)
    assert client.emulator.statistics()["aws"].succeeded == 1


async def test_quota_and_foreign_load_change_at_once(client):
    reply = await client("PUT", "/_emulator/accounts/aws", {"foreign": 3})
    assert reply.json == {"quota": 3, "foreign": 3}
    assert (await client.sync()).status == 429
    await client("PUT", "/_emulator/accounts/aws", {"quota": 4})
    assert (await client.sync()).status == 200


async def test_rates_change_at_once(client):
    rates = {"rate_max_per_s": 1, "task_rate_max_per_s": 1}
    await client("PUT", "/_emulator/accounts/fc", rates)
    assert [(await client.task(None)).status for _ in range(2)] == [202, 429]
    tasks = "/2023-03-30/functions/f/async-tasks"
    assert [(await client("GET", tasks)).status for _ in range(2)] == [200, 429]
    await client("PUT", "/_emulator/accounts/fc", {"rate_max_per_s": 0})
    assert [(await client.task(None)).status for _ in range(3)] == [202] * 3


async def test_functions_change_at_once(client):
    path = "/_emulator/accounts/fc/functions/svc%24f"
    reply = await client("PUT", path, {"duration_s": 30, "instance_concurrency": 2})
    assert reply.json["duration_s"] == 30
    for _ in range(4):
        await client.task(None, "svc$f")
    counted = client.emulator.statistics()["fc"]
    assert (counted.running, counted.instances) == (4, 2)


async def test_faults_can_be_put_added_and_read(client):
    await client("PUT", "/_emulator/faults", [{"kind": "empty", "next": 2}])
    await client("POST", "/_emulator/faults", {"kind": "html", "probability": 1})
    statuses = [(await client.event()).status for _ in range(3)]
    assert statuses == [500, 500, 502]
    rules = (await client("GET", "/_emulator/faults")).json
    assert [(rule["kind"], rule["next"]) for rule in rules] == [("empty", 0), ("html", None)]
    told = (await client("GET", "/_emulator/statistics")).json
    assert told["faults"] == {"empty": 2, "html": 1}
    await client("PUT", "/_emulator/faults", [])
    assert (await client.event()).status == 202


async def test_the_fate_of_records_can_be_changed(client):
    reply = await client("PUT", "/_emulator/records", {"lost": 1})
    assert reply.json["lost"] == 1
    assert (await client("GET", "/_emulator/records")).json["lost"] == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "word"),
    [
        ("GET", "nothing", b"", 404, "no such control"),
        ("PUT", "accounts/x", {}, 404, "no account"),
        ("PUT", "accounts/aws", {"quoda": 1}, 400, "quoda"),
        ("PUT", "accounts/aws", {"quota": -1}, 400, "at least 0"),
        ("PUT", "accounts/aws", b"{", 400, "truncated"),
        ("PUT", "accounts/aws/functions/f", {"duration_s": -1}, 400, "f.duration_s"),
        ("PUT", "accounts/aws/functions/f", [], 400, "table"),
        ("PUT", "faults", [{"kind": "x"}], 400, "[0].kind"),
        ("PUT", "faults", [{"kind": "hang", "probability": 2}], 400, "[0].probability"),
        ("POST", "faults", {"kind": "hang", "why": 1}, 400, "why"),
        ("PUT", "records", {"lost": 2}, 400, "records.lost"),
        ("GET", "runs?after=x", b"", 400, "after"),
    ],
)
async def test_wrong_controls_are_refused_by_name(client, method, path, body, status, word):
    reply = await client(method, f"/_emulator/{path}", body)
    assert reply.status == status
    assert word in reply.json["error"]
