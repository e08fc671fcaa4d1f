"""
News that the function, or a relay, posts to `POST /v1/invocations/{id}/completion`.

Who may end which attempt, what a post means in each state, and how the function is told where
to post. All pure but for the key, which is kept in a file beside the journal: functions that
run across a restart hold tokens from before it.

A token is `c1.ATTEMPT.MAC`. It needs no memory on our side, is good for one attempt of one
invocation, and does nothing but end that attempt.
"""

import base64
import hashlib
import hmac
import os
import secrets
from enum import Enum
from pathlib import Path
from typing import Final

import msgspec

from dispatcher.core.model import State
from dispatcher.errors import ConfigError

KEY_BYTES: Final = 32
_VERSION: Final = "c1"
_ATTEMPT_DIGITS_MAX: Final = 9

PLACEHOLDER: Final = "$dispatcher.completion"
"""A top-level member of a JSON payload with this value asks for the URL and token instead."""

OFFER_EXTRA_BYTES_MAX: Final = 1024
"""What `offer` may add to a payload beyond the length of the URL's base."""


# -- The key ------------------------------------------------------------------------------------


def fresh_key() -> bytes:
    """Return a new random key, enough for a dispatcher whose journal is in memory."""
    return secrets.token_bytes(KEY_BYTES)


def keep_key(path: Path) -> bytes:
    """
    Return the key in the file at *path*; make one, readable by this user only, if there is none.

    Blocks; call it before the loop runs or in a thread. Raises `ConfigError` when the file
    cannot be read or made, holds no key, or can be read by others. A key is never replaced:
    that would silently take away the tokens of what runs.
    """
    try:
        try:
            return _read_key(path)
        except FileNotFoundError:
            _write_key(path, fresh_key())
            return _read_key(path)
    except OSError as error:
        raise ConfigError([("", f"cannot keep the callback key at {path}: {error}")]) from error


def _read_key(path: Path) -> bytes:
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        key = file.read(KEY_BYTES + 1)
    if mode & 0o077:
        raise ConfigError([("", f"others may read the callback key at {path}: chmod 600 {path}")])
    if len(key) != KEY_BYTES:
        raise ConfigError([("", f"{path} holds no callback key ({KEY_BYTES} bytes)")])
    return key


def _write_key(path: Path, key: bytes) -> None:
    """Make the file complete or not at all, and lose to whoever makes it at the same time."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        draft.unlink()


# -- The token ----------------------------------------------------------------------------------


def token(key: bytes, invocation_id: str, attempt: int) -> str:
    """Return the token that ends attempt number *attempt* of the invocation."""
    assert attempt >= 1, attempt
    return f"{_VERSION}.{attempt}.{_mac(key, invocation_id, attempt)}"


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


# -- What a post means --------------------------------------------------------------------------


class Meaning(Enum):
    """What a completion that was posted does."""

    END = "end"  #: the attempt that runs has ended
    EARLY = "early"  #: it has ended before its 202 was recorded: keep it until then
    LATE = "late"  #: nobody knew any more how it ended; now it is known
    REPEAT = "repeat"  #: known already, or about an attempt that is over: nothing changes
    NOT_SENT = "not_sent"  #: nothing was sent that could have ended


def meaning(state: State, attempt: int, ended_attempt: int | None, *, sent: bool) -> Meaning:
    """
    Judge a completion by where the invocation stands.

    *attempt* is the invocation's present attempt, *sent* whether that may have reached the
    cloud; *ended_attempt* is the one that the news is about, None where the poster was not
    bound to one. The first news of an end wins; all later ones are `REPEAT`, which is answered
    like the first (204), so that a poster may repeat itself until it is heard.
    """
    if ended_attempt is not None and ended_attempt != attempt:
        return Meaning.REPEAT if ended_attempt < attempt else Meaning.NOT_SENT
    if state is State.WAITING:
        # A send whose reply was lost waits to be sent again, and may well have run.
        return Meaning.EARLY if sent else Meaning.NOT_SENT
    return _MEANING[state]


_MEANING: Final = {
    State.SENDING: Meaning.EARLY,
    State.RUNNING: Meaning.END,
    State.UNCERTAIN: Meaning.LATE,
    State.SUCCEEDED: Meaning.REPEAT,
    State.DEAD: Meaning.REPEAT,
    State.EXPIRED: Meaning.REPEAT,
    State.CANCELLED: Meaning.REPEAT,
}
assert set(_MEANING) | {State.WAITING} == set(State), "a state without a meaning"


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
