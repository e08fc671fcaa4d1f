"""
The sidecar: opens everything, listens, obeys signals, and stops in order.

The order of the stop, written down once: SIGTERM or SIGINT -> new work is refused (503) ->
nothing more is launched -> requests in flight come back, for `server.drain_max_s` at most
-> trackers end -> listeners close -> transports close -> the journal closes last. The
listeners stay open that long so that functions can still tell their ends and callers get an
answer instead of a refused connection. A second signal ends the process at once: the journal
has what matters.
"""

import gc
import importlib.util
import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from dispatcher.config import Settings, load, needs_restart, warnings
from dispatcher.engine import Engine
from dispatcher.errors import ConfigError
from dispatcher.metrics import make_registry, render
from dispatcher.systemd import Notifier
from dispatcher.web import (
    App,
    Clients,
    IngressFc,
    IngressLambda,
    Listener,
    dashboard,
    make_app,
    make_metrics_app,
)
from dispatcher.wiring import open_engine, run_engine

logger = logging.getLogger("dispatcher.service")

#: After this long past the drain's own bound the process ends even if something hangs.
LAST_WORD_S: Final = 10.0


async def serve(path: Path, *, on_ready: Callable[[tuple[str, ...]], None] | None = None) -> None:
    """
    Run the sidecar by the configuration at *path* until a signal has ended it.

    *on_ready* gets the addresses that it listens on once it is ready for work. Raises
    `ConfigError`, `JournalLocked`, `JournalDamaged`, `JournalError`, and `OSError` for an
    address that cannot be had.
    """
    manager = Notifier()
    settings = await anyio.to_thread.run_sync(load, path)
    for problem in warnings(settings):
        logger.warning("config_warning: %s: %s", *problem)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(open_engine(settings))
        registry = make_registry(engine.statistics)

        async def metrics(accept: str | None) -> tuple[bytes, str]:
            return await render(registry, accept)

        clients = Clients()
        clients.take(settings, await clients.read(settings))
        drop_in = (*IngressLambda(engine, clients).routes(), *IngressFc(engine, clients).routes())
        more_routes = (*drop_in, *dashboard.routes(engine))
        apps = [make_app(engine, settings.server, metrics=metrics, more_routes=more_routes)]
        listener = await stack.enter_async_context(Listener(apps[0], settings.server.listen))
        addresses = listener.addresses
        if settings.metrics.listen is not None:
            apps.append(make_metrics_app(settings.server, metrics, engine))
            extra = Listener(apps[1], (settings.metrics.listen,))
            addresses += (await stack.enter_async_context(extra)).addresses
        engine.listens_at = _url_of(addresses)
        logger.info("listening: %s", ", ".join(addresses))
        async with anyio.create_task_group() as tasks:
            again = partial(reload, path, engine, apps, clients)
            await tasks.start(_obey_signals, again, engine, tasks, manager)
            # From here on: a journal of millions takes its time to be read.
            tasks.start_soon(manager.watch, lambda: engine.journal.failed() is None)
            keep_out_of_collections()
            tasks.start_soon(keep_backlog_out_of_collections, lambda: len(engine.machine.jobs))
            async with run_engine(engine):
                manager.ready()
                logger.info("ready: recovered %s", dict(engine.recovered))
                if on_ready is not None:
                    on_ready(addresses)
                await engine.stopped()
            tasks.cancel_scope.cancel()
    logger.info("drained: nothing is in flight any more")


def _url_of(addresses: Sequence[str]) -> str:
    """Return the URL of the first address that has one."""
    return next((f"http://{each}" for each in addresses if not each.startswith("unix:")), "")


