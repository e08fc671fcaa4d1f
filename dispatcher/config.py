"""
TOML text in, frozen `Settings` out, or one `ConfigError` that names every problem by its path.

Nothing outside the text is touched but the files that it names for secrets, and those only to
judge who may read them; `secret` reads one when it is needed.
"""

import ipaddress
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from dispatcher.core.model import (
    AccountRules,
    CallType,
    Count,
    FunctionRules,
    Positive,
    PositiveSeconds,
    Provider,
    RetryRules,
    Rules,
    Seconds,
    Source,
    TenantRules,
)
from dispatcher.errors import ConfigError

Problem = tuple[str, str]


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file: frozen, by keyword, without unknown keys."""


class ServerSettings(_Section, frozen=True, kw_only=True):
    """`[server]`: who can reach the sidecar, and how it stops."""

    listen: tuple[str, ...] = ("127.0.0.1:8700",)
    """`HOST:PORT`, or `unix:/path/of.sock`. Beyond loopback a token is required."""
    token_file: str | None = None
    """A file of bearer tokens, one a line; a caller needs any of them. Optional on loopback."""
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1")
    """Names that the Host header may carry; others get 421."""
    drain_max_s: Seconds = 25.0
    """
    How long requests in flight may take after SIGTERM. Keep it below the grace period of
    whatever runs the dispatcher (30 s in a Kubernetes pod). The backlog and running functions
    stay in the journal.
    """


class MetricsSettings(_Section, frozen=True, kw_only=True):
    """`[metrics]`: a listener of its own for `GET /metrics`, which the main one serves as well."""

    listen: str | None = None
    """`HOST:PORT`; None: only the main listener."""


class JournalSettings(_Section, frozen=True, kw_only=True):
    """`[journal]`: where accepted invocations are kept."""

    url: str = "sqlite:dispatcher.db"
    """
    `sqlite:///absolute/path.db`, `sqlite:path.db` relative to the configuration file, or
    `memory:`, which loses everything when the process ends.
    """
    delivery: Literal["at_least_once", "at_most_once"] = "at_least_once"
    """`at_most_once` parks what may have been sent as `uncertain` instead of sending it again."""
    retention_s: PositiveSeconds = 86400.0
    """How long ended invocations and idempotency keys are kept."""
    network_filesystems: tuple[str, ...] = ()
    """Kinds of network file systems (`nfs`, `cifs`, ...) to allow in spite of their locks."""


class QueueSettings(_Section, frozen=True, kw_only=True):
    """`[queue]`: how much may wait."""

    jobs_max: Positive = 1_000_000
    """Invocations that have been accepted and have not ended; more are refused."""
    bytes_max: Count = 1_073_741_824
    """Payload bytes held in memory; the rest stays in the journal until its turn."""


class DefaultCredentials(_Section, frozen=True, kw_only=True, tag_field="source", tag="default"):
    """The provider's own chain: environment, profile, workload identity, metadata service."""


class EnvCredentials(_Section, frozen=True, kw_only=True, tag_field="source", tag="env"):
    """The provider's usual environment variables and nothing else."""


class StaticCredentials(_Section, frozen=True, kw_only=True, tag_field="source", tag="static"):
    """A fixed key; its secret is in a file."""

    access_key_id: str
    access_key_secret_file: str
    security_token_file: str | None = None


Credentials = DefaultCredentials | EnvCredentials | StaticCredentials


class AccountSettings(AccountRules, frozen=True, kw_only=True):
    """`[accounts.NAME]`: one quota, where it is, and how to reach it."""

    provider: Provider
    """`aws-lambda` or `aliyun-fc`."""
    account_id: Annotated[str, Meta(pattern=r"^[0-9]{1,20}$")]
    """The provider's number of the account, as a string."""
    region: Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,40}$")]
    """Such as `cn-shanghai` or `us-east-1`."""
    endpoint: str | None = None
    """`http(s)://host[:port]` instead of the provider's public endpoint."""
    limit: Literal["fixed", "adaptive"] = "fixed"
    """`adaptive` lowers the limit where the cloud throttles or delays."""
    completion_queue: str | None = None
    """aws-lambda: URL of the SQS queue that the functions' destinations write to."""
    credentials: Credentials = DefaultCredentials()
    """Where the account's keys come from."""


class ClientSettings(_Section, frozen=True, kw_only=True):
    """`[clients.NAME]`: a local key for the drop-in endpoints; never a cloud key."""

    access_key_id: Annotated[str, Meta(min_length=1, max_length=128)]
    access_key_secret_file: str
    account: str
    tenant: str = "default"
    sync_to_async: bool = False
    """Answer synchronous calls 202 and run them asynchronously."""


class Settings(_Section, frozen=True, kw_only=True):
    """The whole configuration. Relative paths in it have been made absolute."""

    server: ServerSettings = ServerSettings()
    metrics: MetricsSettings = MetricsSettings()
    journal: JournalSettings = JournalSettings()
    queue: QueueSettings = QueueSettings()
    retry: RetryRules = RetryRules()
    accounts: dict[str, AccountSettings] = {}
    clients: dict[str, ClientSettings] = {}

    def rules(self) -> Rules:
        """Return what the core decides by."""
        return Rules(
            accounts=dict(self.accounts),
            retry=self.retry,
            jobs_max=self.queue.jobs_max,
            at_most_once=self.journal.delivery == "at_most_once",
        )


# What a reload cannot change: listeners and files that are open, and who an account is.
_RESTART_SECTIONS = ("server", "metrics", "journal")
_RESTART_ACCOUNT_KEYS = ("provider", "account_id", "region", "endpoint", "completion_queue")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
FUNCTION = re.compile(r"[A-Za-z0-9_$.:/@-]{1,256}\Z")


