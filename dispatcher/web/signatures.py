"""
Whose request is this, and is it as its sender signed it: SigV4, ACS3-HMAC-SHA256, `FC key:sig`.

Pure functions of the request as it came over the wire. `claim` reads what the head says and
refuses what no body could make good; `expected` gives the signatures that would prove it, by
which time the body is known. Which key belongs to whom is not known here.
"""

import base64
import calendar
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import lru_cache
from operator import itemgetter
from typing import Final
from urllib.parse import quote, unquote

from msgspec import Struct
from multidict import CIMultiDictProxy

from dispatcher.core import canonical
from dispatcher.core.canonical import ACS3, SIGV4

FC: Final = "FC"

SKEW_MAX_S: Final = {SIGV4: 300, ACS3: 900, FC: 900}
"""
How far a request's time may be off: 5 minutes at AWS (IAM, "Elements of an API request
signature"), 15 at Alibaba Cloud ("Request syntax and signature method V3").
"""

# What must be signed, or the rest proves nothing.
_SIGNED: Final = {
    SIGV4: frozenset({"host", "x-amz-date"}),
    ACS3: frozenset({"host", "x-acs-content-sha256", "x-acs-date", "x-acs-signature-nonce"}),
}
# Headers that change what a request means: if they come, they are signed.
_SIGNED_IF_GIVEN: Final = {SIGV4: "x-amz-", ACS3: "x-acs-"}

_SIGV4_TIME: Final = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z", re.ASCII)
_ACS3_TIME: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)Z", re.ASCII)
_AUTHORIZATION: Final = re.compile(
    r"Credential=(?P<credential>[^\s,]+),\s*SignedHeaders=(?P<names>[^\s,]+),"
)
_HEX_MD5: Final = re.compile(r"[0-9A-Fa-f]{32}")


class Fault(StrEnum):
    """What is wrong with a signature."""

    MISSING = "missing"
    MALFORMED = "malformed"
    UNKNOWN_KEY = "unknown_key"
    EXPIRED = "expired"
    REPEATED = "repeated"
    WRONG = "wrong"


