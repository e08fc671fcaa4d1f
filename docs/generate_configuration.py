"""
Writes docs/configuration.md and deploy/dispatcher.toml: `python docs/generate_configuration.py`.

Both are made of the docstrings, types and defaults of `dispatcher/config/settings.py` and of the
rules in `dispatcher/core/rules.py`, so that there is one place to say what a key means.
"""  # noqa: INP001

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dispatcher.config.changes import read_once
from dispatcher.config.settings import (
    AccountSettings,
    CallbackSettings,
    ClientSettings,
    DefaultCredentials,
    EnvCredentials,
    JournalSettings,
    MetricsSettings,
    QueueSettings,
    ServerSettings,
    StaticCredentials,
    TracingSettings,
)
from dispatcher.config.shape import expected
from dispatcher.core.rules import FunctionRules, RampRules, ResourceRules, RetryRules, TenantRules

PAGE = Path(__file__).with_name("configuration.md")
SAMPLE = Path(__file__).parent.parent / "deploy" / "dispatcher.toml"


class Section(NamedTuple):
    """One kind of table."""

    kind: type[msgspec.Struct]
    keys: tuple[str, ...]
    """Where it stands."""
    about: str = ""
    """What its docstring does not say."""

    def fields(self) -> Iterator[msgspec.inspect.Field]:
        """Yield its keys, no tables: the required ones first, then those of the class itself."""
        info = msgspec.inspect.type_info(self.kind)
        assert isinstance(info, msgspec.inspect.StructType)
        own = inspect.get_annotations(self.kind)
        fields = [one for one in info.fields if not isinstance(one.type, msgspec.inspect.DictType)]
        return iter(sorted(fields, key=lambda field: (not field.required, field.name not in own)))


SECTIONS = [
    Section(ServerSettings, ("server",)),
    Section(MetricsSettings, ("metrics",)),
    Section(JournalSettings, ("journal",)),
    Section(QueueSettings, ("queue",)),
    Section(
        AccountSettings,
        ("accounts", "cn-prod"),
        "One section for each account; its name is yours to choose and stands in URLs and metrics.",
    ),
    Section(
        FunctionRules,
        ("accounts", "cn-prod", "functions", "m42-ng-fc$surf2surf"),
        'One section for each function that differs from the others. The section `"*"` gives the '
        "functions of the account, with a section or without, what they do not say themselves "
        "(but `completion` only to functions of the same `type`).",
    ),
    Section(
        TenantRules,
        ("accounts", "cn-prod", "tenants", "research"),
        "One section for each tenant that differs from the others; no tenant needs one. An "
        "invocation without a tenant belongs to `default`.",
    ),
    Section(
        RetryRules,
        ("retry",),
        "Runs that failed are another matter: see `attempts_max` of the function.",
    ),
    Section(CallbackSettings, ("callbacks",)),
    Section(TracingSettings, ("tracing",)),
    Section(
        ClientSettings,
        ("clients", "research-service"),
        "One section for each service that may use them. Without any, callers on loopback are let "
        "in unverified.",
    ),
]

SOURCES = [DefaultCredentials, EnvCredentials, StaticCredentials]

TABLES: dict[type[msgspec.Struct], str] = {RampRules: "ramp", ResourceRules: "resources"}

EXAMPLES: dict[str, Any] = {
    # Keys without a default.
    "server.token_file": "/run/secrets/dispatcher-token",
    "callbacks.url": "https://dispatcher.internal",
    "tracing.endpoint": "http://127.0.0.1:4318",
    "callbacks.secret_file": "/run/secrets/dispatcher-callbacks",
    "accounts.provider": "aliyun-fc",
    "accounts.account_id": "1031234567890123",
    "accounts.region": "cn-shanghai",
    "accounts.quota": 300,
    "accounts.endpoint": "http://127.0.0.1:8710",
    "accounts.completion_queue": "https://sqs.us-east-1.amazonaws.com/123456789012/ends",
    "accounts.ramp": {"burst": 300, "per_minute": 300},
    "accounts.resources": {"vcpu": 600},
    "accounts.functions.ramp": {"burst": 1000, "per_minute": 6000},
    "accounts.functions.completion": "task",
    "accounts.functions.instances_max": 50,
    "accounts.functions.duration_s": 30.0,
    "accounts.tenants.limit": 200,
    "clients.access_key_id": "LOCALRESEARCH",
    "clients.access_key_secret_file": "/run/secrets/research",
    "clients.account": "cn-prod",
}

