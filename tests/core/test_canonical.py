import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core import canonical
from dispatcher.core.canonical import canonical_query, canonical_request, path_segment

EMPTY = hashlib.sha256(b"").hexdigest()


def test_a_request_is_signed_as_the_guide_of_sigv4_has_it():
    # The example "get-vanilla-query-order-key-case" of AWS's own test suite.
    headers = [("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")]
    request = canonical_request("GET", "/", "Param1=value1&Param2=value2", headers, EMPTY)
    signature = canonical.sigv4_signature(
        "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        "20150830T123600Z",
        "us-east-1",
        "service",
        request,
    )
    assert signature == "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"


def test_everything_that_is_signed_changes_the_signature():
    plain = ("POST", "/p", "q=1", [("host", "h"), ("x", "y")], EMPTY)
    changed = [
        ("GET", *plain[1:]),
        (plain[0], "/p/", *plain[2:]),
        (*plain[:2], "q=2", *plain[3:]),
        (*plain[:3], [("host", "h"), ("x", "z")], EMPTY),
        (*plain[:4], "0" * 64),
    ]
    signatures = {
        canonical.acs3_signature("secret", canonical_request(*each)) for each in (plain, *changed)
    }
    assert len(signatures) == 6
    assert canonical.acs3_signature("other", canonical_request(*plain)) not in signatures


def test_a_query_is_sorted_and_escaped():
    assert canonical_query([("b", "2"), ("a", "x y"), ("a", "%/$~")]) == "a=%25%2F%24~&a=x%20y&b=2"


@pytest.mark.parametrize(
    ("name", "segment"), [("a$b", "a%24b"), ("..", "%2E%2E"), ("a/b", "a%2Fb"), ("f:1", "f%3A1")]
)
def test_a_name_stays_one_segment(name, segment):
    assert path_segment(name) == segment


@given(key=st.binary(max_size=200), message=st.binary(max_size=300))
def test_the_hmac_is_that_of_the_standard_library(key, message):
    assert canonical.hmac_sha256(key, message) == hmac.digest(key, message, "sha256")
