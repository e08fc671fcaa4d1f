"""What replies of both clouds have in common is read whatever the spelling, and bounded."""

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from dispatcher.transports.replies import (
    RETRY_AFTER_MAX_S,
    clock_note,
    error_body,
    error_message,
    retry_after_s,
)
from dispatcher.transports.wire import Reply

NOW = 1795455825.0


def at(offset_s: float) -> str:
    return formatdate(NOW + offset_s, usegmt=True)


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": at(30)}, 30.0),
        ({"Retry-After": at(-30)}, 0.0),
        # By the server's own clock, which is an hour behind.
        ({"Retry-After": at(-3570), "Date": at(-3600)}, 30.0),
        ({"x-acs-retry-after": "2500"}, 2.5),
        ({"X-Acs-Retry-After": "500", "Retry-After": "3"}, 3.0),
        ({"x-amz-retry-after": "1500"}, 1.5),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "1e308", "x-acs-retry-after": "x"}, RETRY_AFTER_MAX_S),
        ({"Retry-After": "Mon, 99 Foo 2026 25:61:61 GMT"}, None),
        ({"Retry-After": at(10**9)}, RETRY_AFTER_MAX_S),
    ],
)
def test_a_wait_is_read_in_every_spelling(headers: dict[str, str], wait_s: float | None):
    assert retry_after_s(CIMultiDict(headers), NOW) == wait_s


@given(text=st.text(st.characters(codec="latin-1"), max_size=40))
def test_no_header_breaks_anything(text: str):
    headers = CIMultiDict({"Retry-After": text, "Date": text, "x-acs-retry-after": text})
    wait_s = retry_after_s(headers, NOW)
    assert wait_s is None or 0 <= wait_s <= RETRY_AFTER_MAX_S
    assert isinstance(clock_note(headers, NOW), str)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"Code": "C", "Message": "M", "RequestId": "R"}',
         {"code": "C", "message": "M", "requestid": "R"}),
        (b'{"ErrorCode": "C", "ErrorMessage": "M"}', {"errorcode": "C", "errormessage": "M"}),
        (b'{"errorCode": "C", "n": 1, "o": {"code": "inner"}}', {"errorcode": "C"}),
        (b"", {}),
        (b"<html>502</html>", {}),
        (b"[1]", {}),
        (b'"text"', {}),
        (b"\xff\xfe", {}),
        (b'{"a": "\xff"}', {}),
        (b"[" * 100_000, {}),
    ],
)  # fmt: skip
def test_a_body_is_read_in_every_spelling(body: bytes, words: dict[str, str]):
    assert error_body(body) == words


def test_an_error_without_words_is_called_by_its_status():
    html = Reply(502, {"Content-Type": "text/html; charset=utf-8"}, b"<html>")
    assert error_message(html, {}, "message") == "HTTP 502 with a body of text/html"
    assert error_message(Reply(503, {}, b""), {}, "message") == "HTTP 503"
    assert error_message(html, {"message": "its own\nand more"}, "message") == "its own"


@pytest.mark.parametrize(
    ("date", "note"),
    [
        (at(0), ""),
        (at(30), ""),
        (at(600), " (the clock here is 600 s behind the cloud's)"),
        (at(-600), " (the clock here is 600 s ahead of the cloud's)"),
        ("yesterday", ""),
    ],
)
def test_a_wrong_clock_is_said(date: str, note: str):
    assert clock_note(CIMultiDict({"Date": date}), NOW) == note
    assert clock_note({}, time.time()) == ""
