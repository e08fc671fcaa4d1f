"""What a newcomer types."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(
    shutil.which("make") is None or shutil.which("bash") is None, reason="make or bash is missing"
)


def test_make_alone_says_what_there_is():
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    offered = re.findall(r"^make (\w+)", done.stdout, re.MULTILINE)
    targets = re.findall(r"^\.PHONY: (\w+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert offered[:2] == ["demo", "test"]
    assert set(offered) == set(targets) - {"help"}


def test_an_old_python_is_named_and_nothing_is_made(tmp_path: Path):
    for name in ("bash", "env"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1"\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(
        [ROOT / ".ci" / "environment", tmp_path / "venv", ROOT / "requirements" / "run.txt"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Python 3.11 or newer" in done.stderr
    assert "Found: Python 3.9.1" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("script", ["run", "environment", "image"])
def test_scripts_can_be_run(script: str):
    path = ROOT / ".ci" / script
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True)
