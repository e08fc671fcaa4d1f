import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "bench_journal.py"


@pytest.mark.real_time
def test_it_measures_and_leaves_nothing_behind(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error", str(SCRIPT)),
            *("--folder", str(tmp_path), "--seconds", "0.05", "--backlog", "3000"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "accepts, 32 waiters" in done.stdout
    assert re.search(r"recover \d,\d{3} ", done.stdout)
    assert list(tmp_path.iterdir()) == []
