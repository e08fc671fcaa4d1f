"""
What it costs to watch thousands of running FC tasks: requests a second and CPU.

The cloud is the emulator in a process of its own. The tracker has a thread, and so a CPU clock,
of its own; another thread sends a new task for each that has ended, so that their number stays
the same. Run with `python benchmarks/bench_watching.py [seconds]`.
"""

import asyncio
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable

import anyio

from dispatcher.config import AccountSettings, EnvCredentials
from dispatcher.core.model import Accepted, Call, CallType, Completion, Provider, Watched
from dispatcher.emulator import Account, Emulator, Function, Settings
from dispatcher.trackers.fc_tasks import FcTasks
from dispatcher.transports import FcTransport, open_transport

RUNNING = 5000
FUNCTIONS = ("short", "long", "skewed")
WARM_UP_S = 40.0
ID_DIGITS = "0123456789abcdefghijklmnopqrstuv"


def new_id(count: int) -> str:
    """Make an id like the dispatcher's: a time, then what makes it unique."""
    value, digits = int(time.time() * 1000), ""
    for _ in range(10):
        value, digit = divmod(value, 32)
        digits = ID_DIGITS[digit] + digits
    return f"i{digits}{count:016d}"


async def cloud() -> None:
    functions = {
        "short": Function(duration_s=30.0, jitter="uniform", jitter_spread=0.5),
        "long": Function(duration_s=90.0, jitter="uniform", jitter_spread=0.5),
        "skewed": Function(duration_s=30.0, jitter="lognormal", jitter_spread=1.0),
    }
    account = Account(
        provider="aliyun-fc",
        account_id="1000000000000000",
        region="cn-shanghai",
        quota=2 * RUNNING,
        functions=functions,
    )
    async with Emulator(Settings(accounts={"fc": account}, seed=1)) as emulator:
        print(emulator.url, flush=True)
        await anyio.sleep_forever()


