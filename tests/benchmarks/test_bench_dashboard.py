import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "bench_dashboard.py"


@pytest.mark.real_time
def test_viewers_look_at_a_sidecar_that_works(tmp_path):
    sizes = ["--viewers", "3", "--rate", "100", "--seconds", "2", "--settle", "0.3"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *sizes, "--rounds", "1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| (nobody looks|3 look) +\|.* ([\d.]+) \|$", done.stdout, re.MULTILINE)
    assert [name for name, _ in rows] == ["nobody looks", "3 look"], done.stdout
    assert [float(pictures) > 0 for _, pictures in rows] == [False, True], done.stdout
    assert re.search(r"^viewers cost -?[\d.]+ % of a core", done.stdout, re.MULTILINE)
    assert list((tmp_path / ".cache").iterdir()) == []
