"""The recipes of docs/completions.md work, and its tables say what the code does."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer

from dispatcher.config import CallbackSettings, parse
from dispatcher.core.callback import OFFER_EXTRA_BYTES_MAX, offer, token
from dispatcher.core.model import Verdict
from dispatcher.trackers.callback import fresh_key
from dispatcher.trackers.fc_replies import Task
from dispatcher.trackers.sqs_records import completion, read_record
from tests.trackers.fake_fc import watched
from tests.trackers.fake_sqs import record

PAGE = (Path(__file__).parents[2] / "docs" / "completions.md").read_text(encoding="utf-8")
REGION, ACCOUNT = "eu-west-3", "123456789012"
QUEUE = f"arn:aws:sqs:{REGION}:{ACCOUNT}:dispatcher-ends"
ENDS_AS = {
    Verdict.SUCCEEDED: "`succeeded`",
    Verdict.FAILED: "failed",
    Verdict.EXPIRED: "`expired`",
    Verdict.STOPPED: "`cancelled`",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def rows(heading: str) -> Iterator[tuple[list[str], str]]:
    """Give the words in code of the first column, and the second column, of a table."""
    section = PAGE.partition(f"### {heading}\n")[2].partition("\n## ")[0]
    for line in re.findall(r"^\| (`.*)\|$", section, re.MULTILINE):
        first, second = line.split("|")[:2]
        if first.strip() == "`condition`":
            continue
        yield re.findall(r"`(\w+)`", first), second.strip()


# -- Recipes ----------------------------------------------------------------------------------------


class Aws:
    """An account at moto, with a function and its role."""

    def __init__(self, endpoint: str) -> None:
        self.environment = {
            "AWS_ACCESS_KEY_ID": "AK",
            "AWS_SECRET_ACCESS_KEY": "SK",
            "AWS_DEFAULT_REGION": REGION,
            "ENDPOINT": endpoint,
            "AWS_PAGER": "",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self._endpoint = endpoint
        iam, functions = self.client("iam"), self.client("lambda")
        role = iam.create_role(RoleName="resize-role", AssumeRolePolicyDocument="{}")
        code = io.BytesIO()
        with zipfile.ZipFile(code, "w") as archive:
            archive.writestr("index.py", "")
        functions.create_function(
            FunctionName="resize",
            Runtime="python3.13",
            Role=role["Role"]["Arn"],
            Handler="index.handler",
            Code={"ZipFile": code.getvalue()},
        )

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self._endpoint,
            region_name=REGION,
            aws_access_key_id="AK",
            aws_secret_access_key="SK",
        )

    def check(self) -> None:
        """Check that ends of the function reach the queue."""
        config = self.client("lambda").get_function_event_invoke_config(FunctionName="resize")
        assert config["MaximumRetryAttempts"] == 0
        assert config["MaximumEventAgeInSeconds"] == 3600
        assert config["DestinationConfig"] == {
            "OnSuccess": {"Destination": QUEUE},
            "OnFailure": {"Destination": QUEUE},
        }
        queue = self.client("sqs").get_queue_attributes(
            QueueUrl=self.client("sqs").get_queue_url(QueueName="dispatcher-ends")["QueueUrl"],
            AttributeNames=["All"],
        )["Attributes"]
        assert queue["QueueArn"] == QUEUE
        assert queue["MessageRetentionPeriod"] == "86400"
        policy = self.client("iam").get_role_policy(
            RoleName="resize-role", PolicyName="dispatcher-ends"
        )["PolicyDocument"]
        (statement,) = policy["Statement"]
        assert (statement["Action"], statement["Resource"]) == ("sqs:SendMessage", QUEUE)


@pytest.fixture
def aws() -> Iterator[Aws]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # State of moto is of the process, whichever server has made it.
    reset = urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset).close()
    yield Aws(f"http://{host}:{port}")
    urllib.request.urlopen(reset).close()
    server.stop()


def test_the_commands_of_the_aws_cli_set_it_up(aws):
    (script,) = (block for block in blocks("sh") if block.startswith("aws "))
    # The variable for this, AWS_ENDPOINT_URL, is not honoured by the CLI for SQS.
    local = 'aws() { command aws --endpoint-url "$ENDPOINT" "$@"; }\n'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", local + script],
        env=os.environ | aws.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    aws.check()


def test_the_template_of_cloudformation_is_without_fault(tmp_path):
    (template,) = (block for block in blocks("yaml") if "AWSTemplateFormatVersion" in block)
    path = tmp_path / "ends.yaml"
    path.write_text(template)
    # It knows the schema of each resource; moto cannot make this kind of resource.
    linter = Path(sys.executable).parent / "cfn-lint"
    command = [str(linter), "--regions", REGION, "--", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not installed")
def test_terraform_can_read_its_recipes(tmp_path):
    recipes = blocks("hcl")
    assert len(recipes) == 2
    for recipe in recipes:
        command = ["terraform", "fmt", "-check", "-diff", "-no-color", "-"]
        done = subprocess.run(
            command, input=recipe, capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_all_recipes_leave_no_retries_to_the_cloud():
    text = "\n".join(blocks("hcl") + blocks("sh") + blocks("yaml"))
    zeros = re.findall(
        r"(?:max_async_retry_attempts|maximum_retry_attempts|MaximumRetryAttempts"
        r"|maxAsyncRetryAttempts\"?|--maximum-retry-attempts)[ :=]+(\d+)",
        text,
    )
    assert zeros == ["0"] * 6


def test_the_project_of_serverless_devs_switches_task_mode_on():
    (text,) = (block for block in blocks("yaml") if "component: fc3" in block)
    props = yaml.safe_load(text)["resources"]["resize"]["props"]
    assert props["asyncInvokeConfig"]["asyncTask"] is True
    (script,) = (block for block in blocks("sh") if block.startswith("s cli"))
    (body,) = re.findall(r"--body '(.*?)'", script)
    assert json.loads(body)["statefulInvocation"] is True


def test_the_configuration_is_one():
    text, hooks = blocks("toml")
    assert set(tomllib.loads(hooks)["callbacks"]) <= set(CallbackSettings.__struct_fields__)
    settings = parse(text, base=Path("/"))
    (account,) = settings.accounts.values()
    assert account.completion_queue is not None
    assert account.completion_queue.endswith("/dispatcher-ends")
    assert tomllib.loads(text)


# -- Tables -----------------------------------------------------------------------------------------


def test_what_each_condition_means():
    told = list(rows("What each record means"))
    assert [words for words, _ in told] == [
        ["Success"],
        ["RetriesExhausted"],
        ["EventAgeExceeded"],
        ["ZeroReservedConcurrency"],
    ]
    for (condition,), meaning in told:
        read = read_record(record("r", condition))
        assert read is not None
        end = completion(watched(1, 0.0), read, run_s=None, start_delay_s=None)
        assert meaning.startswith(ENDS_AS[end.verdict]), condition


def test_what_each_status_means():
    told = list(rows("What each status means"))
    assert sum(len(words) for words, _ in told) == 10
    for words, meaning in told:
        for status in words:
            verdict = Task(task_id="t", status=status).verdict
            expected = "still to end" if verdict is None else ENDS_AS[verdict]
            assert meaning.startswith(expected), status


def test_the_example_of_an_offer_is_what_is_made():
    asking, offered = blocks("json")
    key = fresh_key()
    made = json.loads(
        offer(
            asking.encode(),
            url_base="https://dispatcher.internal",
            token=token(key, "i01jd", 1),
            invocation_id="i01jd",
            attempt=1,
        )
    )
    shown = json.loads(offered)
    assert list(made) == list(shown) == ["image", "done"]
    assert list(made["done"]) == list(shown["done"])
    assert len(made["done"]["token"]) == len(shown["done"]["token"])
    assert len(offered) - len(asking) <= OFFER_EXTRA_BYTES_MAX


def test_links_lead_somewhere():
    for target in re.findall(r"`(benchmarks/[^`]+)`", PAGE):
        assert (Path(__file__).parents[2] / target).is_file(), target
