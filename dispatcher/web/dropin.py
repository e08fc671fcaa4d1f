"""
What the drop-in endpoints of both providers have in common: who calls, what goes wrong, waiting.

They look at requests, ask the engine, and answer in the words of a provider. What can go wrong
is a `Trouble` of some `Kind`; each endpoint has its own names and statuses for the kinds.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Final, Protocol

from msgspec import Struct

from dispatcher.config import AccountSettings
from dispatcher.core.model import Denied, Invocation, Lost, Provider, Refused, Replied
from dispatcher.core.views import Acceptance, Streamed, View
from dispatcher.errors import (
    DispatcherError,
    Invalid,
    PayloadTooLarge,
    QueueFull,
    WaitedTooLong,
)
from dispatcher.web import bodies, problems
from dispatcher.web.clients import Client, Clients, only_account
from dispatcher.web.ports import Engine as AnyEngine
from dispatcher.web.ports import Ticket
from dispatcher.web.request import Request
from dispatcher.web.response import Body, Response
from dispatcher.web.signatures import Claim, Head, Unproved

RETRY_AFTER_S: Final = 1.0
LARGE_BODY_BYTES: Final = 1024 * 1024
"""Larger ones are hashed in a thread."""
CLOUD_ERROR_CHARS_MAX: Final = 2000

Answer = Replied | Streamed | Refused | Denied | Lost


class Engine(AnyEngine, Protocol):
    """What these endpoints ask of the engine beyond what the HTTP API does."""

    def enqueue(self, invocation: Invocation, *, source: str, key_space: str = "") -> Ticket:
        """Hand an invocation over; its key is one of *key_space*. Raises `Rejected`."""
        ...

    async def call(self, invocation: Invocation, *, source: str, wait_max_s: float) -> Answer:
        """Run a function when its turn comes and return what came of it. Raises `Rejected`."""
        ...

    async def keyed(self, account: str, key: str, *, key_space: str) -> View | None:
        """Return the invocation that was accepted with a key."""
        ...

    async def payload(self, invocation_id: str) -> bytes | None:
        """Return the payload of an invocation while it is kept."""
        ...


class Kind(StrEnum):
    """What can go wrong."""

    UNSIGNED = "missing"
    MALFORMED_SIGNATURE = "malformed"
    UNKNOWN_KEY = "unknown_key"
    EXPIRED = "expired"
    REPEATED = "repeated"
    WRONG_SIGNATURE = "wrong"
    DENIED = "denied"  #: of another account, or not to be had without a key
    NO_FUNCTION = "no_function"
    NO_TASK = "no_task"
    NO_OPERATION = "no_operation"
    INVALID = "invalid"
    BAD_NAME = "bad_name"
    BAD_CONTENT = "bad_content"
    BAD_MODE = "bad_mode"  #: the function is not called in this way
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"
    THROTTLED = "throttled"
    TASK_EXISTS = "task_exists"
    TASK_ENDED = "task_ended"
    UNAVAILABLE = "unavailable"
    OUR_KEYS = "our_keys"  #: the dispatcher's own are refused
    LOST = "lost"
    BAD_REPLY = "bad_reply"


class Trouble(Exception):
    """A request that is answered with an error of the provider's."""

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        retry_after_s: float | None = None,
        gate: str | None = None,
        cloud: tuple[int, str] | None = None,
    ) -> None:
        """*gate*: what a call waited for in vain. *cloud*: its own status and code, if any."""
        super().__init__(message[:CLOUD_ERROR_CHARS_MAX])
        self.kind = kind
        self.retry_after_s = retry_after_s
        self.gate = gate
        self.cloud = cloud


class Visit(Struct, frozen=True):
    """A request that has been let in, and its body."""

    client: Client
    body: bytes
    head: Head | None
    claim: Claim | None


Handler = Callable[[Request], Awaitable[Response]]


