"""The page on switching: what it says to SDKs and to the sidecar makes them meet."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import fc2
import pytest
from alibabacloud_tea_openapi.models import Config

from dispatcher.config import parse
from tests.web.dropins import CLIENTS, KEY, SECRET, sidecar

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "switching.md").read_text(encoding="utf-8")
ADDRESS = "127.0.0.1:8700"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_every_language_is_known_here():
    # What is not run here cannot be without its SDK; the values are the same in all languages.
    shown = set(re.findall(r"^```(\w+)$", PAGE, re.MULTILINE))
    assert shown == {"toml", "sh", "python", "java", "go", "js", "csharp"}
    for language in ("java", "go", "js", "csharp"):
        for block in blocks(language):
            assert ADDRESS in block
            assert "LOCALRESEARCH" in block


def test_the_sidecars_side_is_a_configuration(tmp_path: Path):
    (text,) = blocks("toml")
    secret = tmp_path / "research"
    secret.write_text("made up\n")
    secret.chmod(0o600)
    account = (
        '[accounts.cn-prod]\nprovider = "aliyun-fc"\naccount_id = "1"\nregion = "r"\nquota = 3\n'
    )
    settings = parse(text.replace("/run/secrets", str(tmp_path)) + account, base=tmp_path)
    assert settings.clients["research-service"].access_key_id == "LOCALRESEARCH"
    assert f'access_key_id = "{KEY}"' in CLIENTS, "what the test below puts in its stead"


@pytest.mark.real_time
async def test_python_and_the_command_line_meet_the_sidecar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_PAGER", "")
    exports, command = blocks("sh")
    of_boto3, of_fc = blocks("python")
    async with sidecar(tmp_path, "aws") as held:
        address = held.url.removeprefix("http://")

        def here(text: str) -> str:
            return text.replace(ADDRESS, address).replace("LOCALRESEARCH", KEY)

        def ask() -> None:
            names: dict[str, Any] = {"boto3": boto3, "secret": SECRET}
            client = eval(here(of_boto3).partition("\n")[2], names)
            reply = client.invoke(FunctionName="f", InvocationType="Event")
            assert reply["StatusCode"] == 202
            script = f"{here(exports).replace('...', SECRET)}\n{here(command)}"
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            done = subprocess.run(
                ["bash", "-euc", script],
                env={**os.environ, "PATH": path},
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert '"StatusCode": 202' in done.stdout

        assert shutil.which("bash"), "bash is needed"
        await asyncio.to_thread(ask)
        assert sum(held.engine.accepted.values()) == 2
        # The SDKs of Function Compute take these values as they are; they are asked in tests/real.
        names = {"Config": Config, "fc2": fc2, "secret": SECRET}
        for expression in re.split(r"^(?=Config|fc2)", here(of_fc), flags=re.MULTILINE)[1:]:
            made = eval(expression.partition("\n\n")[0], dict(names))
            assert address in (made.endpoint if isinstance(made, Config) else made.host)
