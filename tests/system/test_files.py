"""Files that are replaced: whole, with nothing beside them, through links and into pipes."""

import errno
import os
import stat
import time

import pytest
from support.children import run_python

from dqn_zoo.system.files import check_writable, flush_directory, replace_file, update_file


def test_a_file_that_is_replaced_may_be_a_link_or_a_pipe(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"old")
    link.symlink_to(file)
    check_writable(link)
    replace_file(link, b"new")
    assert link.is_symlink()
    assert file.read_bytes() == b"new"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    check_writable(pipe)
    replace_file(pipe, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link", "pipe"}


ASK = """
import sys
from pathlib import Path
from dqn_zoo.system.files import check_writable

check_writable(Path(sys.argv[1]))
"""


def test_who_asks_whether_a_file_can_be_written_does_not_disturb_who_writes_it(
    tmp_path, monkeypatch
):
    path, fsync = tmp_path / "results.json", os.fsync

    def ask_meanwhile(descriptor: int) -> None:
        run_python(ASK, path)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", ask_meanwhile)
    replace_file(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["results.json"]


def test_what_a_killed_process_left_goes_once_nobody_can_be_writing_it(tmp_path):
    path = tmp_path / "model[1].bin"
    for name, age_s in (("model[1].bin.0a.tmp", 90_000), ("model[1].bin.0b.tmp", 80_000)):
        (tmp_path / name).write_bytes(b"half")
        then = time.time() - age_s
        os.utime(tmp_path / name, (then, then))
    replace_file(path, b"whole")
    assert sorted(os.listdir(tmp_path)) == ["model[1].bin", "model[1].bin.0b.tmp"]


def test_a_replaced_file_is_whole_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "model.bin"
    replace_file(path, b"old")
    replace_file(path, b"new content")
    assert path.read_bytes() == b"new content"
    assert os.listdir(tmp_path) == ["model.bin"]


def test_a_file_that_holds_the_content_already_is_not_written_again(tmp_path):
    path = tmp_path / "model.bin"
    update_file(path, b"first")
    written = path.stat().st_ino
    update_file(path, b"first")
    assert path.stat().st_ino == written
    update_file(path, b"other")
    assert path.read_bytes() == b"other"
    assert path.stat().st_ino != written


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_flushes_no_folder_is_no_failure(number, tmp_path, monkeypatch):
    flush = os.fsync

    def refuse_folders(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    replace_file(tmp_path / "model.bin", b"new")
    assert (tmp_path / "model.bin").read_bytes() == b"new"


def test_a_folder_that_a_full_disk_cannot_flush_is_a_failure(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        flush_directory(tmp_path)