class DropIn:
    """The reception of one provider's endpoints."""

    def __init__(
        self, engine: Engine, clients: Clients, provider: Provider, schemes: frozenset[str]
    ) -> None:
        self._engine = engine
        self._clients = clients
        self._provider = provider
        self._schemes = schemes
        self._source = "lambda" if provider is Provider.AWS_LAMBDA else "fc"

    # -- Who calls

    async def admit(self, request: Request, size_max: int) -> Visit:
        """Return who calls, once that is proved, and the body. Raises what `trouble` explains."""
        anyone = self._clients.anyone_of(request)
        if anyone is not None:
            return Visit(anyone, await bodies.read(request, size_max), None, None)
        head, claim = self._clients.claim(request, self._schemes)
        body = await bodies.read(request, size_max)
        if len(body) <= LARGE_BODY_BYTES:
            client = self._clients.prove(head, claim, body)
        else:
            client = await asyncio.to_thread(self._clients.prove, head, claim, body)
        return Visit(client, body, head, claim)

    def once(self, request: Request, visit: Visit) -> None:
        """Refuse what was let in before. Raises `Unproved`."""
        if visit.head is not None and visit.claim is not None:
            self._clients.once(visit.head, visit.claim, request)

    def account(
        self, client: Client, account_id: str | None = None, region: str | None = None
    ) -> tuple[str, AccountSettings]:
        """Return the account that *client* calls. Raises `Trouble`."""
        accounts = self._clients.accounts
        name = client.account
        if name is None:
            name = only_account(accounts, self._provider, account_id, region)
            if name is None:
                raise Trouble(
                    Kind.DENIED,
                    f"there is not exactly one account of {self._provider} here: "
                    "the [clients] of the configuration say who calls which",
                )
        elif accounts[name].provider is not self._provider:
            raise Trouble(Kind.DENIED, f"client {client.name!r} is not one of {self._provider}")
        return name, accounts[name]

    @staticmethod
    def is_allowed(account: AccountSettings, function: str) -> bool:
        """Tell whether the account's configuration has a place for a function."""
        return account.unlisted or (function in account.functions and function != "*")

    # -- What is asked of the engine

    def enqueue(self, invocation: Invocation, key_space: str = "") -> Awaitable[Acceptance]:
        """Return what is over once an invocation is on disk. Raises `Rejected`, `JournalError`."""
        ticket = self._engine.enqueue(invocation, source=self._source, key_space=key_space)
        return ticket.accepted()

    async def call(
        self, request: Request, client: Client, invocation: Invocation
    ) -> tuple[Replied, Body]:
        """
        Return the function's reply and its body, which may still be on its way.

        A caller that leaves meanwhile takes its call along.
        """
        with request.connection.unless_lost():
            answer = await self._engine.call(
                invocation, source=self._source, wait_max_s=client.wait_max_s
            )
        if isinstance(answer, Streamed):
            return answer
        reply = _replied(answer)
        return reply, reply.payload


Refuse = Callable[[Request, Trouble], Response]


def guarded(handler: Handler, refuse: Refuse) -> Handler:
    """Return *handler*, with *refuse* to tell of all trouble that it may run into."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except (Trouble, Unproved, DispatcherError, problems.Refusal) as error:
            found = trouble(error)
            response = refuse(request, found)
            if found.retry_after_s is not None:
                response.headers["Retry-After"] = str(max(1, math.ceil(found.retry_after_s)))
            if found.kind in (Kind.TOO_LARGE, Kind.TOO_SLOW):
                response.headers["Connection"] = "close"  # the rest of the body may never come
            return response

    return answer


def _replied(answer: Replied | Refused | Denied | Lost) -> Replied:
    """Return the reply, or raise as trouble what the cloud or the network said instead."""
    if isinstance(answer, Replied):
        return answer
    failure = answer.failure
    cloud = (failure.status, failure.reason) if failure.status and failure.reason else None
    if isinstance(answer, Denied):
        # Not the caller's keys: it could do nothing about it.
        message = f"the dispatcher's own credentials were refused: {failure.message}"
        raise Trouble(Kind.OUR_KEYS, message)
    if isinstance(answer, Refused):
        raise Trouble(Kind.INVALID, failure.message, cloud=cloud)
    raise Trouble(Kind.LOST, failure.message, cloud=cloud, retry_after_s=answer.retry_after_s)


_OF_STATUS: Final[Mapping[int, Kind]] = {
    408: Kind.TOO_SLOW,
    413: Kind.TOO_LARGE,
    503: Kind.UNAVAILABLE,
}
_OF_POINTERS: Final[Mapping[str | None, Kind]] = {
    "/type": Kind.BAD_MODE,
    "/function": Kind.BAD_NAME,
}


def trouble(error: Exception) -> Trouble:
    """Say what kind of trouble an error of ours is."""
    if isinstance(error, Trouble):
        return error
    kind = _kind(error)
    retry_after_s = getattr(error, "retry_after_s", None)
    if kind in (Kind.THROTTLED, Kind.UNAVAILABLE):
        retry_after_s = retry_after_s or RETRY_AFTER_S
    text = error.problem.detail if isinstance(error, problems.Refusal) else str(error)
    return Trouble(kind, text, retry_after_s=retry_after_s, gate=getattr(error, "gate", None))


def _kind(error: Exception) -> Kind:
    match error:
        case Unproved():
            return Kind(error.fault.value)
        case PayloadTooLarge():
            return Kind.TOO_LARGE
        case Invalid():
            return _OF_POINTERS.get(error.pointer, Kind.INVALID)
        case WaitedTooLong() | QueueFull():
            return Kind.THROTTLED
        case problems.Refusal():
            return _OF_STATUS.get(error.problem.status, Kind.INVALID)
        case _:  # this process, or its journal, is in no state to take work
            return Kind.UNAVAILABLE
