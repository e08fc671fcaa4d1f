"""Where accepted invocations are kept."""

from collections.abc import Callable
from pathlib import Path

from dispatcher.config import JournalSettings
from dispatcher.journals.memory import MemoryJournal
from dispatcher.journals.sqlite import SqliteJournal
from dispatcher.ports import Journal

__all__ = ["MemoryJournal", "SqliteJournal", "open_journal"]


async def open_journal(
    settings: JournalSettings,
    *,
    bytes_max: int,
    on_commit: Callable[[float], None] | None = None,
) -> Journal:
    """
    Open the journal that *settings* name.

    After a restart it gives payloads of *bytes_max* in all at once and keeps the others until
    they are asked for. *on_commit* is told the seconds that each commit took. Raises
    `JournalLocked`, `JournalDamaged` or another `JournalError`.
    """
    if settings.url == "memory:":
        return MemoryJournal(retention_s=settings.retention_s)
    assert settings.url.startswith("sqlite:"), settings.url
    return await SqliteJournal.open(
        Path(settings.url.removeprefix("sqlite:").removeprefix("//")),
        retention_s=settings.retention_s,
        bytes_max=bytes_max,
        on_commit=on_commit,
        network_filesystems=settings.network_filesystems,
    )
