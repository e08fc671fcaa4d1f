"""
Opens the addresses of an application and closes them in order.

A Unix socket is made under another name and moved to its own once it is ready: nobody can
connect to one with the wrong rights, and one that a dead process left is replaced in one step.
"""

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from dispatcher.config import address
from dispatcher.web.app import App
from dispatcher.web.connection import Connection
from dispatcher.web.guard import Guard, Limits, require_fast_parser

BACKLOG: Final = 512
SOCKET_MODE: Final = 0o660
ANSWER_MAX_S: Final = 2.0
"""How long requests in flight may take at the end, unless it is said."""


class Listener:
    """
    Serves an application on some addresses, from `open` to `aclose`.

    As an async context manager it does both.
    """

    def __init__(self, app: App, listen: Sequence[str], limits: Limits | None = None) -> None:
        """*listen*: `HOST:PORT` (port 0: any) or `unix:/path`."""
        self._listen = tuple(listen)
        self._guard = Guard(limits or Limits())
        self._app = app
        self._servers: list[asyncio.AbstractServer] = []
        self._unix_sockets: list[_UnixSocket] = []
        self.addresses: tuple[str, ...] = ()
        """Where it can be reached, in the form of the configuration, with the real ports."""

    async def open(self) -> None:
        """
        Start the application and open all addresses, or none.

        Raises `OSError` for an address that cannot be had, `ConfigError` for the token file.
        """
        require_fast_parser()
        try:
            await self._app.start()
            for text in self._listen:
                self.addresses += tuple(await self._open(text))
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self, drain_max_s: float = ANSWER_MAX_S) -> None:
        """Stop listening, give requests in flight *drain_max_s* to end, and close the rest."""
        # Before the sockets are closed: then the number of such a file may be another one's.
        for unix_socket in self._unix_sockets:
            await asyncio.to_thread(unix_socket.remove)
        self._unix_sockets.clear()
        for listening in self._servers:
            listening.close()
        self._servers.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_max_s):
                await self._guard.emptied()
        await self._guard.end()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _open(self, text: str) -> list[str]:
        loop = asyncio.get_running_loop()
        where = address(text)
        if isinstance(where, Path):
            unix_socket = await asyncio.to_thread(_UnixSocket.open, where)
            self._unix_sockets.append(unix_socket)
            self._servers.append(
                await loop.create_unix_server(
                    lambda: self._connection(asks_token=False),
                    sock=unix_socket.socket,
                    backlog=BACKLOG,
                )
            )
            return [text]
        host, port = where
        server = await loop.create_server(
            lambda: self._connection(asks_token=True), host, port, backlog=BACKLOG
        )
        self._servers.append(server)
        return [_text(one.getsockname()) for one in server.sockets]

    def _connection(self, *, asks_token: bool) -> Connection:
        return Connection(self._guard, self._app.answer, asks_token=asks_token)


class _UnixSocket:
    """A listening socket and the file that it is reached by."""

    def __init__(self, path: Path, listening: socket.socket) -> None:
        self.path = path
        self.socket = listening
        self._identity = _identity(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Listen at *path*. Raises `OSError` if another process does, or it is another file."""
        _refuse_if_taken(path)
        new = path.with_name(f".{os.getpid():x}")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            new.unlink(missing_ok=True)
            listening.bind(str(new))
            # Until it listens, nobody can connect: the rights are right before that.
            new.chmod(SOCKET_MODE)
            listening.listen(BACKLOG)
            listening.setblocking(False)  # noqa: FBT003 -- its only argument
            new.rename(path)
            return cls(path, listening)
        except BaseException:
            listening.close()
            new.unlink(missing_ok=True)
            raise

    def remove(self) -> None:
        """Remove the file, unless another process has put its own there."""
        if _identity(self.path) == self._identity:
            self.path.unlink(missing_ok=True)


def _refuse_if_taken(path: Path) -> None:
    """Raise `OSError` unless *path* is free or holds the socket of a process that is gone."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "exists and is not a socket", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
    raise OSError(errno.EADDRINUSE, "another process listens here", str(path))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _text(name: tuple[str, int] | tuple[str, int, int, int]) -> str:
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
