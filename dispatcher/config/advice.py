"""What works, but is probably not what was meant."""

import re
from collections.abc import Iterator

from dispatcher.config.addresses import address, is_loopback, web_url
from dispatcher.config.meaning import exact_sources
from dispatcher.config.problems import Problem
from dispatcher.config.settings import AccountSettings, Settings
from dispatcher.config.shape import spelled
from dispatcher.core.model import Provider, Source
from dispatcher.core.rules import FunctionRules

_SQS_HOST = re.compile(r"sqs\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
_CLOUD_KEY = re.compile(r"(?:AKIA|ASIA|LTAI|STS\.)[A-Za-z0-9]{12,}")


def warnings(settings: Settings) -> list[Problem]:
    """Return what is odd about *settings*, which have been judged to be right."""
    return list(_all(settings))


def _all(settings: Settings) -> Iterator[Problem]:
    if not settings.accounts:
        yield Problem("accounts", "there are none, so nothing can be enqueued")
    if settings.journal.url == "memory:":
        yield Problem("journal.url", "what has been accepted is lost when the process ends")
    yield from _of_hosts(settings)
    yield from _of_offers(settings)
    queues: dict[str, str] = {}
    for name, account in settings.accounts.items():
        path = spelled(("accounts", name))
        yield from _of_account(account, path)
        if account.completion_queue is not None:
            if account.completion_queue in queues:
                yield Problem(
                    f"{path}.completion_queue",
                    f"the same as {queues[account.completion_queue]}: each account would take "
                    "records that are meant for the other",
                )
            queues.setdefault(account.completion_queue, f"{path}.completion_queue")
    for name, client in settings.clients.items():
        if _CLOUD_KEY.fullmatch(client.access_key_id):
            yield Problem(
                spelled(("clients", name, "access_key_id")),
                "looks like a cloud's own key; clients have local ones",
            )


def _of_offers(settings: Settings) -> Iterator[Problem]:
    ends_by_callback = any(
        rules.completion is Source.CALLBACK
        for account in settings.accounts.values()
        for rules in account.functions.values()
    )
    if ends_by_callback and settings.callbacks.url is None:
        yield Problem(
            "callbacks.url",
            "unset, so functions that end by callback are told the address that server.listen "
            "names, which they may not be able to reach",
        )


def _of_hosts(settings: Settings) -> Iterator[Problem]:
    server = settings.server
    hosts = [place[0] for text in server.listen if isinstance(place := address(text), tuple)]
    if any(not is_loopback(host) for host in hosts) and all(map(is_loopback, server.hosts)):
        yield Problem(
            "server.hosts",
            "names only this machine although server.listen goes beyond it: requests to any "
            "other name are answered 421",
        )


def _of_account(account: AccountSettings, path: str) -> Iterator[Problem]:
    if account.provider is Provider.AWS_LAMBDA and len(account.account_id) != 12:
        yield Problem(f"{path}.account_id", "an AWS account's number has 12 digits")
    if account.endpoint is not None:
        url = web_url(account.endpoint)
        if url.scheme == "http" and not is_loopback(url.hostname or ""):
            yield Problem(f"{path}.endpoint", "payloads go over the network unencrypted")
    if account.completion_queue is not None:
        match = _SQS_HOST.fullmatch(web_url(account.completion_queue).hostname or "")
        if match is not None and match[1] != account.region:
            yield Problem(
                f"{path}.completion_queue",
                f"is in {match[1]}, but requests are signed for the account's {account.region}",
            )
    for name, tenant in account.tenants.items():
        if tenant.limit is not None and tenant.limit > account.quota:
            yield Problem(
                f"{path}.{spelled(('tenants', name, 'limit'))}",
                f"never reached: the account's quota is {account.quota}",
            )
    for name, rules in account.functions.items():
        if name != "*" or account.unlisted:
            yield from _of_function(account, rules, f"{path}.{spelled(('functions', name))}")


def _of_function(account: AccountSettings, rules: FunctionRules, path: str) -> Iterator[Problem]:
    if rules.completion is Source.DURATION:
        yield Problem(
            f"{path}.completion",
            "the end of a run is estimated, so a run that takes longer than thought lets the "
            f"quota be exceeded; {exact_sources(account.provider)}",
        )
    if rules.completion is Source.ACCEPTED:
        yield Problem(
            f"{path}.completion",
            "a slot ends at the 202: only requests are bounded, the quota is not held",
        )
    if rules.instance_concurrency > 1 and account.provider is Provider.AWS_LAMBDA:
        yield Problem(
            f"{path}.instance_concurrency",
            "Lambda counts each running invocation towards the quota, however instances are shared",
        )
    if rules.instances_max is not None and rules.instances_max > account.quota:
        yield Problem(
            f"{path}.instances_max", f"never reached: the account's quota is {account.quota}"
        )
