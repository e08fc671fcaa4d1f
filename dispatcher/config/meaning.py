"""What no type can say: which settings contradict each other, or the world outside."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from dispatcher.config import secret_files
from dispatcher.config.addresses import address, is_host, is_loopback, web_url
from dispatcher.config.problems import Problem
from dispatcher.config.settings import (
    AccountSettings,
    CallbackSettings,
    ClientSettings,
    JournalSettings,
    ServerSettings,
    Settings,
    StaticCredentials,
    TracingSettings,
)
from dispatcher.config.shape import spelled
from dispatcher.core.model import CallType, Provider, Source
from dispatcher.core.rules import FunctionRules, TenantRules

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names of accounts, tenants and clients: they stand in URLs, labels and log lines."""
FUNCTION = re.compile(r"[A-Za-z0-9_-]{1,128}(?:\$[A-Za-z0-9_-]{1,128})?")
"""Names of functions, in either cloud; `service$function` is one of Function Compute 2.0."""

_ACCOUNT_ID = re.compile(r"[0-9]{1,20}")
_REGION = re.compile(r"[a-z0-9-]{1,40}")
_KEY_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_WEIGHT_MIN = 1e-6


def problems(
    settings: Settings,
    *,
    judged_elsewhere: Collection[str] = (),
    of_no_provider: Collection[str] = (),
) -> Iterator[Problem]:
    """
    Yield every contradiction in *settings*, which have been resolved.

    *judged_elsewhere* names accounts that are configured but too wrong to be among them,
    *of_no_provider* those that have a provider only for the time being.
    """
    yield from _of_listeners(settings)
    yield from _of_callers(settings.server)
    yield from _of_journal(settings.journal)
    yield from _of_callbacks(settings.callbacks)
    yield from _of_tracing(settings.tracing)
    if settings.retry.delay_base_s > settings.retry.delay_max_s:
        yield Problem("retry.delay_base_s", f"above delay_max_s, {settings.retry.delay_max_s:g}")
    yield from _of_identities(settings, of_no_provider)
    for name, account in settings.accounts.items():
        yield from _of_account(account, spelled(("accounts", name)), name)
    yield from _of_keys(settings)
    known = {*settings.accounts, *judged_elsewhere}
    for name, client in settings.clients.items():
        yield from _of_client(client, spelled(("clients", name)), name, known)


def exact_sources(provider: Provider) -> str:
    """Name the ways to know the end of a run instead of estimating it."""
    if provider is Provider.ALIYUN_FC:
        return 'exact are completion = "task", completion = "callback", and type = "sync"'
    return (
        'exact are completion = "destination" (with the account\'s completion_queue), '
        'completion = "callback", and type = "sync"'
    )


# -- Listeners and journal ------------------------------------------------------------------------


def _of_listeners(settings: Settings) -> Iterator[Problem]:
    server = settings.server
    if not server.listen:
        yield Problem("server.listen", "at least one address is needed")
    listeners = {f"server.listen[{index}]": text for index, text in enumerate(server.listen)}
    if settings.metrics.listen is not None:
        listeners["metrics.listen"] = settings.metrics.listen
    taken: dict[object, str] = {}
    for path, text in listeners.items():
        try:
            place = address(text)
        except ValueError as error:
            yield Problem(path, str(error))
            continue
        if path == "metrics.listen":
            if not isinstance(place, tuple):
                yield Problem(path, "expected HOST:PORT: Prometheus cannot reach a socket file")
        elif server.token_file is None and _is_open(place):
            yield Problem(path, "beyond loopback a server.token_file is required")
        if place in taken and not (isinstance(place, tuple) and place[1] == 0):
            yield Problem(path, f"the same as {taken[place]}")
        taken.setdefault(place, path)


def _is_open(place: tuple[str, int] | Path) -> bool:
    return isinstance(place, tuple) and not is_loopback(place[0])


def _of_callers(server: ServerSettings) -> Iterator[Problem]:
    if not server.hosts:
        yield Problem("server.hosts", "at least one name is needed: every request carries one")
    for index, host in enumerate(server.hosts):
        if not is_host(host.removeprefix("[").removesuffix("]")):
            yield Problem(f"server.hosts[{index}]", "expected the name of a host, without a port")
    if server.token_file is not None:
        yield from secret_files.problems(server.token_file, "server.token_file")


def _of_journal(journal: JournalSettings) -> Iterator[Problem]:
    if journal.url == "memory:":
        return
    file = journal.url.removeprefix("sqlite://")
    if file == journal.url or not file.startswith("/") or "\0" in file:
        yield Problem(
            "journal.url",
            'expected "sqlite:///absolute/path.db", "sqlite:relative/path.db" or "memory:"',
        )
    elif "?" in file:
        yield Problem("journal.url", "parameters are not possible")
    elif file.endswith("/"):
        yield Problem("journal.url", "expected the path of a file")


