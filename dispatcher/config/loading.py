"""From text to settings: the same way for the first load and for every later one."""

import copy
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from dispatcher.config import meaning, shape
from dispatcher.config.problems import Problem
from dispatcher.config.settings import AccountSettings, Settings, StaticCredentials
from dispatcher.core.model import CallType, Provider, Source
from dispatcher.core.rules import FunctionRules
from dispatcher.errors import ConfigError


def load(path: Path) -> Settings:
    """
    Read the file at *path*.

    Raises `ConfigError` with every problem found; nothing is ever half accepted.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    except (OSError, ValueError) as error:
        raise ConfigError([("", f"cannot read {path}: {error}")]) from error
    return parse(text, base=path.resolve().parent)


def parse(text: str, *, base: Path) -> Settings:
    """
    Turn the TOML *text* into settings; relative paths in it start at *base*.

    Raises `ConfigError` with every problem found.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([("", f"not TOML: {error}")]) from error
    except (RecursionError, ValueError) as error:
        # Nested beyond reason, or a number of thousands of digits.
        raise ConfigError([("", f"not a configuration: {error}")]) from error
    return judged(raw, base.absolute())


def check(settings: Settings) -> Settings:
    """
    Judge settings that were made in code by the rules for files; return them resolved.

    Relative paths start at the working directory. Raises `ConfigError`.
    """
    try:
        raw = msgspec.to_builtins(settings)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError([("", f"not settings: {error}")]) from error
    return judged(raw, Path.cwd())


def judged(raw: dict[str, Any], base: Path) -> Settings:
    """Return what the tables *raw* say. Raises `ConfigError` with every problem found."""
    faults = list(shape.faults(raw, Settings))
    sound = _without(raw, faults) if faults else raw
    settings = _resolved(msgspec.convert(_with_function_defaults(sound), Settings), base)
    accounts = raw.get("accounts")
    found = meaning.problems(
        settings,
        judged_elsewhere=accounts if isinstance(accounts, dict) else (),
        of_no_provider=[
            str(fault.keys[1])
            for fault in faults
            if fault.required and fault.keys[-1] == "provider"
        ],
    )
    problems = [Problem(fault.path, fault.message) for fault in faults]
    problems += _not_caused_by(faults, found)
    if problems:
        raise ConfigError(sorted(problems))
    return settings


# -- What is wrong in shape is left out, so that the rest can be judged as well --------------------

# With the largest quota, what else is in an account contradicts nothing that it would not
# contradict anyway; the others are words that nobody else has, so that they are not the same.
_REQUIRED: Final[Mapping[str | int, Callable[[int], str | int]]] = {
    "provider": lambda _: Provider.ALIYUN_FC.value,
    "quota": lambda _: shape.INTEGER_MAX,
    "account_id": lambda number: f"{10**19 + number}",
    "region": lambda number: f"no-{number}",
    "account": lambda number: f"no {number}",
    "access_key_id": lambda number: f"no-{number}",
    "access_key_secret_file": lambda number: f"no-{number}",
}
# Without an item the others would have other indices.
_ITEMS: Final[Mapping[str | int, str | int]] = {
    "listen": "127.0.0.1:0",
    "hosts": "localhost",
    "unix_uids": 0,
    "network_filesystems": "nfs",
}


def _without(raw: dict[str, Any], faults: Iterable[shape.Fault]) -> dict[str, Any]:
    """Return a copy of *raw* without what is wrong with it, or with something in its stead."""
    sound = copy.deepcopy(raw)
    for number, fault in enumerate(faults):
        *around, key = fault.keys
        if fault.required and key in _REQUIRED:
            _table(sound, around)[key] = _REQUIRED[key](number)
            continue
        if isinstance(key, int) and around[-1] in _ITEMS:
            *outside, array = around
            items = _table(sound, outside)[array] = list(_table(sound, outside)[array])
            items[key] = _ITEMS[array]
            continue
        if fault.required or isinstance(key, int):
            *around, key = around
        _table(sound, around).pop(key, None)
    return sound


