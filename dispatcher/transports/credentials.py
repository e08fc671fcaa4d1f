"""
The keys of one account: read in the background, published as one immutable tuple.

A send takes the tuple and never waits for a refresh, with one exception: when the cloud has
refused the keys, one refresh is forced, and all sends that were refused wait for that one.
Whatever blocks (files, imports, the providers' own chains) runs in a thread.
"""

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, Protocol, TypeVar, TypeVarTuple

import msgspec

from dispatcher.config import StaticCredentials, secret
from dispatcher.core.model import Denied, Failure
from dispatcher.errors import DispatcherError

logger = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

FIRST_LOAD_MAX_S: Final = 10.0
"""How long opening an account waits for its keys; they may come later as well."""
LOAD_MAX_S: Final = 60.0
POLL_S: Final = 60.0
"""
How often a source is asked. Both providers' chains give what they have until 15 minutes before
it expires, so that asking is cheap and a refresh comes early enough.
"""
PAUSE_BASE_S: Final = 5.0
"""The pause after a first failure; it doubles up to `POLL_S`."""
RENEWAL_EVERY_S: Final = 30.0
"""How often the cloud's refusals may force a refresh; less often while it brings nothing new."""
RENEWAL_EVERY_MAX_S: Final = 300.0
RENEWAL_MAX_S: Final = 10.0
"""How long a refused send waits for it."""


class Keys(NamedTuple):
    """What signs a request. Never shows its secrets."""

    access_key_id: str
    access_key_secret: str
    security_token: str | None = None

    def __repr__(self) -> str:
        """Name the key, which is no secret."""
        return f"Keys({self.access_key_id!r})"


class CredentialsError(DispatcherError):
    """A source of credentials has none, or cannot be asked."""


