"""The unit of complaint."""

from typing import NamedTuple


class Problem(NamedTuple):
    """What is wrong, or odd, and where."""

    path: str
    """The key to blame, as TOML spells it; empty: the file as a whole."""
    message: str
