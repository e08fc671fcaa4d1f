"""Against MiniStack's Lambda, which enforces an account's concurrency: nobody here wrote it."""

import io
import os
import socket
import subprocess
import threading
import time
import urllib.request
import zipfile
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from tests.sidecar import Sidecar, write_config

MINISTACK = Path(__file__).resolve().parents[2] / ".cache/ministack/bin/ministack"
CAP = 4
EVENTS = 8
RUN_S = 1.0

HANDLER = f"""
import os, time, uuid

def handler(event, context):
    time.sleep({RUN_S})
    folder = {{folder!r}}
    with open(os.path.join(folder, uuid.uuid4().hex), "w") as file:
        file.write(str(event["n"]))
    return event
"""

CONFIG = """
[server]
listen = ["127.0.0.1:0"]

[metrics]
listen = "127.0.0.1:0"

[journal]
url = "memory:"

[accounts.main]
provider = "aws-lambda"
account_id = "000000000000"
region = "us-east-1"
quota = {cap}
endpoint = "{endpoint}"
credentials = {{ source = "static", access_key_id = "test", access_key_secret_file = "secret" }}

[accounts.main.functions."*"]
completion = "duration"
duration_s = {duration_s}
"""

pytestmark = pytest.mark.skipif(
    not MINISTACK.exists(), reason="MiniStack is not set up: `make test` does that"
)


@pytest.fixture
def ministack(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = (tmp_path / "ministack.log").open("wb")
    process = subprocess.Popen(
        [str(MINISTACK)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=tmp_path,
        env={
            **os.environ,
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "LAMBDA_ACCOUNT_CONCURRENCY": str(CAP),
            "LAMBDA_ASYNC_RETRY_BASE_SECONDS": "0.1",
            "LOG_LEVEL": "WARNING",
            "HOME": str(tmp_path),
        },
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until(lambda: _answers(f"{url}/_ministack/health"), 120)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def _answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False


def _wait_until(condition, max_s):
    until = time.monotonic() + max_s
    while not condition():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.05)


def _client(service, url):
    return boto3.client(
        service,
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"total_max_attempts": 1}),
    )


def _make_function(lam, name, folder):
    folder.mkdir()
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("h.py", HANDLER.format(folder=str(folder)))
    lam.create_function(
        FunctionName=name,
        Runtime="python3.11",
        Role="arn:aws:iam::000000000000:role/r",
        Handler="h.handler",
        Code={"ZipFile": code.getvalue()},
    )


def _longest_run_s(lam):
    """Return how long a call takes at most while the account is full, cold starts included."""
    took_s = []

    def call():
        begun = time.monotonic()
        lam.invoke(FunctionName="probe", InvocationType="RequestResponse", Payload=b'{"n": 0}')
        took_s.append(time.monotonic() - begun)

    callers = [threading.Thread(target=call) for _ in range(CAP)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(took_s) == CAP
    return max(took_s)


def _ran(folder):
    return sorted(int(file.read_text()) for file in folder.iterdir())


@pytest.mark.slow
def test_events_that_the_cloud_drops_run_when_they_come_through_the_dispatcher(ministack, tmp_path):
    lam = _client("lambda", ministack)
    for name in ("probe", "wild", "tame"):
        _make_function(lam, name, tmp_path / name)
    # Nobody tells us of ends, so the estimate has to hold on a busy machine too.
    duration_s = 2 + 2 * _longest_run_s(lam)

    for number in range(EVENTS):
        reply = lam.invoke(
            FunctionName="wild", InvocationType="Event", Payload=b'{"n": %d}' % number
        )
        assert reply["StatusCode"] == 202, "every one of them was accepted"
    time.sleep(EVENTS / CAP * RUN_S + 3)
    wild = _ran(tmp_path / "wild")
    assert len(wild) < EVENTS, "MiniStack has dropped none: this shows nothing"

    config = write_config(
        tmp_path, CONFIG.format(cap=CAP, endpoint=ministack, duration_s=duration_s)
    )
    with Sidecar(config) as sidecar:
        for number in range(EVENTS):
            body = {"account": "main", "function": "tame", "payload": {"n": number}}
            status, _ = sidecar.call("POST", "/v1/invocations", body)
            assert status == 202
        _wait_until(lambda: len(_ran(tmp_path / "tame")) == EVENTS, 150)
        assert sidecar.stop() == 0
    assert _ran(tmp_path / "tame") == list(range(EVENTS)), "each once"
    print(
        f"\nMiniStack, cap {CAP}, {EVENTS} Events of {RUN_S} s: {EVENTS - len(wild)} dropped without "
        f"the dispatcher, 0 with it"
    )
