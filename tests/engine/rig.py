"""An engine on a virtual clock, a journal in memory, and a cloud that does as it is told."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from dispatcher.config import Settings, parse
from dispatcher.core.model import Accepted, Call, CallType, Change, Invocation, Outcome
from dispatcher.core.rules import AccountRules
from dispatcher.engine import Engine
from dispatcher.engine.pump import Trackers
from dispatcher.engine.times import Clock
from dispatcher.journals.memory import MemoryJournal
from dispatcher.ports import Begin, ChangeDone, Tell, Tracer

SETTINGS = """
[accounts.main]
provider = "aliyun-fc"
account_id = "1031234567890123"
region = "cn-shanghai"
quota = 4
{account}

[accounts.main.functions."*"]
completion = "duration"
duration_s = 10
{function}

{more}
"""


def settings(account: str = "", function: str = "", more: str = "") -> Settings:
    """Return settings with one account whose functions take 10 s."""
    return parse(
        SETTINGS.format(account=account, function=function, more=more), base=Path("/nowhere")
    )


class ScriptedTransport:
    """Gives the outcomes that it was told to, then accepts everything."""

    def __init__(self, latency_s: float = 0.0) -> None:
        self.calls: list[tuple[float, Call]] = []
        self.stopped: list[str] = []
        self.script: list[Outcome | Callable[[Call], Any] | Exception] = []
        self.latency_s = latency_s
        self.in_flight = 0
        self.begin: Begin | None = None  #: what the last send was given

    def payload_max_bytes(self, call_type: CallType) -> int:
        return 128 * 1024 if call_type is CallType.ASYNC else 32 * 1024 * 1024

    async def send(self, call: Call, begin: Begin | None = None) -> Outcome:
        self.begin = begin
        self.calls.append((anyio.current_time(), call))
        self.in_flight += 1
        try:
            await anyio.sleep(self.latency_s)
            step = self.script.pop(0) if self.script else Accepted(f"req-{call.task_id}")
            if isinstance(step, Exception):
                raise step
            if callable(step):
                outcome: Outcome = await step(call)
                return outcome
            return step
        finally:
            self.in_flight -= 1

    def reconfigure(self, account: AccountRules) -> None:
        self.requests_max = account.requests_max

    async def stop(self, call: Call) -> bool:
        self.stopped.append(call.task_id)
        return True

    async def aclose(self) -> None:
        pass

    @property
    def times(self) -> list[float]:
        return [round(at, 6) for at, _ in self.calls]


async def hang(_: Call) -> Outcome:
    """Be a cloud that never answers."""
    await anyio.sleep_forever()
    raise AssertionError


class SlowToTell(MemoryJournal):
    """Keeps what it is given, and once `untold` is a list says so only when a test does."""

    untold: list[Any] | None = None

    def record(self, changes: Sequence[Change], done: ChangeDone | None = None) -> None:
        if self.untold is None:
            super().record(changes, done)
        else:
            super().record(changes)
            self.untold.append(done)


class Rig:
    """What a test holds."""

    def __init__(
        self, engine: Engine, transport: ScriptedTransport, journal: MemoryJournal
    ) -> None:
        self.engine = engine
        self.transport = transport
        self.journal = journal

    def enqueue(self, function: str = "f", **fields: Any) -> Any:
        return self.engine.enqueue(Invocation(account="main", function=function, **fields))


@asynccontextmanager
async def rig(
    config: Settings | None = None,
    *,
    transport: ScriptedTransport | None = None,
    journal: MemoryJournal | None = None,
    trackers: Trackers | None = None,
    uniform: Callable[[], float] = lambda: 1.0,
    wall_s: Callable[[], float] | None = None,
    tell: Tell | None = None,
    tracer: Tracer | None = None,
) -> AsyncIterator[Rig]:
    """Run an engine for the length of a test; the end is a drain."""
    config = config or settings()
    transport = transport or ScriptedTransport()
    journal = journal or MemoryJournal(retention_s=86400)
    transports: Mapping[str, ScriptedTransport] = dict.fromkeys(config.accounts, transport)
    start_s = 1_700_000_000.0
    engine = Engine(
        config,
        journal=journal,
        transports=transports,
        trackers=trackers or {},
        clock=Clock(wall_s or (lambda: start_s + anyio.current_time())),
        uniform=uniform,
        tell=tell,
    )
    engine.tracer = tracer
    async with anyio.create_task_group() as tasks:
        await tasks.start(engine.run)
        yield Rig(engine, transport, journal)
        engine.stop()
        await engine.stopped()
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        assert not engine._ending, "an end that nobody was told of"
        assert not engine._enders, "somebody waits for ever"
        assert not len(engine._waking)
