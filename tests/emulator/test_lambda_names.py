import pytest

from dispatcher.emulator.lambda_names import Name, NameRefused, parse_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f", Name(function="f")),
        ("f:prod", Name(function="f", qualifier="prod")),
        ("f:$LATEST", Name(function="f", qualifier="$LATEST")),
        ("f:$LATEST.PUBLISHED", Name(function="f", qualifier="$LATEST.PUBLISHED")),
        ("function:f", Name(function="f")),
        ("123456789012:f", Name(function="f", account_id="123456789012")),
        ("123456789012:function:f:7", Name(function="f", qualifier="7", account_id="123456789012")),
        (
            "arn:aws:lambda:eu-west-1:123456789012:function:f",
            Name(function="f", region="eu-west-1", account_id="123456789012"),
        ),
        (
            "arn:aws-cn:lambda:cn-north-1:123456789012:function:f:prod",
            Name(function="f", qualifier="prod", region="cn-north-1", account_id="123456789012"),
        ),
        ("a-b_C9", Name(function="a-b_C9")),
    ],
)
def test_names_are_taken_apart(text, expected):
    assert parse_name(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a b",
        "a/b",
        "f:",
        "f:a:b",
        "f:a.b",
        "x" * 65,
        "f:" + "q" * 129,
        "arn:aws:lambda",
        "arn:aws:sqs:eu-west-1:123456789012:function:f",
        "arn:aws:lambda:eu-west-1:123456789012:layer:f",
        "arn:gcp:lambda:eu-west-1:123456789012:function:f",
        "é",
        "123456789012:function:" + "x" * 300,
    ],
)
def test_other_texts_are_no_names(text):
    with pytest.raises(NameRefused):
        parse_name(text)
