"""
HTTP to one account: one pool of connections, every wait bounded, every reply bounded.

Nothing is ever sent twice from here, no redirect is followed and no cookie kept. What the network
does is a value, not an exception; only cancellation and bugs raise.
"""

import asyncio
import functools
import hashlib
import io
import socket
import urllib.request
from collections.abc import AsyncIterator, Mapping
from typing import Final

import aiohttp
from aiohttp.client_exceptions import ClientConnectorError, ClientHttpProxyError
from msgspec import Struct
from yarl import URL

from dispatcher.config import is_loopback
from dispatcher.core.model import AccountRules, Failure, FunctionRules, Lost, NotSent

MIB: Final = 1024 * 1024

POOL_WAIT_MAX_S: Final = 10.0
"""How long a request may wait for a connection, old or new, the resolver and TLS included."""
CONNECT_MAX_S: Final = 4.0
"""How long one attempt to connect a socket may take."""
READ_MAX_S: Final = 15.0
"""How long the cloud may be silent when it only has to accept something."""
TOTAL_MAX_S: Final = 40.0
"""How long such a request may take in all."""
ERROR_BODY_MAX_S: Final = 5.0
"""How long to wait for the words of an error whose status is known already."""
ERROR_BODY_MAX: Final = 64 * 1024
"""How many bytes of such words are read."""
DNS_TTL_S: Final = 30
# A value of Lambda's log tail is up to 5.5 KiB; all headers of FC together are at most 8 KiB.
HEADER_MAX: Final = 32 * 1024
# Larger bodies are cut up, so that writing one never holds the loop for long.
SLICE: Final = 256 * 1024

TOO_LARGE: Final = "reply_too_large"
"""The kind of failure of a body that was not read because of its size."""

# Without a word about it aiohttp would ask for compressed replies.
_HEADERS: Final = {
    "User-Agent": "serverless-dispatcher",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
}


class Reply(Struct, frozen=True):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """Names in any case."""
    body: bytes
    cut: Lost | None = None
    """Why the body is not whole, or was not read at all; the status holds all the same."""


def accept_timeout() -> aiohttp.ClientTimeout:
    """Return the time-outs of a request that is answered at once."""
    return aiohttp.ClientTimeout(
        total=TOTAL_MAX_S, connect=POOL_WAIT_MAX_S, sock_connect=CONNECT_MAX_S, sock_read=READ_MAX_S
    )


@functools.lru_cache(maxsize=256)
def run_timeout(hold_max_s: float) -> aiohttp.ClientTimeout:
    """Return the time-outs of a request that is answered when a function has ended."""
    # The cloud's own time-out should be heard of rather than ours, hence the margin.
    silent_max_s = hold_max_s + READ_MAX_S
    return aiohttp.ClientTimeout(
        total=silent_max_s + POOL_WAIT_MAX_S + TOTAL_MAX_S,
        connect=POOL_WAIT_MAX_S,
        sock_connect=CONNECT_MAX_S,
        sock_read=silent_max_s,
    )


def hold_max_s(account: AccountRules, function: str) -> float:
    """Return how long a synchronous call of *function* may take."""
    rules = account.functions.get(function) or account.functions.get("*") or FunctionRules()
    return rules.hold_max_s


class Wire:
    """The connections to one endpoint. Must be made inside a running loop."""

    def __init__(self, endpoint: URL, *, connections_max: int, idle_max_s: float) -> None:
        """
        Open nothing yet.

        *idle_max_s* must be shorter than what the server grants an idle connection: a request on
        a connection that the server is just closing is lost.
        """
        assert connections_max > 0, connections_max
        self._proxy = proxy_of(endpoint)
        self._pool = _Pool(
            limit=connections_max,
            keepalive_timeout=idle_max_s,
            ttl_dns_cache=DNS_TTL_S,
            socket_factory=_kept_alive,
        )
        self._session = aiohttp.ClientSession(
            connector=self._pool,
            headers=_HEADERS,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=accept_timeout(),
            max_field_size=HEADER_MAX,
            max_line_size=HEADER_MAX,
        )

    async def exchange(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        body: bytes,
        *,
        timeout: aiohttp.ClientTimeout,
        body_max: int = ERROR_BODY_MAX,
    ) -> Reply | NotSent | Lost:
        """Send once. Of a good reply up to *body_max* bytes are read, of another fewer."""
        if self._session.closed:
            return NotSent(Failure("closed", "the transport is closed"))
        data: bytes | AsyncIterator[memoryview] | None = body or None
        if len(body) > MIB:
            data = _sliced(body)
            headers = {**headers, "Content-Length": str(len(body))}
        try:
            async with self._session.request(
                method,
                url,
                headers=headers,
                data=data,
                timeout=timeout,
                allow_redirects=False,
                proxy=self._proxy,
            ) as response:
                read, cut = await _body(response, body_max)
                return Reply(response.status, response.headers, read, cut)
        except (OSError, aiohttp.ClientError) as error:
            return _failed(error)

    def resize(self, connections_max: int) -> None:
        """Allow another number of connections; those that are open and idle may still be used."""
        self._pool.resize(connections_max)

    async def aclose(self) -> None:
        """Close all connections; requests in flight are lost."""
        await self._session.close()


