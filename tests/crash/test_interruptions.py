"""A sidecar that is stopped for a while, and callers who do not wait for the answer."""

import json
import signal
import socket
import struct
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
    wait_until_idle,
)
from tests.crash.test_kill import CLOUD, CONFIG, LIMIT
from tests.sidecar import call, cloud, write_config

pytestmark = pytest.mark.slow


def test_a_sidecar_that_is_stopped_and_continued_goes_on_as_if_nothing_had_been(tmp_path):
    with cloud(tmp_path, CLOUD) as cloud_url, Launcher() as launcher:
        config = write_config(tmp_path, CONFIG.replace("CLOUD", cloud_url))
        callers = Callers(singles=3, bulks=1, pause_s=0.05)
        with Victim(launcher, config) as victim, callers.running():
            assert victim.wait_until_ready()
            callers.url = victim.url()
            for stopped_s in (0.3, 1.0, 2.0):
                time.sleep(0.7)
                victim.signal(signal.SIGSTOP)
                time.sleep(stopped_s)
                victim.signal(signal.SIGCONT)
            time.sleep(0.5)
            callers.stop()
            wait_until_idle(victim.url())
            views = all_views(victim.url())
        runs = runs_of(cloud_url)
        accounts = call("GET", f"{cloud_url}/_emulator/statistics")[1]["accounts"]
    kept = callers.kept
    assert not kept.odd, kept.odd[:5]
    assert kept.lost_replies == 0
    assert {view["id"] for view in views} == set(kept.accepted.values())
    assert {view["state"] for view in views} == {"succeeded"}
    assert Counter(number_of(run) for run in runs) == dict.fromkeys(kept.accepted, 1)
    peaks = {name: account["instances_peak"] for name, account in accounts.items()}
    assert max(peaks.values()) <= LIMIT
    print(f"\nstopped 3 times, 3.3 s: 0 of {len(views)} lost or repeated, peaks {peaks} of {LIMIT}")


def wait_until_accepted(url, tenant):
    until = time.monotonic() + 60
    while not call("GET", f"{url}/v1/invocations?tenant={tenant}")[1]["items"]:
        assert time.monotonic() < until
        time.sleep(0.002)


def test_a_caller_that_is_gone_after_the_commit_finds_its_job_by_the_key(tmp_path):
    gone = 30
    with cloud(tmp_path, CLOUD) as cloud_url, Launcher() as launcher:
        config = write_config(tmp_path, CONFIG.replace("CLOUD", cloud_url))
        with Victim(launcher, config) as victim:
            assert victim.wait_until_ready()
            url = victim.url()
            assert url is not None
            host, port = url.removeprefix("http://").split(":")
            jobs = [
                {
                    "account": ("fc", "lambda")[n % 2],
                    "function": "f",
                    "tenant": f"caller-{n}",
                    "payload": {"n": n},
                    "idempotency_key": f"key-{n}",
                }
                for n in range(gone)
            ]
            for n, job in enumerate(jobs):
                body = json.dumps(job).encode()
                head = (
                    f"POST /v1/invocations HTTP/1.1\r\nHost: localhost\r\n"
                    f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                )
                with socket.create_connection((host, int(port))) as caller:
                    # It ends with a reset, as a process that is killed does.
                    linger = struct.pack("ii", 1, 0)
                    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    caller.sendall(head.encode() + body)
                    if n % 3:
                        time.sleep(0.001 * (n % 5))
                    else:
                        wait_until_accepted(url, f"caller-{n}")
            wait_until_idle(url)
            known = {view["id"] for view in all_views(url)}
            answers = [call("POST", f"{url}/v1/invocations", job) for job in jobs]
            assert {status for status, _ in answers} == {202}
            found = {answer["id"] for _, answer in answers if answer["duplicate"]}
            assert found == known, "every job that was accepted is found by its key"
            assert len(found) >= gone // 3
            wait_until_idle(url)
            other = {**jobs[0], "payload": {"n": -1}}
            assert call("POST", f"{url}/v1/invocations", other)[0] == 422
        runs = Counter(number_of(run) for run in runs_of(cloud_url))
    assert runs == dict.fromkeys(range(gone), 1)
    print(
        f"\ncallers gone: {len(found)} of {gone} had been accepted, found by their keys, ran once"
    )
