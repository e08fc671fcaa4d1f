"""Benchmarks that need no more than to be run; whether their figures are good no test can tell."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("script", "args", "rows"),
    [
        ("bench_metrics.py", ["--rounds", "1", "--series", "500"], 1),
        ("bench_send.py", ["128", "1"], 6),
        ("bench_scaling.py", ["--rounds", "1", "--most", "1000", "--lives", "600"], 5),
    ],
)
def test_it_measures_and_leaves_nothing_behind(tmp_path, script, args, rows):
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *args],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    figures = re.findall(r"^\| [^|]+ \| +[\d.]+ \|", done.stdout, re.MULTILINE)
    assert len(figures) == rows, done.stdout
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == []
