"""deploy/dispatcher.toml: every key of the configuration, its default shown, ready to be copied."""

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from dispatcher.config import Settings, load
from dispatcher.config.shape import faults

FILE = Path(__file__).parents[2] / "deploy" / "dispatcher.toml"


def uncommented() -> dict[str, Any]:
    """Return what the file says once every key in it is switched on."""
    text = re.sub(r"^#(?=[\w\[])", "", FILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    seen: set[str] = set()
    lines = []
    for line in text.splitlines():
        if line.startswith("["):
            seen.clear()
        key = line.partition(" = ")[0]
        if key.isidentifier() and key in seen:
            continue  # another way to say the same
        seen.add(key)
        lines.append(line)
    return tomllib.loads("\n".join(lines))


def test_as_it_is_it_says_nothing_but_whose_quota_it_is_about():
    settings = load(FILE)
    [(name, account)] = settings.accounts.items()
    plain = msgspec.to_builtins(settings)
    bare = msgspec.to_builtins(Settings())
    bare["journal"]["url"] = f"sqlite://{FILE.parent}/dispatcher.db"
    assert {**plain, "accounts": {}} == bare
    assert (name, account.quota) == ("cn-prod", 300)


def test_switched_on_it_has_every_key_with_its_default():
    raw = uncommented()
    assert not list(faults(raw, Settings))

    def compare(raw: Any, kind: inspect.Type, path: str) -> None:
        if isinstance(kind, inspect.DictType):
            assert len(raw) == 1, path
            [(name, below)] = raw.items()
            compare(below, kind.value_type, f"{path}.{name}")
        elif isinstance(kind, inspect.StructType):
            for field in kind.fields:
                assert field.name in raw, f"{path}.{field.name}"
                compare(raw[field.name], field.type, f"{path}.{field.name}")
                default = field.default
                if not field.required and default not in (None, msgspec.NODEFAULT):
                    if isinstance(field.type, inspect.StructType):
                        continue  # its keys have been compared
                    shown = msgspec.convert(raw[field.name], type(default))
                    assert shown == default, f"{path}.{field.name}"

    compare(raw, inspect.type_info(Settings), "")


def test_every_source_of_credentials_is_shown():
    text = FILE.read_text(encoding="utf-8")
    shown = [
        tomllib.loads(line)["credentials"]
        for line in re.findall(r"^#(credentials = .*)", text, re.MULTILINE)
    ]
    assert {one["source"] for one in shown} == {"default", "env", "static"}
    account = {"provider": "aws-lambda", "account_id": "1", "region": "r", "quota": 1}
    for one in shown:
        raw = {"accounts": {"a": {**account, "credentials": one}}}
        assert not list(faults(raw, Settings))


def test_a_line_of_it_fits_a_terminal():
    prose = [line for line in FILE.read_text().splitlines() if line.startswith("# ")]
    assert len(prose) > 50
    assert max(map(len, prose)) <= 100
