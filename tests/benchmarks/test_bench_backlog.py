import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "bench_backlog.py"
BACKLOG = 50_000
BYTES_MAX = 1_000_000


@pytest.mark.slow
def test_a_backlog_costs_little_memory_and_nobody_waits_for_it(tmp_path):
    command = [sys.executable, str(SCRIPT), "--seconds", "0.7", "--folder", str(tmp_path)]
    sizes = ["--backlog", str(BACKLOG), "--bytes-max", str(BYTES_MAX)]
    done = subprocess.run([*command, *sizes], check=True, capture_output=True, text=True)
    print(f"\n{done.stdout}")

    def number(pattern: str) -> float:
        found = re.search(pattern, done.stdout)
        assert found is not None, (pattern, done.stdout)
        return float(found[1])

    # 1 KiB each would be 51 MB if it were kept.
    empty_mb = number(r"memory, empty.* (\d+) MB")
    assert number(r"restart: ready after .* (\d+) MB resident") - empty_mb < 51
    assert number(r"ready after ([\d.]+) s") < 15
    # Bounds against something that grows with the backlog, not against the machine's mood.
    assert number(r"with the backlog / empty ([\d.]+)") > 0.4
    assert number(r"after the restart / empty ([\d.]+)") > 0.4
    assert not list(tmp_path.iterdir()), "it cleans up"
