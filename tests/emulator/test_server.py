import asyncio
import time

import aiohttp
import msgspec
import pytest

from dispatcher.emulator import Emulator, Fault, Settings, serve
from tests.emulator.conftest import ACCOUNTS

RUN = "/2015-03-31/functions/f/invocations"
EVENT = f"POST {RUN} HTTP/1.1\r\nHost: x\r\nX-AMZ-INVOCATION-TYPE: Event\r\n"


async def raw(emulator: Emulator, text: str, body: bytes = b"") -> bytes:
    host, port = emulator.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(text.encode() + body)
    reply = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return reply


# -- HTTP as clients speak it ---------------------------------------------------------------------


async def test_without_settings_every_function_of_both_clouds_exists():
    async with Emulator() as emulator, aiohttp.ClientSession() as session:
        async with session.post(emulator.url + RUN, data=b"{}") as reply:
            assert reply.status == 200
        async with session.post(emulator.url + RUN.replace("2015-03-31", "2023-03-30")) as reply:
            assert reply.status == 200
        counted = emulator.statistics()
        assert (counted["lambda"].quota, counted["fc"].quota) == (1000, 300)


async def test_targets_may_be_absolute_and_header_names_in_any_case(client):
    absolute = EVENT.replace("POST /", "POST http://lambda.eu-west-1.amazonaws.com/")
    reply = await raw(client.emulator, absolute + "Content-Length: 2\r\n\r\n", b"{}")
    assert reply.startswith(b"HTTP/1.1 202")
    assert b"\r\nDate: " in reply


async def test_bodies_may_be_chunked_missing_or_announced(client):
    chunked = EVENT + "Transfer-Encoding: chunked\r\n\r\n"
    reply = await raw(client.emulator, chunked, b"2\r\n{}\r\n0\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 202")
    assert (await raw(client.emulator, EVENT + "\r\n")).startswith(b"HTTP/1.1 202")
    announced = EVENT + "Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    assert (await raw(client.emulator, announced, b"{}")).startswith(b"HTTP/1.1 100")


async def test_bodies_are_not_decompressed(client):
    reply = await client("POST", RUN, b"{}", Content_Encoding="gzip")
    assert reply.body == b"{}"


async def test_bodies_beyond_all_limits_are_refused(client):
    reply = await client("POST", RUN, b"x" * (40 * 1024 * 1024 + 1))
    assert reply.status == 413


async def test_what_is_nobodys_is_not_found(client):
    for path in ("/", "/2015-03-31", "/2023-03-30", "/2024-01-01/functions/f/invocations"):
        assert (await client("POST", path)).status == 404


async def test_a_provider_without_an_account_is_not_emulated(start):
    client = await start(ACCOUNTS.partition("[accounts.fc]")[0])
    assert (await client.event()).status == 202
    assert (await client.task("t")).status == 404


async def test_an_accounts_keys_are_not_needed_by_the_other(start):
    text = ACCOUNTS.replace('"cn-shanghai"', '"cn-shanghai"\nkeys = { A = "s" }')
    client = await start(text)
    assert (await client.event()).status == 202
    reply = await client.task("t")
    assert (reply.status, reply.json["Code"]) == (400, "MissingRequiredHeader")


async def test_invocations_in_flight_are_no_tasks(client):
    client.emulator.cloud.accounts["aws"].fleet.change(0, quota=1000)
    await client.event()
    before = len(asyncio.all_tasks())
    for _ in range(100):
        await client.event()
    assert client.emulator.statistics()["aws"].running == 101
    assert len(asyncio.all_tasks()) <= before


