"""Is this invocation one that can be accepted? Names, ranges, sizes; nothing that may change."""

import re
from collections.abc import Callable, Collection
from types import NoneType
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from dispatcher.core.gates import rules_for
from dispatcher.core.model import CallType, Invocation, Provider, Source
from dispatcher.core.rules import AccountRules, FunctionRules
from dispatcher.errors import Invalid, PayloadTooLarge

KEY_CHARS_MAX: Final = 256
URL_CHARS_MAX: Final = 2048
#: Head start, delay and expiry may not be longer than ten years: enough, and no overflow.
SECONDS_MAX: Final = 315_360_000.0

# No dots alone: that would be a step in the path of a URL.
_FUNCTION = re.compile(r"(?!\.+\Z)[A-Za-z0-9_$.-]{1,128}\Z")
_QUALIFIER = re.compile(r"[A-Za-z0-9$_.-]{1,128}\Z")
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_KEY = re.compile(r"[\x21-\x7e]{1,256}\Z")
_TASK_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}\Z")
_URL = re.compile(r"[\x21-\x5b\x5d-\x7e]{1,2048}\Z")
_OPTION = re.compile(r"[a-z_]{1,64}\Z")
_OPTION_VALUE = re.compile(r"[\x20-\x7e]{0,4096}\Z")
_CALL_TYPES: Final = {each.value: each for each in CallType}
_ARN = re.compile(
    r"(?:arn:(?P<partition>aws[a-z-]*):lambda:)?(?:(?P<region>[a-z0-9-]+):)?"
    r"(?P<account>\d{12}):function:(?P<name>[A-Za-z0-9_-]+)(?::(?P<qualifier>[A-Za-z0-9$_.-]+))?\Z"
)


class FunctionName(Struct, frozen=True):
    """A function's name taken apart; the last two are known only of an ARN."""

    name: str
    qualifier: str | None = None
    account_id: str | None = None
    region: str | None = None


def function_name(text: str, provider: Provider) -> FunctionName | None:
    """
    Take `name`, `name:qualifier`, or Lambda's partial or full ARN apart; None: it is neither.

    The forms are those of the Lambda API's `FunctionName`.
    """
    if provider is Provider.AWS_LAMBDA and (arn := _ARN.match(text)):
        return FunctionName(arn["name"], arn["qualifier"], arn["account"], arn["region"])
    name, _, qualifier = text.partition(":")
    if not _FUNCTION.match(name) or (":" in text and not _QUALIFIER.match(qualifier)):
        return None
    return FunctionName(name, qualifier or None)


class Place(Struct, frozen=True):
    """Where an account is, to tell whether an ARN means it."""

    provider: Provider
    account_id: str
    region: str


#: What each field of an invocation may be, and how that is said.
_TYPES: Final[tuple[tuple[str, tuple[type, ...], str], ...]] = (
    ("account", (str,), "text"),
    ("function", (str,), "text"),
    ("payload", (bytes,), "bytes"),
    ("qualifier", (str, NoneType), "text or None"),
    ("tenant", (str,), "text"),
    ("priority", (float, int), "a number"),
    ("delay_s", (float, int), "a number"),
    ("expires_s", (float, int, NoneType), "a number or None"),
    ("idempotency_key", (str, NoneType), "text or None"),
    ("type", (str, NoneType), "a CallType or None"),
    ("callback_url", (str, NoneType), "text or None"),
    ("options", (dict,), "a dict"),
    ("task_id", (str, NoneType), "text or None"),
)


def typed(invocation: object) -> Invocation:
    """
    Return *invocation*, made by code that no type checker need have seen, with the right types.

    Raises `Invalid` for a field that is something else: later nobody looks any more, and a
    payload that is no bytes could neither be kept nor sent.
    """
    if not isinstance(invocation, Invocation):
        raise Invalid(f"expected an Invocation, got {type(invocation).__name__}")
    for name, types, words in _TYPES:
        value = getattr(invocation, name)
        if not isinstance(value, types):
            raise Invalid(f"expected {words}, got {type(value).__name__}", pointer=f"/{name}")
    call_type: object = invocation.type
    if call_type is None or isinstance(call_type, CallType):
        return invocation
    if call_type not in _CALL_TYPES:
        raise Invalid(f"expected 'async' or 'sync', got {call_type!r}", pointer="/type")
    return replace(invocation, type=_CALL_TYPES[str(call_type)])


class Target(Struct, frozen=True):
    """What the names in an invocation lead to."""

    function: str
    qualifier: str | None
    call_type: CallType
    provider: Provider
    payload_bytes_max: int
    is_offered_callback: bool
    """The function is told in its payload where to post its end."""


