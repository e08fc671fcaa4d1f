"""The HTTP API and its client in front of the real engine, with a cloud that does as it is told."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio
import pytest

from dispatcher.client import Client, RemoteTicket
from dispatcher.core import callback
from dispatcher.core.model import (
    Completion,
    Failure,
    GateKind,
    Invocation,
    Query,
    Refused,
    State,
    Verdict,
)
from dispatcher.errors import (
    Draining,
    Invalid,
    KeyReused,
    NotAllowed,
    NotPossible,
    PayloadTooLarge,
    QueueFull,
)
from dispatcher.web import Listener, make_app
from tests.engine.rig import Rig, hang, rig, settings

JOB = Invocation(account="main", function="f", payload=b"{}")


class Sidecar:
    """A running engine, its address and a client of it."""

    def __init__(self, rig: Rig, url: str, client: Client) -> None:
        self.rig = rig
        self.url = url
        self.client = client

    async def send(
        self, method: str, path: str, body: bytes | None = None, media: str = "application/json"
    ) -> tuple[int, Any, dict[str, str]]:
        """Return status, JSON and headers of the answer."""
        headers = {} if body is None else {"Content-Type": media}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.url + path, data=body, headers=headers) as response,
        ):
            text = await response.text()
            if response.content_type == "application/x-ndjson":
                return response.status, [json.loads(line) for line in text.splitlines()], {}
            return response.status, json.loads(text) if text else None, dict(response.headers)


@asynccontextmanager
async def sidecar(**config: str) -> AsyncIterator[Sidecar]:
    async with rig(settings(**config)) as running:
        app = make_app(running.engine, running.engine.settings.server)
        async with Listener(app, ["127.0.0.1:0"]) as listener:
            url = f"http://{listener.addresses[0]}"
            async with Client(url) as client:
                yield Sidecar(running, url, client)


async def test_an_invocation_from_enqueue_to_its_end():
    async with sidecar() as side:
        status, accepted, headers = await side.send(
            "POST",
            "/v1/invocations",
            b'{"account": "main", "function": "f", "payload": {"a": 1.10}, "tenant": "research"}',
        )
        assert status == 202
        place = headers["Location"]
        assert place == f"/v1/invocations/{accepted['id']}"
        await anyio.sleep(1)
        status, seen, _ = await side.send("GET", place)
        assert (status, seen["state"], seen["attempts"]) == (200, "running", 1)
        assert seen["tenant"] == "research"
        assert seen["request_id"].startswith("req-")
        assert side.rig.transport.calls[0][1].payload == b'{"a":1.10}'
        await anyio.sleep(10)
        _, seen, _ = await side.send("GET", place)
        assert (seen["state"], seen["estimated"]) == ("succeeded", True)
        assert seen["accepted_at"] < seen["ended_at"]


async def test_the_client_sees_what_code_in_process_sees():
    async with sidecar(more='[accounts.main.functions.told]\ncompletion = "callback"') as side:
        ticket = await side.client.enqueue(Invocation(account="main", function="told"))
        assert isinstance(ticket, RemoteTicket)
        await anyio.sleep(1)
        assert (await side.client.get(ticket.id)).record.state is State.RUNNING
        told = Completion(id=ticket.id, verdict=Verdict.SUCCEEDED, result=b'{"b":2}')
        for wrong in (None, "c1.1.wrong"):
            with pytest.raises(NotAllowed):
                await side.client.complete(told, token=wrong)
        token = callback.token(side.rig.engine.callback_key, ticket.id, 1)
        await side.client.complete(told, token=token)
        end = await ticket.ended()
        assert end == await side.rig.engine.end_of(ticket.id)
        assert end.result == b'{"b":2}'
        assert await side.client.accounts() == side.rig.engine.accounts()


async def test_a_repeat_is_the_same_and_another_job_is_refused():
    async with sidecar() as side:
        job = Invocation(account="main", function="f", payload=b"1", idempotency_key="k")
        first, again = await side.client.enqueue(job), await side.client.enqueue(job)
        assert first.id == again.id
        assert (await again.accepted()).duplicate
        with pytest.raises(KeyReused):
            await side.client.enqueue(
                Invocation(account="main", function="f", payload=b"2", idempotency_key="k")
            )
        assert len(side.rig.transport.calls) == 1


async def test_bad_input_is_refused_and_the_service_goes_on():
    limit = 128 * 1024
    async with sidecar(account="unlisted = false", more="[accounts.main.functions.f]") as side:
        for body, status, pointer in (
            (b"not json", 400, None),
            (b'{"account": "other", "function": "f"}', 422, "/account"),
            (b'{"account": "main", "function": "g"}', 422, "/function"),
            (b'{"account": "main", "function": 1}', 422, "/function"),
            (b'{"account": "main", "function": "f", "payload": "%b"}' % (b"x" * limit), 413, None),
        ):
            answer, problem, _ = await side.send("POST", "/v1/invocations", body)
            assert answer == status
            if pointer is not None:
                assert problem["pointer"] == pointer
        assert str(limit) in problem["detail"]
        with pytest.raises(PayloadTooLarge, match=str(limit)):
            await side.client.enqueue(
                Invocation(account="main", function="f", payload=bytes(limit + 1))
            )
        with pytest.raises(Invalid):
            await side.client.enqueue(
                Invocation(account="main", function="f", callback_url="https://example.com/")
            )
        assert not side.rig.transport.calls
        await side.client.enqueue(JOB)
        await anyio.sleep(1)
        assert len(side.rig.transport.calls) == 1


async def test_a_full_queue_is_429_with_a_time_to_wait_and_nothing_is_lost():
    async with sidecar(more="[queue]\njobs_max = 10") as side:
        side.rig.transport.script = [hang] * 10
        body = b"\n".join([b'{"account": "main", "function": "f"}'] * 13)
        status, lines, _ = await side.send("POST", "/v1/invocations", body, "application/x-ndjson")
        assert status == 200
        assert [line.get("error", {}).get("status", 202) for line in lines] == [202] * 10 + [
            429
        ] * 3
        status, problem, headers = await side.send(
            "POST", "/v1/invocations", b'{"account": "main", "function": "f"}'
        )
        assert (status, headers["Retry-After"]) == (429, "1")
        assert problem["type"] == "urn:dispatcher:problem:queue_full"
        with pytest.raises(QueueFull):
            await side.client.enqueue(JOB)
        found = [view.record.id async for view in side.client.find()]
        assert sorted(found) == sorted(line["id"] for line in lines[:10])
        await side.rig.engine.tasks.aclose()


async def test_a_line_for_each_line_and_one_commit():
    async with sidecar() as side:
        commits = []
        accept = side.rig.journal.accept

        def counting(entries, done):
            commits.append(len(entries))
            accept(entries, done)

        side.rig.journal.accept = counting  # type: ignore[method-assign]
        lines = [
            json.dumps({"account": "main" if i % 10 else "x", "function": "f"}).encode()
            for i in range(1000)
        ]
        _, answers, _ = await side.send(
            "POST", "/v1/invocations", b"\n".join(lines), "application/x-ndjson"
        )
        assert [i for i, answer in enumerate(answers) if "error" in answer] == list(
            range(0, 1000, 10)
        )
        assert commits == [900]
        outcomes = await side.client.enqueue_many([JOB] * 100)
        assert len({one.id for one in outcomes if isinstance(one, RemoteTicket)}) == 100
        assert commits == [900, 100]


async def test_why_it_waits_is_told():
    async with sidecar(account="headroom = 3") as side:
        first = await side.client.enqueue(JOB)
        await anyio.sleep(0.1)
        second = await side.client.enqueue(JOB)
        delayed = await side.client.enqueue(Invocation(account="main", function="f", delay_s=60))
        reason = (await side.client.get(second.id)).waiting_for
        assert reason is not None
        assert (reason.gate, reason.limit, reason.in_use) == (GateKind.ACCOUNT, 1, 1)
        _, seen, _ = await side.send("GET", f"/v1/invocations/{delayed.id}")
        assert seen["waiting_for"]["gate"] == "delay"
        assert seen["waiting_for"]["until"].endswith("Z")
        await side.client.pause("main", "f")
        await anyio.sleep(20)
        reason = (await side.client.get(second.id)).waiting_for
        assert reason is not None
        assert reason.gate is GateKind.PAUSED
        await side.client.resume("main", "f")
        assert (await second.ended()).state is State.SUCCEEDED
        assert (await first.ended()).state is State.SUCCEEDED


async def test_cancel_and_redrive():
    async with sidecar() as side:
        waiting = await side.client.enqueue(Invocation(account="main", function="f", delay_s=60))
        assert await side.client.cancel(waiting.id) is State.CANCELLED
        assert (await waiting.ended()).state is State.CANCELLED
        with pytest.raises(NotPossible):
            await side.client.cancel(waiting.id)
        side.rig.transport.script = [Refused(Failure("refused", "no", "AccessDenied", 400))] * 3
        tickets = [await side.client.enqueue(JOB) for _ in range(3)]
        for ticket in tickets:
            end = await ticket.ended()
            assert end.state is State.DEAD
            assert end.error is not None
            assert end.error.reason == "AccessDenied"
        dead = [view.record.id async for view in side.client.find(Query(state=State.DEAD))]
        assert sorted(dead) == sorted(ticket.id for ticket in tickets)
        await side.client.redrive(tickets[0].id)
        assert await side.client.redrive_dead(Query(account="main")) == 2
        await anyio.sleep(1)
        assert (await side.client.get(tickets[1].id)).record.attempt == 2


async def test_draining_is_503_and_not_ready():
    async with sidecar() as side:
        status, ready, _ = await side.send("GET", "/readyz")
        assert (status, ready) == (200, {"status": "ready"})
        side.rig.engine.stop()
        status, problem, headers = await side.send(
            "POST", "/v1/invocations", b'{"account": "main", "function": "f"}'
        )
        assert (status, problem["type"]) == (503, "urn:dispatcher:problem:draining")
        assert int(headers["Retry-After"]) >= 1
        status, problem, _ = await side.send("GET", "/readyz")
        assert (status, problem["detail"]) == (503, "draining")
        with pytest.raises(Draining):
            await side.client.enqueue(JOB)
        assert (await side.send("GET", "/healthz"))[0] == 200


async def test_a_cursor_that_no_list_gave_is_422():
    async with sidecar() as side:
        for cursor in ("x", "0", "-1", "9" * 30, "1;drop"):
            status, problem, _ = await side.send("GET", f"/v1/invocations?after={cursor}")
            assert (status, problem["parameter"]) == (422, "after")
