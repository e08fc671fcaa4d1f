import re
import socket
import threading
import time
from collections.abc import Iterator

import anyio
import pytest
from prometheus_client import CollectorRegistry, GCCollector, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from dispatcher.metrics import make_registry, pace, register, render
from tests.metrics import everything

pytestmark = pytest.mark.real_time  # pages are made in a thread

TEXT = "text/plain; version=0.0.4; charset=utf-8"
# What Prometheus 2.42 and 3.5 send.
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping="
    "allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


def fixed_registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    statistics = everything.statistics()
    register(registry, lambda: statistics)
    return registry


@pytest.mark.parametrize("accept", [None, "", "*/*", "text/html", "text/plain;version=0.0.4"])
async def test_without_a_wish_for_more_the_page_is_text(accept):
    page, content_type = await render(fixed_registry(), accept)
    assert content_type == TEXT
    assert b"# TYPE dispatcher_accepted_total counter\n" in page
    assert not page.endswith(b"# EOF\n")


@pytest.mark.parametrize("accept", ["application/openmetrics-text", PROMETHEUS_2, PROMETHEUS_3])
async def test_openmetrics_is_given_to_who_accepts_it(accept):
    page, content_type = await render(fixed_registry(), accept)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert b"# TYPE dispatcher_accepted counter\n" in page
    assert page.endswith(b"# EOF\n")


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=x",
        "application/openmetrics-text; version=1.0.x",
        "text/plain;version=1..0",
        "application/openmetrics-text;version",
        ";;;,,,",
        "\udcff\x00",
    ],
)
async def test_a_senseless_wish_is_no_fault(accept):
    page, content_type = await render(fixed_registry(), accept)
    assert b"dispatcher_accepted_total{" in page
    assert content_type.startswith(("text/plain", "application/openmetrics-text"))


async def test_giving_way_changes_nothing_on_the_page():
    registry = fixed_registry()
    assert (await render(registry, None))[0] == generate_latest(registry)
    open_metrics, _ = await render(registry, "application/openmetrics-text")
    assert open_metrics == openmetrics.generate_latest(registry)


async def test_files_of_the_process_are_not_read_on_the_loop():
    # blockbuster would fail this test if they were.
    page, _ = await render(make_registry(everything.statistics), None)
    assert re.search(rb"^process_resident_memory_bytes [1-9]", page, re.MULTILINE)
    assert re.search(rb'^python_gc_collections_total\{generation="2"\} ', page, re.MULTILINE)


async def test_a_fault_in_a_registry_is_not_hidden():
    class Broken(Collector):
        def collect(self) -> Iterator[Metric]:
            yield GaugeMetricFamily("fine", "Fine.", value=1)
            message = "no more"
            raise OSError(message)

    registry = CollectorRegistry()
    registry.register(Broken())
    with pytest.raises(OSError, match="no more"):
        await render(registry, None)


async def test_many_scrapes_use_one_thread_at_a_time():
    inside, most, pages = 0, 0, []

    class Slow(Collector):
        def collect(self) -> Iterator[Metric]:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            time.sleep(0.005)
            inside -= 1
            yield GaugeMetricFamily("thread", "Its name.", value=threading.get_ident())

    registry = CollectorRegistry()
    registry.register(Slow())
    GCCollector(registry=registry)

    async def scrape() -> None:
        pages.append(await render(registry, None))

    async with anyio.create_task_group() as scrapers:
        for _ in range(20):
            scrapers.start_soon(scrape)
    assert len(pages) == 20
    assert most == 1


async def test_ten_thousand_series_leave_the_loop_responsive(monkeypatch):
    statistics = everything.many_series(10_000)
    registry = CollectorRegistry()
    register(registry, lambda: statistics)
    pauses = 0
    sleep = time.sleep

    def counted(seconds: float) -> None:
        nonlocal pauses
        pauses += 1
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", counted)
    lags: list[float] = []
    worst_s: list[float] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_busy, lags)
        await anyio.sleep(0.05)
        for _ in range(3):
            lags.clear()
            began = time.perf_counter()
            page, _ = await render(registry, None)
            took_s = time.perf_counter() - began
            worst_s.append(max(lags))
        tasks.cancel_scope.cancel()
    series = sum(not line.startswith(b"#") for line in page.splitlines())
    assert series >= 10_000
    # Once in a hundred when the samples are made, once when they are written. What that does to
    # the loop depends on the machine's other work, so it is printed and not asserted.
    assert pauses >= 3 * 2 * (series // pace._ITEMS - 40)
    print(
        f"\n{series} series, {len(page) / 1024:.0f} KiB in {took_s * 1000:.0f} ms; "
        f"loop late by {min(worst_s) * 1000:.1f} ms at the most (best of 3)"
    )


async def _busy(lags: list[float]) -> None:
    """Do what a loop under load does: some system calls, then wait a little."""
    here, there = socket.socketpair()
    with here, there:
        while True:
            began = time.perf_counter()
            for _ in range(20):
                here.send(bytes(100))
                there.recv(100)
            await anyio.sleep(0.001)
            lags.append(time.perf_counter() - began - 0.001)
