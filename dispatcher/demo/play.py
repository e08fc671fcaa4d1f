"""The two acts of the demo, what is shown while they play, and the verdict."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import aiohttp
import anyio
from msgspec import Struct
from rich.console import Console
from rich.live import Live
from rich.table import Table

from dispatcher.demo.products import Enqueued, Shop, burst, customers, straight_to, through
from dispatcher.demo.world import HEADROOM, QUOTA, WorldError, make_world
from dispatcher.errors import first_of

LIMIT: Final = QUOTA - HEADROOM
WITHOUT_MAX_S: Final = 5.0
WITH_MAX_S: Final = 40.0
LOOK_EVERY_S: Final = 0.25
PROVIDERS: Final = {"fc": "aliyun-fc", "lambda": "aws-lambda"}


class Facts(Struct, kw_only=True):
    """What the second act came to."""

    sent: int
    accepted: int
    ran: int
    ran_twice: int
    succeeded: int
    asynchronous: bool
    peaks: dict[str, int]
    throttles: int
    shop: Shop
    enqueue_s: list[float]
    wait_s: list[float]

    @property
    def held(self) -> bool:
        """Tell whether the promise held."""
        return (
            self.accepted == self.ran == self.succeeded == self.sent
            and self.ran_twice == 0
            and self.asynchronous
            and self.throttles == 0
            and all(peak <= LIMIT for peak in self.peaks.values())
        )


async def run(fast: bool = False) -> bool:  # noqa: FBT001, FBT002 -- the command's only flag
    """Play both acts; tell whether the promise held."""
    console = Console()
    total = 400 if fast else 2000
    console.print(
        f"\nTwo accounts, each with a quota of [bold]{QUOTA}[/bold] instances. Three products "
        f"burst {total} invocations of about 1 s,\nwhile a shop's customers wait for "
        "synchronous calls in the same accounts.\n"
    )
    try:
        async with make_world() as world, _http() as http:
            await _without(console, world.cloud, http, max(total, 1500))
            await _calm(http, world.cloud)
            async with world.sidecar() as sidecar:
                facts = await _with(console, world.cloud, sidecar, http, total)
    except (WorldError, aiohttp.ClientError, ExceptionGroup) as error:
        console.print(str(first_of(error)), style="red", markup=False)
        return False
    _verdict(console, facts)
    return facts.held


def _http() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=30), connector=aiohttp.TCPConnector(limit=64)
    )


# -- First act


async def _without(console: Console, cloud: str, http: aiohttp.ClientSession, total: int) -> None:
    console.print("[bold]1. Without the dispatcher[/bold]: everybody calls the cloud at once.")
    shop, counts = Shop(), dict[int, int]()
    peaks: Counter[str] = Counter()
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(customers, cloud, http, shop)
            tasks.start_soon(_show_cloud, live, cloud, http, shop, peaks)
            await anyio.sleep(0.5)
            await burst(total, straight_to(cloud, http, counts))
            await anyio.sleep(WITHOUT_MAX_S)
            tasks.cancel_scope.cancel()
    accounts = (await _statistics(http, cloud))["accounts"]
    waited = max(account["start_delays"]["max_s"] for account in accounts.values())
    inside = sum(sum(account["throttles_async"].values()) for account in accounts.values())
    console.print(
        f"   {counts.get(202, 0)} bursts were answered 202, and up to "
        f"[bold]{sum(peaks.values())}[/bold] hid in the cloud's own queues, up to {waited:.1f} s "
        f"each ({inside} throttles inside, told to nobody).\n"
        f"   The shop's customers: {shop.served} served, [bold red]{shop.throttled} met "
        "429[/bold red].\n"
    )


async def _show_cloud(
    live: Live, cloud: str, http: aiohttp.ClientSession, shop: Shop, peaks: Counter[str]
) -> None:
    while True:
        accounts = (await _statistics(http, cloud))["accounts"]
        rows = []
        for name, account in accounts.items():
            peaks[name] = max(peaks[name], account["queued"])
            rows.append((name, account["instances"], f"{account['queued']} hidden"))
        live.update(_bars(rows, QUOTA, shop))
        await anyio.sleep(LOOK_EVERY_S)


async def _calm(http: aiohttp.ClientSession, cloud: str) -> None:
    """Wait until the cloud has worked off the first act, and begin to count anew."""
    with anyio.move_on_after(30):
        while True:
            accounts = (await _statistics(http, cloud))["accounts"]
            if not any(account["queued"] or account["running"] for account in accounts.values()):
                break
            await anyio.sleep(0.1)
    async with http.post(f"{cloud}/_emulator/reset") as reply:
        assert reply.status == 204, reply


# -- Second act


async def _with(
    console: Console, cloud: str, sidecar: str, http: aiohttp.ClientSession, total: int
) -> Facts:
    console.print(
        f"[bold]2. Through the dispatcher[/bold]: it may hold {LIMIT} instances of each account; "
        f"{HEADROOM} are left to the shop."
    )
    shop, told = Shop(), Enqueued()
    sent = sum(round(total * share) for share in (0.5, 0.3, 0.2))
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(customers, cloud, http, shop)
            tasks.start_soon(_show_sidecar, live, sidecar, http, shop, told)
            await burst(total, through(sidecar, http, told))
            with anyio.move_on_after(WITH_MAX_S):
                await _all_ended(http, sidecar)
            tasks.cancel_scope.cancel()
    return await _facts(http, cloud, sidecar, shop, told, sent)


async def _show_sidecar(
    live: Live, sidecar: str, http: aiohttp.ClientSession, shop: Shop, told: Enqueued
) -> None:
    while True:
        async with http.get(f"{sidecar}/v1/accounts") as reply:
            accounts = (await reply.json())["items"]
        rows = [
            (account["name"], account["in_use"], f"{account['queued']['due']} waiting in order")
            for account in accounts
        ]
        live.update(_bars(rows, LIMIT, shop, f"{len(told.ids)} accepted"))
        await anyio.sleep(LOOK_EVERY_S)


async def _all_ended(http: aiohttp.ClientSession, sidecar: str) -> None:
    while True:
        async with http.get(f"{sidecar}/v1/accounts") as reply:
            accounts = (await reply.json())["items"]
        if not any(a["in_use"] or a["queued"]["due"] or a["queued"]["delayed"] for a in accounts):
            return
        await anyio.sleep(0.1)


async def _facts(
    http: aiohttp.ClientSession,
    cloud: str,
    sidecar: str,
    shop: Shop,
    told: Enqueued,
    sent: int,
) -> Facts:
    records = await _records(http, sidecar)
    runs = [run for run in await _runs(http, cloud) if run["function"] != "storefront"]
    # By the cloud's own ids: what it ran is compared with what the dispatcher accepted.
    by_request = {record["request_id"]: record["id"] for record in records.values()}
    times = Counter(by_request.get(run["request_id"]) for run in runs)
    accounts = (await _statistics(http, cloud))["accounts"]
    throttles = sum(
        sum(account[kind].values())
        for account in accounts.values()
        for kind in ("throttles_sync", "throttles_async")
    )
    return Facts(
        sent=sent,
        accepted=len(told.ids),
        ran=sum(1 for invocation_id in told.ids if times[invocation_id]),
        ran_twice=sum(count - 1 for count in times.values()),
        succeeded=sum(records[i]["state"] == "succeeded" for i in told.ids if i in records),
        asynchronous=all(run["asynchronous"] for run in runs),
        peaks={name: _peak(run for run in runs if run["account"] == name) for name in PROVIDERS},
        throttles=throttles,
        shop=shop,
        enqueue_s=told.took_s,
        wait_s=[_waited_s(record) for record in records.values() if record["sent_at"]],
    )


async def _records(http: aiohttp.ClientSession, sidecar: str) -> dict[str, Any]:
    records: dict[str, Any] = {}
    after = None
    while True:
        params = {"limit": "1000"} | ({"after": after} if after else {})
        async with http.get(f"{sidecar}/v1/invocations", params=params) as reply:
            page = await reply.json()
        records |= {item["id"]: item for item in page["items"]}
        after = page["next"]
        if after is None:
            return records


async def _runs(http: aiohttp.ClientSession, cloud: str) -> list[Any]:
    runs: list[Any] = []
    after: int | None = 0
    while after is not None:
        params = {"after": str(after), "limit": "10000"}
        async with http.get(f"{cloud}/_emulator/runs", params=params) as reply:
            page = await reply.json()
        runs += page["runs"]
        after = page["next"]
    return runs


def _peak(runs: Any) -> int:
    """Return the most runs that overlapped: the oracle of the quota."""
    moments: list[tuple[float, int]] = []
    for one in runs:
        moments += [(one["started_at"], 1), (one["ended_at"], -1)]
    peak = now = 0
    for _, change in sorted(moments):
        now += change
        peak = max(peak, now)
    return peak


def _waited_s(record: Any) -> float:
    return _seconds(record["sent_at"]) - _seconds(record["accepted_at"])


def _seconds(text: str) -> float:
    from datetime import datetime  # noqa: PLC0415 -- only here

    return datetime.fromisoformat(text).timestamp()


async def _statistics(http: aiohttp.ClientSession, cloud: str) -> Any:
    async with http.get(f"{cloud}/_emulator/statistics") as reply:
        return await reply.json()


# -- What is shown


def _bars(rows: Sequence[tuple[str, int, str]], limit: int, shop: Shop, note: str = "") -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1))
    for name, in_use, words in rows:
        filled = min(40, math.ceil(40 * in_use / limit))
        bar = f"[cyan]{'█' * filled}[/cyan][dim]{'░' * (40 - filled)}[/dim]"
        table.add_row(f"   {name}", bar, f"{in_use} of {limit}", words)
    table.add_row(
        "   shop", f"{shop.served} served, [red]{shop.throttled} throttled[/red]", "", note
    )
    return table


def _verdict(console: Console, facts: Facts) -> None:
    table = Table(box=None, show_header=False, padding=(0, 1))
    peaks = ", ".join(f"{name} {peak}" for name, peak in facts.peaks.items())
    for name, value in (
        ("accepted", f"{facts.accepted} of {facts.sent}"),
        ("run, each once", f"{facts.ran} ({facts.ran_twice} twice), {facts.succeeded} succeeded"),
        ("peak instances", f"{peaks}; limit {LIMIT} each"),
        ("throttles", str(facts.throttles)),
        ("shop", f"{facts.shop.served} served, {facts.shop.throttled} met 429"),
        ("enqueue p50 / p99", _percentiles(facts.enqueue_s, 1000, "ms")),
        ("wait p50 / p99", _percentiles(facts.wait_s, 1, "s")),
    ):
        table.add_row(f"   {name}", value)
    console.print(table)
    if facts.held:
        console.print("\n[bold green]The promise held.[/bold green]\n")
    else:
        console.print("\n[bold red]The promise was broken.[/bold red]\n")


def _percentiles(values: Sequence[float], scale: float, unit: str) -> str:
    if not values:
        return "-"
    ordered = sorted(values)
    p50, p99 = (ordered[int(share * (len(ordered) - 1))] * scale for share in (0.5, 0.99))
    return f"{p50:.1f} / {p99:.1f} {unit}"
