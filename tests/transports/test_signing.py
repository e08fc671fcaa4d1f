"""Signatures are those of the providers' own SDKs, to the byte."""

import contextlib
import datetime as dt
from types import SimpleNamespace
from unittest import mock

import boto3
import botocore.auth
import pytest
from alibabacloud_tea_openapi.utils import Utils
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.config import Config
from botocore.credentials import Credentials
from darabonba.url import Url
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from dispatcher.config import AccountSettings
from dispatcher.core.model import Call, CallType, Provider
from dispatcher.transports import aws_lambda, signing
from dispatcher.transports.aliyun_fc import FcTransport
from dispatcher.transports.aliyun_fc import _call_headers as fc_headers
from dispatcher.transports.aws_lambda import LambdaTransport
from dispatcher.transports.credentials import Keys
from dispatcher.transports.wire import body_digest
from tests.transports.keyrings import FixedKeyring

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40) | st.text(
    "ab09-_:$./@%+~*! \u4e2d", min_size=1, max_size=40
)
SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64)
TOKENS = st.none() | st.text("abcXYZ019+/=", min_size=1, max_size=400)
KEYS = st.builds(Keys, st.text("ABCXYZ0189.", min_size=1, max_size=32), SECRETS, TOKENS)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
TIMES = st.integers(0, 4102444799)  # to the end of 2099
CALLS = st.builds(
    Call,
    function=NAMES,
    qualifier=st.none() | NAMES,
    type=st.sampled_from(CallType),
    task_id=st.text("abz019_-", min_size=1, max_size=60),
    payload=st.binary(max_size=200),
)


def account(provider: Provider, region: str) -> AccountSettings:
    return AccountSettings(provider=provider, account_id="1031", region=region, quota=1)


@given(
    call=CALLS,
    keys=KEYS,
    options=st.dictionaries(st.sampled_from(sorted(aws_lambda.OPTIONS)), VALUES),
    second=TIMES,
    region=st.sampled_from(["us-east-1", "cn-north-1", "eusc-de-east-1"]),
)
@example(
    call=Call(
        function="arn:aws:lambda:us-east-1:000000000000:function:f:live",
        qualifier="$LATEST",
        type=CallType.ASYNC,
        task_id="t",
        payload=b"{}",
    ),
    keys=Keys("AK", "secret", "token"),
    options={"tenant_id": " two  spaces "},
    second=1795469655,
    region="us-east-1",
)
async def test_sigv4_is_what_botocore_signs(call, keys, options, second, region):
    keyring = FixedKeyring(keys)
    async with contextlib.aclosing(
        LambdaTransport(account(Provider.AWS_LAMBDA, region), keyring, clock=lambda: second + 0.5)
    ) as transport:
        sent = [(aws_lambda.OPTIONS[name], value) for name, value in options.items()]
        target = transport._target(call.function, call.qualifier)
        digest = await body_digest(call.payload)
        kind = "Event" if call.type is CallType.ASYNC else "RequestResponse"
        more = [("x-amz-invocation-type", kind), *sent]
        headers = CIMultiDict(transport._signed("POST", target, keys, more, digest))

    theirs = AWSRequest(
        "POST",
        f"https://{headers['Host']}{target.line}",
        headers={"X-Amz-Invocation-Type": kind, **dict(sent)},
        data=call.payload,
    )
    signer = botocore.auth.SigV4Auth(Credentials(*keys), "lambda", region)
    now = dt.datetime.fromtimestamp(second, dt.UTC)
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=now):
        signer.add_auth(theirs)
    assert headers["Authorization"] == theirs.headers["Authorization"]
    assert headers["X-Amz-Date"] == theirs.headers["X-Amz-Date"]
    assert headers.get("X-Amz-Security-Token") == theirs.headers.get("X-Amz-Security-Token")


@pytest.mark.parametrize(
    ("function", "qualifier"),
    [
        ("plain", None),
        ("name:alias", None),
        ("arn:aws:lambda:us-east-1:000000000000:function:f:live", None),
        ("f", "$LATEST"),
        ("f", "live-2"),
    ],
)
async def test_a_url_of_lambda_is_what_boto3_calls(function: str, qualifier: str | None):
    client = boto3.client(
        "lambda",
        region_name="us-east-1",
        aws_access_key_id="AK",
        aws_secret_access_key="secret",
        config=Config(parameter_validation=False),
    )
    called = []

    def answer(request, **_):
        called.append(request.url)
        return AWSResponse(request.url, 202, {}, SimpleNamespace(stream=lambda: [b""]))

    client.meta.events.register("before-send.lambda.Invoke", answer)
    arguments = {} if qualifier is None else {"Qualifier": qualifier}
    client.invoke(FunctionName=function, InvocationType="Event", **arguments)
    settings = account(Provider.AWS_LAMBDA, "us-east-1")
    async with contextlib.aclosing(LambdaTransport(settings, FixedKeyring())) as transport:
        target = transport._target(function, qualifier)
        assert f"https://lambda.us-east-1.amazonaws.com{target.line}" == called[0]


