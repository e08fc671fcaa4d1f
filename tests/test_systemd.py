"""What a service manager is told, by a socket that stands for its own."""

import os
import socket
import time

import anyio
import pytest

from dispatcher.systemd import Notifier


@pytest.fixture
def manager(socket_dir):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(socket_dir / "notify"))
        listening.setblocking(False)
        yield listening


def told(manager: socket.socket) -> list[str]:
    lines = []
    while True:
        try:
            lines += manager.recv(4096).decode().split("\n")
        except BlockingIOError:
            return [line for line in lines if not line.startswith("STATUS=")]


def environment(manager: socket.socket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.getsockname(), **more}


def test_the_life_of_a_service(manager):
    notifier = Notifier(environment(manager))
    notifier.ready()
    assert told(manager) == ["READY=1"]
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    notifier.reloading()
    reloading, micros = told(manager)
    assert reloading == "RELOADING=1"
    at_s = int(micros.removeprefix("MONOTONIC_USEC=")) / 1e6
    assert before - 0.001 <= at_s <= time.clock_gettime(time.CLOCK_MONOTONIC)
    notifier.stopping()
    assert told(manager) == ["STOPPING=1"]


def test_a_name_in_the_abstract_name_space():
    name = f"dispatcher-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.setblocking(False)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert told(listening) == ["READY=1"]


@pytest.mark.parametrize("address", ["", "@", "relative", "/nowhere/at/all"])
def test_without_a_manager_nothing_happens(address):
    Notifier({"NOTIFY_SOCKET": address}).ready()
    Notifier({}).stopping()


def test_a_manager_that_does_not_read_stops_nothing(manager):
    notifier = Notifier(environment(manager))
    for _ in range(10_000):
        notifier.ready()
    assert told(manager)


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_how_long_the_watchdog_waits(manager, variables, seconds):
    assert Notifier(environment(manager, **variables)).watchdog_s == seconds


async def test_signs_of_life_come_twice_as_often_as_is_asked_and_only_from_the_well(manager):
    notifier = Notifier(environment(manager, WATCHDOG_USEC="30000000"))
    well = True
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(notifier.watch, lambda: well)
        await anyio.sleep(60.5)
        assert told(manager) == ["WATCHDOG=1"] * 5
        well = False
        await anyio.sleep(60)
        assert told(manager) == []
        tasks.cancel_scope.cancel()


async def test_nobody_asked_for_signs_of_life(manager):
    await Notifier(environment(manager)).watch(lambda: True)
    assert told(manager) == []
