"""One task for each send: to the cloud and back to the machine."""

import logging
from functools import partial

from dispatcher import failpoints
from dispatcher.core.callback import offer, token, wants_offer
from dispatcher.core.gates import Slot
from dispatcher.core.job import Job
from dispatcher.core.model import Call, CallType, Failure, Lost, Outcome, Refused, Source
from dispatcher.engine.forms import call_of, whose
from dispatcher.engine.recovery import Recovery

logger = logging.getLogger("dispatcher.engine")


class Sends(Recovery):
    """A pump that sends."""

    async def send(self, job: Job, slot: Slot) -> None:
        """Send one attempt and take its outcome to the machine."""
        outcome = await self._outcome(job)
        failpoints.reach("engine.after_reply")
        self._sending.discard(job)
        effects = self.machine.sent(job, slot, outcome, self.clock.now())
        if job.once:
            self.answer(job, outcome)
        self.carry_out(effects)
        self.wake()

    async def _outcome(self, job: Job) -> Outcome:
        payload = job.payload
        if payload is None:
            payload = await self.journal.payload(job.id)
            if payload is None:
                return Refused(Failure("payload_missing", "the journal has lost the payload"))
        call = call_of(job, self._with_offer(job, payload))
        failpoints.reach("engine.before_send")
        if self.tracer is None:
            return await self._sent_to(job, call)
        outcome: Outcome | None = None
        call = self.tracer.sending(job, call)
        try:
            outcome = await self._sent_to(job, call)
        finally:  # also where the drain cuts it off
            self.tracer.sent(job, outcome)
        return outcome

    async def _sent_to(self, job: Job, call: Call) -> Outcome:
        try:
            transport = self.transports[job.lane.tenant.account]
            if job.once:
                return await transport.send(call, partial(self.begin, job))
            return await transport.send(call)
        except Exception as error:
            # This should never run: transports return outcomes. It keeps a bug at one
            # provider from ending the work for all the others.
            logger.exception("transport_failed: on invocation %s", job.id, extra=whose(job))
            return Lost(Failure("internal", f"{type(error).__name__} in the transport"))

    @property
    def url_base(self) -> str:
        """Return the URL by which functions reach the HTTP API."""
        return self.settings.callbacks.url or self.listens_at

    def _with_offer(self, job: Job, payload: bytes) -> bytes:
        """Tell the function where and by which token to post its end, if it is asked to."""
        source = job.lane.function.rules.completion
        if job.type is CallType.SYNC or source is not Source.CALLBACK or not wants_offer(payload):
            return payload
        return offer(
            payload,
            url_base=self.url_base,
            token=token(self.callback_key, job.id, job.attempt),
            invocation_id=job.id,
            attempt=job.attempt,
        )

    async def stop_in_cloud(self, job: Job) -> None:
        """Have the cloud end a run."""
        if not await self.transports[job.lane.tenant.account].stop(call_of(job, b"")):
            logger.warning(
                "stop_failed: invocation %s could not be stopped in the cloud",
                job.id,
                extra=whose(job),
            )
        elif (tracker := self._tracker(job)) is not None:
            tracker.hurry(job.id)