def load(path: Path) -> Settings:
    """
    Read the file at *path*.

    Raises `ConfigError` with every problem found; nothing is ever half accepted.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
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
    _apply_function_defaults(raw)
    problems = list(_type_problems(raw, Settings, ""))
    if problems:
        raise ConfigError(problems)
    settings = _resolve(msgspec.convert(raw, Settings), base)
    problems = list(_meaning_problems(settings))
    if problems:
        raise ConfigError(problems)
    return settings


def check(settings: Settings) -> Settings:
    """Judge settings that were made in code by the rules for files; return them resolved."""
    resolved = _resolve(settings, Path.cwd())
    problems = list(_meaning_problems(resolved))
    if problems:
        raise ConfigError(problems)
    return resolved


def needs_restart(old: Settings, new: Settings) -> list[str]:
    """Name the keys that differ and cannot change while the process runs."""
    keys = [name for name in _RESTART_SECTIONS if getattr(old, name) != getattr(new, name)]
    for name, account in old.accounts.items():
        other = new.accounts.get(name)
        if other is None:
            keys.append(f"accounts.{name}")
            continue
        keys += [
            f"accounts.{name}.{key}"
            for key in _RESTART_ACCOUNT_KEYS
            if getattr(account, key) != getattr(other, key)
        ]
    keys += [f"accounts.{name}" for name in new.accounts if name not in old.accounts]
    return keys


def secret(path: str) -> str:
    """Return the secret in the file at *path*, without the line end. Raises `ConfigError`."""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([("", f"cannot read {path}: {error}")]) from error


def warnings(settings: Settings) -> list[Problem]:
    """Say what works but is probably not what was meant, as `(path, message)`."""
    found: list[Problem] = []
    for name, account in settings.accounts.items():
        for function, rules in account.functions.items():
            path = f"accounts.{name}.functions.{_quoted(function)}"
            if rules.completion is Source.DURATION:
                found.append(
                    (
                        f"{path}.completion",
                        "the end of a run is an estimate, so the quota can be exceeded when a "
                        f"function takes longer than duration_s; {_exact(account.provider)}",
                    )
                )
            if rules.completion is Source.ACCEPTED:
                found.append(
                    (
                        f"{path}.completion",
                        "slots end at the 202: the quota is not held, only requests are bounded",
                    )
                )
        if account.headroom == 0:
            found.append(
                (
                    f"accounts.{name}.headroom",
                    "0 leaves nothing to callers that do not come through here",
                )
            )
    return found


# -- Shape: every wrong key and type, with its path ----------------------------------------------


def _type_problems(raw: object, kind: Any, path: str) -> Iterator[Problem]:
    """
    Yield each problem of *raw* as a *kind*.

    msgspec stops at the first problem, so tables are taken apart here and each value is
    converted alone.
    """
    origin = msgspec.inspect.type_info(kind)
    if isinstance(origin, msgspec.inspect.StructType) and isinstance(raw, dict):
        if origin.tag_field:
            raw = {key: value for key, value in raw.items() if key != origin.tag_field}
        fields = {field.encode_name: field for field in origin.fields}
        for key, value in raw.items():
            if key not in fields:
                yield _join(path, key), f"unknown key{_did_you_mean(key, fields)}"
            else:
                hint = kind.__annotations__.get(key) or _annotation(kind, key)
                yield from _type_problems(value, hint, _join(path, key))
        for name, field in fields.items():
            if field.required and name not in raw:
                yield _join(path, name), "required, and missing"
    elif isinstance(origin, msgspec.inspect.DictType) and isinstance(raw, dict):
        value_kind = kind.__args__[1]
        for key, value in raw.items():
            yield from _type_problems(value, value_kind, _join(path, key))
    elif isinstance(origin, msgspec.inspect.UnionType) and isinstance(raw, dict):
        yield from _union_problems(raw, origin, path)
    else:
        try:
            msgspec.convert(raw, kind)
        except msgspec.ValidationError as error:
            yield path, _plain(str(error))


def _union_problems(
    raw: Mapping[str, object], union: msgspec.inspect.UnionType, path: str
) -> Iterator[Problem]:
    """Find the member that the tag names and judge *raw* by it."""
    members = [kind for kind in union.types if isinstance(kind, msgspec.inspect.StructType)]
    tags = {str(kind.tag): kind for kind in members}
    field = members[0].tag_field or "source"
    chosen = raw.get(field)
    if isinstance(chosen, str) and chosen in tags:
        yield from _type_problems(raw, tags[chosen].cls, path)
    else:
        yield _join(path, field), f"expected one of {', '.join(sorted(tags))}, got {chosen!r}"


def _annotation(kind: type, key: str) -> Any:
    """Return the annotation of *key*, which may stand in a base class."""
    return next(
        base.__annotations__[key]
        for base in kind.__mro__
        if key in base.__dict__.get("__annotations__", {})
    )


def _plain(message: str) -> str:
    """Turn msgspec's sentence into one that reads well behind a path."""
    message = message.split(" - at `")[0]
    return message[:1].lower() + message[1:]


def _did_you_mean(key: str, known: Mapping[str, object]) -> str:
    import difflib  # noqa: PLC0415 -- wanted only to explain a mistake

    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _join(path: str, key: str) -> str:
    key = _quoted(key)
    return f"{path}.{key}" if path else key


