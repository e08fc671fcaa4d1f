"""The command that asks a sidecar whether it is well, for whatever restarts or waits for it."""

import contextlib
import http.client
import socket
from collections.abc import Iterator
from typing import Annotated

import typer

from dispatcher.cli.asking import DEFAULT_URL, Url
from dispatcher.cli.codes import Code

ANSWER_MAX_S = 3.0
_SHOWN_MAX = 500


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ANSWER_MAX_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_MAX_S)
        self.sock.connect(self._path)


def health(
    alive: Annotated[
        bool,
        typer.Option("--alive", help="Ask only whether it answers, not whether it takes work."),
    ] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """
    Ask a sidecar whether it is well: exit 0 if it takes work, 1 if not, 75 if it does not answer.

    No token is needed. It is meant for the health checks of containers that have no other tool.
    """
    path = "/healthz" if alive else "/readyz"
    with _connection(url) as connection:
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            text = reply.read(_SHOWN_MAX).decode(errors="replace").strip()
        except (OSError, http.client.HTTPException) as error:
            typer.echo(f"{url}: no answer: {str(error) or type(error).__name__}", err=True)
            raise typer.Exit(Code.TEMPORARY) from error
    typer.echo(text)
    raise typer.Exit(Code.OK if reply.status == 200 else Code.FAILED)


@contextlib.contextmanager
def _connection(url: str) -> Iterator[http.client.HTTPConnection]:
    connection = _open(url)
    try:
        yield connection
    finally:
        connection.close()


def _open(url: str) -> http.client.HTTPConnection:
    if url.startswith("unix:"):
        return _UnixConnection(url.removeprefix("unix:"))
    from dispatcher.config import web_url  # noqa: PLC0415 -- a socket needs no judging

    try:
        parts = web_url(url)
    except ValueError as error:
        text = f"{error}, or unix:/path/of.sock"
        raise typer.BadParameter(text, param_hint="--url") from error
    assert parts.hostname is not None
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname, parts.port, timeout=ANSWER_MAX_S)
