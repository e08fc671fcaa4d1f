"""A page of metrics: which format a scraper wants, and making it without stalling the loop."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, cast

import anyio.lowlevel
import anyio.to_thread
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from dispatcher.metrics.pace import paced


async def render(registry: CollectorRegistry, accept_header: str | None) -> tuple[bytes, str]:
    """
    Return a page and its content type: OpenMetrics where *accept_header* wants it, else text.

    The page is made in a thread that gives way to the event loop. Pages that are asked for at
    the same time are made one after the other.
    """
    encode, content_type = _encoder(accept_header or "")
    page = await anyio.to_thread.run_sync(encode, _Paced(registry), limiter=_one_at_a_time())
    return page, content_type


def _encoder(accept_header: str) -> tuple[Callable[[Collector], bytes], str]:
    try:
        return choose_encoder(accept_header)
    except TypeError:
        # A version that is not made of numbers: prometheus_client compares it all the same.
        return choose_encoder("")


class _Paced(Collector):
    """A registry that hands its samples to the encoder a few at a time."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            handed = copy.copy(metric)
            # Declared as a list, but the encoders only iterate, and once.
            handed.samples = cast("Any", paced(metric.samples))
            yield handed


_turnstile = anyio.lowlevel.RunVar[anyio.CapacityLimiter]("dispatcher.metrics.page")


def _one_at_a_time() -> anyio.CapacityLimiter:
    """Return this event loop's turnstile: many scrapes must not use up its threads."""
    try:
        return _turnstile.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(1)
        _turnstile.set(limiter)
        return limiter
