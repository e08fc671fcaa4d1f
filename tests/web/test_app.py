"""The gate keeper: what no route answers, what goes wrong inside, and what all answers have."""

import json
import logging

import aiohttp
import pytest

from dispatcher.config import ServerSettings
from dispatcher.web import Listener, make_metrics_app
from dispatcher.web.problems import TYPE_PREFIX
from tests.web.conftest import metrics
from tests.web.fakes import FakeEngine
from tests.web.test_api import JOB, refused
from tests.web.wires import serving

SECRET = "a payload that nobody may read in a log"


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/invocations/", "/v1/invocations/a/b", "/v1//invocations", "/%2e%2e"]
)
async def test_an_unknown_path_is_404(face, path):
    async with face.get(path) as response:
        problem = await refused(response, 404)
    assert problem["type"] == f"{TYPE_PREFIX}no_such_path"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json"])
async def test_a_head_is_asked_for_without_what_follows(face, path):
    async with face.request("HEAD", path) as response:
        assert response.status == 200
        assert await response.read() == b""


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/invocations", {"GET", "POST"}),
        ("HEAD", "/v1/invocations/i1", {"GET", "DELETE"}),
        ("POST", "/v1/invocations/i1", {"GET", "DELETE"}),
        ("GET", "/v1/accounts/cn/pause", {"POST"}),
        ("PATCH", "/healthz", {"GET"}),
    ],
)
async def test_an_unknown_method_is_405_and_the_known_ones_are_said(face, method, path, allowed):
    async with face.request(method, path) as response:
        assert response.status == 405
        assert response.content_type == "application/problem+json"
        assert set(response.headers["Allow"].replace(" ", "").split(",")) == allowed
        assert response.reason == "Method Not Allowed"


async def test_every_answer_says_little_of_its_server(face):
    for path in ("/healthz", "/nowhere", "/v1/invocations", "/metrics"):
        async with face.get(path) as response:
            assert response.headers["Server"] == "dispatcher"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Cache-Control"] == "no-store"


async def test_a_bug_costs_one_answer_and_is_logged_once_without_the_payload(face, engine, caplog):
    engine.refuses = ZeroDivisionError(SECRET)
    async with face.post("/v1/invocations", json={**JOB, "payload": SECRET}) as response:
        problem = await refused(response, 500)
    assert SECRET not in str(problem)
    [record] = caplog.records
    text = record.getMessage()
    assert problem["instance"] in text
    assert "ZeroDivisionError" in text
    assert "POST /v1/invocations" in text
    assert "fakes.py" in text
    assert SECRET not in caplog.text
    engine.refuses = None
    async with face.post("/v1/invocations", json=JOB) as response:
        assert response.status == 202


async def test_a_time_out_inside_is_a_bug_like_any_other(face, engine, caplog):
    engine.refuses = TimeoutError()
    async with face.get("/v1/invocations/i1") as response:
        await refused(response, 500)
    assert len(caplog.records) == 1


async def test_requests_leave_no_line_in_the_log(face, caplog):
    caplog.set_level(logging.INFO)
    async with face.post("/v1/invocations", json=JOB) as response:
        assert response.status == 202
    async with face.post("/v1/invocations", data=b"\xff") as response:
        assert response.status == 415
    assert not caplog.records


async def test_what_cannot_be_written_as_utf8_is_spelt_out():
    async with serving() as site:
        wire = await site.wire()
        wire.say(b"GET /healthz HTTP/1.1\r\nHost: a\xff\r\n\r\n")
        status, _, body = await wire.answer()
    assert status == 421
    assert "a\\udcff" in json.loads(body)["detail"]


async def test_the_metrics_listener_serves_nothing_else(tmp_path):
    server = ServerSettings(token_file=str(tmp_path / "none"))
    app = make_metrics_app(server, metrics)
    async with (
        Listener(app, ["127.0.0.1:0"]) as listener,
        aiohttp.ClientSession(f"http://{listener.addresses[0]}") as session,
    ):
        async with session.get("/metrics") as response:
            assert response.status == 200
        async with session.get("/healthz") as response:
            await refused(response, 404)
        async with session.get("/metrics", headers={"Host": "evil.example"}) as response:
            await refused(response, 421)


async def test_the_metrics_listener_tells_probes_how_it_is():
    engine = FakeEngine()
    app = make_metrics_app(ServerSettings(), metrics, engine)
    async with (
        Listener(app, ["127.0.0.1:0"]) as listener,
        aiohttp.ClientSession(f"http://{listener.addresses[0]}") as session,
    ):
        # As a kubelet does, which knows a pod by its address.
        pod = {"Host": "10.1.2.3:8701"}
        for path, status in (("/healthz", 200), ("/readyz", 200), ("/v1/accounts", 404)):
            async with session.get(path, headers=pod) as response:
                assert response.status == status, path
        engine.why_not_ready = "the disk is full"
        async with session.get("/readyz", headers=pod) as response:
            assert response.status == 503
