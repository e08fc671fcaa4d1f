"""Function Compute's wire formats, byte by byte: what no SDK of ours sends, but others do."""

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec import json
from yarl import URL

from dispatcher.core.model import State
from tests.web.dropins import FC_ID, KEY, SECRET, DropInSidecar, sidecar, until

pytestmark = pytest.mark.real_time

FC3 = "/2023-03-30/functions/{}"
FC2021 = "/2021-04-06/services/svc/functions/{}"
FC2016 = "/2016-08-15/services/svc/functions/{}"
LATER: Any = {"x-fc-invocation-type": "Async"}


@pytest.fixture
async def held(tmp_path: Path) -> AsyncIterator[DropInSidecar]:
    async with sidecar(tmp_path, None) as opened:
        yield opened


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


async def send(
    session: aiohttp.ClientSession,
    held: DropInSidecar,
    path: str,
    body: Any = b"{}",
    method: str = "POST",
    **headers: Any,
) -> tuple[int, Any, bytes]:
    url = URL(held.url + path, encoded=True)
    async with session.request(
        method, url, data=body, headers=headers, skip_auto_headers=["Content-Type"]
    ) as reply:
        return reply.status, reply.headers, await reply.read()


@pytest.mark.parametrize(
    ("path", "function", "qualifier"),
    [
        (FC3.format("f"), "f", None),
        (FC3.format("svc$f"), "svc$f", None),
        (FC3.format("svc%24f"), "svc$f", None),
        (FC2021.format("f"), "svc$f", None),
        (FC2016.format("f"), "svc$f", None),
        (FC2016.format("f").replace("svc", "svc.prod"), "svc$f", "prod"),
    ],
)
async def test_a_job_is_in_the_journal_when_it_is_answered(
    held, session, path, function, qualifier
):
    held.engine.pause("fc")
    status, headers, body = await send(session, held, f"{path}/invocations", **LATER)
    assert (status, body) == (202, b"")
    assert headers["Content-Length"] == "0"
    assert "Content-Type" not in headers
    assert headers["X-Fc-Async-Task-Id"] == headers["X-Fc-Request-Id"]
    record = await held.record(headers["X-Fc-Request-Id"])
    assert (record.function, record.qualifier, record.account) == (function, qualifier, "fc")


async def test_bodies_may_come_in_chunks_and_hosts_without_a_port(held, session):
    async def chunks() -> AsyncIterator[bytes]:
        yield b"he"
        yield b"llo"

    path = FC3.format("f") + "/invocations"
    status, headers, body = await send(session, held, path, chunks(), Host="127.0.0.1")
    assert (status, body) == (200, b"hello")
    assert headers["X-Fc-Request-Id"]


async def test_a_delay_is_kept_here_and_options_travel_on(held, session):
    path = FC3.format("f") + "/invocations"
    fields = {"x-fc-async-delay": "200", "x-fc-log-type": "Tail", "x-fc-trace-id": "t"}
    _, headers, _ = await send(session, held, path, **LATER, **fields)
    record = await held.record(headers["X-Fc-Request-Id"])
    assert record.due_ms - record.accepted_ms == 200_000
    assert record.options == {"log_type": "Tail", "trace_id": "t"}


@pytest.mark.parametrize("path", [FC3, FC2021, FC2016])
@pytest.mark.parametrize(
    ("rest", "headers", "status", "code"),
    [
        ("/invocations", {"x-fc-invocation-type": "Later"}, 400, "InvalidArgument"),
        ("/invocations", {**LATER, "x-fc-async-delay": "-1"}, 400, "InvalidArgument"),
        ("/invocations", {**LATER, "x-fc-async-delay": "9999999999"}, 400, "InvalidArgument"),
        ("/invocations", {"x-fc-log-type": "All"}, 400, "InvalidArgument"),
        ("/invocations?qualifier=a%20b", {}, 400, "InvalidArgument"),
        ("", {}, 400, "PathNotSupported"),
    ],
)
async def test_what_is_wrong_is_told_in_words_of_the_version(
    held, session, path, rest, headers, status, code
):
    found, given, body = await send(session, held, path.format("f") + rest, **headers)
    fields = json.decode(body)
    key = "ErrorCode" if "2016" in path else "Code"
    assert (found, fields[key]) == (status, code)
    assert fields["RequestId"] == given["X-Fc-Request-Id"]


@pytest.mark.parametrize("name", ["%E4%B8%AD", "a%2Fb", "a%20b", "x" * 129])
async def test_what_is_no_name_is_refused(held, session, name):
    status, _, body = await send(session, held, FC3.format(name) + "/invocations", **LATER)
    assert (status, json.decode(body)["Code"]) == (400, "InvalidArgument")