def _table(raw: dict[str, Any], keys: Iterable[str | int]) -> dict[str | int, Any]:
    """Return the table at *keys*; an empty one where it has been left out already."""
    table: Any = raw
    for key in keys:
        table = table.get(key, {})
    return table  # type: ignore[no-any-return]


# Keys that others are judged by: where one of them is wrong, so may be the judgement.
_JUDGED_BY = frozenset({
    "token_file", "delay_base_s", "delay_max_s", "unlisted", "completion_queue",
    "type", "completion", "duration_s", "hold_max_s",
})  # fmt: skip
_JUDGED_BY_PROVIDER = ("completion_queue", "functions")


def _not_caused_by(faults: Collection[shape.Fault], found: Iterable[Problem]) -> Iterable[Problem]:
    """Pass on those *found* problems that would remain if the *faults* were repaired."""
    tainted = set()
    for fault in faults:
        *around, key = fault.keys
        if key in _JUDGED_BY:
            if around and around[-1] == "*":
                around.pop()  # its siblings inherit
            tainted.add(shape.spelled(tuple(around)) + ".")
        elif key == "provider":
            tainted |= {shape.spelled((*around, each)) for each in _JUDGED_BY_PROVIDER}
    known = {fault.path for fault in faults}
    return (
        problem
        for problem in found
        if problem.path not in known and not problem.path.startswith(tuple(tainted))
    )


# -- What was left unsaid is made explicit ---------------------------------------------------------


def _with_function_defaults(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Give each function of an account what `*` says and it does not say itself."""
    accounts = {}
    for name, account in raw.get("accounts", {}).items():
        functions = account.get("functions", {})
        star = functions.get("*", {})
        accounts[name] = {
            **account,
            "functions": {key: _inherited(star, own) for key, own in functions.items()},
        }
    return {**raw, "accounts": accounts}


def _inherited(star: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**star, **own}
    if "type" in own and "completion" not in own and own["type"] != star.get("type", "async"):
        # How the end is known goes with the type of call, so it is not handed on alone.
        merged.pop("completion", None)
    return merged


def _resolved(settings: Settings, base: Path) -> Settings:
    """Make paths absolute, completions explicit, and `""` nothing."""
    replace = msgspec.structs.replace
    server, journal = settings.server, settings.journal
    file = journal.url.removeprefix("sqlite:")
    if file != journal.url and file and not file.startswith("/") and not file.endswith("/"):
        journal = replace(journal, url=f"sqlite://{base / file}")
    return replace(
        settings,
        server=replace(server, token_file=_absolute(server.token_file, base)),
        metrics=replace(settings.metrics, listen=settings.metrics.listen or None),
        callbacks=replace(
            settings.callbacks, secret_file=_absolute(settings.callbacks.secret_file, base)
        ),
        journal=journal,
        accounts={
            name: _resolved_account(account, base) for name, account in settings.accounts.items()
        },
        clients={
            name: replace(client, access_key_secret_file=str(base / client.access_key_secret_file))
            for name, client in settings.clients.items()
        },
    )


def _resolved_account(account: AccountSettings, base: Path) -> AccountSettings:
    replace = msgspec.structs.replace
    credentials = account.credentials
    if isinstance(credentials, StaticCredentials):
        credentials = replace(
            credentials,
            access_key_secret_file=str(base / credentials.access_key_secret_file),
            security_token_file=_absolute(credentials.security_token_file, base),
        )
    functions = {
        name: replace(rules, completion=_completion(rules, account))
        for name, rules in {"*": FunctionRules(), **account.functions}.items()
    }
    return replace(account, functions=functions, credentials=credentials)


def _completion(rules: FunctionRules, account: AccountSettings) -> Source:
    """Return the source of completions, the provider's default where none is named."""
    if rules.completion is not None:
        return rules.completion
    if rules.type is CallType.SYNC:
        return Source.RESPONSE
    if account.provider is Provider.ALIYUN_FC:
        return Source.TASK
    return Source.DURATION if account.completion_queue is None else Source.DESTINATION


def _absolute(path: str | None, base: Path) -> str | None:
    return None if path is None else str(base / path)
