"""Wrong keys, types and numbers: all of them, each with its path."""

import math
from datetime import date
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from dispatcher.config.settings import Settings
from dispatcher.config.shape import INTEGER_MAX, NUMBER_MAX, faults, spelled


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: Annotated[int, Meta(ge=1)] = 1
    words: tuple[str, ...] = ()


class Outer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    inner: Inner = Inner()
    many: dict[str, Inner] = {}
    delay_s: Annotated[float, Meta(gt=0)] | None = None
    colour: Literal["green", "red"] = "red"
    loud: bool = False


def complaints(raw: object) -> dict[str, str]:
    return {fault.path: fault.message for fault in faults(raw, Outer)}


@pytest.mark.parametrize(
    ("raw", "path", "message"),
    [
        ({"name": 5}, "name", "expected a string, got an integer; put it in quotes"),
        ({"name": date(2026, 1, 1)}, "name", "expected a string, got a date; put it in quotes"),
        ({}, "name", "missing; expected a string"),
        ({"name": "", "colur": "red"}, "colur", 'unknown key; did you mean "colour"?'),
        ({"name": "", "zzz": 1}, "zzz", "unknown key"),
        (
            {"name": "", "colour": "grene"},
            "colour",
            'expected "green" or "red", got "grene"; did you mean "green"?',
        ),
        ({"name": "", "colour": 3}, "colour", 'expected "green" or "red", got an integer'),
        ({"name": "", "loud": 1}, "loud", "expected true or false, got an integer"),
        (
            {"name": "", "loud": "true"},
            "loud",
            "expected true or false, got a string; leave out the quotes",
        ),
        ({"name": "", "inner": []}, "inner", "expected a table, got an array"),
        ({"name": "", "many": {"a b": 1}}, 'many."a b"', "expected a table, got an integer"),
        (
            {"name": "", "many": {"x": {"size": 0}}},
            "many.x.size",
            "expected an integer of at least 1, got 0",
        ),
        (
            {"name": "", "inner": {"size": True}},
            "inner.size",
            "expected an integer of at least 1, got a boolean",
        ),
        (
            {"name": "", "inner": {"size": 1.0}},
            "inner.size",
            "expected an integer of at least 1, got a number",
        ),
        (
            {"name": "", "inner": {"words": ["a", 1]}},
            "inner.words[1]",
            "expected a string, got an integer; put it in quotes",
        ),
        (
            {"name": "", "inner": {"words": "a"}},
            "inner.words",
            "expected an array, each item a string, got a string",
        ),
        ({"name": "", "delay_s": 0}, "delay_s", "expected a number above 0, got 0"),
        ({"name": "", "delay_s": math.nan}, "delay_s", "expected a number above 0, got nan"),
        ({"name": "", "delay_s": math.inf}, "delay_s", "expected a number above 0, got inf"),
        (
            {"name": "", "delay_s": "5"},
            "delay_s",
            "expected a number above 0, got a string; leave out the quotes",
        ),
        (
            {"name": "", "delay_s": 1e10},
            "delay_s",
            "expected a number above 0 and at most 1000000000, got 10000000000.0",
        ),
        (
            {"name": "", "inner": {"size": 10**5000}},
            "inner.size",
            (
                "expected an integer of at least 1 and at most 1000000000000000, got one of too many "
                "digits"
            ),
        ),
        ([], "", "expected a table, got an array"),
    ],
)
def test_a_wrong_value_is_named(raw: Any, path: str, message: str):
    assert complaints(raw) == {path: message}


@pytest.mark.parametrize(
    "raw",
    [
        {"name": "", "delay_s": 5},
        {"name": "", "delay_s": NUMBER_MAX, "inner": {"size": INTEGER_MAX, "words": ["a"]}},
        {"name": "", "delay_s": None},
        {"name": "", "many": {"": {}, 'a"\n': {"size": 3}}},
    ],
)
def test_right_values_pass(raw: Any):
    assert complaints(raw) == {}
    msgspec.convert(raw, Outer)


def test_all_are_named_not_only_the_first():
    raw = {"inner": {"size": 0, "wrods": [], "words": [1, "", 2]}, "many": 3, "delay_s": -1}
    assert set(complaints(raw)) == {
        "name",
        "inner.size",
        "inner.wrods",
        "inner.words[0]",
        "inner.words[2]",
        "many",
        "delay_s",
    }


def test_a_value_in_the_wrong_place_is_not_repeated():
    # It may be a secret.
    text = str(complaints({"name": "", "inner": "hunter2", "hunter": "hunter2"}))
    assert "hunter2" not in text


def test_paths_are_spelled_as_toml_spells_them_and_stay_on_one_line():
    assert spelled(("accounts", "cn-prod", "functions", "s$f", "type")) == (
        'accounts.cn-prod.functions."s$f".type'
    )
    assert spelled(("server", "listen", 2)) == "server.listen[2]"
    assert spelled(("a", 'x"\n\x1b[0m')) == 'a."x\\"\\n\\u001b[0m"'


def test_credentials_are_judged_by_their_source():
    def of(credentials: object) -> dict[str, str]:
        account = {"provider": "aws-lambda", "account_id": "1", "region": "r", "quota": 1}
        raw = {"accounts": {"a": {**account, "credentials": credentials}}}
        return {
            fault.path.removeprefix("accounts.a.credentials"): fault.message
            for fault in faults(raw, Settings)
        }

    assert of({"source": "default"}) == {}
    assert of({"source": "static", "access_key_id": ""}) == {
        ".access_key_secret_file": "missing; expected a string"
    }
    assert of({"source": "default", "access_key_id": "x"}) == {".access_key_id": "unknown key"}
    assert of({"source": "defautl"}) == {
        ".source": 'expected "default", "env" or "static", got "defautl"; did you mean "default"?'
    }
    assert of({}) == {".source": 'expected "default", "env" or "static", got nothing'}
    assert of("default") == {"": "expected a table, got a string"}


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["red", "green", "blue"])
    | st.dates()
    | st.just(10**400)
)
keys = st.sampled_from(["name", "inner", "many", "delay_s", "colour", "loud", "size", "words", "x"])
trees = st.recursive(
    scalars,
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(keys | st.text(max_size=3), below, max_size=6)
    ),
    max_leaves=12,
)


@given(raw=trees)
def test_without_a_fault_msgspec_agrees_and_with_one_it_refuses(raw: object):
    found = list(faults(raw, Outer))
    within_bounds = not any("at most" in fault.message or "inf" in fault.message for fault in found)
    try:
        msgspec.convert(raw, Outer)
    except msgspec.ValidationError:
        assert found
    else:
        assert not found or not within_bounds
