"""Going back to an older checkpoint: what is asked for, and what happens to the newer ones."""

import errno
from pathlib import Path

import pytest
from support.run_makers import make_run

from dqn_zoo.errors import UserError
from dqn_zoo.runs.checkpoint import newest_checkpoint, write_checkpoint
from dqn_zoo.runs.going_back import older_checkpoint, set_aside, split_checkpoint
from dqn_zoo.runs.run import Run


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    run = make_run(Path("logs"))
    for step in (100, 200):
        write_checkpoint(run.checkpoints, step, [("model.safetensors", b"of %d" % step)])
    return run


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("", ("", None)),
        ("Breakout_1", ("Breakout_1", None)),
        ("logs/dqn/Breakout_1", ("logs/dqn/Breakout_1", None)),
        ("logs/dqn/Breakout_1/checkpoints/step_000000100", ("logs/dqn/Breakout_1", 100)),
        ("logs/dqn/Breakout_1/checkpoints/step_000000100/", ("logs/dqn/Breakout_1", 100)),
        ("Breakout_1/checkpoints/step_7", ("Breakout_1", 7)),
    ],
)
def test_a_checkpoint_is_told_from_a_run(run, asked, expected):
    assert split_checkpoint(asked) == expected


def test_a_checkpoint_is_named_from_where_the_user_stands(run, monkeypatch):
    folder = run.path.absolute()
    monkeypatch.chdir(run.checkpoints)
    assert split_checkpoint("step_000000100") == (str(folder), 100)


def test_a_step_without_a_checkpoint_or_with_a_damaged_one_is_refused(run):
    with pytest.raises(UserError, match=r"no checkpoint of step 150; it has .*step_000000100, "):
        older_checkpoint(run, 150)
    (run.checkpoint(100) / "model.safetensors").write_bytes(b"of 101")
    with pytest.raises(UserError, match="step_000000100 cannot be resumed: model"):
        older_checkpoint(run, 100)


def test_the_newest_checkpoint_puts_nothing_aside(run):
    assert set_aside(run, older_checkpoint(run, 200)) is None
    assert not (run.path / "set_aside").exists()


def test_a_full_disk_while_logs_are_put_aside_leaves_nothing_there(run, monkeypatch):
    run.model_file.write_bytes(b"of 200")
    run.progress_file.write_text("steps\n")
    copied = []

    def copy2(source: Path, target: Path) -> None:
        copied.append(target)
        if len(copied) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        target.write_bytes(b"half")

    monkeypatch.setattr("shutil.copy2", copy2)
    with pytest.raises(OSError, match="No space"):
        set_aside(run, older_checkpoint(run, 100))
    assert not copied[0].parent.exists()
    assert run.checkpoint_steps() == [100, 200]


def test_each_time_has_a_folder_of_its_own_and_the_older_one_is_the_newest_then(run):
    run.model_file.write_bytes(b"of 200")
    for number in (1, 2):
        folder = set_aside(run, older_checkpoint(run, 100))
        assert folder == run.path / "set_aside" / str(number)
        assert (folder / "step_000000200" / "model.safetensors").read_bytes() == b"of 200"
        assert (folder / "old_model.safetensors").read_bytes() == b"of 200"
        newest, skipped = newest_checkpoint(run.checkpoints)
        assert (newest.step, skipped) == (100, [])
        write_checkpoint(run.checkpoints, 200, [("model.safetensors", b"of 200")])
