"""The names by which Lambda functions are called: plain, with alias, partial and full ARN."""

import re

import msgspec

from dispatcher.emulator.account import AccountState
from dispatcher.emulator.lambda_errors import LambdaError
from dispatcher.emulator.wire import Call

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_QUALIFIER = re.compile(r"\$LATEST(\.PUBLISHED)?|[A-Za-z0-9_-]{1,128}")
_REGION = re.compile(r"[a-z]{2,}(-[a-z]+)+-\d+")
_ACCOUNT = re.compile(r"\d{12}")

NAME_MAX = 256


class NameRefused(ValueError):
    """Not the name of a function."""


class Name(msgspec.Struct, frozen=True, kw_only=True):
    """A function as a caller names it; what the name does not say is None."""

    function: str
    qualifier: str | None = None
    region: str | None = None
    account_id: str | None = None


def parse_name(text: str) -> Name:
    """
    Take a (decoded) function name apart. Raises `NameRefused`.

    `name`, `name:alias`, `function:name`, `123456789012:function:name`, and the ARN; as the
    pattern of FunctionName in the service model allows them.
    """
    parts = text.split(":")
    if len(text) > NAME_MAX:
        raise NameRefused(f"longer than {NAME_MAX} characters")
    if parts[0] == "arn":
        if len(parts) < 7 or not parts[1].startswith("aws") or parts[2] != "lambda":
            raise NameRefused("not the ARN of a function")
        if parts[5] != "function":
            raise NameRefused("not the ARN of a function")
        parts = parts[3:]
    region = parts.pop(0) if len(parts) > 1 and _REGION.fullmatch(parts[0]) else None
    account_id = parts.pop(0) if len(parts) > 1 and _ACCOUNT.fullmatch(parts[0]) else None
    if len(parts) > 1 and parts[0] == "function":
        del parts[0]
    function, *rest = parts
    if len(rest) > 1 or not _PLAIN.fullmatch(function):
        raise NameRefused("not a function name")
    if rest and not _QUALIFIER.fullmatch(rest[0]):
        raise NameRefused("not a version or alias")
    return Name(
        function=function,
        qualifier=rest[0] if rest else None,
        region=region,
        account_id=account_id,
    )


def resolve(call: Call, account: AccountState, text: str) -> tuple[str, str | None]:
    """Return the function and qualifier that a request names. Raises `LambdaError`."""
    try:
        name = parse_name(text)
    except NameRefused as error:
        raise LambdaError(
            400,
            "ValidationException",
            f"1 validation error detected: Value '{text}' at 'functionName' failed to satisfy "
            f"constraint: {error}",
        ) from error
    settings = account.settings
    if name.region not in {None, settings.region}:
        raise LambdaError(
            404,
            "ResourceNotFoundException",
            f"Functions from '{name.region}' are not reachable in this region "
            f"('{settings.region}')",
            key="Message",
        )
    if name.account_id not in {None, settings.account_id}:
        raise LambdaError(
            403,
            "AccessDeniedException",
            f"User is not authorized to perform this action on function {text} of another account",
            key="Message",
        )
    asked = call.query.get("Qualifier") or None
    if asked is not None and not _QUALIFIER.fullmatch(asked):
        raise LambdaError(
            400,
            "ValidationException",
            f"1 validation error detected: Value '{asked}' at 'qualifier' failed to satisfy "
            "constraint",
        )
    if name.qualifier is not None and asked not in {None, name.qualifier}:
        raise LambdaError(
            400,
            "InvalidParameterValueException",
            "The derived qualifier from the function name does not match the specified qualifier.",
        )
    return name.function, name.qualifier or asked


def missing(account: AccountState, function: str, qualifier: str | None) -> LambdaError:
    """Return the 404 of a function or a qualifier."""
    settings = account.settings
    arn = f"arn:aws:lambda:{settings.region}:{settings.account_id}:function:{function}"
    arn = arn if qualifier is None else f"{arn}:{qualifier}"
    return LambdaError(
        404, "ResourceNotFoundException", f"Function not found: {arn}", key="Message"
    )
