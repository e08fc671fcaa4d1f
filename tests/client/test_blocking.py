"""The client for code without an event loop, against a sidecar in a thread of its own."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Self

import pytest
from anyio.from_thread import start_blocking_portal
from msgspec.structs import replace

from dispatcher import errors
from dispatcher.client import BlockingClient, BlockingTicket, Unreachable
from dispatcher.core.model import Completion, Invocation, Query, State, Verdict
from tests.web.fakes import FakeEngine
from tests.web.test_api import ENDED
from tests.web.wires import serving

pytestmark = pytest.mark.real_time

JOB = Invocation(account="cn", function="resize")


class Sidecar:
    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.site = serving(self.engine)
        self.url = ""

    async def __aenter__(self) -> Self:
        site = await self.site.__aenter__()
        self.url = f"http://{site.listener.addresses[0]}"
        return self

    async def __aexit__(self, *trouble: object) -> None:
        self.engine.journal_writes.set()
        await self.site.__aexit__(None, None, None)


@pytest.fixture
def sidecar() -> Iterator[Sidecar]:
    with start_blocking_portal() as portal:
        made: Sidecar = portal.call(_made)
        with portal.wrap_async_context_manager(made):
            yield made


async def _made() -> Sidecar:
    return Sidecar()


def test_every_call_blocks_until_its_answer(sidecar):
    engine = sidecar.engine
    with BlockingClient(sidecar.url) as client:
        ticket = client.enqueue(JOB)
        assert ticket.accepted(timeout_s=60).id == ticket.id == "i000000"
        assert "i000000" in repr(ticket)
        assert ticket.state is State.WAITING
        client.complete(Completion(id=ticket.id, verdict=Verdict.SUCCEEDED, result=b"1"))
        end = ticket.ended(timeout_s=60)
        assert (end.state, end.result) == (State.SUCCEEDED, b"1")
        assert client.get(ticket.id).record.state is State.SUCCEEDED
        first, second = client.enqueue_many([JOB, replace(JOB, account="nobody")])
        assert isinstance(first, BlockingTicket)
        assert isinstance(second, errors.Invalid)
        assert client.cancel(first.id) is State.CANCELLED
        engine.put(replace(ENDED, state=State.DEAD))
        client.redrive("i1")
        assert client.redrive_dead(Query(account="cn")) == 0
        assert [view.record.id for view in client.find()] == ["i1", "i000001", "i000000"]
        assert client.accounts() == engine.accounts()
        assert client.account("cn") == engine.account("cn")
        assert client.adjust("cn", {"quota": 200}).quota == 200
        client.pause("cn")
        client.resume("cn", "resize")
        assert engine.switches == [("pause", "cn", None), ("resume", "cn", "resize")]
        with pytest.raises(errors.NotFound):
            client.get("nobody")


def test_find_asks_for_a_page_only_when_it_is_wanted(sidecar):
    for i in range(250):
        sidecar.engine.put(replace(ENDED, id=f"i{i}"))
    with BlockingClient(sidecar.url) as client:
        found = client.find()
        assert next(found).record.id == "i249"
        assert len(list(found)) == 249


def test_waits_can_be_given_up_and_begun_again(sidecar):
    sidecar.engine.journal_writes.clear()
    with BlockingClient(sidecar.url) as client:
        ticket = client.enqueue(JOB)
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            ticket.accepted(timeout_s=0.05)
        with pytest.raises(TimeoutError):
            ticket.ended(timeout_s=0.05)
        assert time.monotonic() - begun < 5
        sidecar.engine.journal_writes._loop.call_soon_threadsafe(sidecar.engine.journal_writes.set)
        assert ticket.accepted(timeout_s=60).id == "i000000"


def test_many_threads_share_one_client(sidecar):
    ids: list[str] = []

    def work(client: BlockingClient) -> None:
        ids.extend(client.enqueue(JOB).accepted(timeout_s=60).id for _ in range(10))

    with BlockingClient(sidecar.url) as client:
        threads = [threading.Thread(target=work, args=(client,)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(ids)) == 50


def test_leaving_on_an_error_does_not_wait(sidecar):
    sidecar.engine.journal_writes.clear()
    begun = time.monotonic()

    def work() -> None:
        with BlockingClient(sidecar.url) as client:
            client.enqueue(JOB)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert time.monotonic() - begun < 5


def test_errors_come_through(sidecar):
    with BlockingClient("http://127.0.0.1:1") as client, pytest.raises(Unreachable):
        client.accounts()
    client = BlockingClient(sidecar.url)
    with pytest.raises(RuntimeError, match="context manager"):
        client.accounts()
    for _ in range(2):
        with client:
            with pytest.raises(RuntimeError, match="already"):
                client.__enter__()
            assert client.accounts()
    with pytest.raises(ValueError, match="expected"):
        BlockingClient("nowhere")


async def test_it_works_inside_a_loop_too_if_somebody_insists(sidecar):
    def work() -> str:
        with BlockingClient(sidecar.url) as client:
            return client.enqueue(JOB).accepted(timeout_s=60).id

    assert await asyncio.to_thread(work) == "i000000"
