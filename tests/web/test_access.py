"""Hosts, pages of other sites, and tokens."""

import os
import sys
import tempfile
from pathlib import Path

import aiohttp
import anyio
import pytest

from dispatcher.config import ServerSettings
from dispatcher.errors import ConfigError
from dispatcher.web import Listener, make_app
from dispatcher.web.access import Access
from tests.web.fakes import FakeEngine
from tests.web.test_api import JOB, refused
from tests.web.wires import GET, serving

HOSTS = ("localhost", "127.0.0.1", "[::1]", "Sidecar.Example")


def request(target: bytes, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return b"GET %b HTTP/1.1\r\n%b\r\n" % (target, lines.encode())


# -- Host -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST",
        "localhost:1",
        "127.0.0.1:8700",
        "[::1]",
        "[::1]:8700",
        "sidecar.example:80",
    ],
)
async def test_hosts_that_are_served_with_any_port(host):
    async with serving(hosts=HOSTS) as site:
        wire = await site.wire()
        assert await wire.status_of(request(b"/healthz", f"Host: {host}")) == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.2", "[::2]", "", ":8700", "localhost@evil"],
)
@pytest.mark.parametrize("target", [b"/healthz", b"/metrics", b"/nowhere", b"/v1/invocations"])
async def test_other_hosts_are_421_everywhere(host, target):
    async with serving(hosts=HOSTS) as site:
        wire = await site.wire()
        wire.say(request(target, f"Host: {host}"))
        status, headers, body = await wire.answer()
        assert status == 421
        assert b"wrong_host" in body
        assert headers["content-type"].startswith("application/problem+json")


async def test_the_host_of_an_absolute_target_counts_too():
    async with serving() as site:
        wire = await site.wire()
        for target, host, status in (
            (b"http://localhost/healthz", "localhost", 200),
            (b"http://evil.example/healthz", "localhost", 421),
            (b"http://localhost/healthz", "evil.example", 421),
        ):
            assert await wire.status_of(request(target, f"Host: {host}")) == status


async def test_an_old_request_without_a_host_is_421():
    async with serving() as site:
        wire = await site.wire()
        assert await wire.status_of(b"GET /healthz HTTP/1.0\r\n\r\n") == 421


# -- Pages of other sites -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"Origin": "http://localhost:8700"}, 202),
        ({"Origin": "https://localhost:8700"}, 202),
        ({"Origin": "http://localhost:9999"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 202),
        ({"Sec-Fetch-Site": "none"}, 202),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
        (
            {
                "Sec-Fetch-Site": "cross-site",
                "Sec-Fetch-Mode": "navigate",
                "Sec-Fetch-Dest": "document",
            },
            403,
        ),
    ],
)
async def test_what_a_page_of_another_site_posts_is_403(face, engine, headers, status):
    async with face.post(
        "/v1/invocations", json=JOB, headers={"Host": "localhost:8700", **headers}
    ) as response:
        if status == 403:
            await refused(response, 403)
        assert response.status == status
        assert not any(name.startswith("Access-Control") for name in response.headers)
    assert len(engine.invocations) == (status == 202)


async def test_a_link_from_another_site_may_be_followed_but_not_framed(face):
    navigation = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    for place, status in (("document", 200), ("iframe", 403), ("embed", 403)):
        async with face.get(
            "/healthz", headers={**navigation, "Sec-Fetch-Dest": place}
        ) as response:
            assert response.status == status


async def test_a_preflight_gets_no_leave(face):
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    async with face.options("/v1/invocations", headers=headers) as response:
        await refused(response, 403)


# -- Tokens ---------------------------------------------------------------------------------------

FIRST, SECOND = "first-token-0123456789", "second-token-0123456789"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"{FIRST}\n\n  {SECOND}  \n")
    return path


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {FIRST}", 200),
        (f"bearer  {SECOND}", 200),
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        (f"Bearer {FIRST[:-1]}", 401),
        (f"Bearer {FIRST}x", 401),
        (f"Bearer {FIRST} {SECOND}", 401),
        (f"Basic {FIRST}", 401),
        (FIRST, 401),
        ("Bearer é\udcff", 401),
    ],
)
async def test_a_token_of_the_file_is_needed(token_file, authorization, status):
    async with serving(token_file=str(token_file)) as site:
        wire = await site.wire()
        lines = "" if authorization is None else f"Authorization: {authorization}\r\n"
        head = f"GET /v1/accounts HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n"
        wire.say(head.encode("utf-8", "surrogateescape"))
        answer, headers, body = await wire.answer()
        assert answer == status
        if status == 401:
            assert headers["www-authenticate"] == 'Bearer realm="dispatcher"'
            assert b"unauthorized" in body


async def test_probes_need_no_token_but_everything_else_does(token_file):
    async with serving(token_file=str(token_file)) as site:
        wire = await site.wire()
        for target, status in (
            (b"/healthz", 200),
            (b"/readyz", 200),
            (b"/openapi.json", 401),
            (b"/nowhere", 401),
            (b"/healthz/../v1/accounts", 401),
            (b"/v1/accounts", 401),
        ):
            assert await wire.status_of(request(target, "Host: localhost")) == status


async def test_over_a_unix_socket_the_rights_of_the_file_are_enough(token_file, socket_dir):
    listen = f"unix:{socket_dir}/s"
    async with serving(listen=listen, token_file=str(token_file)) as site:
        wire = await site.wire()
        assert await wire.status_of(request(b"/v1/accounts", "Host: localhost")) == 200
        assert await wire.status_of(request(b"/v1/accounts", "Host: evil.example")) == 421