def target_of(
    invocation: Invocation,
    rules: AccountRules,
    place: Place,
    payload_max_bytes: Callable[[CallType], int],
) -> Target:
    """
    Judge account, function, qualifier, tenant and call type, and nothing else.

    So it holds for all that have the same. Raises `Invalid`, with the JSON pointer of the
    field to blame.
    """
    function, qualifier = _named(invocation, place)
    if qualifier is not None and not _QUALIFIER.match(qualifier):
        raise Invalid(f"{qualifier!r} is not a qualifier", pointer="/qualifier")
    if not _TENANT.match(invocation.tenant):
        raise Invalid(
            "a tenant's name is 1 to 64 letters, digits, '.', '_' or '-'", pointer="/tenant"
        )
    listed = function in rules.functions and function != "*"
    if not listed and not rules.unlisted:
        raise Invalid(
            f"account {invocation.account!r} allows only the functions of its configuration, "
            f"and {function!r} is not one of them",
            pointer="/function",
        )
    of_function = rules_for(rules.functions, function)
    call_type = _call_type(invocation, of_function)
    return Target(
        function=function,
        qualifier=qualifier,
        call_type=call_type,
        provider=place.provider,
        payload_bytes_max=payload_max_bytes(call_type),
        is_offered_callback=(
            call_type is CallType.ASYNC and of_function.completion is Source.CALLBACK
        ),
    )


def examine(invocation: Invocation, target: Target) -> Invocation:
    """
    Judge what `target_of` does not; return the invocation with function and qualifier apart.

    Raises `Invalid`, with the JSON pointer of the field to blame, or `PayloadTooLarge`.
    """
    _check_words(invocation)
    check_numbers(invocation)
    size, limit = len(invocation.payload), target.payload_bytes_max
    if size > limit:
        kind = "a synchronous" if target.call_type is CallType.SYNC else "an asynchronous"
        raise PayloadTooLarge(
            f"the payload has {size} bytes; {target.provider} takes at most "
            f"{limit} bytes for {kind} call",
            pointer="/payload",
        )
    if (target.function, target.qualifier) == (invocation.function, invocation.qualifier):
        return invocation
    return replace(invocation, function=target.function, qualifier=target.qualifier)


def _named(invocation: Invocation, place: Place) -> tuple[str, str | None]:
    """Return the function and its qualifier."""
    name = function_name(invocation.function, place.provider)
    if name is None:
        raise Invalid(f"{invocation.function!r} is not a function's name", pointer="/function")
    elsewhere = (name.account_id, name.region) != (
        name.account_id and place.account_id,
        name.region and place.region,
    )
    if elsewhere:
        raise Invalid(
            f"{invocation.function!r} belongs to another account or region than "
            f"{invocation.account!r}",
            pointer="/function",
        )
    if name.qualifier is None:
        return name.name, invocation.qualifier
    if invocation.qualifier not in (None, name.qualifier):
        raise Invalid("the function's name has another qualifier", pointer="/qualifier")
    return name.name, name.qualifier


def callback_flaw(url: str, hosts: Collection[str]) -> str | None:
    """Say why *url* may not be called back where only *hosts* may be; None: it may."""
    if not hosts:
        return "no host is allowed to be called back (callbacks.hosts)"
    # Parsers disagree about what a backslash means; nobody needs one.
    if not _URL.match(url):
        return f"a URL has at most {URL_CHARS_MAX} visible ASCII characters, and no backslash"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"not a URL: {error}"
    if parts.scheme != "https" or not host or "@" in parts.netloc or "#" in url:
        return "expected https://host/..., without a user name and a fragment"
    if host not in {each.lower() for each in hosts}:
        return f"{host!r} is not one of callbacks.hosts"
    return None


def _check_words(invocation: Invocation) -> None:
    key = invocation.idempotency_key
    if key is not None and not _KEY.match(key):
        raise Invalid(
            f"an idempotency key is 1 to {KEY_CHARS_MAX} visible ASCII characters",
            pointer="/idempotency_key",
        )
    if invocation.task_id is not None and not _TASK_ID.match(invocation.task_id):
        raise Invalid(
            "a task id starts with a letter or '_', then letters, digits, '_' or '-', 128 in all",
            pointer="/task_id",
        )
    for name, value in invocation.options.items():
        if not _OPTION.match(name) or not _OPTION_VALUE.match(value):
            raise Invalid(f"option {name!r} is not one that can be sent", pointer="/options")


def check_numbers(invocation: Invocation) -> None:
    """Raise `Invalid` for a number that no time can be."""
    for name, value, low in (
        ("priority", invocation.priority, -SECONDS_MAX),
        ("delay_s", invocation.delay_s, 0.0),
        ("expires_s", invocation.expires_s, 0.0),
    ):
        # A comparison is false for what is no number, and true to an integer of any size.
        if value is not None and not low <= value <= SECONDS_MAX:
            raise Invalid(
                f"{name} is a number of seconds from {low:.0f} to {SECONDS_MAX:.0f}",
                pointer=f"/{name}",
            )
    if invocation.expires_s is not None and invocation.expires_s <= invocation.delay_s:
        raise Invalid("it would expire before it is due", pointer="/expires_s")


def _call_type(invocation: Invocation, function: FunctionRules) -> CallType:
    call_type = invocation.type or function.type
    if call_type is CallType.ASYNC and function.completion is Source.RESPONSE:
        raise Invalid(
            f"{invocation.function!r} is configured for synchronous calls only: nothing would "
            "tell the end of an asynchronous one",
            pointer="/type",
        )
    return call_type
