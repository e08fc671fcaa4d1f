"""Log lines: each has the stable name of its event, and says whose it is where that is known."""

import ast
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import dispatcher
from dispatcher.service import JsonLines, configure_logging

PACKAGE = Path(dispatcher.__file__).parent
LEVELS = {"info", "warning", "error", "exception"}
EVENT = re.compile(r"(%s|[a-z]+(_[a-z]+)*): ")


def messages() -> Iterator[tuple[str, str]]:
    """Yield the place and the text of every line that the package logs."""
    for path in PACKAGE.rglob("*.py"):
        if "emulator" in path.parts or "demo" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="logger" | "_logger"), attr=level),
                    args=[ast.Constant(value=str(text)), *_],
                ) if level in LEVELS:
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", text


def test_every_line_begins_with_the_name_of_its_event():
    found = list(messages())
    assert len(found) > 20
    nameless = [(place, text) for place, text in found if not EVENT.match(text)]
    assert nameless == []


@pytest.fixture
def line():
    def line(message: str, *args: object, **extra: object) -> dict[str, object]:
        record = logging.makeLogRecord(
            {"name": "dispatcher.x", "levelno": 20, "levelname": "INFO", "msg": message,
             "args": args, **extra}
        )  # fmt: skip
        text = JsonLines().format(record)
        assert "\n" not in text
        found = json.loads(text)
        assert isinstance(found, dict)
        return found

    return line


def test_a_line_names_its_event_and_whose_it_is(line):
    found = line("send_failed: after %d s", 3, invocation="i1", account="cn", function="f")
    assert found["event"] == "send_failed"
    assert found["message"] == "after 3 s"
    assert (found["invocation"], found["account"], found["function"]) == ("i1", "cn", "f")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["ts"])


def test_nobody_can_begin_a_line_of_his_own(line):
    found = line("paused: %s", 'x\r\n{"event": "forged"}\u2028\x1b[31m')
    assert found["event"] == "paused"
    assert "forged" in found["message"]


def test_what_is_not_known_is_left_out(line):
    assert set(line("ready: now")) == {"ts", "level", "logger", "event", "message"}


def test_what_others_say_is_left_out_where_a_line_of_ours_says_it(capsys, monkeypatch):
    others = [logging.getLogger(name) for name in ("aiohttp.server", "credentials")]
    root = logging.getLogger()
    levels = [logger.level for logger in (root, *others)]
    monkeypatch.setattr(root, "handlers", [])  # or they would be closed
    try:
        configure_logging(as_json=True)
        for logger in others:
            logger.error("a trace for each malformed request, or missing key")
        logging.getLogger("dispatcher.x").warning("credentials_failed: there are none")
    finally:
        for logger, level in zip((root, *others), levels, strict=True):
            logger.setLevel(level)
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "credentials_failed"
