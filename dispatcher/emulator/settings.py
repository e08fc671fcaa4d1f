"""The emulator's configuration: TOML text in, frozen settings or one `SettingsError` out."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from dispatcher.emulator.providers import FC, LAMBDA, PROVIDERS, Provider

T = TypeVar("T")

DEFAULT_FUNCTION = "*"


class SettingsError(ValueError):
    """The configuration is wrong; the message begins with the path of the key to blame."""


class Ramp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast instances may be created: `burst` at once, then `per_minute`."""

    burst: int
    per_minute: float


class Function(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a function behaves. Times are in seconds, rates are probabilities from 0 to 1."""

    duration_s: float = 0.2
    """How long a run takes on a warm instance (the median, where there is jitter)."""
    jitter: Literal["none", "uniform", "lognormal"] = "none"
    jitter_spread: float = 0.0
    """`uniform`: duration times 1 - spread to 1 + spread; `lognormal`: the sigma."""
    cold_start_s: float = 0.0
    idle_s: float = 300.0
    """How long an instance without a run stays warm."""
    timeout_s: float = 900.0
    failure_rate: float = 0.0
    instance_concurrency: int = 1
    placement: Literal["packed", "pinned"] = "packed"
    """
    `packed`: n runs hold ceil(n / instance_concurrency) instances, as if the cloud moved runs.
    `pinned`: a run stays on its instance, so that thinly used instances hold quota as well.
    """
    vcpu: float = 0.0
    reserved: int | None = None
    """Instances kept for this function, and its ceiling: nobody else can use them."""
    instances_max: int | None = None
    """Only FC: a ceiling that keeps nothing free."""
    dequeue_s: float = 0.0
    """How long the hidden queue holds an invocation although an instance is free."""
    max_async_retry_attempts: int | None = None
    """The cloud's own repeats of a failing asynchronous invocation. Lambda: 2, FC: 3."""
    max_async_event_age_s: float | None = None
    """How long an asynchronous invocation may wait in the hidden queue. Lambda: 6 h, FC: 1 d."""
    retry_waits_s: tuple[float, ...] | None = None
    """Waits before those repeats, the last for all that follow. Lambda: 60, 120; FC: 1, 2, 4."""
    async_task: bool = True
    """Only FC: task mode. Without it task ids are neither refused twice nor found."""
    task_registration_s: float = 0.0
    """How long after its 202 a task is not found yet."""
    task_lost_rate: float = 0.0
    """How many tasks are never found although they run."""
    stop_s: float = 0.0
    """How long a stopped task stays in Stopping, holding its instance."""
    on_success: str | None = None
    """Only Lambda: name or ARN of the SQS queue that gets a record of every success."""
    on_failure: str | None = None
    qualifiers: tuple[str, ...] | None = None
    """Versions and aliases that exist; without the key every one does."""


class Account(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One cloud account in one region: what shares a quota."""

    provider: Literal["aws-lambda", "aliyun-fc"]
    account_id: str
    region: str
    quota: int
    """Instances of the whole account in this region."""
    foreign: int = 0
    """Instances that callers beyond our sight want to use at the same time."""
    unlisted: bool = True
    """Functions without a section exist and behave like the section `*`."""
    rate_max_per_s: float = 0.0
    """Invoke requests a second; 0: unlimited."""
    task_rate_max_per_s: float = 0.0
    """Task requests (get, list, stop) a second; 0: unlimited."""
    ramp: Ramp | None = None
    """Scale-out rate: of the account on FC, of each function on Lambda."""
    vcpu_max: float = 0.0
    """vCPUs of all instances together; 0: unlimited."""
    keys: dict[str, str] = {}
    """Access key id to secret. Without any, every request of this provider is let in."""
    session_tokens: dict[str, str] = {}
    """Access key id to the session token that must come with it."""
    queues: tuple[str, ...] = ()
    """SQS queues that exist from the start."""
    functions: dict[str, Function] = {}

    @property
    def rules(self) -> Provider:
        """The rules of this account's cloud."""
        return PROVIDERS[self.provider]


class Records(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens to Lambda's destination records on their way: each rate from 0 to 1."""

    lost: float = 0.0
    doubled: float = 0.0
    delayed: float = 0.0
    delay_s: float = 5.0


FaultKind = Literal[
    "hang", "reset_before", "reset_after", "error", "html", "empty", "slow", "forbidden", "throttle"
]


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    A rule by which requests go wrong.

    `hang`: nothing happens and no reply comes, for `delay_s`, then the connection is reset.
    `reset_before`, `reset_after`: the connection is reset instead of the processing, or after it.
    `error`: a JSON error in the provider's shape with `status` (500) and `code`.
    `html`, `empty`: an error with `status` (502, 500) whose body is HTML, or absent.
    `slow`: the reply comes `delay_s` after the processing.
    `forbidden`: the provider's 403. `throttle`: its 429 with `code` as reason (or 503).
    """

    kind: FaultKind
    probability: float = 0.0
    """Of each matching request, from 0 to 1; ignored where `next` is given."""
    next: int | None = None
    """How many matching requests to come are hit, all of them in a row."""
    account: str | None = None
    function: str | None = None
    operation: Literal["invoke", "tasks", "config", "queue", "any"] = "invoke"
    invocation_type: Literal["sync", "async"] | None = None
    delay_s: float | None = None
    """Default: 3600 for `hang`, 1 for `slow`."""
    status: int | None = None
    code: str | None = None
    retry_after_s: float | None = None


def _one_of_each() -> dict[str, Account]:
    return {
        "lambda": Account(
            provider="aws-lambda", account_id="000000000000", region="us-east-1", quota=1000
        ),
        "fc": Account(
            provider="aliyun-fc", account_id="1000000000000000", region="cn-shanghai", quota=300
        ),
    }


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it. Without accounts there is one of each provider, where every function exists."""

    accounts: dict[str, Account] = msgspec.field(default_factory=_one_of_each)
    records: Records = Records()
    faults: tuple[Fault, ...] = ()
    runs_max: int = 200_000
    """How many finished runs are remembered."""
    tasks_max: int = 200_000
    """How many ended FC tasks an account remembers."""
    queue_max: int = 1_000_000
    """How many asynchronous invocations may be queued or running in an account."""
    seed: int | None = None
    """Of all random choices; without one they differ from run to run."""


def parse(text: str) -> Settings:
    """Return the settings of a TOML text. Raises `SettingsError` with the path of what is wrong."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"not TOML: {error}") from error
    accounts = raw.pop("accounts", None)
    if accounts is not None:
        if not isinstance(accounts, dict) or not accounts:
            raise SettingsError("accounts: expected one table for each account")
        raw["accounts"] = {
            name: _account(account, f"accounts.{_key(name)}") for name, account in accounts.items()
        }
    faults = raw.pop("faults", [])
    if not isinstance(faults, list):
        raise SettingsError("faults: expected an array of tables")
    raw["faults"] = [fault(item, f"faults[{index}]") for index, item in enumerate(faults)]
    raw["records"] = records(raw.get("records", {}))
    settings = _convert(raw, Settings, "")
    for name, account in settings.accounts.items():
        _check_account(account, f"accounts.{_key(name)}")
    _check_distinct(settings.accounts)
    return settings


def load(path: Path) -> Settings:
    """Return the settings of a TOML file. Raises `SettingsError` and `OSError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"not UTF-8: {error}") from error
    return parse(text)


def fault(raw: object, path: str = "") -> Fault:
    """Return one fault rule of its table. Raises `SettingsError`."""
    rule = _convert(raw, Fault, path)
    _between(rule.probability, path, "probability", 0, 1)
    if rule.next is not None:
        _between(rule.next, path, "next", 0)
    if rule.status is not None:
        _between(rule.status, path, "status", 400, 599)
    for name in ("delay_s", "retry_after_s"):
        value = getattr(rule, name)
        if value is not None:
            _between(value, path, name, 0)
    return rule


def records(raw: object, path: str = "records") -> Records:
    """Return what happens to destination records, of its table. Raises `SettingsError`."""
    decoded = _convert(raw, Records, path)
    for name in ("lost", "doubled", "delayed"):
        _between(getattr(decoded, name), path, name, 0, 1)
    _between(decoded.delay_s, path, "delay_s", 0)
    return decoded


def changed_function(function: Function, changes: object, path: str, rules: Provider) -> Function:
    """Return the function with some keys replaced. Raises `SettingsError`."""
    if not isinstance(changes, dict):
        raise SettingsError(f"{path}: expected a table")
    merged = {**msgspec.structs.asdict(function), **changes}
    replaced = _convert(merged, Function, path)
    _check_function(replaced, path, rules)
    return replaced


def _account(raw: object, path: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: expected a table")
    functions = raw.get("functions", {})
    if not isinstance(functions, dict):
        raise SettingsError(f"{path}.functions: expected one table for each function")
    default = functions.get(DEFAULT_FUNCTION, {})
    decoded = {}
    for name, section in functions.items():
        below = f"{path}.functions.{_key(name)}"
        if not isinstance(section, dict):
            raise SettingsError(f"{below}: expected a table")
        _convert(section, Function, below)
        decoded[name] = _convert({**default, **section}, Function, below)
    # Decoded here already, so that no message says `functions[...]` for a name.
    _convert({**raw, "functions": {}}, Account, path)
    return {**raw, "functions": decoded}


def _convert(raw: object, kind: type[T], path: str) -> T:
    try:
        return msgspec.convert(raw, kind, strict=True)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$")
        full = (path + where.rstrip("`")).lstrip(".")
        unknown = re.fullmatch(r"Object contains unknown field `(.*)`", problem)
        if unknown is not None:
            full = f"{full}.{_key(unknown[1])}".lstrip(".")
            raise SettingsError(f"{full}: no such key") from error
        raise SettingsError(f"{full}: {problem}" if full else problem) from error


def _check_account(account: Account, path: str) -> None:
    for name in ("quota", "foreign", "rate_max_per_s", "task_rate_max_per_s", "vcpu_max"):
        _between(getattr(account, name), path, name, 0)
    if account.ramp is not None:
        _between(account.ramp.burst, path, "ramp.burst", 1)
        _between(account.ramp.per_minute, path, "ramp.per_minute", 0)
    for key in account.session_tokens:
        if key not in account.keys:
            raise SettingsError(f"{path}.session_tokens.{_key(key)}: no such key under keys")
    if account.queues and account.rules is not LAMBDA:
        raise SettingsError(f"{path}.queues: only Lambda accounts have queues")
    for name, function in account.functions.items():
        _check_function(function, f"{path}.functions.{_key(name)}", account.rules)
    listed = (account.functions[name] for name in account.functions if name != DEFAULT_FUNCTION)
    reserved = sum(function.reserved or 0 for function in listed)
    if reserved > account.quota:
        raise SettingsError(
            f"{path}.functions: {reserved} instances reserved of a quota of {account.quota}"
        )


_BOUNDS: Final = {
    "duration_s": (0, None),
    "jitter_spread": (0, None),
    "cold_start_s": (0, None),
    "idle_s": (0, None),
    "timeout_s": (0.001, None),
    "failure_rate": (0, 1),
    "instance_concurrency": (1, None),
    "vcpu": (0, None),
    "reserved": (0, None),
    "instances_max": (0, None),
    "dequeue_s": (0, None),
    "max_async_retry_attempts": (0, None),
    "max_async_event_age_s": (0, None),
    "task_registration_s": (0, None),
    "task_lost_rate": (0, 1),
    "stop_s": (0, None),
}


def _check_function(function: Function, path: str, rules: Provider) -> None:
    for name, (low, high) in _BOUNDS.items():
        value = getattr(function, name)
        if value is not None:
            _between(value, path, name, low, high)
    if function.jitter == "uniform":
        _between(function.jitter_spread, path, "jitter_spread", 0, 1)
    for index, wait_s in enumerate(function.retry_waits_s or ()):
        _between(wait_s, path, f"retry_waits_s[{index}]", 0)
    if function.retry_waits_s == ():
        raise SettingsError(f"{path}.retry_waits_s: expected at least one wait")
    if function.instances_max is not None and rules is not FC:
        raise SettingsError(f"{path}.instances_max: only FC has it; Lambda has reserved")
    for name in ("on_success", "on_failure"):
        if getattr(function, name) is not None and rules is not LAMBDA:
            raise SettingsError(f"{path}.{name}: only Lambda functions deliver to SQS queues")


def _check_distinct(accounts: Mapping[str, Account]) -> None:
    seen: dict[tuple[str, str, str], str] = {}
    for name, account in accounts.items():
        identity = (account.provider, account.account_id, account.region)
        if identity in seen:
            raise SettingsError(
                f"accounts.{_key(name)}: the same provider, account id and region as "
                f"accounts.{_key(seen[identity])}"
            )
        seen[identity] = name


def _between(value: float, path: str, name: str, low: float, high: float | None = None) -> None:
    # Written so that NaN fails as well.
    if not (low <= value and (high is None or value <= high)):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        full = f"{path}.{name}".lstrip(".")
        raise SettingsError(f"{full}: expected a number {bounds}, got {value}")


def _key(name: str) -> str:
    """Return the name as TOML writes it in a path."""
    return name if name.replace("-", "").replace("_", "").isalnum() else f'"{name}"'
