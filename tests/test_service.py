import gc
import json
import signal
import socket
import time

import anyio
import pytest

from dispatcher.service import keep_backlog_out_of_collections, keep_out_of_collections
from tests.sidecar import Sidecar, call, cloud, write_config

CLOUD = """
[accounts.fc]
provider = "aliyun-fc"
account_id = "1"
region = "cn-shanghai"
quota = 20
[accounts.fc.functions."*"]
duration_s = 0.1
"""

CONFIG = """
[server]
listen = ["127.0.0.1:0"{more_listen}]
drain_max_s = {drain_max_s}

[metrics]
listen = "127.0.0.1:0"

[journal]
url = "sqlite:journal.db"

[accounts.fc]
provider = "aliyun-fc"
account_id = "1"
region = "cn-shanghai"
quota = {quota}
headroom = 1
endpoint = "{endpoint}"
credentials = {{ source = "static", access_key_id = "AK", access_key_secret_file = "secret" }}
"""

JOB = {"account": "fc", "function": "f", "payload": {"a": 1}}


def config(endpoint="http://127.0.0.1:1", quota=20, drain_max_s=5, more_listen=""):
    return CONFIG.format(
        endpoint=endpoint, quota=quota, drain_max_s=drain_max_s, more_listen=more_listen
    )


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with cloud(tmp_path_factory.mktemp("cloud"), CLOUD) as url:
        yield url


def test_an_invocation_goes_all_the_way(tmp_path, endpoint):
    with Sidecar(write_config(tmp_path, config(endpoint))) as sidecar:
        assert sidecar.call("GET", "/readyz")[0] == 200
        status, accepted = sidecar.call("POST", "/v1/invocations", JOB)
        assert (status, accepted["state"], accepted["duplicate"]) == (202, "waiting", False)
        until = time.monotonic() + 60
        state = ""
        while state != "succeeded" and time.monotonic() < until:
            status, view = sidecar.call("GET", f"/v1/invocations/{accepted['id']}")
            state = view["state"]
            time.sleep(0.02)
        assert (status, state, view["estimated"]) == (200, "succeeded", False)
        assert sidecar.stop() == 0
        assert [json.loads(line) for line in sidecar.text().splitlines()][-1]["event"] == "drained"


def test_sighup_takes_new_limits_and_keeps_the_last_good_configuration(tmp_path, endpoint):
    path = write_config(tmp_path, config(endpoint))
    with Sidecar(path) as sidecar:
        path.write_text(config(endpoint, quota=7))
        sidecar.signal(signal.SIGHUP)
        sidecar.wait_for("config_reloaded")
        assert sidecar.call("GET", "/v1/accounts/fc")[1]["quota"] == 7
        path.write_text(config(endpoint, quota=0))
        sidecar.signal(signal.SIGHUP)
        sidecar.wait_for(r"config_refused.*accounts\.fc\.quota")
        path.write_text(config("http://127.0.0.1:2", quota=9))
        sidecar.signal(signal.SIGHUP)
        sidecar.wait_for(r"config_refused.*accounts\.fc\.endpoint.*restart")
        assert sidecar.call("GET", "/v1/accounts/fc")[1]["quota"] == 7
        assert sidecar.stop() == 0


def wait_until_sending(sidecar, invocation_id):
    until = time.monotonic() + 60
    while sidecar.call("GET", f"/v1/invocations/{invocation_id}")[1]["state"] != "sending":
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_drain_lets_what_is_in_flight_come_back_and_refuses_the_rest(tmp_path, endpoint):
    with Sidecar(write_config(tmp_path, config(endpoint))) as sidecar:
        fault = {"kind": "slow", "next": 1, "delay_s": 2.5}
        call("POST", f"{endpoint}/_emulator/faults", fault)
        status, accepted = sidecar.call("POST", "/v1/invocations", JOB)
        assert status == 202
        wait_until_sending(sidecar, accepted["id"])
        sidecar.signal(signal.SIGTERM)
        sidecar.wait_for("draining")
        status, _ = sidecar.call("POST", "/v1/invocations", JOB)
        assert (status, sidecar.call("GET", "/readyz")[0]) == (503, 503)
        assert sidecar.call("GET", f"/v1/invocations/{accepted['id']}")[1]["state"] == "sending"
        assert sidecar.wait() == 0


def test_a_second_signal_ends_it_at_once(tmp_path, endpoint):
    text = config(endpoint, drain_max_s=25)
    with Sidecar(write_config(tmp_path, text)) as sidecar:
        call("POST", f"{endpoint}/_emulator/faults", {"kind": "hang", "next": 1, "delay_s": 30})
        wait_until_sending(sidecar, sidecar.call("POST", "/v1/invocations", JOB)[1]["id"])
        begun = time.monotonic()
        sidecar.signal(signal.SIGTERM)
        sidecar.wait_for("draining")
        sidecar.signal(signal.SIGTERM)
        assert sidecar.wait() == -signal.SIGTERM
        assert time.monotonic() - begun < 20, "at once, not at the end of the drain"


def test_the_metrics_have_a_listener_of_their_own(tmp_path, endpoint):
    import urllib.request

    with Sidecar(write_config(tmp_path, config(endpoint))) as sidecar:
        apart = sidecar.wait_for(r'"message": "[0-9.:]+, ([0-9.:]+)"')
        for url in (sidecar.url, f"http://{apart}"):
            with urllib.request.urlopen(f"{url}/metrics", timeout=60) as reply:
                assert b"dispatcher_instances_limit" in reply.read()
        assert call("GET", f"http://{apart}/v1/accounts")[0] == 404


def test_an_address_that_is_taken_is_said_and_is_an_io_error(tmp_path, endpoint):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = config(endpoint, more_listen=f', "127.0.0.1:{port}"')
        with pytest.raises(AssertionError, match=r"exit 74.*\n(.*\n)*.*address already in use"):
            Sidecar(write_config(tmp_path, text))


def test_a_second_sidecar_on_the_same_journal_is_told_to_come_later(tmp_path, endpoint):
    path = write_config(tmp_path, config(endpoint))
    with Sidecar(path), pytest.raises(AssertionError, match="exit 75"):
        Sidecar(path)


def test_collections_do_not_look_at_what_was_there_before():
    try:
        keep_out_of_collections()
        left = len(gc.get_objects())
        assert gc.get_freeze_count() > 10 * left
    finally:
        gc.unfreeze()


async def test_a_backlog_is_kept_from_collections_each_time_that_it_has_grown_much(monkeypatch):
    frozen: list[float] = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(anyio.current_time()))
    jobs = iter([10, 19_999, 20_000, 39_999, 100_000, 119_999, 120_000, 1000, 21_000, 0, 10, 10])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_backlog_out_of_collections, lambda: next(jobs))
        await anyio.sleep(11.5)
        tasks.cancel_scope.cancel()
    assert frozen == [3, 5, 7, 9]
