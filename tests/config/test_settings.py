"""The contract: the example that the design promises, key by key."""

from pathlib import Path

import msgspec
import pytest
from msgspec import inspect

from dispatcher.config import Settings, parse
from dispatcher.core.model import CallType, Provider, Source

EXAMPLE = """
[server]
listen = ["127.0.0.1:8700"]
token_file = "token"
hosts = ["localhost", "127.0.0.1"]
drain_max_s = 25

[metrics]
listen = "127.0.0.1:8701"

[journal]
url = "sqlite:///var/lib/dispatcher/journal.db"
delivery = "at_least_once"
retention_s = 86400

[queue]
jobs_max = 1000000
bytes_max = 1073741824

[accounts.cn-prod]
provider = "aliyun-fc"
account_id = "1031234567890123"
region = "cn-shanghai"
quota = 300
unlisted = true
headroom = 25
endpoint = "http://127.0.0.1:8710"
limit = "fixed"
requests_max = 256
rate_max_per_s = 0
credentials = { source = "default" }

[accounts.cn-prod.functions."m42-ng-fc$surf2surf"]
type = "async"
completion = "task"
instance_concurrency = 1
instances_max = 50
hold_max_s = 900
duration_s = 30
attempts_max = 1

[accounts.cn-prod.tenants.research]
weight = 1
reserved = 50
limit = 200

[accounts.us-prod]
provider = "aws-lambda"
account_id = "123456789012"
region = "us-east-1"
quota = 1000
completion_queue = "https://sqs.us-east-1.amazonaws.com/123456789012/ends"
credentials = { source = "static", access_key_id = "AK", access_key_secret_file = "secret" }

[retry]
delay_base_s = 0.5
delay_max_s = 60
age_max_s = 21600

[clients.research-service]
access_key_id = "LOCALRESEARCH"
access_key_secret_file = "research"
account = "cn-prod"
tenant = "research"
sync_to_async = false
"""


@pytest.fixture
def secrets(tmp_path):
    for name in ("token", "secret", "research"):
        (tmp_path / name).write_text("s3cret\n")
        (tmp_path / name).chmod(0o640)
    return tmp_path


def test_every_key_of_the_contract_is_understood(secrets):
    settings = parse(EXAMPLE, base=secrets)
    assert settings.server.listen == ("127.0.0.1:8700",)
    assert settings.server.token_file == str(secrets / "token")
    assert settings.server.drain_max_s == 25.0
    assert type(settings.server.drain_max_s) is float  # an integer will do where a number may be
    account = settings.accounts["cn-prod"]
    assert account.provider is Provider.ALIYUN_FC
    assert (account.quota, account.headroom, account.unlisted) == (300, 25, True)
    function = account.functions["m42-ng-fc$surf2surf"]
    assert (function.type, function.completion) == (CallType.ASYNC, Source.TASK)
    assert (function.hold_max_s, function.duration_s, function.instances_max) == (900.0, 30.0, 50)
    tenant = account.tenants["research"]
    assert (tenant.weight, tenant.reserved, tenant.limit) == (1.0, 50, 200)
    assert settings.clients["research-service"].access_key_secret_file == str(secrets / "research")
    assert settings.retry.delay_base_s == 0.5


def test_the_defaults_are_those_of_the_contract():
    settings = parse("", base=Path("/etc/dispatcher"))
    assert settings.server.listen == ("127.0.0.1:8700",)
    assert settings.server.hosts == ("localhost", "127.0.0.1")
    assert settings.server.token_file is None
    assert settings.metrics.listen == "127.0.0.1:8701"
    assert settings.journal.url == "sqlite:///etc/dispatcher/dispatcher.db"
    assert settings.journal.delivery == "at_least_once"
    assert (settings.queue.jobs_max, settings.queue.bytes_max) == (1_000_000, 2**30)
    retry = settings.retry
    assert (retry.delay_base_s, retry.delay_max_s, retry.age_max_s) == (0.5, 60.0, 21600.0)


def test_the_core_is_told_what_it_decides_by(secrets):
    text = EXAMPLE.replace("at_least_once", "at_most_once").replace("= 1000000", "= 7")
    rules = parse(text, base=secrets).rules()
    assert rules.at_most_once
    assert rules.jobs_max == 7
    assert set(rules.accounts) == {"cn-prod", "us-prod"}
    assert rules.retry.age_max_s == 21600.0


def test_settings_cannot_be_changed(secrets):
    settings = parse(EXAMPLE, base=secrets)
    with pytest.raises(AttributeError):
        settings.queue.jobs_max = 5  # type: ignore[misc]
    with pytest.raises(AttributeError):
        settings.accounts["cn-prod"].quota = 5  # type: ignore[misc]


def test_every_table_refuses_unknown_keys():
    def walk(kind: inspect.Type):
        match kind:
            case inspect.StructType():
                assert kind.forbid_unknown_fields, kind.cls
                assert issubclass(kind.cls, msgspec.Struct)
                assert kind.cls.__struct_config__.frozen, kind.cls
                yield kind.cls.__name__
                for field in kind.fields:
                    yield from walk(field.type)
            case inspect.DictType():
                yield from walk(kind.value_type)
            case inspect.UnionType(types):
                for one in types:
                    yield from walk(one)
            case _:
                pass

    assert len(set(walk(inspect.type_info(Settings)))) == 17
