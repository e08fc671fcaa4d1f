"""A slot is held until the function has ended: both clouds, seen by the cloud's own count."""

import base64
import json
import math
import re
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dispatcher.core.callback import PLACEHOLDER
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


def wait_until_idle(sidecar: Sidecar, account: str, max_s: float = 90.0) -> float:
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
    counted: dict[str, Any] = call("GET", f"{url}/_emulator/statistics")[1]["accounts"]
    return counted


EXACT = ("fc", "lambda")


#: Whatever else the machine does makes a run longer, never shorter: the best one counts.
TRIES = 3
OF_THE_IDEAL_MAX = 1.25


@pytest.mark.slow
def test_never_more_instances_than_the_limit_and_hardly_an_idle_one(tmp_path: Path):
    best = dict.fromkeys(EXACT, math.inf)
    for number in range(TRIES):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, of_the_ideal in run_within_the_limit(folder).items():
            best[name] = min(best[name], of_the_ideal)
        if max(best.values()) <= OF_THE_IDEAL_MAX:
            return
    raise AssertionError(best)


def run_within_the_limit(folder: Path) -> dict[str, float]:
    """Have both clouds run many, and return how long that took, in shares of the ideal time."""
    with cloud(folder, cloud_config()) as url:
        with Sidecar(write_config(folder, sidecar_config(url))) as sidecar:
            ids = [one for name in EXACT for one in enqueue(sidecar, name, EACH)]
            for name in EXACT:
                enqueue(sidecar, f"{name}-accepted", EACH)
            for name in EXACT:
                wait_until_idle(sidecar, name)
            states = Counter(
                (view["state"], view["estimated"])
                for view in (sidecar.call("GET", f"/v1/invocations/{one}")[1] for one in ids)
            )
            forced = metric(sidecar, "dispatcher_forced_releases_total")
            assert sidecar.stop() == 0
        runs = runs_of(url)
        counted = counts_of(url)
    assert states == {("succeeded", False): len(ids)}
    assert forced == 0
    print()
    of_the_ideal = {}
    for name in EXACT:
        mine = [run for run in runs if run["account"] == name]
        ideal_s = sum(run["ended_at"] - run["started_at"] for run in mine) / LIMIT
        took_s = max(run["ended_at"] for run in mine) - min(run["started_at"] for run in mine)
        of_the_ideal[name] = took_s / ideal_s
        peak, other = (counted[each]["instances_peak"] for each in (name, f"{name}-accepted"))
        print(
            f"{name}: {len(mine)} runs of 1 to 2 s, limit {LIMIT}: peak {peak} instances, "
            f"{took_s:.1f} s = {of_the_ideal[name]:.2f} of the ideal {ideal_s:.1f} s, "
            f"{forced:.0f} forced; with completion = accepted: peak {other}"
        )
        assert len(mine) == EACH
        assert counted[name]["repeats"] == 0
        assert peak <= LIMIT
        assert other > 5 * LIMIT, "what only waits for the 202 holds no limit"
    return of_the_ideal


#: Lost: 5 %; doubled, early (before the 202) and late: 20 % each.
SPOILED = """
seed = 3
[records]
lost = 0.05
doubled = 0.2
delayed = 0.2
delay_s = 0.8
[[faults]]
kind = "slow"
operation = "invoke"
probability = 0.2
delay_s = 0.6
[[faults]]
kind = "slow"
operation = "tasks"
probability = 0.2
delay_s = 0.8
"""
HOLD_MAX_S = 4.0
MANY = 200


@pytest.mark.slow
def test_news_that_is_lost_doubled_early_or_late_leaves_no_slot_behind(tmp_path: Path):
    text = SPOILED + cloud_config().partition("\n")[2]
    text = text.replace("duration_s = 1.5", "duration_s = 0.3\ntask_lost_rate = 0.05")
    rules = f"hold_max_s = {HOLD_MAX_S}"
    with cloud(tmp_path, text) as url:
        config = sidecar_config(url, rules).replace(f"quota = {LIMIT}", f"quota = {2 * LIMIT}")
        with Sidecar(write_config(tmp_path, config)) as sidecar:
            ids = {name: enqueue(sidecar, name, MANY) for name in EXACT}
            took_s = {name: wait_until_idle(sidecar, name) for name in EXACT}
            time.sleep(1.0)  # for news that comes when all is over
            ends = {
                name: Counter(
                    sidecar.call("GET", f"/v1/invocations/{one}")[1]["state"] for one in ids[name]
                )
                for name in EXACT
            }
            forced = {
                name: metric(sidecar, "dispatcher_forced_releases_total", account=name)
                for name in EXACT
            }
            left = {
                name: (
                    metric(sidecar, "dispatcher_in_flight", account=name),
                    metric(sidecar, "dispatcher_instances_in_use", account=name),
                )
                for name in EXACT
            }
            assert sidecar.stop() == 0
        counted = counts_of(url)
        told = call("GET", f"{url}/_emulator/statistics")[1]
    print(f"\nrecords {told['records']}, faults {told['faults']}")
    for name in EXACT:
        print(
            f"{name}: {dict(ends[name])} in {took_s[name]:.1f} s, {forced[name]:.0f} forced, "
            f"(in flight, instances) left {left[name]}, peak {counted[name]['instances_peak']}"
        )
        assert left[name] == (0.0, 0.0)
        assert set(ends[name]) <= {"succeeded", "uncertain"}
        assert ends[name].total() == MANY
        # What is late for its slot may still move an uncertain one to its true end.
        assert ends[name]["uncertain"] <= forced[name]
        assert 1 <= forced[name] <= 0.12 * MANY
        assert counted[name]["instances_peak"] <= 2 * LIMIT


