"""Each request of the HTTP API against what the engine was asked and answered."""

import asyncio
import base64
import json
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dispatcher import errors
from dispatcher.config import ServerSettings
from dispatcher.core.model import CallType, Failure, Record, State, Verdict
from dispatcher.web import Listener, make_app
from dispatcher.web.problems import TYPE_PREFIX
from tests.web.fakes import NOW_MS, PAYLOAD_MAX_BYTES

JOB = {"account": "cn", "function": "resize"}


async def refused(response: aiohttp.ClientResponse, status: int) -> dict[str, Any]:
    """Return the problem that *response* must be."""
    body = await response.read()
    assert response.status == status, body
    assert response.content_type == "application/problem+json"
    problem: dict[str, Any] = json.loads(body)
    assert problem["status"] == status
    assert problem["type"].startswith(TYPE_PREFIX)
    assert problem["title"]
    assert problem["detail"]
    return problem


# -- Enqueue --------------------------------------------------------------------------------------


async def test_an_accepted_invocation_is_answered_202_with_its_place(face, engine):
    async with face.post("/v1/invocations", json=JOB) as response:
        assert response.status == 202
        assert response.headers["Location"] == "/v1/invocations/i000000"
        assert await response.json() == {"id": "i000000", "state": "waiting", "duplicate": False}
    assert engine.invocations[0].payload == b""
    assert engine.invocations[0].tenant == "default"


async def test_every_field_reaches_the_engine(face, engine):
    job = {
        "account": "cn",
        "function": "service$resize",
        "qualifier": "prod",
        "payload": {"b": 1, "a": [None, "é"]},
        "tenant": "research",
        "priority": -2.5,
        "delay_s": 3,
        "expires_s": 60,
        "idempotency_key": "k1",
        "type": "sync",
    }
    async with face.post("/v1/invocations", json=job) as response:
        assert response.status == 202
    taken = engine.invocations[0]
    assert taken.function == "service$resize"
    assert taken.qualifier == "prod"
    assert json.loads(taken.payload) == job["payload"]
    assert taken.tenant == "research"
    assert taken.priority == -2.5
    assert taken.delay_s == 3.0
    assert taken.expires_s == 60.0
    assert taken.idempotency_key == "k1"
    assert taken.type is CallType.SYNC


async def test_null_is_as_good_as_absent(face, engine):
    job = {
        **JOB,
        **dict.fromkeys(
            ("qualifier", "payload_base64", "tenant", "priority", "delay_s", "expires_s")
        ),
        **dict.fromkeys(("idempotency_key", "type", "callback_url")),
    }
    async with face.post("/v1/invocations", json=job) as response:
        assert response.status == 202
    assert engine.invocations[0].tenant == "default"


async def test_202_comes_only_after_the_journal_has_committed(face, engine):
    engine.journal_writes.clear()
    asking = asyncio.ensure_future(face.post("/v1/invocations", json=JOB))
    await asyncio.sleep(60)
    assert not asking.done()
    engine.journal_writes.set()
    async with await asking as response:
        assert response.status == 202


async def test_a_caller_that_leaves_does_not_take_its_invocation_along(face, engine):
    engine.journal_writes.clear()
    with pytest.raises(asyncio.TimeoutError):
        await face.post("/v1/invocations", json=JOB, timeout=aiohttp.ClientTimeout(total=1))
    engine.journal_writes.set()
    await asyncio.sleep(1)
    assert engine.accepted == ["i000000"]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b'{"b":1.000000000000000000000000000001e5,"a":123456789012345678901234567890}', None),
        ('{"é":"\\u00e9 😀","z":0.10,"a":-0}'.encode(), None),
        (b"null", None),
        (b'""', None),
        (b'"a  b"', None),
        (b'{ "b" : 1.50 ,\r\n\t"a" : [ ] , "s": " x\\n " }', b'{"b":1.50,"a":[],"s":" x\\n "}'),
    ],
)
async def test_a_payload_is_sent_compact_and_otherwise_untouched(face, engine, sent, kept):
    body = b'{"account":"cn","function":"resize","payload": %b }' % sent
    async with face.post("/v1/invocations", data=body, headers=JSON) as response:
        assert response.status == 202
    assert engine.invocations[0].payload == (sent if kept is None else kept)


