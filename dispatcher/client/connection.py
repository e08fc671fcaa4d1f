"""
One request and its answer: where to, how long, what may be repeated, and which error it is.

A request is repeated only where that can do no harm: when the connection was refused, so that
nothing was sent, or when the caller says that the second would be as good as the first.
"""

import random
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import aiohttp
import anyio
import msgspec
from yarl import URL

from dispatcher.config import address, web_url
from dispatcher.errors import (
    DiskFull,
    DispatcherError,
    Draining,
    Invalid,
    JournalError,
    KeyReused,
    NotAllowed,
    NotFound,
    NotPossible,
    PayloadTooLarge,
    QueueFull,
    Rejected,
    Unreachable,
)

T = TypeVar("T")

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
CONNECT_MAX_S: Final = 5.0
TRIES_MAX: Final = 4
"""Of a request that may be repeated, the first one included."""
DELAY_BASE_S: Final = 0.1
"""The longest wait before the first repeat; each further one may be twice as long."""

_PREFIX: Final = "urn:dispatcher:problem:"
_ERRORS: Final[Mapping[str, type[DispatcherError]]] = {
    "invalid": Invalid,
    "malformed": Invalid,
    "payload_too_large": PayloadTooLarge,
    "content_too_large": PayloadTooLarge,
    "key_reused": KeyReused,
    "rejected": Rejected,
    "queue_full": QueueFull,
    "overloaded": QueueFull,
    "draining": Draining,
    "disk_full": DiskFull,
    "not_found": NotFound,
    "not_allowed": NotAllowed,
    "not_possible": NotPossible,
    "journal_error": JournalError,
}


class Unwilling(DispatcherError):
    """
    The sidecar refused the request as such: a missing token, a host that it does not serve.

    *status* is that of the answer.
    """

    def __init__(self, message: str, *, status: int) -> None:
        """Say what was answered."""
        super().__init__(message)
        self.status = status


def nothing(_: bytes) -> None:
    """Read an answer that says all by its status."""


class Problem(msgspec.Struct, frozen=True):
    """What the sidecar answers instead of what was asked for (RFC 9457)."""

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    pointer: str | None = None
    parameter: str | None = None


_problem = msgspec.json.Decoder(Problem)


class Connection:
    """The way to one sidecar, for at most *requests_max* requests at a time."""

    def __init__(self, url: str, token: str | None, *, requests_max: int, request_max_s: float):
        """
        *url*: `http://HOST:PORT`, `https://...` or `unix:/path`.

        Raises `ValueError` for a URL or a token that cannot be one.
        """
        self._socket, self._base = _whereabouts(url)
        if token is not None and not (token and token.isprintable()):
            raise ValueError("a token has at least one letter, and no control characters")
        self._name = url
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._turns = anyio.CapacityLimiter(requests_max)
        self._timeout = aiohttp.ClientTimeout(
            total=request_max_s, connect=CONNECT_MAX_S, sock_connect=CONNECT_MAX_S
        )
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # No limit here: the turns are one, and to wait for a turn is no part of a time-out.
        connector = (
            aiohttp.TCPConnector(limit=0)
            if self._socket is None
            else aiohttp.UnixConnector(self._socket, limit=0)
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        # By itself aiohttp repeats a DELETE whose answer was lost; the second would be a 409.
        self._session._retry_connection = False  # noqa: SLF001 -- there is no other switch
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(
        self,
        method: str,
        path: str,
        read: Callable[[bytes], T],
        body: bytes | None = None,
        *,
        media: str = JSON,
        token: str | None = None,
        repeatable: bool = False,
    ) -> T:
        """
        Return what *read* makes of the answer.

        *path* is percent-encoded already. *token*: instead of the client's own. *repeatable*:
        a second request would be as good as the first. Raises the error that the answer stands
        for, `Unreachable`, `Unwilling`.
        """
        headers = {} if body is None else {"Content-Type": media}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        answer = await self._answer(method, path, body, headers, repeatable=repeatable)
        try:
            return read(answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unwilling(f"{self._name} answers like no dispatcher", status=200) from error

    async def _answer(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
        *,
        repeatable: bool,
    ) -> bytes:
        for tries in range(1, TRIES_MAX + 1):
            try:
                async with self._turns:
                    return await self._ask_once(method, path, body, headers)
            except Unreachable as error:
                if tries == TRIES_MAX or (error.maybe_done and not repeatable):
                    raise
            delay_max_s = DELAY_BASE_S * 2.0 ** (tries - 1)
            await anyio.sleep(delay_max_s * random.random())  # noqa: S311 -- jitter
        raise AssertionError("the last try returns or raises")

    async def _ask_once(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> bytes:
        if self._session is None:
            raise RuntimeError("use it as a context manager: async with Client(...) as client")
        try:
            async with self._session.request(
                method,
                URL(self._base + path, encoded=True),
                data=body,
                headers=headers,
                allow_redirects=False,
            ) as response:
                content = await response.read()
                if response.status < 300:
                    return content
                retry_after = response.headers.get("Retry-After")
                raise error_of(content, response.content_type, response.status, retry_after)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unreachable(f"{self._name}: {_words(error)}", maybe_done=False) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(f"{self._name}: {_words(error)}", maybe_done=True) from error


def _whereabouts(url: str) -> tuple[str | None, str]:
    """Return the path of the socket, if *url* is one, and what every request begins with."""
    if url.startswith("unix:"):
        path = address(url)
        assert isinstance(path, Path)
        return str(path), "http://localhost"
    try:
        parts = web_url(url)
    except ValueError as error:
        raise ValueError(f"{error}, or unix:/path/of.sock; got {url!r}") from error
    if parts.query or parts.fragment:
        raise ValueError(f"expected a URL without query and fragment; got {url!r}")
    return None, parts.geturl().rstrip("/")


def error_of(
    content: bytes, media: str, status: int, retry_after: str | None = None
) -> DispatcherError:
    """Return the error that an answer with *status* stands for."""
    if media == PROBLEM:
        try:
            return error_of_problem(_problem.decode(content), status, retry_after)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass  # a proxy's, perhaps; the status says enough
    return Unwilling(f"answered {status} {_phrase(status)}", status=status)


def error_of_problem(
    problem: Problem, status: int, retry_after: str | None = None
) -> DispatcherError:
    """Return the error that *problem* stands for, as it was raised on the other side."""
    kind = _ERRORS.get(problem.type.removeprefix(_PREFIX))
    text = problem.detail or problem.title
    if kind is None:
        return Unwilling(f"{problem.title or _phrase(status)}: {text}", status=status)
    if issubclass(kind, Invalid):
        pointer = problem.pointer
        if pointer is None and problem.parameter is not None:
            pointer = f"/{problem.parameter}"
        # What is no JSON goes over the wire by another name, which no caller here has used.
        return kind(text, pointer=pointer and pointer.removesuffix("_base64"))
    if issubclass(kind, Rejected):
        has_wait = retry_after is not None and retry_after.isascii() and retry_after.isdigit()
        return kind(text, retry_after_s=float(retry_after or 0) if has_wait else None)
    return kind(text)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
