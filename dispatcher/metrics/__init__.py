"""
What the engine measures, in the formats of Prometheus.

Nothing is counted in here: each page is made of one `Statistics`, taken on the engine's event
loop and then read in whichever thread the page is made in. Registries are always given, never
the global one of prometheus_client, since several engines may live in one process.
"""

from dispatcher.metrics.collector import EngineCollector, make_registry, register
from dispatcher.metrics.families import FAMILIES, Family, Kind
from dispatcher.metrics.page import render

__all__ = [
    "FAMILIES",
    "EngineCollector",
    "Family",
    "Kind",
    "make_registry",
    "register",
    "render",
]