async def test_a_payload_in_base64_arrives_to_the_byte(face, engine):
    payload = bytes(range(256))
    job = {**JOB, "payload_base64": base64.b64encode(payload).decode()}
    async with face.post("/v1/invocations", json=job) as response:
        assert response.status == 202
    assert engine.invocations[0].payload == payload


JSON = {"Content-Type": "application/json"}

UNREADABLE = [
    b"",
    b"   ",
    b"{",
    b'{"account":"cn","function":"resize"} x',
    b'{"account":"cn","function":"resize","payload":01}',
    b'{"account":"cn","function":"resize","payload":NaN}',
    b'{"account":"cn","function":"resize","payload":"\xff"}',
    b'{"account":"cn","function":"resize","payload":{"a":"\xed\xa0\x80"}}',
    b'{"account":"cn","function":"resize","payload":"\\ud800 alone"}',
    b'{"account":"\xff","function":"resize"}',
    b'{"account":1,"function":',
    b'{"unknown":1,',
    b'\xef\xbb\xbf{"account":"cn","function":"resize"}',
    b'{"account":"cn","function":"resize","payload":' + b"[" * 5000 + b"]" * 5000 + b"}",
]


@pytest.mark.parametrize("body", UNREADABLE, ids=range(len(UNREADABLE)))
async def test_what_is_no_json_is_400(face, engine, body):
    async with face.post("/v1/invocations", data=body, headers=JSON) as response:
        problem = await refused(response, 400)
    assert problem["type"] == f"{TYPE_PREFIX}malformed"
    assert not engine.invocations


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"account": 1}, "/account"),
        ({"account": None}, "/account"),
        ({"account": "nobody"}, "/account"),
        ({"account": "a" * 10_000}, "/account"),
        ({"function": ["x"]}, "/function"),
        ({"function": "no such name!"}, "/function"),
        ({"function": "x\n"}, "/function"),
        ({"function": ".."}, "/function"),
        ({"account": "strict", "function": "unlisted"}, "/function"),
        ({"qualifier": 7}, "/qualifier"),
        ({"qualifier": "a b"}, "/qualifier"),
        ({"payload": 1, "payload_base64": "AA=="}, "/payload_base64"),
        ({"payload_base64": "no base64"}, "/payload_base64"),
        ({"tenant": 1}, "/tenant"),
        ({"tenant": ""}, "/tenant"),
        ({"tenant": "\u0000"}, "/tenant"),
        ({"priority": "high"}, "/priority"),
        ({"priority": True}, "/priority"),
        ({"delay_s": -1}, "/delay_s"),
        ({"delay_s": 1e300}, "/delay_s"),
        ({"expires_s": "soon"}, "/expires_s"),
        ({"delay_s": 5, "expires_s": 5}, "/expires_s"),
        ({"idempotency_key": ""}, "/idempotency_key"),
        ({"idempotency_key": "k" * 257}, "/idempotency_key"),
        ({"type": "later"}, "/type"),
        ({"callback_url": 1}, "/callback_url"),
        ({"priorty": 1}, "/priorty"),
        ({"a/b~c": 1}, "/a~1b~0c"),
    ],
)
async def test_a_wrong_field_is_422_and_is_named(face, engine, change, pointer):
    async with face.post("/v1/invocations", json={**JOB, **change}) as response:
        problem = await refused(response, 422)
    assert problem["pointer"] == pointer
    assert len(problem["detail"]) < 600
    assert not engine.invocations


@pytest.mark.parametrize("missing", ["account", "function"])
async def test_a_missing_field_is_422_and_is_named(face, missing):
    job = {key: value for key, value in JOB.items() if key != missing}
    async with face.post("/v1/invocations", json=job) as response:
        assert (await refused(response, 422))["pointer"] == f"/{missing}"


@pytest.mark.parametrize("body", ["[]", "1", '"x"', "null"])
async def test_something_else_than_an_object_is_422(face, body):
    async with face.post("/v1/invocations", data=body, headers=JSON) as response:
        assert (await refused(response, 422))["pointer"] == ""


