import re
from pathlib import Path

from docs import generate_metrics
from tests.metrics import everything

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date():
    written = generate_metrics.PAGE.read_text(encoding="utf-8")
    assert written == generate_metrics.page(), "run: python docs/generate_metrics.py"


def test_what_the_page_names_exists():
    page = generate_metrics.page()
    for path in re.findall(r"\b(?:docs|dispatcher|deploy)/[\w/.]+\w", page):
        assert (ROOT / path).exists(), path
    words = set(re.findall(r"`(\w+)`", page))
    assert words >= set(everything.sorted_reasons())
