"""Payloads to the byte, whatever they are."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.client import wire
from dispatcher.core.model import Invocation
from dispatcher.errors import Invalid
from dispatcher.web import wire as other_side

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    st.binary()
    | JSON.map(lambda value: json.dumps(value).encode())
    | JSON.map(lambda value: json.dumps(value, separators=(",", ":")).encode())
)
def test_the_function_gets_what_the_caller_gave(payload):
    line = wire.written(Invocation(account="a", function="f", payload=payload))
    assert b"\n" not in line
    read = msgspec.json.decode(line, type=other_side.NewInvocation)
    assert other_side.invocation_of(read).payload == payload


@pytest.mark.parametrize(
    ("payload", "inline"),
    [
        (b'{"a":1.10}', True),
        ('{"ä":"é"}'.encode(), True),
        (b"null", True),
        (b'{"a": 1}', False),
        (b" 1", False),
        (b'"\xff"', False),
        (b"not json", False),
        (b"[" * 5000 + b"]" * 5000, False),
    ],
)
def test_only_what_comes_out_as_it_went_in_is_sent_as_json(payload, inline):
    line = json.loads(wire.written(Invocation(account="a", function="f", payload=payload)))
    assert ("payload" in line, "payload_base64" in line) == (inline, not inline)


@pytest.mark.parametrize("field", ["priority", "delay_s", "expires_s"])
@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 10**400], ids=["nan", "inf", "large"]
)
def test_a_number_that_json_has_no_word_for_is_refused_and_not_left_out(field, value):
    with pytest.raises(Invalid, match="number of seconds") as caught:
        wire.written(Invocation(**{"account": "a", "function": "f", field: value}))
    assert caught.value.pointer == f"/{field}"


def test_what_is_not_said_is_not_sent():
    assert json.loads(wire.written(Invocation(account="a", function="f"))) == {
        "account": "a",
        "function": "f",
    }


def test_a_line_that_is_neither_accepted_nor_refused_is_no_answer():
    with pytest.raises(msgspec.DecodeError):
        wire.read_lines(b"{}\n", 1)
    with pytest.raises(msgspec.DecodeError):
        wire.read_lines(b'{"id":"i1"}\n{"id":"i2"}\n', 1)


def test_a_trace_is_the_one_option_that_goes_over_http():
    trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "v=1"}
    invocation = Invocation(account="cn", function="f", options=trace)
    sent = msgspec.json.decode(wire.written(invocation), type=other_side.NewInvocation)
    assert other_side.invocation_of(sent).options == trace
    assert b"trace" not in wire.written(Invocation(account="cn", function="f"))
