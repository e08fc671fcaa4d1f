import pytest

from dispatcher.emulator.settings import SettingsError, load, parse

GOOD = """
seed = 1
[records]
lost = 0.05
[[faults]]
kind = "hang"
probability = 0.01
[accounts.a]
provider = "aliyun-fc"
account_id = "1"
region = "here"
quota = 10
keys = { AKID = "secret" }
[accounts.a.functions."*"]
duration_s = 1
failure_rate = 0.5
[accounts.a.functions."s$f"]
failure_rate = 0
"""


def test_nothing_said_is_one_account_of_each_provider():
    accounts = parse("").accounts
    assert {
        (account.provider, account.account_id, account.region, account.quota)
        for account in accounts.values()
    } == {
        ("aws-lambda", "000000000000", "us-east-1", 1000),
        ("aliyun-fc", "1000000000000000", "cn-shanghai", 300),
    }
    assert all(account.unlisted for account in accounts.values())
    assert not any(account.keys for account in accounts.values())


def test_a_function_takes_over_what_the_default_says():
    functions = parse(GOOD).accounts["a"].functions
    assert (functions["s$f"].duration_s, functions["s$f"].failure_rate) == (1, 0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed", "sead", "sead: no such key"),
        ("lost", "loost", "records.loost: no such key"),
        ("lost = 0.05", "lost = 5", "records.lost: expected a number from 0 to 1, got 5"),
        ("probability", "chance", "faults[0].chance: no such key"),
        ('"hang"', '"dance"', "faults[0].kind: Invalid enum value 'dance'"),
        ("probability = 0.01", "next = -1", "faults[0].next: expected a number at least 0"),
        ("probability = 0.01", "delay_s = -1", "faults[0].delay_s: expected"),
        ("probability = 0.01", "status = 200", "faults[0].status: expected"),
        ("quota", "quoda", "accounts.a.quoda: no such key"),
        ("quota = 10", "quota = -1", "accounts.a.quota: expected a number at least 0, got -1"),
        ("quota = 10", "quota = 'x'", "accounts.a.quota: Expected `int`, got `str`"),
        ("quota = 10", "", "accounts.a: Object missing required field `quota`"),
        ('"aliyun-fc"', '"gcp"', "accounts.a.provider: Invalid enum value 'gcp'"),
        ("duration_s", "durations", 'accounts.a.functions."*".durations: no such key'),
        ("failure_rate = 0\n", "x = 0\n", 'accounts.a.functions."s$f".x: no such key'),
        ("= 0.5", "= nan", 'accounts.a.functions."*".failure_rate: expected'),
        ("= 0.5", "= 0.5\non_success='q'", '"*".on_success: only Lambda'),
        ("= 0.5", "= 0.5\nretry_waits_s=[]", '"*".retry_waits_s: expected at least one'),
        ("= 0.5", "= 0.5\nretry_waits_s=[1,-1]", '"*".retry_waits_s[1]: expected'),
        ("= 0.5", "= 0.5\nreserved=11", "accounts.a.functions: 11 instances reserved"),
        ("= 0.5", "= 0.5\njitter='uniform'\njitter_spread=2", '"*".jitter_spread: expected'),
        ('"secret" }', '"secret" }\nsession_tokens = { B = "t" }', "session_tokens.B: no such key"),
        ('"secret" }', '"secret" }\nqueues = ["q"]', "accounts.a.queues: only Lambda"),
        (
            '"secret" }',
            '"secret" }\nramp = { burst = 0, per_minute = 1 }',
            "a.ramp.burst: expected",
        ),
        ('"aliyun-fc"', '"aws-lambda"', "instances_max: only FC has it"),
        ("[records]", "[records", "not TOML: "),
        ('[accounts.a.functions."*"]', "[accounts.a.functions]\n'*' = 1", '"*": expected a table'),
        ("[[faults]]", "[faults]", "faults: expected an array"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(old, new, message):
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    if "instances_max" in message:
        text += "instances_max = 1\n"
    with pytest.raises(SettingsError) as caught:
        parse(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accounts = 3", "accounts: expected one table for each account"),
        ("[accounts]", "accounts: expected one table for each account"),
        ("[accounts]\na = 3", "accounts.a: expected a table"),
        ("faults = 3", "faults: expected an array of tables"),
        ("records = 3", "records: Expected `object`, got `int`"),
    ],
)
def test_other_shapes_are_named_too(text, message):
    with pytest.raises(SettingsError) as caught:
        parse(text)
    assert str(caught.value) == message


def test_one_quota_has_one_account():
    second = GOOD[GOOD.index("[accounts.a]") :].replace("accounts.a", "accounts.b")
    with pytest.raises(SettingsError, match=r"accounts\.b: the same provider"):
        parse(GOOD + second)
    assert len(parse(GOOD + second.replace('"here"', '"there"')).accounts) == 2


def test_settings_come_from_files(tmp_path):
    path = tmp_path / "emulator.toml"
    path.write_text(GOOD)
    assert load(path) == parse(GOOD)
    path.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="not UTF-8"):
        load(path)
