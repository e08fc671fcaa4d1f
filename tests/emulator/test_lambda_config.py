import asyncio

import pytest

from tests.emulator.conftest import ACCOUNTS

CONFIG = "/2019-09-25/functions/f/event-invoke-config"


async def test_account_settings_tell_the_quota_in_force(client):
    client.emulator.cloud.accounts["aws"].fleet.change(0, quota=77)
    reply = await client("GET", "/2016-08-19/account-settings/")
    assert reply.status == 200
    assert reply.json["AccountLimit"]["ConcurrentExecutions"] == 77


async def test_what_the_settings_say_is_a_configuration(start):
    text = ACCOUNTS.replace("duration_s = 2\n[accounts.fc]", 'on_failure = "bad"\n[accounts.fc]')
    client = await start(text)
    reply = await client("GET", CONFIG)
    assert reply.json["DestinationConfig"] == {
        "OnFailure": {"Destination": "arn:aws:sqs:eu-west-1:123456789012:bad"}
    }
    assert reply.json["FunctionArn"].endswith(":function:f:$LATEST")


async def test_put_replaces_and_update_changes(client):
    assert (await client("GET", CONFIG)).status == 404
    assert (await client("POST", CONFIG, {"MaximumRetryAttempts": 1})).status == 404
    await client("PUT", CONFIG, {"MaximumRetryAttempts": 1, "MaximumEventAgeInSeconds": 60})
    await client("POST", CONFIG, {"MaximumRetryAttempts": 0})
    shown = (await client("GET", CONFIG)).json
    assert (shown["MaximumRetryAttempts"], shown["MaximumEventAgeInSeconds"]) == (0, 60)
    await client("PUT", CONFIG, {})
    shown = (await client("GET", CONFIG)).json
    assert (shown["MaximumRetryAttempts"], shown["MaximumEventAgeInSeconds"]) == (2, 21600)
    assert (await client("DELETE", CONFIG)).status == 204
    assert (await client("GET", CONFIG)).status == 404


async def test_the_configuration_rules_the_retries(client):
    await client("PUT", CONFIG, {"MaximumRetryAttempts": 0})
    await client.event("f", {"emulate": {"fail": True}})
    await client.event("f%3Aprod", {"emulate": {"fail": True}})
    await asyncio.sleep(1000)
    runs = [run.attempt for run in client.emulator.cloud.runs]
    assert sorted(runs) == [1, 1, 2, 3]


@pytest.mark.parametrize(
    "body", [{"MaximumRetryAttempts": 3}, {"MaximumEventAgeInSeconds": 59}, b"[]", b"{"]
)
async def test_values_out_of_range_are_refused(client, body):
    reply = await client("PUT", CONFIG, body)
    assert reply.status == 400
    assert reply.headers["x-amzn-ErrorType"] == "InvalidParameterValueException"


async def test_a_reservation_takes_from_the_others(client):
    path = "/2017-10-31/functions/f/concurrency"
    reply = await client("PUT", path, {"ReservedConcurrentExecutions": 2})
    assert reply.status == 200
    limits = (await client("GET", "/2016-08-19/account-settings")).json["AccountLimit"]
    assert limits["UnreservedConcurrentExecutions"] == 1
    assert (await client("PUT", path, {"ReservedConcurrentExecutions": 4})).status == 400
    assert (await client("PUT", path, {"ReservedConcurrentExecutions": "x"})).status == 400
    assert (await client("DELETE", path)).status == 204
    assert (await client("GET", "/2019-09-30/functions/f/concurrency")).json == {}
