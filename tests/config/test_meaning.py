"""What no type can say."""

from pathlib import Path

import pytest

from dispatcher.config import parse
from dispatcher.errors import ConfigError

FC = 'provider = "aliyun-fc"\naccount_id = "1"\nregion = "cn-shanghai"\n'
LAMBDA = 'provider = "aws-lambda"\naccount_id = "123456789012"\nregion = "us-east-1"\n'
QUEUE = 'completion_queue = "https://sqs.us-east-1.amazonaws.com/123456789012/ends"\n'


def problems(text: str) -> list[tuple[str, str]]:
    try:
        parse(text, base=Path("/etc/dispatcher"))
    except ConfigError as error:
        return list(error.problems)
    return []


def the_problem(text: str) -> tuple[str, str]:
    found = problems(text)
    assert len(found) == 1, found
    return found[0]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text("s3cret")
    file.chmod(0o600)
    return file


# -- Callbacks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('url = "ftp://x"', "callbacks.url"),
        ('url = "https://u:p@x"', "callbacks.url"),
        ('url = "https://x/?a=b"', "callbacks.url"),
        ('hosts = ["https://x"]\nsecret_file = "{key}"', "callbacks.hosts[0]"),
        ('hosts = ["x:443"]\nsecret_file = "{key}"', "callbacks.hosts[0]"),
        ('hosts = ["*.x"]\nsecret_file = "{key}"', "callbacks.hosts[0]"),
        ('hosts = ["x"]', "callbacks.secret_file"),
        ('hosts = ["x"]\nsecret_file = "/not/there"', "callbacks.secret_file"),
    ],
)
def test_who_is_called_back_is_judged(text: str, path: str, key: Path):
    assert the_problem("[callbacks]\n" + text.replace("{key}", str(key)))[0] == path


def test_callbacks_that_are_right(key: Path):
    assert not problems('[callbacks]\nurl = "https://x.example:8443/dispatcher/"')
    assert not problems(
        f'[callbacks]\nhosts = ["hooks.example", "10.0.0.1"]\nsecret_file = "{key}"'
    )


# -- Listeners ------------------------------------------------------------------------------------


@pytest.mark.parametrize("listen", ["0.0.0.0:80", "10.1.2.3:80", "[::]:80", "example.org:80"])
def test_beyond_loopback_a_token_is_required(listen: str, key: Path):
    open_to_all = f'[server]\nlisten = ["127.0.0.1:1", "{listen}"]\n'
    assert the_problem(open_to_all) == (
        "server.listen[1]",
        "beyond loopback a server.token_file is required",
    )
    assert not problems(f'{open_to_all}token_file = "{key}"')


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/x"]
)
def test_on_loopback_it_is_not(listen: str):
    assert not problems(f'[server]\nlisten = ["{listen}"]')


def test_metrics_may_be_seen_without_a_token():
    assert not problems('[metrics]\nlisten = "0.0.0.0:8701"')


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("[server]\nlisten = []", "server.listen"),
        ("[server]\nhosts = []", "server.hosts"),
        ('[server]\nhosts = ["localhost", "localhost:8700"]', "server.hosts[1]"),
        ('[server]\nhosts = ["http://x"]', "server.hosts[0]"),
        ('[server]\nlisten = ["127.0.0.1:1", "127.0.0.1:1"]', "server.listen[1]"),
        ('[server]\nlisten = ["127.0.0.1:8701"]', "metrics.listen"),
        ('[metrics]\nlisten = "unix:/x"', "metrics.listen"),
        ('[metrics]\nlisten = "8701"', "metrics.listen"),
        ('[server]\ntoken_file = "/nowhere/token"', "server.token_file"),
        ("[retry]\ndelay_base_s = 61", "retry.delay_base_s"),
    ],
)
def test_contradictions_of_the_server(text: str, path: str):
    assert the_problem(text)[0] == path


def test_any_number_of_listeners_may_take_any_free_port():
    text = '[server]\nlisten = ["127.0.0.1:0", "127.0.0.1:0"]\n[metrics]\nlisten = "127.0.0.1:0"'
    assert not problems(text)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:/var/x.db", "sqlite://var/x.db", "sqlite:", "sqlite:dir/", "sqlite:///dir/",
        "sqlite:///x.db?mode=ro", "x.db", "postgres://h/d", "", "memory", "sqlite:\\u0000",
    ],
)  # fmt: skip
def test_a_journal_is_a_file_or_memory(url: str):
    assert the_problem(f'[journal]\nurl = "{url}"')[0] == "journal.url"


