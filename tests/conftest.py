"""What every test gets: a virtual clock, no blocking calls in the loop, and a clean environment."""

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from blockbuster import blockbuster_ctx
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.database import DirectoryBasedExampleDatabase

from tests.clock import VirtualClockLoop

CACHE = Path(__file__).resolve().parent.parent / ".cache"

# -- A clean environment, before anything reads it ------------------------------------------------

_FOREIGN_PREFIXES = (
    "AWS_",
    "ALIBABA_CLOUD_",
    "ALICLOUD_",
    "ALIYUN_",
    "FC_",
    "DISPATCHER_",
    "OTEL_",
)
_FOREIGN_SUFFIXES = ("_PROXY",)


def _clean_environment() -> None:
    """Take away what would let a test reach a real cloud, or behave as the machine is set up."""
    for name in list(os.environ):
        if name.upper().startswith(_FOREIGN_PREFIXES) or name.upper().endswith(_FOREIGN_SUFFIXES):
            del os.environ[name]
    nowhere = str(CACHE / "none")
    os.environ |= {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": nowhere,
        "AWS_SHARED_CREDENTIALS_FILE": nowhere,
        "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true",
        "ALIBABA_CLOUD_CLI_PROFILE_DISABLED": "true",
        "ALIBABA_CLOUD_CREDENTIALS_FILE": nowhere,
        "NO_PROXY": "*",
    }


def _keep_files_in_the_checkout() -> None:
    # Short, since the path of a Unix socket has at most 108 bytes.
    temporary = CACHE / "t"
    temporary.mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(temporary)
    tempfile.tempdir = None
    set_hypothesis_home_dir(CACHE / "hypothesis")


_clean_environment()
_keep_files_in_the_checkout()

# -- hypothesis: the same examples every time in `make test`, new ones at the desk ----------------

# How long it takes to make an example says more about the machine than about the strategy.
_AT_LEISURE: Any = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("ci", derandomize=True, print_blob=True, **_AT_LEISURE)
hypothesis.settings.register_profile(
    "desk",
    **_AT_LEISURE,
    database=DirectoryBasedExampleDatabase(CACHE / "hypothesis" / "examples"),
)
hypothesis.settings.load_profile("desk")  # `--hypothesis-profile` is read later, and wins

# -- Time -----------------------------------------------------------------------------------------


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run coroutines on the virtual clock, those marked `real_time` on the wall clock."""
    real = request.node.get_closest_marker("real_time") is not None
    return "asyncio", {"loop_factory": asyncio.new_event_loop if real else VirtualClockLoop}


# -- Blocking calls -------------------------------------------------------------------------------


@pytest.fixture(autouse=True, scope="session")
def no_blocking_calls() -> Iterator[None]:
    """Fail where code of the package blocks the event loop; tests themselves may."""
    with blockbuster_ctx("dispatcher"):
        yield


# -- Short paths ----------------------------------------------------------------------------------


@pytest.fixture
def socket_dir() -> Iterator[Path]:
    """Give a folder whose path is short enough for Unix sockets, however long `tmp_path` is."""
    with tempfile.TemporaryDirectory(prefix="") as path:
        yield Path(path)


# -- Figures --------------------------------------------------------------------------------------

_LINES_MAX = 12


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the figures that passed tests have printed; pytest itself would keep them back."""
    reports = [r for r in terminalreporter.stats.get("passed", ()) if r.capstdout.strip()]
    if reports:
        terminalreporter.section("figures")
    for report in reports:
        terminalreporter.write_line(report.nodeid)
        for line in report.capstdout.strip().splitlines()[:_LINES_MAX]:
            terminalreporter.write_line(f"    {line}")
