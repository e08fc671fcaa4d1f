"""
Tells callers of ends: one signed POST to the `callback_url` of an invocation that has ended.

A caller chooses the URL, so it is a caller who says where this process connects to. Hence only
https and hosts of the configuration; the name is resolved once, none of its addresses may be
private, and one of those very addresses is connected to; no redirects, no proxies, and of the
answer nothing but the status is read.

Best effort: a notice is tried `TRIES` times within some minutes and lives in memory, so what is
left when the process ends is lost. The journal has every end, for who asks.
"""

import asyncio
import contextlib
import hmac
import ipaddress
import json
import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import anyio
import anyio.to_thread
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from anyio.abc import TaskGroup

from dispatcher.config import CallbackSettings, secret
from dispatcher.core.intake import callback_flaw
from dispatcher.core.model import Notice
from dispatcher.errors import ConfigError

logger = logging.getLogger("dispatcher.notices")

TRY_MAX_S: Final = 5.0
"""From the look-up of the name to the status of the answer."""
PAUSES_S: Final = (1.0, 10.0, 60.0, 300.0)
"""Between tries; the last one follows the last pause."""
TRIES: Final = len(PAUSES_S) + 1
BODY_MAX_BYTES: Final = 65_536
"""A result that makes a notice larger is left out: it can be looked up."""
PENDING_MAX: Final = 10_000
"""Notices in memory; more are dropped, and counted."""
REQUESTS_MAX: Final = 32

#: Statuses that another try may change; others in the 400s are for good.
_PASSING: Final = frozenset({408, 425, 429})
#: What counts as global and yet is not the Internet: NAT64 (RFC 6052, RFC 8215), 6to4 and Teredo
#: stand for other addresses; in the last two clouds keep services of theirs, such as metadata.
_NOT_PUBLIC: Final = tuple(
    ipaddress.ip_network(each)
    for each in (
        *("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"),
        *("192.0.0.0/24", "168.63.129.16/32"),
    )
)


class Refused(OSError):
    """A place that must not be connected to."""


def is_public(address: str) -> bool:
    """Tell whether *address* is one of the public Internet: no private, local or metadata one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.scope_id is not None:
            return False
        if parsed.ipv4_mapped is not None:
            return is_public(str(parsed.ipv4_mapped))
    if any(parsed in network for network in _NOT_PUBLIC):
        return False
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


class PublicOnly(AbstractResolver):
    """
    Resolves names once for each connection, to public addresses only.

    One private address among several refuses the name: whoever answers so is playing tricks.
    """

    def __init__(self, allowed: Callable[[str], bool] = is_public) -> None:
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of *host*. Raises `Refused`, or what the look-up raises."""
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, family=family
        )
        if not found:
            raise Refused(f"{host} has no address")
        for _, _, _, _, address in found:
            if not self._allowed(str(address[0])):
                raise Refused(f"{host} is at {address[0]}, which is not a public address")
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        """Nothing is held."""


