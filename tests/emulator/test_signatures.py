"""The verifiers against the providers' own signers: what those sign passes, any change does not."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from dispatcher.emulator.signatures import Fault, SignatureRefused, claim, verify
from dispatcher.emulator.wire import Call

KEY, SECRET = "AKIDTEST", "c2VjcmV0/+="

names = st.text(st.characters(codec="utf-8", exclude_characters="/.\x00"), min_size=1, max_size=8)
values = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)
queries = st.dictionaries(names, names, max_size=3)
bodies = st.binary(max_size=20)


def sigv4(
    name: str, query: dict[str, str], headers: dict[str, str], body: bytes, token: str | None
):
    """Sign as botocore does."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    target = f"/2015-03-31/functions/{quote(name, safe='')}/invocations"
    if query:
        target += "?" + urlencode(query, quote_via=quote)
    request = AWSRequest("POST", f"http://127.0.0.1:8710{target}", headers=headers, data=body)
    SigV4Auth(Credentials(KEY, SECRET, token), "lambda", "eu-west-1").add_auth(request)
    prepared = request.prepare()
    sent = CIMultiDict(prepared.headers.items())
    sent["Host"] = "127.0.0.1:8710"
    return Call("POST", target, sent, body)


def acs3(
    name: str,
    query: dict[str, str],
    headers: dict[str, str],
    body: bytes,
    raw: str = "",
    signed_raw: str = "",
):
    """Sign as the SDK of FC does. *raw*: characters that go over the wire as they are."""
    from alibabacloud_tea_openapi.utils import Utils
    from darabonba.request import DaraRequest

    digest = hashlib.sha256(body).hexdigest()
    request = DaraRequest()
    request.method = "POST"
    request.pathname = f"/2023-03-30/functions/{quote(name, safe=signed_raw)}/invocations"
    request.query = query
    request.headers = {
        "host": "127.0.0.1:8710",
        "x-acs-version": "2023-03-30",
        "x-acs-action": "InvokeFunction",
        "x-acs-date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "x-acs-signature-nonce": "1",
        "x-acs-content-sha256": digest,
        **headers,
    }
    authorization = Utils.get_authorization(request, "ACS3-HMAC-SHA256", digest, KEY, SECRET)
    target = f"/2023-03-30/functions/{quote(name, safe=raw)}/invocations"
    if query:
        target += "?" + urlencode(query, quote_via=quote)
    return Call("POST", target, CIMultiDict(request.headers, Authorization=authorization), body)


def fc(path: str, headers: dict[str, str], body: bytes, unescaped: str):
    headers = {"Date": format_datetime(datetime.now(UTC), usegmt=True), **headers}
    signed = "".join(
        f"{name.lower()}:{value}\n"
        for name, value in sorted(headers.items())
        if name.lower().startswith("x-fc-")
    )
    text = "\n".join(
        (
            "POST",
            headers.get("Content-MD5", ""),
            headers.get("Content-Type", ""),
            headers["Date"],
            signed + unescaped,
        )
    )
    digest = hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).digest()
    authorization = f"FC {KEY}:{base64.b64encode(digest).decode()}"
    return Call("POST", path, CIMultiDict(headers, Authorization=authorization), body)


def now() -> float:
    return datetime.now(UTC).timestamp()


def accepted(call: Call, token: str | None = None, secret: str = SECRET, wall: float = 0) -> bool:
    claimed = claim(call)
    assert claimed is not None
    assert claimed.access_key_id == KEY
    try:
        verify(call, claimed, secret, token, wall or now())
    except SignatureRefused:
        return False
    return True


def fault_of(call: Call, **fields: Any) -> Fault:
    claimed = claim(call)
    assert claimed is not None
    arguments = {"secret": SECRET, "token": None, "wall_s": now(), **fields}
    with pytest.raises(SignatureRefused) as caught:
        verify(call, claimed, **arguments)
    return caught.value.fault


