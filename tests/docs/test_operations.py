import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace

from dispatcher.config import ServerSettings, parse
from dispatcher.core.model import Failure, Invocation, Refused
from dispatcher.engine import Engine
from dispatcher.metrics import make_registry, render
from dispatcher.web import Listener, make_app, make_metrics_app
from tests.engine.rig import ScriptedTransport, rig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
LINES = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
# What looks at the machine, or changes it, is not run by a test.
OF_THE_MACHINE = {
    "cat", "df", "dmesg", "du", "iostat", "journalctl", "kill", "systemctl", "top",
}  # fmt: skip

CONFIG = """
[accounts.cn-prod]
provider = "aliyun-fc"
account_id = "1031234567890123"
region = "cn-shanghai"
quota = 300
headroom = 25
[accounts.cn-prod.functions.resize]
completion = "callback"
hold_max_s = 0.1
"""


def test_every_command_is_of_a_kind_that_is_known():
    kinds = {shlex.split(line)[0] for line in LINES}
    assert kinds == OF_THE_MACHINE | {"export", "curl", "dispatcher", "promtool"}


def test_every_command_is_one_line_of_shell():
    for line in LINES:
        done = subprocess.run(["bash", "-n", "-c", line], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b""), line


def test_links_lead_somewhere():
    headings = {
        re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]*)\)", PAGE):
        path, _, anchor = target.partition("#")
        assert not path or (ROOT / "docs" / path).is_file(), target
        assert not anchor or anchor in headings, target


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(deploy/[^`]+)`", PAGE))))
def test_files_exist(path):
    assert (ROOT / path).is_file()


def test_the_configuration_for_traces_is_one():
    (text,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert parse(text, base=ROOT).tracing.endpoint == "http://127.0.0.1:4318"


def test_every_alert_is_explained_in_the_same_order():
    sections = re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]
    assert len(sections) > 20
    for section in sections:
        words = re.findall(r"^\*\*(It means|Look at|Do)\*\*", section, re.MULTILINE)
        if "**Look at** and **do**" in section:
            words = [*words[:2], "Do"]
        assert words == ["It means", "Look at", "Do"], section.splitlines()[0]


@pytest.mark.real_time
@pytest.mark.slow
async def test_commands_do_what_the_page_says(tmp_path, monkeypatch):
    """Run every command that asks the dispatcher, and see that it says something."""
    missing = [tool for tool in ("bash", "curl", "jq") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {' '.join(missing)}")
    program = tmp_path / "dispatcher"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m dispatcher "$@"\n')
    program.chmod(0o755)
    (tmp_path / "dispatcher.toml").write_text(CONFIG)
    (tmp_path / "token").write_text("none-is-asked-for-on-loopback\n")
    transport = ScriptedTransport()
    refused = Refused(Failure("refused", "no such function", "FunctionNotFound", 404))
    transport.script = [refused, refused]
    async with rig(parse(CONFIG, base=ROOT), transport=transport) as running:
        dead = await _one_in_every_state(running.engine)
        async with _face(running.engine) as (main, apart):
            monkeypatch.setenv("DISPATCHER_URL", f"http://{main}")
            monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
            here = {
                "curl -s ": "curl -sS --fail-with-body ",
                "/etc/dispatcher/": f"{tmp_path}/",
                "/run/secrets/": f"{tmp_path}/",
                " /tmp/": f" {tmp_path}/",
                "127.0.0.1:8701": apart,
                "EXAMPLE-ID": dead,
            }
            for line in _to_run():
                # In one go, since what is put in may look like what is to be replaced.
                pattern = "|".join(map(re.escape, here))
                command = re.sub(pattern, lambda found: here[found[0]], line)
                done = await anyio.run_process(
                    ["bash", "-o", "pipefail", "-c", command], check=False, cwd=ROOT
                )
                assert done.returncode == 0, (line, done.stdout + done.stderr)
                if " > " not in line and not _changes_something(line):
                    assert done.stdout.strip(), (line, "says nothing")


async def _one_in_every_state(engine: Engine) -> str:
    """Have something to show for every question; return the id of a dead letter."""
    call = Invocation(account="cn-prod", function="resize")
    dead = await engine.enqueue(call).ended()
    await engine.enqueue(call).ended()
    uncertain = await engine.enqueue(call).ended()
    engine.pause("cn-prod")
    expired = await engine.enqueue(replace(call, expires_s=0.05)).ended()
    engine.resume("cn-prod")
    await engine.enqueue(replace(call, function="other")).accepted()
    await engine.enqueue(replace(call, delay_s=600)).accepted()
    assert (dead.state, uncertain.state, expired.state) == ("dead", "uncertain", "expired")
    return dead.id


def _to_run() -> list[str]:
    """Return each command once that asks the dispatcher; those that change something come last."""
    lines = [line for line in LINES if shlex.split(line)[0] in {"curl", "dispatcher"}]
    return sorted(dict.fromkeys(lines), key=_changes_something)


def _changes_something(line: str) -> bool:
    return "-X POST" in line or " redrive " in line


@asynccontextmanager
async def _face(engine: Engine) -> AsyncIterator[tuple[str, str]]:
    """Serve the API and the metrics of *engine*; give both addresses."""
    registry = make_registry(engine.statistics)

    async def metrics(accept: str | None) -> tuple[bytes, str]:
        return await render(registry, accept)

    server = ServerSettings()
    main = Listener(make_app(engine, server, metrics=metrics), ["127.0.0.1:0"])
    apart = Listener(make_metrics_app(server, metrics), ["127.0.0.1:0"])
    async with main, apart:
        yield main.addresses[0], apart.addresses[0]
