"""A sidecar and a cloud as processes of their own, for tests from outside."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

#: Bounds for what hangs, far beyond what a busy machine takes.
START_MAX_S = 90.0
STOP_MAX_S = 90.0


class Process:
    """A command of ours that runs, and what it has logged."""

    def __init__(
        self, args: Sequence[str], log: Path, told: str, command: Sequence[str] = ()
    ) -> None:
        self.log = log
        self._from = log.stat().st_size if log.exists() else 0
        with log.open("ab") as sink:
            self.popen = subprocess.Popen(
                [*(command or (sys.executable, "-m", "dispatcher")), *args],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        self.told = self.wait_for(told)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def text(self) -> str:
        """Return what this process has logged."""
        return self.log.read_bytes()[self._from :].decode(errors="replace")

    def wait_for(self, pattern: str, max_s: float = START_MAX_S) -> str:
        """Return the first group of *pattern* as soon as the log has it."""
        until = time.monotonic() + max_s
        while True:
            if found := re.search(pattern, self.text()):
                return found[1] if found.groups() else found[0]
            ended = self.popen.poll()
            if ended is not None or time.monotonic() > until:
                self.kill()
                raise AssertionError(f"no {pattern!r} (exit {ended}):\n{self.text()[-3000:]}")
            time.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def stop(self) -> int:
        """End it by SIGTERM; return its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        return self.popen.wait(STOP_MAX_S)

    def kill(self) -> None:
        """End it with no chance to do anything."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(STOP_MAX_S)


class Sidecar(Process):
    """`dispatcher serve`, once it is ready."""

    def __init__(
        self, config: Path, *, command: Sequence[str] = (), told: str = "event.: .ready"
    ) -> None:
        args = ("serve", "--config", str(config), "--log", "json")
        super().__init__(args, config.with_name("sidecar.log"), told, command)
        self.url = "http://" + self.wait_for(r'"listening", "message": "([0-9.:]+)')

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Make one request; return its status and its JSON."""
        return call(method, self.url + path, body)


def call(method: str, url: str, body: Any = None, max_s: float = 60.0) -> tuple[int, Any]:
    """Make one request; return its status and its JSON, None where there is none."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=max_s) as reply:
            status, text = reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            status, text = error.code, error.read()
    return status, json.loads(text) if text else None


@contextlib.contextmanager
def cloud(folder: Path, config: str) -> Iterator[str]:
    """Run an emulator; give its URL."""
    path = folder / "cloud.toml"
    path.write_text(config)
    args = ("emulate", "--listen", "127.0.0.1:0", "--config", str(path))
    with Process(args, folder / "cloud.log", r"emulating at (http://\S+)") as process:
        yield process.told


def write_config(folder: Path, text: str) -> Path:
    """Write a configuration and the secret that it may name."""
    secret = folder / "secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)
    path = folder / "dispatcher.toml"
    path.write_text(text)
    return path
