"""The unit for systemd: read by systemd itself, and held to what the program really does."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dispatcher.cli import Code
from dispatcher.config import ServerSettings

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "dispatcher.service"


@pytest.fixture
def installed(tmp_path):
    """The unit as systemd would read it, with a program that exists."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace("/opt/dispatcher/bin/dispatcher", "/bin/true"))
    return path


def test_systemd_understands_every_line(installed):
    done = subprocess.run(
        ["systemd-analyze", "verify", installed], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_finds_it_hardened(installed):
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", installed],
        capture_output=True,
        text=True,
        check=True,
        env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
    )
    (exposure,) = re.findall(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert float(exposure) <= 1.5


def test_what_it_says_of_the_program_is_so():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read_string(UNIT.read_text())
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert int(service["TimeoutStopSec"]) > ServerSettings().drain_max_s + 10
    prevents = {int(code) for code in service["RestartPreventExitStatus"].split()}
    assert prevents == {Code.USAGE, Code.CONFIG}