def _of_tracing(tracing: TracingSettings) -> Iterator[Problem]:
    if tracing.endpoint is not None:
        try:
            url = web_url(tracing.endpoint)
        except ValueError as error:
            yield Problem("tracing.endpoint", str(error))
        else:
            if url.query or url.fragment:
                yield Problem("tracing.endpoint", "expected http(s)://host[:port][/path]")
    if not tracing.service_name.strip():
        yield Problem("tracing.service_name", "expected a name")
    if tracing.sample_ratio > 1:
        yield Problem(
            "tracing.sample_ratio", f"expected a part, from 0 to 1, got {tracing.sample_ratio:g}"
        )


def _of_callbacks(callbacks: CallbackSettings) -> Iterator[Problem]:
    if callbacks.url is not None:
        try:
            url = web_url(callbacks.url)
        except ValueError as error:
            yield Problem("callbacks.url", str(error))
        else:
            if url.query or url.fragment:
                yield Problem("callbacks.url", "expected http(s)://host[:port][/path]")
    for index, host in enumerate(callbacks.hosts):
        if not is_host(host):
            yield Problem(
                f"callbacks.hosts[{index}]", "expected the name of a host, without scheme and port"
            )
    if callbacks.secret_file is not None:
        yield from secret_files.problems(callbacks.secret_file, "callbacks.secret_file")
    elif callbacks.hosts:
        yield Problem(
            "callbacks.secret_file", "required with hosts: whoever is called must know by whom"
        )


# -- Accounts -------------------------------------------------------------------------------------


def _of_identities(settings: Settings, unknown: Collection[str]) -> Iterator[Problem]:
    seen: dict[tuple[Provider, str, str], str] = {}
    for name, account in settings.accounts.items():
        if name in unknown:
            continue
        path = spelled(("accounts", name))
        identity = (account.provider, account.account_id, account.region)
        if identity in seen:
            yield Problem(
                path,
                f"the same provider, account_id and region as {seen[identity]}: they share one "
                "quota, so they must be one account",
            )
        seen.setdefault(identity, path)


def _of_account(account: AccountSettings, path: str, name: str) -> Iterator[Problem]:
    if not NAME.fullmatch(name):
        yield Problem(path, _not_a_name("an account"))
    if not _ACCOUNT_ID.fullmatch(account.account_id):
        yield Problem(f"{path}.account_id", "expected 1 to 20 digits")
    if not _REGION.fullmatch(account.region):
        yield Problem(f"{path}.region", 'expected a region, such as "us-east-1"')
    if account.endpoint is not None:
        yield from _of_endpoint(account.endpoint, f"{path}.endpoint")
    if account.completion_queue is not None:
        yield from _of_queue(account, account.completion_queue, f"{path}.completion_queue")
    if isinstance(account.credentials, StaticCredentials):
        yield from _of_static(account.credentials, f"{path}.credentials")
    yield from _of_shares(account, path)
    yield from _of_resources(account, path)
    for function, rules in account.functions.items():
        yield from _of_function(account, rules, function, path)


def _of_shares(account: AccountSettings, path: str) -> Iterator[Problem]:
    free = account.quota - account.headroom
    if free <= 0:
        yield Problem(f"{path}.headroom", f"leaves nothing of the quota, {account.quota}")
    elif account.limit_min > free:
        yield Problem(f"{path}.limit_min", f"more than the quota less the headroom, {free}")
    reserved = sum(tenant.reserved for tenant in account.tenants.values())
    if reserved > max(free, 0):
        less = f" less the headroom, {free}" if account.headroom else f", {account.quota}"
        yield Problem(
            f"{path}.tenants", f"{reserved} instances are reserved: more than the quota{less}"
        )
    for name, tenant in account.tenants.items():
        yield from _of_tenant(tenant, f"{path}.{spelled(('tenants', name))}", name)


def _of_resources(account: AccountSettings, path: str) -> Iterator[Problem]:
    resources = account.resources
    if resources is None:
        return
    for name, rules in account.functions.items():
        if name == "*" and not account.unlisted:
            continue
        place = f"{path}.{spelled(('functions', name))}.vcpu"
        if not rules.vcpu:
            yield Problem(place, "required with the account's resources.vcpu: vCPUs of an instance")
        elif rules.vcpu > resources.vcpu:
            yield Problem(place, f"more than the account's resources.vcpu, {resources.vcpu:g}")


def _of_endpoint(endpoint: str, path: str) -> Iterator[Problem]:
    try:
        url = web_url(endpoint)
    except ValueError as error:
        yield Problem(path, str(error))
        return
    if url.path not in ("", "/") or url.query or url.fragment:
        yield Problem(path, "expected http://host[:port] or https://host[:port], and no more")


