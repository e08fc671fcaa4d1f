"""A rolling restart under load: nothing is lost, and nothing runs twice."""

import signal
import time
from collections import Counter

import pytest

from tests.crash.killing import (
    Callers,
    Launcher,
    Victim,
    all_views,
    number_of,
    runs_of,
    sending,
    wait_until_idle,
)
from tests.crash.test_kill import CLOUD, CONFIG
from tests.sidecar import call, cloud, write_config

pytestmark = pytest.mark.slow

RESTARTS = 5
DRAIN_MAX_S = 5


def test_a_drain_under_load_loses_nothing_and_repeats_nothing(tmp_path):
    text = CONFIG.replace("[server]", f"[server]\ndrain_max_s = {DRAIN_MAX_S}")
    slowest_s, in_flight = 0.0, 0
    with cloud(tmp_path, CLOUD) as cloud_url, Launcher() as launcher:
        config = write_config(tmp_path, text.replace("CLOUD", cloud_url))
        call(
            "PUT",
            f"{cloud_url}/_emulator/faults",
            [{"kind": "slow", "probability": 0.5, "delay_s": 0.5}],
        )
        callers = Callers(singles=3, bulks=1, pause_s=0.05)
        with callers.running():
            for _ in range(RESTARTS):
                with Victim(launcher, config) as victim:
                    assert victim.wait_until_ready()
                    callers.url = victim.url()
                    time.sleep(1.0)
                    in_flight += sum(sending(tmp_path / "journal.db").values())
                    began = time.monotonic()
                    victim.signal(signal.SIGTERM)
                    assert victim.wait_until_dead(60)
                    slowest_s = max(slowest_s, time.monotonic() - began)
                    assert victim.wait() == 0
                assert sending(tmp_path / "journal.db") == {}, "every send came back"
            with Victim(launcher, config) as victim:
                assert victim.wait_until_ready()
                callers.url = victim.url()
                callers.stop()
                wait_until_idle(victim.url())
                views = all_views(victim.url())
        runs = runs_of(cloud_url)
        accounts = call("GET", f"{cloud_url}/_emulator/statistics")[1]["accounts"]
    kept = callers.kept
    assert not kept.odd, kept.odd[:5]
    assert in_flight > 0, "no drain met a send in flight: the load is too light"
    assert {view["id"] for view in views} == set(kept.accepted.values())
    assert {view["state"] for view in views} == {"succeeded"}
    assert Counter(number_of(run) for run in runs) == dict.fromkeys(kept.accepted, 1)
    assert all(account["duplicates_refused"] == 0 for account in accounts.values())
    print(
        f"\ndrain: {RESTARTS} times under load with {in_flight} sends in flight, exit 0 after at "
        f"most {slowest_s:.2f} s of {DRAIN_MAX_S}; 0 of {len(kept.accepted)} lost, 0 ran twice; "
        f"{kept.refused} lines answered 503, {kept.lost_replies} calls without a reply"
    )
