"""What works, but is probably not what was meant."""

from pathlib import Path

import pytest

from dispatcher.config import parse, warnings

FC = 'provider = "aliyun-fc"\naccount_id = "1"\nregion = "cn-shanghai"\nquota = 300\n'
LAMBDA = 'provider = "aws-lambda"\naccount_id = "123456789012"\nregion = "us-east-1"\nquota = 10\n'
QUEUE = 'completion_queue = "https://sqs.us-east-1.amazonaws.com/123456789012/ends"\n'


def advice(text: str) -> dict[str, str]:
    return dict(warnings(parse(text, base=Path("/etc/dispatcher"))))


@pytest.mark.parametrize("text", [f"[accounts.a]\n{FC}", f"[accounts.a]\n{LAMBDA}{QUEUE}"])
def test_there_is_nothing_to_say_about_a_plain_configuration(text: str):
    assert advice(text) == {}


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ("", "accounts", "there are none"),
        (f'[accounts.a]\n{FC}\n[journal]\nurl = "memory:"', "journal.url", "is lost"),
        (
            f'[accounts.a]\n{LAMBDA}functions."*".duration_s = 5',
            'accounts.a.functions."*".completion',
            'exact are completion = "destination"',
        ),
        (
            f'[accounts.a]\n{FC}functions.f.completion = "accepted"',
            "accounts.a.functions.f.completion",
            "the quota is not held",
        ),
        (
            f'[accounts.a]\n{FC}functions.f.completion = "callback"',
            "callbacks.url",
            "may not be able to reach",
        ),
        (
            f"[accounts.a]\n{LAMBDA}{QUEUE}functions.f.instance_concurrency = 2",
            "accounts.a.functions.f.instance_concurrency",
            "Lambda counts each running invocation",
        ),
        (
            f"[accounts.a]\n{FC}functions.f.instances_max = 301",
            "accounts.a.functions.f.instances_max",
            "never reached: the account's quota is 300",
        ),
        (
            f"[accounts.a]\n{FC}tenants.t.limit = 301",
            "accounts.a.tenants.t.limit",
            "never reached",
        ),
        (
            f'[accounts.a]\n{FC}endpoint = "http://fc.example.org"',
            "accounts.a.endpoint",
            "unencrypted",
        ),
        (
            f"[accounts.a]\n{LAMBDA}{QUEUE}".replace(
                'account_id = "123456789012"', 'account_id = "1"'
            ),
            "accounts.a.account_id",
            "12 digits",
        ),
        (
            f"[accounts.a]\n{LAMBDA}{QUEUE.replace('us-east-1', 'eu-west-1')}",
            "accounts.a.completion_queue",
            "is in eu-west-1",
        ),
        (
            (
                f"[accounts.a]\n{LAMBDA}{QUEUE}[accounts.b]\n"
                f"{LAMBDA.replace('123456789012', '210987654321')}{QUEUE}"
            ),
            "accounts.b.completion_queue",
            "the same as accounts.a.completion_queue",
        ),
    ],
)
def test_what_is_odd_is_said_once(text: str, path: str, words: str):
    found = advice(text)
    assert list(found) == [path]
    assert words in found[path]


def test_a_star_that_nobody_can_use_is_passed_over():
    assert advice(f"[accounts.a]\n{LAMBDA}unlisted = false") == {}


def test_an_emulator_on_this_machine_may_be_called_in_the_clear():
    assert advice(f'[accounts.a]\n{FC}endpoint = "http://127.0.0.1:8710"') == {}


def test_a_host_beyond_this_machine_needs_a_name(tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("t")
    token.chmod(0o600)
    server = f'[server]\nlisten = ["0.0.0.0:80"]\ntoken_file = "{token}"\n'
    account = f"[accounts.a]\n{FC}"
    assert list(advice(server + account)) == ["server.hosts"]
    assert advice(f'{server}hosts = ["dispatcher"]\n{account}') == {}


def test_clients_have_keys_of_their_own(tmp_path: Path):
    key = tmp_path / "key"
    key.write_text("t")
    key.chmod(0o600)
    client = f"""
        [clients.c]
        account = "a"
        access_key_secret_file = "{key}"
        access_key_id = """
    assert advice(f'[accounts.a]\n{FC}{client}"LOCAL"') == {}
    assert list(advice(f'[accounts.a]\n{FC}{client}"AKIAIOSFODNN7EXAMPLE"')) == [
        "clients.c.access_key_id"
    ]
