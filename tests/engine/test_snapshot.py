import anyio
import pytest

from dispatcher.core.model import Failure, Invocation, Refused
from dispatcher.errors import Invalid, NotFound
from dispatcher.journals.memory import MemoryJournal
from tests.engine.rig import ScriptedTransport, rig, settings

TENANTS = "[accounts.main.tenants.web]\nweight = 2\nreserved = 1\nlimit = 3\n"


async def test_an_account_shows_who_holds_what_and_who_waits():
    async with rig(settings(more=TENANTS)) as r:
        for _ in range(5):
            r.enqueue(tenant="web")
        r.enqueue("g", tenant="other-team", delay_s=60)
        await anyio.sleep(3)
        account = r.engine.account("main")
        assert (account.quota, account.limit, account.in_use) == (4, 4, 3)
        assert (account.queued.due, account.queued.delayed) == (2, 1)
        assert account.oldest_age_s == 3
        web = account.tenants["web"]
        assert (web.weight, web.reserved, web.limit, web.in_use, web.queued) == (2, 1, 3, 3, 2)
        assert account.tenants["other-team"].queued == 1
        assert (account.functions["f"].in_use, account.functions["f"].queued) == (3, 2)
        with pytest.raises(NotFound):
            r.engine.account("nobody")
        await anyio.sleep(100)
        assert r.engine.account("main").in_use == 0


async def test_the_numbers_add_up():
    async with rig() as r:
        for _ in range(6):
            r.enqueue()
        with pytest.raises(Invalid):
            r.engine.enqueue(Invocation(account="main", function="no such name"))
        await anyio.sleep(3)
        stats = r.engine.statistics()
        assert stats.accepted == {("main", "default", "in_process"): 6}
        assert stats.rejected == {("main", "invalid"): 1}
        assert stats.in_flight == {("main", "f", "default"): 4}
        assert stats.queue_jobs[("main", "default", "due")] == 2
        assert stats.blocked_seconds == {("main", "account"): 3}
        assert stats.queue_oldest_age_s == {("main",): 3}
        await anyio.sleep(20)
        stats = r.engine.statistics()
        assert stats.ended == {("main", "f", "default", "succeeded"): 6}
        assert stats.send_attempts == {("main", "f", "ok"): 6}
        assert stats.in_flight == {("main", "f", "default"): 0}
        assert sum(stats.queue_wait_s[("main",)].counts) == 6
        assert sum(stats.run_s[("main",)].counts) == 6
        assert stats.run_s[("main",)].total == 60
        assert stats.blocked_seconds == {("main", "account"): 10}


async def test_tenants_and_functions_beyond_the_configuration_share_few_labels():
    async with rig(settings(more=TENANTS), transport=ScriptedTransport()) as r:
        r.engine.pause("main")
        for number in range(300):
            r.enqueue(f"f{number}", tenant=f"t{number}")
        await anyio.sleep(0.01)
        r.engine.resume("main")
        await anyio.sleep(5000)
        stats = r.engine.statistics()
        functions = {key[1] for key in stats.ended}
        assert len(functions) == 101
        assert "other" in functions
        assert {key[2] for key in stats.ended} == {"other"}
        assert sum(stats.ended.values()) == 300


async def test_the_loops_lag_is_measured():
    async with rig() as r:
        with anyio.move_on_after(2.05):
            await r.engine.measure_lag()
        assert sum(r.engine.statistics().loop_lag_s.counts) == 20


async def test_the_dead_that_the_journal_has_forgotten_are_not_counted_any_more():
    async with rig(journal=MemoryJournal(retention_s=100)) as r:
        r.transport.script = [Refused(Failure("refused", "no"))]
        await r.enqueue().ended()
        assert r.engine.statistics().dead_jobs == {("main",): 1}
        await anyio.sleep(200)
        await r.enqueue().ended()
        with anyio.move_on_after(61):
            await r.engine.recount_dead()
        assert r.engine.statistics().dead_jobs == {("main",): 0}