class _Pool(aiohttp.TCPConnector):
    def resize(self, limit: int) -> None:
        # aiohttp fixes it when a pool is made, and looks at it whenever it opens a connection.
        assert limit > 0, limit
        self._limit = limit


def _failed(error: Exception) -> NotSent | Lost:
    """Tell what an exception of aiohttp says about whether the cloud has the request."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return NotSent(Failure("not_connected", "no connection in time"))
        case ClientConnectorError() | ClientHttpProxyError() | aiohttp.InvalidURL():
            # Names and addresses, resolver, refused, unreachable, TLS, proxy: nothing was sent.
            return NotSent(Failure("not_connected", _words(error)))
        case TimeoutError():
            return Lost(Failure("timed_out", "no reply in time"), timed_out=True)
        case _:
            return Lost(Failure("connection_lost", _words(error)))


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


async def _body(response: aiohttp.ClientResponse, body_max: int) -> tuple[bytes, Lost | None]:
    """Read the body as far as it matters. The status is known whatever happens here."""
    length = response.content_length
    if length == 0:
        return b"", None
    try:
        if response.status < 300:
            return await _read(response, length, body_max)
        async with asyncio.timeout(ERROR_BODY_MAX_S):
            return await _read(response, length, ERROR_BODY_MAX)
    except (OSError, aiohttp.ClientError) as error:
        failed = _failed(error)
        return b"", failed if isinstance(failed, Lost) else Lost(failed.failure)


async def _read(
    response: aiohttp.ClientResponse, length: int | None, body_max: int
) -> tuple[bytes, Lost | None]:
    if length is not None and length <= body_max and "Content-Encoding" not in response.headers:
        return await response.read(), None
    read = io.BytesIO()
    async for part in response.content.iter_any():
        if read.tell() + len(part) > body_max:
            # What is left unread closes the connection.
            too_large = Failure(TOO_LARGE, f"the reply has more than {body_max} bytes")
            return b"", Lost(too_large)
        read.write(part)
    return read.getvalue(), None


async def _sliced(body: bytes) -> AsyncIterator[memoryview]:
    view = memoryview(body)
    for start in range(0, len(view), SLICE):
        yield view[start : start + SLICE]
        await asyncio.sleep(0)


def _kept_alive(address: aiohttp.AddrInfoType) -> socket.socket:
    """
    Make a socket whose peer is asked now and then whether it is still there.

    NAT gateways and load balancers forget a connection that was idle for 350 s, and a synchronous
    call is idle for as long as its function runs.
    """
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 30)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    return made


def proxy_of(endpoint: URL) -> URL | None:
    """
    Return the proxy that the environment names for *endpoint*, None on loopback.

    Asked once: aiohttp's own `trust_env` starts a thread and reads a file for every request.
    """
    host = endpoint.host or ""
    if is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    proxy = urllib.request.getproxies().get(endpoint.scheme)
    if not proxy:
        return None
    return URL(proxy if "://" in proxy else f"http://{proxy}")


async def body_digest(body: bytes) -> str:
    """Return the SHA-256 of a body in hexadecimal digits; a large one is hashed in a thread."""
    if len(body) <= MIB:
        return hashlib.sha256(body).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(body).hexdigest())


def plain_value(name: str, value: str) -> str:
    """Return *value* if it can stand in a header as it is. Raises `ValueError`."""
    if not (value.isascii() and value.isprintable()):
        raise ValueError(f"{name} cannot stand in a header: expected printable ASCII")
    return value
