"""What a reload changes, and what only a restart can."""

from pathlib import Path

import msgspec
import pytest
from msgspec import inspect

from dispatcher.config import Settings, changed, needs_restart, parse
from dispatcher.config.changes import RESTART, read_once
from dispatcher.config.shape import Keys

BEFORE = """
[accounts.a]
provider = "aws-lambda"
account_id = "123456789012"
region = "us-east-1"
quota = 10
functions."*" = { duration_s = 5 }
tenants.t = { weight = 2 }
"""


def difference(before: str, after: str) -> tuple[list[str], list[str]]:
    old, new = (parse(text, base=Path("/")) for text in (before, after))
    return changed(old, new), needs_restart(old, new)


@pytest.mark.parametrize(
    ("after", "path"),
    [
        (BEFORE.replace("quota = 10", "quota = 11"), "accounts.a.quota"),
        (BEFORE.replace("weight = 2", "weight = 3"), "accounts.a.tenants.t.weight"),
        (BEFORE.replace("tenants.t = ", "tenants.u.weight = 1\n# "), "accounts.a.tenants.t"),
        (BEFORE + "functions.f.hold_max_s = 9", "accounts.a.functions.f"),
        (BEFORE + "requests_max = 9", "accounts.a.requests_max"),
        (BEFORE + 'limit = "adaptive"', "accounts.a.limit"),
        (BEFORE + "[queue]\njobs_max = 9", "queue.jobs_max"),
        (BEFORE + "[retry]\ndelay_max_s = 9", "retry.delay_max_s"),
        (BEFORE + "[server]\ndrain_max_s = 9", "server.drain_max_s"),
        (BEFORE + '[server]\nhosts = ["x"]', "server.hosts"),
    ],
)
def test_what_changes_live(after: str, path: str):
    differs, restart = difference(BEFORE, after)
    assert path in differs
    assert restart == []


@pytest.mark.parametrize(
    ("after", "path"),
    [
        (BEFORE.replace("us-east-1", "us-east-2"), "accounts.a.region"),
        (BEFORE.replace("123456789012", "210987654321"), "accounts.a.account_id"),
        (BEFORE + 'endpoint = "http://127.0.0.1:1"', "accounts.a.endpoint"),
        (BEFORE + 'credentials = { source = "env" }', "accounts.a.credentials.source"),
        (BEFORE + '[server]\nlisten = ["127.0.0.1:1"]', "server.listen"),
        (BEFORE + '[metrics]\nlisten = ""', "metrics.listen"),
        (BEFORE + '[journal]\nurl = "memory:"', "journal.url"),
        (BEFORE + "[queue]\nbytes_max = 9", "queue.bytes_max"),
        (BEFORE.replace("accounts.a", "accounts.b"), "accounts.a"),
        ("", "accounts.a"),
    ],
)
def test_what_needs_a_restart(after: str, path: str):
    differs, restart = difference(BEFORE, after)
    assert path in differs
    assert path in restart
    assert set(restart) <= set(differs)


def test_a_new_account_needs_a_restart():
    assert difference("", BEFORE) == (["accounts.a"], ["accounts.a"])


def test_nothing_differs_from_itself():
    assert difference(BEFORE, BEFORE) == ([], [])


def test_a_client_may_bear_the_name_of_a_key():
    assert not read_once(("clients", "listen"))
    assert not read_once(("accounts", "a", "functions", "region"))
    assert read_once(("accounts", "provider"))  # an account of that name has come or gone
    assert read_once(("accounts", "a", "credentials", "access_key_id"))


def test_every_key_that_needs_a_restart_exists():
    def walk(kind: inspect.Type, keys: Keys) -> set[Keys]:
        found = {keys}
        if isinstance(kind, inspect.StructType):
            for field in kind.fields:
                found |= walk(field.type, (*keys, field.name))
        if isinstance(kind, inspect.DictType):
            found |= walk(kind.value_type, (*keys, "*"))
        return found

    assert walk(inspect.type_info(Settings), ()) >= RESTART


def test_the_difference_is_made_of_plain_values():
    # What `changed` walks over has each key once, under the name that the file has.
    settings = parse(BEFORE, base=Path("/"))
    assert set(msgspec.to_builtins(settings)) == {
        field.name for field in msgspec.structs.fields(Settings)
    }
