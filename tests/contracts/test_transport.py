"""What every transport promises the engine, against the emulated cloud, which checks signatures."""

import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from msgspec import Struct, convert
from msgspec.structs import replace

from dispatcher.config import AccountSettings, StaticCredentials
from dispatcher.core.model import (
    Accepted,
    Call,
    CallType,
    Denied,
    GateKind,
    Lost,
    NotSent,
    Outcome,
    Provider,
    Refused,
    Replied,
    Throttled,
)
from dispatcher.core.rules import FunctionRules
from dispatcher.emulator import Emulator, Settings
from dispatcher.emulator.settings import Fault
from dispatcher.ports import Transport
from dispatcher.transports import FcTransport, LambdaTransport, open_transport

ACCOUNT_ID = "000000001031"
SECRET, TOKEN = "a-very-secret-secret", "a-very-secret-token"
CALL_TYPES = pytest.mark.parametrize("kind", list(CallType))


class Bed(Struct):
    """A transport, and the cloud that it sends to."""

    emulator: Emulator
    account: AccountSettings
    transport: LambdaTransport | FcTransport
    secret: Path

    def call(self, kind: CallType = CallType.ASYNC, **fields: Any) -> Call:
        whole = {"function": "f", "qualifier": None, "task_id": "i_1", "payload": b'{"a":1}'}
        return Call(**{**whole, "type": kind, **fields})

    async def send(self, kind: CallType = CallType.ASYNC, **fields: Any) -> Outcome:
        return await self.transport.send(self.call(kind, **fields))

    def fault(self, kind: str, **fields: Any) -> None:
        self.emulator.faults.add(convert({"kind": kind, "next": 1, **fields}, Fault))

    @property
    def counted(self):
        return self.emulator.statistics()["cloud"]


@asynccontextmanager
async def bed(provider: Provider, folder: Path, **rules: Any) -> AsyncIterator[Bed]:
    """Open a transport with temporary keys to an emulated account that knows them."""
    who = {"provider": provider.value, "account_id": ACCOUNT_ID, "region": "cn-north-1"}
    function = {"duration_s": 1.0, "max_async_retry_attempts": 0}
    cloud = {
        **who,
        "quota": 3,
        "keys": {"AK": SECRET},
        "session_tokens": {"AK": TOKEN},
        "functions": {"*": function, "mine": {**function, "reserved": 1}},
        **rules,
    }
    secret = folder / "secret"
    secret.write_text(SECRET)
    (folder / "token").write_text(TOKEN)
    async with Emulator(convert({"accounts": {"cloud": cloud}, "seed": 1}, Settings)) as emulator:
        account = AccountSettings(
            provider=provider,
            account_id=ACCOUNT_ID,
            region="cn-north-1",
            quota=2,
            endpoint=emulator.url,
            functions={"*": FunctionRules(hold_max_s=60.0)},
            credentials=StaticCredentials(
                access_key_id="AK",
                access_key_secret_file=str(secret),
                security_token_file=str(folder / "token"),
            ),
        )
        async with aclosing(await open_transport(account, name="test")) as transport:
            yield Bed(emulator, account, transport, secret)


@pytest.fixture(params=list(Provider))
async def cloud(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bed]:
    async with bed(request.param, tmp_path) as made:
        yield made


async def test_it_is_the_port(cloud: Bed):
    port: Transport = cloud.transport
    assert port.payload_max_bytes(CallType.ASYNC) < port.payload_max_bytes(CallType.SYNC)


# -- What is good ---------------------------------------------------------------------------------


async def test_an_asynchronous_call_is_accepted_at_once_and_runs_once(cloud: Bed):
    before = anyio.current_time()
    outcome = await cloud.send()
    assert isinstance(outcome, Accepted)
    assert outcome.request_id
    assert anyio.current_time() == before
    await anyio.sleep(5)
    # The cloud itself has counted it as asynchronous.
    assert (cloud.counted.accepted_async, cloud.counted.accepted_sync) == (1, 0)
    assert (cloud.counted.runs, cloud.counted.succeeded) == (1, 1)
    (run,) = cloud.emulator.cloud.runs
    assert run.request_id == outcome.request_id


