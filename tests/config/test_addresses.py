"""Addresses and URLs, taken apart and judged."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.config.addresses import address, is_host, is_loopback, web_url


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("127.0.0.1:8700", ("127.0.0.1", 8700)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("my-host.example.org:1", ("my-host.example.org", 1)),
        ("unix:/run/d.sock", Path("/run/d.sock")),
    ],
)
def test_addresses(text: str, place: object):
    assert address(text) == place


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected HOST:PORT"),
        ("8700", "expected HOST:PORT"),
        (":8700", "expected HOST:PORT"),
        ("localhost", "expected HOST:PORT"),
        ("localhost:", "expected HOST:PORT"),
        ("localhost:65536", "expected HOST:PORT"),
        ("localhost:-1", "expected HOST:PORT"),
        ("localhost:٣", "expected HOST:PORT"),
        ("::1:8700", "in brackets"),
        ("[::1:8700", "in brackets"),
        ("[::z]:8700", "not a host"),
        ("http://x:80", "in brackets"),
        ("a b:80", "not a host"),
        ("a\n:80", "not a host"),
        ("unix:d.sock", "absolute path"),
        ("unix:", "absolute path"),
        ("unix:/run/", "absolute path"),
        ("unix:/" + "é" * 54, "at most 107 bytes, this one 109"),
    ],
)
def test_what_is_no_address_says_why(text: str, words: str):
    with pytest.raises(ValueError, match=words):
        address(text)


def test_the_longest_path_of_a_socket_is_one_that_the_system_takes(socket_dir: Path):
    import socket

    path = f"{socket_dir}/".ljust(107, "s")
    assert address(f"unix:{path}") == Path(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        with pytest.raises(OSError, match="too long"):
            listener.bind(f"{path}s")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("127.0.0.1", True),
        ("127.255.0.9", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.org", False),
    ],
)
def test_only_this_machine(host: str, loopback: bool):
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("host", ["a", "a.b", "a.b.", "x_y", "1.2.3.4", "::1", "a" * 63])
def test_hosts(host: str):
    assert is_host(host)


@pytest.mark.parametrize(
    "host", ["", "-a", "a..b", "a b", "a/b", "a:1", "a" * 64, "a." * 127 + "b", "a\n"]
)
def test_no_hosts(host: str):
    assert not is_host(host)


@pytest.mark.parametrize(
    "text", ["http://h", "https://h:1/a?b#c", "http://[::1]:8710", "http://127.0.0.1:8710/"]
)
def test_urls(text: str):
    assert web_url(text).geturl() == text


@pytest.mark.parametrize(
    "text",
    [
        "", "h", "h:80", "ftp://h", "http://", "http://:80", "http://h:0", "http://h:65536",
        "http://h:x", "http://u@h", "http://u:p@h", "http://[::z]", "http://a b", "http://h\n",
        "http://é", "//h",
    ],
)  # fmt: skip
def test_no_urls(text: str):
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        web_url(text)


@given(text=st.text() | st.text(alphabet="htps:/[]@.#?%1a", max_size=20).map("http://".__add__))
def test_anything_is_a_url_or_a_value_error(text: str):
    for judge in (web_url, address):
        try:
            judge(text)
        except ValueError as error:
            assert type(error) is ValueError
