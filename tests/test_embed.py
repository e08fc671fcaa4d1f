import threading
from pathlib import Path

import anyio
import pytest
from prometheus_client import CollectorRegistry, generate_latest

import dispatcher
from dispatcher import (
    ConfigError,
    Dispatcher,
    Draining,
    Invalid,
    Invocation,
    JournalLocked,
    Query,
    QueueFull,
    State,
    Ticket,
)
from dispatcher.core.model import CallType
from dispatcher.emulator import Emulator
from dispatcher.emulator import parse as parse_cloud

CLOUD = """
[accounts.fc]
provider = "aliyun-fc"
account_id = "1031234567890123"
region = "cn-shanghai"
quota = 5
[accounts.fc.functions."*"]
duration_s = 0.05
"""

CONFIG = """
[journal]
url = "{journal}"

[queue]
jobs_max = {jobs_max}

[accounts.cn-prod]
provider = "aliyun-fc"
account_id = "1031234567890123"
region = "cn-shanghai"
quota = 5
endpoint = "{endpoint}"
credentials = {{ source = "static", access_key_id = "AK", access_key_secret_file = "secret" }}

[accounts.cn-prod.functions."*"]
completion = "duration"
duration_s = 0.2
"""

pytestmark = pytest.mark.real_time


def config(folder: Path, endpoint: str, *, journal: str = "memory:", jobs_max: int = 1000) -> Path:
    secret = folder / "secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)
    path = folder / "dispatcher.toml"
    path.write_text(CONFIG.format(journal=journal, endpoint=endpoint, jobs_max=jobs_max))
    return path


async def test_the_example_of_the_design(tmp_path):
    async with Emulator(parse_cloud(CLOUD)) as cloud:
        path = config(tmp_path, cloud.url)
        async with Dispatcher.from_file(path) as d:
            ticket = d.enqueue(
                Invocation(
                    account="cn-prod",
                    function="m42-ng-fc$surf2surf",
                    payload=b"{}",
                    tenant="research",
                )
            )
            accepted = await ticket.accepted()
            assert not accepted.duplicate
            ended = await ticket.ended()
            assert (ended.state, ended.error, ended.estimated) == ("succeeded", None, True)
            assert ticket.state is State.SUCCEEDED
        assert cloud.statistics()["fc"].accepted_async == 1


async def test_what_is_left_at_the_end_is_there_at_the_next_start(tmp_path):
    async with Emulator(parse_cloud(CLOUD)) as cloud:
        path = config(tmp_path, cloud.url, journal="sqlite:journal.db")
        async with Dispatcher.from_file(path) as d:
            d.adjust("cn-prod", {"tenants": {"research": {"weight": 3}}})
            assert d.accounts()[0].tenants["research"].weight == 3.0
            d.pause("cn-prod")
            ticket = d.enqueue(Invocation(account="cn-prod", function="f", payload=b"1"))
            await ticket.accepted()
            with pytest.raises(JournalLocked):
                async with Dispatcher.from_file(path):
                    pass
        async with Dispatcher.from_file(path) as d:
            assert [account.paused for account in d.accounts()] == [True]
            d.resume("cn-prod")
            with anyio.fail_after(60):
                while (await d.get(ticket.id)).record.state is not State.SUCCEEDED:  # noqa: ASYNC110 -- polled over the API
                    await anyio.sleep(0.02)
        assert cloud.statistics()["fc"].accepted_async == 1


async def test_a_wrong_configuration_opens_nothing(tmp_path):
    path = config(tmp_path, "ftp://nowhere")
    with pytest.raises(ConfigError, match=r"accounts\.cn-prod\.endpoint"):
        async with Dispatcher.from_file(path):
            pass


async def test_outside_the_context_it_says_what_to_do(tmp_path):
    d = Dispatcher.from_file(config(tmp_path, "http://127.0.0.1:1"))
    with pytest.raises(RuntimeError, match="async with"):
        d.enqueue(Invocation(account="cn-prod", function="f"))


async def test_it_is_entered_once_at_a_time(tmp_path):
    path = config(tmp_path, "http://127.0.0.1:1", journal="sqlite:journal.db")
    d = Dispatcher.from_file(path)
    for _ in range(2):
        async with d:
            with pytest.raises(RuntimeError, match="already"):
                await d.__aenter__()
            d.pause("cn-prod")
            await d.enqueue(Invocation(account="cn-prod", function="f")).accepted()
        with pytest.raises(Draining):
            d.enqueue(Invocation(account="cn-prod", function="f"))
    secret = tmp_path / "secret"
    secret.rename(tmp_path / "elsewhere")
    for _ in range(2):
        with pytest.raises(ConfigError):
            await d.__aenter__()