async def test_a_synchronous_call_brings_the_result(cloud: Bed):
    before = anyio.current_time()
    outcome = await cloud.send(CallType.SYNC, options={"log_type": "Tail"})
    assert isinstance(outcome, Replied)
    assert (outcome.payload, outcome.failure, outcome.status) == (b'{"a":1}', None, 200)
    assert outcome.request_id
    assert any("log-result" in name.lower() for name, _ in outcome.headers)
    assert anyio.current_time() - before == pytest.approx(1.0)
    assert (cloud.counted.accepted_async, cloud.counted.accepted_sync) == (0, 1)


async def test_a_function_that_fails_has_replied(cloud: Bed):
    payload = b'{"emulate":{"fail":true}}'
    outcome = await cloud.send(CallType.SYNC, payload=payload)
    assert isinstance(outcome, Replied)
    assert outcome.failure is not None
    assert outcome.failure.kind == "function_error"
    assert outcome.payload


@pytest.mark.parametrize("payload", [b"", b"{}", b'"' + b"x" * 100_000 + b'"'])
@CALL_TYPES
async def test_payloads_arrive_to_the_byte(cloud: Bed, payload: bytes, kind: CallType):
    assert isinstance(await cloud.send(kind, payload=payload), Accepted | Replied)
    await anyio.sleep(5)
    (run,) = cloud.emulator.cloud.runs
    assert run.succeeded
    assert run.payload_head == payload[:256]


@pytest.mark.parametrize("qualifier", [None, "live", "$LATEST", "7"])
async def test_qualifiers_and_names(cloud: Bed, qualifier: str | None):
    assert isinstance(await cloud.send(qualifier=qualifier), Accepted)
    odd = {
        Provider.AWS_LAMBDA: f"arn:aws-cn:lambda:cn-north-1:{ACCOUNT_ID}:function:f",
        Provider.ALIYUN_FC: "my-service$f",
    }[cloud.account.provider]
    assert isinstance(await cloud.send(function=odd, task_id="i_2"), Accepted)
    await anyio.sleep(5)
    ran = [run.function for run in cloud.emulator.cloud.runs]
    assert ran == ["f", odd.rpartition(":")[2]]


async def test_many_at_once(cloud: Bed):
    outcomes: list[Outcome] = []

    async def one(number: int):
        outcomes.append(await cloud.send(task_id=f"i_{number}"))

    async with anyio.create_task_group() as tasks:
        for number in range(300):
            tasks.start_soon(one, number)
    accepted = [outcome for outcome in outcomes if isinstance(outcome, Accepted)]
    assert len({outcome.request_id for outcome in accepted}) == 300
    assert cloud.counted.accepted_async == 300


# -- What the cloud refuses -----------------------------------------------------------------------


async def test_a_full_account_throttles_by_name(cloud: Bed):
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(cloud.send, CallType.SYNC)
        await anyio.sleep(0.5)
        outcome = await cloud.send(CallType.SYNC)
    assert isinstance(outcome, Throttled)
    assert outcome.gate is GateKind.ACCOUNT
    assert outcome.reason in ("ConcurrentInvocationLimitExceeded", "ResourceExhausted")
    assert sum(cloud.counted.throttles_sync.values()) == 1
    assert outcome.reason in cloud.counted.throttles_sync


async def test_a_full_function_throttles_by_name(cloud: Bed):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: cloud.send(CallType.SYNC, function="mine"))
        await anyio.sleep(0.5)
        outcome = await cloud.send(CallType.SYNC, function="mine")
    assert isinstance(outcome, Throttled)
    assert outcome.gate is GateKind.FUNCTION


