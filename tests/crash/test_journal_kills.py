"""The journal of a process that is killed: at random moments, and at every boundary of a commit."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dispatcher.journals.opening import connect, open_for_writing
from tests.crash.story import Loss, Story, everything, found_standing

pytestmark = pytest.mark.slow

POINTS = ["before_begin", "after_insert", "before_commit", "after_commit", "before_callback"]


def told_before_the_kill(path: Path, seed: int, *arguments: str, after_s: float = 0.0) -> int:
    """Let a process tell a story until it dies; return the last news that it had acknowledged."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.crash.storyteller", str(path), str(seed), *arguments],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        if not arguments:
            time.sleep(after_s)
            process.kill()
        numbers = [first, *process.stdout]
    assert process.returncode == -9
    return max(int(number) for number in numbers if number.endswith("\n"))


def judge(path: Path, seed: int, acknowledged: int) -> tuple[Loss, int]:
    """Hold what is left against the story, which the seed tells again."""
    connection = open_for_writing(path, connect)
    found = found_standing(everything(connection))
    connection.close()
    # The story takes its turns from the same source as the process did.
    chance = random.Random(seed)
    story = Story(chance)
    reached = max(one.number for one in found.values())
    while story.number < reached:
        for _ in range(chance.randint(1, 5)):
            story.go_on()
    return story.judge(found, acknowledged)


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_a_boundary_of_a_commit(tmp_path, point):
    path = tmp_path / "journal.db"
    acknowledged = told_before_the_kill(path, 1, f"journal.{point}", "20")
    loss, reached = judge(path, 1, acknowledged)
    assert loss == Loss()
    # On disk, and nobody was told: the one commit at which it died.
    assert (reached > acknowledged) == (point in ("after_commit", "before_callback"))


def test_kills_at_random_moments(tmp_path, capsys):
    chance = random.Random()
    total = 0
    kills = 10
    for seed in range(kills):
        path = tmp_path / f"{seed}.db"
        acknowledged = told_before_the_kill(path, seed, after_s=chance.uniform(0.01, 0.2))
        loss, _ = judge(path, seed, acknowledged)
        assert loss == Loss()
        total += acknowledged
    with capsys.disabled():
        print(f"\n{kills} times kill -9: 0 of {total} acknowledged news lost")
