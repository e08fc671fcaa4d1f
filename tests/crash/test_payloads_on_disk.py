"""Payloads that memory has no room for stay in the journal and arrive all the same."""

import json
import re
from pathlib import Path

import pytest

from tests.crash.killing import Launcher, Victim, runs_of, wait_until_idle
from tests.crash.test_kill import CLOUD, CONFIG
from tests.sidecar import call, cloud, write_config

pytestmark = pytest.mark.slow

JOBS = 200
PAYLOAD_BYTES = 400_000
BYTES_MAX = 2_000_000


def resident_mib(pid):
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def payload(n):
    """Return a payload that says where it belongs at its beginning, and at its end."""
    return {"n": n, "filler": f"{n:04}" * (PAYLOAD_BYTES // 4), "end": n}


@pytest.mark.parametrize("restart", [False, True], ids=["in one go", "across kill -9"])
def test_a_backlog_larger_than_memory_arrives_whole_and_in_order(tmp_path, restart):
    text = CONFIG.replace("[retry]", f"[queue]\nbytes_max = {BYTES_MAX}\n\n[retry]")
    # One at a time, so that the order of the runs is the order of the sends.
    text = re.sub(r"quota = \d+", "quota = 1", text)
    with (
        cloud(tmp_path, CLOUD.replace("duration_s = 0.25", "duration_s = 0.0")) as cloud_url,
        Launcher() as launcher,
    ):
        call("PUT", f"{cloud_url}/_emulator/faults", [])
        config = write_config(tmp_path, text.replace("CLOUD", cloud_url))
        with Victim(launcher, config) as victim:
            assert victim.wait_until_ready()
            before_mib = resident_mib(victim.pid)
            url = victim.url()
            assert call("POST", f"{url}/v1/accounts/lambda/pause")[0] == 204
            for n in range(JOBS):
                job = {"account": "lambda", "function": "f", "payload": payload(n), "type": "sync"}
                assert call("POST", f"{url}/v1/invocations", job)[0] == 202
            grown_mib = resident_mib(victim.pid) - before_mib
            if not restart:
                assert call("POST", f"{url}/v1/accounts/lambda/resume")[0] == 204
                wait_until_idle(url)
                check(cloud_url, url)
        if restart:
            with Victim(launcher, config) as victim:
                assert victim.wait_until_ready()
                url = victim.url()
                assert call("POST", f"{url}/v1/accounts/lambda/resume")[0] == 204
                wait_until_idle(url)
                check(cloud_url, url)
    total_mib = JOBS * PAYLOAD_BYTES / 1024 / 1024
    print(
        f"\nbacklog of {total_mib:.0f} MiB with queue.bytes_max = {BYTES_MAX / 1e6:g} MB: memory "
        f"grew by {grown_mib:.0f} MiB; all {JOBS} arrived whole and in order"
    )
    assert grown_mib < total_mib * 0.6


def check(cloud_url, url):
    """See that the functions got every payload to the byte, in the order of acceptance."""
    heads = [run["payload_head"] for run in runs_of(cloud_url)]
    assert len(heads) == JOBS
    items, after = [], ""
    while True:
        page = call("GET", f"{url}/v1/invocations?limit=100{after}")[1]
        items += page["items"]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    items.reverse()
    starts = [item["sent_at"] for item in items]
    assert starts == sorted(starts), "in order"
    for n in (0, 1, JOBS // 2, JOBS - 1):
        # What a function of the emulator returns is its payload.
        view = call("GET", f"{url}/v1/invocations/{items[n]['id']}")[1]
        assert view["state"] == "succeeded"
        assert view["result"] == payload(n)
    whole = [json.dumps(item["result"]) for item in items if "result" in item]
    assert all(json.loads(text)["n"] == json.loads(text)["end"] for text in whole)
