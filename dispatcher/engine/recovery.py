"""What an earlier process left in the journal, taken up again."""

import logging

import anyio.lowlevel

from dispatcher import failpoints
from dispatcher.core.model import Record, State
from dispatcher.engine.pump import Pump
from dispatcher.engine.times import job_of

logger = logging.getLogger("dispatcher.engine")

#: Invocations that are taken up again in one turn of the loop.
RESTORE_AT_ONCE = 200


class Recovery(Pump):
    """A pump that begins with what is in its journal."""

    async def recover(self) -> None:
        """Take up again what is in the journal, a part in each turn of the loop."""
        self.dead = await self.journal.dead()
        for pause in await self.journal.paused():
            if pause.account in self.machine.accounts:
                self.machine.pause(pause.account, pause.function, paused=True)
                logger.warning("still_paused: %s: as it was before the restart", pause.name)
        async for batch in self.journal.recover():
            now = self.clock.now()
            for number, (record, payload) in enumerate(batch, start=1):
                self._restore(record, payload, now)
                if number % RESTORE_AT_ONCE == 0:
                    await anyio.lowlevel.checkpoint()
            failpoints.reach("engine.recovering")
            await anyio.lowlevel.checkpoint()

    def _restore(self, record: Record, payload: bytes | None, now: float) -> None:
        account = self.machine.accounts.get(record.account)
        if record.state is State.UNCERTAIN:
            return  # its end may still be told, by its id
        if account is None:
            logger.error(
                "account_gone: invocation %s stays in the journal: there is no account %r any more",
                record.id,
                record.account,
                extra={"invocation": record.id, "account": record.account},
            )
            return
        job = job_of(record, payload, account, self.next_seq(), self.clock.moment())
        self.payloads.keep(job)
        self.recovered[record.state] = self.recovered.get(record.state, 0) + 1
        if record.state is State.WAITING:
            self.machine.admit(job, now)
            return
        sent_ago_s = max(0.0, (self.clock.wall_ms() - (record.sent_ms or 0)) / 1000)
        self.carry_out(self.machine.restore(job, record.state, sent_ago_s, now))