async def test_a_payload_above_the_providers_limit_is_413_at_accept(face, engine):
    job = {**JOB, "payload": "x" * PAYLOAD_MAX_BYTES}
    async with face.post("/v1/invocations", json=job) as response:
        problem = await refused(response, 413)
    assert problem["type"] == f"{TYPE_PREFIX}payload_too_large"
    assert str(PAYLOAD_MAX_BYTES) in problem["detail"]
    assert problem["pointer"] == "/payload"
    encoded = base64.b64encode(bytes(PAYLOAD_MAX_BYTES + 1)).decode()
    job = {"account": "cn", "function": "resize", "payload_base64": encoded}
    async with face.post("/v1/invocations", json=job) as response:
        assert (await refused(response, 413))["pointer"] == "/payload_base64"
    assert not engine.invocations


@pytest.mark.parametrize(
    ("error", "status", "word", "retry_after"),
    [
        (errors.QueueFull("full"), 429, "queue_full", "1"),
        (errors.QueueFull("full", retry_after_s=2.1), 429, "queue_full", "3"),
        (errors.Draining("bye"), 503, "draining", "2"),
        (errors.DiskFull("no room"), 507, "disk_full", None),
        (errors.JournalError("gone"), 503, "journal_error", None),
        (errors.JournalLocked("gone"), 503, "journal_error", None),
        (errors.KeyReused("x", pointer="/idempotency_key"), 422, "key_reused", None),
        (errors.NotFound("x"), 404, "not_found", None),
        (errors.NotPossible("x"), 409, "not_possible", None),
    ],
)
async def test_each_error_has_its_status(face, engine, error, status, word, retry_after):
    engine.refuses = error
    async with face.post("/v1/invocations", json=JOB) as response:
        problem = await refused(response, status)
        assert response.headers.get("Retry-After") == retry_after
    assert problem["type"] == TYPE_PREFIX + word


async def test_a_journal_that_fails_at_the_commit_is_503(face, engine):
    engine.journal_error = errors.JournalError("the disk is gone")
    async with face.post("/v1/invocations", json=JOB) as response:
        await refused(response, 503)


# -- Idempotency keys -----------------------------------------------------------------------------


async def test_a_repeated_key_is_the_same_invocation(face, engine):
    for duplicate in (False, True):
        async with face.post("/v1/invocations", json=JOB, headers=KEY) as response:
            assert response.status == 202
            answer = await response.json()
        assert answer == {"id": "i000000", "state": "waiting", "duplicate": duplicate}
    assert len(engine.invocations) == 1


KEY = {"Idempotency-Key": "k-1"}


async def test_the_header_may_have_the_quotation_marks_of_a_structured_field(face, engine):
    async with face.post(
        "/v1/invocations", json=JOB, headers={"Idempotency-Key": '"k-1"'}
    ) as response:
        assert response.status == 202
    assert engine.invocations[0].idempotency_key == "k-1"


async def test_a_key_of_the_body_that_is_not_that_of_the_header_is_422(face):
    async with face.post(
        "/v1/invocations", json={**JOB, "idempotency_key": "k-2"}, headers=KEY
    ) as response:
        assert (await refused(response, 422))["pointer"] == "/idempotency_key"
    async with face.post(
        "/v1/invocations", json={**JOB, "idempotency_key": "k-1"}, headers=KEY
    ) as response:
        assert response.status == 202


async def test_a_key_with_another_job_is_422(face):
    for function, status in (("resize", 202), ("other", 422)):
        job = {"account": "cn", "function": function}
        async with face.post("/v1/invocations", json=job, headers=KEY) as response:
            assert response.status == status
            problem = json.loads(await response.read())
    assert (problem.get("pointer"), problem["parameter"]) == (None, "Idempotency-Key")
    job["idempotency_key"] = KEY["Idempotency-Key"]
    for headers in ({}, KEY):
        async with face.post("/v1/invocations", json=job, headers=headers) as response:
            assert (await refused(response, 422))["pointer"] == "/idempotency_key"


@pytest.mark.parametrize("key", ["", "a b", "k" * 257, "é"])
async def test_a_header_that_is_no_key_is_422(face, key):
    async with face.post("/v1/invocations", json=JOB, headers={"Idempotency-Key": key}) as response:
        assert (await refused(response, 422))["parameter"] == "Idempotency-Key"


async def test_two_keys_in_the_header_are_422(face):
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    async with face.post("/v1/invocations", json=JOB, headers=headers) as response:
        assert (await refused(response, 422))["parameter"] == "Idempotency-Key"


# -- Content types --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml"],
)
async def test_another_content_type_is_415(face, engine, said):
    async with face.post(
        "/v1/invocations", data=json.dumps(JOB), headers={"Content-Type": said}
    ) as response:
        problem = await refused(response, 415)
    assert "application/x-ndjson" in problem["detail"]
    assert not engine.invocations