def test_in_a_thread_it_is_entered_once_at_a_time_too(tmp_path):
    d = Dispatcher.in_thread(config(tmp_path, "http://127.0.0.1:1"))
    with pytest.raises(RuntimeError, match="with"):
        d.accounts()
    for _ in range(2):
        with d:
            with pytest.raises(RuntimeError, match="already"):
                d.__enter__()
            d.pause("cn-prod")
            ticket = d.enqueue(Invocation(account="cn-prod", function="f"))
            ticket.accepted(timeout_s=60)
            (view,), following = d.find(Query(account="cn-prod"))
            assert (view.record.id, following) == (ticket.id, None)
            assert d.redrive_dead(Query()) == 0
        with pytest.raises(RuntimeError, match="with"):
            d.accounts()
        with pytest.raises(Draining):
            d.enqueue(Invocation(account="cn-prod", function="f"))


async def test_what_has_a_wrong_type_is_refused_before_anything_has_it(tmp_path):
    path = config(tmp_path, "http://127.0.0.1:1", journal="sqlite:journal.db")
    text = Invocation(account="cn-prod", function="f", payload="text")  # type: ignore[arg-type]
    spelled = Invocation(account="cn-prod", function="f", type="sync")  # type: ignore[arg-type]
    async with Dispatcher.from_file(path) as d:
        d.pause("cn-prod")
        with pytest.raises(Invalid, match="expected bytes, got str"):
            d.enqueue(text)
        refused, ticket = d.enqueue_many([text, spelled])
        assert isinstance(refused, Invalid)
        assert isinstance(ticket, Ticket)
        await ticket.accepted()
        assert (await d.get(ticket.id)).record.type is CallType.SYNC


async def test_leaving_by_an_error_closes_everything(tmp_path):
    path = config(tmp_path, "http://127.0.0.1:1", journal="sqlite:journal.db")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            async with Dispatcher.from_file(path):
                raise ZeroDivisionError


QUOTA = b'dispatcher_instances_quota{account="cn-prod"} 5.0'


async def test_the_program_may_show_the_metrics_in_its_own_registry(tmp_path):
    registry = CollectorRegistry()
    path = config(tmp_path, "http://127.0.0.1:1")
    for _ in range(2):
        async with Dispatcher.from_file(path) as d:
            d.register_metrics(registry)
            assert QUOTA in generate_latest(registry)
            with pytest.raises(ValueError, match="dispatcher_"):
                d.register_metrics(registry)
        assert generate_latest(registry) == b""


def test_the_metrics_of_a_dispatcher_in_a_thread_are_taken_on_its_loop(tmp_path):
    registry = CollectorRegistry()
    with Dispatcher.in_thread(config(tmp_path, "http://127.0.0.1:1")) as d:
        d.register_metrics(registry)
        assert QUOTA in generate_latest(registry)
    assert generate_latest(registry) == b""


def test_code_without_a_loop(tmp_path):
    started = threading.Event()
    stop = threading.Event()
    url: list[str] = []

    async def cloud() -> None:
        async with Emulator(parse_cloud(CLOUD)) as emulator:
            url.append(emulator.url)
            started.set()
            while not stop.is_set():  # noqa: ASYNC110 -- another thread sets it
                await anyio.sleep(0.01)

    thread = threading.Thread(target=anyio.run, args=(cloud,))
    thread.start()
    try:
        assert started.wait(60)
        path = config(tmp_path, url[0], jobs_max=50)
        with Dispatcher.in_thread(path) as d:
            d.pause("cn-prod")
            ticket = d.enqueue(Invocation(account="cn-prod", function="f", payload=b"{}"))
            assert ticket.accepted(timeout_s=60).id == ticket.id
            with pytest.raises(TimeoutError):
                ticket.ended(timeout_s=0.001)
            d.resume("cn-prod")
            assert ticket.ended(timeout_s=60).state is State.SUCCEEDED
            assert d.get(ticket.id).record.state is State.SUCCEEDED

            d.pause("cn-prod")
            taken: list[bool] = []

            def many() -> None:
                for _ in range(20):
                    try:
                        d.enqueue(Invocation(account="cn-prod", function="f"))
                        taken.append(True)
                    except QueueFull:
                        taken.append(False)

            threads = [threading.Thread(target=many) for _ in range(4)]
            for one in threads:
                one.start()
            for one in threads:
                one.join()
            assert taken.count(True) == 50, "exactly jobs_max, from whichever thread"
            d.resume("cn-prod")
    finally:
        stop.set()
        thread.join()


def test_the_public_names_are_there():
    for name in dispatcher.__all__:
        assert getattr(dispatcher, name) is not None
