"""The drop-in endpoints of a sidecar as it is started: keys, tokens, reload, and nonsense."""

import asyncio
import contextlib
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.sidecar import Sidecar, cloud, write_config
from tests.web.dropins import sidecar

pytestmark = [pytest.mark.real_time, pytest.mark.filterwarnings("ignore::ResourceWarning")]

CLOUD = """
[accounts.aws]
provider = "aws-lambda"
account_id = "123456789012"
region = "eu-west-1"
quota = 10
unlisted = true
functions."*" = { duration_s = 0.02 }
"""
CONFIG = """
[server]
listen = ["127.0.0.1:0"]
token_file = "secret"
[metrics]
listen = ""
[journal]
url = "memory:"
[accounts.aws]
provider = "aws-lambda"
account_id = "123456789012"
region = "eu-west-1"
quota = 3
endpoint = "{cloud}"
credentials = {{ source = "static", access_key_id = "A", access_key_secret_file = "secret" }}
functions."*" = {{ duration_s = 1 }}
[clients.one]
access_key_id = "LOCALKEY"
access_key_secret_file = "client"
account = "aws"
"""


@contextlib.contextmanager
def client(url: str, secret: str) -> Iterator[Any]:
    made = boto3.client(
        "lambda",
        region_name="eu-west-1",
        endpoint_url=url,
        aws_access_key_id="LOCALKEY",
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}),
    )
    try:
        yield made
    finally:
        made.close()


def invoke(url: str, secret: str) -> int:
    with client(url, secret) as made:
        try:
            reply = made.invoke(FunctionName="f", InvocationType="Event", Payload=b"{}")
        except ClientError as error:
            reply = error.response
    return int(reply["ResponseMetadata"]["HTTPStatusCode"])


def test_keys_are_those_of_the_configuration_and_change_with_a_reload(tmp_path: Path):
    secret = tmp_path / "client"
    secret.write_text("first")
    secret.chmod(0o600)
    with cloud(tmp_path, CLOUD) as url:
        path = write_config(tmp_path, CONFIG.format(cloud=url))
        with Sidecar(path) as process:
            # The API asks for its token; the drop-in endpoints for a signature of their own.
            assert process.call("GET", "/v1/accounts")[0] == 401
            assert invoke(process.url, "first") == 202
            assert invoke(process.url, "second") == 403
            secret.write_text("second")
            process.signal(signal.SIGHUP)
            process.wait_for("config_reloaded")
            assert invoke(process.url, "first") == 403
            assert invoke(process.url, "second") == 202
            secret.write_text("")
            process.signal(signal.SIGHUP)
            process.wait_for("config_refused")
            assert invoke(process.url, "second") == 202
            assert process.stop() == 0


