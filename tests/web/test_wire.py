"""What is written and read means the same on both sides."""

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.model import GateKind, Invocation, Record
from dispatcher.core.views import View, WaitingFor
from dispatcher.web import wire


@given(st.integers(0, 253_402_300_799_999))
def test_a_moment_keeps_its_milliseconds(ms):
    text = wire.moment(ms)
    assert text.endswith("Z")
    assert len(text) == 24
    read = datetime.fromisoformat(text)
    assert read.tzinfo == UTC
    seconds, rest = divmod(ms, 1000)
    assert read == datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest * 1000)


def test_until_is_a_time_of_day_rather_than_a_span():
    reason = WaitingFor(gate=GateKind.DELAY, name="cn", until_s=1.5, ahead=3)
    shown = wire.described(
        View(record=Record(id="i", account="cn", function="f"), waiting_for=reason), 1_700_000_000.0
    )
    assert msgspec.to_builtins(shown.waiting_for) == {
        "gate": "delay",
        "name": "cn",
        "ahead": 3,
        "until": "2023-11-14T22:13:21.500Z",
    }


@pytest.mark.parametrize("words", [{}, {"limit": 3, "in_use": 2.5}])
def test_what_is_not_known_is_left_out(words):
    reason = WaitingFor(gate=GateKind.TENANT, name="a", **words)
    shown = wire.described(
        View(record=Record(id="i", account="cn", function="f"), waiting_for=reason), 0.0
    )
    assert msgspec.to_builtins(shown.waiting_for) == {"gate": "tenant", "name": "a", **words}


def test_every_field_of_an_invocation_can_be_asked_for_or_is_kept_for_drop_in_endpoints():
    among_options = {"traceparent", "tracestate"}
    asked = set(wire.NewInvocation.__struct_fields__) - {"payload_base64"} - among_options
    kept = {"options", "task_id"}
    assert asked | kept == set(Invocation.__struct_fields__)


def test_the_defaults_are_those_of_the_invocation():
    body = msgspec.json.decode(b'{"account":"a","function":"f"}', type=wire.NewInvocation)
    assert wire.invocation_of(body) == Invocation(account="a", function="f")
    nulls = dict.fromkeys(set(wire.NewInvocation.__struct_fields__) - {"payload"})
    text = msgspec.json.encode({**nulls, "account": "a", "function": "f"})
    body = msgspec.json.decode(text, type=wire.NewInvocation)
    assert wire.invocation_of(body) == Invocation(account="a", function="f")
