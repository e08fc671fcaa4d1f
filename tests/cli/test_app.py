import subprocess
import sys

import pytest

from dispatcher import __version__
from dispatcher.cli import run

GOOD = """
[accounts.a]
provider = "aws-lambda"
account_id = "123456789012"
region = "us-east-1"
quota = 100
headroom = 10
functions = { "*" = { duration_s = 2 } }
"""

BAD = """
[server]
listn = ["127.0.0.1:8700"]

[accounts.a]
provider = "aws-lambda"
account_id = "123456789012"
region = "us-east-1"
quota = "many"
"""


def test_check_says_what_the_limits_come_to_and_what_is_an_estimate(tmp_path, capsys):
    path = tmp_path / "d.toml"
    path.write_text(GOOD)
    assert run(["check", "--config", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "at most 90 instances" in out
    assert "duration (an estimate)" in out
    assert "warning: accounts.a" in err


def test_check_names_every_error_by_its_path(tmp_path, capsys):
    path = tmp_path / "d.toml"
    path.write_text(BAD)
    assert run(["check", "--config", str(path)]) == 78
    err = capsys.readouterr().err
    assert 'server.listn: unknown key; did you mean "listen"?' in err
    assert "accounts.a.quota" in err


def test_a_configuration_that_is_not_there(tmp_path, capsys):
    for command in ("check", "serve", "emulate"):
        assert run([command, "--config", str(tmp_path / "none")]) == 78
        assert "none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--help"], 0),
        (["serve", "--help"], 0),
        (["dead", "list", "--help"], 0),
        (["--version"], 0),
        (["nonsense"], 64),
        (["serve"], 64),
        (["emulate", "--listen", "nowhere"], 64),
        (["emulate", "--listen", "unix:/x"], 64),
        (["serve", "--config", "x", "--log", "loud"], 64),
    ],
)
def test_usage(args, code, capsys):
    assert run(args) == code


def test_help_teaches(capsys):
    run(["--help"])
    out = capsys.readouterr().out
    for command in ("serve", "check", "emulate", "demo", "enqueue", "status", "dead"):
        assert command in out
    run(["--version"])
    assert capsys.readouterr().out.strip() == f"dispatcher {__version__}"


def test_the_emulators_configuration_is_judged_too(tmp_path, capsys):
    path = tmp_path / "c.toml"
    path.write_text("[accounts.a]\nquota = 1\n")
    assert run(["emulate", "--config", str(path)]) == 78
    assert "accounts.a" in capsys.readouterr().err


def test_python_m_dispatcher_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "dispatcher", "--version"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.strip() == f"dispatcher {__version__}"
