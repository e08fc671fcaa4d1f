"""One request, as handlers see it: its head, its body as far as it has come, and who sent it."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from aiohttp import hdrs
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from multidict import CIMultiDictProxy, MultiDictProxy
from yarl import URL

from dispatcher.web.guard import Limits
from dispatcher.web.routes import Route


class Peer(Protocol):
    """What there is to know of the other side of a connection, and to tell it."""

    asks_token: bool
    """Whoever comes this way must show a token, if there are any."""
    peer: Any
    """Its address; a tuple unless it came by a Unix socket."""
    peer_uid: int | None
    """The user of its process, where the kernel says."""
    served: bool
    """It has sent a request that was answered well."""

    @property
    def limits(self) -> Limits:
        """Return what it may take."""
        ...

    def reading(self) -> AbstractContextManager[None]:
        """Mark the time during which it sends a body."""
        ...

    def hold(self, size: int) -> None:
        """Count the bytes of a body, *size* so far; raises a `Refusal` if all are too many."""
        ...

    def unless_lost(self) -> AbstractContextManager[None]:
        """Cancel what runs in this context once it leaves: then `ConnectionError`."""
        ...

    def ask_to_go_on(self) -> None:
        """Tell it that its body is wanted, if it has asked first."""
        ...


class BrokenBody(Exception):
    """A body does not come as HTTP wants it."""


class Request:
    """One request: its head, and its body as far as it has come."""

    __slots__ = (
        "connection",
        "content",
        "headers",
        "is_known",
        "method",
        "parameters",
        "route",
        "target",
        "url",
    )

    def __init__(self, message: RawRequestMessage, content: StreamReader, connection: Peer) -> None:
        self.method: str = message.method
        self.target: str = message.path
        """As it came: with its escapes and its query, and perhaps absolute."""
        self.url: URL = message.url
        self.headers: CIMultiDictProxy[str] = message.headers
        self.content = content
        self.connection = connection
        self.route: Route | None = None
        self.parameters: Mapping[str, str] = {}
        """What stands in the path where the route has names."""
        self.is_known = False
        """It showed one of the server's tokens."""

    @property
    def host(self) -> str:
        """Return the host that is meant: an absolute target names one, above the header."""
        if self.url.absolute:
            return self.url.host_subcomponent or ""
        return self.headers.get(hdrs.HOST, "")

    @property
    def query(self) -> MultiDictProxy[str]:
        """Return the parameters of the query."""
        return self.url.query

    @property
    def content_length(self) -> int | None:
        """Return the size that the body is said to have."""
        length = self.headers.get(hdrs.CONTENT_LENGTH)
        return None if length is None else int(length)
