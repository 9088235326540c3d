"""Files that are replaced: whole, with nothing beside them, through links and into pipes."""

import os
from pathlib import Path

from dqn_zoo.runs.run import Run
from dqn_zoo.system.files import check_writable, plain_path, quoted, replace_file


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


def test_a_replaced_file_is_whole_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "model.bin"
    replace_file(path, b"old")
    replace_file(path, b"new content")
    assert path.read_bytes() == b"new content"
    assert os.listdir(tmp_path) == ["model.bin"]


def test_a_folder_that_looks_like_a_flag_is_no_flag_in_a_hint():
    assert Run(Path("-x/dqn/Pong_1")).quoted_path == "./-x/dqn/Pong_1"
    assert Run(Path("my logs/Pong_1")).quoted_path == "'my logs/Pong_1'"
    assert quoted(Path("-my logs")) == "'./-my logs'"
    assert plain_path(Path("logs")) == "logs"