class Notices:
    """The notices that have yet to be delivered."""

    def __init__(
        self,
        callbacks: Callable[[], CallbackSettings],
        *,
        allowed: Callable[[str], bool] = is_public,
        tls: ssl.SSLContext | bool = True,
        pauses_s: tuple[float, ...] = PAUSES_S,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        """
        Ask *callbacks* for the configuration at each try.

        *allowed* judges addresses and *tls* certificates; the others are for tests as well.
        """
        self.counts: Counter[tuple[str, ...]] = Counter()
        """By account and result: `ok`, `failed`, `refused`, `dropped`."""
        self._callbacks = callbacks
        self._allowed = allowed
        self._tls = tls
        self._pauses_s = pauses_s
        self._wall_s = wall_s
        self._pending = 0
        self._first_tries = 0
        self._calm = anyio.Event()
        self._tasks: TaskGroup | None = None
        self._requests = anyio.Semaphore(REQUESTS_MAX)

    def tell(self, notice: Notice) -> None:
        """Deliver *notice* some time soon; never waits, never raises."""
        if self._tasks is None or self._pending >= PENDING_MAX:
            self.counts[notice.account, "dropped"] += 1
            return
        self._pending += 1
        self._first_tries += 1
        self._tasks.start_soon(self._deliver, notice, name=f"notice {notice.id}")

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Deliver until cancelled."""
        try:
            async with anyio.create_task_group() as self._tasks:
                task_status.started()
                await anyio.sleep_forever()
        finally:
            self._tasks = None

    async def first_tries(self) -> None:
        """Return once each notice has had its first try."""
        while self._first_tries:
            self._calm = anyio.Event()
            await self._calm.wait()

    async def _deliver(self, notice: Notice) -> None:
        result = "failed"
        try:
            for number in range(len(self._pauses_s) + 1):
                if number:
                    await anyio.sleep(self._pauses_s[number - 1])
                try:
                    result = await self._try(notice)
                finally:
                    if number == 0:
                        self._first_tries -= 1
                        self._calm.set()
                if result != "failed":
                    return
        finally:
            self._pending -= 1
            self.counts[notice.account, result] += 1

    async def _try(self, notice: Notice) -> str:
        """Try once; return what came of it."""
        callbacks = self._callbacks()
        flaw = callback_flaw(notice.url, callbacks.hosts)
        if flaw is not None or callbacks.secret_file is None:
            return self._refused(notice, flaw or "there is no callbacks.secret_file any more")
        async with self._requests:
            try:
                key = await anyio.to_thread.run_sync(secret, callbacks.secret_file)
                with anyio.fail_after(TRY_MAX_S):
                    status = await self._post(notice, key)
            except Refused as error:
                return self._refused(notice, str(error))
            except (aiohttp.ClientError, OSError, TimeoutError, ConfigError) as error:
                if isinstance(error.__cause__, Refused):
                    return self._refused(notice, str(error.__cause__))
                logger.info(
                    "notice_lost: %s: %s: %s",
                    notice.id,
                    type(error).__name__,
                    error,
                    extra=_whose(notice),
                )
                return "failed"
        if status < 300:
            return "ok"
        logger.info("notice_refused: %s: HTTP %d", notice.id, status, extra=_whose(notice))
        return "failed" if status >= 500 or status in _PASSING else "refused"

    def _refused(self, notice: Notice, why: str) -> str:
        logger.warning(
            "notice_refused: %s of account %s: %s",
            notice.id,
            notice.account,
            why,
            extra=_whose(notice),
        )
        return "refused"

    async def _post(self, notice: Notice, key: str) -> int:
        body = written(notice)
        host = urlsplit(notice.url).hostname or ""
        # aiohttp asks no resolver about what is an address already.
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(host)
            if not self._allowed(host):
                raise Refused(f"{host} is not a public address")
        connector = aiohttp.TCPConnector(
            resolver=PublicOnly(self._allowed), use_dns_cache=False, force_close=True, ssl=self._tls
        )
        async with (
            aiohttp.ClientSession(
                connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
            ) as session,
            session.post(
                notice.url,
                data=body,
                headers=signed(body, key, int(self._wall_s()), notice),
                allow_redirects=False,
            ) as reply,
        ):
            return reply.status


def written(notice: Notice) -> bytes:
    """Return the body: JSON, without the result where that would make it too large."""
    fields: dict[str, Any] = {
        "id": notice.id,
        "state": notice.state,
        "account": notice.account,
        "function": notice.function,
        "qualifier": notice.qualifier,
        "tenant": notice.tenant,
        "attempts": notice.attempt,
        "ended_at": _moment(notice.ended_ms),
        "request_id": notice.request_id,
        "estimated": notice.estimated,
    }
    if notice.failure is not None:
        fields["error"] = notice.failure
    bare = msgspec.json.encode(fields)
    if notice.result is None:
        return bare
    whole = msgspec.json.encode(fields | _shown(notice.result))
    if len(whole) <= BODY_MAX_BYTES:
        return whole
    return msgspec.json.encode(fields | {"result_omitted": True})


def _moment(ms: int) -> str:
    text = datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _shown(result: bytes) -> dict[str, Any]:
    try:
        json.loads(result.decode())
    except (ValueError, RecursionError):
        return {"result_base64": result}
    return {"result": msgspec.Raw(result)}


def signed(body: bytes, key: str, now_s: int, notice: Notice) -> dict[str, str]:
    """
    Return the headers that show who sent *body*, and when.

    The signature is the HMAC-SHA256 of the time, a dot and the body, in hex. A receiver compares
    it in constant time, and refuses times that are minutes away from its own.
    """
    message = b"%d.%b" % (now_s, body)
    return {
        "Content-Type": "application/json",
        "User-Agent": "dispatcher",
        "Dispatcher-Delivery": f"{notice.id}.{notice.attempt}.{notice.state}",
        "Dispatcher-Timestamp": str(now_s),
        "Dispatcher-Signature": "v1=" + hmac.digest(key.encode(), message, "sha256").hex(),
    }


def _whose(notice: Notice) -> dict[str, str]:
    """Return what a log line says of whose it is."""
    return {"invocation": notice.id, "account": notice.account}
