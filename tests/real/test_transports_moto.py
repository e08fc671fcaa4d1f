"""The Lambda transport against moto's Invoke, a server that nobody here wrote."""

import asyncio
import io
import json
import logging
import urllib.request
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import boto3
import pytest
from moto.server import ThreadedMotoServer

from dispatcher.config import AccountSettings, EnvCredentials
from dispatcher.core.model import Accepted, Call, CallType, Lost, Provider, Replied
from dispatcher.transports import LambdaTransport, open_transport

pytestmark = pytest.mark.real_time

REGION = "eu-west-3"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """A server with one function, `echo`, which gives back what it gets."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    # Otherwise it would run functions in containers.
    body = json.dumps({"lambda": {"use_docker": False}}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/config", body)).close()
    there = {
        "endpoint_url": url,
        "region_name": REGION,
        "aws_access_key_id": "AK",
        "aws_secret_access_key": "SK",
    }
    iam = boto3.client("iam", **there)
    role = iam.create_role(RoleName="r", AssumeRolePolicyDocument="{}", Path="/")["Role"]["Arn"]
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("h.py", "def handler(event, context): return event\n")
    boto3.client("lambda", **there).create_function(
        FunctionName="echo",
        Runtime="python3.11",
        Role=role,
        Handler="h.handler",
        Code={"ZipFile": code.getvalue()},
    )
    yield url
    server.stop()


@pytest.fixture
async def transport(moto: str, monkeypatch) -> AsyncIterator[LambdaTransport]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK")
    account = AccountSettings(
        provider=Provider.AWS_LAMBDA,
        account_id="123456789012",
        region=REGION,
        quota=10,
        endpoint=moto,
        credentials=EnvCredentials(),
    )
    async with aclosing(await open_transport(account, name="moto")) as opened:
        assert isinstance(opened, LambdaTransport)
        yield opened


def call(kind: CallType, function: str = "echo", qualifier: str | None = None) -> Call:
    return Call(function=function, qualifier=qualifier, type=kind, task_id="t", payload=b'{"a":1}')


@pytest.mark.parametrize(
    ("function", "qualifier"),
    [
        ("echo", None),
        ("echo", "$LATEST"),
        (f"arn:aws:lambda:{REGION}:123456789012:function:echo", None),
    ],
)
async def test_it_is_understood(transport: LambdaTransport, function: str, qualifier: str | None):
    # Its 202 says that it was read as an event: to anything else moto answers 200.
    accepted = await transport.send(call(CallType.ASYNC, function, qualifier))
    assert isinstance(accepted, Accepted)
    replied = await transport.send(call(CallType.SYNC, function, qualifier))
    assert isinstance(replied, Replied)
    assert (json.loads(replied.payload), replied.failure) == ({"a": 1}, None)


async def test_it_closes_every_connection_and_nothing_gets_lost(transport: LambdaTransport):
    outcomes = await asyncio.gather(*(transport.send(call(CallType.ASYNC)) for _ in range(40)))
    assert {type(outcome) for outcome in outcomes} == {Accepted}
    assert not any(isinstance(outcome, Lost) for outcome in outcomes)