#: So that many are on their way at the moment of the kill.
SLOW_REPLIES = """
faults = [{ kind = "slow", operation = "invoke", probability = 0.3, delay_s = 1.0 }]
"""


@pytest.mark.slow
def test_200_that_run_while_the_dispatcher_is_killed_are_all_learned_of(tmp_path: Path):
    limit = 220  # so that there is a moment with 200 even where ends are learned late
    text = SLOW_REPLIES + cloud_config().replace("duration_s = 1.5", "duration_s = 3.0")
    with cloud(tmp_path, text) as url:
        config = write_config(
            tmp_path,
            sidecar_config(url, "duration_s = 3.0").replace(f"quota = {LIMIT}", f"quota = {limit}"),
        )
        with Sidecar(config) as first:
            ids = [one for name in EXACT for one in enqueue(first, name, 2 * limit)]
            until = time.monotonic() + 60.0
            while any(account["running"] < 200 for account in _exact(url)):
                assert time.monotonic() < until, _exact(url)
                time.sleep(0.02)
            first.kill()
        time.sleep(1.5)  # some end while nobody is there
        with Sidecar(config) as second:
            for name in EXACT:
                wait_until_idle(second, name)
            views = [second.call("GET", f"/v1/invocations/{one}")[1] for one in ids]
            forced = metric(second, "dispatcher_forced_releases_total")
            recovered = {
                state: metric(second, "dispatcher_recovered_total", state=state)
                for state in ("sending", "running")
            }
            assert second.stop() == 0
        runs = runs_of(url)
        counted = counts_of(url)
    by_account = Counter(run["account"] for run in runs)
    print(
        f"\nrecovered {recovered}; runs {dict(by_account)} of {2 * limit} each, peaks "
        f"{[counted[name]['instances_peak'] for name in EXACT]} of {limit}, {forced:.0f} forced"
    )
    assert Counter((view["state"], view["estimated"]) for view in views) == {
        ("succeeded", False): len(ids)
    }
    assert counted["fc"]["instances_peak"] <= limit
    assert by_account["fc"] == 2 * limit, "a repeated task id runs once"
    # Lambda knows no ids of ours: what was on its way at that moment is sent again, but not
    # before the first may have ended.
    assert counted["lambda"]["instances_peak"] <= limit
    assert recovered["sending"] > 0
    assert recovered["running"] > 0
    assert forced == 0


def _exact(url: str) -> list[dict[str, Any]]:
    counted = counts_of(url)
    return [counted[name] for name in EXACT]


@pytest.mark.slow
def test_a_function_posts_its_own_end_with_what_it_found_in_its_payload(tmp_path: Path):
    rules = 'completion = "callback"'
    token = tmp_path / "token"
    token.write_text("operators-token")
    token.chmod(0o600)
    config = sidecar_config("{url}", rules).replace("[server]", '[server]\ntoken_file = "token"')
    quick = cloud_config().replace("duration_s = 1.5", "duration_s = 0.1")
    with (
        cloud(tmp_path, quick) as url,
        Sidecar(write_config(tmp_path, config.replace("{url}", url))) as sidecar,
    ):
        headers = {"Authorization": "Bearer operators-token"}
        ids = []
        for name in EXACT:
            job = {"account": name, "function": "f", "payload": {"a": PLACEHOLDER}}
            ids.append(ask(sidecar, "POST", "/v1/invocations", job, headers)[1]["id"])
        until = time.monotonic() + 60.0
        while len(runs_of(url)) < len(EXACT):
            assert time.monotonic() < until
            time.sleep(0.05)
        for run in runs_of(url):
            told = json.loads(base64.b64decode(run["payload_head"]))["a"]
            path = told["url"].removeprefix(sidecar.url)
            own = {"Authorization": f"Bearer {told['token']}"}
            end = {"succeeded": True, "result": told["attempt"]}
            assert ask(sidecar, "POST", path, end)[0] == 401
            wrong = {"Authorization": own["Authorization"][:-2]}
            assert ask(sidecar, "POST", path, end, wrong)[0] == 403
            for _ in range(2):
                assert ask(sidecar, "POST", path, end, own)[0] == 204
            assert ask(sidecar, "GET", f"/v1/invocations/{told['id']}", None, own)[0] == 401
        for one in ids:
            view = ask(sidecar, "GET", f"/v1/invocations/{one}", None, headers)[1]
            assert (view["state"], view["result"], view["estimated"]) == ("succeeded", 1, False)


def ask(
    sidecar: Sidecar, method: str, path: str, body: Any, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """Make a request with headers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        sidecar.url + path,
        data,
        {"Content-Type": "application/json", **(headers or {})},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            text = reply.read()
            return reply.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())
