import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.deploy import exported, promql
from tests.deploy.dashboard import (
    DASHBOARD,
    PANELS,
    VARIABLES,
    WITH_DATA,
    expressions,
    filled_in,
)

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def title(panel: dict[str, Any]) -> str:
    return str(panel["title"])


@pytest.fixture(scope="module")
def series() -> dict[str, frozenset[str]]:
    return exported.labels_by_series()


@pytest.mark.parametrize("expression", expressions())
def test_queries_read_what_is_exported_by_labels_that_it_has(expression, series):
    names = promql.metrics(expression)
    assert names
    assert names <= series.keys()
    matchers = re.findall(r"\b(\w+)\{([^}]*)\}", expression)
    if "by (job)" not in expression:  # the first variable, which the others build on
        assert {name for name, _ in matchers} == names, "each metric is filtered"
    for name, matcher in matchers:
        used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matcher))
        assert used <= series[name] | {"job", "instance"}, name
    lists = re.findall(r"\bby \(([^)]*)\)", expression)
    known = {"job", "instance"}.union(*(series[name] for name in names))
    assert {label.strip() for each in lists for label in each.split(",")} <= known


@pytest.mark.parametrize("expression", expressions())
def test_queries_follow_the_variables(expression):
    for name, matcher in re.findall(r"\b(\w+)\{([^}]*)\}", filled_in(expression)):
        assert "$" not in matcher, name
    assert not re.findall(r"\[\d", expression), "ranges follow the panel: $__rate_interval"


@pytest.mark.real_time
def test_promtool_can_parse_every_query(tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    rules = [
        {"record": f"query{number}", "expr": filled_in(expression)}
        for number, expression in enumerate(expressions())
    ]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", "--lint=none", str(path)],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


@pytest.mark.parametrize("panel", WITH_DATA, ids=title)
def test_panels_keep_to_the_conventions(panel):
    assert panel["datasource"] == DATASOURCE
    assert all(target["datasource"] == DATASOURCE for target in panel["targets"])
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in {"s", "short", "percentunit", "bytes", "ops"}
    references = [target["refId"] for target in panel["targets"]]
    assert len(references) == len(set(references))
    assert all(target["legendFormat"] for target in panel["targets"]) or len(references) == 1


@pytest.mark.parametrize("panel", WITH_DATA, ids=title)
def test_units_are_those_of_the_metrics(panel):
    unit = panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        expression = target["expr"]
        if unit in {"s", "bytes"}:
            names = promql.metrics(expression)
            assert all(
                name.removesuffix("_bucket").endswith({"s": "_seconds", "bytes": "_bytes"}[unit])
                for name in names
            )
        if unit == "ops":
            assert "rate(" in expression


def test_panels_neither_overlap_nor_leave_the_page():
    taken: dict[tuple[int, int], str] = {}
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (title(panel), taken[x, y])
                taken[x, y] = title(panel)


def test_ids_are_ours_within_the_page_and_nowhere_else():
    assert DASHBOARD["id"] is None
    assert DASHBOARD["uid"] == "serverless-dispatcher"
    assert isinstance(DASHBOARD["schemaVersion"], int)
    assert "__inputs" not in DASHBOARD, "those are for grafana.com; here a variable chooses"
    ids = [panel["id"] for panel in PANELS]
    assert ids == sorted(set(ids))
    titles = [title(panel) for panel in PANELS]
    assert len(titles) == len(set(titles))


def test_variables_choose_the_source_and_what_is_shown():
    assert [variable["name"] for variable in VARIABLES] == [
        "datasource",
        "job",
        "instance",
        "account",
    ]
    assert VARIABLES[0]["type"] == "datasource"
    for variable in VARIABLES[1:]:
        assert variable["definition"] == variable["query"]["query"]
        assert variable["includeAll"]
        assert variable["multi"]


def test_every_metric_of_the_dispatcher_is_shown_somewhere(series):
    shown = {name for expression in expressions() for name in promql.metrics(expression)}
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in series}
    ours = {name for name in ours if name.startswith("dispatcher_")}
    assert ours - {re.sub(r"_bucket$", "", name) for name in shown} == set()
