"""A sidecar under attack from all sides at once, and an honest client beside the attackers."""

import asyncio
import http.client
import json
import re
import statistics
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import sidecar
from tests.web.test_guard import GARBAGE, HEAD

CLOUD = """
[accounts.main]
provider = "aliyun-fc"
account_id = "1031234567890123"
region = "cn-shanghai"
quota = 20
unlisted = true
"""
CONFIG = """
[server]
listen = ["127.0.0.1:0"]
[metrics]
listen = ""
[accounts.main]
provider = "aliyun-fc"
account_id = "1031234567890123"
region = "cn-shanghai"
quota = 20
endpoint = "{cloud}"
credentials = {{ source = "static", access_key_id = "AK", access_key_secret_file = "secret" }}
[accounts.main.functions."*"]
completion = "duration"
duration_s = 0.05
"""
ATTACK_S = 3.0
#: More than the sidecar takes at the same time.
IDLE, SLOW = 480, 25
TOO_LARGE = HEAD + b"Content-Length: 1073741824\r\n\r\n" + b"x" * 65_536
ENDLESS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
#: One request that would be two for who read it otherwise: the second must never be answered as one.
SMUGGLED = (
    HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\nPOST /v1/accounts/main/pause HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
)
WRONG_HOST = b"GET /v1/accounts HTTP/1.1\r\nHost: evil.example\r\n\r\n"
BROKEN_LINES = (
    b"GET /v1/invocations/a%0d%0aX-Evil:%201 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /v1/accounts/main%0D%0A/pause HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
    b"GET /v1/accounts HTTP/1.1\r\nHost: localhost\r\nX: a\rb\r\n\r\n",
    *(
        b"POST /%b/functions/f%%0d%%0aevil/invocations HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Length: 2\r\n\r\n{}" % version
        for version in (b"2015-03-31", b"2023-03-30")
    ),
    *(
        HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
        for field in ("function", "tenant", "qualifier", "idempotency_key", "callback_url")
        for body in (
            json.dumps({"account": "main", "function": "f", field: "a\r\n{evil}"}).encode(),
        )
    ),
)


