"""`delivery = "at_most_once"`: what may have been sent is not sent again unless somebody says so."""

import time
from collections import Counter

import pytest

from tests.crash.killing import (
    Launcher,
    Victim,
    all_views,
    number_of,
    runs_of,
    sending,
    wait_until_idle,
)
from tests.crash.test_kill import CLOUD, CONFIG, RUN_S
from tests.sidecar import call, cloud, write_config

pytestmark = pytest.mark.slow

EACH = 60


def enqueue(url):
    """Enqueue for both clouds; return the ids by the number in the payload."""
    ids = {}
    for n in range(2 * EACH):
        job = {"account": ("fc", "lambda")[n % 2], "function": "f", "payload": {"n": n}}
        status, answer = call("POST", f"{url}/v1/invocations", job)
        assert status == 202
        ids[n] = answer["id"]
    return ids


def wait_for_sends(victim, journal, wanted):
    until = time.monotonic() + 60
    while sum(sending(journal).values()) < wanted:
        assert time.monotonic() < until, victim.text()[-2000:]
        time.sleep(0.02)


def test_what_a_kill_met_in_flight_is_uncertain_and_never_sent_twice(tmp_path):
    text = CONFIG.replace("[journal]", '[journal]\ndelivery = "at_most_once"')
    # What is uncertain may be running, and holds its slot until it must have ended.
    text += f'[accounts.fc.functions."*"]\nduration_s = {RUN_S}\n'
    with cloud(tmp_path, CLOUD) as cloud_url, Launcher() as launcher:
        config = write_config(tmp_path, text.replace("CLOUD", cloud_url))
        journal = tmp_path / "journal.db"
        slow = {"kind": "slow", "probability": 1.0, "delay_s": 5.0}
        call("PUT", f"{cloud_url}/_emulator/faults", [slow])
        with Victim(launcher, config) as victim:
            assert victim.wait_until_ready()
            ids = enqueue(victim.url())
            wait_for_sends(victim, journal, 40)
        in_flight = sum(sending(journal).values())
        assert in_flight >= 40
        call("PUT", f"{cloud_url}/_emulator/faults", [])

        with Victim(launcher, config) as victim:
            assert victim.wait_until_ready()
            url = victim.url()
            wait_until_idle(url)
            listed = call("GET", f"{url}/v1/invocations?state=uncertain&limit=1000")[1]["items"]
            assert len(listed) == in_flight
            states = Counter(view["state"] for view in all_views(url))
            assert states == {"uncertain": in_flight, "succeeded": 2 * EACH - in_flight}
            before = Counter(number_of(run) for run in runs_of(cloud_url))
            assert max(before.values()) == 1, "nothing was sent twice"

            redriven, dismissed = listed[0]["id"], listed[1]["id"]
            assert call("POST", f"{url}/v1/invocations/{redriven}/redrive")[0] == 202
            assert call("DELETE", f"{url}/v1/invocations/{dismissed}")[0] == 200
            wait_until_idle(url)
            view = call("GET", f"{url}/v1/invocations/{redriven}")[1]
            assert (view["state"], view["attempts"]) == ("succeeded", 2)
            assert call("GET", f"{url}/v1/invocations/{dismissed}")[1]["state"] == "cancelled"
            after = Counter(number_of(run) for run in runs_of(cloud_url))
            again = {n: after[n] - before[n] for n in after if after[n] != before[n]}
            assert again == {next(n for n, one in ids.items() if one == redriven): 1}

        # The decision outlives a restart, too.
        with Victim(launcher, config) as victim:
            assert victim.wait_until_ready()
            states = Counter(view["state"] for view in all_views(victim.url()))
            assert states["uncertain"] == in_flight - 2
    print(
        f"\nat most once: {in_flight} sends in flight at the kill, {in_flight} uncertain, "
        f"0 of {2 * EACH} sent twice"
    )
