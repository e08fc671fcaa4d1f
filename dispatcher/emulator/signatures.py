"""
Who signed a request, and whether the signature is right: SigV4, ACS3-HMAC-SHA256, `FC ak:sig`.

Written from the providers' descriptions, for the server's side only: what was signed is taken
from the request as it came, never from what a client is thought to have meant.
"""

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

import msgspec

from dispatcher.emulator.wire import Call

SIGV4_SKEW_S: Final = 300
"""AWS: signatures are valid for 5 minutes around their time."""
ACS_SKEW_S: Final = 900
"""Alibaba Cloud, "request syntax and signature method V3 for ROA": 15 minutes."""

_UNRESERVED = "-_.~"


class Fault(StrEnum):
    """What is wrong with a signature."""

    MISSING = "missing"
    MALFORMED = "malformed"
    UNKNOWN_KEY = "unknown key"
    TOKEN = "token"  # noqa: S105 - the name of a fault
    EXPIRED = "expired"
    WRONG = "wrong"


class SignatureRefused(Exception):
    """The request is not let in."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says of its signer; nothing of it is proved."""

    scheme: str
    access_key_id: str
    signature: str
    signed: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()
    """SigV4: date, region, service, `aws4_request`."""

    @property
    def region(self) -> str | None:
        """The region of the credential scope."""
        return self.scope[1] if self.scope else None


def claim(call: Call) -> Claim | None:
    """Return who the request says it is from; None: it does not say. Raises `SignatureRefused`."""
    text = call.header("Authorization")
    if not text:
        return None
    scheme, _, rest = text.partition(" ")
    if scheme == "FC":
        key, colon, signature = rest.strip().partition(":")
        if not (key and colon and signature):
            raise SignatureRefused(Fault.MALFORMED, "Authorization is not `FC key:signature`")
        return Claim(scheme=scheme, access_key_id=key, signature=signature)
    if scheme not in {"AWS4-HMAC-SHA256", "ACS3-HMAC-SHA256"}:
        raise SignatureRefused(Fault.MALFORMED, f"unknown signature algorithm {scheme!r}")
    parts = dict(_pair(part) for part in rest.split(","))
    credential, signed = parts.get("Credential", ""), parts.get("SignedHeaders", "")
    if not (credential and signed and parts.get("Signature")):
        raise SignatureRefused(
            Fault.MALFORMED, "Authorization lacks Credential, SignedHeaders or Signature"
        )
    key, *scope = credential.split("/")
    if scheme == "AWS4-HMAC-SHA256" and (len(scope) != 4 or scope[3] != "aws4_request"):
        raise SignatureRefused(Fault.MALFORMED, f"not a credential scope: {credential!r}")
    return Claim(
        scheme=scheme,
        access_key_id=key,
        signature=parts["Signature"],
        signed=tuple(name.lower() for name in signed.split(";")),
        scope=tuple(scope),
    )


def verify(call: Call, claimed: Claim, secret: str, token: str | None, wall_s: float) -> None:
    """
    Prove a claim. *token*: the session token that has to come with this key.

    Raises `SignatureRefused`.
    """
    match claimed.scheme:
        case "AWS4-HMAC-SHA256":
            expected = _sigv4(call, claimed, secret, token, wall_s)
        case "ACS3-HMAC-SHA256":
            expected = _acs3(call, claimed, secret, token, wall_s)
        case _:
            expected = [_fc(call, secret, token, wall_s)]
    given = claimed.signature.encode()
    if not any(hmac.compare_digest(given, each.encode()) for each in expected):
        raise SignatureRefused(
            Fault.WRONG, "the signature we calculated does not match the one you provided"
        )


def _sigv4(call: Call, claimed: Claim, secret: str, token: str | None, wall_s: float) -> list[str]:
    date = call.header("X-Amz-Date")
    signed_at = _parse(date, "%Y%m%dT%H%M%SZ")
    if signed_at is None:
        raise SignatureRefused(Fault.MALFORMED, "X-Amz-Date is missing or not a time")
    _check_signed(claimed, {"host", "x-amz-date"})
    if not date.startswith(claimed.scope[0]):
        raise SignatureRefused(Fault.WRONG, "the credential scope is of another day")
    if abs(wall_s - signed_at) > SIGV4_SKEW_S:
        raise SignatureRefused(Fault.EXPIRED, f"Signature expired or not yet current: {date}")
    _check_token(call.header("X-Amz-Security-Token"), token)
    digest = hashlib.sha256(call.body).hexdigest()
    if call.header("X-Amz-Content-SHA256") not in {"", digest}:
        raise SignatureRefused(Fault.WRONG, "x-amz-content-sha256 is not that of the body")
    headers = "".join(
        f"{name}:{' '.join(_values(call, name).split())}\n" for name in claimed.signed
    )
    # What stands percent-encoded on the wire is encoded once more: %3A becomes %253A.
    path = quote(_without_dots(call.path), safe="/" + _UNRESERVED)
    request = "\n".join(
        (call.method, path, _query(call), headers, ";".join(claimed.signed), digest)
    )
    to_sign = "\n".join(
        (
            "AWS4-HMAC-SHA256",
            date,
            "/".join(claimed.scope),
            hashlib.sha256(request.encode()).hexdigest(),
        )
    )
    key = _sigv4_key(secret, *claimed.scope[:3])
    return [hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()]


