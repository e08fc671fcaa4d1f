"""What every answer says, and that no header can begin a line of its own."""

from email.utils import parsedate_to_datetime
from time import time

import pytest

from dispatcher.web.response import Response


def lines(response: Response, framing: str = "") -> list[str]:
    text = response.head(framing).decode()
    assert text.endswith("\r\n\r\n")
    return text.removesuffix("\r\n\r\n").split("\r\n")


def test_the_head_has_a_status_line_what_was_given_and_what_all_have():
    first, *rest = lines(
        Response(202, b"{}", {"Location": "/a"}, content_type="text/x"), "Content-Length: 2\r\n"
    )
    assert first == "HTTP/1.1 202 Accepted"
    headers = dict(line.split(": ", 1) for line in rest)
    assert len(headers) == len(rest)
    assert abs(parsedate_to_datetime(headers.pop("Date")).timestamp() - time()) < 5
    assert headers == {
        "Content-Type": "text/x",
        "Location": "/a",
        "Cache-Control": "no-store",
        "Server": "dispatcher",
        "X-Content-Type-Options": "nosniff",
        "Content-Length": "2",
    }


def test_who_says_how_long_it_may_be_kept_is_believed():
    assert "Cache-Control: no-cache" in lines(Response(headers={"Cache-Control": "no-cache"}))
    assert "Cache-Control: no-store" not in lines(Response(headers={"Cache-Control": "no-cache"}))


@pytest.mark.parametrize("value", ["a\r\nX: b", "a\nX: b", "a\rb", "a\0b"])
def test_a_header_has_one_line(value):
    with pytest.raises(ValueError, match="line end"):
        Response(headers={"X": value}).head("")


def test_what_came_as_bytes_goes_as_the_same_bytes():
    value = b"caf\xc3\xa9 \xff".decode("utf-8", "surrogateescape")
    assert b"X: caf\xc3\xa9 \xff\r\n" in Response(headers={"X": value}).head("")


@pytest.mark.parametrize(("status", "has"), [(200, True), (204, False), (304, False), (404, True)])
def test_some_statuses_have_no_content(status, has):
    assert Response(status).has_content == has


def test_every_status_that_a_cloud_may_send_can_be_written():
    assert lines(Response(499))[0].startswith("HTTP/1.1 499 ")
