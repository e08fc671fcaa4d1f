"""
Starts sidecars at once, each a process of its own that can be told where to die.

Everything is imported here once, and each sidecar is forked off: so a restart takes milliseconds,
and hundreds of them fit into a test. Asked by lines of JSON on the standard input:

{"config", "log", "point"?, "nth"?, "how"?}   fork `dispatcher serve`; answers {"pid"}. With a
                                              point it fails when that is reached for the nth
                                              time: "kill" (SIGKILL), "io_error" (of SQLite), or
                                              "bug" (any other exception)
{"wait": pid}                                 answers {"code"}: its end, a signal as -number
"""

import json
import os
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

import aiobotocore.session  # noqa: F401 -- imported late by a sidecar, and here beforehand
import uvloop  # noqa: F401

from dispatcher import cli, failpoints
from dispatcher.trackers import sqs_destinations, sqs_inbox

#: Messages that a killed sidecar had taken come again after this time instead of a minute.
VISIBILITY_S = 4
KEEP_S = 3.0


def fail(how: str) -> None:
    """Fail here and now."""
    if how == "io_error":
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
        raise error
    if how == "bug":
        raise RuntimeError("a bug")
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str, nth: int, how: str) -> None:
    """Have this process fail at the *nth* reach of *point*."""
    left = nth

    def hook(name: str) -> None:
        nonlocal left
        if name == point:
            left -= 1
            if left == 0:
                fail(how)

    failpoints.hook = hook


def become_a_sidecar(wanted: dict[str, Any]) -> None:
    """Go on as `dispatcher serve`."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(wanted["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    if "point" in wanted:
        arm(wanted["point"], wanted["nth"], wanted["how"])
    cli.main(["serve", "--config", str(Path(wanted["config"])), "--log", "json"])


def answer(request: dict[str, Any]) -> dict[str, int] | None:
    """Do as asked; None in the new process, after its end."""
    if "wait" in request:
        _, status = os.waitpid(request["wait"], 0)
        return {"code": os.waitstatus_to_exitcode(status)}
    pid = os.fork()
    if pid == 0:
        become_a_sidecar(request)
        return None
    return {"pid": pid}


def main() -> None:
    sqs_destinations.VISIBILITY_S = VISIBILITY_S  # type: ignore[misc]
    sqs_inbox.KEEP_S = KEEP_S  # type: ignore[misc]
    for line in sys.stdin:
        said = answer(json.loads(line))
        if said is None:
            return
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
