"""A real Prometheus scrapes the page, runs the rules and answers the dashboard."""

import shutil
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
import yaml

from dispatcher.config import ServerSettings
from dispatcher.metrics import FAMILIES, make_registry, render
from dispatcher.web import Listener, make_metrics_app
from tests.deploy import dashboard
from tests.metrics import everything

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

ALERTS = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"
REASON = 'of "their" \\ own\n限流 \x00 \ud800'
SHOWN = 'of "their" \\ own\\n限流 \\x00 \\ud800'


@asynccontextmanager
async def sidecar() -> AsyncIterator[str]:
    """Serve a page with everything on it; give its address."""
    statistics = everything.statistics(throttles={("cn-prod", "resize", REASON): 7})
    registry = make_registry(lambda: statistics)

    async def metrics(accept: str | None) -> tuple[bytes, str]:
        return await render(registry, accept)

    app = make_metrics_app(ServerSettings(), metrics)
    async with Listener(app, ["127.0.0.1:0"]) as listener:
        yield listener.addresses[0]


@asynccontextmanager
async def prometheus(target: str, folder: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """Run a server that scrapes *target*; give a client of its API."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("Prometheus is not installed (Debian: apt-get install prometheus)")
    config = folder / "prometheus.yml"
    every = {"scrape_interval": "400ms", "scrape_timeout": "400ms", "evaluation_interval": "500ms"}
    job = {"job_name": "dispatcher", "static_configs": [{"targets": [target]}]}
    config.write_text(
        yaml.safe_dump({"global": every, "rule_files": [str(ALERTS)], "scrape_configs": [job]})
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    process = await anyio.open_process(command, stdout=None, stderr=None)
    try:
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(f"http://{address}", timeout=timeout) as session:
            await _ready(session)
            yield session
    finally:
        with anyio.CancelScope(shield=True):
            process.send_signal(signal.SIGTERM)
            with anyio.move_on_after(10):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _ready(session: aiohttp.ClientSession) -> None:
    """Wait until there are enough samples for a rate and every rule has been run."""
    with anyio.fail_after(90):
        while True:
            await anyio.sleep(0.1)
            try:
                samples = await asked(session, "count_over_time(up[1m])")
                rules = await answer(session, "rules")
            except aiohttp.ClientConnectionError:
                continue
            health = {rule["health"] for group in rules["groups"] for rule in group["rules"]}
            if samples and int(samples[0]["value"][1]) >= 5 and "unknown" not in health:
                return


async def answer(session: aiohttp.ClientSession, path: str, **parameters: str) -> Any:
    async with session.get(f"/api/v1/{path}", params=parameters) as reply:
        # Not yet: it answers 503, and no JSON, while it starts.
        if reply.status == 503:
            raise aiohttp.ClientConnectionError
        body = await reply.json()
        assert body["status"] == "success", body
        return body["data"]


async def health(session: aiohttp.ClientSession) -> tuple[str, str]:
    """Return how the last scrape went."""
    (scraped,) = (await answer(session, "targets"))["activeTargets"]
    return scraped["health"], scraped["lastError"]


async def asked(session: aiohttp.ClientSession, expression: str) -> list[dict[str, Any]]:
    data = await answer(session, "query", query=expression)
    result: list[dict[str, Any]] = data["result"]
    return result


async def test_prometheus_understands_the_page_the_rules_and_the_dashboard(tmp_path):
    async with sidecar() as target, prometheus(target, tmp_path) as session:
        with anyio.fail_after(60):  # a scrape may be late on a busy machine, the next one is not
            while await health(session) != ("up", ""):  # noqa: ASYNC110
                await anyio.sleep(0.2)

        metadata = await answer(session, "metadata")
        for family in FAMILIES:
            (known,) = metadata.get(family.name) or metadata[family.name.removesuffix("_total")]
            assert (known["type"], known["help"]) == (family.kind, family.meaning)

        (throttles,) = await asked(session, "dispatcher_throttles_total")
        assert throttles["metric"]["reason"] == SHOWN
        assert throttles["value"][1] == "7"
        statistics = everything.statistics()
        (in_use,) = await asked(session, "sum(dispatcher_instances_in_use)")
        assert float(in_use["value"][1]) == sum(statistics.instances_in_use.values())

        rules = await answer(session, "rules")
        for rule in (rule for group in rules["groups"] for rule in group["rules"]):
            assert rule["health"] == "ok", rule

        for expression in dashboard.expressions():
            shown = await asked(session, dashboard.filled_in(expression))
            # Nothing starts anew during the test; everything else has something to show.
            assert shown or expression.startswith("changes("), expression
