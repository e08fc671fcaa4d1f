"""
What is said when a request is refused: problem details (RFC 9457), made in this one place.

Every problem has a *type* that ends in a word which callers may rely on. What the engine raises
has one by its class (`_OF_ERRORS`), what HTTP itself forbids has one in `Refusal`s made here.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

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
)
from dispatcher.web.response import Response

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:dispatcher:problem:"
DETAIL_MAX: Final = 500
"""Characters of a detail: some of it may be a quotation of what was sent."""


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request, or one line of it, was refused (RFC 9457)."""

    type: Annotated[str, Meta(pattern=f"^{TYPE_PREFIX}[a-z_]+$")]
    """`urn:dispatcher:problem:` and a word that does not change."""
    title: str
    """The same sentence for every problem of the type."""
    status: Annotated[int, Meta(ge=400, le=599)]
    """The HTTP status; a line of an NDJSON reply has no other."""
    detail: str
    """What is wrong with this request."""
    pointer: str | None = None
    """JSON pointer (RFC 6901) of the field to blame."""
    parameter: str | None = None
    """Name of the query parameter or header to blame."""
    instance: str | None = None
    """Of a defect: what to look for in the log."""


class Malformed(Invalid):
    """It is not JSON at all."""

    reason = "malformed"


class _Kind(NamedTuple):
    word: str
    status: int
    title: str
    retry_after_s: float | None = None


_MALFORMED: Final = _Kind("malformed", 400, "The request cannot be read")

_OF_ERRORS: Final[Mapping[type[DispatcherError], _Kind]] = {
    Malformed: _MALFORMED,
    PayloadTooLarge: _Kind(
        "payload_too_large", 413, "The provider does not take so large a payload"
    ),
    KeyReused: _Kind("key_reused", 422, "The idempotency key belongs to another job"),
    Invalid: _Kind("invalid", 422, "The request says something wrong"),
    QueueFull: _Kind("queue_full", 429, "Too many invocations wait already", 1.0),
    Draining: _Kind("draining", 503, "The dispatcher is about to end", 2.0),
    DiskFull: _Kind("disk_full", 507, "The journal has no room"),
    Rejected: _Kind("rejected", 422, "The invocation was not accepted"),
    NotFound: _Kind("not_found", 404, "There is nothing of that name"),
    NotAllowed: _Kind("not_allowed", 403, "The token does not allow this"),
    NotPossible: _Kind("not_possible", 409, "Its state does not allow this"),
    JournalError: _Kind("journal_error", 503, "The journal failed"),
}

_OF_HTTP: Final = {
    400: _MALFORMED,
    401: _Kind("unauthorized", 401, "A bearer token is required"),
    403: _Kind("forbidden", 403, "This caller may not call the dispatcher"),
    404: _Kind("no_such_path", 404, "There is nothing at this path"),
    405: _Kind("method_not_allowed", 405, "The path does not know this method"),
    408: _Kind("too_slow", 408, "The request took too long to arrive"),
    413: _Kind("content_too_large", 413, "The request is too large"),
    415: _Kind("unsupported_media_type", 415, "The content is of a type that is not taken here"),
    417: _Kind("expectation_failed", 417, "The expectation cannot be met"),
    421: _Kind("wrong_host", 421, "This host name is not served"),
    503: _Kind("overloaded", 503, "Too many large requests at once", 1.0),
}

_DEFECT: Final = _Kind("defect", 500, "The dispatcher has a defect")
_NOT_READY: Final = _Kind("not_ready", 503, "Nothing can be accepted now", 1.0)

_encode = msgspec.json.Encoder().encode


class Refusal(Exception):
    """A request that is answered with a problem and goes no further."""

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.headers = dict(headers or {})

    def reply(self) -> Response:
        """Make the answer."""
        return reply(self.problem, self.headers)


def refusal(
    status: int,
    detail: str,
    *,
    pointer: str | None = None,
    parameter: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Refusal:
    """Make a refusal for a reason that lies in HTTP rather than in what was asked."""
    kind = _OF_HTTP[status]
    if kind.retry_after_s is not None:
        headers = {"Retry-After": _seconds(kind.retry_after_s), **(headers or {})}
    return Refusal(_problem(kind, detail, pointer=pointer, parameter=parameter), headers)


def invalid_parameter(detail: str, parameter: str) -> Refusal:
    """Make a refusal that blames a query parameter or a header."""
    return Refusal(_problem(_OF_ERRORS[Invalid], detail, parameter=parameter))


def blame_parameter(error: DispatcherError, parameter: str) -> Refusal:
    """Make the answer to a request that met *error* for what a header says, not a field."""
    return Refusal(msgspec.structs.replace(of(error), pointer=None, parameter=parameter))


def not_ready(why: str) -> Refusal:
    """Make the answer to those who ask whether work can be accepted."""
    assert _NOT_READY.retry_after_s is not None
    return Refusal(_problem(_NOT_READY, why), {"Retry-After": _seconds(_NOT_READY.retry_after_s)})


def defect(instance: str) -> Refusal:
    """Make the answer to a request that met a bug; *instance* is in the log as well."""
    detail = "the request was not understood by its own server; the log has more"
    return Refusal(msgspec.structs.replace(_problem(_DEFECT, detail), instance=instance))


def title(status: int) -> str:
    """Say in one sentence what the problems of *status* have in common."""
    kinds = [*_OF_ERRORS.values(), *_OF_HTTP.values(), _DEFECT, _NOT_READY]
    titles = dict.fromkeys(kind.title for kind in kinds if kind.status == status)
    return "; or: ".join(titles)


def of(error: DispatcherError) -> Problem:
    """Return the problem that stands for *error*."""
    return _problem(_kind(error), str(error), pointer=getattr(error, "pointer", None))


def refuse(error: DispatcherError) -> Refusal:
    """Make the answer to a request that met *error*."""
    kind = _kind(error)
    wait_s = getattr(error, "retry_after_s", None) or kind.retry_after_s
    return Refusal(of(error), None if wait_s is None else {"Retry-After": _seconds(wait_s)})


def reply(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Make the answer that carries *problem*."""
    return Response(problem.status, _encode(problem), headers, content_type=MEDIA_TYPE)


def _kind(error: DispatcherError) -> _Kind:
    for base in type(error).__mro__:
        if base in _OF_ERRORS:
            return _OF_ERRORS[base]
    return _DEFECT


def _problem(
    kind: _Kind, detail: str, *, pointer: str | None = None, parameter: str | None = None
) -> Problem:
    return Problem(
        type=TYPE_PREFIX + kind.word,
        title=kind.title,
        status=kind.status,
        detail=_quotable(detail),
        pointer=None if pointer is None else _quotable(pointer),
        parameter=None if parameter is None else _quotable(parameter),
    )


def _quotable(text: str) -> str:
    """Shorten what may quote the request, and spell out what UTF-8 has no bytes for."""
    if len(text) > DETAIL_MAX:
        text = f"{text[:DETAIL_MAX]}..."
    return text.encode("utf-8", "backslashreplace").decode()


def _seconds(wait_s: float) -> str:
    """Round up: `Retry-After` has whole seconds."""
    return str(max(1, math.ceil(wait_s)))
