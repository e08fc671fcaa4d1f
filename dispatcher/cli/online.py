"""
What `check --online` asks the clouds: how the ends of each function will really be known.

Only what the configuration names can be asked about. Nothing here fails: what cannot be asked
is said to be unknown.
"""

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import anyio
import msgspec

from dispatcher.config import AccountSettings, Settings
from dispatcher.core.model import CallType, Denied, Lost, NotSent, Source, Throttled
from dispatcher.core.rules import FunctionRules
from dispatcher.errors import ConfigError
from dispatcher.transports import FcTransport, LambdaTransport, open_transport

ACCOUNT_MAX_S: Final = 15.0
"""How long one account may take to answer, its keys included."""
LOOKS_AT_ONCE: Final = 8

FC_RETRIES: Final = 3
"""help.aliyun.com, PutAsyncInvokeConfig: maxAsyncRetryAttempts, unless set."""
LAMBDA_RETRIES: Final = 2
"""AWS Lambda API, PutFunctionEventInvokeConfig: MaximumRetryAttempts, unless set."""


class Finding(msgspec.Struct, frozen=True):
    """What was found out about a function, or about all of an account."""

    account: str
    function: str | None
    text: str
    is_warning: bool = False


class _FcConfig(msgspec.Struct, frozen=True):
    async_task: bool | None = msgspec.field(name="asyncTask", default=None)
    retries: int | None = msgspec.field(name="maxAsyncRetryAttempts", default=None)


class _Destination(msgspec.Struct, frozen=True):
    arn: str | None = msgspec.field(name="Destination", default=None)


class _Destinations(msgspec.Struct, frozen=True):
    success: _Destination | None = msgspec.field(name="OnSuccess", default=None)
    failure: _Destination | None = msgspec.field(name="OnFailure", default=None)


class _LambdaConfig(msgspec.Struct, frozen=True):
    arn: str = msgspec.field(name="FunctionArn", default="")
    retries: int | None = msgspec.field(name="MaximumRetryAttempts", default=None)
    destinations: _Destinations | None = msgspec.field(name="DestinationConfig", default=None)


class _LambdaConfigs(msgspec.Struct, frozen=True):
    configs: list[_LambdaConfig] = msgspec.field(name="FunctionEventInvokeConfigs")


async def look(settings: Settings) -> list[Finding]:
    """Ask all clouds at the same time; return the findings in the order of the configuration."""
    found: dict[str, list[Finding]] = {}

    async def ask(name: str, account: AccountSettings) -> None:
        try:
            with anyio.fail_after(ACCOUNT_MAX_S):
                found[name] = await _of_account(name, account)
        except TimeoutError:
            text = f"no answer within {ACCOUNT_MAX_S:g} s: nothing is known of its functions"
            found[name] = [Finding(name, None, text, is_warning=True)]
        except ConfigError as error:
            found[name] = [Finding(name, None, str(error), is_warning=True)]

    async with anyio.create_task_group() as tasks:
        for name, account in settings.accounts.items():
            tasks.start_soon(ask, name, account)
    return [finding for name in settings.accounts for finding in found[name]]


async def _of_account(name: str, account: AccountSettings) -> list[Finding]:
    asked = [
        (function, rules)
        for function, rules in account.functions.items()
        if function != "*" and rules.type is CallType.ASYNC
    ]
    if not asked:
        text = "no function has a section, so there is none to ask about"
        return [Finding(name, None, text)]
    transport = await open_transport(account, name=name)
    found: dict[str, list[Finding]] = {}
    room = anyio.Semaphore(LOOKS_AT_ONCE)

    async def ask(function: str, rules: FunctionRules) -> None:
        async with room:
            if isinstance(transport, FcTransport):
                texts = await _of_fc(transport, function, rules)
            else:
                texts = await _of_lambda(transport, account, function, rules)
        found[function] = [Finding(name, function, *each) for each in texts]

    try:
        async with anyio.create_task_group() as tasks:
            for function, rules in asked:
                tasks.start_soon(ask, function, rules)
    finally:
        await transport.aclose()
    return [finding for function, _ in asked for finding in found[function]]


Text = tuple[str, bool]


async def _of_fc(transport: FcTransport, function: str, rules: FunctionRules) -> list[Text]:
    path = ("functions", function, "async-invoke-config")
    reply = await transport.manage("GetAsyncInvokeConfig", "GET", path)
    if isinstance(reply, (Throttled, Denied, NotSent, Lost)):
        return [_unknown(reply)]
    status, _, body = reply
    config = _FcConfig(async_task=False)
    if status == 200:
        try:
            config = msgspec.json.decode(body, type=_FcConfig)
        except msgspec.DecodeError:
            return [("its asynchronous configuration cannot be read", True)]
    elif status != 404 or b"FunctionNotFound" in body:
        return [_no_answer(status, body)]
    return list(_judged_fc(config, rules))


