import asyncio

import pytest

from dispatcher.emulator.driver import Driver
from dispatcher.emulator.settings import Account, Function, Records, Settings


def make_driver(records: Records = Records(), **function) -> Driver:  # noqa: B008 - frozen
    account = Account(
        provider="aws-lambda",
        account_id="1",
        region="here",
        quota=1000,
        functions={"*": Function(duration_s=1, on_success="ends", **function)},
    )
    settings = Settings(accounts={"a": account}, records=records, seed=3)
    return Driver(settings, wall=lambda: 1_700_000_000.0)


def send(driver: Driver, count: int = 1, payload: bytes = b"{}") -> None:
    account = driver.cloud.accounts["a"]
    function = driver.cloud.find(account, "f")
    for _ in range(count):
        driver.cloud.invoke(function, account, driver.now(), payload=payload, asynchronous=True)
    driver.pump()


async def test_one_timer_drives_everything():
    driver = make_driver()
    send(driver, 100)
    await asyncio.sleep(0.999)
    assert len(driver.cloud.runs) == 0
    await asyncio.sleep(0.002)
    assert len(driver.cloud.runs) == 100
    assert driver.cloud.next_deadline() is None


@pytest.mark.parametrize(
    ("records", "received", "counted"),
    [
        (Records(), 200, {}),
        (Records(lost=1), 0, {"lost": 200}),
        (Records(doubled=1), 400, {"doubled": 200}),
        (Records(delayed=1, delay_s=60), 0, {"delayed": 200}),
    ],
)
async def test_records_are_lost_doubled_and_delayed(records, received, counted):
    driver = make_driver(records)
    send(driver, 200)
    await asyncio.sleep(2)
    [queue] = driver.queues.values()
    got = [queue.receive(driver.now(), 10) for _ in range(50)]
    assert sum(map(len, got)) == received
    for name, count in counted.items():
        assert getattr(driver.record_counts, name) == count
    await asyncio.sleep(60)
    late = len(queue.receive(driver.now(), 1000)) - received
    assert late == (200 if records.delayed else 0)


async def test_a_share_of_the_records_is_lost():
    driver = make_driver(Records(lost=0.05))
    send(driver, 1000)
    await asyncio.sleep(2)
    assert 25 < driver.record_counts.lost < 80
    assert driver.record_counts.delivered + driver.record_counts.lost == 1000


async def test_records_that_cannot_be_delivered_are_counted():
    driver = make_driver()
    # Together with its envelope and its echo the event is more than a message may be.
    send(driver, payload=b'"' + b"x" * 600_000 + b'"')
    driver.drop_queue("1", "gone")
    await asyncio.sleep(2)
    assert driver.record_counts.undeliverable == 1
    driver.drop_queue("1", "ends")
    send(driver)
    await asyncio.sleep(2)
    assert driver.record_counts.undeliverable == 2


async def test_a_cancelled_poll_takes_nothing():
    driver = make_driver()
    queue = driver.open_queue("1", "ends")
    poll = asyncio.create_task(driver.receive(queue, 1, 20, None))
    await asyncio.sleep(1)
    poll.cancel()
    await asyncio.sleep(0)
    queue.send("x", driver.now())
    driver.pump()
    assert [message.body for message in await driver.receive(queue, 1, 20, None)] == ["x"]


async def test_a_message_that_comes_in_the_last_moment_is_not_dropped():
    driver = make_driver()
    queue = driver.open_queue("1", "ends")
    queue.send("x", driver.now(), 20)
    assert [message.body for message in await driver.receive(queue, 1, 20, None)] == ["x"]


async def test_after_closing_no_timer_is_left():
    driver = make_driver()
    account = driver.cloud.accounts["a"]
    invocation = driver.cloud.invoke(
        driver.cloud.find(account, "f"), account, driver.now(), payload=b"", asynchronous=False
    )
    call = asyncio.create_task(driver.answered(invocation))
    await asyncio.sleep(0.5)
    driver.close()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.sleep(10)
    assert len(driver.cloud.runs) == 0