@pytest.mark.parametrize(
    ("path", "task_header", "tasks", "stop", "key"),
    [
        (FC3, "x-fc-async-task-id", "async-tasks", "/stop", "taskId"),
        (FC2021, "x-fc-stateful-async-invocation-id", "stateful-async-invocations", "", "invocationId"),
        (FC2016, "x-fc-stateful-async-invocation-id", "stateful-async-invocations", "", "invocationId"),
    ],
)  # fmt: skip
async def test_a_chosen_task_id_is_known_and_not_given_twice(
    held, session, path, task_header, tasks, stop, key
):
    held.engine.pause("fc")
    base = path.format("f")
    chosen = {**LATER, task_header: "mine"}
    status, headers, _ = await send(session, held, f"{base}/invocations", **chosen)
    assert (status, headers["X-Fc-Async-Task-Id"]) == (202, "mine")
    assert (await send(session, held, f"{base}/invocations", **chosen))[0] == 409
    assert (await send(session, held, f"{base}/invocations", b"x", **chosen))[0] == 409
    where = f"{base}/{tasks}/mine"
    status, _, body = await send(session, held, where, None, "GET")
    assert (status, json.decode(body)[key], json.decode(body)["status"]) == (
        200,
        "mine",
        "Enqueued",
    )
    status, _, body = await send(session, held, f"{base}/{tasks}?limit=5", None, "GET")
    [members] = [value for value in json.decode(body).values() if isinstance(value, list)]
    assert [task[key] for task in members] == ["mine"]
    for _ in range(2):
        status, headers, body = await send(session, held, where + stop, None, "PUT")
        assert status == (200 if stop else 204)
        assert headers["X-Fc-Request-Id"]
    status, _, body = await send(session, held, where, None, "GET")
    assert json.decode(body)["status"] == "Stopped"
    # The invocation's own id is not the task's.
    other = f"{base}/{tasks}/{headers['X-Fc-Request-Id']}"
    assert (await send(session, held, other, None, "GET"))[0] == 404
    # One of another function is not this function's.
    elsewhere = f"{path.format('slow')}/{tasks}/mine"
    assert (await send(session, held, elsewhere, None, "GET"))[0] == 404


async def test_what_cannot_be_stopped_is_told(tmp_path, session):
    more = '[accounts.fc.functions.long]\ncompletion = "duration"\nduration_s = 60\n'
    async with sidecar(tmp_path, None, more=more) as held:
        base = FC3.format("long")
        _, headers, _ = await send(session, held, f"{base}/invocations", **LATER)
        jobs = held.engine.machine.jobs
        await until(lambda: [job.state for job in jobs.values()] == [State.RUNNING])
        where = f"{base}/async-tasks/{headers['X-Fc-Request-Id']}/stop"
        status, _, body = await send(session, held, where, None, "PUT")
        assert (status, json.decode(body)["Code"]) == (412, "PreconditionFailed")


async def test_a_caller_that_hangs_up_while_it_waits_is_forgotten(held, session):
    held.engine.pause("fc")
    path = FC3.format("f") + "/invocations"
    waiting = asyncio.create_task(send(session, held, path))
    await until(lambda: held.engine.account("fc").queued.due == 1)
    waiting.cancel()
    await until(lambda: not held.engine.account("fc").queued.due)


async def test_an_account_is_chosen_by_its_id(tmp_path, session):
    more = '[accounts.two]\nprovider = "aliyun-fc"\naccount_id = "77"\nregion = "cn-hangzhou"\n'
    more += 'quota = 1\ncredentials = {source = "static", access_key_id = "A", '
    more += 'access_key_secret_file = "secret"}\n'
    async with sidecar(tmp_path, None, more=more) as held:
        path = FC2016.format("f") + "/invocations"
        for account_id, account in ((FC_ID, "fc"), ("77", "two")):
            named = {"X-Fc-Account-Id": account_id}
            _, headers, _ = await send(session, held, path, **LATER, **named)
            assert (await held.record(headers["X-Fc-Request-Id"])).account == account
        empty = {"X-Fc-Account-Id": ""}
        assert (await send(session, held, path, **LATER, **empty))[0] == 403


def old_signature(path: str, headers: dict[str, str], body: bytes) -> dict[str, str]:
    headers = {"Date": formatdate(usegmt=True), **headers}
    lines = sorted(
        (name.lower(), value) for name, value in headers.items() if name.startswith("x-fc-")
    )
    text = "\n".join(
        (
            "POST",
            headers.get("Content-MD5", ""),
            headers.get("Content-Type", ""),
            headers["Date"],
            "".join(f"{name}:{value}\n" for name, value in lines) + path,
        )
    )
    digest = hmac.digest(SECRET.encode(), text.encode(), "sha256")
    return {**headers, "Authorization": f"FC {KEY}:{base64.b64encode(digest).decode()}"}


async def test_the_old_signature_with_all_that_old_sdks_send(tmp_path, session):
    body = b"hello"
    path = FC2016.format("f") + "/invocations"
    digest = hashlib.md5(body).hexdigest().encode()
    async with sidecar(tmp_path, "fc") as held:
        for md5 in (digest.decode(), base64.b64encode(digest).decode()):
            fields = {**LATER, "x-fc-account-id": "", "Content-MD5": md5, "Content-Type": "text/x"}
            headers = old_signature(path, fields, body)
            status, _, _ = await send(session, held, path, body, **headers)
            assert status == 202
            status, _, told = await send(session, held, path, b"other", **headers)
            assert (status, json.decode(told)["ErrorCode"]) == (403, "SignatureNotMatch")
        status, _, told = await send(session, held, path, body, **LATER)
        assert (status, json.decode(told)["ErrorCode"]) == (403, "AccessDenied")
