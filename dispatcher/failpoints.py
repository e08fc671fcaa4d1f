"""
Named points at which a test can make the process fail.

A test sets `hook`, in its own process or in one that it starts; nothing else can: no setting,
argument or environment variable leads here. While it is None, a point costs one comparison.
"""

from collections.abc import Callable

hook: Callable[[str], None] | None = None
"""Called with the name of each point that is reached; it may raise, or end the process."""


def reach(name: str) -> None:
    """Pass the point *name*."""
    if hook is not None:
        hook(name)
