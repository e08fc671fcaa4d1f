import os
import subprocess
import sys

import pytest

from dispatcher.demo.play import LIMIT, Facts, _peak
from dispatcher.demo.products import Shop


@pytest.mark.slow
def test_the_demo_shows_both_acts_and_the_promise_holds():
    done = subprocess.run(
        [sys.executable, "-m", "dispatcher", "demo", "--fast"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("met 429", "accepted", "400 of 400", "0 twice", "The promise held."):
        assert words in done.stdout, done.stdout


def facts(**changes):
    return Facts(
        **{
            "sent": 2,
            "accepted": 2,
            "ran": 2,
            "ran_twice": 0,
            "succeeded": 2,
            "asynchronous": True,
            "peaks": {"fc": LIMIT},
            "throttles": 0,
            "shop": Shop(),
            "enqueue_s": [0.1],
            "wait_s": [0.1],
            **changes,
        }
    )


def test_the_verdict_can_fail():
    assert facts().held
    for change in (
        {"accepted": 1},
        {"ran": 1},
        {"ran_twice": 1},
        {"succeeded": 1},
        {"asynchronous": False},
        {"peaks": {"fc": LIMIT + 1}},
        {"throttles": 1},
    ):
        assert not facts(**change).held, change


def test_the_peak_is_the_most_runs_that_overlap():
    runs = [
        {"started_at": start, "ended_at": end} for start, end in ((0, 2), (1, 3), (2, 4), (5, 6))
    ]
    assert _peak(runs) == 2, "what ends as another begins does not overlap it"
    assert _peak([]) == 0
