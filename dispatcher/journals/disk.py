"""What the SQLite journal asks of the operating system: folders, a lock, and room on the disk."""

import ctypes
import errno
import fcntl
import os
import sys
from collections.abc import Collection
from pathlib import Path
from types import MappingProxyType

from msgspec import Struct

from dispatcher.errors import JournalError, JournalLocked

# `f_type` of statfs(2). WAL needs memory that all users of the file share and locks that hold,
# neither of which these promise (https://sqlite.org/wal.html, https://sqlite.org/lockingv3.html).
_NETWORK_FILESYSTEMS = MappingProxyType(
    {
        0x00006969: "nfs",
        0x0000517B: "smb",
        0x0000564C: "ncp",
        0x00C36400: "ceph",
        0x01021997: "9p",
        0x01161970: "gfs2",
        0x0BD00BD0: "lustre",
        0x5346414F: "afs",
        0x65735546: "fuse",
        0x6B414653: "afs",
        0x73757245: "coda",
        0x7461636F: "ocfs2",
        0xFE534D42: "smb",
        0xFF534D42: "cifs",
    }
)


def network_filesystem(path: Path) -> str | None:
    """Return the kind of network file system that *path* is on, None if it is on none."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    answer = ctypes.create_string_buffer(512)  # struct statfs has 120 bytes or less
    if libc.statfs(os.fsencode(path), answer) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
    return _NETWORK_FILESYSTEMS.get(int.from_bytes(answer.raw[:4], sys.byteorder))


def refuse_network_filesystem(folder: Path, allowed: Collection[str]) -> None:
    """Raise `JournalError` if *folder* is on a network file system that is not *allowed*."""
    kind = network_filesystem(folder)
    if kind is not None and kind not in allowed:
        raise JournalError(
            f"{folder} is on a network file system ({kind}), whose locks and shared memory "
            f"cannot be relied on; use a local disk, or allow it with "
            f'journal.network_filesystems = ["{kind}"]'
        )


def make_folder(folder: Path) -> None:
    """Make *folder*, and those above it that are missing, for this user alone, durably."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
        sync_folder(one.parent)


def make_file(path: Path) -> None:
    """Make an empty file at *path*, for this user alone, durably."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make durable what was made or removed in *folder*."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Lock:
    """An exclusive lock on a file of its own; the system takes it back when the process ends."""

    def __init__(self, path: Path) -> None:
        """Take the lock. Raises `JournalLocked` if somebody has it."""
        self._descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(self._descriptor, 20).decode(errors="replace").strip()
            os.close(self._descriptor)
            if error.errno != errno.EWOULDBLOCK:
                raise
            raise JournalLocked(f"another process ({owner or 'unknown'}) holds {path}") from error
        # For whoever looks; the lock itself is what counts.
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Give the lock back. The file stays: removing it could let two processes in."""
        os.close(self._descriptor)


class Room(Struct, frozen=True, kw_only=True):
    """How much of the disk is kept for the invocations that have been accepted already."""

    free_min_bytes: int = 64 * 1024 * 1024
    """With less than this free nothing new is accepted."""
    ballast_bytes: int = 16 * 1024 * 1024
    """Taken beforehand, and given up for what must be written once others have filled the disk."""


class Reserve:
    """The room that is kept, and the file that holds some of it."""

    def __init__(self, ballast: Path, room: Room) -> None:
        """Find out whether the *ballast* is there from before."""
        self._path = ballast
        self._ballast_bytes = room.ballast_bytes
        self._free_min_bytes = room.free_min_bytes
        self.look_after_bytes = room.free_min_bytes // 8
        """After writing so much the room is to be looked at again."""
        self._held = ballast.is_file() and ballast.stat().st_blocks * 512 >= room.ballast_bytes

    def room(self) -> bool:
        """Tell whether new invocations can be accepted; takes the ballast back if it can be."""
        free = self._free_bytes()
        if not self._held and free >= self._free_min_bytes + self._ballast_bytes:
            self._held = self._take()
            free = self._free_bytes()
        return self._held and free >= self._free_min_bytes

    def spend(self) -> bool:
        """Give the ballast up to what must be written now; False: it is spent already."""
        held, self._held = self._held, False
        self._path.unlink(missing_ok=True)
        return held

    def _free_bytes(self) -> int:
        status = os.statvfs(self._path.parent)
        return status.f_bavail * status.f_frsize

    def _take(self) -> bool:
        descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            _fill(descriptor, self._ballast_bytes)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._path.unlink()
            return False
        finally:
            os.close(descriptor)
        return True


def _fill(descriptor: int, size_bytes: int) -> None:
    """Give a file its room."""
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        # Some file systems take room only for what is written.
        block = bytes(1024 * 1024)
        for start in range(0, size_bytes, len(block)):
            os.pwrite(descriptor, block[: size_bytes - start], start)
