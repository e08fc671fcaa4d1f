"""The dashboard, taken apart."""

import json
import re
from pathlib import Path
from typing import Any

PATH = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboard.json"
DASHBOARD: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
WITH_DATA = [panel for panel in PANELS if panel["type"] != "row"]
VARIABLES: list[dict[str, Any]] = DASHBOARD["templating"]["list"]


def expressions() -> list[str]:
    """Return every query: of panels, annotations and variables."""
    found = [target["expr"] for panel in WITH_DATA for target in panel["targets"]]
    found += [each["expr"] for each in DASHBOARD["annotations"]["list"] if "expr" in each]
    for variable in VARIABLES:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
            assert match, variable
            found.append(f"count by ({match[2]}) ({match[1]})")
    return found


def filled_in(expression: str) -> str:
    """Return *expression* as Grafana would send it."""
    every = expression.replace("$__rate_interval", "1m")
    return re.sub(r"\$(?:job|instance|account)\b", ".*", every)
