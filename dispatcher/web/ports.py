"""What the HTTP face asks of the engine, and nothing else of it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from dispatcher.config import Settings
from dispatcher.core.model import Completion, Invocation, Query, State
from dispatcher.core.views import Acceptance, AccountView, View
from dispatcher.errors import Rejected


class Ticket(Protocol):
    """An invocation that has been handed over."""

    async def accepted(self) -> Acceptance:
        """Wait until it is on disk. Raises `Rejected` or `JournalError`."""
        ...


class Engine(Protocol):
    """The calls of `dispatcher.engine.Engine` that requests are answered with."""

    @property
    def settings(self) -> Settings:
        """Return the configuration in force."""
        ...

    def enqueue(self, invocation: Invocation, *, source: str) -> Ticket:
        """Hand an invocation over, without waiting. Raises `Rejected`."""
        ...

    def batch(
        self, *, source: str
    ) -> AbstractContextManager[Callable[[Invocation], Ticket | Rejected]]:
        """
        Give what takes invocations one by one, each accepted or refused for itself.

        One commit keeps them when the body is over; if it fails, none is kept.
        """
        ...

    async def get(self, invocation_id: str) -> View:
        """Return one invocation. Raises `NotFound`."""
        ...

    async def find(
        self, query: Query, *, after: str | None = None, limit: int = 100
    ) -> tuple[list[View], str | None]:
        """Return a page of invocations and the cursor of the next page."""
        ...

    async def cancel(self, invocation_id: str) -> State:
        """Cancel it; CANCELLED: it is, RUNNING: it will be. Raises `NotPossible`, `NotFound`."""
        ...

    async def complete(
        self, completion: Completion, *, token: str | None = None, is_known: bool = True
    ) -> None:
        """
        Take the news of an end, again and again if need be. Raises `NotFound`, `NotAllowed`.

        *token* is the one that the function was offered; *is_known*: who tells needs none.
        """
        ...

    async def redrive(self, invocation_id: str) -> None:
        """Let a dead one wait again. Raises `NotPossible`, `NotFound`."""
        ...

    async def redrive_dead(self, query: Query) -> int:
        """Let all dead ones that fit wait again; return how many they are."""
        ...

    def accounts(self) -> list[AccountView]:
        """Return all accounts."""
        ...

    def account(self, name: str) -> AccountView:
        """Return one account. Raises `NotFound`."""
        ...

    def pause(self, account: str, function: str | None = None) -> None:
        """Send nothing of an account or a function until resumed. Raises `NotFound`."""
        ...

    def resume(self, account: str, function: str | None = None) -> None:
        """Send again. Raises `NotFound`."""
        ...

    async def durable(self) -> None:
        """Return once what was decided is on disk. Raises `JournalError`."""
        ...

    def adjust(self, account: str, changes: Mapping[str, Any]) -> None:
        """Change an account's rules by a merge patch until a reload. Raises `NotFound`, `Invalid`."""
        ...

    def not_ready(self) -> str | None:
        """Say why nothing can be accepted now; None: it can."""
        ...