async def test_parameters_and_case_of_the_content_type_do_not_matter(face):
    async with face.post(
        "/v1/invocations",
        data=json.dumps(JOB),
        headers={"Content-Type": "Application/JSON; charset=utf-8"},
    ) as response:
        assert response.status == 202


async def test_compressed_content_is_415(face):
    async with face.post(
        "/v1/invocations", data=json.dumps(JOB), headers={**JSON, "Content-Encoding": "gzip"}
    ) as response:
        await refused(response, 415)


# -- Look -----------------------------------------------------------------------------------------


async def test_a_waiting_invocation_says_what_it_waits_for(face, engine):
    async with face.post("/v1/invocations", json=JOB) as response:
        assert response.status == 202
    async with face.get("/v1/invocations/i000000") as response:
        assert response.status == 200
        assert await response.json() == {
            "id": "i000000",
            "state": "waiting",
            "account": "cn",
            "function": "resize",
            "qualifier": None,
            "tenant": "default",
            "attempts": 0,
            "accepted_at": "2023-11-14T22:13:20.123Z",
            "sent_at": None,
            "ended_at": None,
            "request_id": None,
            "estimated": False,
            "waiting_for": {"gate": "account", "name": "cn", "limit": 300, "in_use": 300},
        }


ENDED = Record(
    id="i1",
    account="cn",
    function="resize",
    qualifier="prod",
    state=State.SUCCEEDED,
    attempt=2,
    accepted_ms=NOW_MS,
    first_sent_ms=NOW_MS + 1,
    sent_ms=NOW_MS + 877,
    ended_ms=NOW_MS + 1877,
    request_id="r-1",
    estimated=True,
)


async def test_an_ended_invocation_shows_its_result_and_times(face, engine):
    engine.put(replace(ENDED, result=b'{"b": 1.10, "a":"\xc3\xa9"}'))
    async with face.get("/v1/invocations/i1") as response:
        text = await response.text()
    shown = json.loads(text)
    assert '"result":{"b": 1.10, "a":"é"}' in text
    assert shown["attempts"] == 2
    assert shown["sent_at"] == "2023-11-14T22:13:21.000Z"
    assert shown["ended_at"] == "2023-11-14T22:13:22.000Z"
    assert shown["request_id"] == "r-1"
    assert shown["estimated"] is True
    assert "waiting_for" not in shown
    assert "error" not in shown
    assert "result_base64" not in shown
    assert "start_delay_s" not in shown


async def test_how_long_the_cloud_kept_it_queued_is_shown_where_it_is_known(face, engine):
    engine.put(replace(ENDED, start_delay_s=0.25))
    async with face.get("/v1/invocations/i1") as response:
        assert (await response.json())["start_delay_s"] == 0.25


@pytest.mark.parametrize("result", [b"", b"\xff\x00", b"not json", b'"\xff"', b"{} {}", b"NaN"])
async def test_a_result_that_is_no_json_comes_in_base64(face, engine, result):
    engine.put(replace(ENDED, result=result))
    async with face.get("/v1/invocations/i1") as response:
        shown = await response.json()
    assert base64.b64decode(shown["result_base64"]) == result
    assert "result" not in shown


async def test_a_dead_invocation_shows_why(face, engine):
    failure = Failure("FunctionError", "boom", "Unhandled", 200)
    engine.put(replace(ENDED, state=State.DEAD, failure=failure))
    async with face.get("/v1/invocations/i1") as response:
        assert (await response.json())["error"] == {
            "kind": "FunctionError",
            "message": "boom",
            "reason": "Unhandled",
            "status": 200,
        }


@pytest.mark.parametrize("bad", ["nobody", "1a", "a%20b", "a%2Fb", "%00", "a" * 129, "%ff", "%0a"])
async def test_an_id_that_is_unknown_or_none_at_all_is_404(face, bad):
    from yarl import URL

    url = URL(f"/v1/invocations/{bad}", encoded=True)
    for method in ("GET", "DELETE"):
        async with face.request(method, url) as response:
            await refused(response, 404)


