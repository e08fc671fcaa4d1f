"""The credential chain of Alibaba Cloud, as alibabacloud-credentials has it."""

import logging
from collections.abc import Iterator
from typing import Any

from dispatcher.transports.credentials import CredentialsError, EnvironmentSource, InThread, Keys


def environment() -> EnvironmentSource:
    """Return the environment variables that all Alibaba Cloud SDKs read."""
    return EnvironmentSource(
        "ALIBABA_CLOUD_ACCESS_KEY_ID",
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET",
        ("ALIBABA_CLOUD_SECURITY_TOKEN",),
    )


class AliyunChain:
    """
    The SDK's default chain, asked in a thread.

    Its asynchronous face takes a thread lock on the loop and can freeze it for seconds. Its
    `DefaultCredentialsProvider` starts a thread for good each time one is made, so that it could
    not be made anew when keys are refused; the same providers are asked here in the same order.
    """

    def __init__(self) -> None:
        self._provider: Any = None
        self._fixed = False

    async def load(self, in_thread: InThread, *, renew: bool) -> Keys:
        """Ask the chain. It refreshes by itself 15 minutes before what it has expires."""
        return await in_thread(self._load, renew)

    def _load(self, renew: bool) -> Keys:  # noqa: FBT001 -- called through in_thread only
        if self._provider is not None and (self._fixed or not renew):
            return _keys(self._provider.get_credentials())
        problems = []
        for provider in chain():
            try:
                keys = _keys(provider.get_credentials())
            except Exception as error:  # noqa: BLE001 -- each provider raises what it likes
                problems.append(f"{type(provider).__name__}: {error}")
                continue
            self._provider = provider
            # A profile of temporary keys may start that thread as well. What it holds expires
            # soon anyway, so that a profile is only read again when its key is a lasting one.
            self._fixed = "Profile" in type(provider).__name__ and bool(keys.security_token)
            return keys
        raise CredentialsError("; ".join(problems).replace("\n", " "))


def chain() -> Iterator[Any]:
    """Make the providers of the SDK's default chain, one after the other, in its order."""
    from alibabacloud_credentials import provider  # noqa: PLC0415 -- an extra, and slow to import
    from alibabacloud_credentials.utils import auth_util  # noqa: PLC0415

    # The SDK writes to stderr by itself; what it says goes through the root logger as well.
    logging.getLogger("credentials").handlers.clear()
    yield provider.EnvironmentVariableCredentialsProvider()
    if auth_util.enable_oidc_credential:
        yield provider.OIDCRoleArnCredentialsProvider()
    yield provider.CLIProfileCredentialsProvider()
    yield provider.ProfileCredentialsProvider()
    if auth_util.environment_ecs_metadata_disabled.lower() != "true":
        yield provider.EcsRamRoleCredentialsProvider(async_update_enabled=False)
    if auth_util.environment_credentials_uri:
        yield provider.URLCredentialsProvider()


def _keys(credentials: Any) -> Keys:
    keys = Keys(
        credentials.get_access_key_id() or "",
        credentials.get_access_key_secret() or "",
        credentials.get_security_token() or None,
    )
    if not keys.access_key_id or not keys.access_key_secret:
        raise CredentialsError("it gave a key without an id or a secret")
    return keys