class Unproved(Exception):
    """The request is not let in."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


class Head(Struct, frozen=True):
    """A request without its body, as it came over the wire."""

    method: str
    path: str
    """With its escapes."""
    query: str
    headers: Mapping[str, str]
    """By names in lower case; of those that came more than once, the first."""
    repeated: frozenset[str] = frozenset()
    """Names of headers that came more than once."""
    names: tuple[str, ...] = ()
    """Of all headers, in the order in which they came."""


class Signer(Struct, frozen=True):
    """What the requests of one client have in common, for a day and longer."""

    access_key_id: str
    names: tuple[str, ...] = ()
    """The headers that are signed; `FC` signs all that begin with `x-fc-`."""
    region: str = ""
    day: str = ""
    values: Callable[[Mapping[str, str]], tuple[str, ...]] = tuple
    """Takes the values of those headers from all. Raises `KeyError`."""
    lines: str = ""
    """What such headers are signed as, with a place for each value."""


class Claim(Struct, frozen=True):
    """What a request says of its signer; nothing of it is proved."""

    scheme: str
    signer: Signer
    signature: str
    moment: str = ""
    """Its time, as it was signed."""
    signed_at_s: float = 0.0
    """The same, Unix time."""


def head(method: str, target: str, headers: CIMultiDictProxy[str]) -> Head:
    """Take the target of a request line apart, which may be absolute (RFC 9112, 3.2.2)."""
    if not target.startswith("/"):
        target = "/" + target.partition("://")[2].partition("/")[2]
    path, _, query = target.partition("?")
    if "#" in query:
        query = query.partition("#")[0]
    names = _lower(tuple(headers.keys()))
    by_name = dict(zip(names, headers.values(), strict=False))
    if len(by_name) == len(headers):
        return Head(method, path, query, by_name, names=names)
    given = [(name.lower(), value) for name, value in headers.items()]
    by_name = dict(reversed(given))
    repeated = frozenset(name for name in by_name if len(headers.getall(name)) > 1)
    return Head(method, path, query, by_name, repeated, names)


# What a client sends has the same names each time. An entry may be as long as all headers together.
@lru_cache(maxsize=64)
def _lower(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.lower() for name in names)


def claim(request: Head, schemes: frozenset[str], now_s: float) -> Claim:
    """Return who the request says it is from. Raises `Unproved` if no body could prove it."""
    given = request.headers.get("authorization", "")
    if not given:
        if re.search(r"(?:^|&)(?:X-Amz-Signature|x-acs-signature|Signature)=", request.query):
            raise Unproved(Fault.MALFORMED, "presigned requests are not taken: sign the headers")
        raise Unproved(Fault.MISSING, "the request is not signed")
    scheme, _, rest = given.partition(" ")
    if "authorization" in request.repeated or scheme not in schemes:
        raise Unproved(Fault.MALFORMED, f"expected one Authorization of {' or '.join(schemes)}")
    claimed = _fc_claim(request, rest) if scheme == FC else _claim(request, scheme, rest)
    off_s = abs(now_s - claimed.signed_at_s)
    if not off_s <= SKEW_MAX_S[scheme]:
        raise Unproved(
            Fault.EXPIRED,
            f"signature expired or not yet current: {claimed.moment!r} is more than "
            f"{SKEW_MAX_S[scheme]} s away from the clock here",
        )
    return claimed


def _claim(request: Head, scheme: str, rest: str) -> Claim:
    start, _, signature = rest.rpartition("Signature=")
    signer = _signer(scheme, start, request.names)
    headers = request.headers
    if request.repeated and not request.repeated.isdisjoint(signer.names):
        raise Unproved(Fault.MALFORMED, "a signed header is given more than once")
    if scheme == SIGV4:
        moment = headers.get("x-amz-date", "")
        signed_at_s = _time(moment, _SIGV4_TIME)
        if moment[:8] != signer.day and signed_at_s is not None:
            raise Unproved(Fault.WRONG, "the credential's scope is of another day than x-amz-date")
    else:
        moment = headers.get("x-acs-date", "")
        signed_at_s = _time(moment, _ACS3_TIME)
    if signed_at_s is None:
        raise Unproved(Fault.MALFORMED, "the date of the request is missing or not a time")
    return Claim(scheme, signer, signature, moment, signed_at_s)


@lru_cache(maxsize=256)
def _signer(scheme: str, text: str, given: tuple[str, ...]) -> Signer:
    """
    Read what stands before the signature in a request with the headers *given*.

    Raises `Unproved`.
    """
    parts = _AUTHORIZATION.fullmatch(text.strip())
    if parts is None:
        raise Unproved(
            Fault.MALFORMED, "Authorization lacks Credential, SignedHeaders or Signature"
        )
    names = parts["names"].split(";")
    if names != sorted(set(names)):
        raise Unproved(Fault.MALFORMED, "SignedHeaders is not a sorted list")
    if missing := sorted(_SIGNED[scheme].difference(names)):
        raise Unproved(Fault.WRONG, f"not among SignedHeaders: {', '.join(missing)}")
    for name in given:
        if name.startswith(_SIGNED_IF_GIVEN[scheme]) and name not in names:
            raise Unproved(Fault.WRONG, f"not among SignedHeaders: {name}")
    values = itemgetter(*names)
    lines = "".join(f"{name.replace('%', '%%')}:%s\n" for name in names)
    if scheme != SIGV4:
        return Signer(parts["credential"], tuple(names), values=values, lines=lines)
    scope = parts["credential"].rsplit("/", 4)
    if len(scope) != 5 or scope[3:] != ["lambda", "aws4_request"]:
        raise Unproved(Fault.MALFORMED, "the credential's scope is not that of Lambda")
    return Signer(scope[0], tuple(names), scope[2], scope[1], values, lines)


def _fc_claim(request: Head, rest: str) -> Claim:
    key, _, signature = rest.strip().partition(":")
    if not (key and signature):
        raise Unproved(Fault.MALFORMED, "Authorization is not `FC key:signature`")
    moment = request.headers.get("date", "")
    if any(name.startswith("x-fc-") for name in request.repeated):
        raise Unproved(Fault.MALFORMED, "a signed header is given more than once")
    try:
        signed_at = parsedate_to_datetime(moment)
    except (ValueError, OverflowError, IndexError, TypeError) as error:
        raise Unproved(Fault.MALFORMED, "Date is missing or not a time") from error
    if signed_at.tzinfo is None:
        signed_at = signed_at.replace(tzinfo=UTC)
    return Claim(FC, Signer(key), signature, moment, signed_at.timestamp())


@lru_cache(maxsize=16)
def _time(moment: str, form: re.Pattern[str]) -> float | None:
    parts = form.fullmatch(moment)
    if parts is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in parts.groups())
    if not (year >= 1970 and 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60):
        return None
    return float(calendar.timegm((year, month, day, hour, minute, second)))


# -- Proof ----------------------------------------------------------------------------------------


def prove(request: Head, claimed: Claim, secret: str, digest: str, body: bytes) -> None:
    """
    Prove a claim; *digest* is the SHA-256 of *body* in hexadecimal digits.

    Raises `Unproved`. Signatures are compared in constant time.
    """
    _check_body(request, claimed, digest, body)
    try:
        given = claimed.signature.encode()
        is_right = False
        # Two may be right where SDKs differ in how they escape a path.
        for path in _paths(request.path, claimed.scheme):
            expected = _expected(request, claimed, secret, digest, path)
            is_right |= hmac.compare_digest(expected.encode(), given)
    except UnicodeEncodeError as error:  # a header that is no text
        raise Unproved(Fault.WRONG, "a signed header is not UTF-8") from error
    if not is_right:
        raise Unproved(
            Fault.WRONG,
            "The request signature we calculated does not match the signature you provided. "
            "Check the access key secret and the signing method.",
        )


def _check_body(request: Head, claimed: Claim, digest: str, body: bytes) -> None:
    if claimed.scheme == FC:
        md5 = _md5_of(request.headers.get("content-md5", ""))
        if md5 is not None and md5 != hashlib.md5(body, usedforsecurity=False).digest():
            raise Unproved(Fault.WRONG, "Content-MD5 is not that of the body")
        return
    name = "x-amz-content-sha256" if claimed.scheme == SIGV4 else "x-acs-content-sha256"
    said = request.headers.get(name)
    if said is not None and said != digest:
        raise Unproved(Fault.WRONG, f"{name} is not that of the body (unsigned ones are not taken)")


def _md5_of(text: str) -> bytes | None:
    """
    Return the MD5 that *text* stands for, None where it reads as none.

    SDKs write it in hexadecimal digits, in base64, or those digits in base64.
    """
    if _HEX_MD5.fullmatch(text):
        return bytes.fromhex(text)
    try:
        raw = base64.b64decode(text, validate=True)
        if len(raw) == 32 and _HEX_MD5.fullmatch(raw.decode()):
            return bytes.fromhex(raw.decode())
    except ValueError:
        return None
    return raw if len(raw) == 16 else None


def _expected(request: Head, claimed: Claim, secret: str, digest: str, path: str) -> str:
    """Return the signature that is right for one spelling of the path."""
    if claimed.scheme == FC:
        return _fc_signature(request, claimed, secret, path)
    signer = claimed.signer
    query = canonical.canonical_query(_pairs(request.query)) if request.query else ""
    try:
        values = signer.values(request.headers)
    except KeyError:
        values = tuple(request.headers.get(name, "") for name in signer.names)
    if not _is_plain("|".join(values)):
        values = tuple(
            canonical.sigv4_value(value) if claimed.scheme == SIGV4 else value.strip()
            for value in values
        )
    text = canonical.canonical_text(
        request.method, path, query, signer.lines % values, ";".join(signer.names), digest
    )
    if claimed.scheme == SIGV4:
        return canonical.sigv4_signature(secret, claimed.moment, signer.region, "lambda", text)
    return canonical.acs3_signature(secret, text)


def _is_plain(values: str) -> bool:
    """Tell whether values, with bars between them, have no space that is not signed as it is."""
    return (
        values.isascii()
        and values.isprintable()
        and "  " not in values
        and "| " not in values
        and " |" not in values
        and values[:1] != " " != values[-1:]
    )


@lru_cache(maxsize=1024)
def _paths(path: str, scheme: str) -> tuple[str, ...]:
    """
    Return the path as it is signed; where it came escaped otherwise, as it may have been as well.

    Alibaba's SDK for Python signs `%24`, and its HTTP library puts `$` on the wire.
    """
    if scheme == FC:
        return (unquote(path),)
    escaped = "/".join(quote(unquote(part), safe="~") for part in path.split("/"))
    paths = dict.fromkeys((path, escaped))
    # SigV4 has them escaped once more.
    return tuple(canonical.sigv4_path(each) if scheme == SIGV4 else each for each in paths)


def _pairs(query: str) -> list[tuple[str, str]]:
    """Return names and values of a query; a plus sign is only that."""
    parts = [part.partition("=") for part in query.split("&") if part]
    return [(unquote(name), unquote(value)) for name, _, value in parts]


def _fc_signature(request: Head, claimed: Claim, secret: str, path: str) -> str:
    get = request.headers.get
    # Those without a value are signed as such.
    lines = sorted(item for item in request.headers.items() if item[0].startswith("x-fc-"))
    text = "\n".join(
        (
            request.method,
            get("content-md5", ""),
            get("content-type", ""),
            claimed.moment,
            "".join(f"{name}:{value.strip()}\n" for name, value in lines) + path,
        )
    )
    return base64.b64encode(canonical.hmac_sha256(secret.encode(), text.encode())).decode()
