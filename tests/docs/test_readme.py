"""The README: what a newcomer reads first works as it stands there."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest

import dispatcher.embed  # noqa: F401 -- a first import reads files, and not inside a loop
from tests import sidecar

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")
CLOUD = """
[accounts.main]
provider = "aliyun-fc"
account_id = "1031234567890123"
region = "cn-shanghai"
quota = 300
"""
HERE = """
endpoint = "{cloud}"
credentials = {{ source = "static", access_key_id = "AK", access_key_secret_file = "secret" }}
{more}
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def config(cloud: str, more: str = "") -> str:
    """Return the configuration of the page, at a cloud that is at hand."""
    (text,) = blocks("toml")
    return text + HERE.format(cloud=cloud, more=more)


@pytest.mark.real_time
@pytest.mark.slow
def test_the_quick_start_works_as_it_stands_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    missing = [tool for tool in ("bash", "curl") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {' '.join(missing)}")
    script = blocks("sh")[-1]
    check, serve, curl = (part.strip() for part in re.split(r"\n(?=dispatcher serve|curl)", script))
    assert serve == "dispatcher serve --config dispatcher.toml"
    curl, _, said = curl.partition("\n# ")
    program = tmp_path / "dispatcher"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m dispatcher "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def run(command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    more = '[server]\nlisten = ["127.0.0.1:0"]\n[metrics]\nlisten = ""\n'
    with sidecar.cloud(tmp_path, CLOUD) as cloud:
        path = sidecar.write_config(tmp_path, config(cloud, more))
        assert "good" in run(check)
        with sidecar.Sidecar(path) as side:
            answer = json.loads(run(curl.replace("http://127.0.0.1:8700", side.url)))
            shown = json.loads(re.sub(r"^202 (\{.*\}): .*", r"\1", said))
            assert answer.keys() == shown.keys()
            assert {**answer, "id": shown["id"]} == shown
            assert re.fullmatch("i[a-z0-9]{26}", answer["id"])
            assert side.stop() == 0


def test_it_can_be_installed_as_it_says(tmp_path: Path):
    (asked,) = re.findall(r"^pip install (\S+)", blocks("sh")[1], re.MULTILINE)
    # Into a folder apart: with --prefix pip would take away what is installed for the tests.
    # What it needs is installed here; that the names of the extras are right is for the lock to say.
    offline = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target")
    command = [sys.executable, "-m", "pip", "install", *offline, str(tmp_path), asked.strip("'")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    program = (tmp_path / "bin" / "dispatcher").read_text()
    assert "from dispatcher.cli import main" in program


@pytest.mark.real_time
@pytest.mark.slow
async def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (example,) = blocks("python")
    imports, waiting, blocking = re.split(r"\n\n(?=async with|with )", example)
    program = (
        f"{imports}\n"
        f"async def waiting():\n{indent(waiting, '    ')}\n    return ended\n"
        f"def blocking():\n{indent(blocking, '    ')}\n        return dispatcher.accounts()\n"
    )
    names: dict[str, Any] = {}
    exec(program, names)
    with sidecar.cloud(tmp_path, CLOUD) as cloud:
        sidecar.write_config(tmp_path, config(cloud))
        monkeypatch.chdir(tmp_path)
        ended = await names["waiting"]()
        assert (ended.state, ended.error) == ("succeeded", None)
        (account,) = await asyncio.to_thread(names["blocking"])
        assert account.name == "cn-prod"


def test_the_commands_of_make_are_there():
    targets = re.findall(r"^make (\w+)", blocks("sh")[0], re.MULTILINE)
    assert targets == ["demo", "test"]
    text = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", text, re.MULTILINE) for target in targets)


def test_all_that_it_points_to_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / target).is_file(), target
    measured = PAGE.partition("## Measured")[2].partition("\n## ")[0]
    for source in re.findall(r"`((?:tests|benchmarks)/[^`]+)`", measured):
        assert (ROOT / source).exists(), source
