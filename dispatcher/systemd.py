"""
Tells a service manager how the process is doing, by the protocol of sd_notify(3).

One datagram to the socket that NOTIFY_SOCKET names; without it everything here does nothing.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping

import anyio

#: The part of the time that systemd grants after which it hears from us, as its manual advises.
_OF_THE_GRANTED = 0.5


class Notifier:
    """Speaks to the manager that started this process, if there is one that listens."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """*environment*: that of the process, if it is not given."""
        environment = os.environ if environment is None else environment
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self.watchdog_s = _watchdog_s(environment) if self._address is not None else None
        """Seconds that the manager waits for a sign of life; None: it does not ask for any."""

    def ready(self) -> None:
        """Say that the process is ready for work, at the start or after a reload."""
        self._tell("READY=1", "STATUS=running")

    def reloading(self) -> None:
        """Say that the configuration is being read again; `ready` says that it has been."""
        # systemd matches it with the reload it asked for by this very clock.
        micros = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={micros}", "STATUS=reloading")

    def stopping(self) -> None:
        """Say that the process drains."""
        self._tell("STOPPING=1", "STATUS=draining")

    async def watch(self, is_well: Callable[[], bool]) -> None:
        """Give a sign of life from this event loop, as long as *is_well* says so."""
        if self.watchdog_s is None:
            return
        while True:
            if is_well():
                self._tell("WATCHDOG=1")
            await anyio.sleep(self.watchdog_s * _OF_THE_GRANTED)

    def _tell(self, *lines: str) -> None:
        if self._address is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            # A manager that does not read must not stop the work.
            sender.setblocking(False)  # noqa: FBT003 -- its only argument
            try:
                sender.sendto("\n".join(lines).encode(), self._address)
            except OSError:
                # It has gone, or its queue is full. What it does without news is its own affair,
                # and the next sign of life comes soon.
                return


def _address(text: str) -> str | None:
    """Return where to send to: a path, or a name in the abstract name space; None: nowhere."""
    if text.startswith("/"):
        return text
    return "\0" + text[1:] if len(text) > 1 and text.startswith("@") else None


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Return the time of the watchdog, unless it is meant for another process."""
    granted = environment.get("WATCHDOG_USEC", "")
    whose = environment.get("WATCHDOG_PID", "")
    if not granted.isdecimal() or int(granted) == 0:
        return None
    if whose and whose != str(os.getpid()):
        return None
    return int(granted) / 1_000_000
