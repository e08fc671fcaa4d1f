from pathlib import Path
from typing import Any

import pytest

from dispatcher.config import ConfigError, Settings, adjusted, differences, parse, pointer
from dispatcher.core.model import Source

TEXT = """
[accounts.main]
provider = "aws-lambda"
account_id = "123456789012"
region = "us-east-1"
quota = 100
headroom = 10
credentials = { source = "static", access_key_id = "AK", access_key_secret_file = "gone" }
ramp = { burst = 5, per_minute = 60 }
[accounts.main.functions."*"]
duration_s = 3
hold_max_s = 60
[accounts.main.functions.resize]
instances_max = 5
[accounts.main.tenants.research]
weight = 2
reserved = 20
[accounts."b.c"]
provider = "aliyun-fc"
account_id = "1"
region = "cn-shanghai"
quota = 3
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    secret = tmp_path / "gone"
    secret.write_text("s3cret")
    secret.chmod(0o600)
    before = parse(TEXT, base=tmp_path)
    secret.unlink()  # its file is no concern of who changes a weight
    return before


def test_what_is_said_changes_and_nothing_else(settings):
    patch = {
        "quota": 200,
        "limit": "adaptive",
        "tenants": {"research": {"weight": 3}, "web": {"limit": 7}},
        "functions": {"resize": {"instances_max": 50}},
    }
    after = adjusted(settings, "main", patch)
    old, new = settings.accounts["main"], after.accounts["main"]
    assert (new.quota, new.limit, new.headroom, new.ramp) == (200, "adaptive", 10, old.ramp)
    assert (new.tenants["research"].weight, new.tenants["research"].reserved) == (3.0, 20)
    assert new.tenants["web"].limit == 7
    assert (new.functions["resize"].instances_max, new.functions["resize"].hold_max_s) == (50, 60.0)
    assert new.credentials == old.credentials
    assert (after.accounts["b.c"], after.server) == (settings.accounts["b.c"], settings.server)
    assert settings.accounts["main"].quota == 100
    assert differences(settings, after, "main") == (
        "/quota",
        "/limit",
        "/functions/resize/instances_max",
        "/tenants/research/weight",
        "/tenants/web",
    )
    assert differences(settings, settings, "main") == ()


def test_a_whole_number_may_be_written_with_a_point(settings):
    after = adjusted(settings, "main", {"quota": 50.0, "rate_max_per_s": 5.0})
    assert (after.accounts["main"].quota, after.accounts["main"].rate_max_per_s) == (50, 5.0)


def test_null_brings_the_default_back(settings):
    patch = {"headroom": None, "ramp": None, "functions": {"resize": {"instances_max": None}}}
    after = adjusted(settings, "main", patch).accounts["main"]
    assert (after.headroom, after.ramp, after.functions["resize"].instances_max) == (0, None, None)
    unset: dict[str, Any] = {"tenants": {"research": None, "nobody": None}}
    assert adjusted(settings, "main", unset).accounts["main"].tenants == {}
    gone = {"functions": {"resize": None}, "tenants": None}
    after = adjusted(settings, "main", gone).accounts["main"]
    assert (set(after.functions), after.tenants) == ({"*"}, {})


def test_part_of_a_table_is_changed_in_it(settings):
    after = adjusted(settings, "main", {"ramp": {"burst": 9}}).accounts["main"]
    assert after.ramp is not None
    assert (after.ramp.burst, after.ramp.per_minute) == (9, 60.0)


def test_a_function_that_had_no_section_inherits_as_in_a_file(settings):
    patch = {"functions": {"new": {"instances_max": 1}, "sync": {"type": "sync"}}}
    after = adjusted(settings, "main", patch).accounts["main"].functions
    assert (after["new"].instances_max, after["new"].duration_s) == (1, 3.0)
    assert after["sync"].completion is Source.RESPONSE
    again = adjusted(settings, "main", {"functions": {"resize": {"type": "sync"}}})
    assert again.accounts["main"].functions["resize"].completion is Source.RESPONSE


@pytest.mark.parametrize(
    ("patch", "where"),
    [
        ({"quota": 0}, "/quota"),
        ({"quota": None}, "/quota"),
        ({"quota": "many"}, "/quota"),
        ({"quota": 0.5}, "/quota"),
        ({"quota": 1e300}, "/quota"),
        ({"qota": 5}, "/qota"),
        ({"qota": None}, "/qota"),
        ({"headroom": 100}, "/headroom"),
        ({"tenants": {"research": {"reserved": 91}}}, "/tenants"),
        ({"tenants": {"research": {"weigth": 91}}}, "/tenants/research/weigth"),
        ({"tenants": {"research": {"weight": 0}}}, "/tenants/research/weight"),
        ({"tenants": {"research": {"limit": 19}}}, "/tenants/research/reserved"),
        ({"tenants": {"a/b~c": {"weight": 1}}}, "/tenants/a~1b~0c"),
        ({"tenants": {"research": 5}}, "/tenants/research"),
        ({"tenants": 5}, "/tenants"),
        ({"functions": {"f:g": {}}}, "/functions/f:g"),
        ({"functions": {"s$f": {"duration_s": 61}}}, "/functions/s$f/duration_s"),
        ({"ramp": {"burst": 0}}, "/ramp/burst"),
        ({"region": "us-east-1"}, "/region"),
        ({"credentials": {"source": "env"}}, "/credentials"),
    ],
)
def test_what_a_file_may_not_say_is_refused_where_it_is_said(settings, patch, where):
    with pytest.raises(ConfigError) as error:
        adjusted(settings, "main", patch)
    assert pointer(error.value.problems[0][0]) == where


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("accounts.a", ""),
        ("accounts.a.quota", "/quota"),
        ('accounts."b.c".tenants.x', "/tenants/x"),
        ('accounts.a.functions."s$f \\"q\\"".vcpu', '/functions/s$f "q"/vcpu'),
    ],
)
def test_pointers(path, told):
    assert pointer(path) == told


def test_an_account_of_any_name(settings):
    patch: dict[str, Any] = {"quota": 4}
    assert adjusted(settings, "b.c", patch).accounts["b.c"].quota == 4
    with pytest.raises(ConfigError) as error:
        adjusted(settings, "b.c", {"quota": -1})
    assert pointer(error.value.problems[0][0]) == "/quota"
