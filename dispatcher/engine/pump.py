"""
One pump: stimuli reach the machine, its effects are carried out, then sleep until the next.

Everything happens on one event loop. There is no await between asking the machine and
carrying out what it says. A send is a task; nothing else of an invocation is.
"""

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus

from dispatcher import failpoints
from dispatcher.config import Settings, needs_restart
from dispatcher.core.backlog import Job
from dispatcher.core.callback import KEY_BYTES
from dispatcher.core.gates import Slot
from dispatcher.core.intake import Place
from dispatcher.core.machine import Effect, Finish, Launch, Machine, Return, Stop, Warn, Watch
from dispatcher.core.model import (
    CallType,
    Change,
    Completion,
    Ended,
    Failure,
    Outcome,
    Replied,
    Returned,
    Running,
    Sending,
    Source,
    State,
)
from dispatcher.engine.forms import notice_of, watched_of
from dispatcher.engine.payloads import Payloads
from dispatcher.engine.tasks import Tasks
from dispatcher.engine.times import Clock
from dispatcher.engine.written import Written
from dispatcher.errors import ConfigError, JournalError, first_of
from dispatcher.ports import Journal, Sink, Tell, Tracer, Tracker, Transport

logger = logging.getLogger("dispatcher.engine")

#: Bytes of a result that are kept; the rest of a larger one is cut off, and the record says so.
RESULT_BYTES_MAX = 1_048_576

#: Effects of one account in one turn of the loop, which is to take a few milliseconds at most.
DUE_AT_ONCE = 100

Trackers = Mapping[str, Mapping[Source, Tracker]]


