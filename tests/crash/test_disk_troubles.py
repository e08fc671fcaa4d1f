"""The sidecar and a disk that is full, breaks, or has something else where the journal was."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter

import pytest

from tests.crash.killing import Launcher, Victim, all_views, wait_until_idle
from tests.crash.test_kill import CLOUD, CONFIG
from tests.sidecar import call, cloud, write_config

pytestmark = pytest.mark.slow

#: The sidecar wants 64 MiB free and keeps 16 MiB of its own.
DISK_MIB = 112
JOB = {
    "account": "fc",
    "function": "f",
    "payload": {"emulate": {"duration_s": 0.02}, "filler": "x" * 500},
}


@pytest.fixture(scope="module")
def launcher():
    with Launcher() as one:
        yield one


@pytest.fixture(scope="module")
def cloud_url(tmp_path_factory):
    with cloud(tmp_path_factory.mktemp("cloud"), CLOUD) as url:
        yield url


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "none", str(folder)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a disk of its own takes root: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder):
    """Take all the room that is left."""
    with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1024 * 1024))
    with (folder / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))


def wait_for_status(wanted, method, url, body=None, max_s=60.0):
    until = time.monotonic() + max_s
    while (found := call(method, url, body))[0] != wanted:
        assert time.monotonic() < until, found
        time.sleep(0.05)
    return found[1]


def test_a_full_disk_refuses_the_new_and_finishes_the_old(
    tmp_path, small_disk, cloud_url, launcher
):
    text = CONFIG.replace("sqlite:journal.db", f"sqlite://{small_disk}/journal.db")
    config = write_config(tmp_path, text.replace("CLOUD", cloud_url))
    with Victim(launcher, config) as victim:
        assert victim.wait_until_ready()
        url = victim.url()
        assert call("POST", f"{url}/v1/accounts/fc/pause")[0] == 204
        accepted = [call("POST", f"{url}/v1/invocations", JOB) for _ in range(300)]
        assert {status for status, _ in accepted} == {202}

        fill(small_disk)
        assert os.statvfs(small_disk).f_bavail == 0
        while (answer := call("POST", f"{url}/v1/invocations", JOB))[0] == 202:
            accepted.append(answer)  # the room is looked at every tenth of a second
        assert answer[0] == 507
        assert "full" in answer[1]["detail"]
        assert call("GET", f"{url}/readyz")[0] == 503
        assert call("GET", f"{url}/healthz")[0] == 200

        assert call("POST", f"{url}/v1/accounts/fc/resume")[0] == 204
        wait_until_idle(url)
        states = Counter(view["state"] for view in all_views(url))
        assert states == {"succeeded": len(accepted)}
        refused = [call("POST", f"{url}/v1/invocations", JOB)[0] for _ in range(20)]
        assert refused == [507] * 20

        (small_disk / "filler").unlink()
        begun = time.monotonic()
        wait_for_status(202, "POST", f"{url}/v1/invocations", JOB)
        recovered_s = time.monotonic() - begun
        assert call("GET", f"{url}/readyz")[0] == 200
        wait_until_idle(url)
        assert victim.alive
    with Victim(launcher, config) as victim:
        assert victim.wait_until_ready()
        assert Counter(view["state"] for view in all_views(victim.url())) == {
            "succeeded": len(accepted) + 1
        }
    print(
        f"\ndisk full: {len(accepted)} of {len(accepted)} accepted before finished with 0 bytes free, new ones got 507, "
        f"accepted again {recovered_s:.2f} s after there was room, same process"
    )


@pytest.mark.parametrize(
    ("point", "how"),
    [("journal.before_commit", "io_error"), ("journal.after_insert", "bug")],
    ids=["an I/O error on commit", "the death of the writer's thread"],
)
def test_a_journal_that_fails_ends_the_process_and_nobody_hangs(
    tmp_path, cloud_url, launcher, point, how
):
    config = write_config(tmp_path, CONFIG.replace("CLOUD", cloud_url))
    later = {**JOB, "delay_s": 3600}
    answers: list[int | str] = []

    def enqueue(url):
        try:
            answers.append(call("POST", f"{url}/v1/invocations", later)[0])
        except TimeoutError:
            answers.append("hangs")
        except OSError:  # the connection was cut or refused
            answers.append(0)

    with Victim(launcher, config, point=point, nth=11, how=how) as victim:
        assert victim.wait_until_ready()
        url = victim.url()
        for _ in range(10):
            assert call("POST", f"{url}/v1/invocations", later)[0] == 202
        callers = [threading.Thread(target=enqueue, args=(url,)) for _ in range(8)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert len(answers) == 8
        assert set(answers) <= {0, 500, 503}, answers
        assert victim.wait_until_dead(60)
        assert victim.wait() == 74, victim.text()[-2000:]
        assert "journal" in victim.text().splitlines()[-1]
    with Victim(launcher, config) as victim:
        assert victim.wait_until_ready()
        views = all_views(victim.url())
        assert [view["state"] for view in views] == ["waiting"] * 10, "only what was accepted"


def left_behind(tmp_path, cloud_url, launcher):
    """Return the configuration of a sidecar that was killed, and the journal's files."""
    config = write_config(tmp_path, CONFIG.replace("CLOUD", cloud_url))
    with Victim(launcher, config) as victim:
        assert victim.wait_until_ready()
        url = victim.url()
        for _ in range(20):
            assert call("POST", f"{url}/v1/invocations", {**JOB, "delay_s": 3600})[0] == 202
        victim.signal(signal.SIGTERM)
        assert victim.wait() == 0
    return config, tmp_path / "journal.db"


def refused(launcher, config, journal):
    """Return the exit code and the last words of a sidecar that must not touch the journal."""
    before = journal.read_bytes()
    with Victim(launcher, config) as victim:
        assert not victim.wait_until_ready()
        code = victim.wait()
        words = victim.text().splitlines()[-1]
    assert journal.read_bytes() == before, "untouched"
    return code, words


def test_a_damaged_journal_is_named_and_left_as_it_is(tmp_path, cloud_url, launcher):
    config, journal = left_behind(tmp_path, cloud_url, launcher)
    with journal.open("r+b") as file:
        file.seek(4096 + 8)
        file.write(os.urandom(8192))
    code, words = refused(launcher, config, journal)
    assert code == 74
    assert str(journal) in words


def test_something_else_than_a_journal_is_named_and_left_as_it_is(tmp_path, cloud_url, launcher):
    config = write_config(tmp_path, CONFIG.replace("CLOUD", cloud_url))
    journal = tmp_path / "journal.db"
    journal.write_text("Dear diary, " * 1000)
    code, words = refused(launcher, config, journal)
    assert code == 74
    assert str(journal) in words


def test_the_journal_of_a_newer_version_is_refused(tmp_path, cloud_url, launcher):
    config, journal = left_behind(tmp_path, cloud_url, launcher)
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        connection.execute("PRAGMA user_version = 999")
    code, words = refused(launcher, config, journal)
    assert code == 74
    assert str(journal) in words
    assert "newer" in words


def test_a_second_process_is_told_to_come_later_and_the_first_works_on(
    tmp_path, cloud_url, launcher
):
    config = write_config(tmp_path, CONFIG.replace("CLOUD", cloud_url))
    with Victim(launcher, config) as first:
        assert first.wait_until_ready()
        with Victim(launcher, config) as second:
            assert second.wait_until_dead(60)
            assert second.wait() == 75
        assert call("POST", f"{first.url()}/v1/invocations", JOB)[0] == 202
        wait_until_idle(first.url())
