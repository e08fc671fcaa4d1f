import json

import pytest

from dispatcher.cli import run
from tests.sidecar import Sidecar, call, cloud, write_config

CLOUD = """
[accounts.fc]
provider = "aliyun-fc"
account_id = "1"
region = "cn-shanghai"
quota = 20
[accounts.fc.functions."*"]
duration_s = 0.05
"""

CONFIG = """
[server]
listen = ["127.0.0.1:0"]

[metrics]
listen = "127.0.0.1:0"

[journal]
url = "memory:"

[accounts.fc]
provider = "aliyun-fc"
account_id = "1"
region = "cn-shanghai"
quota = 20
endpoint = "{endpoint}"
credentials = {{ source = "static", access_key_id = "AK", access_key_secret_file = "secret" }}

[accounts.fc.functions.capped]
instances_max = 1
"""

FAILING = '{"emulate": {"fail": true}}'


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sidecar")
    with (
        cloud(folder, CLOUD) as url,
        Sidecar(write_config(folder, CONFIG.format(endpoint=url))) as s,
    ):
        call("PUT", f"{url}/_emulator/accounts/fc/functions/bad", {"max_async_retry_attempts": 0})
        yield s


@pytest.fixture
def ask(sidecar, capfd, monkeypatch):
    monkeypatch.setenv("DISPATCHER_URL", sidecar.url)

    def ask(*args):
        code = run([str(arg) for arg in args])
        out, err = capfd.readouterr()
        return code, out, err

    return ask


def test_enqueue_prints_the_id_and_with_wait_the_end(ask):
    code, out, _ = ask("enqueue", "fc/f", "--payload", '{"a": 1}')
    assert code == 0
    assert out.strip().startswith("i")
    code, _, err = ask("enqueue", "fc/f:LATEST", "--payload", "{}", "--wait", "--tenant", "web")
    assert code == 0
    assert "succeeded" in err


def test_a_payload_may_come_from_a_file(ask, tmp_path):
    path = tmp_path / "payload"
    path.write_bytes(b"\x00\xff not JSON")
    assert ask("enqueue", "fc/f", "--payload", f"@{path}", "--wait")[0] == 0
    code, _, err = ask("enqueue", "fc/f", "--payload", f"@{tmp_path}/none")
    assert code == 74
    assert "none" in err


def test_a_dead_end_is_exit_code_1_and_can_be_listed_and_redriven(ask):
    code, _, err = ask("enqueue", "fc/bad", "--payload", FAILING, "--wait", "--key", "once")
    assert code == 1
    assert "dead" in err
    code, out, _ = ask("dead", "list", "--function", "bad")
    assert code == 0
    dead_id = out.split()[0]
    assert "fc/bad" in out
    code, out, _ = ask("dead", "list", "--json")
    first = json.loads(out.splitlines()[0])
    assert (first["id"], first["function"], first["error"]["kind"]) == (
        dead_id,
        "bad",
        "function_error",
    )
    assert ask("dead", "redrive", dead_id)[0] == 0
    assert ask("dead", "redrive", "i0")[0] == 1
    assert ask("dead", "redrive")[0] == 64
    code, _, err = ask("dead", "redrive", "--all", "--account", "fc")
    assert code == 0
    assert "will run again" in err
    code, _, err = ask("dead", "redrive", "--all", "--account", "nobody")
    assert code == 1
    assert "there is no account 'nobody'" in err


def test_what_is_refused_says_why(ask):
    code, _, err = ask("enqueue", "nobody/f")
    assert code == 64
    assert "there is no account 'nobody'" in err
    assert ask("enqueue", "no-slash")[0] == 64
    assert ask("enqueue", "fc/f", "--delay", "-1")[0] == 64
    assert ask("enqueue", "fc/f", "--delay", "nan")[0] == 64
    assert ask("enqueue", "fc/f", "--nonsense")[0] == 64


def test_status_shows_who_holds_what_and_who_waits(ask):
    for _ in range(3):
        ask("enqueue", "fc/capped", "--tenant", "web", "--payload", "{}")
    code, out, _ = ask("status")
    assert code == 0
    for word in ("fc", "aliyun-fc", "of 20 instances", "capped", "web", "oldest"):
        assert word in out, out
    code, out, _ = ask("status", "--json")
    assert json.loads(out)[0]["name"] == "fc"


def test_a_sidecar_that_is_not_there(ask):
    code, _, err = ask("status", "--url", "http://127.0.0.1:1")
    assert code == 75
    assert "127.0.0.1:1" in err


@pytest.mark.parametrize("command", [("status",), ("enqueue", "fc/f"), ("dead", "list")])
@pytest.mark.parametrize(
    "url", ["127.0.0.1:8700", "ftp://h", "http://", "http://h:99999", "http://..", "http://u:p@h", "unix:s"]
)  # fmt: skip
def test_no_url_at_all_is_a_matter_of_usage(command, url, capfd):
    assert run([*command, "--url", url]) == 64
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert "expected" in err or "not a URL" in err or "do not belong" in err


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", b"to\x00ken\n", None])
def test_a_token_file_without_a_token_is_a_matter_of_usage(content, tmp_path, capfd):
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    assert run(["status", "--token-file", str(path)]) == 64
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert "token" in err


def test_the_first_token_of_a_file_is_shown(ask, tmp_path):
    path = tmp_path / "tokens"
    path.write_text("  first\nsecond\n")
    assert ask("status", "--token-file", path)[0] == 0
