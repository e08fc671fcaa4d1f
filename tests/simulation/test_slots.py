"""A slot is held until the function has ended: both clouds, seen by the cloud's own count."""

import json
import re
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.sidecar import Sidecar, call, cloud, write_config
from tests.simulation.test_main_job import runs_of

LIMIT = 10
EACH = 100

#: The cloud would run far more than the dispatcher is allowed to: it does not hold the limit.
CLOUD_ACCOUNT = """
[accounts.{name}]
provider = "{provider}"
account_id = "{account_id}"
region = "{region}"
quota = 1000
keys = {{ "AK-{name}" = "s3cret" }}
{queues}
[accounts.{name}.functions."*"]
duration_s = 1.5
jitter = "uniform"
jitter_spread = 0.333333
{function}
"""

CONFIG_ACCOUNT = """
[accounts.{name}]
provider = "{provider}"
account_id = "{account_id}"
region = "{region}"
quota = {limit}
endpoint = "{cloud}"
credentials = {{ source = "static", access_key_id = "AK-{name}", access_key_secret_file = "secret" }}
{queue}
{function}
"""

SERVER = """
[server]
listen = ["127.0.0.1:0"]
[metrics]
listen = "127.0.0.1:0"
"""

FC = {"provider": "aliyun-fc", "region": "cn-shanghai"}
LAMBDA = {"provider": "aws-lambda", "region": "us-east-1"}
ACCEPTED = '[accounts.{name}.functions."*"]\ncompletion = "accepted"'
ENDS = 'queues = ["ends"]'
TO_ENDS = 'on_success = "ends"\non_failure = "ends"'


def accounts() -> list[dict[str, str]]:
    """Return, for each cloud, an account that waits for the ends and one that does not."""
    return [
        {"name": "fc", "account_id": "1031", **FC},
        {"name": "lambda", "account_id": "123456789012", **LAMBDA},
        {"name": "fc-accepted", "account_id": "1032", **FC},
        {"name": "lambda-accepted", "account_id": "123456789013", **LAMBDA},
    ]


def cloud_config(seed: int = 1) -> str:
    """Return the configuration of the emulator."""
    text = f"seed = {seed}\n"
    for account in accounts():
        lambda_ = account["name"] == "lambda"
        text += CLOUD_ACCOUNT.format(
            **account, queues=ENDS if lambda_ else "", function=TO_ENDS if lambda_ else ""
        )
    return text


def sidecar_config(url: str, rules: str = "") -> str:
    """Return the configuration of the sidecar; *rules* are those of the exact functions."""
    text = SERVER
    for account in accounts():
        name = account["name"]
        queue = f'completion_queue = "{url}/123456789012/ends"' if name == "lambda" else ""
        if name.endswith("accepted"):
            function = ACCEPTED.format(name=name)
        else:
            function = f'[accounts.{name}.functions."*"]\n{rules}' if rules else ""
        text += CONFIG_ACCOUNT.format(
            **account, limit=LIMIT, cloud=url, queue=queue, function=function
        )
    return text


def enqueue(sidecar: Sidecar, account: str, count: int, **fields: Any) -> list[str]:
    """Enqueue *count* invocations; return their ids."""
    lines = "\n".join(
        json.dumps({"account": account, "function": "work", "payload": {"n": n}, **fields})
        for n in range(count)
    )
    request = urllib.request.Request(
        f"{sidecar.url}/v1/invocations", lines.encode(), {"Content-Type": "application/x-ndjson"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return [json.loads(line)["id"] for line in reply.read().splitlines()]


def wait_until_idle(sidecar: Sidecar, account: str, max_s: float) -> float:
    """Wait until nothing waits and no slot is held; return how long that took."""
    begun = time.monotonic()
    while True:
        view = sidecar.call("GET", f"/v1/accounts/{account}")[1]
        if not (view["in_use"] or view["queued"]["due"] or view["queued"]["delayed"]):
            return time.monotonic() - begun
        assert time.monotonic() < begun + max_s, f"still busy: {view}"
        time.sleep(0.02)


def metric(sidecar: Sidecar, name: str, **labels: str) -> float:
    """Return the sum of the samples of a metric that have these labels."""
    with urllib.request.urlopen(f"{sidecar.url}/metrics", timeout=30) as reply:
        page = reply.read().decode()
    total = 0.0
    for found, value in re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", page, re.MULTILINE):
        has = dict(re.findall(r'(\w+)="([^"]*)"', found))
        if labels.items() <= has.items():
            total += float(value)
    return total


def counts_of(url: str) -> dict[str, Any]:
    """Return what the cloud counted, by account."""
    return call("GET", f"{url}/_emulator/statistics")[1]["accounts"]


EXACT = ("fc", "lambda")


@pytest.mark.slow
def test_never_more_instances_than_the_limit_and_hardly_an_idle_one(tmp_path: Path):
    with cloud(tmp_path, cloud_config()) as url:
        with Sidecar(write_config(tmp_path, sidecar_config(url))) as sidecar:
            ids = [one for name in EXACT for one in enqueue(sidecar, name, EACH)]
            for name in EXACT:
                enqueue(sidecar, f"{name}-accepted", EACH)
            for name in EXACT:
                wait_until_idle(sidecar, name, 40.0)
            states = Counter(
                (view["state"], view["estimated"])
                for view in (sidecar.call("GET", f"/v1/invocations/{one}")[1] for one in ids)
            )
            forced = metric(sidecar, "dispatcher_forced_releases_total")
            assert sidecar.stop() == 0
        runs = runs_of(url)
        counted = counts_of(url)
    print()
    for name in EXACT:
        mine = [run for run in runs if run["account"] == name]
        ideal_s = sum(run["ended_at"] - run["started_at"] for run in mine) / LIMIT
        took_s = max(run["ended_at"] for run in mine) - min(run["started_at"] for run in mine)
        peak, other = (counted[each]["instances_peak"] for each in (name, f"{name}-accepted"))
        print(
            f"{name}: {len(mine)} runs of 1 to 2 s, limit {LIMIT}: peak {peak} instances, "
            f"{took_s:.1f} s = {took_s / ideal_s:.2f} of the ideal {ideal_s:.1f} s, "
            f"{forced:.0f} forced; with completion = accepted: peak {other}"
        )
        assert len(mine) == EACH
        assert counted[name]["repeats"] == 0
        assert peak <= LIMIT
        assert took_s <= 1.25 * ideal_s
        assert other > 5 * LIMIT, "what only waits for the 202 holds no limit"
    assert states == {("succeeded", False): len(ids)}
    assert forced == 0
