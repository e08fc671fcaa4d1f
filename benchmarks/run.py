"""
Run the benchmarks one after the other: `make bench`, or `make bench ARGS="send core"`.

Each has the sizes that keep the whole within ten minutes on two idle cores; run a script by
itself for others (`--help`). One that fails or takes too long does not keep the rest from
running, but makes the exit code 1.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
TOO_LONG_S = 300.0
SIZES = {
    "accept": ["--rounds", "3", "--seconds", "1"],
    "dashboard": ["--rounds", "2", "--seconds", "5"],
    "ingress": ["--rounds", "3", "--requests", "3000"],
    "journal": ["--seconds", "1", "--backlog", "200000"],
    "responsiveness": ["--backlog", "300000"],
    "scaling": ["--lives", "6000", "--rounds", "2"],
    "watching": ["15"],
}


def scripts() -> dict[str, Path]:
    """Return all benchmarks by their names."""
    return {path.stem.removeprefix("bench_"): path for path in sorted(HERE.glob("bench_*.py"))}


def run(name: str, path: Path) -> str | None:
    """Run one; return what went wrong."""
    command = [sys.executable, str(path), *SIZES.get(name, ())]
    print(f"\n## {name}\n", flush=True)
    try:
        code = subprocess.run(command, check=False, timeout=TOO_LONG_S).returncode
    except subprocess.TimeoutExpired:
        return f"took more than {TOO_LONG_S:g} s"
    return f"exit code {code}" if code else None


def main() -> int:
    known = scripts()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    wanted = parser.parse_args().names or list(known)
    if strangers := [name for name in wanted if name not in known]:
        parser.error(f"there is no benchmark {', '.join(strangers)}: there are {', '.join(known)}")
    troubles = {}
    for number, name in enumerate(wanted, start=1):
        began_s = time.monotonic()
        trouble = run(name, known[name])
        took_s = time.monotonic() - began_s
        print(f"\n[{number} of {len(wanted)}] {name}: {trouble or 'done'}, {took_s:.0f} s")
        if trouble is not None:
            troubles[name] = trouble
    for name, trouble in troubles.items():
        print(f"FAILED {name}: {trouble}", file=sys.stderr)
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
