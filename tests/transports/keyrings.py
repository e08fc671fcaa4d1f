"""Keys for transports whose keys are not what is tested."""

import asyncio
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

from dispatcher.transports.credentials import InThread, Keyring, Keys

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def in_thread(function: Callable[[*Ts], T], *args: *Ts) -> T:
    return await asyncio.to_thread(function, *args)


class FixedSource:
    """Always the same keys."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.renewals = 0

    async def load(self, in_thread: InThread, *, renew: bool) -> Keys:
        self.renewals += renew
        return self.keys


class FixedKeyring(Keyring):
    """Has its keys without having been opened."""

    def __init__(self, keys: Keys | None = None) -> None:
        keys = keys or Keys("AK", "secret")
        super().__init__(FixedSource(keys), name="test")
        self._keys = keys