async def test_a_reload_takes_new_tokens_and_keeps_the_old_ones_if_it_fails(token_file):
    server = ServerSettings(token_file=str(token_file))
    app = make_app(FakeEngine(), server)
    async with Listener(app, ["127.0.0.1:0"]) as listener, aiohttp.ClientSession() as session:

        async def status(token: str) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            url = f"http://{listener.addresses[0]}/v1/accounts"
            async with session.get(url, headers=headers) as response:
                return response.status

        token_file.write_text("third-token-0123456789\n")
        assert await status(FIRST) == 200
        await app.access.reload(server)
        assert await status(FIRST) == 401
        assert await status("third-token-0123456789") == 200
        for spoil in (lambda: token_file.write_text(" \n"), token_file.unlink):
            spoil()
            with pytest.raises(ConfigError, match=r"server\.token_file"):
                await app.access.reload(server)
            assert await status("third-token-0123456789") == 200


async def test_a_reload_takes_new_hosts():
    access = Access(ServerSettings())
    assert access._serves("localhost:8700")
    await access.reload(ServerSettings(hosts=("sidecar",)))
    assert access._serves("sidecar:8700")
    assert not access._serves("localhost:8700")


async def test_without_the_token_file_nothing_opens(tmp_path):
    app = make_app(FakeEngine(), ServerSettings(token_file=str(tmp_path / "none")))
    listener = Listener(app, ["127.0.0.1:0"])
    with pytest.raises(ConfigError, match=r"server\.token_file"):
        await listener.open()
    assert listener.addresses == ()


async def test_every_token_is_compared_whichever_fits(token_file, monkeypatch):
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return one == other

    server = ServerSettings(token_file=str(token_file))
    access = Access(server)
    await access.reload(server)
    monkeypatch.setattr("dispatcher.web.access.hmac.compare_digest", compare)
    assert access._knows(f"Bearer {FIRST}")
    assert len(compared) == 2


def test_the_metrics_listener_is_found_by_any_address_but_by_no_other_name():
    access = Access(ServerSettings(), any_address=True)
    for host in ("10.1.2.3:8701", "[fd00::1]:8701", "127.0.0.1", "localhost"):
        assert access._serves(host), host
    for host in ("evil.example", "10.1.2.3.evil.example", ""):
        assert not access._serves(host), host
    assert not Access(ServerSettings())._serves("10.1.2.3")


# -- Users of this machine ------------------------------------------------------------------------


async def test_only_users_that_are_named_come_by_the_unix_socket(socket_dir, monkeypatch):
    us = os.geteuid()
    get = request(b"/v1/accounts", "Host: localhost")
    monkeypatch.setattr("dispatcher.web.access.os.geteuid", lambda: us + 1)
    async with serving(listen=f"unix:{socket_dir}/s", unix_uids=(us + 2, us + 3)) as site:
        wire = await site.wire()
        wire.say(get)
        status, _, body = await wire.answer()
        assert (status, b"forbidden" in body) == (403, True)
        assert await wire.status_of(request(b"/healthz", "Host: localhost")) == 403
    async with serving(listen=f"unix:{socket_dir}/s", unix_uids=(us + 2, us)) as site:
        assert await (await site.wire()).status_of(get) == 200


async def test_our_own_user_needs_no_mention(socket_dir):
    async with serving(listen=f"unix:{socket_dir}/s", unix_uids=(os.geteuid() + 1,)) as site:
        assert await (await site.wire()).status_of(GET) == 200


async def test_users_are_not_asked_for_on_tcp():
    async with serving(unix_uids=(os.geteuid() + 1,)) as site:
        assert await (await site.wire()).status_of(GET) == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.real_time
async def test_the_kernel_tells_who_it_is(socket_dir):
    """Another user's process, which the rights of the file would let in, is kept out."""
    ask = (
        "import http.client as h, os, socket, sys; c = h.HTTPConnection('localhost'); "
        "os.setuid(12345); "
        "c.sock = socket.socket(socket.AF_UNIX); c.sock.connect(sys.argv[1]); "
        "c.request('GET', '/healthz'); print(c.getresponse().status)"
    )
    # Not in the checkout, whose folders other users may not enter.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="") as folder:
        path = Path(folder) / "s"
        os.chmod(folder, 0o755)  # noqa: PTH101 -- a path object would be asked in a loop
        for uids, status in (((12345,), b"200\n"), ((12346,), b"403\n"), ((), b"200\n")):
            async with serving(listen=f"unix:{path}", unix_uids=uids):
                os.chmod(path, 0o666)  # noqa: PTH101
                done = await anyio.run_process([sys.executable, "-I", "-c", ask, str(path)])
                assert done.stdout == status, uids


async def test_users_change_with_a_reload(socket_dir, monkeypatch):
    us = os.geteuid()
    monkeypatch.setattr("dispatcher.web.access.os.geteuid", lambda: us + 1)
    app = make_app(FakeEngine(), ServerSettings())
    async with Listener(app, [f"unix:{socket_dir}/s"]) as listener:
        connector = aiohttp.UnixConnector(listener.addresses[0].removeprefix("unix:"))
        async with aiohttp.ClientSession("http://localhost", connector=connector) as session:
            for uids, status in (((), 200), ((us + 2,), 403), ((us,), 200)):
                await app.access.reload(ServerSettings(unix_uids=uids))
                async with session.get("/healthz") as answer:
                    assert answer.status == status