@pytest.mark.parametrize("url", ["sqlite:///x.db", "sqlite:x.db", "sqlite:../c#/x.db", "memory:"])
def test_journals(url: str):
    assert not problems(f'[journal]\nurl = "{url}"')


# -- Accounts -------------------------------------------------------------------------------------


def test_two_accounts_cannot_be_one():
    path, message = the_problem(
        f"[accounts.a]\n{FC}quota = 1\n[accounts.b]\n{FC}quota = 2\n"
        f"[accounts.c]\n{FC.replace('shanghai', 'beijing')}quota = 2"
    )
    assert path == "accounts.b"
    assert "the same provider, account_id and region as accounts.a" in message


@pytest.mark.parametrize(
    ("keys", "path", "words"),
    [
        ("quota = 5\nheadroom = 5", "headroom", "leaves nothing of the quota, 5"),
        (
            "quota = 9\ntenants.a.reserved = 5\ntenants.b.reserved = 5",
            "tenants",
            "10 instances are reserved: more than the quota, 9",
        ),
        (
            "quota = 10\nheadroom = 1\ntenants.a.reserved = 10",
            "tenants",
            "10 instances are reserved: more than the quota less the headroom, 9",
        ),
        (
            "quota = 9\ntenants.a = { reserved = 5, limit = 4 }",
            "tenants.a.reserved",
            "more than the tenant's limit, 4",
        ),
        ("quota = 9\ntenants.a.weight = 1e-9", "tenants.a.weight", "at least 0.000001"),
        ('quota = 9\ntenants."a b" = {}', 'tenants."a b"', "not a name for a tenant"),
        ('quota = 9\nendpoint = "127.0.0.1:8710"', "endpoint", "http://host[:port]"),
        ('quota = 9\nendpoint = "http://h/x"', "endpoint", "and no more"),
        ('quota = 9\nendpoint = "http://me:pw@h"', "endpoint", "keys do not belong into a URL"),
        (f"quota = 9\n{QUEUE}", "completion_queue", 'only functions of "aws-lambda"'),
        (
            (
                'quota = 9\ncredentials = { source = "static", access_key_id = "", '
                'access_key_secret_file = "/etc/hostname" }'
            ),
            "credentials.access_key_id",
            "expected the id of a key",
        ),
    ],
)
def test_contradictions_of_an_account(keys: str, path: str, words: str):
    found = dict(problems(f"[accounts.a]\n{FC}{keys}"))
    assert words in found[f"accounts.a.{path}"]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("resources.vcpu = 10\nfunctions.f.vcpu = 1", ""),
        ("resources.vcpu = 10\nfunctions.f.instances_max = 1", "functions.f.vcpu"),
        ("resources.vcpu = 10\nfunctions.f.vcpu = 11", "functions.f.vcpu"),
        ("functions.f.vcpu = 11", ""),
        ("headroom = 2\nlimit_min = 9", "limit_min"),
        ("headroom = 2\nlimit_min = 8", ""),
    ],
)
def test_what_the_account_has_to_give_is_judged(text: str, path: str):
    account = f"[accounts.a]\n{FC}quota = 10\nunlisted = false\n{text}"
    assert [found for found, _ in problems(account)] == ([f"accounts.a.{path}"] if path else [])


def test_all_of_the_quota_may_be_reserved():
    assert not problems(f"[accounts.a]\n{FC}quota = 10\nheadroom = 1\ntenants.a.reserved = 9")


@pytest.mark.parametrize(
    ("account", "path"),
    [
        (FC.replace('"1"', '"12a"'), "account_id"),
        (FC.replace('"1"', '""'), "account_id"),
        (FC.replace("cn-shanghai", "CN Shanghai"), "region"),
    ],
)
def test_an_account_says_which_it_is(account: str, path: str):
    assert the_problem(f"[accounts.a]\n{account}quota = 1")[0] == f"accounts.a.{path}"


def test_names_stand_in_urls_and_labels():
    assert the_problem(f'[accounts."a/b"]\n{FC}quota = 1')[0] == 'accounts."a/b"'


@pytest.mark.parametrize(
    "name", ["f:live", "arn:aws:lambda:us-east-1:1:function:f", "a b", "", "$f"]
)
def test_a_section_is_of_a_function_and_all_its_versions(name: str):
    path, message = the_problem(f'[accounts.a]\n{FC}quota = 1\nfunctions."{name}" = {{}}')
    assert path == f'accounts.a.functions."{name}"'
    assert "without a qualifier" in message


