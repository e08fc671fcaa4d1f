"""The page on the HTTP API: its commands are run, its answers are compared with real ones."""

import json
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import indent
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from dispatcher.client import calls
from dispatcher.config import ServerSettings, parse
from dispatcher.core import callback
from dispatcher.core.model import Failure, Invocation, Refused, State
from dispatcher.engine import Engine
from dispatcher.metrics import make_registry, render
from dispatcher.web import Limits, Listener, bodies, make_app, ndjson, problems
from dispatcher.web.wire import NewInvocation
from tests.engine.rig import ScriptedTransport, rig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
SECTIONS = {
    section.partition("\n")[0]: section
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
}
CONFIG = """
[accounts.cn-prod]
provider = "aliyun-fc"
account_id = "1031234567890123"
region = "cn-shanghai"
quota = 300
headroom = {headroom}
[accounts.cn-prod.functions.resize]
completion = "callback"
"""
JOB = Invocation(account="cn-prod", function="resize", tenant="research")


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


# -- What is run ----------------------------------------------------------------------------------


async def until_running(engine: Engine, invocation_id: str) -> None:
    while (await engine.get(invocation_id)).record.state is not State.RUNNING:  # noqa: ASYNC110 -- nobody tells
        await anyio.sleep(0.005)


async def waiting(engine: Engine) -> str:
    """Return one that waits for another to end."""
    await until_running(engine, (await engine.enqueue(JOB).accepted()).id)
    return (await engine.enqueue(JOB).accepted()).id


async def running(engine: Engine) -> str:
    await engine.enqueue(replace(JOB, delay_s=600.0)).accepted()
    accepted = await engine.enqueue(JOB).accepted()
    await until_running(engine, accepted.id)
    return accepted.id


async def dead(engine: Engine) -> str:
    for _ in range(2):
        end = await engine.enqueue(replace(JOB, tenant="default")).ended()
    return end.id


async def nothing(_: Engine) -> str:
    return ""


# For each section what there must be, the headroom that leaves so many instances, how many
# sends are refused, and the statuses of the answers to its commands.
RUN = {
    "Enqueue an invocation": (nothing, 25, 0, [202, 202, 202]),
    "Enqueue many": (nothing, 25, 0, [200]),
    "Look an invocation up": (waiting, 299, 0, [200]),
    "List invocations": (dead, 25, 2, [200]),
    "Cancel": (waiting, 299, 0, [200]),
    "Tell an end": (running, 25, 0, [204]),
    "Redrive": (dead, 25, 2, [202, 202]),
    "Accounts": (running, 25, 0, [200, 204, 204, 204, 204]),
    "Change an account": (running, 25, 0, [200, 422]),
    "Operation": (nothing, 25, 0, [200, 200, 200, 200]),
    "Errors": (nothing, 25, 0, [422]),
}


def test_every_section_with_commands_is_run():
    assert {name for name, section in SECTIONS.items() if blocks(section, "sh")} == set(RUN)


@pytest.mark.real_time
@pytest.mark.parametrize("name", RUN)
async def test_commands_are_answered_as_the_page_says(name):
    missing = [tool for tool in ("bash", "curl") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {' '.join(missing)}")
    prepare, headroom, refusals, statuses = RUN[name]
    transport = ScriptedTransport()
    refused = Refused(Failure("refused", "no such function", "FunctionNotFound", 404))
    transport.script = [refused] * refusals
    settings = parse(CONFIG.format(headroom=headroom), base=ROOT)
    async with rig(settings, transport=transport) as rigged, face(rigged.engine) as address:
        invocation_id = await prepare(rigged.engine)
        token = callback.token(rigged.engine.callback_key, invocation_id, 1)
        answers = await run(SECTIONS[name], address, {"ID": invocation_id, "TOKEN": token})
    assert [status for status, _ in answers] == statuses
    shown = [
        json.loads(text.rpartition("\n\n")[2] if language == "http" else text)
        if name != "Enqueue many"
        else [json.loads(line) for line in text.splitlines()]
        for language in ("http", "json")
        for text in blocks(SECTIONS[name], language)
    ]
    given = [
        [json.loads(line) for line in text.splitlines()] if name == "Enqueue many" else text
        for _, text in answers
    ]
    for example in shown:
        assert any(
            alike(example, one if isinstance(one, list) else parsed(one)) for one in given
        ), (
            example,
            given,
        )


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


async def run(section: str, address: str, names: dict[str, str]) -> list[tuple[int, str]]:
    """Run the commands of a section; return status and content of each answer."""
    answers = []
    for block in blocks(section, "sh"):
        for command in re.split(r"^(?=curl )", block, flags=re.MULTILINE)[1:]:
            script = command.replace("127.0.0.1:8700", address)
            script = script.replace("curl -i ", "curl ")
            script = script.replace("curl ", "curl -sS -w '\\n%{http_code}' ", 1)
            done = await anyio.run_process(
                ["bash", "-c", script], env={**os.environ, **names}, check=False
            )
            assert done.returncode == 0, indent(done.stderr.decode(), script)
            content, _, status = done.stdout.decode().rpartition("\n")
            answers.append((int(status), content))
    return answers


@asynccontextmanager
async def face(engine: Engine) -> AsyncIterator[str]:
    registry = make_registry(engine.statistics)

    async def metrics(accept: str | None) -> tuple[bytes, str]:
        return await render(registry, accept)

    app = make_app(engine, ServerSettings(), metrics=metrics)
    async with Listener(app, ["127.0.0.1:0"]) as listener:
        yield listener.addresses[0]


def alike(example: Any, given: Any) -> bool:
    """Tell whether both have the same members of the same types, and the same words."""
    if isinstance(example, dict) and isinstance(given, dict):
        return list(example) == list(given) and all(
            alike(value, given[name]) for name, value in example.items()
        )
    if isinstance(example, list) and isinstance(given, list):
        return bool(given) and all(alike(*pair) for pair in zip(example, given, strict=False))
    if isinstance(example, bool | None) or isinstance(given, bool | None):
        return example is given
    if isinstance(example, str) and isinstance(given, str):
        return masked(example) == masked(given)
    return isinstance(example, int | float) and isinstance(given, int | float)


def masked(text: str) -> str:
    """Hide what is different every time."""
    text = re.sub(r"\bi[0-9a-v]{26}\b", "ID", text)
    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "TIME", text)


