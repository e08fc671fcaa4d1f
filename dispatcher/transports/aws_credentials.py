"""The AWS credential chain as aiobotocore has it: every source that the SDKs know."""

import asyncio
import importlib
from typing import Any

from dispatcher.transports.credentials import CredentialsError, EnvironmentSource, InThread, Keys


def environment() -> EnvironmentSource:
    """Return the environment variables that all AWS SDKs read."""
    return EnvironmentSource(
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", ("AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")
    )


class AwsChain:
    """
    aiobotocore's own chain.

    It is asynchronous, but reads files and parses its models on the loop that it runs on, so
    each question gets a short-lived loop in a thread.
    """

    def __init__(self) -> None:
        self._credentials: Any = None

    async def load(self, in_thread: InThread, *, renew: bool) -> Keys:
        """Ask the chain. It refreshes by itself 15 minutes before what it has expires."""
        module = await in_thread(importlib.import_module, "aiobotocore.session")
        if self._credentials is None or renew:
            session = module.get_session()
            self._credentials = await in_thread(asyncio.run, session.get_credentials())
        if self._credentials is None:
            raise CredentialsError(
                "no source of the AWS chain has any (environment, profile, web identity, SSO, "
                "container, instance)"
            )
        frozen = await in_thread(asyncio.run, self._credentials.get_frozen_credentials())
        return Keys(frozen.access_key, frozen.secret_key, frozen.token or None)
