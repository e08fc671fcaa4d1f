"""
Who may ask: users of this machine, names that are served, pages that may not call, and tokens.

A browser on the same machine reaches loopback too. The Host allow-list keeps out pages whose
name was made to point here (DNS rebinding); `Origin` and `Sec-Fetch-Site`, which no page can
forge, keep out requests that other sites make their visitors send.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import os
from functools import lru_cache
from typing import Final

from aiohttp import hdrs

from dispatcher.config import ServerSettings, tokens
from dispatcher.core.callback import is_token
from dispatcher.errors import ConfigError
from dispatcher.web import problems
from dispatcher.web.request import Request

_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="dispatcher"'}

AUTHORITIES_MAX: Final = 256
"""Values of `Host` that are remembered to be served or not."""


class Access:
    """Judges requests before anything of them is read."""

    def __init__(self, server: ServerSettings, *, any_address: bool = False) -> None:
        """
        Serve the hosts of *server*.

        *any_address*: also by any IP address, which no page can make to point somewhere else.
        """
        self._any_address = any_address
        self._hosts = frozenset(_bare(host) for host in server.hosts)
        self._token_file = server.token_file
        self._digests: tuple[bytes, ...] = ()
        self._uids = frozenset(server.unix_uids)
        self._serves = lru_cache(AUTHORITIES_MAX)(self._names_us)

    async def reload(self, server: ServerSettings) -> None:
        """
        Take the hosts and users of *server*, and read its tokens again.

        Raises `ConfigError` if there are none to be had; then all stays as it was.
        """
        digests: tuple[bytes, ...] = ()
        if server.token_file is not None:
            try:
                known = await asyncio.to_thread(tokens, server.token_file)
            except ConfigError as error:
                found = [("server.token_file", text) for _, text in error.problems]
                raise ConfigError(found) from error
            digests = tuple(_digest(token) for token in known)
        self._hosts = frozenset(_bare(host) for host in server.hosts)
        self._token_file = server.token_file
        self._digests = digests
        self._serves.cache_clear()
        self._uids = frozenset(server.unix_uids)

    def check(self, request: Request, *, token_wanted: bool, peer_uid: int | None = None) -> bool:
        """
        Raise a `Refusal` unless the request may go on; return whether it showed a token of ours.

        A token of an invocation is none of ours. *peer_uid*: the user at the other end of a Unix
        socket; None: it came another way.
        """
        if peer_uid is not None and self._uids and peer_uid not in (*self._uids, os.geteuid()):
            raise problems.refusal(403, f"user {peer_uid} is not among the server.unix_uids")
        host = request.headers.get(hdrs.HOST)
        # An absolute target names a host of its own, which HTTP puts above the header.
        target = request.host
        if host is None or not self._serves(host) or (target != host and not self._serves(target)):
            raise problems.refusal(
                421, f"{target!r} is not among the server.hosts of the configuration"
            )
        self._check_site(request, host)
        is_known = self._knows(request.headers.get(hdrs.AUTHORIZATION, ""))
        if is_known or self._token_file is None or not token_wanted:
            return is_known
        if not _is_open(request):
            raise problems.refusal(401, "send Authorization: Bearer TOKEN", headers=_CHALLENGE)
        return is_known

    def _names_us(self, authority: str) -> bool:
        host = _bare(_without_port(authority))
        return host in self._hosts or (self._any_address and _is_address(host))

    def _check_site(self, request: Request, host: str) -> None:
        """Refuse what a page of another site sends, but let people follow links to here."""
        headers = request.headers
        site = headers.get("Sec-Fetch-Site")
        if site not in (None, "same-origin", "none") and not (
            request.method == hdrs.METH_GET
            and headers.get("Sec-Fetch-Mode") == "navigate"
            and headers.get("Sec-Fetch-Dest") == "document"
        ):
            raise problems.refusal(403, f"Sec-Fetch-Site is {site!r}")
        origin = headers.get(hdrs.ORIGIN)
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            raise problems.refusal(403, f"Origin is {origin!r}, and this is {host!r}")

    def _knows(self, authorization: str) -> bool:
        if not self._digests:
            return False
        scheme, _, token = authorization.partition(" ")
        digest = _digest(token.strip())
        known = False
        # All are compared, each in constant time: the time taken says nothing of any of them.
        for one in self._digests:
            known |= hmac.compare_digest(one, digest)
        return known and scheme.lower() == "bearer"


def _is_open(request: Request) -> bool:
    """Tell whether a request needs no token of ours, or shows one that its handler will judge."""
    route = request.route
    if route is None or route.is_open:
        return route is not None
    return route.takes_own_tokens and is_token(bearer(request) or "")


def bearer(request: Request) -> str | None:
    """Return the bearer token that *request* shows, whatever it is worth."""
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _without_port(authority: str) -> str:
    if authority.startswith("["):
        return authority.partition("]")[0]
    return authority.partition(":")[0]


def _bare(host: str) -> str:
    return host.strip("[]").lower()
