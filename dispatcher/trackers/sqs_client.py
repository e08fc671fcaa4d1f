"""
The SQS client of one account: aiobotocore's, opened with the account's own credentials.

It is opened anew when the credentials have changed. Whatever blocks (the import, the models, the
chain of credential sources) runs in a thread.
"""

import asyncio
import contextlib
import importlib
import importlib.util
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, NamedTuple, Protocol

import anyio
import anyio.to_thread
from yarl import URL

from dispatcher.config import AccountSettings, EnvCredentials, StaticCredentials, secret
from dispatcher.errors import ConfigError, DispatcherError

WAIT_S: Final = 20
"""Seconds of a long poll: the most that SQS allows."""
READ_MAX_S: Final = WAIT_S + 10.0
CONNECT_MAX_S: Final = 5.0
CONNECTIONS_MAX: Final = 32
KEYS_ASKED_EVERY_S: Final = 60.0
KEYS_RENEWED_EVERY_S: Final = 10.0
"""How often a refusal by SQS may make the sources be asked."""

Response = Mapping[str, Any]


class SqsClient(Protocol):
    """The calls of an aiobotocore SQS client that are made here."""

    async def receive_message(
        self,
        *,
        QueueUrl: str,  # noqa: N803 -- SQS' own names
        MaxNumberOfMessages: int,  # noqa: N803
        WaitTimeSeconds: int,  # noqa: N803
        VisibilityTimeout: int,  # noqa: N803
    ) -> Response:
        """Take messages."""
        ...

    async def delete_message_batch(
        self,
        *,
        QueueUrl: str,  # noqa: N803
        Entries: Sequence[Mapping[str, str]],  # noqa: N803
    ) -> Response:
        """Delete up to ten messages."""
        ...

    async def change_message_visibility_batch(
        self,
        *,
        QueueUrl: str,  # noqa: N803
        Entries: Sequence[Mapping[str, str | int]],  # noqa: N803
    ) -> Response:
        """Set when up to ten messages show again."""
        ...


class Clients(Protocol):
    """Lends a client."""

    def lend(self) -> AbstractAsyncContextManager[SqsClient]:
        """Lend a client for one call; raises whatever keeps it from being opened."""
        ...

    def refused(self) -> None:
        """Take note that SQS refused the credentials."""
        ...

    async def aclose(self) -> None:
        """Close what is open."""
        ...


class _Keys(NamedTuple):
    access_key_id: str
    access_key_secret: str
    session_token: str | None

    def __repr__(self) -> str:
        return f"_Keys({self.access_key_id!r})"


LoadKeys = Callable[[], Awaitable[_Keys]]


class _Lent:
    """An open client and how many calls use it."""

    def __init__(self, client: SqsClient, stack: contextlib.AsyncExitStack) -> None:
        self.client = client
        self.users = 0
        self._stack = stack

    async def aclose(self) -> None:
        await self._stack.aclose()