@pytest.mark.parametrize("provider", list(Provider))
async def test_too_many_requests_throttle_the_rate(provider: Provider, tmp_path: Path):
    async with bed(provider, tmp_path, rate_max_per_s=1.0) as cloud:
        outcomes = [await cloud.send(task_id=f"i_{number}") for number in range(10)]
    throttled = [outcome for outcome in outcomes if isinstance(outcome, Throttled)]
    assert throttled
    assert {outcome.gate for outcome in throttled} == {GateKind.RATE}


@CALL_TYPES
async def test_a_wait_that_the_cloud_asks_for_is_told(cloud: Bed, kind: CallType):
    cloud.fault("throttle", retry_after_s=7)
    outcome = await cloud.send(kind)
    assert isinstance(outcome, Throttled)
    assert outcome.retry_after_s == 7.0


@CALL_TYPES
async def test_an_unknown_function_is_refused(tmp_path: Path, request, kind: CallType):
    for provider in Provider:
        async with bed(provider, tmp_path, unlisted=False) as cloud:
            outcome = await cloud.send(kind, function="nobody")
        assert isinstance(outcome, Refused)
        assert outcome.failure.status == 404
        assert outcome.failure.reason in ("ResourceNotFoundException", "FunctionNotFound")


@pytest.mark.real_time  # the kernel takes its time with so many bytes
@CALL_TYPES
async def test_a_payload_of_the_largest_size_passes_and_one_more_byte_does_not(
    cloud: Bed, kind: CallType
):
    largest = cloud.transport.payload_max_bytes(kind)
    start, end = b'{"emulate":{"duration_s":0},"x":"', b'"}'
    filling = b"x" * (largest - len(start) - len(end))
    payload = start + filling + end
    assert isinstance(await cloud.send(kind, payload=payload), Accepted | Replied)
    outcome = await cloud.send(kind, payload=start + b"x" + filling + end, task_id="i_2")
    assert isinstance(outcome, Refused)
    assert outcome.failure.status in (400, 413)


# -- What goes wrong on the way -------------------------------------------------------------------


@CALL_TYPES
@pytest.mark.parametrize("fault", ["reset_before", "reset_after", "error", "html", "empty"])
async def test_nobody_knows_after_a_fault_on_the_way(cloud: Bed, kind: CallType, fault: str):
    cloud.fault(fault)
    outcome = await cloud.send(kind)
    assert isinstance(outcome, Lost)
    assert not outcome.timed_out
    assert cloud.emulator.faults.counts[fault] == 1  # and it was not sent twice
    assert isinstance(await cloud.send(kind, task_id="i_2"), Accepted | Replied)


@CALL_TYPES
async def test_nobody_knows_after_silence(cloud: Bed, kind: CallType):
    cloud.fault("hang")
    outcome = await cloud.send(kind)
    assert isinstance(outcome, Lost)
    assert outcome.timed_out
    # Not before a function may have come to its end.
    assert (anyio.current_time() > 60) is (kind is CallType.SYNC)
    assert anyio.current_time() < 120


@CALL_TYPES
async def test_a_slow_reply_is_waited_for(cloud: Bed, kind: CallType):
    cloud.fault("slow", delay_s=8.0)
    assert isinstance(await cloud.send(kind), Accepted | Replied)


async def test_nothing_is_sent_to_nobody(cloud: Bed):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        account = replace(cloud.account, endpoint=endpoint)
        async with aclosing(await open_transport(account, name="nobody")) as transport:
            for kind in CallType:
                assert isinstance(await transport.send(cloud.call(kind)), NotSent)


async def test_a_cancelled_send_hangs_up(cloud: Bed):
    with anyio.move_on_after(0.5) as scope:
        await cloud.send(CallType.SYNC)
    assert scope.cancelled_caught
    await anyio.lowlevel.checkpoint()
    assert isinstance(await cloud.send(), Accepted)


