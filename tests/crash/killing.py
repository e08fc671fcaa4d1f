"""Sidecars that are killed again and again, and the callers who have to live with it."""

import base64
import contextlib
import http.client
import itertools
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from msgspec import Struct, field

from tests.sidecar import START_MAX_S, STOP_MAX_S, call

#: Lines in one request of those who send many at once.
BULK = 10

#: By this name callers ask for their own sidecars: the port of one that died may be another's soon.
HOST = f"callers-{os.getpid()}.test"

_READY = re.compile(r'"ready", "message": "recovered')
_ADDRESS = re.compile(r'"listening", "message": "([0-9.:]+)')


class Launcher:
    """Forks sidecars off; `tests/crash/launch.py` has the other side."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("launch.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": "."},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(STOP_MAX_S)
        self._process.stdout.close()

    def ask(self, **request: Any) -> dict[str, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, int] = json.loads(self._process.stdout.readline())
        return answer


class Victim:
    """One sidecar, from its fork to its end."""

    def __init__(
        self,
        launcher: Launcher,
        config: Path,
        *,
        point: str | None = None,
        nth: int = 1,
        how: str = "kill",
    ) -> None:
        self._launcher = launcher
        self.log = config.with_name("sidecar.log")
        self.log.touch()
        self._from = self.log.stat().st_size
        armed = {} if point is None else {"point": point, "nth": nth, "how": how}
        self.pid = launcher.ask(config=str(config), log=str(self.log), **armed)["pid"]
        self.code: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def text(self) -> str:
        with self.log.open("rb") as file:
            file.seek(self._from)
            return file.read().decode(errors="replace")

    @property
    def ready(self) -> bool:
        return _READY.search(self.text()) is not None

    @property
    def alive(self) -> bool:
        """Tell whether it runs; a dead one is a zombie until `wait`."""
        if self.code is not None:
            return False
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] != "Z"

    def url(self) -> str:
        """Return where it listens; it has to be ready."""
        found = _ADDRESS.search(self.text())
        assert found is not None, self.text()[-3000:]
        return f"http://{found[1]}"

    def wait_until_ready(self, max_s: float = START_MAX_S) -> bool:
        """Return whether it got ready; False: it died before."""
        until = time.monotonic() + max_s
        while not self.ready:
            if not self.alive:
                return False
            assert time.monotonic() < until, self.text()[-3000:]
            time.sleep(0.003)
        return True

    def wait_until_dead(self, max_s: float) -> bool:
        until = time.monotonic() + max_s
        while self.alive:
            if time.monotonic() > until:
                return False
            time.sleep(0.003)
        self.wait()
        return True

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        if self.code is None:
            self.code = self._launcher.ask(wait=self.pid)["code"]
        return self.code

    def kill(self) -> None:
        if self.code is None:
            self.signal(signal.SIGKILL)
            self.wait()


def sending(journal: Path) -> dict[str, int]:
    """Count by account what stands in `sending`: what a dead sidecar may have sent."""
    if not journal.exists():
        return {}
    # It cannot write, so the next sidecar still has the log to recover from.
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        try:
            rows = connection.execute(
                "SELECT account, count(*) FROM invocations WHERE state = 'sending' GROUP BY account"
            ).fetchall()
        except sqlite3.OperationalError as error:
            assert "no such table" in str(error)  # killed before the tables were made
            return {}
    return dict(rows)


# -- Callers --------------------------------------------------------------------------------------


class Kept(Struct):
    """What the callers know, by the number in the payload of each invocation."""

    accepted: dict[int, str] = field(default_factory=dict)  #: the id that a 202 named
    repeats: int = 0  #: answers that said `duplicate`
    lost_replies: int = 0  #: calls whose reply never came
    refused: int = 0  #: 429 and 503
    odd: list[Any] = field(default_factory=list)  #: what nobody should see
    accounts: dict[int, str] = field(default_factory=dict)


class Callers:
    """Threads that enqueue, one invocation or many at a time, and repeat what was not answered."""

    def __init__(self, singles: int, bulks: int, pause_s: float) -> None:
        self.kept = Kept()
        self.url: str | None = None
        self._pause_s = pause_s
        self._numbers = itertools.count()
        self._stopping = threading.Event()
        self._giving_up = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(many,), daemon=True)
            for many in (*(1,) * singles, *(BULK,) * bulks)
        ]

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._giving_up.set()
            self.stop()

    def stop(self) -> None:
        """Let each of them bring its last call to its end."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive()

    def burst(self, count: int, run_s: float) -> None:
        """Enqueue so many in one go, each of which runs so long."""
        self._enqueue(count, emulate={"duration_s": run_s})

    def _guarded(self, many: int) -> None:
        try:
            while not self._stopping.is_set():
                self._enqueue(many)
                time.sleep(self._pause_s)
        except Exception as error:  # noqa: BLE001 -- the test asks for it
            self.kept.odd.append(repr(error))

    def _enqueue(self, many: int, **more: Any) -> None:
        numbers = [next(self._numbers) for _ in range(many)]
        lines = [
            {
                "account": ("fc", "lambda")[n % 2],
                "function": f"f{n % 4}",
                "tenant": f"team-{n % 3}",
                "payload": {"n": n, **more},
                "idempotency_key": f"key-{n}",
            }
            for n in numbers
        ]
        body = "\n".join(json.dumps(line) for line in lines)
        kind = "application/json" if many == 1 else "application/x-ndjson"
        left = set(range(many))
        while left and not self._giving_up.is_set():
            answers = self._post(body, kind)
            if answers is None:
                time.sleep(0.01)
                continue
            assert len(answers) == many, answers
            if "error" in answers[-1]:
                time.sleep(0.02)  # it is about to end
            for i in sorted(left):
                if "id" in answers[i]:
                    left.discard(i)
                    self._take(numbers[i], str(lines[i]["account"]), answers[i])
                elif answers[i]["error"]["status"] in (429, 503):
                    self.kept.refused += 1
                else:
                    self.kept.odd.append(answers[i])
                    left.discard(i)

    def _take(self, number: int, account: str, answer: dict[str, Any]) -> None:
        self.kept.accepted[number] = answer["id"]
        self.kept.accounts[number] = account
        self.kept.repeats += answer["duplicate"]

    def _post(self, body: str, kind: str) -> list[dict[str, Any]] | None:
        """Return the answers, None if there was none."""
        if self.url is None:
            return None
        host = self.url.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=20)
        try:
            connection.connect()
        except OSError:
            return None
        try:
            headers = {"Host": HOST, "Content-Type": kind}
            connection.request("POST", "/v1/invocations", body, headers)
            reply = connection.getresponse()
            text = reply.read()
        except (OSError, http.client.HTTPException):
            self.kept.lost_replies += 1
            return None
        finally:
            connection.close()
        if reply.status in (200, 202):
            return [json.loads(line) for line in text.splitlines()]
        if reply.status == 421 or "problem+json" not in reply.headers["Content-Type"]:
            return None  # somebody else has got the port of the one that died
        return [{"error": {**json.loads(text), "status": reply.status}}] * (body.count("\n") + 1)


