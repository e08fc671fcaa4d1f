"""Bodies within their limits, and complaints about JSON that name the field."""

import asyncio
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from dispatcher.errors import Invalid
from dispatcher.web import bodies, ndjson
from dispatcher.web.problems import Malformed
from tests.web.fakes import FakeEngine
from tests.web.test_guard import HEAD, JOB, POST
from tests.web.wires import GET, serving

# -- Sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("media", "size_max"),
    [
        (b"application/json", bodies.BODY_MAX_BYTES),
        (b"application/x-ndjson", ndjson.BODY_MAX_BYTES),
    ],
)
async def test_a_body_that_is_declared_too_large_is_refused_before_a_byte_of_it(media, size_max):
    async with serving() as site:
        wire = await site.wire()
        wire.say(POST.replace(b"application/json", media) % (size_max + 1))
        status, headers, body = await wire.answer()
        assert status == 413
        assert b"content_too_large" in body
        assert headers["connection"] == "close"


async def test_a_body_in_chunks_is_refused_when_it_grows_too_large(monkeypatch):
    monkeypatch.setattr(bodies, "BODY_MAX_BYTES", 1000)
    engine = FakeEngine()
    async with serving(engine) as site:
        wire = await site.wire()
        wire.say(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(11):
            wire.say(b"64\r\n" + b" " * 100 + b"\r\n")
            await asyncio.sleep(0.01)
        assert (await wire.answer())[0] == 413
        whole = await site.wire()
        whole.say(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        whole.say(b"3e9\r\n" + b" " * 1001 + b"\r\n0\r\n\r\n")
        assert (await whole.answer())[0] == 413
    assert not engine.invocations


async def test_the_largest_payload_of_all_fits_in_base64():
    size = bodies.PAYLOAD_MAX_BYTES
    assert len(JOB) + 4 * ((size + 2) // 3) + len(',"payload_base64":""') <= bodies.BODY_MAX_BYTES


async def test_a_body_in_chunks_is_one_body():
    engine = FakeEngine()
    async with serving(engine) as site:
        wire = await site.wire()
        wire.say(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for i in range(0, len(JOB), 7):
            piece = JOB[i : i + 7]
            wire.say(b"%x\r\n%b\r\n" % (len(piece), piece))
            await asyncio.sleep(0.01)
        wire.say(b"0\r\n\r\n")
        assert (await wire.answer())[0] == 202
        assert await wire.status_of(GET) == 200


# -- Expect ---------------------------------------------------------------------------------------

EXPECT = POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")


async def test_a_peer_that_asks_first_is_told_to_go_on():
    engine = FakeEngine()
    async with serving(engine) as site:
        wire = await site.wire()
        wire.say(EXPECT % len(JOB))
        assert await wire.answer() == (100, {}, b"")
        assert await wire.status_of(JOB) == 202
        assert await wire.status_of(GET) == 200


async def test_a_peer_that_asks_first_is_not_told_to_go_on_with_what_is_refused():
    async with serving() as site:
        for head, status in (
            (EXPECT % (bodies.BODY_MAX_BYTES + 1), 413),
            (EXPECT.replace(b"json", b"xml") % 100, 415),
            (EXPECT.replace(b"localhost", b"evil.example") % 100, 421),
            (EXPECT.replace(b"100-continue", b"200-ok") % 100, 417),
        ):
            wire = await site.wire()
            assert await wire.status_of(head) == status


# -- JSON -----------------------------------------------------------------------------------------


class Inner(Struct, forbid_unknown_fields=True):
    numbers: list[int]


class Outer(Struct, forbid_unknown_fields=True):
    inner: Inner
    name: str = ""


DECODER = msgspec.json.Decoder(Outer)


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        ("[]", ""),
        ("{}", "/inner"),
        ('{"inner":{}}', "/inner/numbers"),
        ('{"inner":{"numbers":[1,"x"]}}', "/inner/numbers/1"),
        ('{"inner":{"numbers":[],"a/b~c":1}}', "/inner/a~1b~0c"),
        ('{"inner":{"numbers":[]},"name":1}', "/name"),
        ('{"inner":{"numbers":[]},"":1}', "/"),
    ],
)
def test_the_field_to_blame_is_pointed_at(text, pointer):
    with pytest.raises(Invalid) as caught:
        bodies.decode(DECODER, text.encode())
    assert caught.value.pointer == pointer
    assert not isinstance(caught.value, Malformed)


@given(st.text(), st.sampled_from(["at the top", "inside"]))
def test_an_unknown_field_is_pointed_at_whatever_its_name(name, where):
    if name in ("inner", "name", "numbers"):
        return
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    inner: dict[str, object] = {"numbers": []}
    outer: dict[str, object] = {"inner": inner}
    (inner if where == "inside" else outer)[name] = 1
    text = json.dumps(outer, ensure_ascii=False)
    with pytest.raises(Invalid) as caught:
        bodies.decode(DECODER, text.encode())
    path = ["inner", name] if where == "inside" else [name]
    unescaped = [
        step.replace("~1", "/").replace("~0", "~")
        for step in (caught.value.pointer or "").split("/")[1:]
    ]
    assert unescaped == path


@given(st.binary())
def test_any_bytes_are_decoded_or_refused_as_what_they_are(text):
    try:
        bodies.decode(DECODER, text)
    except Malformed:
        assert not _is_json(text)
    except Invalid:
        assert _is_json(text)


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return not text.startswith(b"\xef\xbb\xbf")


def _refuse(word: str) -> None:
    raise ValueError(word)


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        (b"{}", None),
        ('"é"'.encode(), None),
        (b'"\xff"', "not UTF-8 at byte 1"),
        (b"{", "truncated"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_flaw_is_told_in_words(text, flaw):
    told = bodies.json_flaw(text)
    assert (told is None) if flaw is None else (told is not None and flaw in told)


@pytest.mark.parametrize(
    ("text", "half", "pointer"),
    [
        (r'{"name":"\ud800"}', r"\ud800", "/name"),
        (r'{"inner":{"a/b~":["x","y\uDFFFz"]}}', r"\udfff", "/inner/a~1b~0/1"),
        (r'{"inner":{"\ud800":1}}', r"\ud800", "/inner"),
        (r'{"name":1,"inner":"\udc00\ud800"}', r"\udc00", "/inner"),
        (r'"\ud83d\ud83d\ude00"', r"\ud83d", ""),
    ],
)
def test_half_a_character_is_pointed_at(text, half, pointer):
    with pytest.raises(Malformed, match="half a character") as caught:
        bodies.decode(DECODER, text.encode())
    assert str(caught.value).startswith(half)
    assert caught.value.pointer == pointer


@pytest.mark.parametrize("text", [r'"\ud83d\ude00"', r'"\\ud800"', '"\u00e9"', "1"])
def test_whole_characters_are_no_flaw(text):
    assert bodies.half_a_character(text.encode()) is None
    assert bodies.json_flaw(text.encode()) is None


@pytest.mark.parametrize("text", [r'{"a":"\ud800"', "\\u", "[" * 100_000 + r'"\ud800"'])
def test_what_is_no_json_either_is_told_so(text):
    assert bodies.half_a_character(text.encode()) is None