class SqsClients:
    """Keeps a client for the host of a queue open."""

    def __init__(self, account: AccountSettings, *, name: str) -> None:
        """Open nothing yet. Raises `ConfigError` if aiobotocore is not installed."""
        assert account.completion_queue is not None, account.account_id
        if importlib.util.find_spec("aiobotocore") is None:
            problem = 'needs the extra "aws" of this package, which is not installed'
            raise ConfigError([(f"accounts.{name}.completion_queue", problem)])
        # Not the host that SQS has in that region: the queue may be behind a VPC endpoint.
        self._endpoint = str(URL(account.completion_queue).origin())
        self._region = account.region
        self._session: Any = None
        self._load_keys = _keys_of(account)
        self._keys: _Keys | None = None
        self._asked_at = float("-inf")
        self._current: _Lent | None = None
        self._opening = anyio.Lock()

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[SqsClient]:
        """Lend a client for one call."""
        async with self._opening:
            lent = await self._up_to_date()
            lent.users += 1
        try:
            yield lent.client
        finally:
            lent.users -= 1
            if lent is not self._current and lent.users == 0:
                with anyio.CancelScope(shield=True):
                    await lent.aclose()

    def refused(self) -> None:
        """Have the sources of credentials asked before the next call, but not all the time."""
        self._asked_at = min(
            self._asked_at, anyio.current_time() - KEYS_ASKED_EVERY_S + KEYS_RENEWED_EVERY_S
        )

    async def aclose(self) -> None:
        """Close the client; calls that use it fail."""
        lent, self._current = self._current, None
        if lent is not None:
            await lent.aclose()

    async def _up_to_date(self) -> _Lent:
        now = anyio.current_time()
        if self._keys is None or now >= self._asked_at + KEYS_ASKED_EVERY_S:
            keys = await self._load_keys()
            self._asked_at = now
            if keys != self._keys:
                self._keys = keys
                former, self._current = self._current, None
                if former is not None and former.users == 0:
                    await former.aclose()
        if self._current is None:
            self._current = await self._open(self._keys)
        return self._current

    async def _open(self, keys: _Keys) -> _Lent:
        if self._session is None:
            self._session = await anyio.to_thread.run_sync(_new_session)
        config = importlib.import_module("aiobotocore.config").AioConfig(
            connect_timeout=CONNECT_MAX_S,
            read_timeout=READ_MAX_S,
            max_pool_connections=CONNECTIONS_MAX,
            parameter_validation=False,
            # Whoever calls has patience and a schedule of his own.
            retries={"mode": "standard", "total_max_attempts": 1},
            warm_up_loader_caches=True,
        )
        stack = contextlib.AsyncExitStack()
        client = await stack.enter_async_context(
            self._session.create_client(
                "sqs",
                region_name=self._region,
                endpoint_url=self._endpoint,
                config=config,
                aws_access_key_id=keys.access_key_id,
                aws_secret_access_key=keys.access_key_secret,
                aws_session_token=keys.session_token,
            )
        )
        return _Lent(client, stack)


def _new_session() -> Any:
    session = importlib.import_module("aiobotocore.session").get_session()
    _ = session.full_config  # reads the files of the profile, once
    return session


# -- Credentials ----------------------------------------------------------------------------------


def _keys_of(account: AccountSettings) -> LoadKeys:
    """Return what loads the account's keys as they are now."""
    match account.credentials:
        case StaticCredentials() as static:

            async def load() -> _Keys:
                return await anyio.to_thread.run_sync(_static_keys, static)

        case EnvCredentials():

            async def load() -> _Keys:
                return _environment_keys()

        case _:
            load = _Chain().keys

    return load


def _static_keys(settings: StaticCredentials) -> _Keys:
    token = settings.security_token_file
    return _Keys(
        settings.access_key_id,
        secret(settings.access_key_secret_file),
        None if token is None else secret(token) or None,
    )


def _environment_keys() -> _Keys:
    try:
        return _Keys(
            os.environ["AWS_ACCESS_KEY_ID"],
            os.environ["AWS_SECRET_ACCESS_KEY"],
            os.environ.get("AWS_SESSION_TOKEN") or None,
        )
    except KeyError as error:
        raise DispatcherError(f"the environment variable {error.args[0]} is not set") from error


class _Chain:
    """
    aiobotocore's own chain of sources.

    It is asynchronous but reads files as it goes, so that each question gets a short-lived loop
    in a thread. It refreshes by itself 15 minutes before what it has expires.
    """

    def __init__(self) -> None:
        self._credentials: Any = None

    async def keys(self) -> _Keys:
        """Return what the chain gives now."""
        in_thread = anyio.to_thread.run_sync
        module = await in_thread(importlib.import_module, "aiobotocore.session")
        if self._credentials is None:
            credentials = module.get_session().get_credentials()
            self._credentials = await in_thread(asyncio.run, credentials)
        if self._credentials is None:
            raise DispatcherError("no source of the AWS chain has any credentials")
        frozen = await in_thread(asyncio.run, self._credentials.get_frozen_credentials())
        return _Keys(frozen.access_key, frozen.secret_key, frozen.token or None)
