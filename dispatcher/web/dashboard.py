"""
The dashboard: one page, its files, and a stream of what the engine is doing.

Everything comes from this process, so that the page may be told to load from nowhere else. What
it shows is taken once a second, however many look at it, and not at all while nobody does.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final, Protocol, TypeVar

import msgspec
from aiohttp import hdrs
from msgspec import Struct

from dispatcher.core.views import AccountView, HistogramView, Labels, Statistics
from dispatcher.version import __version__
from dispatcher.web import problems
from dispatcher.web.request import Request
from dispatcher.web.response import Response
from dispatcher.web.routes import Handler, Reply, Route
from dispatcher.web.wire import moment

EVERY_S: Final = 1.0
"""How often what is shown is taken anew."""
VIEWERS_MAX: Final = 64
"""Streams at the same time; more are refused, so that they cannot use up the connections."""

_TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    # Asked for again every time, and answered 304: a new version is seen at once.
    "Cache-Control": "no-cache",
}

N = TypeVar("N", int, float)

_encode: Final = msgspec.json.Encoder().encode


class Source(Protocol):
    """What the dashboard asks of the engine."""

    @property
    def draining(self) -> bool:
        """Tell whether the process is about to end."""
        ...

    def accounts(self) -> list[AccountView]:
        """Return all accounts as they stand."""
        ...

    def statistics(self) -> Statistics:
        """Return every number of the metrics."""
        ...

    def not_ready(self) -> str | None:
        """Say why nothing can be accepted now; None: it can."""
        ...


class Counts(Struct, frozen=True, kw_only=True):
    """What has happened in one account since the start; the page shows the differences."""

    accepted: int
    ended: dict[str, int]
    """By state."""
    throttles: dict[str, int]
    """By the cloud's reason, all functions together."""
    throttled_functions: dict[str, int]
    blocked_s: dict[str, float]
    """By gate: how long due work has waited for it."""
    forced_releases: int
    dead: int
    circuit_open: bool
    queue_wait: tuple[tuple[float, ...], tuple[int, ...]]
    """From due to sent: the upper bounds in seconds, and the count of each bucket."""
    start_delay: tuple[tuple[float, ...], tuple[int, ...]]
    """The same from sent to begun, as far as the cloud tells."""
    in_flight: dict[str, int]
    """Invocations that hold a slot, by function."""


class Frame(Struct, frozen=True, kw_only=True):
    """One picture of the whole."""

    at: str
    version: str
    not_ready: str | None
    draining: bool
    accounts: list[AccountView]
    counts: dict[str, Counts]
    """By account."""


def frame(engine: Source) -> Frame:
    """Take a picture of *engine*."""
    accounts = engine.accounts()
    statistics = engine.statistics()
    return Frame(
        at=moment(int(time.time() * 1000)),
        version=__version__,
        not_ready=engine.not_ready(),
        draining=engine.draining,
        accounts=accounts,
        counts={account.name: _counts(account.name, statistics) for account in accounts},
    )


def _counts(name: str, statistics: Statistics) -> Counts:
    key = (name,)
    return Counts(
        accepted=sum(_by(statistics.accepted, name, 1).values()),
        ended=_by(statistics.ended, name, 3),
        throttles=_by(statistics.throttles, name, 2),
        throttled_functions=_by(statistics.throttles, name, 1),
        blocked_s=_by(statistics.blocked_seconds, name, 1),
        forced_releases=sum(_by(statistics.forced_releases, name, 1).values()),
        dead=statistics.dead_jobs.get(key, 0),
        circuit_open=bool(statistics.circuit_open.get(key, 0)),
        queue_wait=_buckets(statistics.queue_wait_s.get(key)),
        start_delay=_buckets(statistics.start_delay_s.get(key)),
        in_flight=_by(statistics.in_flight, name, 1),
    )


def _buckets(histogram: HistogramView | None) -> tuple[tuple[float, ...], tuple[int, ...]]:
    return ((), ()) if histogram is None else (histogram.bounds, histogram.counts)


def _by(counts: Mapping[Labels, N], account: str, label: int) -> dict[str, N]:
    """Add up the counts of *account* by one of their labels."""
    found: dict[str, N] = {}
    for labels, count in counts.items():
        if labels[0] == account and count:
            found[labels[label]] = found.get(labels[label], 0) + count
    return found


class Stream:
    """What all viewers are told, taken once for all of them."""

    def __init__(self, engine: Source, *, every_s: float = EVERY_S) -> None:
        self._engine = engine
        self._every_s = every_s
        self._viewers = 0
        self._tick = -1
        self._event = b""
        self.taken = 0
        """Pictures that have been taken so far."""

    async def serve(self, _: Request) -> Response:
        """Show one viewer every picture until it leaves or the process drains."""
        if self._viewers >= VIEWERS_MAX:
            raise problems.refusal(503, f"{VIEWERS_MAX} others look at the dashboard already")
        return Response(body=self._pictures(), content_type="text/event-stream")

    async def _pictures(self) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        self._viewers += 1
        try:
            while True:
                tick = int(loop.time() / self._every_s)
                # A viewer that is slow to read has no use for the pictures in between.
                yield self._at(tick)
                if self._engine.draining:
                    return
                await asyncio.sleep((tick + 1) * self._every_s - loop.time())
        finally:
            self._viewers -= 1

    def _at(self, tick: int) -> bytes:
        """Return the picture of this time; all viewers come at the same times."""
        if tick != self._tick:
            self._tick = tick
            self._event = b"data: " + _encode(frame(self._engine)) + b"\n\n"
            self.taken += 1
        return self._event


def routes(engine: Source) -> tuple[Route, ...]:
    """
    Return the requests of the dashboard.

    The page and its files say nothing of what goes on, and are open to whoever may connect; the
    stream, and all that the page does, asks for a token where there are any.
    """
    stream = Stream(engine)
    return (
        *(_route(path, _file(kind, body), open_to_all=True) for path, kind, body in _FILES),
        _route("/dashboard/events", stream.serve, open_to_all=False),
    )


def _read(folder: Traversable, prefix: str = "/dashboard/") -> list[tuple[str, str, bytes]]:
    """Return the path, the media type and the content of each file that is served."""
    found: list[tuple[str, str, bytes]] = []
    for one in sorted(folder.iterdir(), key=lambda one: one.name):
        _, dot, kind = one.name.rpartition(".")
        if one.is_dir():
            found += _read(one, f"{prefix}{one.name}/")
        elif dot + kind in _TYPES:
            path = "/" if one.name == "index.html" else prefix + one.name
            found.append((path, _TYPES[dot + kind], one.read_bytes()))
    return found


# Before there is an event loop that reading would block.
_FILES: Final = _read(resources.files(__package__).joinpath("static"))


def _file(kind: str, body: bytes) -> Handler:
    """Make the handler of one file."""
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {**_HEADERS, hdrs.ETAG: tag, hdrs.CONTENT_TYPE: f"{kind}; charset=utf-8"}

    async def handler(request: Request) -> Response:
        if request.headers.get(hdrs.IF_NONE_MATCH) == tag:
            return Response(304, headers={**_HEADERS, hdrs.ETAG: tag})
        return Response(body=body, headers=headers)

    return handler


def _route(path: str, handler: Handler, *, open_to_all: bool) -> Route:
    return Route(
        method="GET",
        path=path,
        handler=handler,
        name=f"dashboard {path}",
        summary="For the dashboard.",
        replies=(Reply(status=200, means="As asked."),),
        is_open=open_to_all,
    )
