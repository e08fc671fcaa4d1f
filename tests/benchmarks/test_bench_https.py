import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "bench_https.py"


@pytest.mark.real_time
def test_everyone_trusts_the_cloud_of_the_benchmark(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--calls", "64", "--sdk-calls", "2", "--rounds", "1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    for name in ("official FC SDK", "aiohttp", "dispatcher, memory", "dispatcher, SQLite"):
        assert re.search(rf"^\| {name}.*\| +[\d.]+ \|", done.stdout, re.MULTILINE), (
            name,
            done.stdout,
        )
    assert list((tmp_path / ".cache").iterdir()) == []
