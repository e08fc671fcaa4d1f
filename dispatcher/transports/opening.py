"""Opens the transport of an account, with the keys that its configuration names."""

import asyncio
import importlib
from typing import Final

from dispatcher.config import AccountSettings, DefaultCredentials, StaticCredentials
from dispatcher.core.model import Provider
from dispatcher.errors import ConfigError
from dispatcher.transports import aliyun_credentials, aws_credentials
from dispatcher.transports.aliyun_fc import FcTransport
from dispatcher.transports.aws_lambda import LambdaTransport
from dispatcher.transports.credentials import Keyring, Source, StaticSource

_EXTRAS: Final = {
    Provider.AWS_LAMBDA: ("aws", "aiobotocore.session"),
    Provider.ALIYUN_FC: ("aliyun", "alibabacloud_credentials.provider"),
}


async def open_transport(account: AccountSettings, *, name: str) -> LambdaTransport | FcTransport:
    """
    Open the transport of one account; whoever opens it closes it.

    Waits a few seconds for the account's keys. Without any it opens all the same and says so in
    the log: its sends are `Denied` until there are keys. *name* is the account's name in the
    configuration. Raises `ConfigError` where a needed extra is not installed.
    """
    keyring = Keyring(await _source(account, name), name=name)
    try:
        await keyring.open()
        kind = LambdaTransport if account.provider is Provider.AWS_LAMBDA else FcTransport
        return kind(account, keyring)
    except BaseException:
        await keyring.aclose()
        raise


async def _source(account: AccountSettings, name: str) -> Source:
    aws = account.provider is Provider.AWS_LAMBDA
    match account.credentials:
        case StaticCredentials() as settings:
            return StaticSource(settings)
        case DefaultCredentials():
            await _import_extra(account.provider, name)
            return aws_credentials.AwsChain() if aws else aliyun_credentials.AliyunChain()
        case _:
            return aws_credentials.environment() if aws else aliyun_credentials.environment()


async def _import_extra(provider: Provider, name: str) -> None:
    extra, module = _EXTRAS[provider]
    try:
        # In a thread, since it takes a good part of a second.
        await asyncio.to_thread(importlib.import_module, module)
    except ImportError as error:
        problem = (
            f"the provider's own chain needs the extra {extra!r} of this package ({error}); "
            'install it, or set source = "env" or "static"'
        )
        raise ConfigError([(f"accounts.{name}.credentials", problem)]) from error
