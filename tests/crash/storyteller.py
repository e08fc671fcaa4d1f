"""
A process that tells a story to a journal, until it is killed.

    python -m tests.crash.storyteller FILE SEED [POINT COUNT]

It prints the number of each news once it is acknowledged. With a fail point it kills itself when
it reaches that point for the given time.
"""

import asyncio
import os
import random
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from dispatcher import failpoints
from dispatcher.journals import SqliteJournal
from dispatcher.journals.disk import Room
from tests.crash.story import Story, give


async def tell(path: Path, seed: int) -> None:
    chance = random.Random(seed)
    story = Story(chance)
    journal = await SqliteJournal.open(
        path,
        retention_s=1,
        bytes_max=0,
        room=Room(free_min_bytes=0, ballast_bytes=4096),
        wall_s=lambda: 0.0,
    )
    waiting: set[int] = set()
    all_told = asyncio.Event()

    def told(number: int, verdict: Any) -> None:
        assert not isinstance(verdict, Exception), verdict
        os.write(1, f"{number}\n".encode())
        waiting.discard(number)
        if not waiting:
            all_told.set()

    while True:
        all_told.clear()
        for _ in range(chance.randint(1, 5)):
            news = story.go_on()
            waiting.add(story.number)
            give(journal, news, partial(told, story.number))
        await all_told.wait()


def die_at(point: str, count: int) -> None:
    left = count

    def hook(name: str) -> None:
        nonlocal left
        left -= name == point
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.hook = hook


if __name__ == "__main__":
    if len(sys.argv) > 3:
        die_at(sys.argv[3], int(sys.argv[4]))
    asyncio.run(tell(Path(sys.argv[1]), int(sys.argv[2])))
