import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "run.py"


def run(folder, *args):
    return subprocess.run(
        [sys.executable, str(folder / "run.py"), *args],
        capture_output=True,
        text=True,
        check=False,
    )


def test_one_that_fails_hides_no_other_and_is_told_at_the_end(tmp_path):
    (tmp_path / "run.py").write_text(SCRIPT.read_text())
    (tmp_path / "bench_a.py").write_text("raise SystemExit(3)")
    (tmp_path / "bench_b.py").write_text("print('| figures of b |')")
    done = run(tmp_path)
    assert done.returncode == 1
    assert "figures of b" in done.stdout
    assert done.stderr.splitlines()[-1] == "FAILED a: exit code 3"
    assert run(tmp_path, "b").returncode == 0
    assert "figures" not in run(tmp_path, "a").stdout


def test_only_what_there_is_can_be_asked_for(tmp_path):
    (tmp_path / "run.py").write_text(SCRIPT.read_text())
    (tmp_path / "bench_a.py").write_text("")
    done = run(tmp_path, "a", "other")
    assert done.returncode == 2
    assert "there is no benchmark other: there are a" in done.stderr
