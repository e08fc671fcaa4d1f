import random

import pytest

from dispatcher.emulator.cloud import Cloud
from dispatcher.emulator.settings import Account, Function, Settings
from dispatcher.emulator.statistics import cloud_statistics


def test_the_sums_are_those_of_the_functions_and_the_snapshot_is_one():
    account = Account(
        provider="aliyun-fc",
        account_id="1",
        region="here",
        quota=2,
        rate_max_per_s=100,
        functions={"*": Function(duration_s=1)},
    )
    cloud = Cloud(Settings(accounts={"a": account}), random.Random(1))
    state = cloud.accounts["a"]
    for name in ("f", "g", "g"):
        cloud.invoke(cloud.find(state, name), state, 0, payload=b"", asynchronous=True)
    cloud.due(0)
    before = cloud_statistics(cloud, 0)["a"]
    while (deadline := cloud.next_deadline()) is not None:
        cloud.due(deadline)
    after = cloud_statistics(cloud, 10)["a"]
    assert (before.running, before.queued, before.succeeded) == (2, 1, 0)
    assert (after.running, after.queued, after.succeeded, after.runs) == (0, 0, 3, 3)
    assert after.functions["g"].succeeded == 2
    assert after.instance_seconds == pytest.approx(3)
    assert after.free_seconds == pytest.approx(20)
    assert after.throttles_async == {"ResourceExhausted": 2}
    delays = after.start_delays
    assert (delays.count, delays.p50_s, delays.p99_s, delays.max_s) == (3, 0, 1.5, 1.5)


def test_nothing_started_has_no_delays():
    cloud = Cloud(Settings(), random.Random(1))
    counted = cloud_statistics(cloud, 0)
    assert counted["fc"].start_delays.count == 0
    assert counted["lambda"].quota == 1000
