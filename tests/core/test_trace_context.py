import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.trace_context import carried, jaeger, of_jaeger, of_xray, xray

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"

hexes = st.text("0123456789abcdef", min_size=16, max_size=16)
contexts = st.builds(
    lambda first, second, span, sampled: f"00-{first}{second}-{span}-0{sampled}",
    hexes.filter(lambda text: int(text, 16)),
    hexes,
    hexes.filter(lambda text: int(text, 16)),
    st.integers(0, 1),
)


@given(contexts)
def test_every_way_to_say_it_says_the_same(parent: str):
    assert carried(parent) == {"traceparent": parent}
    assert of_xray(xray(parent)) == of_jaeger(jaeger(parent)) == {"traceparent": parent}


@given(st.text(max_size=80))
def test_nonsense_is_no_trace_and_no_error(text: str):
    for read in (carried, of_xray, of_jaeger):
        assert read(text) == {}


@pytest.mark.parametrize(
    "parent",
    [
        None,
        "",
        PARENT.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"{PARENT}\r\nX-Evil: 1",
        f"01-{TRACE}-{SPAN}-01-{'a' * 600}",
    ],
)
def test_what_is_not_a_context_is_left_out(parent: str | None):
    assert carried(parent, "a=b") == {}


def test_a_later_version_is_read_as_far_as_it_is_known():
    assert carried(f" 01-{TRACE}-{SPAN}-03-more ") == {"traceparent": f"00-{TRACE}-{SPAN}-03"}


@pytest.mark.parametrize(
    ("state", "kept"),
    [("a=b,c=d", True), ("x" * 512, True), ("x" * 513, False), ("", False), ("a=b\nc", False)],
)
def test_a_state_that_cannot_travel_is_left_out_alone(state: str, kept: bool):
    expected = {"traceparent": PARENT} | ({"tracestate": state} if kept else {})
    assert carried(PARENT, state) == expected


def test_the_form_of_x_ray():
    text = f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={SPAN};Sampled=1"
    assert xray(PARENT) == text
    shuffled = f"Self=1-1-1; Sampled=0 ;Parent={SPAN};Root=1-{TRACE[:8]}-{TRACE[8:]};Lineage=a:0"
    assert of_xray(shuffled) == {"traceparent": f"00-{TRACE}-{SPAN}-00"}
    for partial in (f"Root=1-{TRACE[:8]}-{TRACE[8:]}", f"Parent={SPAN}", text.replace("1-", "2-")):
        assert of_xray(partial) == {}


def test_the_form_of_function_compute():
    assert jaeger(PARENT) == f"{TRACE}:{SPAN}:0:1"
    # Jaeger leaves leading zeros out, and its ids may have 64 bits.
    short = "124ed43254b54966:124ed43254b54966:0:1"
    assert of_jaeger(short) == {
        "traceparent": "00-0000000000000000124ed43254b54966-124ed43254b54966-01"
    }
