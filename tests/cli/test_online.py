"""`check --online` at the emulator, and without any cloud at all."""

import json
import time
import urllib.request
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from dispatcher.cli import run
from tests.sidecar import cloud, write_config

CLOUD = """
[accounts.fc]
provider = "aliyun-fc"
account_id = "1031"
region = "cn-shanghai"
quota = 100
unlisted = false
keys = { AKFC = "s3cret" }
[accounts.fc.functions.on]
max_async_retry_attempts = 0
[accounts.fc.functions.off]
async_task = false
[accounts.fc.functions.guessed]
max_async_retry_attempts = 0

[accounts.lambda]
provider = "aws-lambda"
account_id = "123456789012"
region = "us-east-1"
quota = 100
unlisted = false
keys = { AKAWS = "s3cret" }
queues = ["ends", "others"]
[accounts.lambda.functions.both]
on_success = "ends"
on_failure = "ends"
max_async_retry_attempts = 0
[accounts.lambda.functions.half]
on_success = "ends"
on_failure = "others"
max_async_retry_attempts = 1
[accounts.lambda.functions.plain]
qualifiers = ["live", "old"]
"""

ENDS = {"Destination": "arn:aws:sqs:us-east-1:123456789012:ends"}


def configure(url: str, qualifier: str, **fields: Any) -> None:
    """Give an alias of `plain` a configuration of its own."""
    path = f"/2019-09-25/functions/plain/event-invoke-config?Qualifier={qualifier}"
    request = AWSRequest("PUT", url + path, data=json.dumps(fields).encode())
    SigV4Auth(Credentials("AKAWS", "s3cret"), "lambda", "us-east-1").add_auth(request)
    wanted = urllib.request.Request(
        url + path, request.data, dict(request.headers.items()), method="PUT"
    )
    with urllib.request.urlopen(wanted, timeout=60) as reply:
        assert reply.status == 200


CONFIG = """
[accounts.fc]
provider = "aliyun-fc"
account_id = "1031"
region = "cn-shanghai"
quota = 100
endpoint = "{cloud}"
credentials = {{ source = "static", access_key_id = "{key}FC", access_key_secret_file = "secret" }}
[accounts.fc.functions]
on = {{}}
off = {{ attempts_max = 3 }}
guessed = {{ completion = "duration", duration_s = 5 }}
gone = {{}}
quiet = {{ type = "sync" }}

[accounts.lambda]
provider = "aws-lambda"
account_id = "123456789012"
region = "us-east-1"
quota = 100
endpoint = "{cloud}"
completion_queue = "{cloud}/123456789012/ends"
credentials = {{ source = "static", access_key_id = "{key}AWS", access_key_secret_file = "secret" }}
[accounts.lambda.functions]
both = {{}}
half = {{ attempts_max = 2 }}
plain = {{}}
gone = {{}}
"""


def checked(tmp_path, capsys, url: str, key: str = "AK") -> tuple[set[str], dict[str, list[str]]]:
    """Return what was said, and of what it was warned by the path of the function."""
    config = write_config(tmp_path, CONFIG.format(cloud=url, key=key))
    capsys.readouterr()
    assert run(["check", "--config", str(config), "--online"]) == 0
    out, err = capsys.readouterr()
    warnings: dict[str, list[str]] = {}
    for line in err.splitlines():
        path, _, text = line.removeprefix("warning: ").partition(": ")
        warnings.setdefault(path, []).append(text)
    return set(out.splitlines()), warnings


@pytest.mark.slow
def test_the_clouds_are_asked_how_the_end_of_each_function_will_be_known(tmp_path, capsys):
    with cloud(tmp_path, CLOUD) as url:
        both = {"OnSuccess": ENDS, "OnFailure": ENDS}
        configure(url, "live", DestinationConfig=both, MaximumRetryAttempts=0)
        configure(url, "old", DestinationConfig={"OnSuccess": ENDS}, MaximumRetryAttempts=0)
        said, warned = checked(tmp_path, capsys, url)
    fc, aws = "accounts.fc.functions.", "accounts.lambda.functions."
    assert fc + "on: task mode is on: its ends are exact" in said
    assert aws + "both: both destinations lead to the queue: the ends of unqualified calls are exact" in said  # fmt: skip
    assert fc + "on" not in warned
    assert aws + "both" not in warned
    off, retries = warned[fc + "off"]
    assert "task mode is off: its ends are estimated" in off
    assert "3 times" in retries
    assert "attempts_max = 3 it may run 12 times" in retries
    assert any('"task" would be exact' in text for text in warned[fc + "guessed"])
    (gone,) = warned[fc + "gone"]
    assert "FunctionNotFound" in gone
    assert fc + "quiet" not in warned
    half, once = warned[aws + "half"]
    assert half.startswith("OnFailure of unqualified calls")
    assert "once" in once
    assert "may run 4 times" in once
    live = "both destinations lead to the queue: the ends of calls of plain:live are exact"
    assert f"{aws}plain: {live}" in said
    plain, twice, old = warned[aws + "plain"]
    assert old.startswith("OnFailure of calls of plain:old do not lead to the queue")
    assert plain.startswith("OnSuccess and OnFailure of unqualified calls")
    assert "2 times" in twice
    assert "not found" in warned[aws + "gone"][0].lower()


def test_wrong_keys_are_said_and_are_no_error_of_the_configuration(tmp_path, capsys):
    with cloud(tmp_path, CLOUD) as url:
        _, warned = checked(tmp_path, capsys, url, key="XX")
    for path in ("accounts.fc.functions.on", "accounts.lambda.functions.both"):
        assert "the cloud does not say how it is configured" in warned[path][0]


def test_without_a_network_it_says_so_soon_and_does_not_fail(tmp_path, capsys):
    begun = time.monotonic()
    said, warned = checked(tmp_path, capsys, "http://127.0.0.1:1")
    assert time.monotonic() - begun < 10
    assert any(line.endswith("dispatcher.toml: good") for line in said)
    assert "the cloud does not say how it is configured" in warned["accounts.fc.functions.on"][0]
