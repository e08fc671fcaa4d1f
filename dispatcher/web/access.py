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
from collections.abc import Iterable
from typing import Final

from aiohttp import hdrs, web

from dispatcher.config import ServerSettings, tokens
from dispatcher.core.callback import is_token
from dispatcher.errors import ConfigError
from dispatcher.web import problems

_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="dispatcher"'}


IS_KNOWN: Final = web.RequestKey("IS_KNOWN", bool)
"""Of each request that may go on: it showed one of the server's tokens."""


class Access:
    """Judges requests before anything of them is read."""

    def __init__(
        self,
        server: ServerSettings,
        open_paths: Iterable[str] = (),
        *,
        own_token_paths: Iterable[str] = (),
        any_address: bool = False,
    ) -> None:
        """
        Serve the hosts of *server*; at *open_paths* no token is asked for.

        *own_token_paths*, as the router spells them, judge tokens of invocations themselves.
        *any_address*: also by any IP address, which no page can make to point somewhere else.
        """
        self._any_address = any_address
        self._hosts = frozenset(_bare(host) for host in server.hosts)
        self._token_file = server.token_file
        self._open_paths = frozenset(open_paths)
        self._own_token_paths = frozenset(own_token_paths)
        self._digests: tuple[bytes, ...] = ()
        self._uids = frozenset(server.unix_uids)

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
        self._uids = frozenset(server.unix_uids)

    def check(
        self, request: web.Request, *, token_wanted: bool, peer_uid: int | None = None
    ) -> bool:
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
        if self._token_file is None or not token_wanted or self._is_open(request):
            return is_known
        if not is_known and not self._is_judged_elsewhere(request):
            raise problems.refusal(401, "send Authorization: Bearer TOKEN", headers=_CHALLENGE)
        return is_known

    def _is_open(self, request: web.Request) -> bool:
        resource = request.match_info.route.resource
        path = request.path if resource is None else resource.canonical
        return path in self._open_paths

    def _is_judged_elsewhere(self, request: web.Request) -> bool:
        resource = request.match_info.route.resource
        if resource is None or resource.canonical not in self._own_token_paths:
            return False
        return is_token(bearer(request) or "")

    def _serves(self, authority: str) -> bool:
        host = _bare(_without_port(authority))
        return host in self._hosts or (self._any_address and _is_address(host))

    def _check_site(self, request: web.Request, host: str) -> None:
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


def bearer(request: web.Request) -> str | None:
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