@lru_cache(maxsize=256)
def _sigv4_key(secret: str, date: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def _acs3(call: Call, claimed: Claim, secret: str, token: str | None, wall_s: float) -> list[str]:
    _check_signed(claimed, {"host", "x-acs-date", "x-acs-content-sha256"})
    date = call.header("x-acs-date")
    signed_at = _parse(date, "%Y-%m-%dT%H:%M:%SZ")
    if signed_at is None:
        raise SignatureRefused(Fault.MALFORMED, "x-acs-date is missing or not a time")
    if abs(wall_s - signed_at) > ACS_SKEW_S:
        raise SignatureRefused(Fault.EXPIRED, f"x-acs-date is too far off: {date}")
    _check_token(call.header("x-acs-security-token"), token)
    digest = hashlib.sha256(call.body).hexdigest()
    if call.header("x-acs-content-sha256") != digest:
        raise SignatureRefused(Fault.WRONG, "x-acs-content-sha256 is not that of the body")
    headers = "".join(f"{name}:{_values(call, name).strip()}\n" for name in claimed.signed)
    signatures = []
    # As it came; and decoded and encoded anew, since the Python SDK signs `%24` and sends `$`.
    normal = "/".join(quote(unquote(part), safe=_UNRESERVED) for part in call.path.split("/"))
    for path in dict.fromkeys((call.path, normal)):
        request = "\n".join(
            (call.method, path, _query(call), headers, ";".join(claimed.signed), digest)
        )
        to_sign = "ACS3-HMAC-SHA256\n" + hashlib.sha256(request.encode()).hexdigest()
        signature = hmac.new(secret.encode(), to_sign.encode(), hashlib.sha256).hexdigest()
        signatures.append(signature)
    return signatures


def _fc(call: Call, secret: str, token: str | None, wall_s: float) -> str:
    date = call.header("Date")
    try:
        signed_at = parsedate_to_datetime(date)
    except ValueError as error:
        raise SignatureRefused(Fault.MALFORMED, "Date is missing or not a time") from error
    if signed_at.tzinfo is None:
        signed_at = signed_at.replace(tzinfo=UTC)
    if abs(wall_s - signed_at.timestamp()) > ACS_SKEW_S:
        raise SignatureRefused(Fault.EXPIRED, f"Date is too far off: {date}")
    _check_token(call.header("x-fc-security-token"), token)
    names = sorted({name.lower() for name in call.headers if name.lower().startswith("x-fc-")})
    to_sign = "\n".join(
        (
            call.method,
            call.header("Content-MD5"),
            call.header("Content-Type"),
            date,
            "".join(f"{name}:{_values(call, name).strip()}\n" for name in names)
            + unquote(call.path),
        )
    )
    digest = hmac.new(secret.encode(), to_sign.encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def _check_signed(claimed: Claim, needed: set[str]) -> None:
    missing = needed.difference(claimed.signed)
    if missing:
        raise SignatureRefused(
            Fault.WRONG, f"not among SignedHeaders: {', '.join(sorted(missing))}"
        )


def _check_token(given: str, token: str | None) -> None:
    if not hmac.compare_digest(given.encode(), (token or "").encode()):
        raise SignatureRefused(Fault.TOKEN, "the security token is missing or invalid")


def _query(call: Call) -> str:
    pairs = []
    for part in call.query_text.split("&"):
        if part:
            name, _, value = part.partition("=")
            pairs.append(
                (quote(unquote(name), safe=_UNRESERVED), quote(unquote(value), safe=_UNRESERVED))
            )
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _values(call: Call, name: str) -> str:
    return ",".join(call.headers.getall(name, []))


def _without_dots(path: str) -> str:
    """Return the path without empty, `.` and `..` segments, as RFC 3986 section 5.2.4."""
    if "//" not in path and "/." not in path:
        return path
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del kept[-1:]
        elif part not in {"", "."}:
            kept.append(part)
    tail = "/" if kept and path.endswith("/") else ""
    return "/" + "/".join(kept) + tail


def _pair(part: str) -> tuple[str, str]:
    name, _, value = part.strip().partition("=")
    return name, value


def _parse(text: str, form: str) -> float | None:
    try:
        return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