async def test_serve_says_when_it_listens_and_runs_until_cancelled():
    urls: asyncio.Queue[str] = asyncio.Queue()
    serving = asyncio.create_task(serve(Settings(), "127.0.0.1", 0, urls.put_nowait))
    url = await urls.get()
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/_emulator/statistics") as reply:
            assert reply.status == 200
        port = int(url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            await serve(Settings(), "127.0.0.1", port)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


async def test_stopping_does_not_wait_for_functions(client):
    loop = asyncio.get_running_loop()
    async with Emulator() as emulator, aiohttp.ClientSession() as session:
        body = msgspec.json.encode({"emulate": {"duration_s": 800}})
        call = asyncio.create_task(session.post(emulator.url + RUN, data=body))
        await asyncio.sleep(1)
        stopped_at = loop.time()
    with pytest.raises(aiohttp.ClientError):
        await call
    assert loop.time() - stopped_at < 1


# -- Faults ---------------------------------------------------------------------------------------


def inject(client, **fields):
    client.emulator.faults.replace([Fault(**{"next": 1, **fields})])


async def test_a_hanging_request_is_never_processed(client):
    loop = asyncio.get_running_loop()
    inject(client, kind="hang", delay_s=50)
    begun = loop.time()
    with pytest.raises(aiohttp.ClientError):
        await client.event()
    assert loop.time() - begun == pytest.approx(50)
    assert client.emulator.statistics()["aws"].accepted_async == 0


@pytest.mark.parametrize(("kind", "accepted"), [("reset_before", 0), ("reset_after", 1)])
async def test_a_reset_before_or_after_the_processing(client, kind, accepted):
    inject(client, kind=kind)
    with pytest.raises(aiohttp.ClientError):
        await client.event()
    assert client.emulator.statistics()["aws"].accepted_async == accepted


async def test_a_slow_reply_comes_after_the_processing(client):
    loop = asyncio.get_running_loop()
    inject(client, kind="slow", delay_s=7)
    begun = loop.time()
    assert (await client.event()).status == 202
    assert loop.time() - begun == pytest.approx(7)
    [run] = client.emulator.cloud.runs
    assert run.started_at == pytest.approx(begun)


@pytest.mark.parametrize(
    ("fields", "status", "body"),
    [
        ({"kind": "html"}, 502, b"<html>"),
        ({"kind": "html", "status": 503}, 503, b"<html>"),
        ({"kind": "empty"}, 500, b""),
        ({"kind": "error"}, 500, b"ServiceException"),
        ({"kind": "error", "status": 503}, 503, b"Unavailable"),
        ({"kind": "forbidden"}, 403, b"AccessDenied"),
        ({"kind": "throttle"}, 429, b"ConcurrentInvocationLimitExceeded"),
        ({"kind": "throttle", "code": "CallerRateLimitExceeded"}, 429, b"CallerRate"),
    ],
)
async def test_errors_of_every_shape_on_lambda(client, fields, status, body):
    inject(client, **fields)
    reply = await client.event()
    assert reply.status == status
    assert body in reply.body + reply.headers.get("x-amzn-ErrorType", "").encode()
    assert (await client.event()).status == 202


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"kind": "error"}, 500, "InternalServerError"),
        ({"kind": "error", "status": 412, "code": "CAExited"}, 412, "CAExited"),
        ({"kind": "forbidden"}, 403, "AccessDenied"),
        ({"kind": "forbidden", "code": "SignatureNotMatch"}, 403, "SignatureNotMatch"),
        ({"kind": "throttle"}, 429, "ResourceExhausted"),
        ({"kind": "throttle", "code": "ResourceThrottled"}, 503, "ResourceThrottled"),
    ],
)
async def test_errors_of_every_shape_on_fc(client, fields, status, code):
    inject(client, **fields)
    reply = await client.task("t")
    assert (reply.status, reply.json["Code"]) == (status, code)


async def test_a_throttle_may_say_when_to_come_back(client):
    inject(client, kind="throttle", retry_after_s=2.5)
    reply = await client.task("t")
    assert reply.headers["x-acs-retry-after"] == "2500"
    inject(client, kind="throttle", retry_after_s=3)
    reply = await client.event()
    assert reply.headers["Retry-After"] == "3"


@pytest.mark.parametrize(
    ("fields", "hit"),
    [
        ({"operation": "tasks"}, ["tasks"]),
        ({"operation": "any"}, ["event", "sync", "task", "tasks", "queue", "config"]),
        ({"operation": "queue"}, ["queue"]),
        ({"operation": "config"}, ["config"]),
        ({"account": "aws"}, ["event", "sync"]),
        ({"invocation_type": "async"}, ["event", "task"]),
        ({"invocation_type": "sync"}, ["sync"]),
        ({"function": "g"}, ["sync"]),
    ],
)
async def test_faults_hit_what_they_are_meant_for(client, fields, hit):
    client.emulator.faults.replace([Fault(kind="empty", status=599, probability=1, **fields)])
    replies = {
        "event": await client.event("f"),
        "sync": await client.sync("g"),
        "task": await client.task("t"),
        "tasks": await client("GET", "/2023-03-30/functions/f/async-tasks"),
        "queue": await client.sqs("ListQueues"),
        "config": await client("GET", "/2016-08-19/account-settings"),
    }
    assert [name for name, reply in replies.items() if reply.status == 599] == hit


# -- Speed ----------------------------------------------------------------------------------------


@pytest.mark.real_time
async def test_it_holds_thousands_of_requests_a_second():
    """The figure is printed; the bound is far below it, so that a busy machine passes."""
    count, workers = 2000, 50
    async with Emulator() as emulator, aiohttp.ClientSession() as session:

        async def work() -> None:
            for _ in range(count // workers):
                headers = {"X-Amz-Invocation-Type": "Event"}
                async with session.post(emulator.url + RUN, data=b"{}", headers=headers) as reply:
                    assert reply.status == 202

        begun = time.process_time()
        await asyncio.gather(*(work() for _ in range(workers)))
        cpu_s = time.process_time() - begun
        print(f"{count / cpu_s:.0f} requests per CPU second, client included")
        assert emulator.statistics()["lambda"].accepted_async == count
        assert count / cpu_s > 500
