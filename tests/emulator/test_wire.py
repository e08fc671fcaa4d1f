import pytest
from multidict import CIMultiDict

from dispatcher.emulator.wire import Call, is_json, json_object, json_reply


def call(target: str) -> Call:
    return Call("GET", target, CIMultiDict({"x-Name": " v "}), b"")


def test_a_path_is_taken_apart_before_it_is_decoded():
    assert call("/a/b%2Fc/%24d?e").segments == ("a", "b/c", "$d")
    assert call("/").segments == ("",)


@pytest.mark.parametrize("target", ["http://host/a/b?c=1", "https://host:1/a/b?c=1", "/a/b?c=1"])
def test_targets_may_be_absolute(target):
    parsed = call(target)
    assert (parsed.path, parsed.query) == ("/a/b", {"c": "1"})


def test_queries_are_decoded():
    query = call("/?a=%24x&b=1+2&c&d=1&d=2&=&").query
    assert query == {"a": "$x", "b": "1 2", "c": "", "d": "2", "": ""}


def test_headers_are_found_in_any_case_and_without_white_space():
    assert call("/").header("X-NAME") == "v"
    assert call("/").header("other") == ""


@pytest.mark.parametrize("body", [b"1", b'"x"', b"{}", b' [1, {"a": null}] ', '"é"'.encode()])
def test_json_is_json(body):
    assert is_json(body)


@pytest.mark.parametrize("body", [b"", b"{", b"{} x", b"nul", b'"\xff"', b"'x'", b"NaN"])
def test_other_things_are_not_json(body):
    assert not is_json(body)


def test_objects_are_told_from_other_json():
    assert json_object(b'{"a": 1}') == {"a": 1}
    assert json_object(b"") == {}
    assert json_object(b"[]") is None
    assert json_object(b"\xff") is None


def test_json_replies_carry_their_type_and_more():
    reply = json_reply(201, {"a": 1}, {"x": "y"})
    assert (reply.status, reply.body) == (201, b'{"a":1}')
    assert reply.headers == {"Content-Type": "application/json", "x": "y"}
