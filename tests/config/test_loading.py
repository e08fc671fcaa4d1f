"""From text to settings, or to one error that names every problem."""

import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.config import (
    AccountSettings,
    JournalSettings,
    MetricsSettings,
    QueueSettings,
    ServerSettings,
    Settings,
    check,
    load,
    parse,
    warnings,
)
from dispatcher.config.loading import judged
from dispatcher.core.model import CallType, Provider, Source
from dispatcher.core.rules import FunctionRules
from dispatcher.errors import ConfigError

BASE = Path("/etc/dispatcher")
FC = 'provider = "aliyun-fc"\naccount_id = "1"\nregion = "cn-shanghai"\nquota = 300\n'
LAMBDA = 'provider = "aws-lambda"\naccount_id = "123456789012"\nregion = "us-east-1"\nquota = 10\n'


def problems(text: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, base=BASE)
    return dict(caught.value.problems)


# -- Files and text -------------------------------------------------------------------------------


def test_a_file_is_read_and_its_relative_paths_start_beside_it(tmp_path: Path):
    file = tmp_path / "dispatcher.toml"
    file.write_text('[journal]\nurl = "sqlite:sub/journal.db"\n', encoding="utf-8")
    assert load(file).journal.url == f"sqlite://{tmp_path}/sub/journal.db"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[server", b"a = " + b"[" * 10_000])
def test_a_file_that_is_no_configuration_is_one_problem(tmp_path: Path, content: bytes):
    file = tmp_path / "dispatcher.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert [path for path, _ in caught.value.problems] == [""]


@pytest.mark.parametrize("path", ["missing.toml", "", "with\0zero"])
def test_what_cannot_be_read_is_a_configuration_error(tmp_path: Path, path: str):
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path / path)


def test_the_mark_that_some_editors_begin_a_file_with_is_no_error(tmp_path: Path):
    path = tmp_path / "d.toml"
    path.write_bytes(b"\xef\xbb\xbf[queue]\r\njobs_max = 7\r\n")
    assert load(path).queue.jobs_max == 7


def test_a_syntax_error_is_named_with_its_line():
    assert "at line 2" in problems("[server]\nlisten = \n")[""]


# -- Everything at once ---------------------------------------------------------------------------


def test_problems_of_shape_do_not_hide_those_of_meaning():
    found = problems(f"""
        [server]
        listn = []
        listen = ["0.0.0.0:80"]
        [accounts.a]
        {FC}
        hedroom = 3
        [accounts.a.tenants]
        x = {{ reserved = 301 }}
        [accounts.b]
        {FC}
        [accounts.c]
        provider = "aliyun-fc"
        account_id = 1
        region = "cn-shanghai"
        quota = "300"
        [clients.one]
        account = "c"
        access_key_id = "K"
        access_key_secret_file = "/nowhere"
    """)
    assert set(found) == {
        "server.listn",
        "server.listen[0]",
        "accounts.a.hedroom",
        "accounts.a.tenants",
        "accounts.b",  # the same account as a
        "accounts.c.account_id",
        "accounts.c.quota",
        "clients.one.access_key_secret_file",  # but not its account: it is there, only wrong
    }


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('[server]\nlisten = ["0.0.0.0:80"]\ntoken_file = 5', "server.token_file"),
        ('[retry]\ndelay_base_s = 100\ndelay_max_s = "500"', "retry.delay_max_s"),
        (
            (
                f"[accounts.a]\n{LAMBDA}\ncompletion_queue = 5\n"
                'functions.f.completion = "destination"\nfunctions."*".duration_s = 1'
            ),
            "accounts.a.completion_queue",
        ),
        (
            f'[accounts.a]\n{LAMBDA}functions."*".completion = "x"\nfunctions.f.hold_max_s = 3',
            'accounts.a.functions."*".completion',
        ),
        (f"[accounts.a]\n{LAMBDA}unlisted = 0", "accounts.a.unlisted"),
    ],
)
def test_what_follows_from_a_wrong_value_is_not_another_problem(text: str, path: str):
    assert list(problems(text)) == [path]


def test_without_its_quota_the_rest_of_an_account_is_judged_all_the_same():
    text = '[accounts.a]\nprovider = "aliyun-fc"\naccount_id = "1"\nregion = "R"\nheadroom = 5'
    assert set(problems(text)) == {"accounts.a.quota", "accounts.a.region"}