def changed(call: Call, part: str, bit: int) -> Call:
    """Return the call with one bit of its path, query, body or a signed header changed."""
    path, query, body, headers = call.path, call.query_text, call.body, CIMultiDict(call.headers)
    target = f"{path}?{query}" if query else path

    def flip(data: bytes) -> bytes:
        assume(data)
        index = bit % (len(data) * 8)
        return (
            data[: index // 8]
            + bytes([data[index // 8] ^ (1 << index % 8)])
            + data[index // 8 + 1 :]
        )

    if part == "body":
        body = flip(body)
    elif part == "target":
        # Only letters of the fixed part: elsewhere another text may mean the same.
        target = target.replace("functions", "functionz", 1)
    else:
        assume(part in headers)
        value = flip(headers[part].encode()).decode("latin-1")
        assume(value.strip() and value.split() != headers[part].split())
        headers[part] = value
    return Call(call.method, target, headers, body)


PARTS = ["body", "target", "Host", "X-Amz-Invocation-Type", "x-fc-invocation-type"]


@given(
    name=names,
    query=queries,
    value=values,
    body=bodies,
    token=st.none() | values,
    part=st.sampled_from(PARTS),
    bit=st.integers(0, 10_000),
)
def test_what_botocore_signs_is_accepted_and_any_change_is_not(
    name, query, value, body, token, part, bit
):
    call = sigv4(name, query, {"X-Amz-Invocation-Type": value}, body, token)
    assert accepted(call, token)
    assert not accepted(call, token, secret=SECRET + "x")
    assert not accepted(call, "another")
    assert not accepted(changed(call, part, bit), token)


@given(
    name=names,
    # The SDK encodes values only; the parameters of the API have plain names.
    query=st.dictionaries(st.from_regex(r"[A-Za-z]{1,8}", fullmatch=True), names, max_size=3),
    value=values,
    body=bodies,
    raw=st.sampled_from(["", "$"]),
    part=st.sampled_from(PARTS),
    bit=st.integers(0, 10_000),
)
def test_what_the_sdk_of_fc_signs_is_accepted_and_any_change_is_not(
    name, query, value, body, raw, part, bit
):
    call = acs3(name, query, {"x-fc-invocation-type": value}, body, raw)
    assert accepted(call)
    assert not accepted(call, secret=SECRET + "x")
    assert not accepted(call, "token")
    assert not accepted(changed(call, part, bit))


@given(name=names, value=st.just("") | values, md5=st.sampled_from(["", "abc="]), body=bodies)
def test_fc_signatures_of_2016(name, value, md5, body):
    unescaped = f"/2016-08-15/services/s/functions/{name}/invocations"
    headers = {"x-fc-trace-id": value, "Content-Type": "application/json"}
    if md5:
        headers["Content-MD5"] = md5
    call = fc(quote(unescaped, safe="/"), headers, body, unescaped)
    assert accepted(call)
    assert not accepted(call, secret="wrong")
    other = Call("POST", call.path, CIMultiDict(call.headers, **{"X-Fc-More": "1"}), body)
    assert not accepted(other)


@pytest.mark.parametrize("raw", ["", "$"])
@pytest.mark.parametrize("signed_raw", ["", "$"])
def test_a_dollar_may_be_signed_and_sent_raw_or_encoded(raw, signed_raw):
    call = acs3("svc$f", {}, {}, b"", raw, signed_raw)
    assert ("$" in call.path) is bool(raw)
    # Sent encoded and signed raw is the one that no client does.
    assert accepted(call) is (raw == "$" or not signed_raw)


def test_clocks_may_be_off_by_five_minutes_or_fifteen():
    call = sigv4("f", {}, {}, b"", None)
    assert accepted(call, wall=now() + 290)
    assert fault_of(call, wall_s=now() + 310) is Fault.EXPIRED
    assert fault_of(call, wall_s=now() - 310) is Fault.EXPIRED
    for call in (acs3("f", {}, {}, b""), fc("/x", {}, b"", "/x")):
        assert accepted(call, wall=now() + 890)
        assert fault_of(call, wall_s=now() + 910) is Fault.EXPIRED
        assert fault_of(call, wall_s=now() - 910) is Fault.EXPIRED


def test_a_colon_is_encoded_twice():
    call = sigv4("f:prod", {"Qualifier": "$LATEST"}, {}, b"{}", None)
    assert "%3A" in call.path
    assert "%24LATEST" in call.query_text
    assert accepted(call)


@pytest.mark.parametrize(
    "text",
    [
        "Bearer x",
        "FC nocolon",
        "FC :x",
        "AWS4-HMAC-SHA256 Credential=a/b/c/d/aws4_request, SignedHeaders=host",
        "AWS4-HMAC-SHA256 Credential=a/b/c, SignedHeaders=host, Signature=x",
        "ACS3-HMAC-SHA256 SignedHeaders=host,Signature=x",
    ],
)
def test_illegible_authorizations_are_malformed(text):
    with pytest.raises(SignatureRefused) as caught:
        claim(Call("POST", "/", CIMultiDict(Authorization=text), b""))
    assert caught.value.fault is Fault.MALFORMED


def test_no_authorization_is_no_claim():
    assert claim(Call("POST", "/", CIMultiDict(), b"")) is None


@pytest.mark.parametrize(("name", "scheme"), [("host", sigv4), ("x-amz-date", sigv4)])
def test_headers_that_must_be_signed(name, scheme):
    call = scheme("f", {}, {}, b"", None)
    text = call.headers["Authorization"].replace(f"{name};", "", 1).replace(f";{name}", "", 1)
    headers = CIMultiDict(call.headers)
    headers["Authorization"] = text
    assert fault_of(Call("POST", call.path, headers, b"")) is Fault.WRONG


@pytest.mark.parametrize("name", ["X-Amz-Date", "x-acs-date", "Date"])
@pytest.mark.parametrize("value", ["", "yesterday"])
def test_a_signature_needs_a_time(name, value):
    call = {"X": sigv4("f", {}, {}, b"", None), "x": acs3("f", {}, {}, b"")}.get(
        name[0], fc("/x", {}, b"", "/x")
    )
    headers = CIMultiDict(call.headers)
    headers[name] = value
    assert fault_of(Call("POST", call.path, headers, b"")) is Fault.MALFORMED


def test_a_content_hash_that_is_not_that_of_the_body_is_refused():
    body = b"{}"
    call = sigv4("f", {}, {"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}, body, None)
    assert fault_of(call) is Fault.WRONG
    call = acs3("f", {}, {"x-acs-content-sha256": hashlib.sha256(b"").hexdigest()}, body)
    assert fault_of(call) is Fault.WRONG
