"""What every test is promised by conftest.py."""

import os
import socket
import tempfile
import time
from pathlib import Path

import anyio
import pytest
from blockbuster import BlockingError
from hypothesis import given
from hypothesis import strategies as st

import dispatcher
from tests.conftest import CACHE


async def test_blocking_calls_in_the_package_fail():
    # Only where a line stands in a file of the package.
    code = compile("time.sleep(0)", str(Path(dispatcher.__file__).with_name("sleepy.py")), "exec")
    with pytest.raises(BlockingError, match=r"time\.sleep"):
        exec(code, {"time": time})
    time.sleep(0)  # noqa: ASYNC251 -- a test may block


@given(delay_s=st.floats(0.001, 1e6))
async def test_properties_may_be_coroutines(delay_s: float):
    assert anyio.current_time() == 0  # each example has a clock of its own
    await anyio.sleep(delay_s)
    assert anyio.current_time() == delay_s


def test_no_cloud_and_no_proxy_can_be_reached_by_accident():
    reached = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    assert set(reached) == {
        "AWS_EC2_METADATA_DISABLED",
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
    }
    assert not Path(reached["AWS_CONFIG_FILE"]).exists()
    assert not {name for name in os.environ if name.lower() in ("http_proxy", "https_proxy")}


def test_temporary_files_stay_in_the_checkout(tmp_path: Path):
    assert tmp_path.is_relative_to(CACHE)
    assert Path(tempfile.gettempdir()) == CACHE / "t"


def test_a_socket_fits_into_socket_dir(socket_dir: Path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_dir / "dispatcher.sock"))
