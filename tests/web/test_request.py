"""What a handler is told of a request."""

from typing import Any

import pytest
from aiohttp.http import HttpVersion11, RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from dispatcher.web.request import Request


def request(target: str, **headers: str) -> Request:
    named = CIMultiDictProxy(CIMultiDict(headers))
    url = URL(target, encoded=True)
    message = RawRequestMessage(
        "GET", target, HttpVersion11, named, (), False, None, False, False, url
    )
    nobody: Any = None
    return Request(message, nobody, nobody)


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("/a", "header:1"),
        ("http://target:2/a", "target"),
        ("http://[::1]:2/a", "[::1]"),
        ("http://user@target/a", "target"),
    ],
)
def test_an_absolute_target_names_the_host_above_the_header(target, host):
    assert request(target, Host="header:1").host == host


def test_without_a_host_there_is_none():
    assert request("/a").host == ""


def test_the_query_is_read_and_the_target_is_kept_as_it_came():
    asked = request("/a%2Fb?q=%24&q=2")
    assert asked.target == "/a%2Fb?q=%24&q=2"
    assert asked.query.getall("q") == ["$", "2"]


@pytest.mark.parametrize(("headers", "length"), [({}, None), ({"Content-Length": "7"}, 7)])
def test_the_size_of_the_body_is_what_it_is_said_to_be(headers, length):
    assert request("/a", **headers).content_length == length


def test_nothing_is_known_of_it_at_first():
    asked = request("/a")
    assert (asked.route, asked.parameters, asked.is_known) == (None, {}, False)
