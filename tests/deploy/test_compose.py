"""What compose.yaml puts together fits together."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from dispatcher.config import load
from dispatcher.emulator import Settings

FOLDER = Path(__file__).parents[2] / "deploy" / "compose"
SERVICES: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_file_that_is_mounted_exists(name):
    for volume in SERVICES[name].get("volumes", ()):
        source = volume.partition(":")[0]
        if source.startswith("."):
            assert (FOLDER / source).exists(), volume


def test_what_is_ours_has_no_rights():
    for name in ("cloud", "dispatcher"):
        service = SERVICES[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_nothing_listens_beyond_loopback():
    settings = load(FOLDER / "dispatcher.toml")
    assert settings.server.listen == ("127.0.0.1:8700",)
    assert settings.metrics.listen == "127.0.0.1:8701"
    assert SERVICES["cloud"]["command"][-1].startswith("127.0.0.1:")
    assert "--web.listen-address=127.0.0.1:9090" in SERVICES["prometheus"]["command"]
    assert SERVICES["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"


def test_the_account_is_one_of_the_emulators_own():
    settings = load(FOLDER / "dispatcher.toml")
    ours = settings.accounts["aws"]
    assert ours.endpoint == f"http://{SERVICES['cloud']['command'][-1]}"
    theirs = {(a.provider, a.account_id, a.region, a.quota) for a in Settings().accounts.values()}
    assert (ours.provider, ours.account_id, ours.region, ours.quota) in theirs


def test_it_has_time_to_drain():
    grace = SERVICES["dispatcher"]["stop_grace_period"]
    drain_max_s = load(FOLDER / "dispatcher.toml").server.drain_max_s
    assert grace.endswith("s")
    assert int(grace.removesuffix("s")) > drain_max_s + 10


def test_grafana_finds_prometheus_and_the_dashboard():
    grafana = FOLDER / "grafana"
    (source,) = yaml.safe_load((grafana / "datasources" / "prometheus.yaml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://127.0.0.1:9090"
    (provider,) = yaml.safe_load((grafana / "dashboards" / "dispatcher.yaml").read_text())[
        "providers"
    ]
    places = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/dispatcher.json" in places
