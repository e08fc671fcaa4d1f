"""One engine's statistics as samples, for any registry of prometheus_client."""

import asyncio
import concurrent.futures
import contextlib
import itertools
import logging
import re
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from dispatcher.core.views import HistogramView, Labels, Statistics
from dispatcher.metrics.families import FAMILIES, Family, Kind
from dispatcher.metrics.pace import paced

_logger = logging.getLogger(__name__)

SNAPSHOT_MAX_S = 5.0
"""How long another thread waits for the event loop to hand out the statistics."""


class EngineCollector(Collector):
    """
    Offers the statistics of one engine to any registry.

    Make it on the engine's event loop. It may be collected in any thread; the statistics
    themselves are always taken on that loop.
    """

    def __init__(self, statistics: Callable[[], Statistics]) -> None:
        """Ask *statistics*, such as `engine.statistics`, from now on."""
        self._statistics = statistics
        self._loop = asyncio.get_running_loop()

    def describe(self) -> Iterator[Metric]:
        """Yield all families without values; by their names a registry refuses two engines."""
        return map(_metric, FAMILIES)

    def collect(self) -> Iterator[Metric]:
        """
        Yield all families with their values, all from one moment.

        Yields nothing once the engine's loop has closed, nor when the loop does not answer
        within `SNAPSHOT_MAX_S`: others' metrics on the same page are not to be lost with ours,
        and the want of ours is alerted on.
        """
        if _running_loop() is self._loop:
            yield from _metrics(self._statistics(), give_way=False)
        elif (statistics := self._from_other_thread()) is not None:
            yield from _metrics(statistics, give_way=True)

    def _from_other_thread(self) -> Statistics | None:
        """Have the loop take the statistics, and wait for them."""
        answer: concurrent.futures.Future[Statistics] = concurrent.futures.Future()

        def take() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(self._statistics())
            except Exception as error:  # noqa: BLE001 -- raised again in the thread that asked
                answer.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(take)
        except RuntimeError:  # The loop has closed: nothing is measured any more.
            return None
        concurrent.futures.wait([answer], SNAPSHOT_MAX_S)
        if answer.cancel():
            _logger.warning("metrics_late: the event loop gave no answer in %g s", SNAPSHOT_MAX_S)
            return None
        return answer.result()


def register(registry: CollectorRegistry, statistics: Callable[[], Statistics]) -> EngineCollector:
    """
    Add an engine's metrics to a registry that somebody else serves.

    Call it on the engine's event loop; `registry.unregister` of what is returned takes them out
    again. Raises `ValueError` where *registry* has the metrics of another engine.
    """
    collector = EngineCollector(statistics)
    registry.register(collector)
    return collector


def make_registry(statistics: Callable[[], Statistics]) -> CollectorRegistry:
    """Return what the sidecar serves: the engine, this process and its garbage collector."""
    registry = CollectorRegistry()
    register(registry, statistics)
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def _running_loop() -> asyncio.AbstractEventLoop | None:
    with contextlib.suppress(RuntimeError):
        return asyncio.get_running_loop()
    return None


# -- From statistics to samples ------------------------------------------------------------------

_Metric = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily

# Some labels are the cloud's own words. Neither half a surrogate pair nor a control character or a
# line separator in one of them may make a page unreadable.
_UNPRINTABLE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")


def _metrics(statistics: Statistics, *, give_way: bool) -> Iterator[Metric]:
    for family in FAMILIES:
        metric = _metric(family)
        values = family.read(statistics).items()
        for labels, value in paced(values) if give_way else values:
            assert len(labels) == len(family.labels), (family.name, labels)
            _add(metric, labels, value)
        yield metric


def _metric(family: Family) -> _Metric:
    match family.kind:
        case Kind.COUNTER:
            return CounterMetricFamily(family.name, family.meaning, labels=family.labels)
        case Kind.GAUGE:
            return GaugeMetricFamily(family.name, family.meaning, labels=family.labels)
        case Kind.HISTOGRAM:
            return HistogramMetricFamily(family.name, family.meaning, labels=family.labels)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _add(metric: _Metric, labels: Labels, value: float | HistogramView) -> None:
    shown = [text if text.isprintable() else _UNPRINTABLE.sub(_escaped, text) for text in labels]
    if isinstance(metric, HistogramMetricFamily):
        assert isinstance(value, HistogramView), (metric.name, value)
        assert len(value.counts) == len(value.bounds) + 1, (metric.name, value)
        bounds = (*map(floatToGoString, value.bounds), "+Inf")
        counts = itertools.accumulate(value.counts)
        metric.add_metric(shown, list(zip(bounds, counts, strict=True)), value.total)
    else:
        assert not isinstance(value, HistogramView), (metric.name, value)
        metric.add_metric(shown, value)