class Pump:
    """Runs the machine against a journal, and a transport and trackers for each account."""

    def __init__(
        self,
        settings: Settings,
        *,
        journal: Journal,
        transports: Mapping[str, Transport],
        trackers: Trackers,
        clock: Clock | None = None,
        uniform: Callable[[], float] = random.random,
        callback_key: bytes | None = None,
        tell: Tell | None = None,
    ) -> None:
        """
        Run *settings*.

        *transports* and *trackers* go by the account's name; every account has a transport.
        *callback_key* is that of the tokens of functions; without it they end with the process.
        *tell* takes the notices for the `callback_url`s of invocations.
        """
        assert set(transports) == set(settings.accounts)
        self.settings = settings  #: in force
        self.configured = settings  #: as they were last given, without what was adjusted since
        self.clock = clock or Clock()
        self.journal = journal
        self.machine = Machine(settings.rules(), uniform)
        self.places = {
            name: Place(account.provider, account.account_id, account.region)
            for name, account in settings.accounts.items()
        }
        self.transports = transports
        self.callback_key = callback_key or secrets.token_bytes(KEY_BYTES)
        self._tell = tell
        self.tracer: Tracer | None = None  #: writes down spans; set before `run`
        self.listens_at = ""  #: the URL of the listener, once there is one
        self.recovered: dict[State, int] = {}
        self.dead: dict[str, int] = {}
        self.payloads = Payloads(on_disk=journal.on_disk)
        self.draining = False
        self.ready = False
        self._trackers = trackers
        self._stimulus = asyncio.Event()
        self._stopped = anyio.Event()
        self._broken: BaseException | None = None
        self.tasks = Tasks(self._task_ended)
        self._sending: set[Job] = set()  #: from the decision until the reply
        self._ending: set[str] = set()  #: from the decision until the end is on disk
        self._seq = 0
        self._go_on = self._recorded  # one object for all the thousands that wait for a commit

    # -- Running

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """
        Recover, then dispatch until `stop`, then let the requests in flight come back.

        Ready, in the sense of *task_status*, once recovered. Raises `JournalError` if the
        journal fails: what was accepted is safe, but nothing new is.
        """
        try:
            await self._run(task_status)
        except BaseExceptionGroup as group:
            raise first_of(group) from group
        finally:
            self.send_callers_away()
            self.send_waiters_away()
            self._stopped.set()

    async def stopped(self) -> None:
        """Return when `run` has come to its end."""
        await self._stopped.wait()

    async def _run(self, task_status: TaskStatus[None]) -> None:
        async with anyio.create_task_group() as watching:
            await self.recover()
            for account, trackers in self._trackers.items():
                for tracker in trackers.values():
                    watching.start_soon(
                        tracker.run, partial(self.report, account), name=f"tracker {account}"
                    )
            failpoints.reach("engine.recovered")
            self.ready = True
            task_status.started()
            try:
                await self._dispatch()
                self.send_callers_away()
                with anyio.move_on_after(self.settings.server.drain_max_s):
                    await self._let_sends_come_back()
            finally:
                await self.tasks.aclose()
            watching.cancel_scope.cancel()

    def stop(self) -> None:
        """Take nothing more, launch nothing more, and let `run` come to its end."""
        self.draining = True
        failpoints.reach("engine.stopping")
        self.wake()

    def wake(self) -> None:
        """Have the machine asked again soon."""
        self._stimulus.set()

    def fail(self, error: BaseException) -> None:
        """End `run` with *error*: a promise cannot be kept any more."""
        if self._broken is None:
            self._broken = error
        self.wake()

    async def _dispatch(self) -> None:
        while not self.draining:
            # Cleared before the machine is asked, so that no stimulus is lost.
            self._stimulus.clear()
            self._check()
            now = self.clock.now()
            effects = self.machine.due(now, at_most=DUE_AT_ONCE)
            self.carry_out(effects)
            if len(effects) < DUE_AT_ONCE:
                await self._sleep_until(self.machine.next_deadline(now))
            else:  # there may be more, but others have their turn first
                await anyio.lowlevel.checkpoint()
        self._check()

    async def _sleep_until(self, deadline: float | None) -> None:
        if deadline is None:
            await self._stimulus.wait()
            return
        timer = asyncio.get_running_loop().call_at(deadline, self._stimulus.set)
        try:
            await self._stimulus.wait()
        finally:
            timer.cancel()

    async def _let_sends_come_back(self) -> None:
        while self._sending or self.tasks:
            self._stimulus.clear()
            self._check()
            await self._stimulus.wait()

    def _task_ended(self, error: BaseException | None) -> None:
        if error is not None:
            self.fail(error)
        elif self.draining:
            self.wake()

    def _check(self) -> None:
        if self._broken is not None:
            raise self._broken

    def next_seq(self) -> int:
        """Return the next number in the order of acceptance."""
        self._seq += 1
        return self._seq

    # -- What an earlier process left: engine/recovery.py

    async def recover(self) -> None:
        """Take up again what is in the journal."""
        raise NotImplementedError

    # -- Effects

    def carry_out(self, effects: Sequence[Effect]) -> None:
        """Do what the machine said, in its order."""
        changes: list[Change] = []
        launches: list[Launch] = []
        finishes: list[Finish] = []
        for effect in self._journaled(effects):
            match effect:
                case Launch(job=job):
                    failpoints.reach("engine.before_sending")
                    changes.append(Sending(job.id, job.attempt, self.clock.wall_ms()))
                    launches.append(effect)
                    self._sending.add(job)
                case Watch(job=job):
                    changes.append(Running(job.id, job.request_id or "", self._sent_ms(job)))
                    self._watch(job)
                case Return(job=job, failure=failure, maybe_sent=maybe_sent):
                    # What may be in the cloud stays in `sending`: so it is after a crash, too.
                    if not maybe_sent:
                        changes.append(Returned(job.id, job.attempt, self._wakes_ms(job), failure))
                case Finish():
                    failpoints.reach("engine.before_ended")
                    changes.append(self._ended(effect))
                    finishes.append(effect)
                    self._ending.add(effect.job.id)
                case Stop(job=job):
                    self.tasks.start(self.stop_in_cloud, job)
                case Warn(event=event, account=account, failure=failure):
                    logger.error(
                        "%s: account %s: %s",
                        event,
                        account,
                        failure.message,
                        extra={"account": account},
                    )
        if changes:
            written = Written(self._go_on, tuple(launches), tuple(finishes))
            self.journal.record(tuple(changes), written)

    def _recorded(
        self, launches: Sequence[Launch], finishes: Sequence[Finish], error: JournalError | None
    ) -> None:
        """Go on with what waited for the journal."""
        if error is not None:
            self.fail(error)
            return
        if launches:
            failpoints.reach("engine.after_sending")
        for launch in launches:
            self.tasks.start(self.send, launch.job, launch.slot)
        if finishes:
            failpoints.reach("engine.after_ended")
        for finish in finishes:
            self.told(finish)
            if finish.job.callback_url is not None and self._tell is not None:
                self._tell(notice_of(finish, self.clock.wall_ms()))

    # -- Sends: engine/sends.py

    async def send(self, job: Job, slot: Slot) -> None:
        """Send one attempt and take its outcome to the machine."""
        raise NotImplementedError

    async def stop_in_cloud(self, job: Job) -> None:
        """Have the cloud end a run."""
        raise NotImplementedError

    # -- Calls that somebody waits for, which no journal knows of: engine/direct.py

    def _journaled(self, effects: Sequence[Effect]) -> Iterator[Effect]:
        """Give all other effects, and see to those of such calls in their place."""
        if self.tracer is not None:
            self.tracer.observe(effects, self.clock.now())
        for effect in effects:
            if not isinstance(effect, Warn) and effect.job.once:
                self.for_caller(effect)
            else:
                yield effect

    def for_caller(self, effect: Launch | Watch | Return | Finish | Stop) -> None:
        """Do what the machine said of such a call."""
        raise NotImplementedError

    def answer(self, job: Job, outcome: Outcome) -> None:
        """Tell its caller what came of the send."""
        raise NotImplementedError

    def begin(self, job: Job, reply: Replied, go_on: Callable[[], None]) -> Sink:
        """Tell its caller of a large reply whose body is to come."""
        raise NotImplementedError

    def send_callers_away(self) -> None:
        """Tell those whose calls still wait that nothing is sent any more."""

    # -- Watching

    def _watch(self, job: Job) -> None:
        self.payloads.forget(job)
        tracker = self._tracker(job)
        if tracker is not None:
            tracker.watch(watched_of(job, self.clock.now()))

    def _tracker(self, job: Job) -> Tracker | None:
        source = job.lane.function.rules.completion
        if source is None or job.type is CallType.SYNC:
            return None
        return self._trackers.get(job.lane.tenant.account, {}).get(source)

    def _ended(self, finish: Finish) -> Ended:
        job = finish.job
        if not finish.forced and (tracker := self._tracker(job)) is not None:
            tracker.forget(job.id)
        self.payloads.drop(job)
        if finish.state is State.DEAD:
            account = job.lane.tenant.account
            self.dead[account] = self.dead.get(account, 0) + 1
        result, failure = finish.result, finish.failure
        if result is not None and len(result) > RESULT_BYTES_MAX:
            note = f"the result has {len(result)} bytes; more than {RESULT_BYTES_MAX} are not kept"
            failure = failure or Failure("result_too_large", note)
            result = None
        return Ended(
            id=job.id,
            state=finish.state,
            at_ms=self.clock.wall_ms(),
            request_id=job.request_id,
            result=result,
            failure=failure,
            estimated=finish.estimated,
            start_delay_s=finish.start_delay_s,
        )

    # -- News: engine/news.py

    def report(self, account: str, completion: Completion, done: Callable[[], None] | None) -> None:
        """Take a tracker's news; *done* is called when the end is on disk."""
        raise NotImplementedError

    def told(self, finish: Finish) -> None:
        """Tell those who wait for the end of an invocation that it is on disk."""
        raise NotImplementedError

    def send_waiters_away(self) -> None:
        """Tell those who wait for further ends that this process will see none."""
        raise NotImplementedError

    def fail_if(self, error: JournalError | None) -> None:
        """End `run` if the journal failed."""
        if error is not None:
            self.fail(error)

    # -- Settings

    def reconfigure(self, settings: Settings) -> None:
        """
        Take new limits, functions, tenants, retry rules and clients at once.

        Raises `ConfigError`, and changes nothing, where a key needs a restart.
        """
        keys = needs_restart(self.settings, settings)
        if keys:
            raise ConfigError([(key, "changes only with a restart") for key in keys])
        adjusted = self.adjusted_accounts()
        self.configured = settings
        self._follow(settings)
        if adjusted:
            logger.warning("adjustments_dropped: in force is the configuration: %s", adjusted)

    def adjusted_accounts(self) -> list[str]:
        """Return the accounts whose rules in force are not those that were configured."""
        now, then = self.settings.accounts, self.configured.accounts
        return [name for name in now if now[name] != then[name]]

    def _follow(self, settings: Settings) -> None:
        self.settings = settings
        for name, account in settings.accounts.items():
            self.transports[name].reconfigure(account)
        self.machine.set_rules(settings.rules())
        self.wake()

    # -- Times of the wall

    def _sent_ms(self, job: Job) -> int:
        ago_s = 0.0 if job.sent_at is None else self.clock.now() - job.sent_at
        return self.clock.wall_ms() - int(ago_s * 1000)

    def _wakes_ms(self, job: Job) -> int:
        wait_s = 0.0 if job.waits_for is None else max(0.0, job.wakes_at - self.clock.now())
        return self.clock.wall_ms() + int(wait_s * 1000)