def _quoted(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"'


# -- Meaning: what no type can say ---------------------------------------------------------------


def _apply_function_defaults(raw: dict[str, Any]) -> None:
    """Give each function of an account what `*` says and it does not."""
    accounts = raw.get("accounts")
    for account in accounts.values() if isinstance(accounts, dict) else ():
        functions = account.get("functions") if isinstance(account, dict) else None
        star = functions.get("*") if isinstance(functions, dict) else None
        if not isinstance(star, dict):
            continue
        for name, table in functions.items():
            if isinstance(table, dict):
                functions[name] = {**star, **table}


def _resolve(settings: Settings, base: Path) -> Settings:
    """Make paths absolute and completions explicit."""
    accounts = {}
    for name, account in settings.accounts.items():
        functions = {
            key: msgspec.structs.replace(rules, completion=_completion(rules, account))
            for key, rules in {"*": FunctionRules(), **account.functions}.items()
        }
        credentials = account.credentials
        if isinstance(credentials, StaticCredentials):
            token = credentials.security_token_file
            credentials = msgspec.structs.replace(
                credentials,
                access_key_secret_file=str(base / credentials.access_key_secret_file),
                security_token_file=None if token is None else str(base / token),
            )
        accounts[name] = msgspec.structs.replace(
            account, functions=functions, credentials=credentials
        )
    clients = {
        name: msgspec.structs.replace(
            client, access_key_secret_file=str(base / client.access_key_secret_file)
        )
        for name, client in settings.clients.items()
    }
    server = settings.server
    if server.token_file is not None:
        server = msgspec.structs.replace(server, token_file=str(base / server.token_file))
    url = settings.journal.url
    if url.startswith("sqlite:") and not url.startswith("sqlite:/"):
        url = f"sqlite://{base / url.removeprefix('sqlite:')}"
    journal = msgspec.structs.replace(settings.journal, url=url)
    return msgspec.structs.replace(
        settings, accounts=accounts, clients=clients, server=server, journal=journal
    )


def _completion(rules: FunctionRules, account: AccountSettings) -> Source:
    """Return the source of completions that holds when the configuration is silent."""
    if rules.completion is not None:
        return rules.completion
    if rules.type is CallType.SYNC:
        return Source.RESPONSE
    if account.provider is Provider.ALIYUN_FC:
        return Source.TASK
    return Source.DESTINATION if account.completion_queue else Source.DURATION


def _meaning_problems(settings: Settings) -> Iterator[Problem]:
    yield from _server_problems(settings)
    yield from _journal_problems(settings.journal)
    seen: dict[tuple[Provider, str, str], str] = {}
    for name, account in settings.accounts.items():
        path = f"accounts.{_quoted(name)}"
        if not NAME.match(name):
            yield path, "an account's name is 1 to 64 letters, digits, '.', '_' or '-'"
        who = (account.provider, account.account_id, account.region)
        if who in seen:
            yield (
                path,
                f"the same provider, account_id and region as accounts.{seen[who]}: they share "
                "one quota, so they must be one account",
            )
        seen.setdefault(who, _quoted(name))
        yield from _account_problems(account, path)
    yield from _client_problems(settings)


def _account_problems(account: AccountSettings, path: str) -> Iterator[Problem]:
    if account.headroom >= account.quota:
        yield f"{path}.headroom", f"leaves nothing of the quota of {account.quota}"
    reserved = sum(tenant.reserved for tenant in account.tenants.values())
    if reserved > account.quota - account.headroom:
        yield (
            f"{path}.tenants",
            f"{reserved} instances are reserved, but the quota less the headroom is "
            f"{account.quota - account.headroom}",
        )
    for name, tenant in account.tenants.items():
        if not NAME.match(name):
            yield f"{path}.tenants.{_quoted(name)}", "not a tenant's name"
        if tenant.limit is not None and tenant.reserved > tenant.limit:
            yield f"{path}.tenants.{_quoted(name)}.reserved", "more than the tenant's limit"
    if account.endpoint is not None and not re.fullmatch(
        r"https?://[A-Za-z0-9.\[\]:-]+/?", account.endpoint
    ):
        yield f"{path}.endpoint", "expected http://host[:port] or https://host[:port]"
    if account.completion_queue is not None and account.provider is not Provider.AWS_LAMBDA:
        yield f"{path}.completion_queue", "only functions of aws-lambda write to a queue"
    if isinstance(account.credentials, StaticCredentials):
        yield from _secret_problems(
            account.credentials.access_key_secret_file,
            f"{path}.credentials.access_key_secret_file",
        )
        if account.credentials.security_token_file is not None:
            yield from _secret_problems(
                account.credentials.security_token_file,
                f"{path}.credentials.security_token_file",
            )
    for name, rules in account.functions.items():
        yield from _function_problems(account, rules, name, path)


def _function_problems(
    account: AccountSettings, rules: FunctionRules, name: str, path: str
) -> Iterator[Problem]:
    if name == "*" and not account.unlisted and rules == _silent(account):
        return  # nobody can come to use it
    path = f"{path}.functions.{_quoted(name)}"
    if name != "*" and not FUNCTION.match(name):
        yield path, "not a function's name"
    if rules.completion is Source.TASK and account.provider is not Provider.ALIYUN_FC:
        yield f"{path}.completion", '"task" exists only at aliyun-fc'
    if rules.completion is Source.DESTINATION and account.completion_queue is None:
        yield f"{path}.completion", '"destination" needs the account\'s completion_queue'
    if (rules.completion is Source.RESPONSE) != (rules.type is CallType.SYNC):
        yield (
            f"{path}.completion",
            '"response" goes with type = "sync", and nothing else does: an asynchronous '
            "call's reply comes before the function has run",
        )
    if rules.completion is Source.DURATION and rules.duration_s is None:
        yield (
            f"{path}.duration_s",
            'required with completion = "duration", which estimates the end of a run; '
            f"{_exact(account.provider)}",
        )
    if rules.duration_s is not None and rules.duration_s > rules.hold_max_s:
        yield f"{path}.duration_s", f"longer than hold_max_s, which is {rules.hold_max_s:g}"


def _silent(account: AccountSettings) -> FunctionRules:
    """Return the rules of a function that no key speaks of."""
    return FunctionRules(completion=_completion(FunctionRules(), account))


def _exact(provider: Provider) -> str:
    """Name the sources of completions that are exact."""
    if provider is Provider.ALIYUN_FC:
        return 'exact are completion = "task", "callback", or type = "sync"'
    return (
        'exact are completion = "destination" (with the account\'s completion_queue), '
        '"callback", or type = "sync"'
    )


def _server_problems(settings: Settings) -> Iterator[Problem]:
    server = settings.server
    if not server.listen:
        yield "server.listen", "at least one address is needed"
    addresses = [(f"server.listen[{i}]", text) for i, text in enumerate(server.listen)]
    if settings.metrics.listen is not None:
        addresses.append(("metrics.listen", settings.metrics.listen))
    for path, text in addresses:
        try:
            host = address(text)
        except ValueError as error:
            yield path, str(error)
            continue
        if isinstance(host, tuple) and not is_loopback(host[0]):
            if path != "metrics.listen" and server.token_file is None:
                yield path, "beyond loopback a server.token_file is required"
    if server.token_file is not None:
        yield from _secret_problems(server.token_file, "server.token_file")


def address(text: str) -> tuple[str, int] | Path:
    """Return `(host, port)` of `HOST:PORT`, or the path of `unix:/path`. Raises ValueError."""
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:"))
        if not path.is_absolute():
            raise ValueError("a socket's path starts with a slash: unix:/path/of.sock")
        return path
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"expected HOST:PORT or unix:/path, got {text!r}")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach *host*."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _journal_problems(journal: JournalSettings) -> Iterator[Problem]:
    if journal.url != "memory:" and not re.fullmatch(r"sqlite:///[^?#]+", journal.url):
        yield (
            "journal.url",
            "expected sqlite:///absolute/path.db, sqlite:relative/path.db or memory:, got "
            f"{journal.url!r}",
        )


def _client_problems(settings: Settings) -> Iterator[Problem]:
    keys: dict[str, str] = {}
    for name, client in settings.clients.items():
        path = f"clients.{_quoted(name)}"
        if client.account not in settings.accounts:
            yield f"{path}.account", f"there is no account {client.account!r}"
        if client.access_key_id in keys:
            yield (
                f"{path}.access_key_id",
                f"the same as that of clients.{keys[client.access_key_id]}",
            )
        keys.setdefault(client.access_key_id, _quoted(name))
        yield from _secret_problems(client.access_key_secret_file, f"{path}.access_key_secret_file")


def _secret_problems(path: str, key: str) -> Iterator[Problem]:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        yield key, f"cannot read {path}: {error.strerror}"
        return
    if not stat.S_ISREG(mode):
        yield key, f"{path} is not a file"
    elif mode & stat.S_IROTH:
        yield key, f"everybody may read {path}: take the rights away (chmod o-r)"
    elif not os.access(path, os.R_OK):
        yield key, f"cannot read {path}: Permission denied"
