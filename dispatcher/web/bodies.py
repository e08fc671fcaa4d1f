"""Reads requests: the body within its limits, and JSON into structs with the field to blame."""

import asyncio
import json
import re
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import hdrs

from dispatcher.errors import Invalid
from dispatcher.web import problems
from dispatcher.web.request import BrokenBody, Request
from dispatcher.web.response import JSON

T = TypeVar("T")

NDJSON: Final = "application/x-ndjson"

PAYLOAD_MAX_BYTES: Final = 32 * 1024 * 1024
"""
The largest payload that any provider takes: synchronous calls of Function Compute (its "limits
of use"). The engine knows the limit of each provider and call; this one bounds memory.
"""
BODY_MAX_BYTES: Final = PAYLOAD_MAX_BYTES // 3 * 4 + 65_536
"""Such a payload in base64, and the other fields."""

NOTHING_MAX_BYTES: Final = 1024
"""Of content where none is wanted."""

_CLOSE: Final = {"Connection": "close"}


def content_type(request: Request, allowed: tuple[str, ...]) -> str:
    """Return the content type of *request*, one of *allowed*; raises a `Refusal` of 415."""
    essence = request.headers.get(hdrs.CONTENT_TYPE, "")
    if essence not in allowed:
        essence = essence.partition(";")[0].strip().lower()
    if essence not in allowed:
        raise problems.refusal(415, f"Content-Type is {essence!r}; expected {' or '.join(allowed)}")
    encoding = request.headers.get(hdrs.CONTENT_ENCODING)
    if encoding is not None and encoding.strip().lower() not in ("", "identity"):
        raise problems.refusal(
            415, f"Content-Encoding is {encoding!r}; expected none", parameter="Content-Encoding"
        )
    return essence


async def read(request: Request, size_max: int) -> bytes:
    """
    Return the body, of at most *size_max* bytes.

    A size that is declared is judged before anything is read. Raises a `Refusal`: 413 too
    large, 408 too slow, 400 malformed, 503 too much at once; `ConnectionError`: the peer left.
    """
    declared = request.content_length
    if declared is not None and declared > size_max:
        raise _too_large(size_max)
    content = request.content
    try:
        if content.is_eof():
            body = content.read_nowait()  # it came together with its head, as most do
        else:
            body = await _receive(request, size_max)
    except BrokenBody as error:
        raise problems.refusal(400, "the body is not framed as HTTP wants it") from error
    if len(body) > size_max:
        raise _too_large(size_max)
    return body


async def nothing(request: Request) -> None:
    """
    Make sure that a request that says all in its target has no content, or JSON like `{}`.

    What else it said would be passed over: a filter, say, and all the dead would be redriven.
    """
    if body := await read(request, NOTHING_MAX_BYTES):
        content_type(request, (JSON,))
        decode(_nothing, body)


async def _receive(request: Request, size_max: int) -> bytes:
    """Collect a body that is still on its way."""
    connection = request.connection
    limits = connection.limits
    if hdrs.EXPECT in request.headers:
        connection.ask_to_go_on()
    body = bytearray()
    begun_s = asyncio.get_running_loop().time()
    try:
        with connection.reading():
            async with asyncio.timeout_at(begun_s + limits.body_grace_s) as patience:
                while chunk := await request.content.readany():
                    body += chunk
                    if len(body) > size_max:
                        raise _too_large(size_max)
                    connection.hold(len(body))
                    patience.reschedule(
                        begun_s + limits.body_grace_s + len(body) / limits.body_min_per_s
                    )
    except TimeoutError as error:
        raise problems.refusal(
            408, f"only {len(body)} bytes of the body came in time", headers=_CLOSE
        ) from error
    return bytes(body)


def check_expectation(request: Request) -> None:
    """
    Hear an `Expect` without answering it yet. Raises a `Refusal` of 417.

    Whether the body is wanted is only known once the request has been judged by its head.
    """
    if request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
        raise problems.refusal(417, "the only expectation that can be met is 100-continue")


