import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dispatcher.errors import JournalError, JournalLocked
from dispatcher.journals import disk
from dispatcher.journals.disk import Lock, Reserve, Room, make_file, make_folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- File systems ---------------------------------------------------------------------------------


def kind_by_coreutils(path: Path) -> int:
    done = subprocess.run(
        ["stat", "-f", "-c", "%t", str(path)], capture_output=True, text=True, check=True
    )
    return int(done.stdout, 16)


@pytest.mark.parametrize("path", [Path("/"), Path("/proc"), Path("/dev/shm")])
def test_the_kind_of_a_file_system_is_what_the_kernel_says(monkeypatch, path):
    assert disk.network_filesystem(path) is None
    monkeypatch.setattr(disk, "_NETWORK_FILESYSTEMS", {kind_by_coreutils(path): "nfs"})
    assert disk.network_filesystem(path) == "nfs"


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(OSError, match="No such file") as caught:
        disk.network_filesystem(tmp_path / "missing")
    assert caught.value.errno == errno.ENOENT


def test_network_file_systems_are_refused_unless_allowed_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr(disk, "_NETWORK_FILESYSTEMS", {kind_by_coreutils(tmp_path): "cifs"})
    with pytest.raises(JournalError, match=r'network_filesystems = \["cifs"\]'):
        disk.refuse_network_filesystem(tmp_path, ["nfs"])
    disk.refuse_network_filesystem(tmp_path, ["nfs", "cifs"])
    monkeypatch.undo()
    disk.refuse_network_filesystem(tmp_path, [])


@pytest.mark.parametrize(
    ("name", "number"),
    # From statfs(2) and linux/magic.h, written down here a second time.
    [("nfs", 0x6969), ("cifs", 0xFF534D42), ("smb", 0xFE534D42), ("fuse", 0x65735546)],
)
def test_the_usual_network_file_systems_are_known(name, number):
    assert disk._NETWORK_FILESYSTEMS[number] == name


# -- Folders and files ----------------------------------------------------------------------------


def test_what_is_made_is_for_this_user_alone(tmp_path):
    old = os.umask(0)
    try:
        make_folder(tmp_path / "a" / "b")
        make_file(tmp_path / "a" / "b" / "file")
    finally:
        os.umask(old)
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o700
    assert mode(tmp_path / "a" / "b" / "file") == 0o600


def test_what_is_there_is_left_alone(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "file").chmod(0o640)
    make_folder(tmp_path)
    make_file(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert mode(tmp_path / "file") == 0o640


def test_what_is_made_is_durable(tmp_path, monkeypatch):
    synchronised = []

    def fsync(descriptor: int) -> None:
        synchronised.append(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(os, "fsync", fsync)
    make_folder(tmp_path / "a" / "b")
    make_file(tmp_path / "a" / "b" / "file")
    assert synchronised == [
        tmp_path,
        tmp_path / "a",
        tmp_path / "a" / "b" / "file",
        tmp_path / "a" / "b",
    ]


# -- The lock -------------------------------------------------------------------------------------


def test_one_at_a_time_and_the_other_is_told_who(tmp_path):
    lock = Lock(tmp_path / "lock")
    with pytest.raises(JournalLocked, match=str(os.getpid())):
        Lock(tmp_path / "lock")
    lock.release()
    Lock(tmp_path / "lock").release()
    assert mode(tmp_path / "lock") == 0o600


@pytest.mark.real_time
def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path):
    hold = f"from pathlib import Path; from dispatcher.journals.disk import Lock; \
lock = Lock(Path({str(tmp_path / 'lock')!r})); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(JournalLocked, match=str(process.pid)):
            Lock(tmp_path / "lock")
        process.kill()
    Lock(tmp_path / "lock").release()


def test_other_errors_of_the_lock_are_not_taken_for_a_lock(tmp_path, monkeypatch):
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(OSError, match="no locks available"):
        Lock(tmp_path / "lock")


# -- Room -----------------------------------------------------------------------------------------

BALLAST = 1024 * 1024
ROOM = Room(free_min_bytes=1000, ballast_bytes=BALLAST)


@pytest.fixture
def free(monkeypatch):
    """Say how many bytes are free; the ballast comes off that."""

    def free(size: int, path: Path) -> None:
        def free_bytes(self: Reserve) -> int:
            return size - (path.stat().st_size if path.exists() else 0)

        monkeypatch.setattr(Reserve, "_free_bytes", free_bytes)

    return free


def test_the_ballast_takes_room_from_the_start(tmp_path):
    reserve = Reserve(tmp_path / "ballast", ROOM)
    assert reserve.room()
    assert (tmp_path / "ballast").stat().st_blocks * 512 >= BALLAST
    assert mode(tmp_path / "ballast") == 0o600
    assert Reserve(tmp_path / "ballast", ROOM).room()


def test_there_is_no_room_below_the_minimum(tmp_path, free):
    ballast = tmp_path / "ballast"
    reserve = Reserve(ballast, ROOM)
    free(BALLAST + 1000, ballast)
    assert reserve.room()
    free(BALLAST + 999, ballast)
    assert not reserve.room()
    assert ballast.exists()
    free(BALLAST + 1000, ballast)
    assert reserve.room()


def test_what_was_spent_is_taken_back_once_it_fits(tmp_path, free):
    ballast = tmp_path / "ballast"
    reserve = Reserve(ballast, ROOM)
    free(BALLAST + 1000, ballast)
    assert reserve.room()
    assert reserve.spend()
    assert not ballast.exists()
    assert not reserve.spend()
    free(BALLAST + 999, ballast)
    assert not reserve.room()
    assert not ballast.exists()
    free(BALLAST + 1000, ballast)
    assert reserve.room()
    assert ballast.exists()


def test_a_ballast_that_does_not_fit_after_all_leaves_nothing(tmp_path, monkeypatch):
    def no_room(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    reserve = Reserve(tmp_path / "ballast", ROOM)
    assert not reserve.room()
    assert not (tmp_path / "ballast").exists()


def test_where_room_cannot_be_asked_for_it_is_filled(tmp_path, monkeypatch):
    def unsupported(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    room = Room(free_min_bytes=0, ballast_bytes=BALLAST + 5)
    assert Reserve(tmp_path / "ballast", room).room()
    assert (tmp_path / "ballast").stat().st_size == BALLAST + 5


def test_a_disk_that_fails_is_not_a_full_disk(tmp_path, monkeypatch):
    def broken(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "posix_fallocate", broken)
    with pytest.raises(OSError, match="input/output"):
        Reserve(tmp_path / "ballast", ROOM).room()
