"""Cursors of paged lists: the place in the order of acceptance at which a page ended."""

from dispatcher.errors import Invalid

_LAST = 2**63 - 1


def cursor_of(seq: int) -> str:
    """Return the cursor of the page after the one that ended with number *seq*."""
    return str(seq)


def position_of(cursor: str) -> int:
    """Return the number at which the page before ended. Raises `Invalid`."""
    if cursor.isascii() and cursor.isdigit() and 0 < (seq := int(cursor[:20])) <= _LAST:
        return seq
    raise Invalid(f"{cursor[:40]!r} is not a cursor that this list gave", pointer="/after")