async def test_a_page_filters_counts_and_goes_on(face, engine):
    for i in range(5):
        engine.put(replace(ENDED, id=f"i{i}", result=b"1", tenant="a" if i % 2 else "b"))
    async with face.get("/v1/invocations?limit=2") as response:
        page = await response.json()
    assert [item["id"] for item in page["items"]] == ["i4", "i3"]
    assert "result" not in page["items"][0]
    async with face.get(f"/v1/invocations?limit=3&after={page['next']}") as response:
        page = await response.json()
    assert [item["id"] for item in page["items"]] == ["i2", "i1", "i0"]
    assert page["next"] is None
    wanted = "state=succeeded&account=cn&function=resize&tenant=a"
    async with face.get(f"/v1/invocations?{wanted}") as response:
        assert [item["id"] for item in (await response.json())["items"]] == ["i3", "i1"]
    async with face.get("/v1/invocations?state=dead") as response:
        assert (await response.json())["items"] == []


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("limit=", "limit"),
        ("state=unknown", "state"),
        ("state=", "state"),
        ("after=not-a-cursor!", "after"),
        ("foo=1", "foo"),
        ("limit=1&limit=2", "limit"),
    ],
)
async def test_a_wrong_parameter_is_422_and_is_named(face, query, parameter):
    async with face.get(f"/v1/invocations?{query}") as response:
        problem = await refused(response, 422)
    assert problem["parameter"] == parameter
    assert "pointer" not in problem


# -- Act ------------------------------------------------------------------------------------------


async def test_cancelling_what_waits_is_200(face, engine):
    async with face.post("/v1/invocations", json=JOB) as response:
        assert response.status == 202
    async with face.delete("/v1/invocations/i000000") as response:
        assert response.status == 200
        assert await response.json() == {"id": "i000000", "state": "cancelled"}
    async with face.delete("/v1/invocations/i000000") as response:
        await refused(response, 409)


async def test_stopping_what_runs_is_202(face, engine):
    engine.put(replace(ENDED, state=State.RUNNING))
    async with face.delete("/v1/invocations/i1") as response:
        assert response.status == 202
        assert await response.json() == {"id": "i1", "state": "running"}


async def test_a_completion_is_204_however_often_it_comes(face, engine):
    engine.put(replace(ENDED, state=State.RUNNING))
    body = {"succeeded": True, "result": {"b": 1}}
    for _ in range(2):
        async with face.post("/v1/invocations/i1/completion", json=body) as response:
            assert response.status == 204
            assert await response.read() == b""
    assert engine.completions[0].verdict is Verdict.SUCCEEDED
    assert engine.completions[0].result == b'{"b":1}'


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        ({}, Failure("FunctionError", "the function failed")),
        ({"error": "boom"}, Failure("FunctionError", "boom")),
        ({"error": {"message": "boom"}}, Failure("FunctionError", "boom")),
        (
            {"error": {"kind": "OOM", "message": "boom", "reason": "R", "status": 500}},
            Failure("OOM", "boom", "R", 500),
        ),
    ],
)
async def test_a_failure_may_be_told_as_text_or_as_an_object(face, engine, error, failure):
    engine.put(replace(ENDED, state=State.RUNNING))
    body = {"succeeded": False, **error}
    async with face.post("/v1/invocations/i1/completion", json=body) as response:
        assert response.status == 204
    assert engine.completions[0].verdict is Verdict.FAILED
    assert engine.completions[0].failure == failure


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/succeeded"),
        ({"succeeded": "yes"}, "/succeeded"),
        ({"succeeded": True, "error": "x"}, "/error"),
        ({"succeeded": False, "error": {"kind": "x"}}, "/error/message"),
        ({"succeeded": False, "error": {"message": "x", "status": "x"}}, "/error/status"),
        ({"succeeded": False, "error": {"message": "x", "trace": "x"}}, "/error/trace"),
        ({"succeeded": True, "result": 1, "result_base64": "AA=="}, "/result_base64"),
        ({"succeeded": False, "error": {"message": "x", "status": 500.5}}, "/error/status"),
        ({"succeeded": False, "error": {"message": "x", "status": 600}}, "/error/status"),
    ],
)
async def test_a_wrong_completion_is_422_and_is_named(face, engine, body, pointer):
    engine.put(ENDED)
    async with face.post("/v1/invocations/i1/completion", json=body) as response:
        assert (await refused(response, 422))["pointer"] == pointer


OWN, SERVERS = "c1.1.abc", "a-token-of-the-server"


