"""Many invocations in one request."""

import json
from typing import Any

import pytest

from dispatcher import errors
from dispatcher.web import ndjson
from dispatcher.web.problems import TYPE_PREFIX, Refusal
from tests.web.fakes import FakeEngine
from tests.web.test_api import JOB, refused

NDJSON = {"Content-Type": "application/x-ndjson"}
GOOD = json.dumps(JOB).encode()


async def post(face, body: bytes) -> list[dict[str, Any]]:
    async with face.post("/v1/invocations", data=body, headers=NDJSON) as response:
        text = await response.read()
        assert response.status == 200, text
        assert response.content_type == "application/x-ndjson"
    assert not text or text.endswith(b"\n")
    return [json.loads(line) for line in text.splitlines()]


async def test_a_line_out_for_each_line_in_and_one_commit(face, engine):
    lines = [json.dumps({**JOB, "payload": i}).encode() for i in range(50)]
    answers = await post(face, b"\n".join(lines) + b"\n")
    assert [answer["id"] for answer in answers] == [f"i{i:06d}" for i in range(50)]
    assert [taken.payload for taken in engine.invocations] == [b"%d" % i for i in range(50)]
    assert engine.commits == [50]


async def test_good_lines_are_accepted_whatever_the_others_are(face, engine):
    bad = {
        b'{"account":"nobody","function":"f"}': (422, "/account"),
        b'{"account":"cn"}': (422, "/function"),
        b'{"account":"cn","function":"f","payload":"\xff"}': (400, "/payload"),
        b'{"account":"\xff","function":"f"}': (400, None),
        b"not json": (400, None),
        b"": (400, None),
        b" \t\r": (400, None),
        b"[]": (422, ""),
        b'{"account":"cn","function":"f","payload":"%b"}' % (b"x" * 200_000): (413, "/payload"),
        b'{"account":"cn","function":"f","payload_base64":"%b"}' % (b"AAAA" * 50_000): (
            413,
            "/payload_base64",
        ),
    }
    lines = [line for one in bad for line in (GOOD, one)]
    answers = await post(face, b"\n".join(lines) + b"\n")
    assert [answer["id"] for answer in answers[::2]] == [f"i{i:06d}" for i in range(len(bad))]
    for answer, (status, pointer) in zip(answers[1::2], bad.values(), strict=True):
        assert list(answer) == ["error"]
        assert answer["error"]["status"] == status
        assert answer["error"].get("pointer") == pointer
        assert answer["error"]["type"].startswith(TYPE_PREFIX)
    assert len(engine.commits) == 1


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (b"", 0),
        (b"\n", 1),
        (GOOD, 1),
        (GOOD + b"\n", 1),
        (GOOD + b"\r\n" + GOOD + b"\r\n", 2),
        (GOOD + b"\n\n" + GOOD, 3),
        (GOOD + b"\n\n", 2),
        (b"\n\n\n", 3),
    ],
)
async def test_every_line_counts_and_the_last_needs_no_end(face, engine, body, lines):
    answers = await post(face, body)
    assert len(answers) == lines
    assert len(engine.invocations) == body.count(GOOD)


async def test_a_repeated_key_within_one_request_is_the_same_invocation(face, engine):
    line = json.dumps({**JOB, "idempotency_key": "k"}).encode()
    first, second = await post(face, line + b"\n" + line)
    assert first["id"] == second["id"]
    assert [first["duplicate"], second["duplicate"]] == [False, True]


async def test_a_full_queue_is_said_on_each_line(face, engine):
    engine.refuses = errors.QueueFull("full", retry_after_s=1)
    answers = await post(face, GOOD + b"\n" + GOOD)
    assert [answer["error"]["status"] for answer in answers] == [429, 429]


async def test_a_journal_that_fails_is_said_on_each_line(face, engine):
    engine.journal_error = errors.JournalError("gone")
    answers = await post(face, GOOD + b"\nx\n" + GOOD)
    assert [answer["error"]["status"] for answer in answers] == [503, 400, 503]


async def test_a_key_in_the_header_belongs_to_no_line(face, engine):
    async with face.post(
        "/v1/invocations", data=GOOD, headers={**NDJSON, "Idempotency-Key": "k"}
    ) as response:
        assert (await refused(response, 422))["parameter"] == "Idempotency-Key"
    assert not engine.invocations


async def test_too_many_lines_are_refused_before_any_is_accepted(face, engine):
    body = (GOOD + b"\n") * 2 + b"\n" * (ndjson.LINES_MAX - 1)
    async with face.post("/v1/invocations", data=body, headers=NDJSON) as response:
        problem = await refused(response, 413)
    assert str(ndjson.LINES_MAX) in problem["detail"]
    assert not engine.invocations


async def test_the_most_lines_are_taken_in_commits_of_bounded_size():
    engine = FakeEngine()
    body = (GOOD + b"\n") * (ndjson.COMMIT_LINES + 5)
    answer = await ndjson.accept(engine, body)
    assert answer.count(b"\n") == ndjson.COMMIT_LINES + 5
    assert engine.commits == [ndjson.COMMIT_LINES, 5]
    with pytest.raises(Refusal):
        await ndjson.accept(engine, b"\n" * (ndjson.LINES_MAX + 1))


async def test_others_get_their_turn_while_lines_are_read():
    import asyncio

    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    watching = asyncio.create_task(others())
    await ndjson.accept(FakeEngine(), (GOOD + b"\n") * (ndjson.TURN_LINES * 5))
    watching.cancel()
    assert turns >= 5