class Bench:
    """A tracker in one thread, a sender in another."""

    def __init__(self, url: str) -> None:
        self.account = AccountSettings(
            provider=Provider.ALIYUN_FC,
            account_id="1000000000000000",
            region="cn-shanghai",
            quota=2 * RUNNING,
            endpoint=url,
            credentials=EnvCredentials(),
        )
        self.to_send: deque[str] = deque(FUNCTIONS[n % len(FUNCTIONS)] for n in range(RUNNING))
        self.sent: deque[tuple[str, str, str, float]] = deque()
        self.asked: Counter[int] = Counter()
        self.ends: list[tuple[float, float]] = []
        self.stop = threading.Event()
        self.failed: BaseException | None = None

    # -- Sending

    async def send_all(self) -> None:
        """Send what is to be sent until `stop` is set."""
        transport = await open_transport(self.account, name="sender")
        count = 0
        try:
            async with asyncio.TaskGroup() as sends:
                while not self.stop.is_set():
                    for _ in range(min(25, len(self.to_send))):
                        count += 1
                        sends.create_task(self.send(transport, self.to_send.popleft(), count))
                    await asyncio.sleep(0.05)
        finally:
            await transport.aclose()

    async def send(self, transport: object, function: str, count: int) -> None:
        """Send one task and pass it on to be watched."""
        assert isinstance(transport, FcTransport)
        task_id = new_id(count)
        call = Call(
            function=function, qualifier=None, type=CallType.ASYNC, task_id=task_id, payload=b"{}"
        )
        sent_at = time.monotonic()  # the clock of asyncio's loops, in every thread
        outcome = await transport.send(call)
        assert isinstance(outcome, Accepted), outcome
        self.sent.append((task_id, function, outcome.request_id, sent_at))

    # -- Watching

    async def watch(self, seconds: float) -> None:
        """Watch for so many seconds after the warm-up, and print what it took."""
        transport = await open_transport(self.account, name="watcher")
        assert isinstance(transport, FcTransport)
        loop = asyncio.get_running_loop()
        manage = transport.manage

        async def counted(*args: object, **more: object) -> object:
            self.asked[int(loop.time())] += 1
            return await manage(*args, **more)  # type: ignore[arg-type]

        tracker = FcTasks(counted, account="fc", on_tracking=print)  # type: ignore[arg-type]
        sent_at: dict[str, float] = {}

        def report(completion: Completion, _: Callable[[], None] | None) -> None:
            held_s = loop.time() - sent_at.pop(completion.id)
            assert completion.run_s is not None
            self.ends.append((held_s, completion.run_s))
            self.to_send.append(FUNCTIONS[len(self.ends) % len(FUNCTIONS)])

        async def take() -> None:
            while True:
                while self.sent:
                    task_id, function, request_id, at = self.sent.popleft()
                    sent_at[task_id] = at
                    tracker.watch(
                        Watched(
                            id=task_id,
                            account="fc",
                            function=function,
                            qualifier=None,
                            attempt=1,
                            task_id=task_id,
                            request_id=request_id,
                            sent_at=at,
                            expected_s=None,
                        )
                    )
                await asyncio.sleep(0.05)

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(tracker.run, report)
                tasks.start_soon(take)
                await asyncio.sleep(WARM_UP_S)
                before = tracker.snapshot()
                self.ends.clear()
                self.asked.clear()
                begin, cpu = loop.time(), time.thread_time()
                await asyncio.sleep(seconds)
                took_s, cpu = loop.time() - begin, time.thread_time() - cpu
                after = tracker.snapshot()
                tasks.cancel_scope.cancel()
        finally:
            await transport.aclose()
        self.print(took_s, cpu, after.gets - before.gets, after.lists - before.lists, after.watched)

    def print(self, took_s: float, cpu_s: float, gets: int, lists: int, watched: int) -> None:
        """Print the figures."""
        lags = sorted(held_s - run_s for held_s, run_s in self.ends)
        used = sum(run_s for _, run_s in self.ends) / sum(held_s for held_s, _ in self.ends)
        print(f"tasks running              {watched}")
        print(f"ends learned               {len(lags) / took_s:.1f}/s")
        print(f"requests                   {(gets + lists) / took_s:.1f}/s "
              f"({gets / took_s:.1f} gets, {lists / took_s:.1f} listings)")  # fmt: skip
        print(f"busiest second             {max(self.asked.values())} requests")
        print(f"CPU of watching            {100 * cpu_s / took_s:.1f} % of a core")
        print(f"end told after             {statistics.median(lags):.2f} s (median), "
              f"{lags[int(0.99 * len(lags))]:.2f} s (99 %)")  # fmt: skip
        print(f"instances used of held     {100 * used:.1f} %")

    def run(self, seconds: float) -> None:
        """Run both threads. Raises what the sender raised."""
        sender = threading.Thread(target=self.guarded, args=(self.send_all,))
        sender.start()
        try:
            asyncio.run(self.watch(seconds))
        finally:
            self.stop.set()
            sender.join()
        if self.failed is not None:
            raise self.failed

    def guarded(self, function: Callable[[], object]) -> None:
        """Run a coroutine in this thread, and keep what it raises."""
        try:
            asyncio.run(function())  # type: ignore[arg-type]
        except BaseException as error:  # noqa: BLE001 -- raised again in the main thread
            self.failed = error


def main(seconds: float) -> None:
    command = [sys.executable, __file__, "--cloud"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            Bench(process.stdout.readline().strip()).run(seconds)
        finally:
            process.terminate()


if __name__ == "__main__":
    import os

    os.environ["ALIBABA_CLOUD_ACCESS_KEY_ID"] = os.environ["ALIBABA_CLOUD_ACCESS_KEY_SECRET"] = "x"
    if sys.argv[1:] == ["--cloud"]:
        asyncio.run(cloud())
    else:
        main(float(sys.argv[1]) if sys.argv[1:] else 60.0)