@pytest.mark.parametrize(
    ("shown", "asked"),
    [
        (OWN, (OWN, False)),
        (SERVERS, (None, True)),
        (None, None),
        ("something-else", None),
    ],
)
async def test_the_token_of_an_invocation_is_enough_to_tell_its_end(engine, tmp_path, shown, asked):
    (tmp_path / "tokens").write_text(SERVERS)
    app = make_app(engine, ServerSettings(token_file=str(tmp_path / "tokens")))
    engine.put(replace(ENDED, state=State.RUNNING))
    headers = {} if shown is None else {"Authorization": f"Bearer {shown}"}
    async with (
        Listener(app, ["127.0.0.1:0"]) as listener,
        aiohttp.ClientSession(f"http://{listener.addresses[0]}", headers=headers) as session,
    ):
        async with session.post(
            "/v1/invocations/i1/completion", json={"succeeded": True}
        ) as response:
            assert response.status == (204 if asked else 401)
        assert engine.shown == [asked] * bool(asked)
        # It opens nothing else.
        async with session.get("/v1/invocations/i1") as response:
            assert response.status == (200 if shown == SERVERS else 401)
        async with session.post("/v1/invocations/i1/redrive") as response:
            assert (response.status == 401) == (shown != SERVERS)


async def test_without_tokens_of_the_server_nobody_is_known(face, engine):
    engine.put(replace(ENDED, state=State.RUNNING))
    for headers in ({}, {"Authorization": "Bearer x"}):
        async with face.post(
            "/v1/invocations/i1/completion", json={"succeeded": True}, headers=headers
        ):
            pass
    assert engine.shown == [(None, False)] * 2


async def test_a_completion_for_nobody_is_404(face):
    async with face.post("/v1/invocations/nobody/completion", json={"succeeded": True}) as response:
        await refused(response, 404)


async def test_a_dead_one_is_redriven_once(face, engine):
    engine.put(replace(ENDED, state=State.DEAD))
    async with face.post("/v1/invocations/i1/redrive") as response:
        assert response.status == 202
        assert await response.json() == {"redriven": 1}
    async with face.post("/v1/invocations/i1/redrive") as response:
        await refused(response, 409)


async def test_dead_ones_are_redriven_by_filter(face, engine):
    for i in range(4):
        engine.put(replace(ENDED, id=f"i{i}", state=State.DEAD, tenant="a" if i else "b"))
    async with face.post("/v1/dead/redrive?tenant=a&account=cn", json={}) as response:
        assert response.status == 202
        assert await response.json() == {"redriven": 3}
    async with face.post("/v1/dead/redrive?account=nobody") as response:
        assert "nobody" in (await refused(response, 404))["detail"]
    async with face.post("/v1/dead/redrive?state=dead") as response:
        assert (await refused(response, 422))["parameter"] == "state"


async def test_content_where_none_is_wanted_may_be_json(face, engine):
    engine.put(replace(ENDED, state=State.DEAD))
    url = "/v1/dead/redrive"
    async with face.post(url, data=b"x=1", headers=FORM) as response:
        await refused(response, 415)
    async with face.post(url, json={"account": "cn"}) as response:
        assert (await refused(response, 422))["pointer"] == "/account"
    for nothing in (b"null", b"{}"):
        async with face.post(url, data=nothing, headers=JSON) as response:
            assert response.status == 202
    async with face.post(url, data=b"", headers=FORM) as response:
        assert response.status == 202
    async with face.post(url, json={"x": "y" * 2000}) as response:
        await refused(response, 413)


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


# -- Accounts -------------------------------------------------------------------------------------

CN = {
    "name": "cn",
    "provider": "aliyun-fc",
    "account_id": "1031234567890123",
    "region": "cn-shanghai",
    "quota": 300,
    "limit": 300,
    "in_use": 2,
    "paused": False,
    "queued": {"due": 1, "delayed": 2},
    "oldest_age_s": 1.5,
    "functions": {"resize": {"limit": None, "in_use": 2, "queued": 1, "paused": False}},
    "tenants": {
        "research": {
            "weight": 2.0,
            "reserved": 0,
            "limit": None,
            "in_use": 0.5,
            "queued": 1,
            "oldest_age_s": 0.0,
        }
    },
    "headroom": 0,
}