def _too_large(size_max: int) -> problems.Refusal:
    return problems.refusal(
        413, f"more than the {size_max} bytes that are taken here", headers=_CLOSE
    )


# -- JSON -----------------------------------------------------------------------------------------


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """An object without members."""


_nothing: Final = msgspec.json.Decoder(_Nothing | None)
_is_json = msgspec.json.Decoder(msgspec.Raw).decode
_BLAMED: Final = re.compile(r"(?P<what>.*?)(?: - at `(?P<path>\$[^`]*)`)?", re.DOTALL)
_MEMBER: Final = re.compile(r"Object (?:contains unknown|missing required) field `(.*)`", re.DOTALL)
_HALF: Final = re.compile("[\ud800-\udfff]")
_LOOKED_AT_MAX: Final = 1024 * 1024
"""Bytes in which the place of a flaw is looked for; a larger text would stop the loop for long."""
_STEP: Final = re.compile(r"\.([^.\[]+)|\[(\d+)\]")


def decode(decoder: msgspec.json.Decoder[T], text: bytes) -> T:
    """Turn JSON into a struct. Raises `Malformed`, or `Invalid` with the field to blame."""
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        complaint = str(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(text, error) from error
    # The decoder stopped at the field; what follows may be no JSON at all.
    if (error_of_all := _json_error(text)) is not None:
        raise _malformed(text, error_of_all)
    raise blame(complaint)


def json_flaw(text: bytes) -> str | None:
    """Say why *text* is not JSON that can be read; None: it is."""
    error = _json_error(text)
    return None if error is None else str(_malformed(text, error))


def _json_error(text: bytes) -> Exception | None:
    try:
        _is_json(text)
        if not text.isascii():
            text.decode()  # the decoder passes over the insides of strings
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return error
    return None


def _malformed(text: bytes, error: Exception) -> problems.Malformed:
    half = half_a_character(text)
    if half is None:
        return problems.Malformed(_not_json(error))
    words, pointer = half
    return problems.Malformed(f"{words}; a payload may be sent as payload_base64", pointer=pointer)


def half_a_character(text: bytes) -> tuple[str, str] | None:
    r"""
    Find an escape like `\ud800` that stands alone; say so, and give a JSON pointer to it.

    The grammar of JSON allows it, but there is no text that it could stand for.
    """
    if len(text) > _LOOKED_AT_MAX or b"\\u" not in text:
        return None
    try:
        places: list[tuple[str, Any]] = [("", json.loads(text.decode()))]
    except (ValueError, RecursionError):
        return None
    while places:
        pointer, value = places.pop()
        if isinstance(value, str):
            if half := _HALF.search(value):
                return _half(half), pointer
        elif isinstance(value, dict):
            for name in value:
                if half := _HALF.search(name):
                    return _half(half), pointer
            places += [(f"{pointer}/{_step(name)}", each) for name, each in value.items()]
        elif isinstance(value, list):
            places += [(f"{pointer}/{at}", each) for at, each in enumerate(value)]
    return None


def _half(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x} stands for half a character, and its other half is missing"


def _step(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _not_json(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply; a payload may be sent as payload_base64"
    if isinstance(error, UnicodeDecodeError):
        return f"not JSON: not UTF-8 at byte {error.start}"
    return f"not JSON: {error}"


def blame(complaint: str) -> Invalid:
    """Turn the decoder's complaint into one with a JSON pointer."""
    blamed = _BLAMED.fullmatch(complaint)
    assert blamed is not None, complaint
    what = blamed["what"]
    steps = [name or index for name, index in _STEP.findall(blamed["path"] or "")]
    if member := _MEMBER.fullmatch(what):
        steps.append(member[1])
    pointer = "".join(f"/{_step(step)}" for step in steps)
    return Invalid(f"{what[:1].lower()}{what[1:]}", pointer=pointer)
