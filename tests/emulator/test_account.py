import pytest

from dispatcher.emulator import account
from dispatcher.emulator.account import AccountState, AsyncConfig
from dispatcher.emulator.settings import Account, Function


def make_state(provider, **functions) -> AccountState:
    settings = Account(
        provider=provider, account_id="1", region="here", quota=5, functions=functions
    )
    return AccountState("a", settings, tasks_max=10)


def test_unlisted_functions_behave_like_the_default_section():
    state = make_state("aliyun-fc", **{"*": Function(duration_s=7), "f": Function(duration_s=1)})
    assert set(state.functions) == {"f"}
    other = state.find("other")
    assert other is not None
    assert other.settings.duration_s == 7
    assert state.find("other") is other


def test_unlisted_functions_are_bounded(monkeypatch):
    monkeypatch.setattr(account, "FUNCTIONS_MAX", 2)
    state = make_state("aliyun-fc")
    assert [state.find(name) is not None for name in "abcd"] == [True, True, True, False]
    assert state.find("a") is not None


@pytest.mark.parametrize(
    ("provider", "attempts", "age_s", "task"),
    [("aws-lambda", 2, 21600, False), ("aliyun-fc", 3, 86400, True)],
)
def test_the_default_configuration_is_the_providers(provider, attempts, age_s, task):
    function = make_state(provider).find("f")
    assert function is not None
    config = function.config("any")
    assert config == AsyncConfig(
        retry_attempts_max=attempts, event_age_max_s=age_s, async_task=task
    )


@pytest.mark.parametrize("qualifier", [None, "LATEST", "$LATEST"])
def test_the_latest_version_follows_the_unqualified_configuration(qualifier):
    function = make_state("aws-lambda", f=Function(on_success="ends")).find("f")
    assert function is not None
    assert function.config(qualifier).on_success == "arn:aws:sqs:here:1:ends"
    put = AsyncConfig(retry_attempts_max=0, event_age_max_s=60)
    function.configs[None] = put
    assert function.config(qualifier) is put
    assert function.config("prod") is not put


def test_arns_have_the_form_of_their_cloud():
    for provider, expected in (
        ("aws-lambda", "arn:aws:lambda:here:1:function:f:prod"),
        ("aliyun-fc", "acs:fc:here:1:functions/f/prod"),
    ):
        function = make_state(provider).find("f")
        assert function is not None
        assert function.arn("prod") == expected
