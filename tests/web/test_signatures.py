"""What the SDKs sign is let in, and nothing else, down to a single bit."""

import base64
import datetime as dt
import hashlib
import hmac
from types import SimpleNamespace
from typing import Any
from unittest import mock
from urllib.parse import quote, unquote, urlsplit

import botocore.auth
import pytest
from alibabacloud_tea_openapi.utils import Utils
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from fc2.auth import Auth
from hypothesis import assume, given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from dispatcher.core.canonical import ACS3, SIGV4
from dispatcher.web.signatures import FC, Fault, Unproved, claim, head, prove

KEY, SECRET = "LOCALKEY", "local/secret+of=tests"
NOW_S = 1_795_469_655
ALL = frozenset({SIGV4, ACS3, FC})

NAMES = st.text("ab09-_:$.\u4e2d", min_size=1, max_size=30).filter(lambda name: name.strip("."))
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)
SPACED = st.builds("{} {}".format, VALUES, VALUES)
BODIES = st.binary(max_size=100)


class Sent:
    """A request on the wire, to be changed."""

    def __init__(self, path: str, query: str, headers: dict[str, str], body: bytes) -> None:
        self.path, self.query, self.headers, self.body = path, query, headers, body

    def verify(self, secret: str = SECRET, now_s: float = NOW_S, schemes: Any = ALL) -> str:
        headers = CIMultiDictProxy(CIMultiDict(self.headers))
        request = head("POST", f"{self.path}?{self.query}", headers)
        claimed = claim(request, schemes, now_s)
        digest = hashlib.sha256(self.body).hexdigest()
        prove(request, claimed, secret, digest, self.body)
        return claimed.signer.access_key_id

    def fault(self, **more: Any) -> Fault:
        with pytest.raises(Unproved) as caught:
            self.verify(**more)
        return caught.value.fault


def sigv4(name: str = "f", qualifier: str = "", body: bytes = b"{}", token: str = "", **more: Any):
    query = f"Qualifier={quote(qualifier, safe='')}" if qualifier else ""
    url = f"http://127.0.0.1:8700/2015-03-31/functions/{quote(name, safe='')}/invocations"
    request = AWSRequest("POST", url + (f"?{query}" if query else ""), data=body, headers=more)
    signer = botocore.auth.SigV4Auth(Credentials(KEY, SECRET, token or None), "lambda", "eu-west-1")
    now = dt.datetime.fromtimestamp(NOW_S, dt.UTC)
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=now):
        signer.add_auth(request)
    headers = {"Host": "127.0.0.1:8700", **dict(request.headers.items())}
    return Sent(urlsplit(url).path, query, headers, body)


