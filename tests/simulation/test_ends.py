"""What follows an end, over the wire formats of both clouds and through the command line."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dispatcher.cli import run
from tests.sidecar import Sidecar, call, cloud, write_config
from tests.simulation.test_main_job import runs_of
from tests.simulation.test_slots import EXACT, cloud_config, sidecar_config

pytestmark = pytest.mark.slow

RULES = "attempts_max = 3\nhold_max_s = 60"
NO_REPEATS = "max_async_retry_attempts = 0"


class Site:
    """A cloud of functions that take as long as they are told, and a sidecar."""

    def __init__(self, url: str, sidecar: Sidecar) -> None:
        self.url = url
        self.sidecar = sidecar

    def enqueue(self, account: str, **fields: Any) -> str:
        job = {"account": account, "function": "work", **fields}
        status, accepted = self.sidecar.call("POST", "/v1/invocations", job)
        assert status == 202, accepted
        return str(accepted["id"])

    def view(self, invocation_id: str) -> dict[str, Any]:
        view: dict[str, Any] = self.sidecar.call("GET", f"/v1/invocations/{invocation_id}")[1]
        return view

    def until(self, invocation_id: str, state: str) -> dict[str, Any]:
        """Wait until an invocation is in *state*; return it."""
        until = time.monotonic() + 60.0
        while (view := self.view(invocation_id))["state"] != state:
            assert time.monotonic() < until, view
            time.sleep(0.02)
        return view

    def behave(self, account: str, **behaviour: Any) -> None:
        url = f"{self.url}/_emulator/accounts/{account}/functions/work"
        assert call("PUT", url, behaviour)[0] == 200


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("ends")
    text = cloud_config().replace("duration_s = 1.5", f"duration_s = 0.1\n{NO_REPEATS}")
    with cloud(folder, text) as url:
        config = sidecar_config(url, RULES) + "[retry]\ndelay_base_s = 0.05\n"
        with Sidecar(write_config(folder, config)) as sidecar:
            yield Site(url, sidecar)


@pytest.fixture
def cli(site: Site, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def cli(*args: str) -> str:
        code = run([*args, "--url", site.sidecar.url])
        out, err = capfd.readouterr()
        assert code == 0, err
        return out

    return cli


@pytest.mark.parametrize("account", EXACT)
def test_what_fails_is_run_again_as_often_as_allowed_then_dead_then_redriven(
    site: Site, cli: Callable[..., str], account: str
):
    site.behave(account, failure_rate=1.0)
    one, *others = [site.enqueue(account, tenant="shop", payload={"n": n}) for n in range(4)]
    dead = site.until(one, "dead")
    assert dead["attempts"] == 3
    assert dead["error"]["message"]
    for each in others:
        site.until(each, "dead")
    mine = [one for one in runs_of(site.url) if one["account"] == account]
    assert len(mine) == 12
    if account == "fc":
        by_task = Counter(one["task_id"] for one in mine)
        assert by_task == {
            f"{each}{suffix}": 1 for each in (one, *others) for suffix in ("", "_2", "_3")
        }
    listed = [
        json.loads(line)
        for line in cli("dead", "list", "--account", account, "--json").splitlines()
    ]
    assert {each["id"] for each in listed} == {one, *others}
    assert all(each["error"]["kind"] and each["attempts"] == 3 for each in listed)
    assert one in cli("dead", "list", "--account", account, "--tenant", "shop")
    assert cli("dead", "list", "--account", account, "--tenant", "research") == ""

    site.behave(account, failure_rate=0.0)
    cli("dead", "redrive", one)
    again = site.until(one, "succeeded")
    assert (again["attempts"], again["estimated"]) == (4, False)
    assert "error" not in again
    assert site.view(others[0])["state"] == "dead", "singly means singly"
    cli("dead", "redrive", "--all", "--account", account, "--tenant", "research")
    cli("dead", "redrive", "--all", "--account", account, "--tenant", "shop")
    for each in others:
        assert site.until(each, "succeeded")["attempts"] == 4
    assert cli("dead", "list", "--account", account) == ""


@pytest.mark.parametrize("account", EXACT)
def test_what_waits_is_cancelled_at_once_and_never_runs(site: Site, account: str):
    delayed = site.enqueue(account, delay_s=3600)
    assert site.view(delayed)["waiting_for"]["gate"] == "delay"
    assert site.sidecar.call("DELETE", f"/v1/invocations/{delayed}") == (
        200,
        {"id": delayed, "state": "cancelled"},
    )
    assert site.view(delayed)["state"] == "cancelled"
    assert site.sidecar.call("DELETE", f"/v1/invocations/{delayed}")[0] == 409
    assert site.sidecar.call("DELETE", "/v1/invocations/nobody")[0] == 404


@pytest.mark.parametrize("account", EXACT)
def test_what_is_not_sent_in_time_expires(site: Site, account: str):
    pause = f"/v1/accounts/{account}/functions/work/"
    assert site.sidecar.call("POST", pause + "pause")[0] == 204
    late = site.enqueue(account, expires_s=0.3)
    expired = site.until(late, "expired")
    assert (expired["attempts"], expired["error"]["kind"]) == (0, "expired")
    assert site.sidecar.call("POST", pause + "resume")[0] == 204


def test_a_running_task_is_stopped_in_the_cloud_and_then_cancelled(site: Site):
    site.behave("fc", duration_s=30.0)
    running = site.enqueue("fc")
    site.until(running, "running")
    status, told = site.sidecar.call("DELETE", f"/v1/invocations/{running}")
    # The cloud may have stopped it before the wish to is on disk, and then it is gone.
    assert (status, told["state"]) in ((202, "running"), (200, "cancelled"))
    site.until(running, "cancelled")
    counted = call("GET", f"{site.url}/_emulator/statistics")[1]["accounts"]["fc"]
    assert (counted["stopped"], counted["running"]) == (1, 0)
    site.behave("fc", duration_s=0.1)


def test_what_runs_on_lambda_cannot_be_stopped_and_that_is_said(site: Site):
    site.behave("lambda", duration_s=60.0)
    running = site.enqueue("lambda")
    site.until(running, "running")
    status, problem = site.sidecar.call("DELETE", f"/v1/invocations/{running}")
    assert status == 409
    assert "cannot stop" in problem["detail"]
    assert site.view(running)["state"] == "running", "it goes on"
    site.behave("lambda", duration_s=0.1)


def test_a_result_is_shown_with_when_and_by_which_request(site: Site):
    done = site.until(site.enqueue("lambda", payload={"n": 1}), "succeeded")
    assert done["request_id"]
    assert done["accepted_at"] <= done["sent_at"] <= done["ended_at"]
    assert "result" in done