def _judged_fc(config: _FcConfig, rules: FunctionRules) -> Iterator[Text]:
    if rules.completion is Source.TASK:
        if config.async_task:
            yield "task mode is on: its ends are exact", False
        else:
            yield "task mode is off: its ends are estimated; switch asyncTask on", True
    else:
        yield from _of_source(rules)
        if config.async_task and rules.completion is not Source.CALLBACK:
            yield 'task mode is on: completion = "task" would be exact', True
    retries = FC_RETRIES if config.retries is None else config.retries
    yield from _of_retries(retries, rules, "maxAsyncRetryAttempts")


async def _of_lambda(
    transport: LambdaTransport, account: AccountSettings, function: str, rules: FunctionRules
) -> list[Text]:
    reply = await transport.look("2019-09-25", "functions", function, "event-invoke-config")
    if isinstance(reply, (Denied, NotSent, Lost)):
        return [_unknown(reply)]
    status, body = reply
    config = _LambdaConfig()
    if status == 200:
        try:
            config = msgspec.json.decode(body, type=_LambdaConfig)
        except msgspec.DecodeError:
            return [("its asynchronous configuration cannot be read", True)]
    # Without a configuration of its own a function has the defaults, and is 404 all the same.
    elif status != 404 or b"EventInvokeConfig" not in body:
        return [_no_answer(status, body)]
    texts = list(_judged_lambda(config, account, rules, "unqualified calls"))
    return texts + await _of_qualified(transport, account, function, rules)


async def _of_qualified(
    transport: LambdaTransport, account: AccountSettings, function: str, rules: FunctionRules
) -> list[Text]:
    """Judge what versions and aliases have of their own; what they have not, they have not."""
    path = ("functions", function, "event-invoke-config", "list")
    reply = await transport.look("2019-09-25", *path)
    body = b"" if isinstance(reply, (Denied, NotSent, Lost)) or reply[0] != 200 else reply[1]
    try:
        found = msgspec.json.decode(body, type=_LambdaConfigs)
    except msgspec.DecodeError:
        return [("the cloud does not say how its versions and aliases are configured", False)]
    texts: list[Text] = []
    for config in found.configs:
        qualifier = config.arn.rpartition(":")[2]
        if qualifier != "$LATEST":
            texts += _judged_lambda(config, account, rules, f"calls of {function}:{qualifier}")
    return texts


def _judged_lambda(
    config: _LambdaConfig, account: AccountSettings, rules: FunctionRules, calls: str
) -> Iterator[Text]:
    targets = config.destinations or _Destinations()
    missing = [
        name
        for name, target in (("OnSuccess", targets.success), ("OnFailure", targets.failure))
        if not _leads_to(account.completion_queue, None if target is None else target.arn)
    ]
    if rules.completion is not Source.DESTINATION:
        yield from _of_source(rules)
    elif not missing:
        yield f"both destinations lead to the queue: the ends of {calls} are exact", False
    else:
        text = (
            f"{' and '.join(missing)} of {calls} do not lead to the queue: such ends are "
            "never learned, and each holds its slot for hold_max_s"
        )
        yield text, True
    retries = LAMBDA_RETRIES if config.retries is None else config.retries
    yield from _of_retries(retries, rules, "MaximumRetryAttempts", calls)


def _leads_to(queue: str | None, arn: str | None) -> bool:
    """Tell whether a destination is, or may lead to, the queue of a URL."""
    if queue is None or not arn:
        return False
    parts = arn.split(":")
    if len(parts) < 6 or parts[2] != "sqs":
        return parts[2:3] in (["sns"], ["events"])  # which may well pass it on to the queue
    return urlsplit(queue).path.rstrip("/").endswith(f"/{parts[4]}/{parts[5]}")


def _of_source(rules: FunctionRules) -> Iterator[Text]:
    if rules.completion in (Source.DURATION, Source.ACCEPTED):
        yield f'completion = "{rules.completion}": its ends are estimated', False
    else:
        yield (
            f'completion = "{rules.completion}": its ends are exact as far as they are told',
            False,
        )


def _of_retries(
    retries: int, rules: FunctionRules, key: str, calls: str = "its calls"
) -> Iterator[Text]:
    if not retries:
        return
    times = "once" if retries == 1 else f"{retries} times"
    text = (
        f"of {calls} the cloud itself repeats a run that fails, {times}, and all that while it "
        f"holds its slot; set {key} to 0"
    )
    if rules.attempts_max > 1:
        runs = (retries + 1) * rules.attempts_max
        text += f" (with attempts_max = {rules.attempts_max} it may run {runs} times)"
    yield text, True


def _unknown(reply: Throttled | Denied | NotSent | Lost) -> Text:
    why = reply.message if isinstance(reply, Throttled) else reply.failure.message
    return f"the cloud does not say how it is configured: {why[:300]}", True


def _no_answer(status: int, body: bytes) -> Text:
    words = body[:300].decode(errors="replace")
    return f"the cloud does not say how it is configured: HTTP {status} {words}", True
