"""The main job, end to end: two clouds, one sidecar, everything as separate processes."""

import json
import time
import urllib.request
from collections import Counter
from typing import Any

import pytest

from tests.sidecar import Sidecar, call, cloud, write_config

EACH = 1000
QUOTA = 120
HEADROOM = 20
LIMIT = QUOTA - HEADROOM

CLOUD = f"""
[accounts.fc]
provider = "aliyun-fc"
account_id = "1031234567890123"
region = "cn-shanghai"
quota = {QUOTA}
keys = {{ AKFC = "s3cret" }}
[accounts.fc.functions."*"]
duration_s = 0.3
jitter = "uniform"
jitter_spread = 0.5
cold_start_s = 0.05

[accounts.lambda]
provider = "aws-lambda"
account_id = "123456789012"
region = "us-east-1"
quota = {QUOTA}
keys = {{ AKAWS = "s3cret" }}
queues = ["ends"]
[accounts.lambda.functions."*"]
duration_s = 0.3
jitter = "uniform"
jitter_spread = 0.5
on_success = "ends"
on_failure = "ends"
"""

CONFIG = """
[server]
listen = ["127.0.0.1:0"]

[metrics]
listen = "127.0.0.1:0"

[accounts.fc]
provider = "aliyun-fc"
account_id = "1031234567890123"
region = "cn-shanghai"
quota = {quota}
headroom = {headroom}
endpoint = "{cloud}"
credentials = {{ source = "static", access_key_id = "AKFC", access_key_secret_file = "secret" }}

[accounts.lambda]
provider = "aws-lambda"
account_id = "123456789012"
region = "us-east-1"
quota = {quota}
headroom = {headroom}
endpoint = "{cloud}"
completion_queue = "{cloud}/123456789012/ends"
credentials = {{ source = "static", access_key_id = "AKAWS", access_key_secret_file = "secret" }}
"""

#: The first of each account take so long that they fill the limit however busy the machine is.
FIRST_S = 2.0

FUNCTIONS = {"fc": ("m42-ng-fc$surf2surf", "plain"), "lambda": ("thumbs", "mail")}


def enqueue(sidecar):
    """Enqueue everything as one stream of lines; return the ids by account."""
    lines = [
        {
            "account": account,
            "function": FUNCTIONS[account][number % 2],
            "tenant": f"team-{number % 3}",
            "payload": {
                "n": number,
                **({"emulate": {"duration_s": FIRST_S}} if number < LIMIT else {}),
            },
        }
        for number in range(EACH)
        for account in FUNCTIONS
    ]
    body = "\n".join(json.dumps(line) for line in lines).encode()
    request = urllib.request.Request(
        f"{sidecar.url}/v1/invocations", body, {"Content-Type": "application/x-ndjson"}
    )
    begun = time.monotonic()
    with urllib.request.urlopen(request, timeout=60) as reply:
        answers = [json.loads(line) for line in reply.read().splitlines()]
    print(f"\naccepted {len(answers)} lines in {time.monotonic() - begun:.2f} s, on disk")
    return {
        account: [
            a["id"] for a, line in zip(answers, lines, strict=True) if line["account"] == account
        ]
        for account in FUNCTIONS
    }


def wait_until_idle(sidecar, max_s=120.0):
    until = time.monotonic() + max_s
    while True:
        accounts = sidecar.call("GET", "/v1/accounts")[1]["items"]
        if not any(a["in_use"] or a["queued"]["due"] or a["queued"]["delayed"] for a in accounts):
            return
        assert time.monotonic() < until, f"still busy: {accounts}"
        time.sleep(0.05)


def runs_of(url):
    runs: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        page = call("GET", f"{url}/_emulator/runs?after={after}&limit=10000")[1]
        runs += page["runs"]
        after = page["next"]
    return runs


@pytest.mark.slow
def test_2000_invocations_over_both_clouds_run_once_each_within_the_limit(tmp_path):
    with cloud(tmp_path, CLOUD) as url:
        config = CONFIG.format(cloud=url, quota=QUOTA, headroom=HEADROOM)
        with Sidecar(write_config(tmp_path, config)) as sidecar:
            begun = time.monotonic()
            ids = enqueue(sidecar)
            wait_until_idle(sidecar)
            took_s = time.monotonic() - begun
            views = {
                one: sidecar.call("GET", f"/v1/invocations/{one}")
                for one in (*ids["fc"], *ids["lambda"])
            }
            accounts = call("GET", f"{url}/_emulator/statistics")[1]["accounts"]
            runs = runs_of(url)
            assert sidecar.stop() == 0

    assert len(views) == 2 * EACH
    assert {status for status, _ in views.values()} == {200}, "all visible"
    assert Counter(view["state"] for _, view in views.values()) == {"succeeded": 2 * EACH}
    assert not any(view["estimated"] for _, view in views.values())

    by_task = Counter(run["task_id"] for run in runs if run["account"] == "fc")
    assert by_task == dict.fromkeys(ids["fc"], 1), "each once, under its own task id"
    by_request = Counter(run["request_id"] for run in runs if run["account"] == "lambda")
    assert by_request == {views[one][1]["request_id"]: 1 for one in ids["lambda"]}
    assert all(run["asynchronous"] for run in runs), "all with the asynchronous header"

    for name, account in accounts.items():
        assert account["accepted_sync"] == 0, name
        assert account["instances_peak"] <= LIMIT, name
        assert account["throttles_sync"] == {}, name
        assert account["throttles_async"] == {}, name
        assert account["duplicates_refused"] == 0, name
    peaks = {name: account["instances_peak"] for name, account in accounts.items()}
    ideal_s = FIRST_S + (EACH - LIMIT) * 0.3 / LIMIT
    print(
        f"ran {len(runs)} once each in {took_s:.1f} s (ideal {ideal_s:.1f}); peaks {peaks} of {LIMIT}"
    )
    assert set(peaks.values()) == {LIMIT}, "the limit was used"
