"""
What SigV4 and ACS3-HMAC-SHA256 sign: the canonical request and its signature, as pure functions.

SigV4 (docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html) and ACS3-HMAC-SHA256
(help.aliyun.com/zh/sdk/product-overview/v3-request-structure-and-signature) hash the same
canonical request; they differ in how the path is escaped and in what is signed of it. Whoever
verifies a signature builds the canonical request of what came in, with the headers that the
caller says it has signed, and compares signatures with `hmac.compare_digest`.
"""

import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import quote

Headers = Sequence[tuple[str, str]]
"""
Names in lower case, in order, each once. Values for SigV4 as `sigv4_value` leaves them, for ACS3
without the spaces around them.
"""

SIGV4 = "AWS4-HMAC-SHA256"
ACS3 = "ACS3-HMAC-SHA256"

_BLOCK: Final = 64
"""Bytes that SHA-256 takes at a time."""


def canonical_request(method: str, path: str, query: str, headers: Headers, digest: str) -> str:
    """
    Return what both schemes hash.

    *path* is `sigv4_path` of the path on the wire, or for ACS3 that path itself. *query* is a
    `canonical_query`. *digest* is the SHA-256 of the body in hexadecimal digits.
    """
    lines = "".join([f"{name}:{value}\n" for name, value in headers])
    return canonical_text(method, path, query, lines, signed_names(headers), digest)


def canonical_text(method: str, path: str, query: str, lines: str, names: str, digest: str) -> str:
    """Return the same, of the *lines* of all headers that are signed, and of their *names*."""
    return f"{method}\n{path}\n{query}\n{lines}\n{names}\n{digest}"


def signed_names(headers: Headers) -> str:
    """Return the list of signed headers as both schemes write it."""
    return ";".join([name for name, _ in headers])


def canonical_query(pairs: Iterable[tuple[str, str]]) -> str:
    """Return the query as both schemes want it on the wire and in the signature."""
    return "&".join(
        f"{name}={value}"
        for name, value in sorted(
            (quote(name, safe=""), quote(value, safe="")) for name, value in pairs
        )
    )


def path_segment(name: str) -> str:
    """
    Return *name* as one segment of a path: nothing in it can end the segment or climb up.

    Raises `UnicodeEncodeError` for what is no text.
    """
    # A segment of dots would be taken out of the path on its way, by one side or the other.
    return name.replace(".", "%2E") if name in (".", "..") else quote(name, safe="")


def sigv4_path(path: str) -> str:
    """Return the path on the wire as SigV4 signs it: escaped once more (for all but S3)."""
    return quote(path, safe="/~")


def sigv4_value(value: str) -> str:
    """Return a header's value without the spaces that somebody on the way may take out of it."""
    # Most have none, and a space is the only one of them that is printable.
    return value if value.isprintable() and " " not in value else " ".join(value.split())


def sigv4_signature(secret: str, moment: str, region: str, service: str, canonical: str) -> str:
    """Return the signature of a canonical request; *moment* is what `sigv4_time` gives."""
    day = moment[:8]
    text = (
        f"{SIGV4}\n{moment}\n{day}/{region}/{service}/aws4_request\n"
        f"{hashlib.sha256(canonical.encode()).hexdigest()}"
    )
    return hmac_sha256(_sigv4_key(secret, day, region, service), text.encode()).hex()


@functools.lru_cache(maxsize=64)
def _sigv4_key(secret: str, day: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac_sha256(key, part.encode())
    return key


def acs3_signature(secret: str, canonical: str) -> str:
    """Return the signature of a canonical request. Time and nonce are among its headers."""
    text = f"{ACS3}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    return hmac_sha256(secret.encode(), text.encode()).hex()


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """
    Return the HMAC (RFC 2104) of a short message.

    `hmac.digest` gives the interpreter up for every message, however short: while another thread
    is busy, it takes many times as long to get it back.
    """
    inner, outer = _keyed(key)
    inner, outer = inner.copy(), outer.copy()
    inner.update(message)
    outer.update(inner.digest())
    digest: bytes = outer.digest()
    return digest


@functools.lru_cache(maxsize=256)
def _keyed(key: bytes) -> tuple[Any, Any]:
    """Return the two hashes of an HMAC after their first block, which is all that the key does."""
    if len(key) > _BLOCK:
        key = hashlib.sha256(key).digest()
    key = key.ljust(_BLOCK, b"\0")
    inner, outer = (hashlib.sha256(bytes(byte ^ pad for byte in key)) for pad in (0x36, 0x5C))
    return inner, outer
