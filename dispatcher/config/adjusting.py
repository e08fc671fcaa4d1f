"""
An account's section changed in memory, by a JSON merge patch (RFC 7396).

What is not in the file lasts until the next reload or restart. It is judged by the rules for files.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from dispatcher.config.changes import changed, read_once
from dispatcher.config.loading import judged
from dispatcher.config.settings import DefaultCredentials, Settings
from dispatcher.config.shape import spelled
from dispatcher.errors import ConfigError

_STEP = re.compile(r'"(?:[^"\\]|\\.)*"|[A-Za-z0-9_-]+')


def adjusted(settings: Settings, account: str, patch: Mapping[str, Any]) -> Settings:
    """
    Return *settings* with the section of *account* changed by *patch*.

    A function that had no section inherits from `*`, as it would in a file; those that have one
    inherited when the file was read. Raises `ConfigError` with every problem, for a key that needs a
    restart as well.
    """
    old = settings.accounts[account]
    fixed = [("accounts", account, key) for key in patch if read_once(("accounts", account, key))]
    if fixed:
        raise ConfigError([(spelled(keys), "changes only with a restart") for keys in fixed])
    # Its keys stay as they are, so their files are nobody's business here.
    raw = msgspec.to_builtins(msgspec.structs.replace(old, credentials=DefaultCredentials()))
    raw = _merged(raw, {**patch, "functions": None, "tenants": None}) | {
        key: _sections(raw[key], patch[key], raw[key].get("*", {})) if key in patch else raw[key]
        for key in ("functions", "tenants")
    }
    account_now = judged({"accounts": {account: raw}}, Path("/")).accounts[account]
    account_now = msgspec.structs.replace(account_now, credentials=old.credentials)
    return msgspec.structs.replace(settings, accounts={**settings.accounts, account: account_now})


def differences(old: Settings, new: Settings, account: str) -> tuple[str, ...]:
    """Return the JSON pointers, within the section of *account*, of all that differs."""

    def alone(settings: Settings) -> Settings:
        return Settings(accounts={account: settings.accounts[account]})

    return tuple(pointer(path) for path in changed(alone(old), alone(new)))


def pointer(path: str) -> str:
    """Return the JSON pointer, within an account's section, of what TOML spells as *path*."""
    steps = [json.loads(step) if step[0] == '"' else step for step in _STEP.findall(path)]
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps[2:])


def _sections(old: Mapping[str, Any], patch: Any, star: Mapping[str, Any]) -> Any:
    """Return the sections of functions or of tenants."""
    if patch is None:
        return {}
    if not isinstance(patch, Mapping):
        return patch  # it will be judged
    sections = dict(old)
    for name, change in patch.items():
        if change is None:
            sections.pop(name, None)
        elif isinstance(change, Mapping):
            section = old.get(name, star)
            if "type" in change and "completion" not in change:
                # How the end is known goes with the type of call.
                section = {key: value for key, value in section.items() if key != "completion"}
            sections[name] = _merged(section, change)
        else:
            sections[name] = change
    return sections


def _merged(old: Any, patch: Mapping[str, Any]) -> dict[str, Any]:
    """Merge by RFC 7396, but keep the null of an unknown key, so that it is judged."""
    merged = dict(old) if isinstance(old, Mapping) else {}
    for key, change in patch.items():
        if isinstance(change, Mapping):
            merged[key] = _merged(merged.get(key), change)
        elif change is None and key in merged:
            del merged[key]
        else:
            # JSON knows one kind of number: 5.0 is as good as 5.
            whole = isinstance(change, float) and change.is_integer()
            merged[key] = int(change) if whole else change
    return merged
