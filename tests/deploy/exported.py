"""What the sidecar really exports, read from a page with everything on it."""

import asyncio

import prometheus_client.parser
from prometheus_client import generate_latest

from dispatcher.metrics import make_registry
from tests.metrics import everything


def page() -> bytes:
    """Return a page of the sidecar's."""

    async def render() -> bytes:
        return generate_latest(make_registry(everything.statistics))

    return asyncio.run(render())


def labels_by_series() -> dict[str, frozenset[str]]:
    """Return the label names of each series, by its name."""
    return {
        sample.name: frozenset(sample.labels)
        for metric in prometheus_client.parser.text_string_to_metric_families(page().decode())
        for sample in metric.samples
    }
