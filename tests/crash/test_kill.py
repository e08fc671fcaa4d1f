"""The promise, by kill -9: what was accepted runs, and what was sent once is not sent twice."""

import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from msgspec import Struct

import dispatcher
from tests.crash.killing import (
    HOST,
    Callers,
    Launcher,
    Victim,
    all_views,
    number_of,
    points,
    runs_of,
    sending,
    wait_until_idle,
)
from tests.sidecar import call, cloud, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = 100
LIMIT = 30
RUN_S = 0.25

CLOUD = f"""
[accounts.fc]
provider = "aliyun-fc"
account_id = "1"
region = "cn-shanghai"
quota = 1000
keys = {{ AK = "s3cret" }}
[accounts.fc.functions."*"]
duration_s = {RUN_S}

[accounts.lambda]
provider = "aws-lambda"
account_id = "123456789012"
region = "us-east-1"
quota = 1000
keys = {{ AK = "s3cret" }}
queues = ["ends"]
[accounts.lambda.functions."*"]
duration_s = {RUN_S}
on_success = "ends"
on_failure = "ends"

# Some replies take a while, so that many a kill meets sends in flight.
[[faults]]
kind = "slow"
probability = 0.2
delay_s = 0.1
"""

CONFIG = f"""
[server]
listen = ["127.0.0.1:0"]
hosts = ["localhost", "127.0.0.1", "{HOST}"]

[metrics]
listen = "127.0.0.1:0"

[journal]
url = "sqlite:journal.db"

[retry]
delay_base_s = 0.05
delay_max_s = 0.5

[accounts.fc]
provider = "aliyun-fc"
account_id = "1"
region = "cn-shanghai"
quota = {LIMIT}
endpoint = "CLOUD"
credentials = {{ source = "static", access_key_id = "AK", access_key_secret_file = "secret" }}

[accounts.lambda]
provider = "aws-lambda"
account_id = "123456789012"
region = "us-east-1"
quota = {LIMIT}
endpoint = "CLOUD"
completion_queue = "CLOUD/123456789012/ends"
credentials = {{ source = "static", access_key_id = "AK", access_key_secret_file = "secret" }}
[accounts.lambda.functions."*"]
duration_s = {RUN_S}
"""


class Tally(Struct):
    kills: int = 0
    before_ready: int = 0
    in_flight: int = 0  #: stood in `sending` when their sidecar was killed
    at_once: int = 0  #: ... the most at one kill
    restart_s: float = 0.0  #: the slowest

    def note_kill(self, config: Path) -> None:
        self.kills += 1
        found = sending(config.with_name("journal.db"))
        total = sum(found.values())
        self.in_flight += total
        self.at_once = max(self.at_once, total)


def kill_at_random(
    launcher: Launcher, config: Path, callers: Callers, rng: random.Random, tally: Tally
) -> None:
    """Start a sidecar and kill it soon, maybe before it is ready."""
    began = time.monotonic()
    with Victim(launcher, config) as victim:
        if tally.kills % 10 == 9:
            time.sleep(rng.uniform(0.0, 0.1))
            tally.before_ready += not victim.ready
        else:
            assert victim.wait_until_ready()
            tally.restart_s = max(tally.restart_s, time.monotonic() - began)
            callers.url = victim.url()
            time.sleep(rng.uniform(0.0, 0.5))
        assert victim.alive, victim.text()[-3000:]
    tally.note_kill(config)


def kill_at(
    point: str, launcher: Launcher, config: Path, callers: Callers, rng: random.Random, tally: Tally
) -> None:
    """Start a sidecar that dies at *point*."""
    during_start = point in ("engine.recovering", "engine.recovered")
    nth = 1 if during_start or point == "engine.stopping" else rng.randint(1, 10)
    with Victim(launcher, config, point=point, nth=nth) as victim:
        if victim.wait_until_ready():
            callers.url = victim.url()
            if point == "engine.stopping":
                victim.signal(signal.SIGTERM)
        assert victim.wait_until_dead(60), f"{point} was not reached {nth} times"
        assert victim.wait() == -signal.SIGKILL, (point, victim.text()[-3000:])
    tally.note_kill(config)


def test_kill_9_loses_nothing(tmp_path):
    rng = random.Random(20)
    tally = Tally()
    names = points(Path(dispatcher.__file__).parent)
    assert len(names) >= 15, names
    began = time.monotonic()
    with cloud(tmp_path, CLOUD) as url, Launcher() as launcher:
        config = write_config(tmp_path, CONFIG.replace("CLOUD", url))
        callers = Callers(singles=3, bulks=1, pause_s=0.06)
        with callers.running():
            for _ in range(KILLS):
                kill_at_random(launcher, config, callers, rng, tally)
            for point in names:
                kill_at(point, launcher, config, callers, rng, tally)
            with Victim(launcher, config) as last:
                assert last.wait_until_ready()
                callers.url = last.url()
                assert callers.url is not None
                callers.stop()
                callers.burst(4 * LIMIT, run_s=2.0)
                settled_s = wait_until_idle(callers.url)
                views = all_views(callers.url)
                last.signal(signal.SIGTERM)
                assert last.wait() == 0
        runs = runs_of(url)
        accounts = call("GET", f"{url}/_emulator/statistics")[1]["accounts"]
    took_s = time.monotonic() - began
    kept = callers.kept
    assert not kept.odd, kept.odd[:5]

    # Nothing is lost: each of the accepted has ended, and has run.
    by_id = {view["id"]: view for view in views}
    assert kept.accepted.keys() == kept.accounts.keys()
    states = Counter(by_id[one]["state"] for one in kept.accepted.values())
    assert states == {"succeeded": len(kept.accepted)}, states
    ran = Counter(number_of(run) for run in runs)
    lost = kept.accepted.keys() - ran.keys()
    assert not lost, sorted(lost)[:10]

    # A repeated call made nothing new: one id for each key, and every id is known to its caller.
    assert len(set(kept.accepted.values())) == len(kept.accepted)
    assert by_id.keys() == set(kept.accepted.values())
    assert kept.repeats > 0, "no reply was lost after the commit: the load is too light"

    # Function Compute refuses a repeat of our task ids, Lambda runs it.
    by_task = Counter(run["task_id"] for run in runs if run["account"] == "fc")
    fc_ids = {one for n, one in kept.accepted.items() if kept.accounts[n] == "fc"}
    assert by_task == dict.fromkeys(fc_ids, 1)
    assert accounts["fc"]["duplicates_refused"] > 0, "no kill met a send in flight"
    twice = sum(count - 1 for count in ran.values())
    assert twice <= tally.in_flight

    # Lambda would run a repeat beside the first run: it is sent once that must have ended.
    peaks = {name: account["instances_peak"] for name, account in accounts.items()}
    print(
        f"\nkill -9: {tally.kills} times ({KILLS} at random, {tally.before_ready} of them before it "
        f"was ready, {len(names)} at fail points) in {took_s:.0f} s: 0 of {len(kept.accepted)} "
        f"accepted invocations lost, {twice} ran twice of {tally.in_flight} sends in flight at the "
        f"kills (at most {tally.at_once} at one), 0 of them on Function Compute "
        f"({accounts['fc']['duplicates_refused']} repeats refused)"
    )
    print(
        f"callers: {kept.lost_replies} calls without a reply, {kept.repeats} answered as duplicates; "
        f"ready again within {tally.restart_s * 1000:.0f} ms, settled {settled_s:.1f} s after the "
        f"last kill; peaks {peaks} of {LIMIT}"
    )
    assert peaks["fc"] == LIMIT
    assert peaks["lambda"] <= LIMIT