@given(
    call=CALLS,
    keys=KEYS,
    options=st.dictionaries(st.sampled_from(["async_delay", "log_type", "trace_id"]), VALUES),
    second=TIMES,
)
@example(
    call=Call(
        function="m42-ng-fc$surf2surf",
        qualifier="LATEST",
        type=CallType.ASYNC,
        task_id="t",
        payload=b"{}",
    ),
    keys=Keys("AK", "secret", "token"),
    options={"trace_id": " two  spaces "},
    second=1795469655,
)
async def test_acs3_is_what_the_sdk_signs(call, keys, options, second):
    keyring = FixedKeyring(keys)
    settings = account(Provider.ALIYUN_FC, "cn-shanghai")
    async with contextlib.aclosing(
        FcTransport(settings, keyring, clock=lambda: second + 0.5)
    ) as transport:
        target = transport._target(call.function, call.qualifier)
        extra = fc_headers(
            Call(
                function=call.function,
                qualifier=call.qualifier,
                type=call.type,
                task_id=call.task_id,
                payload=call.payload,
                options=options,
            )
        )
        digest = await body_digest(call.payload)
        headers = CIMultiDict(
            transport._headers("POST", "InvokeFunction", target, keys, extra, digest)
        )

    ours = headers.popone("Authorization")
    if call.function not in {".", ".."}:  # which the SDK lets climb
        encoded = Url.percent_encode(call.function)
        assert target.path == f"/2023-03-30/functions/{encoded}/invocations"
    theirs = SimpleNamespace(
        method="POST",
        pathname=target.path,
        query={} if call.qualifier is None else {"qualifier": call.qualifier},
        headers=dict(headers),
    )
    hashed = Utils.hash(call.payload, "ACS3-HMAC-SHA256").hex()
    assert headers["x-acs-content-sha256"] == hashed
    assert ours == Utils.get_authorization(
        theirs, "ACS3-HMAC-SHA256", hashed, keys.access_key_id, keys.access_key_secret
    )
    assert headers.get("x-acs-security-token") == keys.security_token
    for needed in ("host", "x-acs-date", "x-acs-content-sha256", "x-fc-invocation-type"):
        assert needed in ours.partition("SignedHeaders=")[2].partition(",")[0].split(";")


async def test_the_path_that_is_signed_is_the_path_on_the_wire():
    settings = account(Provider.ALIYUN_FC, "cn-shanghai")
    async with contextlib.aclosing(FcTransport(settings, FixedKeyring())) as transport:
        target = transport._target("m42-ng-fc$surf2surf", "$x")
    assert target.line.partition("?")[0] == target.path
    assert target.path == "/2023-03-30/functions/m42-ng-fc%24surf2surf/invocations"
    assert target.line.partition("?")[2] == target.query == "qualifier=%24x"


@given(name=NAMES)
@example(name=".")
@example(name="..")
@example(name="a/../b")
def test_no_name_leaves_its_segment(name: str):
    segment = signing.path_segment(name)
    assert "/" not in segment
    assert "?" not in segment
    assert "#" not in segment
    assert segment not in {".", ".."}


def test_what_is_no_text_is_no_name():
    with pytest.raises(ValueError, match="surrogates"):
        signing.path_segment("\ud800")


@given(pairs=st.lists(st.tuples(NAMES, NAMES), max_size=5))
def test_a_query_is_sorted_and_escaped_once(pairs: list[tuple[str, str]]):
    request = AWSRequest("GET", "https://example.test/", params=pairs)
    theirs = botocore.auth.SigV4Auth(None, "s", "r")._canonical_query_string_params(pairs)
    assert request.params == pairs
    assert signing.canonical_query(pairs) == theirs


def test_moments_are_written_as_each_cloud_reads_them():
    assert signing.sigv4_time(1795455825) == "20261123T174345Z"
    assert signing.acs3_time(1795455825) == "2026-11-23T17:43:45Z"