# -- What is asked at the end ---------------------------------------------------------------------


def all_views(url: str) -> list[dict[str, Any]]:
    """Return every invocation that the sidecar knows."""
    views: list[dict[str, Any]] = []
    after = ""
    while True:
        page = call("GET", f"{url}/v1/invocations?limit=1000{after}")[1]
        views += page["items"]
        if page["next"] is None:
            return views
        after = f"&after={page['next']}"


def wait_until_idle(url: str, max_s: float = 90.0) -> float:
    """Wait until nothing waits or runs; return how long it took."""
    begun = time.monotonic()
    while True:
        accounts = call("GET", f"{url}/v1/accounts")[1]["items"]
        if not any(a["in_use"] or a["queued"]["due"] or a["queued"]["delayed"] for a in accounts):
            return time.monotonic() - begun
        if time.monotonic() > begun + max_s:
            left = [view for view in all_views(url) if view["ended_at"] is None]
            shown = [call("GET", f"{url}/v1/invocations/{view['id']}")[1] for view in left[:5]]
            raise AssertionError(f"still busy: {len(left)} left, such as {shown}; {accounts}")
        time.sleep(0.05)


def runs_of(url: str) -> list[dict[str, Any]]:
    """Return every run that the emulator has finished."""
    runs: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        page = call("GET", f"{url}/_emulator/runs?after={after}&limit=10000")[1]
        runs += page["runs"]
        after = page["next"]
    return runs


def number_of(run: dict[str, Any]) -> int:
    """Return the number in the payload that ran."""
    payload = json.loads(base64.b64decode(run["payload_head"]))
    assert isinstance(payload["n"], int)
    return payload["n"]


def points(package: Path, prefixes: Sequence[str] = ("",)) -> list[str]:
    """Return the names of all fail points in the code of *package*."""
    found = {
        name
        for path in package.rglob("*.py")
        for name in re.findall(r'failpoints\.reach\("([a-z_.]+)"\)', path.read_text())
        if name.startswith(tuple(prefixes))
    }
    return sorted(found)