def test_what_differs_is_not_alike():
    assert alike({"a": [1, "x"], "b": None}, {"a": [2.5, "x"], "b": None})
    others: list[Any] = [
        {"a": [1]},
        {"a": ["x"], "b": None},
        {"b": None, "a": [1, "x"]},
        {"a": [], "b": None},
        {"a": [1, "y"], "b": None},
        {"a": [1, "x"], "b": 0},
    ]
    for other in others:
        assert not alike({"a": [1, "x"], "b": None}, other)


# -- What is said ---------------------------------------------------------------------------------


def test_every_problem_has_its_row():
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", SECTIONS["Errors"], re.MULTILINE)
    kinds = [*problems._OF_ERRORS.values(), *problems._OF_HTTP.values()]
    kinds += [problems._DEFECT, problems._NOT_READY]
    assert {(int(status), word) for status, word in rows} == {
        (kind.status, kind.word) for kind in kinds
    }
    assert rows == sorted(rows, key=lambda row: row[0])


def test_every_field_has_its_row():
    rows = re.findall(r"^\| `(\w+)` \|", SECTIONS["Enqueue an invocation"], re.MULTILINE)
    assert rows == list(NewInvocation.__struct_fields__)


def test_limits_are_those_of_the_code():
    def words(number: int) -> str:
        return f"{number:,}".replace(",", " ")

    many = " ".join(SECTIONS["Enqueue many"].split())
    assert f"at most {words(ndjson.LINES_MAX)} lines" in many
    assert f"{ndjson.BODY_MAX_BYTES // 2**20} MiB" in many
    assert f"{words(ndjson.COMMIT_LINES)} lines share one commit" in many
    limits, who = Limits(), " ".join(SECTIONS["Who may ask"].split())
    further = f"and a second for each further {limits.body_min_per_s // 1024} KiB"
    for sentence in (
        f"idle for {limits.idle_max_s:g} s",
        f"{limits.head_max_s:g} s for the head",
        f"within {limits.body_grace_s:g} s {further}",
        f"Beyond {limits.connections_max} connections",
    ):
        assert sentence in who
    assert bodies.PAYLOAD_MAX_BYTES < ndjson.BODY_MAX_BYTES
    assert calls.DEFAULT_URL in PAGE


def test_links_lead_somewhere():
    headings = {
        re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]*)\)", PAGE):
        path, _, anchor = target.partition("#")
        assert not path or (ROOT / "docs" / path).is_file(), target
        assert not anchor or anchor in headings, target


async def test_the_python_example_runs(monkeypatch):
    [example] = blocks(SECTIONS["From Python"], "python")
    body = example.partition("async with")
    program = f"{body[0]}\nasync def main():\n{indent(''.join(body[1:]), '    ')}\n    return end\n"
    transport = ScriptedTransport()
    transport.script = [Refused(Failure("refused", "no such function", "FunctionNotFound", 404))]
    settings = parse(CONFIG.format(headroom=25), base=ROOT)
    async with rig(settings, transport=transport) as rigged, face(rigged.engine) as address:
        names: dict[str, Any] = {}
        exec(program.replace("127.0.0.1:8700", address), names)
        end = await names["main"]()
    assert (end.state, end.error.reason) == ("dead", "FunctionNotFound")