def test_without_its_provider_an_account_is_judged_as_far_as_that_goes():
    text = f"""
        [accounts.a]
        {FC}
        [accounts.b]
        {FC.replace("aliyun-fc", "aliyun")}
        headroom = 400
        completion_queue = "x"
        endpoint = "ftp://x"
        functions.f.completion = "destination"
        [accounts."no name"]
        region = "R"
    """
    assert set(problems(text)) == {
        "accounts.b.provider",  # which may well be another one than a's
        "accounts.b.headroom",
        "accounts.b.endpoint",
        'accounts."no name"',
        'accounts."no name".provider',
        'accounts."no name".account_id',
        'accounts."no name".region',
        'accounts."no name".quota',
    }


def test_what_is_missing_hides_nothing_that_stands_beside_it():
    text = """
        [accounts.a]
        provider = "aliyun-fc"
        region = "cn-shanghai"
        quota = 300
        credentials = { source = "static", access_key_secret_file = "/nowhere" }
        [accounts.b]
        provider = "aliyun-fc"
        region = "cn-shanghai"
        quota = 300
        [clients.one]
        access_key_secret_file = "/nowhere"
        [clients.two]
        tenant = "no name"
    """
    assert set(problems(text)) == {
        "accounts.a.account_id",
        "accounts.a.credentials.access_key_id",
        "accounts.a.credentials.access_key_secret_file",
        "accounts.b.account_id",  # but they are not the same account
        "clients.one.access_key_id",
        "clients.one.account",
        "clients.one.access_key_secret_file",
        "clients.two.access_key_id",
        "clients.two.account",
        "clients.two.access_key_secret_file",
        "clients.two.tenant",
    }


def test_a_wrong_item_hides_no_other_item():
    text = """
        [server]
        listen = ["0.0.0.0:80", 5, "nothing", "unix:relative", ["x"]]
        hosts = [1, "a host"]
        unix_uids = ["root", -1]
        [callbacks]
        hosts = ["a host", {}]
    """
    assert set(problems(text)) == {
        *(f"server.listen[{index}]" for index in range(5)),
        *("server.hosts[0]", "server.hosts[1]"),
        *("server.unix_uids[0]", "server.unix_uids[1]"),
        *("callbacks.hosts[0]", "callbacks.hosts[1]", "callbacks.secret_file"),
    }


# -- What was left unsaid -------------------------------------------------------------------------


def test_functions_inherit_from_the_star_what_they_do_not_say():
    account = parse(
        f"""
        [accounts.a]
        {FC}
        functions."*" = {{ hold_max_s = 60, instances_max = 7, completion = "callback" }}
        functions.own = {{ instances_max = 9, completion = "accepted" }}
        functions.none = {{}}
        """,
        base=BASE,
    ).accounts["a"]
    own, none = account.functions["own"], account.functions["none"]
    assert (own.hold_max_s, own.instances_max, own.completion) == (60.0, 9, Source.ACCEPTED)
    assert (none.hold_max_s, none.instances_max, none.completion) == (60.0, 7, Source.CALLBACK)
    assert none == account.functions["*"]


def test_a_completion_is_not_inherited_by_another_type_of_call():
    account = parse(
        f"""
        [accounts.a]
        {FC}
        functions."*" = {{ completion = "callback" }}
        functions.sync = {{ type = "sync" }}
        functions.async = {{ type = "async" }}
        """,
        base=BASE,
    ).accounts["a"]
    assert account.functions["sync"].completion is Source.RESPONSE
    assert account.functions["async"].completion is Source.CALLBACK


@pytest.mark.parametrize(
    ("text", "completion"),
    [
        (FC, Source.TASK),
        (LAMBDA + 'completion_queue = "https://sqs.us-east-1.amazonaws.com/1/q"\n',
         Source.DESTINATION),
        (LAMBDA + 'functions."*".duration_s = 3\n', Source.DURATION),
        (LAMBDA + 'functions."*".type = "sync"\n', Source.RESPONSE),
    ],
)  # fmt: skip
def test_the_source_of_completions_has_a_default(text: str, completion: Source):
    account = parse(f"[accounts.a]\n{text}", base=BASE).accounts["a"]
    assert account.functions["*"].completion is completion


