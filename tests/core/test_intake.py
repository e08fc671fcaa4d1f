import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.intake import (
    FunctionName,
    Place,
    callback_flaw,
    examine,
    function_name,
    target_of,
    typed,
)
from dispatcher.core.model import CallType, Invocation, Provider, Source
from dispatcher.core.rules import AccountRules, FunctionRules
from dispatcher.errors import Invalid, PayloadTooLarge

LAMBDA = Place(Provider.AWS_LAMBDA, "123456789012", "us-east-1")
FC = Place(Provider.ALIYUN_FC, "1031234567890123", "cn-shanghai")
RULES = AccountRules(quota=10)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f", FunctionName("f")),
        ("f:prod", FunctionName("f", "prod")),
        ("f:$LATEST", FunctionName("f", "$LATEST")),
        ("123456789012:function:f", FunctionName("f", None, "123456789012")),
        ("123456789012:function:f:3", FunctionName("f", "3", "123456789012")),
        (
            "arn:aws:lambda:us-east-1:123456789012:function:f:prod",
            FunctionName("f", "prod", "123456789012", "us-east-1"),
        ),
        (
            "arn:aws-cn:lambda:cn-north-1:123456789012:function:f",
            FunctionName("f", None, "123456789012", "cn-north-1"),
        ),
        ("", None),
        (":prod", None),
        ("f:", None),
        ("a/b", None),
        ("a b", None),
        ("f\n", None),
        (".", None),
        ("..", None),
        ("..:prod", None),
        (".f", FunctionName(".f")),
        ("arn:aws:s3:::bucket", None),
    ],
)
def test_the_forms_of_a_name_at_lambda(text, expected):
    assert function_name(text, Provider.AWS_LAMBDA) == expected


def test_a_service_and_its_function_are_one_name_at_function_compute():
    assert function_name("m42-ng-fc$surf2surf", Provider.ALIYUN_FC) == FunctionName(
        "m42-ng-fc$surf2surf"
    )


@given(st.text(max_size=300))
def test_any_text_is_a_name_or_is_refused(text):
    for provider in Provider:
        name = function_name(text, provider)
        assert name is None or (name.name and "/" not in name.name and "\n" not in name.name)


def look(place=LAMBDA, rules=RULES, limit=10, **fields):
    invocation = Invocation(**{"account": "a", "function": "f", **fields})
    target = target_of(invocation, rules, place, lambda _: limit)
    return examine(invocation, target), target.call_type


def test_an_arn_is_taken_apart_if_it_means_this_account():
    invocation, call_type = look(function="arn:aws:lambda:us-east-1:123456789012:function:f:v2")
    assert (invocation.function, invocation.qualifier, call_type) == ("f", "v2", CallType.ASYNC)


@pytest.mark.parametrize(
    "arn",
    [
        "arn:aws:lambda:eu-west-1:123456789012:function:f",
        "arn:aws:lambda:us-east-1:999999999999:function:f",
        "999999999999:function:f",
    ],
)
def test_an_arn_of_another_account_or_region_is_refused(arn):
    with pytest.raises(Invalid, match="another account or region") as caught:
        look(function=arn)
    assert caught.value.pointer == "/function"


def test_the_payload_limit_is_that_of_the_call():
    assert look(payload=b"x" * 10)
    with pytest.raises(PayloadTooLarge, match="11 bytes; aws-lambda takes at most 10 bytes"):
        look(payload=b"x" * 11)


def test_a_function_for_synchronous_calls_only():
    rules = AccountRules(
        quota=1,
        functions={"f": FunctionRules(type=CallType.SYNC, completion=Source.RESPONSE)},
    )
    assert look(rules=rules)[1] is CallType.SYNC
    with pytest.raises(Invalid, match="synchronous calls only") as caught:
        look(rules=rules, type=CallType.ASYNC)
    assert caught.value.pointer == "/type"


def test_the_rules_of_the_star_hold_for_what_has_no_section():
    rules = AccountRules(quota=1, functions={"*": FunctionRules(type=CallType.SYNC)})
    assert look(rules=rules)[1] is CallType.SYNC


@pytest.mark.parametrize("task_id", ["1a", "", "a b", "a" * 129, "ä"])
def test_a_task_id_that_function_compute_would_refuse(task_id):
    with pytest.raises(Invalid) as caught:
        look(place=FC, task_id=task_id)
    assert caught.value.pointer == "/task_id"


HOSTS = ("Hooks.example", "8.8.8.8")


@pytest.mark.parametrize(
    "url", ["https://hooks.example/", "https://HOOKS.example:8443/a?b=c", "https://8.8.8.8/x"]
)
def test_listed_hosts_may_be_called_back(url):
    assert callback_flaw(url, HOSTS) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/",
        "https://hooks.example.evil.example/",
        "https://evil.example/hooks.example",
        "https://hooks.example@evil.example/",
        "https://evil.example#@hooks.example/",
        "https://evil.example\\@hooks.example/",
        "https://u:p@hooks.example/",
        "https://hooks.example:x/",
        "https://hooks.example:99999/",
        "https://hooks.example./",
        "https://[::1]/",
        "https:///x",
        "https://hooks.example/ x",
        "https://hooks.example/\r\nHost: x",
        "https://hooks.ex\u00e4mple/",
        "file:///etc/passwd",
        "//hooks.example/",
        "",
        "https://hooks.example/" + "x" * 2048,
    ],
)
def test_all_others_may_not(url):
    assert callback_flaw(url, HOSTS)
    assert callback_flaw("https://hooks.example/", ())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("account", None),
        ("function", b"f"),
        ("payload", "text"),
        ("payload", None),
        ("payload", bytearray(b"its owner may change it")),
        ("qualifier", 1),
        ("tenant", None),
        ("priority", "1"),
        ("delay_s", None),
        ("expires_s", "10"),
        ("idempotency_key", b"k"),
        ("type", "later"),
        ("type", 1),
        ("callback_url", 0),
        ("options", None),
        ("task_id", 1),
    ],
)
def test_a_field_of_a_wrong_type_is_named(field, value):
    invocation = Invocation(**{"account": "main", "function": "f", field: value})
    with pytest.raises(Invalid, match="expected") as caught:
        typed(invocation)
    assert caught.value.pointer == f"/{field}"


def test_every_field_has_a_type_and_a_type_may_be_spelled():
    plain = Invocation(account="main", function="f")
    assert typed(plain) is plain
    assert typed(Invocation(account="main", function="f", type="sync")).type is CallType.SYNC  # type: ignore[arg-type]
    for field in Invocation.__struct_fields__:
        with pytest.raises(Invalid):
            typed(Invocation(**{"account": "main", "function": "f", field: object()}))  # type: ignore[arg-type]
    with pytest.raises(Invalid, match="expected an Invocation, got dict"):
        typed({"account": "main", "function": "f"})


@pytest.mark.parametrize("field", ["priority", "delay_s", "expires_s"])
@pytest.mark.parametrize(
    "value", [10**400, -(10**400), float("nan"), float("inf")], ids=["large", "low", "nan", "inf"]
)
def test_numbers_beyond_all_bounds_are_refused(field, value):
    with pytest.raises(Invalid, match="number of seconds"):
        look(**{field: value})
