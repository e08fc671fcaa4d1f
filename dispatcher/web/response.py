"""Answers: a status, headers, and a body that is whole or comes in parts; and how they are written."""

import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from dispatcher.core.views import Parts

JSON: Final = "application/json"

Body = bytes | Parts


class Response:
    """One answer. A body in parts that fails leaves the peer with an answer that is broken off."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        status: int = 200,
        body: Body = b"",
        headers: Mapping[str, str] | None = None,
        *,
        content_type: str | None = None,
    ) -> None:
        """*headers*: those that frame the answer are the connection's affair."""
        self.status = status
        self.body = body
        self.headers: dict[str, str] = (
            {} if content_type is None else {"Content-Type": content_type}
        )
        if headers is not None:
            self.headers.update(headers)

    @property
    def has_content(self) -> bool:
        """Tell whether an answer of its status has any."""
        return self.status not in _WITHOUT_CONTENT

    def head(self, framing: str) -> bytes:
        """
        Write the status line and all headers; *framing* are the lines that only the wire knows.

        Says of the server what nobody needs to hide, and what keeps browsers careful. Raises
        ValueError for a header that would not end where it should.
        """
        lines = [_status_line(self.status)]
        for name, value in self.headers.items():
            if "\n" in value or "\r" in value or "\0" in value:
                raise ValueError(f"header {name!r} has a line end in it")
            lines.append(f"{name}: {value}\r\n")
        if "Cache-Control" not in self.headers:
            lines.append("Cache-Control: no-store\r\n")
        lines += (_always(int(time.time())), framing, "\r\n")
        return "".join(lines).encode("utf-8", "surrogateescape")


_WITHOUT_CONTENT: Final = (204, 304)


_PHRASES: Final = {int(status): status.phrase for status in HTTPStatus}


@lru_cache
def _status_line(status: int) -> str:
    # The clouds have statuses that no standard knows.
    return f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n"


@lru_cache(maxsize=1)
def _always(now_s: int) -> str:
    """Return what every answer of one second says."""
    date = formatdate(now_s, usegmt=True)
    return f"Date: {date}\r\nServer: dispatcher\r\nX-Content-Type-Options: nosniff\r\n"