STATIC = (
    '#credentials = { source = "static", access_key_id = "...", '
    'access_key_secret_file = "...", security_token_file = "..." }'
)


def docstrings(kind: type) -> dict[str, str]:
    """Return the docstring below each key of a struct, as one line."""
    found: dict[str, str] = {}
    for base in reversed([one for one in kind.__mro__ if issubclass(one, msgspec.Struct)]):
        if base is msgspec.Struct:
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for line, after in zip(tree.body, tree.body[1:], strict=False):
            match line, after:
                case ast.AnnAssign(ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                    found[name] = " ".join(text.split())
                case _:
                    pass
    return found


def default(field: msgspec.inspect.Field) -> Any:
    """Return the default as plain values; None: there is none."""
    assert field.default_factory is msgspec.NODEFAULT
    return None if field.required else msgspec.to_builtins(field.default)


def toml(value: Any) -> str:
    """Spell a plain value in TOML."""
    match value:
        case dict():
            return "{ " + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + " }"
        case list() | tuple():
            return "[" + ", ".join(map(toml, value)) + "]"
        case float():
            return f"{value:g}"
        case _:
            return json.dumps(value)


def header(section: Section) -> str:
    """Return the section's header line, as TOML has it."""
    names = [name if name.replace("-", "").isalnum() else f'"{name}"' for name in section.keys]
    return f"[{'.'.join(names)}]"


def _place(section: Section, field: msgspec.inspect.Field) -> str:
    """Return the path of a key without the names that the user chooses."""
    return ".".join((*section.keys[::2], field.name))


# -- docs/configuration.md ------------------------------------------------------------------------

_BEFORE = """\
# Configuration

<!-- Made by docs/generate_configuration.py from the docstrings in dispatcher/config/settings.py
     and dispatcher/core/rules.py: change it there. -->

One [TOML](https://toml.io) file. [deploy/dispatcher.toml](../deploy/dispatcher.toml) has every key
with its default; copy it and change what differs. The smallest that works names one account:

```toml
[accounts.cn-prod]
provider = "aliyun-fc"
account_id = "1031234567890123"
region = "cn-shanghai"
quota = 300
```

`dispatcher check --config FILE` reads and judges it. Every problem is named at once, each with the
path of its key; unknown keys are problems too. `dispatcher serve` starts by the same rules, and
exits with 78 if there is any.

* Units are in the names: `_s` are seconds, `bytes_` are bytes. Where a number is expected an
  integer will do. No number is above 10⁹, no integer above 10¹⁵.
* Relative paths start at the folder of the file.
* Secrets are never in the file itself, but in files that it names. A secret that everybody may read
  is a problem: `chmod o-r`, or `defaultMode: 0440` for a Kubernetes secret.
* `SIGHUP` reads the file again. What the last column calls *live* changes at once, for invocations
  that wait as well. If anything is wrong, or a key has changed that needs a *restart*, the last
  good configuration stays whole. Accounts come and go only with a restart.
"""

_CREDENTIALS = """
### Credentials of an account

`credentials = { source = "..." }`, one of:

| source | keys | meaning |
|---|---|---|
"""

_INLINE = """
### Small tables

| table | key | meaning | value |
|---|---|---|---|
"""

_AFTER = """
## How the end of a function becomes known

A slot is held until the function has ended. `completion` says how that is learned:

| completion | how | for |
|---|---|---|
| `response` | the reply itself; goes with `type = "sync"` and nothing else does | both |
| `task` | the status of the asynchronous task | aliyun-fc |
| `destination` | the records that the function's destinations write to `completion_queue` | aws-lambda |
| `callback` | the function, or a relay, posts it to `/v1/invocations/{id}/completion` | both |
| `duration` | an estimate: `duration_s` after the 202, then learned. Labelled so wherever it shows | both |
| `accepted` | not at all: the slot ends at the 202, so only requests are bounded | both |

Whatever the source, a slot ends after `hold_max_s` at the latest, and is then counted as a forced
release.
"""


def page() -> str:
    """Return the whole page."""
    return _BEFORE + "".join(map(_chapter, SECTIONS)) + _AFTER


def _chapter(section: Section) -> str:
    about = f"{_sentence(section.kind)} {section.about}".strip()
    rows = "".join(_row(section, field) for field in section.fields())
    table = f"| key | meaning | value | default | change |\n|---|---|---|---|---|\n{rows}"
    text = f"\n## `{header(section)}`\n\n{textwrap.fill(about, 100)}\n\n{table}"
    if section.kind is AccountSettings:
        text += _CREDENTIALS + "".join(map(_source_row, SOURCES))
        text += _INLINE + "".join(map(_inline_rows, TABLES))
    return text


def _row(section: Section, field: msgspec.inspect.Field) -> str:
    meaning = docstrings(section.kind)[field.name]
    if field.required:
        shown = "required"
    else:
        value = default(field)
        shown = "unset" if value is None else f"`{toml(value)}`"
    change = "restart" if read_once((*section.keys, field.name)) else "live"
    what = expected(field.type) if field.name != "credentials" else "a table: see below"
    return f"| `{field.name}` | {meaning} | {what} | {shown} | {change} |\n"


def _inline_rows(kind: type[msgspec.Struct]) -> str:
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    meanings = docstrings(kind)
    return "".join(
        f"| `{TABLES[kind]}` | `{field.name}` | {meanings[field.name]} | {expected(field.type)} |\n"
        for field in info.fields
    )


def _source_row(kind: type[msgspec.Struct]) -> str:
    fields = msgspec.structs.fields(kind)
    keys = ", ".join(
        f"`{field.name}`" + ("" if field.required else " (optional)") for field in fields
    )
    return f"| `{kind.__struct_config__.tag}` | {keys} | {_sentence(kind)} |\n"


def _sentence(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split())


# -- deploy/dispatcher.toml -----------------------------------------------------------------------

_HEAD = """\
# The configuration of the dispatcher: every key, with its default behind a "#". What has none
# shows an example instead, and says so. Judge your copy with: dispatcher check --config FILE
# More about it in docs/configuration.md, from whose source this file is made:
# docs/generate_configuration.py
"""


def sample() -> str:
    """Return the whole sample file."""
    return _HEAD + "".join(map(_sample_section, SECTIONS))


def _sample_section(section: Section) -> str:
    # A client needs a file with its secret, so that section is for whoever has one.
    hash_sign = "#" if section.kind is ClientSettings else ""
    lines = [*_comment(f"{_sentence(section.kind)} {section.about}"), hash_sign + header(section)]
    meanings = docstrings(section.kind)
    for field in section.fields():
        lines += ["", *_comment(meanings[field.name])]
        value = default(field)
        if value is None:
            value = EXAMPLES[_place(section, field)]
            if not field.required:
                lines.append("# No default; an example:")
        sign = "" if field.required and not hash_sign else "#"
        lines.append(f"{sign}{field.name} = {toml(value)}")
        if field.name == "credentials":
            lines += ["# or", '#credentials = { source = "env" }', "# or", STATIC]
    return "\n\n" + "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text.strip(), 98, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    SAMPLE.write_text(sample(), encoding="utf-8")
