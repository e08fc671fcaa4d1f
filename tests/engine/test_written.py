import gc
from typing import Any

import anyio

from dispatcher.core.model import Completion, Verdict
from dispatcher.engine.written import Written
from dispatcher.errors import JournalError
from dispatcher.journals.batch import Accept, Note
from tests.engine.rig import SlowToTell, rig, settings

CALLBACK = '[accounts.main.functions.cb]\ncompletion = "callback"\ninstance_concurrency = 100\n'
MANY = 300


def test_it_goes_on_with_what_it_was_given():
    went_on: list[Any] = []
    error = JournalError("broken")
    written = Written(lambda *all_of_it: went_on.append(all_of_it), (), ())
    written(None)
    written(error)
    assert went_on == [((), (), None), ((), (), error)]


async def test_the_collector_soon_looks_at_nothing_that_waits_for_a_commit():
    journal = SlowToTell(retention_s=86400)
    config = settings(account=f"requests_max = {MANY}", more=CALLBACK)
    async with rig(config, journal=journal) as r:
        tickets = [r.enqueue("cb") for _ in range(MANY)]
        await tickets[-1].accepted()
        await anyio.sleep(5)
        assert sum(r.engine.machine.accounts["main"].in_flight.values()) == MANY
        journal.untold = untold = list[Any]()
        gc.collect()
        before = len(gc.get_objects())
        for ticket in tickets:
            job = r.engine.machine.jobs[ticket.id]
            r.engine.completed(job, Completion(id=ticket.id, verdict=Verdict.FAILED))
        gc.collect(0)
        assert len(untold) == MANY
        assert len(gc.get_objects()) - before < MANY / 10
        for done in untold:
            done(None)
    assert not Accept.__struct_config__.gc
    assert not Note.__struct_config__.gc
