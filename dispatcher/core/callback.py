"""
Tokens with which a function ends its own slot, and how it is told where to post.

A token is `c1.ATTEMPT.MAC`. It needs no memory on our side, is good for one attempt of one
invocation, and does nothing but end that attempt. The key is given: it is kept elsewhere.
"""

import base64
import hashlib
import hmac
from typing import Final

import msgspec

KEY_BYTES: Final = 32
_VERSION: Final = "c1"
_ATTEMPT_DIGITS_MAX: Final = 9

PLACEHOLDER: Final = "$dispatcher.completion"
"""A top-level member of a JSON payload with this value asks for the URL and token instead."""

OFFER_EXTRA_BYTES_MAX: Final = 1024
"""What `offer` may add to a payload beyond the length of the URL's base."""


# -- The token ----------------------------------------------------------------------------------


def token(key: bytes, invocation_id: str, attempt: int) -> str:
    """Return the token that ends attempt number *attempt* of the invocation."""
    assert attempt >= 1, attempt
    return f"{_VERSION}.{attempt}.{_mac(key, invocation_id, attempt)}"


def is_token(presented: str) -> bool:
    """Tell by its form alone whether *presented* claims to be such a token."""
    return presented.startswith(f"{_VERSION}.")


def attempt_of(key: bytes, invocation_id: str, presented: str) -> int | None:
    """
    Return the attempt that the token *presented* may end; None: it is no token for this id.

    The comparison takes the same time wherever a wrong token goes wrong.
    """
    version, _, rest = presented.partition(".")
    digits, _, mac = rest.partition(".")
    if version != _VERSION or not (digits.isascii() and digits.isdecimal()):
        return None
    if len(digits) > _ATTEMPT_DIGITS_MAX or digits.startswith("0"):
        return None
    expected = _mac(key, invocation_id, int(digits))
    # As bytes: compare_digest refuses text that is not ASCII with an exception.
    if not hmac.compare_digest(mac.encode(errors="surrogatepass"), expected.encode()):
        return None
    return int(digits)


def _mac(key: bytes, invocation_id: str, attempt: int) -> str:
    assert len(key) == KEY_BYTES, "not a callback key"
    # An id has no line ends, so no two pairs give the same message.
    message = f"completion\n{_VERSION}\n{invocation_id}\n{attempt}".encode()
    digest = hmac.digest(key, message, hashlib.sha256)
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


# -- Telling the function -----------------------------------------------------------------------


class _Offer(msgspec.Struct, frozen=True):
    url: str
    token: str
    id: str
    attempt: int


_MARK: Final = msgspec.json.encode(PLACEHOLDER)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def wants_offer(payload: bytes) -> bool:
    """Tell cheaply whether `offer` would have to look at *payload* at all."""
    return _MARK in payload


def offered_bytes_max(payload: bytes, url_base: str) -> int:
    """Return how large *payload* may become by `offer`."""
    return len(payload) + payload.count(_MARK) * (OFFER_EXTRA_BYTES_MAX + len(url_base))


def offer(payload: bytes, *, url_base: str, token: str, invocation_id: str, attempt: int) -> bytes:
    """
    Return *payload* with URL and token in place of each top-level `PLACEHOLDER`.

    A payload without one, or that is no JSON object, is returned as it is. Neither provider
    hands headers or client context of an asynchronous call on to the function, so the payload
    is the only way; and since it belongs to the caller, it is changed only where it asks.
    Members further down are left alone: they may hold what strangers wrote.
    """
    if not wants_offer(payload):
        return payload
    try:
        members = _members.decode(payload)
    except msgspec.DecodeError:
        return payload
    said = msgspec.Raw(
        msgspec.json.encode(
            _Offer(
                url=f"{url_base.rstrip('/')}/v1/invocations/{invocation_id}/completion",
                token=token,
                id=invocation_id,
                attempt=attempt,
            )
        )
    )
    asked = [name for name, value in members.items() if bytes(value) == _MARK]
    if not asked:
        return payload
    return msgspec.json.encode(members | dict.fromkeys(asked, said))
