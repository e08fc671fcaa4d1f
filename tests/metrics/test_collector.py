import asyncio
import logging
import threading
from collections.abc import Iterator

import anyio.to_thread
import msgspec
import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from dispatcher.core.views import HistogramView, Statistics
from dispatcher.metrics import FAMILIES, EngineCollector, Kind, collector, make_registry, register
from tests.metrics import everything

Series = tuple[str, frozenset[tuple[str, str]]]


def registry_of(statistics: Statistics) -> CollectorRegistry:
    """Return a registry with one engine; call it in a test that has a loop."""
    registry = CollectorRegistry()
    register(registry, lambda: statistics)
    return registry


def families(page: bytes, parse) -> dict[str, Metric]:
    # OpenMetrics calls the family of X_total X.
    return {
        metric.name + ("_total" if metric.type == "counter" else ""): metric
        for metric in parse(page.decode())
    }


@pytest.mark.parametrize(
    ("encode", "parse"),
    [(generate_latest, parse_text), (openmetrics.generate_latest, parse_openmetrics)],
    ids=["text", "openmetrics"],
)
async def test_what_is_read_from_the_page_is_what_was_measured(encode, parse):
    statistics = everything.statistics()
    page = families(encode(registry_of(statistics)), parse)
    assert page.keys() == {family.name for family in FAMILIES}
    for family in FAMILIES:
        shown = page[family.name]
        assert shown.type == family.kind
        assert shown.documentation == family.meaning
        wanted: dict[Series, float] = {}
        for labels, value in family.read(statistics).items():
            named = tuple(zip(family.labels, labels, strict=True))
            if isinstance(value, HistogramView):
                wanted |= _samples(family.name, named, value)
            else:
                wanted[family.name, frozenset(named)] = value
        assert {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for sample in shown.samples
        } == wanted


def _samples(
    name: str, labels: tuple[tuple[str, str], ...], histogram: HistogramView
) -> dict[Series, float]:
    """Return the series of a histogram, by the definition of each."""
    series: dict[Series, float] = {}
    for number, bound in enumerate([*histogram.bounds, float("inf")]):
        text = "+Inf" if bound == float("inf") else str(float(bound))
        series[f"{name}_bucket", frozenset((*labels, ("le", text)))] = sum(
            histogram.counts[: number + 1]
        )
    series[f"{name}_count", frozenset(labels)] = sum(histogram.counts)
    series[f"{name}_sum", frozenset(labels)] = histogram.total
    return series


async def test_words_of_the_model_are_shown_as_words():
    page = generate_latest(registry_of(everything.statistics())).decode()
    assert 'dispatcher_blocked_seconds_total{account="cn-prod",gate="retry_after"} ' in page
    assert "GateKind" not in page


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ('a "quoted" \\ word', r"a \"quoted\" \\ word"),
        ("line\nfeed", r"line\\nfeed"),
        ("half \ud800 a pair", r"half \\ud800 a pair"),
        ("nul \x00", r"nul \\x00"),
        ("限流", "限流"),
        ("narrow\u202fspace", "narrow\u202fspace"),
    ],
)
async def test_no_word_of_the_cloud_makes_the_page_unreadable(reason, shown):
    statistics = everything.statistics(throttles={("cn-prod", "resize", reason): 3})
    page = generate_latest(registry_of(statistics)).decode()
    wanted = f'{{account="cn-prod",function="resize",reason="{shown}"}} 3.0\n'
    assert f"dispatcher_throttles_total{wanted}" in page


@given(reasons=st.sets(st.text(), max_size=4))
def test_any_words_are_still_one_page(reasons):
    async def pages() -> tuple[bytes, bytes]:
        throttles = {("cn-prod", "resize", reason): 1 for reason in reasons}
        few = msgspec.structs.replace(everything.nothing_yet(), throttles=throttles)
        registry = registry_of(few)
        return generate_latest(registry), openmetrics.generate_latest(registry)

    text, open_metrics = asyncio.run(pages())
    for page, parse in ((text, parse_text), (open_metrics, parse_openmetrics)):
        # The parsers cut lines at more characters than Prometheus does.
        lines = len(page.decode().split("\n"))
        assert len(page.decode().splitlines()) in (lines, lines - 1)
        shown = families(page, parse)["dispatcher_throttles_total"].samples
        assert len(shown) == len(reasons)


async def test_two_engines_have_two_registries_and_the_global_one_has_none():
    few = everything.statistics(journal_bytes=1)
    many = everything.statistics(journal_bytes=2)
    one, other = registry_of(few), registry_of(many)
    assert one.get_sample_value("dispatcher_journal_bytes") == 1
    assert other.get_sample_value("dispatcher_journal_bytes") == 2
    assert not any(
        metric.name.startswith("dispatcher") for metric in prometheus_client.REGISTRY.collect()
    )