class Attack:
    """Those who attack one address."""

    def __init__(self, host: str, port: int) -> None:
        self._place = host, port
        self.answers: Counter[str] = Counter()
        """By kind of attack and status; `closed` where there was no answer."""
        self.texts: list[bytes] = []
        self.over = False

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self._place)

    async def idle(self) -> None:
        """Say nothing."""
        reader, writer = await self.open()
        try:
            await reader.read()
        finally:
            writer.transport.abort()

    async def trickle(self, start: bytes) -> None:
        """Say a little now and then."""
        _, writer = await self.open()
        try:
            writer.write(start)
            while not writer.transport.is_closing():
                await asyncio.sleep(0.5)
                writer.write(b"x")
        finally:
            writer.transport.abort()

    async def request(self, kind: str, text: bytes) -> None:
        """Make one request, and note what comes back."""
        reader, writer = await self.open()
        try:
            writer.write(text)
            # wait_for may lose a cancellation: then it would attack for ever.
            async with asyncio.timeout(30):
                said = await reader.read(65_536)
            status = re.match(rb"HTTP/1.1 (\d+)", said)
            self.answers[f"{kind} {status[1].decode() if status else 'closed'}"] += 1
            self.texts.append(said)
        finally:
            writer.transport.abort()

    async def pour(self) -> None:
        """Send a body that never ends."""
        reader, writer = await self.open()
        try:
            writer.write(ENDLESS)
            answer = asyncio.ensure_future(reader.read(65_536))
            while not answer.done():
                writer.write(CHUNK)
                await writer.drain()
                await asyncio.sleep(0)
            status = re.match(rb"HTTP/1.1 (\d+)", answer.result())
            self.answers[f"endless {status[1].decode() if status else 'closed'}"] += 1
        finally:
            writer.transport.abort()

    async def again(self, attack: Callable[[], Awaitable[None]]) -> None:
        """Attack, and attack again, until it is over: who is thrown out comes back."""
        while not self.over:
            with suppress(OSError, asyncio.IncompleteReadError):
                await attack()
            await asyncio.sleep(0.2)

    async def run(self) -> None:
        """Attack in every way until cancelled."""
        async with asyncio.TaskGroup() as attackers:

            def begin(count: int, attack: Callable[[], Awaitable[None]]) -> None:
                for _ in range(count):
                    attackers.create_task(self.again(attack))

            begin(IDLE, self.idle)
            begin(SLOW, lambda: self.trickle(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: "))
            begin(SLOW, lambda: self.trickle(HEAD + b"Content-Length: 100000\r\n\r\n{"))
            begin(1, self.pour)
            begin(1, lambda: self.request("too large", TOO_LARGE))
            begin(1, lambda: self.request("smuggled", SMUGGLED))
            begin(1, lambda: self.request("wrong host", WRONG_HOST))
            begin(1, self.all_garbage)
            begin(1, self.all_broken_lines)

    async def all_garbage(self) -> None:
        for text in GARBAGE.values():
            await self.request("garbage", text)

    async def all_broken_lines(self) -> None:
        for text in BROKEN_LINES:
            await self.request("broken lines", text)


class Honest(threading.Thread):
    """Enqueues one after the other, each over a connection of its own if *anew*."""

    def __init__(self, place: tuple[str, int], *, anew: bool) -> None:
        super().__init__()
        self._place = place
        self._anew = anew
        self.over = threading.Event()
        self.answers: Counter[str] = Counter()
        self.took_s: list[float] = []

    def run(self) -> None:
        """Work until it is over; an error is an answer as well."""
        body = json.dumps({"account": "main", "function": "f", "payload": {}})
        headers = {"Content-Type": "application/json"}
        connection = http.client.HTTPConnection(*self._place, timeout=60)
        while not self.over.wait(0.02):
            began = time.monotonic()
            try:
                connection.request("POST", "/v1/invocations", body, headers)
                with connection.getresponse() as reply:
                    reply.read()
                    self.answers[str(reply.status)] += 1
            except (OSError, http.client.HTTPException) as error:
                self.answers[repr(error)] += 1
                connection.close()
            self.took_s.append(time.monotonic() - began)
            if self._anew:
                connection.close()
        connection.close()


async def besiege(place: tuple[str, int]) -> Attack:
    """Attack for some time."""
    attack = Attack(*place)
    attacking = asyncio.create_task(attack.run())
    done, _ = await asyncio.wait([attacking], timeout=ATTACK_S)
    attack.over = True
    attacking.cancel()
    await asyncio.wait([attacking], timeout=30)
    for task in done:
        task.result()
    return attack


@pytest.mark.real_time
@pytest.mark.slow
def test_who_is_honest_loses_nothing_to_those_who_are_not(tmp_path: Path):
    with sidecar.cloud(tmp_path, CLOUD) as cloud:
        path = sidecar.write_config(tmp_path, CONFIG.format(cloud=cloud))
        with sidecar.Sidecar(path) as side:
            address = urlsplit(side.url)
            place = (address.hostname or "", address.port or 0)
            clients = [Honest(place, anew=anew) for anew in (False, True)]
            for client in clients:
                client.start()
            attack = asyncio.run(besiege(place))
            for client in clients:
                client.over.set()
                client.join()
            answers = sum((client.answers for client in clients), Counter())
            took_s = [one for client in clients for one in client.took_s]
            sent = sum(answers.values())
            print(
                f"\n{sent} honest requests, {answers['202']} accepted, median "
                f"{1000 * statistics.median(took_s):.0f} ms, most {1000 * max(took_s):.0f} ms; "
                f"attackers: {dict(sorted(attack.answers.items()))}"
            )
            # 0 loss: every single one was accepted.
            assert set(answers) == {"202"}
            assert all(sum(client.answers.values()) >= 2 for client in clients)
            refused = {
                "too large": {"413"},
                "endless": {"413", "closed"},
                "smuggled": {"400"},
                "wrong host": {"421"},
                "garbage": {"400", "421"},
                "broken lines": {"400", "403", "404", "422"},
            }
            for kind, statuses in refused.items():
                found = {word.rsplit(" ", 1)[1] for word in attack.answers if word.startswith(kind)}
                # Who gives way to others has no answer.
                assert found - {"closed"} <= statuses, (kind, found)
            for kind in ("too large", "smuggled", "wrong host", "garbage", "broken lines"):
                assert any(
                    word.startswith(kind) and "closed" not in word for word in attack.answers
                )
            assert not any(re.search(rb"(?mi)^X-Evil", text) for text in attack.texts)
            status, account = side.call("GET", "/v1/accounts/main")
            assert (status, account["paused"]) == (200, False)
            assert {*account["functions"]} <= {"f"}
            assert side.stop() == 0
            lines = side.text().splitlines()
            assert all(json.loads(line)["level"] in ("info", "warning") for line in lines), lines
            assert len(lines) < 50, "nobody can flood the log"
