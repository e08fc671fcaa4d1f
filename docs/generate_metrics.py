"""Writes docs/metrics.md from the list of metrics: `python docs/generate_metrics.py`."""  # noqa: INP001

from pathlib import Path

from dispatcher.metrics import FAMILIES, Family

PAGE = Path(__file__).with_name("metrics.md")

_BEFORE = """\
# Metrics

<!-- Made by docs/generate_metrics.py from dispatcher/metrics/families.py: change it there. -->

`GET /metrics` serves these, on the main listener and on that of `[metrics]`: as OpenMetrics to
whoever accepts it, else in Prometheus' text format. `deploy/prometheus/` has a scrape
configuration and alerts, `deploy/grafana/dashboard.json` shows them, and
[operations.md](operations.md) says what to do about each alert.

"""

_AFTER = """
Beside these the sidecar serves `process_*` and `python_gc_*`, as Prometheus' client for Python
defines them.

## Labels

| label | values |
|---|---|
| `account` | the accounts of the configuration; anything else is `other` |
| `function` | the functions of the configuration, then the first 100 others of each account; the rest is `other` |
| `tenant` | the tenants of the configuration, `default` for none; the rest is `other` |
| `state` | of `ended`: `succeeded`, `dead`, `expired`, `cancelled`, `uncertain`; of `queue_jobs`: `due`, `delayed`; of `recovered`: `waiting`, `sending`, `running` |
| `result` | of `send_attempts`: `ok`, `throttled`, `refused`, `error`, `timeout`; of `config_reloads`: `ok`, `refused`; of `notices`: `ok`, `failed`, `refused`, `dropped` |
| `reason` | of `throttles`: the cloud's own code, to the letter; of `rejected`: `invalid`, `payload_too_large`, `key_reused`, `queue_full`, `draining`, `disk_full`, `waited_too_long`, `withdrawn`, `journal` |
| `gate` | what held work up: `account`, `function`, `tenant`, `rate`, `ramp`, `resource`, `paused`, `retry_after`, `circuit`, `retry`, `delay` |
| `source` | the way in, such as `in_process` or `http` |

No label ever holds the id of an invocation, so the number of series is bounded by the
configuration. A repeated FC task id (409) counts as `ok`: the cloud has the invocation already.

All gauges of a page are from one moment. A histogram `X` stands for `X_bucket`, `X_sum` and
`X_count`.

## In a service that embeds the dispatcher

A service that has a registry of its own adds the metrics to it with
`dispatcher.register_metrics(registry)`; when the dispatcher is closed it takes them out again. The
registry may be scraped in any thread. It takes one dispatcher, since nothing in the names would
tell two apart.
"""


def page() -> str:
    """Return the whole page."""
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|", *map(_row, FAMILIES)]
    return _BEFORE + "\n".join(rows) + "\n" + _AFTER


def _row(family: Family) -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels)
    return f"| `{family.name}` | {family.kind} | {labels} | {family.meaning} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
