"""A server that says exactly what a test wants it to, byte by byte, on loopback."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from multidict import CIMultiDict


@dataclass
class Request:
    """What came in."""

    method: str
    target: str
    headers: CIMultiDict[str]
    body: bytes
    connection: int


@dataclass
class Peer:
    """The other side of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, text: str | bytes) -> None:
        self.writer.write(text.encode() if isinstance(text, str) else text)
        await self.writer.drain()

    async def reply(self, status: str, body: str | bytes = b"", **headers: str) -> None:
        body = body.encode() if isinstance(body, str) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{name}: {value}\r\n" for name, value in named.items()]
        await self.say(f"HTTP/1.1 {status}\r\n{''.join(lines)}".encode())
        await self.say(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def reset(self) -> None:
        """Close with RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def hang(self) -> None:
        """Say nothing more, until the other side gives up."""
        await self.reader.read()


Handler = Callable[[Request, Peer], Awaitable[None]]


@dataclass
class RawServer:
    """Where it listens, and what it has seen."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    connections: int = 0


@contextlib.asynccontextmanager
async def raw_server(handle: Handler, *, read_bodies: bool = True) -> AsyncIterator[RawServer]:
    """Let *handle* answer each request; a connection lasts until it is closed by either side."""
    state = RawServer()
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        state.connections += 1
        number = state.connections
        try:
            while not writer.is_closing():
                request = await _read(reader, number, read_bodies=read_bodies)
                if request is None:
                    break
                state.requests.append(request)
                await handle(request, Peer(reader, writer))
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=2**20)
    host, port = server.sockets[0].getsockname()
    state.url = f"http://{host}:{port}"
    try:
        yield state
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _read(
    reader: asyncio.StreamReader, connection: int, *, read_bodies: bool
) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = CIMultiDict(
        (name, value.strip()) for name, _, value in (line.partition(":") for line in lines)
    )
    length = int(headers.get("Content-Length", "0")) if read_bodies else 0
    try:
        body = await reader.readexactly(length)
    except asyncio.IncompleteReadError:
        return None
    return Request(method, target, headers, body, connection)
