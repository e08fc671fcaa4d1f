"""Where to listen and whom to call: addresses and URLs, taken apart and judged."""

import ipaddress
import re
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

SOCKET_PATH_MAX_BYTES = 107
"""What Linux takes as the path of a Unix socket (unix(7): 108 with the closing zero)."""

_HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)


def address(text: str) -> tuple[str, int] | Path:
    """
    Return `(host, port)` of `HOST:PORT`, or the path of `unix:/path`.

    Port 0 stands for any free one. Raises `ValueError` with a sentence for the user.
    """
    if text.startswith("unix:"):
        return _socket_path(text.removeprefix("unix:"))
    host, colon, port = text.rpartition(":")
    if not colon or not host or not _PORT.fullmatch(port) or int(port) > 65535:
        raise ValueError("expected HOST:PORT or unix:/path, such as 127.0.0.1:8700")
    bare = host.removeprefix("[").removesuffix("]")
    if ":" in bare and host != f"[{bare}]":
        raise ValueError("an IPv6 address stands in brackets: [::1]:8700")
    if not is_host(bare):
        raise ValueError(f"not a host: {host!r}")
    return bare, int(port)


def _socket_path(text: str) -> Path:
    if not text.startswith("/") or text.endswith("/") or "\0" in text:
        raise ValueError("expected the absolute path of a socket: unix:/path/of.sock")
    length = len(text.encode())
    if length > SOCKET_PATH_MAX_BYTES:
        raise ValueError(
            f"the path of a socket has at most {SOCKET_PATH_MAX_BYTES} bytes, this one {length}"
        )
    return Path(text)


def is_host(text: str) -> bool:
    """Tell whether *text* is an IP address (IPv6 without brackets) or could be a host's name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return len(text) <= 253 and _HOSTNAME.fullmatch(text) is not None
    return True


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach *host*."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def web_url(text: str) -> SplitResult:
    """
    Return the parts of an `http` or `https` URL with a host and without credentials.

    Raises `ValueError` with a sentence for the user.
    """
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("a URL has neither blanks nor letters beyond ASCII")
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError as error:
        raise ValueError(f"not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not host or port == 0 or not is_host(host):
        raise ValueError("expected http://host[:port] or https://host[:port]")
    if "@" in url.netloc:
        raise ValueError("keys do not belong into a URL: see credentials")
    return url