class InThread(Protocol):
    """Runs something that blocks."""

    async def __call__(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Return what *function* returns."""
        ...


class Source(Protocol):
    """Where keys come from."""

    async def load(self, in_thread: InThread, *, renew: bool) -> Keys:
        """
        Return the keys that hold now; with *renew* do not trust anything remembered.

        Raises `CredentialsError`, or whatever a provider's chain raises. May be called from
        one task only.
        """
        ...


class StaticSource:
    """Files that the configuration names; read again, so that they can be replaced."""

    def __init__(self, settings: StaticCredentials) -> None:
        self._settings = settings

    async def load(self, in_thread: InThread, *, renew: bool) -> Keys:  # noqa: ARG002 -- never remembers
        """Read the files."""
        return await in_thread(self._read)

    def _read(self) -> Keys:
        settings = self._settings
        token = settings.security_token_file
        return Keys(
            settings.access_key_id,
            secret(settings.access_key_secret_file),
            None if token is None else secret(token),
        )


class EnvironmentSource:
    """Environment variables and nothing else; of several names the first that is set."""

    def __init__(self, key_id: str, key_secret: str, tokens: tuple[str, ...]) -> None:
        self._key_id = key_id
        self._key_secret = key_secret
        self._tokens = tokens

    async def load(self, in_thread: InThread, *, renew: bool) -> Keys:  # noqa: ARG002 -- never remembers
        """Look at the environment as it is now."""
        for name in (self._key_id, self._key_secret):
            if not os.environ.get(name):
                raise CredentialsError(f"the environment variable {name} is not set")
        tokens = (os.environ.get(name) for name in self._tokens)
        return Keys(
            os.environ[self._key_id],
            os.environ[self._key_secret],
            next((token for token in tokens if token), None),
        )


class Keyring:
    """Keeps the keys of one account fresh. Owns one task and the threads that it uses."""

    def __init__(self, source: Source, *, name: str) -> None:
        """Keep nothing yet; *name* is the account's, for the log."""
        self._source = source
        self._name = name
        self._keys: Keys | None = None
        self._problem = "they have not been read yet"
        self._failures = 0
        self._tried = asyncio.Event()
        self._asked = asyncio.Event()
        self._renewal: asyncio.Event | None = None
        self._renewable_at = float("-inf")
        self._renewal_every_s = RENEWAL_EVERY_S
        self._task: asyncio.Task[None] | None = None
        # Two, so that one hanging call does not keep all later ones from being made.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix=f"credentials of {name}")

    async def open(self) -> None:
        """
        Begin to keep keys, and wait a while for the first ones.

        An account without any can be opened all the same: what it sends is `Denied` until a
        source gives keys.
        """
        assert self._task is None, self._name
        self._task = asyncio.create_task(self._keep(), name=f"credentials of {self._name}")
        try:
            async with asyncio.timeout(FIRST_LOAD_MAX_S):
                await self._tried.wait()
        except TimeoutError:
            logger.warning(
                "credentials_late: account %s: the credentials are slow to come", self._name
            )

    async def aclose(self) -> None:
        """Stop; sends that wait for keys are let go."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def signed(self, attempt: Callable[[Keys], Awaitable[T]]) -> T | Denied:
        """
        Make an attempt with the keys, and another one with fresh keys if it gives `Denied`.

        Gives `Denied` without any attempt while there are no keys.
        """
        keys = self._keys
        if keys is None:
            return Denied(Failure("no_credentials", f"no credentials: {self._problem}"))
        outcome = await attempt(keys)
        if not isinstance(outcome, Denied):
            return outcome
        fresh = await self._renewed(keys)
        if fresh is not None:
            keys, outcome = fresh, await attempt(fresh)
        return _without(keys, outcome) if isinstance(outcome, Denied) else outcome

    async def _renewed(self, refused: Keys) -> Keys | None:
        """Return keys other than *refused* to try again with, None where that makes no sense."""
        if self._keys is refused:
            now = asyncio.get_running_loop().time()
            if self._renewal is None:
                if now < self._renewable_at:
                    return None
                self._renewable_at = now + self._renewal_every_s
                self._renewal = asyncio.Event()
                self._asked.set()
            try:
                async with asyncio.timeout(RENEWAL_MAX_S):
                    await self._renewal.wait()
            except TimeoutError:
                return None
        return None if self._keys is refused else self._keys

    async def _keep(self) -> None:
        try:
            while True:
                renewal = self._renewal
                await self._load(renew=renewal is not None)
                self._tried.set()
                if renewal is not None:
                    self._renewal = None
                    renewal.set()
                # A renewal that was asked for during the load must not wait for the next one.
                if self._renewal is None:
                    await self._pause()
        finally:
            if self._renewal is not None:
                self._renewal.set()

    async def _load(self, *, renew: bool) -> None:
        try:
            async with asyncio.timeout(LOAD_MAX_S):
                keys = _usable(await self._source.load(self._in_thread, renew=renew))
        except Exception as error:  # noqa: BLE001 -- the chains raise what they like
            self._failures += 1
            kind = "" if isinstance(error, DispatcherError) else f"{type(error).__name__}: "
            self._problem = harmless(f"{kind}{error}")
            logger.warning(
                "credentials_failed: account %s: cannot get credentials (failure %d): %s",
                self._name,
                self._failures,
                self._problem,
            )
            return
        if self._failures or self._keys is None:
            logger.info(
                "credentials: account %s: credentials of key %s", self._name, keys.access_key_id
            )
        self._failures = 0
        if keys != self._keys:
            self._renewal_every_s = RENEWAL_EVERY_S
        elif renew:
            self._renewal_every_s = min(2 * self._renewal_every_s, RENEWAL_EVERY_MAX_S)
        # After a renewal equal keys are worth one more try as well (a key that has only just
        # been made is not known everywhere at once), so that they count as other keys.
        if renew or keys != self._keys:
            self._keys = Keys(*keys)

    async def _pause(self) -> None:
        failures = min(self._failures, 10)
        pause_s = min(POLL_S, PAUSE_BASE_S * 2.0 ** (failures - 1)) if failures else POLL_S
        self._asked.clear()
        try:
            async with asyncio.timeout(pause_s):
                await self._asked.wait()
        except TimeoutError:
            pass

    async def _in_thread(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)


def _usable(keys: Keys) -> Keys:
    """Return *keys* if a request can bear them. Raises `CredentialsError`."""
    for part in keys:
        if part is not None and not (part and part.isascii() and part.isprintable()):
            raise CredentialsError("the keys that were found are empty, or no printable ASCII")
    return keys


def _without(keys: Keys, denied: Denied) -> Denied:
    failure = denied.failure
    message = harmless(failure.message, keys.access_key_secret, keys.security_token)
    return Denied(msgspec.structs.replace(failure, message=message))


# `"SecurityToken": "..."`, `secret=...`; not `/run/secrets/token: No such file`.
_SECRET = re.compile(
    r"""((?:secret|token|signature|password)\w*(?:["']\s*:|\s*=)\s*["']?)[^\s"',;&}]+""",
    re.IGNORECASE,
)


def harmless(text: str, *secrets: str | None) -> str:
    """
    Return the first line of *text*, shortened, without what could be a secret.

    Clouds quote the canonical request, session token included, when a signature is wrong; the
    chains quote whole replies of metadata services.
    """
    line = text.strip().partition("\n")[0]
    for word in sorted(filter(None, secrets), key=len, reverse=True):
        line = line.replace(word, "***")
    return _SECRET.sub(r"\1***", line)[:500]