async def _obey_signals(
    again: Callable[[], Awaitable[bool]],
    engine: Engine,
    tasks: TaskGroup,
    manager: Notifier,
    *,
    task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    with anyio.open_signal_receiver(*wanted) as signals:
        task_status.started()
        async for number in signals:
            if number is signal.SIGHUP:
                manager.reloading()
                await again()
                manager.ready()
            elif engine.draining:
                logger.warning("killed: a second %s", number.name)
                _die_of(number)
            else:
                logger.info("draining: %s", number.name)
                manager.stopping()
                engine.stop()
                tasks.start_soon(_give_up_after, engine.settings.server.drain_max_s + LAST_WORD_S)


async def reload(path: Path, engine: Engine, apps: Sequence[App], clients: Clients) -> bool:
    """Take the configuration at *path* anew; what is wrong with it changes nothing."""
    try:
        settings = await anyio.to_thread.run_sync(load, path)
        # All that can be refused comes first, so that nothing is half taken.
        _check_changes(engine.settings, settings)
        keys_of_clients = await Clients.read(settings)
        for app in apps:
            await app.access.reload(settings.server)
        engine.reconfigure(settings)
        clients.take(settings, keys_of_clients)
    except ConfigError as error:
        logger.error("config_refused: %s", error)  # noqa: TRY400 -- the trace says nothing more
        engine.reloads["refused",] += 1
        return False
    for problem in warnings(settings):
        logger.warning("config_warning: %s: %s", *problem)
    logger.info("config_reloaded: it is in force")
    engine.reloads["ok",] += 1
    return True


def _check_changes(old: Settings, new: Settings) -> None:
    """Raise `ConfigError` for what cannot change while the process runs."""
    if keys := needs_restart(old, new):
        raise ConfigError([(key, "changes only with a restart") for key in keys])


async def _give_up_after(seconds: float) -> None:
    await anyio.sleep(seconds)
    logger.error("killed: the drain hangs")
    _die_of(signal.SIGTERM)


def _die_of(number: signal.Signals) -> None:
    """End the process by the signal itself, so that its parent sees what ended it."""
    logging.shutdown()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


# -- Logs


#: A message may begin with the stable name of its event.
_EVENT = re.compile(r"([a-z]+(?:_[a-z]+)*): ")


#: What a line may say of whose it is: the `extra` of a call of the logger.
_WHOSE = ("invocation", "account", "function", "tenant")


class JsonLines(logging.Formatter):
    """One JSON object a line: nothing that anybody sends can begin a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one line."""
        text = record.getMessage()
        named = _EVENT.match(text)
        line = {
            "ts": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}"
            f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": named[1] if named else "message",
            "message": text[named.end() :] if named else text,
        }
        line |= {key: record.__dict__[key] for key in _WHOSE if key in record.__dict__}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


def configure_logging(*, as_json: bool) -> None:
    """Log to the standard error: JSON lines for machines, plain ones for a terminal."""
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if as_json else plain)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # It warns of every malformed request with a trace: that would be a way to flood the log.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    # So Alibaba's SDK calls its own: keys that it cannot get are told of by `credentials_failed`.
    logging.getLogger("credentials").setLevel(logging.CRITICAL)


#: The journal's thread gives the interpreter up at each commit. With Python's own 5 ms a busy loop
#: would keep it waiting that long each time; a shorter one costs little.
SWITCH_INTERVAL_S: Final = 5e-5


#: How often a backlog is looked at, and by how much it must have grown before that matters.
FREEZE_EVERY_S: Final = 1.0
FREEZE_STEP_JOBS: Final = 20_000


def keep_out_of_collections() -> None:
    """
    Have the garbage collector leave alone what there is now: modules and what they made.

    They are 60 000 objects and more, and the event loop stands still while all are looked at.
    """
    gc.collect()
    gc.freeze()


async def keep_backlog_out_of_collections(count: Callable[[], int]) -> None:
    """
    Until cancelled, have the collector leave alone what a large backlog stands in, as it grows.

    Its jobs are kept out anyway, but the lists that they stand in are read to their ends in each
    full collection: 60 ms for a million.
    """
    kept_out = 0
    while True:
        await anyio.sleep(FREEZE_EVERY_S)
        jobs = count()
        if jobs >= kept_out + FREEZE_STEP_JOBS:
            gc.freeze()
            kept_out = jobs
        elif jobs < kept_out // 4:
            kept_out = jobs


def run_loop(function: Callable[..., Coroutine[Any, Any, object]], *args: Any) -> None:
    """Run *function* on a new event loop: uvloop's where that is installed."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    uvloop = importlib.util.find_spec("uvloop") is not None
    anyio.run(function, *args, backend_options={"use_uvloop": uvloop})
