"""The virtual clock: what the tests stand on."""

import asyncio
import math
import time

import anyio
import anyio.abc
import pytest

from tests.clock import VirtualClockLoop


async def test_the_clock_starts_at_zero_and_jumps_exactly():
    seen = []

    async def sleeper(delay_s: float) -> None:
        await anyio.sleep(delay_s)
        seen.append((delay_s, anyio.current_time()))

    started = time.monotonic()
    assert anyio.current_time() == 0
    async with anyio.create_task_group() as group:
        for delay_s in (3600.0, 0.1, 1e9, 0.3):
            group.start_soon(sleeper, delay_s)
    assert seen == [(delay_s, delay_s) for delay_s in (0.1, 0.3, 3600.0, 1e9)]
    assert time.monotonic() - started < 1


async def test_timers_a_hair_apart_keep_their_order():
    at = 10_000_000.0  # where one clock step is more than asyncio's usual resolution
    seen: list[str] = []
    loop = asyncio.get_running_loop()
    loop.call_at(math.nextafter(at, math.inf), seen.append, "second")
    loop.call_at(at, seen.append, "first")
    await anyio.sleep(at)
    assert seen == ["first"]
    await anyio.sleep(1)
    assert seen == ["first", "second"]


async def test_sleeping_forever_does_not_let_the_clock_race():
    with anyio.move_on_after(5):
        await anyio.sleep_forever()
    assert anyio.current_time() == 5


async def test_settled_takes_no_time_and_waits_for_all_others():
    steps = []

    async def busy() -> None:
        for step in range(10):
            await anyio.lowlevel.checkpoint()
            steps.append(step)
        await anyio.sleep(60)

    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    async with anyio.create_task_group() as group:
        group.start_soon(busy)
        await loop.settled()
        assert steps == list(range(10))
        assert anyio.current_time() == 0
    assert anyio.current_time() == 60


@pytest.mark.parametrize("size", [1, 1000, 1_000_000])
async def test_loopback_sockets_are_not_overtaken_by_timers(size: int):
    async def echo(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            while True:
                got = b""
                while len(got) < size:
                    got += await stream.receive(size)
                await anyio.sleep(300)
                await stream.send(got)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, echo)
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            for round_number in range(1, 21):
                with anyio.fail_after(300.001):
                    await stream.send(b"x" * size)
                    echoed = 0
                    while echoed < size:
                        echoed += len(await stream.receive(size))
                assert anyio.current_time() == round_number * 300
        group.cancel_scope.cancel()


async def test_work_in_the_executor_takes_no_virtual_time():
    loop = asyncio.get_running_loop()
    with anyio.fail_after(0.01):
        await loop.run_in_executor(None, time.sleep, 0.05)
    assert anyio.current_time() == 0
    await loop.shutdown_default_executor()


def test_a_deadlock_is_reported_with_the_place():
    async def waits_in_vain() -> None:
        await asyncio.get_running_loop().create_future()

    with (
        pytest.raises(AssertionError, match=r"deadlock at 0 s(.|\n)*waits_in_vain \(test_clock"),
        asyncio.Runner(loop_factory=lambda: VirtualClockLoop(patience_s=0.01)) as runner,
    ):
        runner.run(waits_in_vain())


@pytest.mark.real_time
async def test_a_test_marked_real_time_has_the_wall_clock():
    assert not isinstance(asyncio.get_running_loop(), VirtualClockLoop)
    with anyio.fail_after(5):
        assert await anyio.to_thread.run_sync(lambda: 42) == 42
