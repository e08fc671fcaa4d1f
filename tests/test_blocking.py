import threading

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from dispatcher.blocking import BlockingTicket
from dispatcher.core.model import State
from dispatcher.core.views import Acceptance, End

pytestmark = pytest.mark.real_time


class Slow:
    """A ticket that is on disk, and ends when it is told to."""

    id = "i1"
    state = State.WAITING

    def __init__(self) -> None:
        self.is_over = threading.Event()
        self.given_up = threading.Event()

    def __repr__(self) -> str:
        return "<Slow>"

    async def accepted(self) -> Acceptance:
        return Acceptance(self.id, self.state, duplicate=False)

    async def ended(self) -> End:
        try:
            while not self.is_over.is_set():  # noqa: ASYNC110 -- another thread sets it
                await anyio.sleep(0.005)
        except BaseException:
            self.given_up.set()
            raise
        return End(id=self.id, state=State.SUCCEEDED)


def test_a_wait_that_takes_too_long_is_given_up_on_the_loop_too_and_can_begin_again():
    slow = Slow()
    with start_blocking_portal() as portal:
        ticket = BlockingTicket(slow, portal)
        assert (ticket.id, ticket.state, repr(ticket)) == ("i1", State.WAITING, "<Slow>")
        assert ticket.accepted().id == "i1"
        with pytest.raises(TimeoutError):
            ticket.ended(timeout_s=0.01)
        assert slow.given_up.wait(60)
        slow.is_over.set()
        assert ticket.ended(timeout_s=60).state is State.SUCCEEDED
