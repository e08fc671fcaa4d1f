"""Just enough of PromQL to know which metrics an expression reads."""

import re

_NOT_METRICS = re.compile(
    r'"(?:\\.|[^"\\])*"'  # strings
    r"|\{[^}]*\}"  # matchers
    r"|\[[^\]]*\]"  # ranges
    r"|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"  # lists of labels
    r"|\b\d[\w.]*"  # numbers and durations
)
_WORDS = frozenset(("and", "or", "unless", "offset", "bool"))


def metrics(expression: str) -> set[str]:
    """Return the names of the metrics that *expression* reads."""
    rest = _NOT_METRICS.sub(" ", re.sub(r'"(?:\\.|[^"\\])*"', '""', expression))
    names = re.findall(r"[A-Za-z_:][\w:]*(?!\s*\()(?![\w:])", rest)
    return {name for name in names if name not in _WORDS}
