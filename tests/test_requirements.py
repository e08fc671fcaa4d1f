"""The locked requirements: complete, hashed, the same everywhere, and of no particular index."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = {path.stem: path for path in (ROOT / "requirements").glob("*.txt")}


def locked(name: str) -> list[tuple[str, str]]:
    """Return each package in a lock file with its version, some with one for each Python."""
    return re.findall(r"^([a-z0-9._-]+)==([^ ;\\\n]+)", LOCKS[name].read_text(), re.MULTILINE)


def test_there_is_a_lock_for_each_environment():
    assert LOCKS.keys() == {"build", "dev", "ministack", "run"}


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_pinned_and_hashed(name: str):
    text = LOCKS[name].read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert len(lines) == len(locked(name)) > 0
    assert all("==" in line and "--hash=sha256:" in line for line in lines)


@pytest.mark.parametrize("name", LOCKS)
def test_no_index_is_named(name: str):
    # Whoever installs it decides where from.
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted", LOCKS[name].read_text())


def test_what_runs_is_what_has_been_tested():
    assert set(locked("run")) <= set(locked("dev"))


def test_what_the_project_asks_for_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(one for name in extras for one in extras[name])]
    names = {re.split(r"[\[<>=]", one)[0] for one in wanted} - {project["name"]}
    assert names <= {name for name, _ in locked("run")}
