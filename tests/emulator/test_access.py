import random

import pytest
from multidict import CIMultiDict

from dispatcher.emulator.access import Access
from dispatcher.emulator.cloud import Cloud
from dispatcher.emulator.settings import Account, Settings
from dispatcher.emulator.signatures import Fault, SignatureRefused
from dispatcher.emulator.wire import Call

SCHEMES = frozenset({"AWS4-HMAC-SHA256", "FC", "ACS3-HMAC-SHA256"})


def make_access(*accounts: tuple[str, str, dict[str, str]]) -> Access:
    settings = Settings(
        accounts={
            f"{account_id}-{region}": Account(
                provider="aliyun-fc", account_id=account_id, region=region, quota=1, keys=keys
            )
            for account_id, region, keys in accounts
        }
    )
    return Access(Cloud(settings, random.Random(1)).accounts.values(), SCHEMES)


THREE: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("1", "east", {"K1": "s"}),
    ("2", "west", {"K2": "s"}),
    ("2", "east", {}),
)


@pytest.mark.parametrize(
    ("headers", "account"),
    [
        ({}, "1-east"),
        ({"Authorization": "FC K2:x"}, "2-west"),
        ({"Authorization": "FC K9:x"}, "1-east"),
        ({"Host": "2.east.fc.aliyuncs.com"}, "2-east"),
        ({"Host": "2.west-internal.fc.aliyuncs.com"}, "2-west"),
        ({"Host": "lambda.west.amazonaws.com"}, "2-west"),
        ({"Host": "127.0.0.1:8710"}, "1-east"),
        ({"X-Fc-Account-Id": "2"}, "2-west"),
        ({"X-Fc-Account-Id": ""}, "1-east"),
        ({"X-Fc-Account-Id": "7"}, "1-east"),
        (
            {
                "Authorization": "AWS4-HMAC-SHA256 Credential=K9/20260101/west/lambda/aws4_request,"
                "SignedHeaders=host,Signature=x"
            },
            "2-west",
        ),
    ],
)
def test_an_account_is_chosen_by_key_then_by_region_then_by_order(headers, account):
    visitor = make_access(*THREE).visitor(Call("POST", "/", CIMultiDict(headers), b""))
    assert visitor.account.name == account


@pytest.mark.parametrize(
    ("authorization", "fault"),
    [
        (None, Fault.MISSING),
        ("Bearer x", Fault.MALFORMED),
        ("FC K9:x", Fault.UNKNOWN_KEY),
        ("FC K1:x", Fault.MALFORMED),  # no Date
    ],
)
def test_an_account_with_keys_lets_nobody_else_in(authorization, fault):
    access = make_access(THREE[0])
    headers = CIMultiDict({} if authorization is None else {"Authorization": authorization})
    call = Call("POST", "/", headers, b"")
    with pytest.raises(SignatureRefused) as caught:
        access.check(access.visitor(call), call, 0)
    assert caught.value.fault is fault


@pytest.mark.parametrize("authorization", ["Bearer x", "FC K9:x", "nonsense"])
def test_an_account_without_keys_lets_anybody_in(authorization):
    access = make_access(THREE[2])
    call = Call("POST", "/", CIMultiDict(Authorization=authorization), b"")
    access.check(access.visitor(call), call, 0)


def test_the_signature_of_another_cloud_does_not_do():
    access = make_access(THREE[0])
    access = Access([access.visitor(Call("POST", "/", CIMultiDict(), b"")).account], frozenset())
    call = Call("POST", "/", CIMultiDict(Authorization="FC K1:x"), b"")
    with pytest.raises(SignatureRefused, match="not signed by") as caught:
        access.check(access.visitor(call), call, 0)
    assert caught.value.fault is Fault.MALFORMED
