"""Checkpoints on disk: complete or absent, never half; damaged ones are found and passed over."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dqn_zoo.errors import UserError
from dqn_zoo.runs import checkpoint
from dqn_zoo.runs.checkpoint import (
    FORMAT_VERSION,
    MANIFEST,
    DamagedError,
    newest_checkpoint,
    read_entries,
    verify,
    write_checkpoint,
)
from dqn_zoo.system.files import move

FILES = {"state.json": b'{"steps": 5}', "weights.bin": bytes(range(256)) * 40, "empty.bin": b""}


def write(folder: Path, step: int, files=FILES, **options):
    return write_checkpoint(folder, step, iter(files.items()), **options)


def test_what_is_written_is_what_is_read(tmp_path):
    written = write(tmp_path / "checkpoints", 7)
    found, skipped = newest_checkpoint(tmp_path / "checkpoints")
    assert found == written
    assert skipped == []
    assert found.step == 7
    assert found.path.name == "step_000000007"
    assert {name: found.read(name) for name in FILES} == FILES


def test_two_checkpoints_are_kept_and_older_ones_go(tmp_path):
    for step in (100, 200, 1_000):
        write(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000000200", "step_000001000"]


def test_damaged_checkpoints_ahead_of_a_resumed_run_go_with_its_next_save(tmp_path):
    for step in (100, 200):
        write(tmp_path, step)
    (tmp_path / "step_000000200" / "weights.bin").write_bytes(b"damaged")
    write(tmp_path, 150, previous=newest_checkpoint(tmp_path)[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000000100", "step_000000150"]


@pytest.mark.parametrize("name", ["state.json", "weights.bin", MANIFEST])
@pytest.mark.parametrize("damage", ["flipped bit", "missing", "truncated", "longer"])
def test_a_damaged_newest_checkpoint_is_skipped_with_the_reason(tmp_path, name, damage):
    write(tmp_path, 100)
    newest = write(tmp_path, 200).path / name
    content = newest.read_bytes()
    if damage == "missing":
        newest.unlink()
    elif damage == "longer":
        newest.write_bytes(content + b"x")
    elif damage == "truncated":
        newest.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]
        newest.write_bytes(flipped)
    found, skipped = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 100
    assert [entry.path.name for entry in skipped] == ["step_000000200"]
    assert name in skipped[0].reason


def test_every_single_bit_of_a_manifest_matters(tmp_path):
    manifest = write(tmp_path, 100, {"a": b"1"}).path / MANIFEST
    content = manifest.read_bytes()
    for position in range(0, 8 * len(content), 7):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        manifest.write_bytes(bytes(flipped))
        try:
            checkpoint = verify(manifest.parent)
        except DamagedError:
            continue
        # What a flipped bit left valid must still say the same (white space, letter case of \u).
        assert checkpoint.files == json.loads(content)["files"]
        assert checkpoint.step == 100


def test_a_save_that_fails_at_any_file_leaves_the_older_checkpoints_alone(tmp_path):
    write(tmp_path, 100)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for fails_at in range(len(FILES) + 1):

        def files(fails_at: int = fails_at) -> Iterator[tuple[str, bytes]]:
            for number, item in enumerate(FILES.items()):
                if number == fails_at:
                    raise OSError(28, "No space left on device")
                yield item
            raise OSError(28, "No space left on device")

        with pytest.raises(OSError, match="No space"):
            write_checkpoint(tmp_path, 200, files())
        after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert after == before
    assert newest_checkpoint(tmp_path)[0].step == 100


def test_what_a_killed_save_left_behind_is_not_a_checkpoint_and_is_removed(tmp_path):
    left = tmp_path / "step_000000300.unfinished"
    left.mkdir()
    (left / "weights.bin").write_bytes(b"half")
    assert newest_checkpoint(tmp_path) == (None, [])
    write(tmp_path, 100)
    assert not left.exists()


def test_unchanged_files_are_linked_and_survive_the_removal_of_the_older_checkpoint(tmp_path):
    previous = write(tmp_path, 100)
    for step in (200, 300):
        files = {"state.json": str(step).encode(), "weights.bin": None}
        previous = write(tmp_path, step, files, previous=previous)
    older, newer = (tmp_path / f"step_000000{step}" / "weights.bin" for step in (200, 300))
    assert older.stat().st_ino == newer.stat().st_ino
    assert not (tmp_path / "step_000000100").exists()
    assert newest_checkpoint(tmp_path)[0].read("weights.bin") == FILES["weights.bin"]


def test_the_same_step_can_be_written_again(tmp_path):
    previous = write(tmp_path, 100)
    again = {"state.json": b"new", "weights.bin": None}
    write(tmp_path, 100, again, previous=previous)
    found, _ = newest_checkpoint(tmp_path)
    assert found.read("state.json") == b"new"
    assert found.read("weights.bin") == FILES["weights.bin"]
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000100"]


def test_the_same_step_is_there_when_it_cannot_be_written_again(tmp_path, monkeypatch):
    written = write(tmp_path, 100)

    def refusing(source: Path, target: Path) -> None:
        assert source.name != "step_000000100.unfinished", "the disk refuses"
        move(source, target)

    monkeypatch.setattr(checkpoint, "move", refusing)
    with pytest.raises(AssertionError, match="the disk refuses"):
        write(tmp_path, 100, {"state.json": b"new"})
    assert newest_checkpoint(tmp_path) == (written, [])
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000100"]


def test_a_checkpoint_of_a_newer_format_is_refused_not_skipped(tmp_path, monkeypatch):
    write(tmp_path, 100)
    monkeypatch.setattr("dqn_zoo.runs.checkpoint.FORMAT_VERSION", FORMAT_VERSION + 1)
    write(tmp_path, 200)
    monkeypatch.undo()
    with pytest.raises(UserError, match="upgrade"):
        newest_checkpoint(tmp_path)


def test_a_manifest_nested_however_deep_is_damaged_and_no_crash(tmp_path):
    """Up to some depth JSON is read, and from a smaller one on it is not written again."""
    for depth in range(850, 1_000):
        nested = "[" * depth + "]" * depth
        head = '{"format_version": 1, "sha256": "x", "files": '
        (tmp_path / MANIFEST).write_text(f"{head}{nested}}}")
        with pytest.raises(DamagedError):
            read_entries(tmp_path)


def test_a_checkpoint_is_on_the_disk_before_it_exists(tmp_path, monkeypatch):
    done = []
    for name in ("write_file", "flush_directory", "move"):
        real = getattr(checkpoint, name)

        def noted(path, *rest, real=real, name=name):
            done.append((name, path.name))
            return real(path, *rest)

        monkeypatch.setattr(checkpoint, name, noted)
    write_checkpoint(tmp_path, 7, [("state.json", b"{}")])
    unfinished = "step_000000007.unfinished"
    assert done == [
        ("write_file", "state.json"), ("write_file", MANIFEST), ("flush_directory", unfinished),
        ("move", unfinished), ("flush_directory", tmp_path.name),
    ]  # fmt: skip