async def test_one_registry_takes_one_engine_at_a_time():
    registry = CollectorRegistry()
    first = register(registry, everything.statistics)
    with pytest.raises(ValueError, match="dispatcher_journal_bytes"):
        register(registry, everything.statistics)
    registry.unregister(first)
    register(registry, everything.statistics)


async def test_the_sidecar_shows_its_process_as_well():
    names = {metric.name for metric in make_registry(everything.statistics).collect()}
    assert {"process_cpu_seconds", "process_open_fds", "python_gc_collections"} <= names
    assert {"dispatcher_journal_bytes", "dispatcher_build"} & names


async def test_the_versions_are_shown():
    page = generate_latest(registry_of(everything.statistics())).decode()
    assert 'dispatcher_build_info{python="3.' in page
    assert 'version="0.' in page


def test_a_collector_wants_a_loop():
    with pytest.raises(RuntimeError, match="no running event loop"):
        EngineCollector(everything.statistics)


# -- Threads --------------------------------------------------------------------------------------


@pytest.fixture
def other_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Give a loop that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    if not loop.is_closed():
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def made_on(loop: asyncio.AbstractEventLoop, statistics) -> EngineCollector:
    async def make() -> EngineCollector:
        return EngineCollector(statistics)

    return asyncio.run_coroutine_threadsafe(make(), loop).result(5)


def test_statistics_are_taken_on_the_loop_whoever_asks(other_loop):
    threads = []

    def statistics() -> Statistics:
        threads.append(threading.current_thread())
        return everything.statistics()

    engine = made_on(other_loop, statistics)
    shown = {metric.name: metric for metric in engine.collect()}
    assert len(shown) == len(FAMILIES)
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


async def test_on_the_loop_they_are_taken_at_once():
    threads = []

    def statistics() -> Statistics:
        threads.append(threading.current_thread())
        return everything.statistics()

    assert len(list(EngineCollector(statistics).collect())) == len(FAMILIES)
    assert threads == [threading.current_thread()]


def test_nothing_is_shown_of_an_engine_whose_loop_has_closed():
    async def make() -> EngineCollector:
        return EngineCollector(everything.statistics)

    engine = asyncio.run(make())
    assert list(engine.collect()) == []


def test_nothing_is_shown_while_the_loop_does_not_answer(other_loop, monkeypatch, caplog):
    monkeypatch.setattr(collector, "SNAPSHOT_MAX_S", 0.05)
    engine = made_on(other_loop, everything.statistics)
    stuck, go_on = threading.Event(), threading.Event()

    def block() -> None:
        stuck.set()
        go_on.wait(10)

    other_loop.call_soon_threadsafe(block)
    stuck.wait(5)
    with caplog.at_level(logging.WARNING, "dispatcher.metrics"):
        assert list(engine.collect()) == []
    assert "no answer in 0.05 s" in caplog.text
    go_on.set()
    assert len(list(engine.collect())) == len(FAMILIES)


def test_a_fault_of_the_engine_is_shown_to_who_asked(other_loop):
    def statistics() -> Statistics:
        message = "books do not balance"
        raise AssertionError(message)

    engine = made_on(other_loop, statistics)
    with pytest.raises(AssertionError, match="books do not balance"):
        list(engine.collect())
    other_loop.call_soon_threadsafe(other_loop.stop)


@pytest.mark.real_time
async def test_a_page_is_of_one_moment():
    moment = 0

    def statistics() -> Statistics:
        nonlocal moment
        moment += 1
        value = {(account,): moment for account in everything.ACCOUNTS}
        return everything.statistics(
            instances_in_use=value, instances_limit=value, instances_quota=value
        )

    registry = CollectorRegistry()
    register(registry, statistics)
    page = (await anyio.to_thread.run_sync(generate_latest, registry)).decode()
    assert moment == 1
    for name in ("in_use", "limit", "quota"):
        assert f'dispatcher_instances_{name}{{account="us-prod"}} 1.0' in page


@pytest.mark.parametrize(
    "wrong",
    [
        {"accepted": {("cn-prod", "research"): 1}},
        {"accepted": {("cn-prod", "research", "http"): HistogramView((1.0,), (1, 2), 1.0)}},
        {"run_s": {("cn-prod",): 5}},
        {"run_s": {("cn-prod",): HistogramView((1.0, 2.0), (1, 2), 1.0)}},
    ],
    ids=["labels", "histogram for counter", "counter for histogram", "buckets"],
)
async def test_statistics_that_do_not_fit_are_a_fault(wrong):
    statistics = msgspec.structs.replace(everything.statistics(), **wrong)
    with pytest.raises(AssertionError):
        list(EngineCollector(lambda: statistics).collect())


def test_kinds_are_prometheus_own_words():
    assert {str(kind) for kind in Kind} == {"counter", "gauge", "histogram"}
