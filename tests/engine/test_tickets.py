import anyio
import pytest

from dispatcher.core.model import State
from dispatcher.core.views import End
from dispatcher.engine.tickets import Ticket
from dispatcher.errors import QueueFull


class Ended:
    """Knows every invocation as ended."""

    async def state_of(self, invocation_id: str) -> State:
        return State.SUCCEEDED

    async def end_of(self, invocation_id: str) -> End:
        return End(id=invocation_id, state=State.SUCCEEDED)


def ticket() -> Ticket:
    return Ticket("i1", Ended())


async def test_all_who_wait_are_told():
    one = ticket()
    told = []

    async def wait() -> None:
        told.append(await one.accepted())

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(wait)
        await anyio.sleep(1)
        assert told == []
        one.settle("i0")
    assert [(acceptance.id, acceptance.duplicate) for acceptance in told] == [("i0", True)] * 3
    assert one.id == "i0"


async def test_waiting_can_be_given_up_and_begun_again():
    one = ticket()
    with anyio.move_on_after(1):
        await one.accepted()
    one.settle("i0")
    assert (await one.accepted()).state is State.SUCCEEDED


async def test_a_refusal_is_raised_each_time_it_is_asked_for():
    one = ticket()
    one.settle(QueueFull("full"))
    for _ in range(2):
        with pytest.raises(QueueFull):
            await one.accepted()
    with pytest.raises(QueueFull):
        await one.ended()
    assert one.state is State.WAITING


async def test_a_verdict_is_given_once():
    one = ticket()
    one.settle("i0")
    with pytest.raises(AssertionError):
        one.settle("i0")
