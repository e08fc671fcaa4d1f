"""
Who may use the drop-in endpoints: the local keys of `[clients]`, each with its account and tenant.

Without any clients, whoever is on this machine may, unverified. What is verified cannot be sent
a second time by somebody who has listened.
"""

import asyncio
import hashlib
import ipaddress
import time
from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from dispatcher.config import AccountSettings, ClientSettings, Settings, secret
from dispatcher.core.canonical import SIGV4
from dispatcher.core.model import Provider
from dispatcher.errors import ConfigError
from dispatcher.web.request import Request
from dispatcher.web.signatures import (
    FC,
    SKEW_MAX_S,
    Claim,
    Fault,
    Head,
    Unproved,
    claim,
    head,
    prove,
)

REPEATS_MAX: Final = 262_144
"""Requests that are remembered so that they cannot be repeated; beyond it the oldest goes."""
SAME_SECOND_S: Final = 2.0
"""How long after it was signed a request comes that is no repeat of another one's."""
WAIT_MAX_S: Final = 20.0
"""How long a synchronous call waits for its turn where no client says so."""


class Client(Struct, frozen=True, kw_only=True):
    """Somebody who may call, and on whose behalf."""

    name: str
    account: str | None
    """None: unverified, so that the endpoint decides."""
    tenant: str = "default"
    sync_to_async: bool = False
    wait_max_s: float = WAIT_MAX_S
    """How long a synchronous call may wait for its turn."""


class Clients:
    """The clients in force."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        """*clock* gives the Unix time to judge signatures by."""
        self._clock = clock
        self._by_key: Mapping[str, tuple[Client, str]] = {}
        self._repeats = Repeats()
        self.accounts: Mapping[str, AccountSettings] = {}

    @staticmethod
    async def read(settings: Settings) -> dict[str, tuple[Client, str]]:
        """Return the clients of *settings* by key, with their secrets. Raises `ConfigError`."""
        known = {}
        for name, client in settings.clients.items():
            try:
                text = await asyncio.to_thread(secret, client.access_key_secret_file)
            except ConfigError as error:
                where = f"clients.{name}.access_key_secret_file"
                raise ConfigError([(where, text) for _, text in error.problems]) from error
            known[client.access_key_id] = (_client(name, client), text)
        return known

    def take(self, settings: Settings, known: Mapping[str, tuple[Client, str]]) -> None:
        """Put what `read` gave in force, together with the accounts of *settings*."""
        self.accounts = settings.accounts
        self._by_key = known

    def anyone_of(self, request: Request) -> Client | None:
        """Return the client for unverified callers on this machine, None where keys are wanted."""
        if self._by_key:
            return None
        if not _is_local(request):
            raise Unproved(
                Fault.MISSING, "no [clients] are configured, so only this machine may call"
            )
        return Client(name="", account=None, wait_max_s=WAIT_MAX_S)

    def claim(self, request: Request, schemes: frozenset[str]) -> tuple[Head, Claim]:
        """Judge a request by its head. Raises `Unproved`."""
        whole = head(request.method, request.target, request.headers)
        claimed = claim(whole, schemes, self._clock())
        if claimed.signer.access_key_id not in self._by_key:
            raise Unproved(Fault.UNKNOWN_KEY, "the access key id is not one of [clients]")
        return whole, claimed

    def prove(self, request: Head, claimed: Claim, body: bytes) -> Client:
        """Return who sent the request, now that it is there. Raises `Unproved`. In any thread."""
        entry = self._by_key.get(claimed.signer.access_key_id)
        if entry is None:  # taken away while the body was on its way
            raise Unproved(Fault.UNKNOWN_KEY, "the access key id is not one of [clients]")
        client, secret_text = entry
        prove(request, claimed, secret_text, hashlib.sha256(body).hexdigest(), body)
        return client

    def once(self, request: Head, claimed: Claim, asked: Request) -> None:
        """
        Refuse a request, which came as *asked*, that was let in before. Raises `Unproved`.

        `FC` signatures have neither a nonce nor, often, the body in them: two of one second
        may well be two calls. So may two that are signed by an SDK without ids; but who repeats
        them must have heard them, which nobody can on this machine.
        """
        if claimed.scheme == FC:
            return
        identity, sdk_id = claimed.signature, ""
        if claimed.scheme == SIGV4:
            # Not signed by every SDK, and all that tells two equal calls of one second apart.
            sdk_id = request.headers.get("amz-sdk-invocation-id", "")
            identity += f" {sdk_id} {request.headers.get('amz-sdk-request', '')}"
        now_s, keep_s = self._clock(), 2 * SKEW_MAX_S[claimed.scheme]
        if self._repeats.is_new(identity, now_s, keep_s):
            return
        may_be_another = claimed.scheme == SIGV4 and not sdk_id and _is_local(asked)
        if not (may_be_another and abs(now_s - claimed.signed_at_s) < SAME_SECOND_S):
            raise Unproved(Fault.REPEATED, "this very request was sent before")


class Repeats:
    """What was let in lately, in bounded room."""

    def __init__(self, entries_max: int = REPEATS_MAX) -> None:
        self._max = entries_max
        self._until: dict[bytes, float] = {}

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._until)

    def is_new(self, identity: str, now_s: float, keep_s: float) -> bool:
        """Tell whether *identity* was not seen in its time; remember it for *keep_s*."""
        key = hashlib.blake2b(identity.encode("utf-8", "replace"), digest_size=12).digest()
        until = self._until
        if until.get(key, now_s) > now_s:
            return False
        until.pop(key, None)
        # In the order of arrival; a few that are kept for longer hold up the others, no more.
        while until and (len(until) >= self._max or next(iter(until.values())) <= now_s):
            del until[next(iter(until))]
        until[key] = now_s + keep_s
        return True


def only_account(
    accounts: Mapping[str, AccountSettings],
    provider: Provider,
    account_id: str | None = None,
    region: str | None = None,
) -> str | None:
    """Return the one account of *provider* that a caller without a key can mean."""
    own = [name for name, each in accounts.items() if each.provider is provider]
    if len(own) > 1:
        own = [
            name
            for name in own
            if account_id in (None, "", accounts[name].account_id)
            and region in (None, "", accounts[name].region)
        ]
    return own[0] if len(own) == 1 else None


def _client(name: str, settings: ClientSettings) -> Client:
    return Client(
        name=name,
        account=settings.account,
        tenant=settings.tenant,
        sync_to_async=settings.sync_to_async,
        wait_max_s=settings.wait_max_s,
    )


def _is_local(request: Request) -> bool:
    peer = request.connection.peer
    if not isinstance(peer, tuple):
        return True  # a Unix socket
    address = ipaddress.ip_address(peer[0].partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