def test_an_empty_metrics_listener_is_none():
    assert parse('[metrics]\nlisten = ""', base=BASE).metrics.listen is None


def test_an_absolute_path_stays_as_it_is():
    text = '[journal]\nurl = "sqlite:///var/x.db"'
    assert parse(text, base=BASE).journal.url == "sqlite:///var/x.db"


def test_a_relative_base_is_made_absolute():
    assert parse("", base=Path("x")).journal.url == f"sqlite://{Path.cwd()}/x/dispatcher.db"


# -- Settings made in code ------------------------------------------------------------------------


def account(**others: object) -> AccountSettings:
    return AccountSettings(
        provider=Provider.ALIYUN_FC,
        account_id="1",
        region="cn-shanghai",
        quota=300,
        **others,  # type: ignore[arg-type]
    )


def test_settings_made_in_code_are_judged_by_the_same_rules():
    settings = Settings(
        server=ServerSettings(listen=("0.0.0.0:80",)),
        queue=QueueSettings(jobs_max=0),
        accounts={"a": account(headroom=300), "b": account()},
    )
    with pytest.raises(ConfigError) as caught:
        check(settings)
    assert [path for path, _ in caught.value.problems] == [
        "accounts.a.headroom",
        "accounts.b",
        "queue.jobs_max",
        "server.listen[0]",
    ]


def test_settings_made_in_code_are_resolved():
    settings = check(
        Settings(
            journal=JournalSettings(url="memory:"),
            metrics=MetricsSettings(listen=None),
            accounts={"a": account(functions={"f": FunctionRules(type=CallType.SYNC)})},
        )
    )
    assert settings.metrics.listen is None
    assert settings.accounts["a"].functions["f"].completion is Source.RESPONSE
    assert settings.accounts["a"].functions["*"].completion is Source.TASK


def test_judging_twice_changes_nothing():
    once = check(Settings(accounts={"a": account(functions={"f": FunctionRules()})}))
    assert check(once) == once


@pytest.mark.parametrize(
    "settings",
    [
        Settings(accounts={"a": object()}),  # type: ignore[dict-item]
        Settings(accounts={5: account()}),  # type: ignore[dict-item]
        Settings(accounts=None),  # type: ignore[arg-type]
        Settings(server=None),  # type: ignore[arg-type]
    ],
)
def test_what_are_no_settings_is_a_configuration_error(settings: Settings):
    with pytest.raises(ConfigError):
        check(settings)


# -- Anything at all ------------------------------------------------------------------------------

WORDS = [
    "server", "listen", "token_file", "hosts", "drain_max_s", "metrics", "journal", "url",
    "delivery", "retention_s", "queue", "jobs_max", "bytes_max", "retry", "delay_base_s",
    "delay_max_s", "age_max_s", "accounts", "a", "b", "provider", "account_id", "region", "quota",
    "unlisted", "headroom", "endpoint", "limit", "requests_max", "rate_max_per_s",
    "completion_queue", "credentials", "source", "access_key_id", "access_key_secret_file",
    "security_token_file", "functions", "*", "f", "type", "completion", "instance_concurrency",
    "instances_max", "hold_max_s", "duration_s", "attempts_max", "tenants", "t", "weight",
    "reserved", "clients", "c", "account", "tenant", "sync_to_async", "network_filesystems",
]  # fmt: skip
VALUES = [
    "aws-lambda", "aliyun-fc", "1031234567890123", "us-east-1", "static", "default", "env", "sync",
    "async", "task", "destination", "duration", "response", "accepted", "callback", "adaptive",
    "127.0.0.1:0", "0.0.0.0:80", "unix:/x", "[::1]:1", "sqlite:x.db", "sqlite:///x", "memory:",
    "http://127.0.0.1:1", "https://[::", "http://a:b@c", "/", "", "\0", "a", "at_most_once",
]  # fmt: skip
leaves = (
    st.sampled_from(VALUES)
    | st.integers(-1, 400)
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text(max_size=6)
    | st.datetimes()
    | st.just(10**400)
)
trees = st.recursive(
    leaves,
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), below, max_size=8)
    ),
    max_leaves=20,
)


