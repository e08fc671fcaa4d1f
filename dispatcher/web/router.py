"""Which route a request is for, by its method and path."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from yarl import URL

from dispatcher.web.routes import Route

REMEMBERED_MAX: Final = 1024
"""Paths whose routes are remembered: those of the functions that are called."""

_PARAMETER: Final = re.compile(r"\{([a-z]+)(?::([^{}]+))?\}")
_SLASH_OR_PERCENT: Final = re.compile("%2[Ff]|%25")


class Found(NamedTuple):
    """What a path leads to."""

    route: Route | None
    parameters: Mapping[str, str]
    allowed: tuple[str, ...] = ()
    """Methods that the path knows, if it does not know the one that was asked."""


class Router:
    """All routes. A path has no end in itself: `/a/../b` is not `/b`."""

    def __init__(self, routes: Iterable[Route]) -> None:
        """Of several routes that fit, the first without parameters goes, then the first."""
        self.routes = tuple(routes)
        self._fixed: dict[str, dict[str, Route]] = {}
        self._patterns: list[tuple[re.Pattern[str], Route]] = []
        for route in self.routes:
            if "{" in route.path:
                self._patterns.append((_pattern(route.path), route))
            else:
                self._fixed.setdefault(route.path, {})[route.method] = route
        self.find = lru_cache(REMEMBERED_MAX)(self._find)
        """Return the route for a method and a path with its escapes."""

    def _find(self, method: str, raw_path: str) -> Found:
        # An escaped slash is part of a name, and a percent sign may be one of another escape.
        path = URL.build(path=raw_path, encoded=True).path_safe
        known = self._fixed.get(path, {})
        if method in known:
            return Found(known[method], {})
        if method == "HEAD" and "GET" in known:  # as whoever probes a service asks
            return Found(known["GET"], {})
        allowed = list(known)
        for pattern, route in self._patterns:
            if (parts := pattern.fullmatch(path)) is None:
                continue
            if route.method in (method, "*"):
                return Found(
                    route, {name: _whole(part) for name, part in parts.groupdict().items()}
                )
            allowed.append(route.method)
        return Found(None, {}, tuple(dict.fromkeys(allowed)))


def _pattern(path: str) -> re.Pattern[str]:
    parts, end = [], 0
    for parameter in _PARAMETER.finditer(path):
        name, form = parameter.groups()
        parts += [re.escape(path[end : parameter.start()]), f"(?P<{name}>{form or '[^/]+'})"]
        end = parameter.end()
    return re.compile("".join((*parts, re.escape(path[end:]))), re.DOTALL)


def _whole(part: str) -> str:
    return _SLASH_OR_PERCENT.sub(lambda escape: "%" if escape[0] == "%25" else "/", part)