def acs3(name: str = "f", qualifier: str = "", body: bytes = b"{}", **more: Any):
    path = f"/2023-03-30/functions/{quote(name, safe='')}/invocations"
    headers = {
        "host": "127.0.0.1:8700",
        "x-acs-action": "InvokeFunction",
        "x-acs-version": "2023-03-30",
        "x-acs-date": dt.datetime.fromtimestamp(NOW_S, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "x-acs-signature-nonce": "0123456789",
        "x-acs-content-sha256": hashlib.sha256(body).hexdigest(),
        **more,
    }
    asked = {"qualifier": qualifier} if qualifier else {}
    request = SimpleNamespace(method="POST", pathname=path, query=asked, headers=headers)
    headers["Authorization"] = Utils.get_authorization(
        request, ACS3, headers["x-acs-content-sha256"], KEY, SECRET
    )
    query = f"qualifier={quote(qualifier, safe='')}" if qualifier else ""
    return Sent(path, query, headers, body)


def fc(name: str = "f", qualifier: str = "", body: bytes = b"{}", **more: Any):
    service = f"svc.{qualifier}" if qualifier else "svc"
    plain = f"/2016-08-15/services/{service}/functions/{name}/invocations"
    headers = {
        "host": "127.0.0.1:8700",
        "date": dt.datetime.fromtimestamp(NOW_S, dt.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
        "content-type": "application/json",
        "content-md5": hashlib.md5(body).hexdigest(),
        **more,
    }
    headers["authorization"] = Auth(KEY, SECRET).sign_request("POST", plain, headers)
    return Sent(quote(plain, safe="/"), "", headers, body)


HEADERS = {
    sigv4: ("X-Amz-Tenant-Id", "amz-sdk-invocation-id"),
    acs3: ("x-acs-extra", "x-fc-trace-id"),
    fc: ("x-fc-trace-id", "x-fc-async-delay"),
}


@pytest.mark.parametrize("signer", [sigv4, acs3, fc])
@given(
    data=st.data(),
    name=NAMES,
    qualifier=st.just("") | NAMES,
    body=BODIES,
    values=st.tuples(VALUES, SPACED),
)
def test_what_the_sdks_sign_is_let_in_and_single_bits_are_not(
    signer, data, name, qualifier, body, values
):
    sent = signer(name, qualifier, body, **dict(zip(HEADERS[signer], values, strict=True)))
    assert sent.verify() == KEY
    before = unquote(sent.path), sent.query
    parts: list[tuple[str, Any]] = [("body", sent.body), ("path", sent.path), ("query", sent.query)]
    parts += list(sent.headers.items())
    which, text = data.draw(st.sampled_from([part for part in parts if part[1]]))
    raw = bytearray(text if isinstance(text, bytes) else text.encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    # Header lines and paths are ASCII; what has the eighth bit is another matter for the parser.
    raw[at] ^= 1 << data.draw(st.integers(0, 7 if which == "body" else 6))
    changed = bytes(raw) if which == "body" else raw.decode()
    if which in ("body", "path", "query"):
        setattr(sent, which, changed)
    else:
        sent.headers[which] = changed
    # `%3a` for `%3A` is the same path. `host` is not part of the old signature.
    assume(
        (unquote(sent.path), unquote(sent.query)) != (before[0], unquote(before[1]))
        or which not in ("path", "query")
    )
    assume(not (signer is fc and which == "host"))
    try:
        key = sent.verify()
    except Unproved:
        return
    # The name of the key is proved by there being a secret of that name.
    assert which.lower() == "authorization"
    assert key != KEY


def test_a_session_token_is_signed_along():
    sent = sigv4(token="token/of+a=session")
    assert sent.verify() == KEY
    sent.headers["X-Amz-Security-Token"] += "x"
    assert sent.fault() is Fault.WRONG


@pytest.mark.parametrize(("signer", "skew_s"), [(sigv4, 300), (acs3, 900), (fc, 900)])
def test_the_clock_may_be_a_little_off(signer, skew_s):
    for off_s in (-skew_s, skew_s):
        assert signer().verify(now_s=NOW_S + off_s) == KEY
        assert signer().fault(now_s=NOW_S + off_s * 1.01) is Fault.EXPIRED


@pytest.mark.parametrize("signer", [sigv4, acs3, fc])
def test_another_secret_is_wrong(signer):
    assert signer().fault(secret="other") is Fault.WRONG


def test_what_has_no_signature_is_told_so():
    assert Sent("/", "", {}, b"").fault() is Fault.MISSING
    presigned = Sent("/", "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00", {}, b"")
    assert presigned.fault() is Fault.MALFORMED


@pytest.mark.parametrize(
    "text",
    [
        "Bearer token",
        "FC",
        "FC key",
        "FC :x",
        "AWS4-HMAC-SHA256 Credential=a/20261123/r/lambda/aws4_request",
        "AWS4-HMAC-SHA256 Credential=a, SignedHeaders=host;x-amz-date, Signature=" + "0" * 64,
        "AWS4-HMAC-SHA256 Credential=a/20261123/r/s3/aws4_request, "
        "SignedHeaders=host;x-amz-date, Signature=" + "0" * 64,
        "ACS3-HMAC-SHA256 Credential=a,SignedHeaders=,Signature=" + "0" * 64,
        "ACS3-HMAC-SHA256 Credential=a,SignedHeaders=x;host,Signature=" + "0" * 64,
    ],
)
def test_what_is_no_authorization(text):
    sent = Sent("/", "", {"Authorization": text, "Host": "h"}, b"")
    assert sent.fault() is Fault.MALFORMED


def test_only_the_schemes_of_an_endpoint_are_taken():
    assert sigv4().fault(schemes=frozenset({ACS3, FC})) is Fault.MALFORMED


@pytest.mark.parametrize("digest", ["UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"])
def test_unsigned_payloads_are_refused(digest):
    request = sigv4(**{"X-Amz-Content-SHA256": digest})
    assert request.fault() is Fault.WRONG


@pytest.mark.parametrize(
    "value", ["a b", "a  b", " a", "a ", "a\tb", "|", "a |", "| a", "", "a%sb", "%", "a\u00a0b"]
)
def test_spaces_are_signed_as_the_sdk_signs_them(value):
    sent = sigv4(**{"X-Amz-Tenant-Id": value, "X-Amz-Log-Type": value})
    assert sent.verify() == KEY
    sent.headers["X-Amz-Tenant-Id"] += "x"
    assert sent.fault() is Fault.WRONG


def test_what_changes_the_meaning_has_to_be_signed():
    sent = sigv4()
    sent.headers["X-Amz-Invocation-Type"] = "Event"
    assert sent.fault() is Fault.WRONG
    sent = acs3()
    sent.headers["x-acs-action"] = "StopAsyncTask"
    assert sent.fault() is Fault.WRONG
    sent = fc()
    sent.headers["x-fc-invocation-type"] = "Async"
    assert sent.fault() is Fault.WRONG


def test_a_header_that_came_twice_proves_nothing():
    sent = sigv4()
    headers = CIMultiDict(sent.headers)
    headers.add("X-Amz-Date", "20000101T000000Z")
    with pytest.raises(Unproved, match="more than once"):
        claim(head("POST", sent.path, CIMultiDictProxy(headers)), ALL, NOW_S)


@pytest.mark.parametrize("date", ["", "yesterday", "20261332T000000Z", "2026-11-23T17:43:45Z"])
def test_what_is_no_time(date):
    sent = sigv4()
    sent.headers["X-Amz-Date"] = date
    assert sent.fault() is Fault.MALFORMED


def test_a_date_without_a_day_is_no_date():
    for date in ("", "yesterday"):
        sent = fc()
        sent.headers["date"] = date
        assert sent.fault() is Fault.MALFORMED


def test_the_dollar_may_be_escaped_in_the_signature_and_not_on_the_wire():
    sent = acs3("svc$f")
    sent.path = sent.path.replace("%24", "$")
    assert sent.verify() == KEY
    sent.path = sent.path.replace("$", "_")
    assert sent.fault() is Fault.WRONG


@pytest.mark.parametrize("form", ["hex", "base64", "base64 of hex", "foreign", ""])
def test_content_md5_is_signed_as_sent_and_held_against_the_body(form):
    digest = hashlib.md5(b"{}")
    text = {
        "hex": digest.hexdigest(),
        "base64": base64.b64encode(digest.digest()).decode(),
        "base64 of hex": base64.b64encode(digest.hexdigest().encode()).decode(),
        "foreign": "no such thing",
        "": "",
    }[form]
    fields: Any = {"content-md5": text}
    sent = fc(**fields)
    assert sent.verify() == KEY
    sent.body = b"[]"
    if form in ("foreign", ""):
        assert sent.verify() == KEY
    else:
        assert sent.fault() is Fault.WRONG


def test_old_headers_without_a_value_are_signed_as_such():
    fields: Any = {"x-fc-account-id": "", "x-fc-trace-id": "t"}
    sent = fc(**fields)
    assert sent.verify() == KEY
    del sent.headers["x-fc-account-id"]
    assert sent.fault() is Fault.WRONG


def test_the_old_signature_is_that_of_its_description():
    sent = Sent("/2016-08-15/services/s/functions/f/invocations", "", {}, b"")
    date = fc().headers["date"]
    text = f"POST\n\n\n{date}\nx-fc-a:1\n{sent.path}"
    signature = base64.b64encode(hmac.digest(SECRET.encode(), text.encode(), "sha256")).decode()
    sent.headers = {"Date": date, "X-Fc-A": "1", "Authorization": f"FC {KEY}:{signature}"}
    assert sent.verify() == KEY


def test_a_header_that_is_no_text_proves_nothing():
    fields: Any = {"x-fc-a": "1"}
    sent = fc(**fields)
    sent.headers["x-fc-a"] = "\udcff"
    assert sent.fault() is Fault.WRONG


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/a%3Ab?q=%24#f", "/a%3Ab", "q=%24"),
        ("http://127.0.0.1:1/a?b", "/a", "b"),
        ("http://127.0.0.1", "/", ""),
        ("*", "/", ""),
    ],
)
def test_targets_may_be_absolute(target, path, query):
    whole = head("POST", target, CIMultiDictProxy(CIMultiDict()))
    assert (whole.path, whole.query) == (path, query)
