"""How a connection to a cloud is opened: resolver, proxy, TLS, and a socket that stays alive."""

import asyncio
import base64
import functools
import math
import socket
import ssl
import urllib.request
from collections.abc import Sequence
from typing import Final

import aiohappyeyeballs
from aiohappyeyeballs import AddrInfoType
from yarl import URL

from dispatcher.config import is_loopback
from dispatcher.transports.http1 import Connection

CONNECT_MAX_S: Final = 4.0
"""How long the sockets of one attempt to connect may take."""
DNS_TTL_S: Final = 30.0
NEXT_ADDRESS_S: Final = 0.25
"""When the next address is tried while the one before has not answered (RFC 8305)."""
_PROXY_HEAD_MAX: Final = 16 * 1024


class Dialer:
    """Opens connections to one endpoint, through the proxy that the environment names for it."""

    def __init__(self, endpoint: URL) -> None:
        """Open nothing yet. Must be made inside a running loop."""
        self._host = endpoint.host or ""
        self._port = endpoint.port or 443
        self._tls = endpoint.scheme == "https"
        self.proxy = proxy_of(endpoint)
        self._addresses: Sequence[AddrInfoType] = ()
        self._addresses_until = -math.inf

    @property
    def asks_proxy(self) -> bool:
        """Tell whether requests name their whole URL, since a proxy reads them."""
        return self.proxy is not None and not self._tls

    async def dial(self) -> Connection:
        """Return a new connection. Raises `OSError` and `UnicodeError`; nothing was sent then."""
        sock = await self._socket()
        try:
            if self.proxy is not None and self._tls:
                await _tunnel(sock, self.proxy, f"{_bracketed(self._host)}:{self._port}")
            _, connection = await asyncio.get_running_loop().create_connection(
                Connection,
                sock=sock,
                ssl=await tls_context() if self._tls else None,
                server_hostname=self._host if self._tls else None,
            )
        except BaseException:
            sock.close()
            raise
        return connection

    async def _socket(self) -> socket.socket:
        host, port = self._host, self._port
        if self.proxy is not None:
            if self.proxy.scheme != "http":
                raise OSError(f"a proxy is spoken to by http only, not by {self.proxy.scheme}")
            host, port = self.proxy.host or "", self.proxy.port or 80
        try:
            addresses = await self._resolved(host, port)
            async with asyncio.timeout(CONNECT_MAX_S):
                return await aiohappyeyeballs.start_connection(
                    addresses,
                    happy_eyeballs_delay=NEXT_ADDRESS_S,
                    interleave=1,
                    loop=asyncio.get_running_loop(),
                    socket_factory=kept_alive,
                )
        except OSError as error:
            self._addresses_until = -math.inf  # the name may have moved
            if isinstance(error, TimeoutError):
                raise
            raise OSError(f"{host}:{port}: {type(error).__name__}: {error}") from error

    async def _resolved(self, host: str, port: int) -> Sequence[AddrInfoType]:
        loop = asyncio.get_running_loop()
        if loop.time() >= self._addresses_until:
            try:  # what is an address already needs no thread
                found = socket.getaddrinfo(
                    host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
                )
            except socket.gaierror:
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self._addresses = found
            self._addresses_until = loop.time() + DNS_TTL_S
        return self._addresses


async def _tunnel(sock: socket.socket, proxy: URL, target: str) -> None:
    """Have the proxy connect *sock* to *target*. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if (word := proxy_authorization(proxy)) is not None:
        lines.append(f"Proxy-Authorization: {word}")
    await loop.sock_sendall(sock, "\r\n".join([*lines, "", ""]).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        part = await loop.sock_recv(sock, 4096)
        if not part or len(answer) > _PROXY_HEAD_MAX:
            raise OSError(f"the proxy {proxy.host} gave no answer: {answer[:100]!r}")
        answer += part
    line = answer.splitlines()[0][:100]
    version, _, status = line.partition(b" ")
    if not version.startswith(b"HTTP/1.") or not status.startswith(b"2"):
        raise OSError(f"the proxy {proxy.host} refused: {line!r}")


def proxy_authorization(proxy: URL) -> str | None:
    """Return the header's value for the user that the proxy's URL names, if any."""
    if proxy.user is None:
        return None
    word = f"{proxy.user}:{proxy.password or ''}".encode()
    return f"Basic {base64.b64encode(word).decode()}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def tls_context() -> ssl.SSLContext:
    """Return the context of all connections; reading the machine's certificates takes a while."""
    if not _tls_context.cache_info().currsize:
        await asyncio.get_running_loop().run_in_executor(None, _tls_context)
    return _tls_context()


@functools.cache
def _tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def kept_alive(address: AddrInfoType) -> socket.socket:
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
    """Return the proxy that the environment names for *endpoint*, None on loopback."""
    host = endpoint.host or ""
    if is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    proxy = urllib.request.getproxies().get(endpoint.scheme)
    if not proxy:
        return None
    return URL(proxy if "://" in proxy else f"http://{proxy}")
