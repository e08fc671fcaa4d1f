"""
What keeps one connection from hurting the others: time-outs, a cap, and bodies of bounded size.

`Limits` says how much one peer can take, `Guard` is what the connections of one listener share;
each connection keeps its own times by them.
"""

import asyncio
from typing import Final, Protocol

from aiohttp import http_parser
from msgspec import Struct

from dispatcher.web import problems


class Limits(Struct, frozen=True, kw_only=True):
    """How much of the server one peer can take. The defaults fit 1024 file descriptors."""

    connections_max: int = 512
    """Connections at the same time; beyond it the one that was idle for longest gives way."""
    head_max_s: float = 10.0
    """From the first byte of a request, or from the connection, to the end of its headers."""
    idle_max_s: float = 75.0
    """Between two requests on a connection."""
    body_grace_s: float = 15.0
    """How long a body may take however small it is ..."""
    body_min_per_s: int = 65_536
    """... and the bytes per second at which larger ones must arrive."""
    stall_max_s: float = 60.0
    """How long a peer may take nothing of the answer that waits for it."""
    bodies_max_bytes: int = 256 * 1024 * 1024
    """Bodies above 64 KiB held at the same time, all together."""


LAST_WORD_S: Final = 1.0
"""How long a request may take to end once it is cancelled."""
SMALL_BODY_BYTES: Final = 65_536
"""Bodies up to this size are not counted: `connections_max` bounds them well enough."""


class Guarded(Protocol):
    """What a guard knows of a connection."""

    served: bool
    """It has sent a request that was answered."""
    heard_at_s: float
    """When it sent something last, by the loop's clock."""

    @property
    def is_idle(self) -> bool:
        """Tell whether it is the peer's turn."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...

    def finish(self) -> None:
        """Close once the request in the works, if there is one, has its answer."""
        ...

    async def end(self) -> None:
        """Close at once, and wait until the request in the works has ended."""
        ...


class Guard:
    """The connections of one application, and the bodies that they hold."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.bodies_bytes = 0
        self._connections: set[Guarded] = set()
        self._emptied: asyncio.Event | None = None

    def __len__(self) -> int:
        """Return the number of open connections."""
        return len(self._connections)

    def admit(self, connection: Guarded) -> bool:
        """Take a new connection in, at the cost of an idle one if need be; False: there is none."""
        if len(self._connections) >= self.limits.connections_max:
            idle = [other for other in self._connections if other.is_idle]
            if not idle:
                return False
            # Who never sent a request that was served goes before who did.
            victim = min(idle, key=lambda other: (other.served, other.heard_at_s))
            self._connections.discard(victim)
            victim.abort()
        self._connections.add(connection)
        return True

    def dismiss(self, connection: Guarded) -> None:
        """Forget a connection that is closed; one that was never taken in is fine too."""
        self._connections.discard(connection)
        if self._emptied is not None and not self._connections:
            self._emptied.set()

    async def emptied(self) -> None:
        """Close idle connections now and the others after their answers; wait for the last."""
        for connection in list(self._connections):
            connection.finish()
        if self._connections:
            self._emptied = asyncio.Event()
            await self._emptied.wait()

    async def end(self) -> None:
        """Close all connections at once, and wait for the requests in the works to end."""
        if self._connections:
            await asyncio.wait(
                [asyncio.ensure_future(connection.end()) for connection in self._connections],
                timeout=LAST_WORD_S,
            )

    def hold(self, size: int, held: int) -> int:
        """
        Count *size* bytes of a body of which *held* are counted already; return what is counted.

        Raises a `Refusal` if all bodies together are too many bytes by now.
        """
        counted = size if size > SMALL_BODY_BYTES else 0
        more = counted - held
        if more > 0 and self.bodies_bytes + more > self.limits.bodies_max_bytes:
            raise problems.refusal(503, "too many large bodies are being received; try again")
        self.bodies_bytes += more
        return counted


def require_fast_parser() -> None:
    """
    Raise RuntimeError without aiohttp's parser in C.

    Nearly all requests that were ever smuggled through aiohttp came through the other one.
    """
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise RuntimeError(
            "aiohttp runs without its C extension (is AIOHTTP_NO_EXTENSIONS set?), "
            "and its other parser is not fit for a server"
        )
