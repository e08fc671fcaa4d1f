"""What is shown of a configuration, and what is not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dispatcher.config import parse, shown

CONFIG = """
[server]
token_file = "token"

[accounts.a]
provider = "aws-lambda"
account_id = "123456789012"
region = "us-east-1"
quota = 10
endpoint = "http://127.0.0.1:8710"
completion_queue = "https://sqs.us-east-1.amazonaws.com/123456789012/ends?x=SECRETQUERY"
credentials = { source = "static", access_key_id = "AKIAVERYLONGID", access_key_secret_file = "s" }

[clients.c]
access_key_id = "LOC"
access_key_secret_file = "s"
account = "a"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for name in ("token", "s"):
        (tmp_path / name).write_text("SECRETCONTENT\n")
        (tmp_path / name).chmod(0o600)
    path = tmp_path / "d.toml"
    path.write_text(CONFIG)
    return path


def test_every_key_is_shown_with_its_default(config: Path):
    plain = shown(parse(CONFIG, base=config.parent))
    assert plain["server"]["drain_max_s"] == 25
    assert plain["journal"]["delivery"] == "at_least_once"
    account = plain["accounts"]["a"]
    assert account["quota"] == 10
    assert account["endpoint"] == "http://127.0.0.1:8710"
    assert account["functions"]["*"]["completion"] == "destination"
    assert plain["server"]["token_file"] == str(config.parent / "token")


def test_no_secret_is_shown(config: Path):
    plain = shown(parse(CONFIG, base=config.parent))
    assert plain["accounts"]["a"]["credentials"]["access_key_id"] == "AKIA..."
    assert plain["clients"]["c"]["access_key_id"] == "..."
    assert "SECRET" not in json.dumps(plain)
    assert plain["accounts"]["a"]["completion_queue"].endswith("/ends?...")


def test_the_command_prints_it_as_json(config: Path):
    done = subprocess.run(
        [sys.executable, "-m", "dispatcher", "check", "--print-config", "--config", config],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["accounts"]["a"]["region"] == "us-east-1"
    assert "SECRET" not in done.stdout + done.stderr
