"""Connections of the tests that say exactly what they are told to."""

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import Any

from dispatcher.config import ServerSettings
from dispatcher.web import Limits, Listener, make_app
from tests.web.fakes import FakeEngine

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Wire:
    """One connection, of raw bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read one answer: status, headers in small letters, body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").strip().split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(first.split()[1]), headers, body

    async def status_of(self, data: bytes) -> int:
        """Say *data* and return the status of the answer."""
        self.say(data)
        return (await self.answer())[0]

    async def closed(self) -> bytes:
        """Wait until the peer has closed; return what came before."""
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""


class Site:
    """A face that is being served, and the connections to it."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._wires: list[Wire] = []

    async def wire(self, *, receives: int | None = None) -> Wire:
        """Connect; *receives*: bytes that the system takes in without being asked."""
        where = self.listener.addresses[0]
        if where.startswith("unix:"):
            streams = await asyncio.open_unix_connection(where.removeprefix("unix:"))
        else:
            host, _, port = where.rpartition(":")
            raw = socket.socket(socket.AF_INET6 if "[" in host else socket.AF_INET)
            raw.setblocking(False)
            if receives is not None:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
            try:
                await asyncio.get_running_loop().sock_connect(raw, (host.strip("[]"), int(port)))
            except OSError:
                raw.close()
                raise
            streams = await asyncio.open_connection(sock=raw)
        self._wires.append(Wire(*streams))
        return self._wires[-1]

    async def close(self) -> None:
        while self._wires:
            wire = self._wires.pop()
            wire.writer.transport.abort()
            await wire.closed()


@asynccontextmanager
async def serving(engine: FakeEngine | None = None, listen: str = "127.0.0.1:0", **options: Any):
    """Serve a face whose limits or `[server]` are *options*."""
    limits = {k: v for k, v in options.items() if k in Limits.__struct_fields__}
    server = {k: v for k, v in options.items() if k not in limits}
    app = make_app(engine or FakeEngine(), ServerSettings(**server))
    async with Listener(app, [listen], Limits(**limits)) as listener:
        site = Site(listener)
        try:
            yield site
        finally:
            await site.close()