def optional(**keys: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    return st.fixed_dictionaries({}, optional=keys)


seconds = st.integers(1, 9) | st.floats(0.1, 9)
count = st.integers(1, 2)
files = st.sampled_from(["/etc/hostname", "/nowhere", "x"])
functions = st.dictionaries(
    st.sampled_from(["*", "f", "g$h"]),
    optional(instances_max=st.integers(1, 9), hold_max_s=st.floats(10, 1e3), duration_s=seconds)
    | optional(type=st.just("sync"), completion=st.just("response"))
    | optional(completion=st.sampled_from(["callback", "accepted", "task", "destination"])),
)
accounts = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.fixed_dictionaries(
        {
            "provider": st.sampled_from(["aws-lambda", "aliyun-fc"]),
            "account_id": st.sampled_from(["1", "123456789012"]),
            "region": st.sampled_from(["us-east-1", "cn-shanghai"]),
            "quota": st.integers(5, 9),
        },
        optional={
            "unlisted": st.booleans(),
            "headroom": st.integers(0, 1),
            "endpoint": st.sampled_from(["http://127.0.0.1:1", "https://x.y/"]),
            "completion_queue": st.just("https://sqs.us-east-1.amazonaws.com/1/q"),
            "credentials": st.fixed_dictionaries({"source": st.sampled_from(["default", "env"])}),
            "functions": functions,
            "tenants": st.dictionaries(
                st.sampled_from(["t", "u"]), optional(weight=seconds, reserved=count, limit=count)
            ),
        },
    ),
)
whole = optional(
    server=optional(
        listen=st.lists(st.sampled_from(["127.0.0.1:0", "unix:/x"]), min_size=1, max_size=2),
        hosts=st.lists(st.sampled_from(["localhost", "x.y"]), min_size=1),
        token_file=files,
    ),
    metrics=optional(listen=st.sampled_from(["", "127.0.0.1:0", "0.0.0.0:9"])),
    journal=optional(url=st.sampled_from(["memory:", "sqlite:x.db"])),
    retry=optional(delay_base_s=seconds, delay_max_s=seconds),
    accounts=accounts,
    clients=st.dictionaries(
        st.just("c"),
        st.fixed_dictionaries({
            "access_key_id": st.just("K"),
            "access_key_secret_file": files,
            "account": st.sampled_from(["a", "z"]),
        }),
    ),
)  # fmt: skip


def places(tree: object) -> Iterator[tuple[dict[str, object], str]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield tree, key
            yield from places(value)


@st.composite
def near_misses(draw: st.DrawFn) -> dict[str, object]:
    """Draw a configuration of the right shape, then put anything in the place of a few values."""
    tree = {"": draw(whole)}
    for _ in range(draw(st.integers(0, 3))):
        table, key = draw(st.sampled_from(list(places(tree))))
        if draw(st.booleans()):
            table[key] = draw(leaves | trees)
        else:
            table[draw(st.sampled_from(WORDS))] = table.pop(key)
    root = tree.get("")
    return root if isinstance(root, dict) else {}


outcomes: Counter[str] = Counter()


@given(raw=near_misses() | st.dictionaries(st.sampled_from(WORDS), trees))
@settings(max_examples=400)
def test_any_tree_gives_settings_or_a_configuration_error(raw: dict[str, object]):
    try:
        found = judged(raw, BASE)
    except ConfigError as error:
        assert all("\n" not in path + message for path, message in error.problems)
        outcomes["refused"] += 1
    else:
        assert check(found) == found
        warnings(found)
        outcomes["accepted, with accounts" if found.rules().accounts else "accepted"] += 1


def test_the_fuzz_reaches_both_ends():
    # Held against a change of the strategies after which they find nothing any more.
    assert min(outcomes[end] for end in ("refused", "accepted", "accepted, with accounts")) >= 1, (
        outcomes
    )


@given(text=st.text() | st.from_regex(r"\[[a-z.\"*]{1,20}\]\n[a-z_]{1,10} = [-\[\]\"0-9a-z.{}= ]*"))
def test_any_text_gives_settings_or_a_configuration_error(text: str):
    try:
        assert isinstance(parse(text, base=BASE), Settings)
    except ConfigError as error:
        assert error.problems


def test_a_configuration_survives_the_way_through_toml():
    text = f"[accounts.a]\n{FC}"
    assert parse(text, base=BASE) == judged(tomllib.loads(text), BASE)
    assert msgspec.json.encode(parse(text, base=BASE))