def _of_queue(account: AccountSettings, queue: str, path: str) -> Iterator[Problem]:
    if account.provider is not Provider.AWS_LAMBDA:
        yield Problem(path, 'only functions of "aws-lambda" write to a queue')
        return
    try:
        url = web_url(queue)
    except ValueError as error:
        yield Problem(path, str(error))
        return
    if url.path in ("", "/") or url.fragment:
        yield Problem(path, "expected the URL of an SQS queue: https://host/account/queue")


def _of_static(credentials: StaticCredentials, path: str) -> Iterator[Problem]:
    if not credentials.access_key_id or not credentials.access_key_id.isprintable():
        yield Problem(f"{path}.access_key_id", "expected the id of a key")
    yield from secret_files.problems(
        credentials.access_key_secret_file, f"{path}.access_key_secret_file"
    )
    if credentials.security_token_file is not None:
        yield from secret_files.problems(
            credentials.security_token_file, f"{path}.security_token_file"
        )


def _of_tenant(tenant: TenantRules, path: str, name: str) -> Iterator[Problem]:
    if not NAME.fullmatch(name):
        yield Problem(path, _not_a_name("a tenant"))
    if tenant.weight < _WEIGHT_MIN:
        yield Problem(f"{path}.weight", f"expected a number of at least {_WEIGHT_MIN:.6f}")
    if tenant.limit is not None and tenant.reserved > tenant.limit:
        yield Problem(f"{path}.reserved", f"more than the tenant's limit, {tenant.limit}")


def _of_function(
    account: AccountSettings, rules: FunctionRules, name: str, account_path: str
) -> Iterator[Problem]:
    if name == "*" and not account.unlisted:
        return  # only the source of what its siblings left out: nothing ever runs by it
    path = f"{account_path}.{spelled(('functions', name))}"
    if name != "*" and not FUNCTION.fullmatch(name):
        yield Problem(
            path,
            "not a function's name, which is name or service$function without a qualifier: a "
            "section holds for all versions and aliases",
        )
    is_sync = rules.type is CallType.SYNC
    match rules.completion:
        case Source.RESPONSE if not is_sync:
            yield Problem(
                f"{path}.completion",
                '"response" needs type = "sync": the reply to an asynchronous call comes before '
                "the function has run",
            )
        case Source.TASK if account.provider is not Provider.ALIYUN_FC:
            yield Problem(f"{path}.completion", '"task" exists only at "aliyun-fc"')
        case Source.DESTINATION if account.provider is not Provider.AWS_LAMBDA:
            yield Problem(f"{path}.completion", '"destination" exists only at "aws-lambda"')
        case Source.DESTINATION if account.completion_queue is None:
            yield Problem(
                f"{path}.completion", '"destination" needs the account\'s completion_queue'
            )
        case Source.DURATION if rules.duration_s is None:
            yield Problem(f"{path}.duration_s", _duration_required(account.provider, name))
        case _:
            pass
    if is_sync and rules.completion is not Source.RESPONSE:
        yield Problem(
            f"{path}.completion",
            'only "response" goes with type = "sync": the reply is the end of the run',
        )
    if rules.duration_s is not None and rules.duration_s > rules.hold_max_s:
        yield Problem(f"{path}.duration_s", f"longer than hold_max_s, {rules.hold_max_s:g}")


def _duration_required(provider: Provider, name: str) -> str:
    whom = "functions without a section, whose" if name == "*" else "a function whose"
    way_out = "; or unlisted = false for the account" if name == "*" else ""
    return (
        f'required for {whom} end is estimated (completion = "duration"): how long a run takes; '
        f"{exact_sources(provider)}{way_out}"
    )


# -- Clients --------------------------------------------------------------------------------------


def _of_keys(settings: Settings) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for name, client in settings.clients.items():
        path = spelled(("clients", name)) + ".access_key_id"
        if client.access_key_id in seen:
            yield Problem(path, f"the same as {seen[client.access_key_id]}")
        seen.setdefault(client.access_key_id, path)


def _of_client(
    client: ClientSettings, path: str, name: str, accounts: Collection[str]
) -> Iterator[Problem]:
    if not NAME.fullmatch(name):
        yield Problem(path, _not_a_name("a client"))
    if not _KEY_ID.fullmatch(client.access_key_id):
        yield Problem(f"{path}.access_key_id", "expected 1 to 128 letters, digits, '.', '_' or '-'")
    if client.account not in accounts:
        yield Problem(
            f"{path}.account", f"there is no section [{spelled(('accounts', client.account))}]"
        )
    if not NAME.fullmatch(client.tenant):
        yield Problem(f"{path}.tenant", _not_a_name("a tenant"))
    yield from secret_files.problems(
        client.access_key_secret_file, f"{path}.access_key_secret_file"
    )


def _not_a_name(of_what: str) -> str:
    return (
        f"not a name for {of_what}: expected 1 to 64 letters, digits, '.', '_' or '-', "
        "a letter or a digit first"
    )
