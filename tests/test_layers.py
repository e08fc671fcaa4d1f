"""The floors of the house: imports go down only, and every module has its floor."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import grimp

import dispatcher
from tests.conftest import CACHE

ROOT = Path(__file__).parent.parent
LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
PACKAGE = Path(dispatcher.__file__).parent


def contract(words: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = [one for one in LINTER["contracts"] if words in one["name"]]
    assert len(found) == 1
    return found[0]


def top_modules() -> set[str]:
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    return (modules | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}) - {"__init__"}


def run(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_imports_keep_to_the_floors():
    command = "from importlinter.cli import lint_imports_command as lint; lint()"
    run("-c", command, "--cache-dir", str(CACHE / "layers"))


def test_a_module_without_a_floor_is_noticed():
    floors = contract("go down the floors")
    assert floors["exhaustive"] is True
    listed = {name.strip("() ") for layer in floors["layers"] for name in layer.split("|")}
    assert listed >= top_modules()


def test_the_emulator_is_forbidden_everything_else_there_is():
    forbidden = set(contract("The emulator shares nothing")["forbidden_modules"])
    others = {f"dispatcher.{name}" for name in top_modules() - {"emulator"}}
    assert forbidden == others


COME_WITH = {
    "alibabacloud_tea_openapi": "alibabacloud_fc20230330",
    "alibabacloud_tea_util": "alibabacloud_fc20230330",
    "botocore": "aiobotocore",
    "darabonba": "alibabacloud_fc20230330",
    "multidict": "aiohttp",
    "opentelemetry": "opentelemetry_sdk",
    "requests": "opentelemetry_exporter_otlp_proto_http",
    "Tea": "alibabacloud_credentials",
    "yarl": "aiohttp",
}


def test_what_is_imported_is_declared():
    graph = grimp.build_graph("dispatcher", include_external_packages=True, cache_dir=None)
    imported = {name for name in graph.modules if not name.startswith("dispatcher")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    declared = {
        re.split(r"[\[<>=]", one)[0].replace("-", "_")
        for one in [*project["dependencies"], *(one for extra in extras for one in extra)]
    }
    foreign = imported - sys.stdlib_module_names
    assert {COME_WITH.get(name, name) for name in foreign} <= declared


WITHOUT_EXTRAS = """
import importlib, pkgutil, sys
for name in (
    "aiobotocore", "botocore", "boto3", "uvloop", "Tea", "darabonba", "alibabacloud_credentials",
    "alibabacloud_fc20230330", "alibabacloud_tea_openapi", "alibabacloud_tea_util", "opentelemetry", "requests",
):
    sys.modules[name] = None  # importing it fails from now on
import dispatcher
for module in pkgutil.walk_packages(dispatcher.__path__, "dispatcher."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def test_the_package_can_be_used_without_its_extras():
    # aiobotocore pins botocore tightly, so a service that embeds this must be able to do without.
    run("-W", "error", "-c", WITHOUT_EXTRAS)