async def test_accounts_are_shown_as_they_stand(face):
    async with face.get("/v1/accounts") as response:
        assert [item["name"] for item in (await response.json())["items"]] == ["cn", "strict"]
    async with face.get("/v1/accounts/cn") as response:
        assert await response.json() == CN
    async with face.get("/v1/accounts/nobody") as response:
        await refused(response, 404)


async def test_accounts_and_functions_are_paused_and_resumed(face, engine):
    from yarl import URL

    for path in (
        "/v1/accounts/cn/pause",
        "/v1/accounts/cn/resume",
        "/v1/accounts/cn/functions/service%24resize/pause",
        "/v1/accounts/cn/functions/a.b/resume",
    ):
        async with face.post(URL(path, encoded=True)) as response:
            assert response.status == 204
    assert engine.switches == [
        ("pause", "cn", None),
        ("resume", "cn", None),
        ("pause", "cn", "service$resize"),
        ("resume", "cn", "a.b"),
    ]
    for nobody in ("nobody/pause", "cn/functions/a%2Fb/pause", "cn/functions/null,null/resume"):
        async with face.post(URL(f"/v1/accounts/{nobody}", encoded=True)) as response:
            await refused(response, 404)
    assert len(engine.switches) == 4


@pytest.mark.parametrize("media", ["application/json", "application/merge-patch+json"])
async def test_rules_of_an_account_are_changed(face, engine, media):
    path, headers = "/v1/accounts/cn", {"Content-Type": media}
    changes = b'{"quota": 200, "tenants": {"research": {"weight": 3}, "web": {"reserved": 5}}}'
    async with face.patch(path, data=changes, headers=headers) as response:
        assert response.status == 200
        assert (await response.json())["quota"] == 200
    assert engine.settings.accounts["cn"].tenants["research"].weight == 3
    assert engine.settings.accounts["cn"].tenants["web"].reserved == 5
    before = engine.settings
    for wrong, pointer in {
        b'{"tenants": {"web": {"reserved": 201}}}': "/tenants",
        b'{"quota": 100, "functions": {"resize": {"instances_max": 0}}}': (
            "/functions/resize/instances_max"
        ),
        b'{"unknown": 1}': "/unknown",
        b'{"region": "cn-beijing"}': "/region",
    }.items():
        async with face.patch(path, data=wrong, headers=headers) as response:
            assert (await refused(response, 422))["pointer"] == pointer
    for wrong, status in {b"[]": 422, b"{": 400}.items():
        async with face.patch(path, data=wrong, headers=headers) as response:
            await refused(response, status)
    async with face.patch("/v1/accounts/nobody", data=b"{}", headers=headers) as response:
        await refused(response, 404)
    async with face.patch(path, data=b"{}", headers={"Content-Type": "text/plain"}) as response:
        await refused(response, 415)
    assert engine.settings is before


# -- Operation ------------------------------------------------------------------------------------


async def test_alive_and_ready(face, engine):
    async with face.get("/healthz") as response:
        assert (response.status, await response.json()) == (200, {"status": "alive"})
    async with face.get("/readyz") as response:
        assert (response.status, await response.json()) == (200, {"status": "ready"})
    engine.why_not_ready = "recovering"
    async with face.get("/readyz") as response:
        assert (await refused(response, 503))["detail"] == "recovering"
        assert response.headers["Retry-After"] == "1"
    async with face.get("/healthz") as response:
        assert response.status == 200


async def test_the_metrics_come_in_the_format_that_is_asked_for(face):
    headers = {"Accept": "application/openmetrics-text"}
    async with face.get("/metrics", headers=headers) as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert await response.text() == "# for application/openmetrics-text\n"


# -- The shape of what is kept --------------------------------------------------------------------


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    ),
    st.sampled_from([None, 2]),
)
def test_a_payload_means_the_same_however_it_was_written(value, indent):
    import msgspec

    from dispatcher.web import wire

    text = json.dumps(value, indent=indent)
    body = f'{{"account":"cn","function":"f","payload":{text}}}'.encode()
    try:
        decoded = msgspec.json.decode(body, type=wire.NewInvocation)
    except msgspec.DecodeError:
        assert "\\ud" in text  # half of a surrogate pair, which is nothing in UTF-8
        return
    payload = wire.invocation_of(decoded).payload
    assert json.loads(payload) == json.loads(text)
    assert payload == json.dumps(value, separators=(",", ":")).encode()
