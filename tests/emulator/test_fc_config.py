import asyncio

import pytest

CONFIG = "/2023-03-30/functions/f/async-invoke-config"


async def test_the_configuration_can_be_read_put_and_deleted(client):
    shown = (await client("GET", CONFIG)).json
    assert (shown["asyncTask"], shown["maxAsyncRetryAttempts"]) == (True, 3)
    assert shown["maxAsyncEventAgeInSeconds"] == 86400
    destination = {"onSuccess": {"destination": "acs:mns:cn-shanghai:1:/queues/q/messages"}}
    asked = {"asyncTask": True, "maxAsyncRetryAttempts": 0, "destinationConfig": destination}
    put = (await client("PUT", CONFIG, asked)).json
    assert put["destinationConfig"] == destination
    listed = (await client("GET", "/2023-03-30/async-invoke-configs?functionName=f")).json
    assert listed == {"configs": [put]}
    assert (await client("DELETE", CONFIG)).status == 204
    assert (await client("GET", CONFIG)).json["maxAsyncRetryAttempts"] == 3


async def test_the_configuration_rules_retries_and_task_mode(client):
    await client("PUT", CONFIG, {"maxAsyncRetryAttempts": 1})
    body = {"emulate": {"fail": True}}
    path = "/2023-03-30/functions/f/invocations"
    await client("POST", path, body, x_fc_invocation_type="Async", x_fc_async_task_id="t")
    await asyncio.sleep(100)
    assert [run.attempt for run in client.emulator.cloud.runs] == [1, 2]
    assert (await client("GET", "/2023-03-30/functions/f/async-tasks/t")).status == 404


@pytest.mark.parametrize(
    "body",
    [{"maxAsyncRetryAttempts": 9}, {"maxAsyncEventAgeInSeconds": 0}, {"asyncTask": "yes"}, b"{"],
)
async def test_wrong_configurations_are_refused(client, body):
    reply = await client("PUT", CONFIG, body)
    assert (reply.status, reply.json["Code"]) == (400, "InvalidArgument")


async def test_a_reservation_takes_from_the_others(client):
    path = "/2023-03-30/functions/f/concurrency"
    assert (await client("PUT", path, {"reservedConcurrency": 2})).status == 200
    assert (await client("GET", path)).json["reservedConcurrency"] == 2
    assert (await client("PUT", path, {"reservedConcurrency": 4})).status == 400
    for _ in range(2):
        await client.task(None, "g")
    counted = client.emulator.statistics()["fc"]
    assert (counted.instances, counted.queued) == (1, 1)
    assert (await client("DELETE", path)).status == 204
    assert "reservedConcurrency" not in (await client("GET", path)).json


async def test_the_older_api_names_the_flag_otherwise(client):
    path = "/2016-08-15/services/svc.LATEST/functions/f/async-invoke-config"
    shown = (await client("PUT", path, {"statefulInvocation": True})).json
    assert shown["statefulInvocation"] is True
    again = (await client("GET", "/2023-03-30/functions/svc%24f/async-invoke-config")).json
    assert again["asyncTask"] is True


async def test_a_function_tells_its_concurrency(client):
    shown = (await client("GET", "/2023-03-30/functions/f")).json
    assert (shown["functionName"], shown["instanceConcurrency"]) == ("f", 1)
    assert shown["timeout"] == 900
