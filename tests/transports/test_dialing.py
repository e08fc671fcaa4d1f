"""How connections are opened; what is sent on them then is tested in test_wire.py."""

import asyncio
import contextlib
import socket
import ssl
from contextlib import aclosing

import anyio
import pytest
from aiohappyeyeballs import AddrInfoType
from yarl import URL

from dispatcher.core.model import NotSent
from dispatcher.transports import dialing
from dispatcher.transports.http1 import Reply
from tests.certificates import certificate
from tests.transports.servers import Peer, Request, raw_server
from tests.transports.test_wire import exchange, wired


async def test_idle_connections_are_kept_alive(monkeypatch):
    made: list[socket.socket] = []
    make = dialing.kept_alive

    def recorded(address: AddrInfoType) -> socket.socket:
        made.append(make(address))
        return made[-1]

    monkeypatch.setattr(dialing, "kept_alive", recorded)

    async def handle(request: Request, peer: Peer):
        await peer.reply("202 Accepted")

    async with raw_server(handle) as server, aclosing(wired(server)) as client:
        await exchange(client, server)
        (used,) = made
        assert used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        # NAT gateways forget after 350 s.
        assert 0 < used.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) < 350


@pytest.mark.parametrize(
    ("endpoint", "environment", "proxy"),
    [
        ("https://lambda.test", {"HTTPS_PROXY": "http://p:3128"}, "http://p:3128"),
        ("https://lambda.test", {"https_proxy": "p:3128"}, "http://p:3128"),
        ("https://lambda.test", {"HTTP_PROXY": "http://p:3128"}, None),
        ("https://lambda.test", {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": ".test"}, None),
        ("https://lambda.test", {}, None),
        ("http://127.0.0.1:8710", {"HTTP_PROXY": "http://p:3128"}, None),
        ("http://localhost:8710", {"HTTP_PROXY": "http://p:3128"}, None),
        ("http://[::1]:8710", {"HTTP_PROXY": "http://p:3128"}, None),
    ],
)
def test_the_environment_names_the_proxy(monkeypatch, endpoint, environment, proxy):
    monkeypatch.setenv("NO_PROXY", "")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert dialing.proxy_of(URL(endpoint)) == (None if proxy is None else URL(proxy))


async def test_a_proxy_is_really_used(monkeypatch):
    async def handle(request: Request, peer: Peer):
        assert request.target == "http://cloud.test/p"
        assert request.headers["Host"] == "cloud.test"
        await peer.reply("202 Accepted")

    monkeypatch.setenv("NO_PROXY", "")
    async with raw_server(handle) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        async with aclosing(wired("http://cloud.test")) as client:
            result = await exchange(client, "http://cloud.test")
    assert isinstance(result, Reply)


async def test_a_proxy_that_refuses_sends_nothing(monkeypatch):
    async def handle(request: Request, peer: Peer):
        assert (request.method, request.target) == ("CONNECT", "cloud.test:443")
        await peer.reply("407 Proxy Authentication Required")
        peer.writer.close()

    monkeypatch.setenv("NO_PROXY", "")
    async with raw_server(handle) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        async with aclosing(wired("https://cloud.test")) as client:
            result = await exchange(client, "https://cloud.test")
    assert isinstance(result, NotSent)


# -- TLS ------------------------------------------------------------------------------------------


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


@pytest.mark.parametrize("host", ["cloud.test", "other.test"])
async def test_tls_goes_through_a_tunnel_and_the_name_is_checked(monkeypatch, tmp_path, host: str):
    server_tls, client_tls = certificate("cloud.test", tmp_path)

    async def trusting() -> ssl.SSLContext:
        return client_tls

    monkeypatch.setattr(dialing, "tls_context", trusting)
    heads: list[bytes] = []
    tunnels: list[asyncio.Task[None] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tunnels.append(asyncio.current_task())
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        there = await asyncio.open_connection(*cloud.sockets[0].getsockname())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_relay, reader, there[1])
            tasks.start_soon(_relay, there[0], writer)

    monkeypatch.setenv("NO_PROXY", "")
    async with (
        await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_tls) as cloud,
        await asyncio.start_server(tunnel, "127.0.0.1", 0) as proxy,
    ):
        port = proxy.sockets[0].getsockname()[1]
        monkeypatch.setenv("https_proxy", f"http://me:pass@127.0.0.1:{port}")
        async with aclosing(wired(f"https://{host}")) as client:
            result = await exchange(client, f"https://{host}", b"")
        await asyncio.gather(*filter(None, tunnels))
    connect = heads[0].decode()
    assert connect.startswith(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n")
    assert "Proxy-Authorization: Basic bWU6cGFzcw==" in connect
    if host == "other.test":
        assert isinstance(result, NotSent)
        assert "CERTIFICATE_VERIFY_FAILED" in result.failure.message
        assert len(heads) == 1
    else:
        assert isinstance(result, Reply)
        assert heads[1].startswith(b"POST /p HTTP/1.1\r\nHost: cloud.test\r\n")
        assert b"Proxy" not in heads[1]


async def test_a_proxy_that_is_not_spoken_to_by_http_is_named(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:9")
    async with aclosing(wired("https://cloud.test")) as client:
        result = await exchange(client, "https://cloud.test")
    assert isinstance(result, NotSent)
    assert "socks5" in result.failure.message


async def test_all_addresses_of_a_name_are_tried_and_the_name_is_asked_once(monkeypatch):
    async def handle(request: Request, peer: Peer):
        await peer.reply("202 Accepted")

    asked: list[str] = []
    async with raw_server(handle) as server:
        port = URL(server.url).port or 0

        async def two(host: str, *_, **__):
            asked.append(host)
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [(*kind, (address, port)) for address in ("127.0.0.99", "127.0.0.1")]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", two)
        url = f"http://cloud.test:{port}"
        async with aclosing(wired(url, idle_max_s=1.0)) as client:
            for _ in range(2):
                assert isinstance(await exchange(client, url), Reply)
                await anyio.sleep(2)
        assert server.connections == 2
    assert asked == ["cloud.test"]
