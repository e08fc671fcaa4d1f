"""The table of all requests that are served: the router and the OpenAPI document are made of it."""

from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct

from dispatcher.web.response import JSON, Response

Handler = Callable[[Any], Awaitable[Response]]
"""Takes a `Request`."""


class Reply(Struct, frozen=True, kw_only=True):
    """One way in which a request may be answered well."""

    status: int
    means: str
    body: Any = None
    """A type, or None: there is no content."""
    media: str = JSON
    headers: dict[str, str] = {}
    """By name, what they mean."""


class Route(Struct, frozen=True, kw_only=True):
    """One request that is served."""

    method: str
    path: str
    handler: Handler
    name: str
    """The operationId."""
    summary: str
    replies: tuple[Reply, ...]
    problems: tuple[int, ...] = ()
    """Statuses of the problems that belong to this request, beside those of any request."""
    query: type[Struct] | None = None
    headers: dict[str, Any] = {}
    """Types of the headers that it heeds, by name."""
    bodies: dict[str, Any] = {}
    """Types of the content that it takes, by media type."""
    is_open: bool = False
    """No token is asked for."""
    takes_own_tokens: bool = False
    """The token of an invocation will do as well; the handler judges it."""
