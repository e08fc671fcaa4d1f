"""Secrets in files: judged on loading, read when used."""

import os
from pathlib import Path

import pytest

from dispatcher.config import secret, tokens
from dispatcher.config.secret_files import problems
from dispatcher.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("s3cret\n")
    path.chmod(0o600)
    return path


def complaint(path: str | Path) -> str:
    [problem] = problems(str(path), "server.token_file")
    assert problem.path == "server.token_file"
    return problem.message


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640, 0o440, 0o660])
def test_a_secret_that_owner_and_group_may_read_is_fine(file: Path, mode: int):
    file.chmod(mode)
    assert not list(problems(str(file), "key"))


def test_a_secret_that_everybody_may_read_is_none(file: Path):
    file.chmod(0o644)
    assert complaint(file) == (
        f"everybody may read {file}: take that right away (chmod o-r, or mode 0440)"
    )


def test_nor_one_that_everybody_may_write(file: Path):
    file.chmod(0o602)
    assert "everybody may write" in complaint(file)


def test_a_link_is_judged_by_what_it_leads_to(file: Path, tmp_path: Path):
    link = tmp_path / "link"
    link.symlink_to(file)
    assert not list(problems(str(link), "key"))
    file.chmod(0o644)
    assert "everybody may read" in complaint(link)


def test_what_is_missing_empty_or_no_file(file: Path, tmp_path: Path):
    assert complaint(tmp_path / "x") == f"cannot read {tmp_path}/x: No such file or directory"
    assert "is not a file" in complaint(tmp_path)
    assert complaint("a\0b") == complaint("a\nb") == "expected the path of a file"
    file.write_text("")
    assert "is empty" in complaint(file)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "is not a file" in complaint(pipe)  # and is not waited for


def test_what_this_process_may_not_read(file: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # as root every file can be read
    assert complaint(file) == f"cannot read {file}: Permission denied"


def test_a_secret_is_read_without_its_line_end(file: Path):
    assert secret(str(file)) == "s3cret"


def test_tokens_stand_one_a_line(file: Path):
    file.write_text("one\r\n\n  two  \n")
    assert tokens(str(file)) == ("one", "two")


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xff"])
def test_what_holds_no_secret(file: Path, content: bytes):
    file.write_bytes(content)
    for read in (secret, tokens):
        with pytest.raises(ConfigError):
            read(str(file))


def test_a_secret_that_has_gone(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"cannot read .*gone: No such file"):
        secret(str(tmp_path / "gone"))
