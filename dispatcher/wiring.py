"""Opens every edge that the settings name, in order, and closes them in the opposite one."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from dispatcher.config import AccountSettings, Settings
from dispatcher.core.model import Source
from dispatcher.core.statistics import COMMIT_BOUNDS_S, Histogram
from dispatcher.engine import Engine
from dispatcher.errors import first_of
from dispatcher.journals import open_journal
from dispatcher.notices import TRY_MAX_S, Notices
from dispatcher.ports import Tracker
from dispatcher.tracing import open_tracer
from dispatcher.trackers.callback import keep_key
from dispatcher.trackers.fc_tasks import FcTasks
from dispatcher.trackers.sqs_destinations import SqsDestinations
from dispatcher.transports import FcTransport, LambdaTransport, open_transport


@asynccontextmanager
async def open_engine(settings: Settings) -> AsyncIterator[Engine]:
    """
    Open the journal, then a transport and the trackers of each account; give the engine.

    The engine does not run yet. Raises `ConfigError`, `JournalLocked`, `JournalDamaged`.
    """
    try:
        async with _open_engine(settings) as engine:
            yield engine
    except BaseExceptionGroup as group:
        raise first_of(group) from group


@asynccontextmanager
async def _open_engine(settings: Settings) -> AsyncIterator[Engine]:
    commit_s = Histogram(COMMIT_BOUNDS_S)
    async with AsyncExitStack() as stack:
        journal = await open_journal(
            settings.journal, bytes_max=settings.queue.bytes_max, on_commit=commit_s.observe
        )
        stack.push_async_callback(journal.aclose)
        transports = await _open_transports(settings, stack)
        trackers: dict[str, dict[Source, Tracker]] = {}
        notices = Notices(lambda: engine.settings.callbacks)
        engine = Engine(
            settings,
            journal=journal,
            transports=transports,
            trackers=trackers,
            commit_s=commit_s,
            callback_key=await _callback_key(settings),
            tell=notices.tell,
            notices=notices.counts,
        )
        engine.tracer = await stack.enter_async_context(open_tracer(settings))
        for name, account in settings.accounts.items():
            trackers[name] = _trackers(name, account, transports[name], engine)
        async with anyio.create_task_group() as delivering:
            await delivering.start(notices.run)
            yield engine
            with anyio.move_on_after(TRY_MAX_S):
                await notices.first_tries()
            delivering.cancel_scope.cancel()


async def _callback_key(settings: Settings) -> bytes | None:
    """Return the key beside the journal; None: a journal in memory has one in memory."""
    file = settings.journal.url.removeprefix("sqlite://")
    if file == settings.journal.url:
        return None
    return await anyio.to_thread.run_sync(_key_beside, Path(file))


def _key_beside(journal: Path) -> bytes:
    """Return the key beside a journal, whatever links lead to it."""
    return keep_key(Path(f"{journal.resolve()}.callback-key"))


async def _open_transports(
    settings: Settings, stack: AsyncExitStack
) -> dict[str, FcTransport | LambdaTransport]:
    """Open all at the same time: each may wait some seconds for its account's keys."""
    transports: dict[str, FcTransport | LambdaTransport] = {}

    async def open_one(name: str, account: AccountSettings) -> None:
        transports[name] = await open_transport(account, name=name)
        stack.push_async_callback(transports[name].aclose)

    async with anyio.create_task_group() as tasks:
        for name, account in settings.accounts.items():
            tasks.start_soon(open_one, name, account)
    return transports


def _trackers(
    name: str, account: AccountSettings, transport: FcTransport | LambdaTransport, engine: Engine
) -> dict[Source, Tracker]:
    """Return what finds out the ends of the functions of one account."""
    if isinstance(transport, FcTransport):
        tasks = FcTasks(
            transport.manage, account=name, on_tracking=partial(engine.tracking_changed, name)
        )
        return {Source.TASK: tasks}
    if account.completion_queue is not None:
        return {Source.DESTINATION: SqsDestinations(account, name=name)}
    return {}


@asynccontextmanager
async def run_engine(engine: Engine) -> AsyncIterator[None]:
    """
    Run *engine* while the body runs, from its recovery to the end of its drain.

    Raises `JournalError` if the journal fails meanwhile; the body is cancelled then.
    """
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.measure_lag, name="loop lag")
            await tasks.start(engine.run, name="engine")
            tasks.start_soon(engine.recount_dead, name="recount of the dead")
            yield
            engine.stop()
            await engine.stopped()
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise first_of(group) from group
