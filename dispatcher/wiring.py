"""Opens every edge that the settings name, in order, and closes them in the opposite one."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from dispatcher.config import Settings
from dispatcher.core.statistics import COMMIT_BOUNDS_S, Histogram
from dispatcher.engine import Engine
from dispatcher.journals import open_journal
from dispatcher.ports import Transport
from dispatcher.trackers import make_trackers
from dispatcher.transports import open_transport


@asynccontextmanager
async def open_engine(settings: Settings) -> AsyncIterator[Engine]:
    """
    Open the journal, then a transport and the trackers of each account; give the engine.

    The engine does not run yet. Raises `ConfigError`, `JournalLocked`, `JournalDamaged`.
    """
    commit_s = Histogram(COMMIT_BOUNDS_S)
    async with AsyncExitStack() as stack:
        journal = await open_journal(
            settings.journal, bytes_max=settings.queue.bytes_max, on_commit=commit_s.observe
        )
        stack.push_async_callback(journal.aclose)
        transports: dict[str, Transport] = {}
        for name, account in settings.accounts.items():
            transport = await open_transport(account, name=name)
            stack.push_async_callback(transport.aclose)
            transports[name] = transport
        yield Engine(
            settings,
            journal=journal,
            transports=transports,
            trackers={
                name: make_trackers(name, account, transports[name])
                for name, account in settings.accounts.items()
            },
            commit_s=commit_s,
        )


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
            yield
            engine.stop()
            await engine.stopped()
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise _first(group) from group


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
