import asyncio

import pytest

from tests.emulator.conftest import ACCOUNTS

TASKS = "/2023-03-30/functions/f/async-tasks"


async def test_a_task_is_followed_from_queue_to_end(client):
    for index in range(4):
        await client.task(f"t{index}")
    shown = (await client("GET", f"{TASKS}/t3")).json
    assert shown["status"] == "Enqueued"
    assert (shown["startedTime"], shown["endTime"], shown["durationMs"]) == (0, 0, 0)
    assert shown["taskErrorMessage"] == "ResourceExhausted"
    await asyncio.sleep(60)
    shown = (await client("GET", f"{TASKS}/t3")).json
    assert shown["status"] == "Succeeded"
    assert shown["durationMs"] == 2000
    assert shown["endTime"] - shown["startedTime"] == 2000
    assert shown["taskPayload"] == "hello"
    assert shown["functionArn"] == "acs:fc:cn-shanghai:1000000000000000:functions/f"
    steps = [event["status"] for event in shown["events"]]
    assert steps == ["Enqueued", "Dequeued", "Running", "Succeeded"]
    times = [event["timestamp"] for event in shown["events"]]
    assert times == sorted(times)


async def test_a_failure_is_not_known_before_it_happens(client):
    path = "/2023-03-30/functions/f/invocations"
    body = {"emulate": {"fail": True}}
    headers = {"x_fc_invocation_type": "Async", "x_fc_async_task_id": "t"}
    await client("POST", path, body, **headers)
    assert (await client("GET", f"{TASKS}/t")).json["taskErrorMessage"] == ""
    await asyncio.sleep(2.5)
    shown = (await client("GET", f"{TASKS}/t")).json
    assert shown["status"] == "Retrying"
    assert "EmulatedError" in shown["taskErrorMessage"]
    await asyncio.sleep(60)
    shown = (await client("GET", f"{TASKS}/t")).json
    assert (shown["status"], shown["alreadyRetriedTimes"]) == ("Failed", 3)


async def test_listing_goes_page_by_page_in_either_order(client):
    for index in range(7):
        await client.task(f"{'a' if index % 2 else 'b'}_{index}")

    async def listed(query: str) -> list[str]:
        ids, token = [], ""
        while True:
            page = (await client("GET", f"{TASKS}?{query}&limit=2&nextToken={token}")).json
            ids += [task["taskId"] for task in page["tasks"]]
            assert len(page["tasks"]) <= 2
            token = page.get("nextToken", "")
            if not token:
                return ids

    assert await listed("prefix=a_") == ["a_1", "a_3", "a_5"]
    assert await listed("prefix=b_&sortOrderByTime=desc") == ["b_6", "b_4", "b_2", "b_0"]
    assert await listed("status=Running") == ["b_0", "a_1", "b_2"]
    assert await listed("status=Enqueued") == ["a_3", "b_4", "a_5", "b_6"]
    assert await listed("status=Invalid") == []
    assert await listed("qualifier=prod") == []
    assert len(await listed("qualifier=LATEST")) == 7


async def test_listing_by_time_of_start(client):
    await client.task("first")
    await asyncio.sleep(10)
    await client.task("second")
    await asyncio.sleep(10)
    first = (await client("GET", f"{TASKS}/first")).json
    between = first["startedTime"] + 5000
    page = (await client("GET", f"{TASKS}?startedTimeBegin={between}")).json
    assert [task["taskId"] for task in page["tasks"]] == ["second"]
    page = (await client("GET", f"{TASKS}?startedTimeEnd={between}")).json
    assert [task["taskId"] for task in page["tasks"]] == ["first"]


@pytest.mark.parametrize(("text", "shown"), [("True", True), ("true", True), ("False", False)])
async def test_booleans_come_in_any_case(client, text, shown):
    await client.task("t")
    [task] = (await client("GET", f"{TASKS}?includePayload={text}")).json["tasks"]
    assert ("taskPayload" in task) is shown


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "limit=x",
        "status=running",
        "nextToken=x",
        "sortOrderByTime=up",
        "startedTimeBegin=now",
    ],
)
async def test_wrong_parameters_are_refused(client, query):
    reply = await client("GET", f"{TASKS}?{query}")
    assert (reply.status, reply.json["Code"]) == (400, "InvalidArgument")


async def test_tasks_that_are_not_registered_yet_are_not_found(start):
    text = ACCOUNTS + "[accounts.fc.functions.late]\ntask_registration_s = 3\n"
    client = await start(text + "[accounts.fc.functions.lost]\ntask_lost_rate = 1\n")
    for function in ("late", "lost"):
        await client.task("t", function)
    late = "/2023-03-30/functions/late/async-tasks"
    reply = await client("GET", f"{late}/t")
    assert (reply.status, reply.json["Code"]) == (404, "AsyncTaskNotFound")
    assert (await client("GET", late)).json["tasks"] == []
    assert (await client.task("t", "late")).status == 409
    await asyncio.sleep(3)
    assert (await client("GET", f"{late}/t")).json["status"] == "Succeeded"
    assert (await client("GET", "/2023-03-30/functions/lost/async-tasks/t")).status == 404


async def test_without_task_mode_nothing_is_found(start):
    client = await start(ACCOUNTS + "[accounts.fc.functions.f]\nasync_task = false\n")
    for _ in range(2):
        assert (await client.task("t")).status == 202
    assert (await client("GET", f"{TASKS}/t")).status == 404


async def test_stopping_is_repeatable(client):
    await client.task("t")
    for _ in range(2):
        reply = await client("PUT", f"{TASKS}/t/stop")
        assert (reply.status, reply.json) == (200, {})
    assert (await client("GET", f"{TASKS}/t")).json["status"] == "Stopped"
    assert (await client("PUT", f"{TASKS}/none/stop")).status == 404
    assert (await client("DELETE", f"{TASKS}/t")).json["Code"] == "PathNotSupported"


async def test_requests_on_tasks_have_a_rate_of_their_own(start):
    text = ACCOUNTS.replace('"cn-shanghai"', '"cn-shanghai"\ntask_rate_max_per_s = 1')
    client = await start(text)
    assert (await client("GET", TASKS)).status == 200
    reply = await client("GET", TASKS)
    assert (reply.status, reply.json["Code"]) == (429, "Throttling.Api")
    assert (await client.task("t")).status == 202
    assert client.emulator.statistics()["fc"].throttles_sync == {"Throttling.Api": 1}