PATHS = (
    "/2015-03-31/functions/{}/invocations",
    "/2014-11-13/functions/{}/invoke-async/",
    "/2016-08-19/account-settings",
    "/2021-11-15/functions/{}/response-streaming-invocations",
    "/2023-03-30/functions/{}/invocations",
    "/2023-03-30/functions/{}/async-tasks",
    "/2023-03-30/functions/{}/async-tasks/{}",
    "/2023-03-30/functions/{}/async-tasks/{}/stop",
    "/2021-04-06/services/{}/functions/{}/invocations",
    "/2016-08-15/services/{}/functions/{}/invocations",
    "/2016-08-15/services/{}/functions/{}/stateful-async-invocations/{}",
)
WORDS = (
    *("f", "svc$f", "svc.prod", "", ".", "..", "%", "%00", "%2F", "%zz", "%F0%9F%98%80", "*"),
    *("arn:aws:lambda:eu-west-1:123456789012:function:f", "a" * 300, "\x00", "\u00e9", "$", "{x}"),
)
HEADERS = (
    *("X-Amz-Invocation-Type", "X-Amz-Client-Context", "X-Amz-Log-Type", "X-Amz-Tenant-Id"),
    *("X-Amz-Durable-Execution-Name", "amz-sdk-invocation-id", "X-Amz-Date", "Authorization"),
    *("x-fc-invocation-type", "x-fc-async-task-id", "x-fc-async-delay", "X-Fc-Account-Id", "Date"),
    *("x-fc-stateful-async-invocation-id", "x-fc-trace-id", "x-acs-date", "Content-MD5"),
    *("x-amz-content-sha256", "x-acs-content-sha256", "Content-Type", "Content-Encoding"),
)
VALUES = (
    *("Event", "Async", "DryRun", "Tail", "task_1", "0", "-1", "1e9", "9" * 40, "\u0663", "", " "),
    *("20261123T000000Z", "2026-11-23T00:00:00Z", "Mon, 23 Nov 2026 17:34:15 GMT", "FC a:b", "FC"),
    *("\u00ff\u00fe", "a\tb", "x" * 5000, "eyJhIjogMX0=", "Mon, 99 Foo 99999 99:99:99 +9999"),
    "AWS4-HMAC-SHA256 Credential=LOCALKEY/20261123/eu-west-1/lambda/aws4_request, "
    "SignedHeaders=host;x-amz-date, Signature=" + "0" * 64,
    "ACS3-HMAC-SHA256 Credential=LOCALKEY,SignedHeaders=host;x-acs-content-sha256;x-acs-date;"
    "x-acs-signature-nonce,Signature=" + "0" * 64,
)
QUERIES = ("", "?", "?Qualifier=%24LATEST", "?qualifier=%FF&limit=x", "?limit=5&nextToken=zzz")
BODIES = (b"", b"{}", b"{", b"\xff\x00", b'"' + b"[" * 5000, bytes(200_000))


def _word(choose: random.Random) -> str:
    return "f" if choose.random() < 0.7 else choose.choice(WORDS)


def nonsense(choose: random.Random) -> bytes:
    """Make a request of parts that each mean something somewhere."""
    method = choose.choice(("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"))
    path = choose.choice(PATHS)
    path = path.format(*(_word(choose) for _ in range(path.count("{}"))))
    lines = [
        f"{choose.choice(HEADERS)}: {choose.choice(VALUES)}" for _ in range(choose.randrange(4))
    ]
    body = choose.choice(BODIES)
    if choose.random() < 0.2:
        lines.append("Transfer-Encoding: chunked")
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    else:
        lines.append(f"Content-Length: {len(body)}")
    target = choose.choice(("", "", "", "http://127.0.0.1:1")) + path + choose.choice(QUERIES)
    head = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n" + "\r\n".join(lines)
    return head.encode("latin-1", "replace") + b"\r\nConnection: close\r\n\r\n" + body


@pytest.mark.parametrize("account", [None, "aws", "fc"])
async def test_no_nonsense_is_answered_500(
    tmp_path: Path, account: str | None, caplog: Any, monkeypatch: Any
):
    monkeypatch.setattr("dispatcher.web.clients.WAIT_MAX_S", 0.1)
    choose = random.Random(7)
    statuses: dict[int, int] = {}
    async with sidecar(tmp_path, account, "wait_max_s = 0.1" if account else "") as held:
        for name in ("aws", "fc"):
            held.engine.pause(name)
        host, _, port = held.url.removeprefix("http://").rpartition(":")

        async def send(data: bytes) -> None:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(data)
            answer = b""
            with contextlib.suppress(ConnectionError):
                answer = await asyncio.wait_for(reader.read(), 30)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            assert answer, data[:500]
            status = int(answer.split(b" ", 2)[1])
            statuses[status] = statuses.get(status, 0) + 1
            assert status != 500, data[:500]

        for _ in range(50):
            await asyncio.gather(*(send(nonsense(choose)) for _ in range(30)))
    print(f"{account}: {dict(sorted(statuses.items()))}")
    assert "defect" not in caplog.text
