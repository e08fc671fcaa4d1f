import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy import exported, promql

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
CASES = sorted((FOLDER / "tests").glob("*.yml"))

RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
ADDED_BY_PROMETHEUS = {"up": frozenset[str]()}


def named(rule: dict[str, Any]) -> str:
    return str(rule.get("alert") or rule.get("record"))


@pytest.fixture(scope="module")
def series() -> dict[str, frozenset[str]]:
    return exported.labels_by_series() | ADDED_BY_PROMETHEUS


@pytest.fixture(scope="session")
def promtool() -> str:
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    return path


def run(*command: str, stdin: bytes | None = None) -> None:
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


# -- With promtool


@pytest.mark.real_time
def test_promtool_finds_no_fault_in_the_rules(promtool):
    run(promtool, "check", "rules", str(FOLDER / "alerts.yml"))


@pytest.mark.real_time
def test_promtool_finds_no_fault_in_the_configuration(promtool):
    run(promtool, "check", "config", str(FOLDER / "prometheus.yml"))


@pytest.mark.real_time
def test_promtool_finds_no_fault_in_the_page(promtool):
    run(promtool, "check", "metrics", stdin=exported.page())


@pytest.mark.real_time
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(promtool, path):
    run(promtool, "test", "rules", str(path))


# -- What promtool cannot know


@pytest.mark.parametrize("rule", RULES, ids=named)
def test_rules_read_what_is_exported(rule, series):
    read = promql.metrics(rule["expr"])
    assert read
    assert read <= series.keys() | RECORDED


@pytest.mark.parametrize("rule", RULES, ids=named)
def test_rules_use_labels_that_are_exported(rule, series):
    """Whichever metric of the rule has them: promtool's cases settle the rest."""
    names = promql.metrics(rule["expr"])
    known = {"job", "instance"}.union(*(series.get(name, set()) for name in names))
    if names & RECORDED:
        known.add("account")
    lists = re.findall(r"\b(?:by|on|ignoring|without)\s*\(([^)]*)\)", rule["expr"])
    matchers = re.findall(r"\{([^}]*)\}", rule["expr"])
    used = {label.strip() for each in lists for label in each.split(",")}
    used |= {label for each in matchers for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", each)}
    used |= set(re.findall(r"\$labels\.(\w+)", str(rule.get("annotations"))))
    assert used <= known


@pytest.mark.parametrize("alert", ALERTS, ids=named)
def test_alerts_say_what_they_mean_and_where_to_read_on(alert):
    assert re.fullmatch(r"Dispatcher[A-Z][A-Za-z]+", alert["alert"])
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert len(alert["annotations"]["summary"]) <= 100
    path, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(), re.MULTILINE)
    assert anchor == alert["alert"].lower()
    assert alert["alert"] in headings


def test_alerts_have_names_of_their_own():
    names = [alert["alert"] for alert in ALERTS]
    assert len(names) == len(set(names))


def cases() -> list[dict[str, Any]]:
    return [case for path in CASES for case in yaml.safe_load(path.read_text())["tests"]]


def test_every_alert_has_a_case_where_it_fires_and_one_where_it_never_does():
    fires, stays_silent = set(), set()
    for case in cases():
        checks = case["alert_rule_test"]
        firing = {check["alertname"] for check in checks if check["exp_alerts"]}
        fires |= firing
        stays_silent |= {check["alertname"] for check in checks} - firing
    names = {alert["alert"] for alert in ALERTS}
    assert fires == names
    assert stays_silent == names


@pytest.mark.parametrize("case", cases(), ids=lambda case: case["name"])
def test_cases_are_made_of_what_is_exported(case, series):
    for given in case["input_series"]:
        match = re.fullmatch(r"(\w+)\{(.*)\}", given["series"])
        assert match, given
        labels = set(re.findall(r"(\w+)=", match[2]))
        assert labels == series[match[1]] | {"job", "instance"}, given


def test_the_scrape_configuration_finds_a_sidecar_of_the_default_configuration():
    from dispatcher.config import parse

    settings = parse("", base=ROOT)
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "dispatcher"
    assert job["static_configs"] == [{"targets": [settings.metrics.listen]}]
    assert config["rule_files"] == ["alerts.yml"]