async def test_what_is_closed_sends_nothing(cloud: Bed):
    async with anyio.create_task_group() as tasks:
        outcomes: list[Outcome] = []

        async def one():
            outcomes.append(await cloud.send(CallType.SYNC))

        tasks.start_soon(one)
        await anyio.sleep(0.5)
        await cloud.transport.aclose()
    assert isinstance(outcomes[0], Lost)
    assert isinstance(await cloud.send(), NotSent)
    await cloud.transport.aclose()


# -- Keys -----------------------------------------------------------------------------------------


@CALL_TYPES
async def test_a_refusal_is_tried_once_more_with_the_keys_read_again(cloud: Bed, kind: CallType):
    cloud.fault("forbidden")
    assert isinstance(await cloud.send(kind), Accepted | Replied)
    cloud.fault("forbidden", next=2)
    await anyio.sleep(60)
    assert isinstance(await cloud.send(kind, task_id="i_2"), Denied)
    assert cloud.emulator.faults.counts["forbidden"] == 3


async def test_a_wrong_secret_is_denied_until_it_is_right(cloud: Bed, caplog):
    cloud.secret.write_text("wrong-secret")
    await anyio.sleep(61)
    outcome = await cloud.send()
    assert isinstance(outcome, Denied)
    assert outcome.failure.status == 403
    assert cloud.counted.accepted_async == 0
    cloud.secret.write_text(SECRET)
    await anyio.sleep(31)
    assert isinstance(await cloud.send(), Accepted)
    for text in (repr(outcome), caplog.text):
        assert SECRET not in text
        assert TOKEN not in text
        assert "wrong-secret" not in text


async def test_all_who_are_refused_wait_for_one_renewal(cloud: Bed):
    cloud.secret.write_text("wrong-secret")
    await anyio.sleep(61)
    cloud.secret.write_text(SECRET)
    outcomes: list[Outcome] = []

    async def one(number: int):
        outcomes.append(await cloud.send(task_id=f"i_{number}"))

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(one, number)
    assert {type(outcome) for outcome in outcomes} == {Accepted}


# -- Tasks ----------------------------------------------------------------------------------------


async def test_a_running_task_can_be_stopped_where_the_cloud_can(cloud: Bed):
    call = cloud.call()
    assert await cloud.transport.stop(call) is False  # there is none yet
    assert isinstance(await cloud.transport.send(call), Accepted)
    await anyio.sleep(0.5)
    can = cloud.account.provider is Provider.ALIYUN_FC
    assert await cloud.transport.stop(call) is can
    await anyio.sleep(5)
    assert cloud.counted.stopped == int(can)


async def test_a_repeated_task_runs_once_where_the_cloud_knows_it(cloud: Bed):
    cloud.fault("reset_after")
    assert isinstance(await cloud.send(), Lost)
    assert isinstance(await cloud.send(), Accepted)
    await anyio.sleep(5)
    assert cloud.counted.runs == (1 if cloud.account.provider is Provider.ALIYUN_FC else 2)


async def test_tasks_can_be_looked_at(tmp_path: Path):
    async with bed(Provider.ALIYUN_FC, tmp_path) as cloud:
        assert isinstance(cloud.transport, FcTransport)
        await cloud.send(function="s$f")
        path = ("functions", "s$f", "async-tasks")
        one = await cloud.transport.manage("GetAsyncTask", "GET", (*path, "i_1"))
        some = await cloud.transport.manage("ListAsyncTasks", "GET", path, {"prefix": "i_"})
        none = await cloud.transport.manage("GetAsyncTask", "GET", (*path, "i_2"))
    assert isinstance(one, tuple)
    assert one[0] == 200
    assert b'"Running"' in one[2]
    assert isinstance(some, tuple)
    assert b'"i_1"' in some[2]
    assert isinstance(none, tuple)
    assert none[0] == 404


async def test_options_are_only_those_of_the_provider(cloud: Bed):
    call = replace(cloud.call(), options={"colour": "blue"})
    assert isinstance(await cloud.transport.send(call), Refused)
    assert cloud.counted.accepted_async == 0
