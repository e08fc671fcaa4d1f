"""Requests and replies as the APIs see them: bytes, names and numbers, no sockets."""

from collections.abc import Mapping
from functools import cached_property
from typing import Final
from urllib.parse import unquote

import msgspec
from multidict import MultiMapping


class Call:
    """One HTTP request, read to its end."""

    def __init__(self, method: str, target: str, headers: MultiMapping[str], body: bytes) -> None:
        self.method = method
        path, _, self.query_text = target.partition("?")
        if not path.startswith("/"):
            # The absolute form, which proxies and some clients send: RFC 9112, section 3.2.2.
            path = "/" + path.partition("://")[2].partition("/")[2]
        self.path = path
        """Percent-encoded, as on the wire."""
        self.headers = headers
        """Names in any case."""
        self.body = body

    def __repr__(self) -> str:
        return f"<Call {self.method} {self.path}>"

    @cached_property
    def segments(self) -> tuple[str, ...]:
        """The parts of the path, each decoded by itself."""
        return tuple(unquote(part) for part in self.path[1:].split("/"))

    @cached_property
    def query(self) -> dict[str, str]:
        """The decoded query; of a repeated name the last value."""
        pairs = (pair.partition("=") for pair in self.query_text.split("&") if pair)
        return {unquote(name): unquote(value.replace("+", " ")) for name, _, value in pairs}

    def header(self, name: str) -> str:
        """Return a header's value without the white space around it, or an empty string."""
        return self.headers.get(name, "").strip()


class Reply(msgspec.Struct, frozen=True):
    """One HTTP reply. Its length and date are added by the server."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = {}


JSON: Final = {"Content-Type": "application/json"}


def json_reply(status: int, fields: object, headers: Mapping[str, str] | None = None) -> Reply:
    """Return a reply with a JSON body."""
    return Reply(status, msgspec.json.encode(fields), {**JSON, **(headers or {})})


def json_object(body: bytes) -> dict[str, object] | None:
    """Return the JSON object of a request's body (an empty one if it is empty); else None."""
    try:
        return msgspec.json.decode(body or b"{}", type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def is_json(body: bytes) -> bool:
    """Return whether the body is one JSON text in UTF-8."""
    try:
        body.decode()
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True
