import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "bench_responsiveness.py"


@pytest.mark.real_time
def test_every_scene_is_played(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--backlog", "20000", "--scale", "0.02"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    print(f"\n{done.stdout}")
    rows = re.findall(r"^\| (.*?) +\| +[\d.]+ \| +[\d.]+ \|", done.stdout, re.MULTILINE)
    assert len(rows) == 18, done.stdout
    recovered = re.search(r"recovery of (\d+)", done.stdout)
    assert recovered is not None
    assert int(recovered[1]) > 20_000
    assert list((tmp_path / ".cache").iterdir()) == []