# -- Completions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("account", "function", "key", "words"),
    [
        (LAMBDA + QUEUE, 'completion = "task"', "completion", 'exists only at "aliyun-fc"'),
        (FC, 'completion = "destination"', "completion", 'exists only at "aws-lambda"'),
        (
            LAMBDA + "unlisted = false\n",
            'completion = "destination"',
            "completion",
            "needs the account's completion_queue",
        ),
        (FC, 'completion = "response"', "completion", 'needs type = "sync"'),
        (FC, 'type = "sync"\ncompletion = "callback"', "completion", 'only "response" goes with'),
        (FC, "duration_s = 901", "duration_s", "longer than hold_max_s, 900"),
    ],
)
def test_contradictions_of_a_function(account: str, function: str, key: str, words: str):
    path, message = the_problem(
        f"[accounts.a]\n{account}quota = 9\n[accounts.a.functions.f]\n{function}"
    )
    assert path == f"accounts.a.functions.f.{key}"
    assert words in message


def test_an_estimate_needs_a_duration_and_the_message_names_what_is_exact():
    estimated = f'quota = 9\nfunctions.f.completion = "duration"\n{QUEUE}'
    path, message = the_problem(f"[accounts.a]\n{LAMBDA}{estimated}")
    assert path == "accounts.a.functions.f.duration_s"
    for exact in ('"destination"', '"callback"', 'type = "sync"', "completion_queue"):
        assert exact in message
    path, message = the_problem(f"[accounts.a]\n{FC}{estimated.replace(QUEUE, '')}")
    for exact in ('"task"', '"callback"', 'type = "sync"'):
        assert exact in message
    assert not problems(f"[accounts.a]\n{LAMBDA}{estimated}functions.f.duration_s = 3")


def test_functions_without_a_section_would_be_estimated_at_lambda_without_a_queue():
    path, message = the_problem(f"[accounts.a]\n{LAMBDA}quota = 9")
    assert path == 'accounts.a.functions."*".duration_s'
    assert "functions without a section" in message
    assert "unlisted = false" in message
    for way_out in (QUEUE, "unlisted = false", 'functions."*".duration_s = 3'):
        assert not problems(f"[accounts.a]\n{LAMBDA}quota = 9\n{way_out}")


def test_a_star_that_nobody_can_use_is_not_judged_but_its_heirs_are():
    star = f'[accounts.a]\n{FC}quota = 9\nunlisted = false\nfunctions."*".completion = "duration"\n'
    assert not problems(star)
    assert the_problem(f"{star}functions.f = {{}}")[0] == "accounts.a.functions.f.duration_s"


# -- Clients --------------------------------------------------------------------------------------


def client(key: Path, name: str = "c", **others: str) -> str:
    keys = {"access_key_id": "LOCAL", "account": "a", "access_key_secret_file": str(key), **others}
    return f'[clients."{name}"]\n' + "".join(f'{k} = "{v}"\n' for k, v in keys.items())


@pytest.mark.parametrize(
    ("others", "path"),
    [
        ({"account": "b"}, "clients.c.account"),
        ({"access_key_id": "a/b"}, "clients.c.access_key_id"),
        ({"access_key_id": ""}, "clients.c.access_key_id"),
        ({"tenant": "a b"}, "clients.c.tenant"),
        ({"access_key_secret_file": "/nowhere/key"}, "clients.c.access_key_secret_file"),
    ],
)
def test_contradictions_of_a_client(others: dict[str, str], path: str, key: Path):
    account = f"[accounts.a]\n{FC}quota = 1\n"
    assert not problems(account + client(key))
    assert the_problem(account + client(key, **others))[0] == path


def test_a_key_says_whose_it_is(key: Path):
    text = f"[accounts.a]\n{FC}quota = 1\n{client(key)}{client(key, name='d')}"
    assert the_problem(text) == (
        "clients.d.access_key_id",
        "the same as clients.c.access_key_id",
    )


def test_every_secret_of_the_configuration_is_judged(key: Path):
    key.chmod(0o644)
    text = f"""
        [server]
        token_file = "{key}"
        [accounts.a]
        {FC}
        quota = 1
        [accounts.a.credentials]
        source = "static"
        access_key_id = "K"
        access_key_secret_file = "{key}"
        security_token_file = "{key}"
        {client(key)}
    """
    found = dict(problems(text))
    assert set(found) == {
        "server.token_file",
        "accounts.a.credentials.access_key_secret_file",
        "accounts.a.credentials.security_token_file",
        "clients.c.access_key_secret_file",
    }
    assert all("everybody may read" in message for message in found.values())
