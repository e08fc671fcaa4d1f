import re

import anyio
import msgspec
import pytest

from dispatcher.core.views import HistogramView, Statistics
from dispatcher.errors import DiskFull, QueueFull
from dispatcher.metrics import FAMILIES, EngineCollector, Kind
from tests.engine.rig import rig
from tests.metrics import everything

# The promise, to the letter: name, type, labels.
CONTRACT = """
dispatcher_accepted_total counter account tenant source
dispatcher_rejected_total counter account reason
dispatcher_ended_total counter account function tenant state
dispatcher_send_attempts_total counter account function result
dispatcher_throttles_total counter account function reason
dispatcher_requests_in_flight gauge account
dispatcher_in_flight gauge account function tenant
dispatcher_instances_in_use gauge account
dispatcher_instances_limit gauge account
dispatcher_instances_quota gauge account
dispatcher_queue_jobs gauge account tenant state
dispatcher_queue_oldest_age_seconds gauge account
dispatcher_dead_jobs gauge account
dispatcher_queue_wait_seconds histogram account
dispatcher_send_seconds histogram account
dispatcher_run_seconds histogram account
dispatcher_accept_seconds histogram account
dispatcher_forced_releases_total counter account function
dispatcher_late_completions_total counter account
dispatcher_blocked_seconds_total counter account gate
dispatcher_journal_commit_seconds histogram
dispatcher_journal_bytes gauge
dispatcher_journal_errors_total counter
dispatcher_recovered_total counter state
dispatcher_loop_lag_seconds histogram
dispatcher_config_reloads_total counter result
dispatcher_build_info gauge version python sqlite
"""
ADDED = """
dispatcher_circuit_open gauge account
dispatcher_paused gauge account
dispatcher_queue_jobs_max gauge
dispatcher_start_delay_seconds histogram account
dispatcher_notices_total counter account result
dispatcher_untracked gauge account function
dispatcher_reclaim_seconds histogram account
dispatcher_adaptive_limit gauge account
dispatcher_foreign_instances gauge account
"""


def test_the_list_is_the_promised_one():
    listed = {" ".join((family.name, family.kind, *family.labels)) for family in FAMILIES}
    assert listed == set((CONTRACT + ADDED).split("\n")) - {""}
    assert len(FAMILIES) == len(listed)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_names_and_meanings_keep_to_the_conventions(family):
    assert re.fullmatch(r"dispatcher_[a-z_]+", family.name)
    assert family.name.endswith("_total") == (family.kind is Kind.COUNTER)
    assert family.meaning.endswith(".")
    assert "|" not in family.meaning, "it is shown in a table"
    assert "id" not in family.labels


@pytest.mark.parametrize("field", [field.name for field in msgspec.structs.fields(Statistics)])
def test_every_statistic_is_shown(field):
    before = everything.statistics()
    after = msgspec.structs.replace(before, **{field: _doubled(getattr(before, field))})
    changed = [family.name for family in FAMILIES if family.read(before) != family.read(after)]
    assert len(changed) == 1, changed


def _doubled(value):
    if isinstance(value, dict):
        return {key: _doubled(each) for key, each in value.items()}
    if isinstance(value, HistogramView):
        return HistogramView(value.bounds, value.counts, value.total * 2)
    return value * 2


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_metric_has_as_many_label_values_as_labels(family):
    values = family.read(everything.statistics())
    assert values
    assert {len(labels) for labels in values} == {len(family.labels)}


async def test_a_fresh_engine_shows_zeros_where_a_first_event_is_alerted_on():
    async with rig() as running:
        shown = {family.name: family.read(running.engine.statistics()) for family in FAMILIES}
    for kind in (QueueFull, DiskFull):
        assert shown["dispatcher_rejected_total"]["main", kind.reason] == 0
    assert shown["dispatcher_late_completions_total"]["main",] == 0
    assert shown["dispatcher_dead_jobs"]["main",] == 0
    assert shown["dispatcher_journal_errors_total"][()] == 0
    assert shown["dispatcher_config_reloads_total"].keys() == {("ok",), ("refused",)}
    runs = shown["dispatcher_run_seconds"]["main",]
    assert isinstance(runs, HistogramView)
    assert sum(runs.counts) == 0


async def test_an_engine_at_work_fits_the_list():
    async with rig() as running:
        await running.enqueue(tenant="research").accepted()
        await anyio.sleep(1)
        statistics = running.engine.statistics()
        metrics = {metric.name: metric for metric in EngineCollector(lambda: statistics).collect()}
    (in_flight,) = metrics["dispatcher_in_flight"].samples
    assert in_flight.value == 1
    assert in_flight.labels == {"account": "main", "function": "f", "tenant": "other"}
    (jobs_max,) = metrics["dispatcher_queue_jobs_max"].samples
    assert jobs_max.value == running.engine.settings.queue.jobs_max


def test_forced_releases_begin_at_zero_with_the_first_send():
    family = next(each for each in FAMILIES if each.name == "dispatcher_forced_releases_total")
    sent = msgspec.structs.replace(
        everything.nothing_yet(), send_attempts={("cn-prod", "resize", "ok"): 1}
    )
    assert family.read(sent) == {("cn-prod", "resize"): 0}
    forced = msgspec.structs.replace(sent, forced_releases={("cn-prod", "resize"): 4})
    assert family.read(forced) == {("cn-prod", "resize"): 4}
