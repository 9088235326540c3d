"""Run folders on a real file system, with real processes racing for them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dqn_zoo.errors import UserError
from dqn_zoo.runs.finding import find_run
from dqn_zoo.runs.run import RUN_FORMAT, Run, claim_run, discard_run, lock, place_run

HOLD_LOCK = """
import sys
from pathlib import Path
from dqn_zoo.runs.run import Run, lock
with lock(Run(Path(sys.argv[1]))):
    print("locked", flush=True)
    sys.stdin.readline()
"""

CLAIM_MANY = """
import sys
from dqn_zoo.runs.run import claim_run
print("ready", flush=True)
sys.stdin.readline()
for _ in range(40):
    print(claim_run(sys.argv[1], "dqn", "Pong").name, flush=True)
"""


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def make_run(logs: Path, algo: str, game: str, *, changed: float = 1e9) -> Run:
    run = claim_run(logs, algo, game)
    run.config_file.write_text("env: Pong\n")
    run.manifest_file.write_text(json.dumps({"format": RUN_FORMAT}))
    os.utime(run.manifest_file, (changed, changed))
    return run


def test_the_first_run_is_number_one_and_later_ones_count_on_from_the_highest(
    tmp_path: Path,
) -> None:
    assert claim_run(tmp_path, "dqn", "Pong").path == tmp_path / "dqn" / "Pong_1"
    (tmp_path / "dqn" / "Pong_41").mkdir()
    assert claim_run(tmp_path, "dqn", "Pong").name == "Pong_42"


def test_a_name_in_other_letters_is_taken_where_the_disk_ignores_case(tmp_path: Path) -> None:
    (tmp_path / "dqn" / "pong_3").mkdir(parents=True)
    assert claim_run(tmp_path, "dqn", "Pong").name == "Pong_4"


def test_other_names_do_not_count(tmp_path: Path) -> None:
    for name in ("PongDuel_7", "Pong_8_old", "Pong_x", "notes_9.txt", "Pong", "Pong_010"):
        (tmp_path / "dqn" / name).mkdir(parents=True)
    assert claim_run(tmp_path, "dqn", "Pong").name == "Pong_1"
    assert claim_run(tmp_path, "double-dqn", "Pong").name == "Pong_1"


def test_an_exp_id_is_taken_or_refused(tmp_path: Path) -> None:
    run = claim_run(tmp_path, "dqn", "Pong", exp_id=7)
    assert run.name == "Pong_7"
    with pytest.raises(UserError, match=r"--exp-id 7 is taken: .*Pong_7 exists; leave --exp-id"):
        claim_run(tmp_path, "dqn", "Pong", exp_id=7)
    run.config_file.write_text("env: Pong\n")
    run.manifest_file.write_text('{"format": 1}')
    with pytest.raises(UserError, match=r"exists; resume it with `dqn-train --resume .*Pong_7`"):
        claim_run(tmp_path, "dqn", "Pong", exp_id=7)
    with pytest.raises(UserError, match="got -1"):
        claim_run(tmp_path, "dqn", "Pong", exp_id=-1)
    assert claim_run(tmp_path, "dqn", "Pong", exp_id=0).name == "Pong_8"


def test_two_processes_never_claim_the_same_folder(tmp_path: Path) -> None:
    processes = [python(CLAIM_MANY, str(tmp_path)) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=30) for process in processes]
    names = [name for output, errors in outputs for name in output.split()]
    assert [errors for _, errors in outputs] == ["", ""]
    assert sorted(names) == sorted(f"Pong_{number}" for number in range(1, 81))


def test_a_log_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    with pytest.raises(UserError, match=r"no run folder can be made in .*logs.*-f FOLDER"):
        claim_run(tmp_path / "logs", "dqn", "Pong")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="file permissions of this kind are POSIX")
def test_a_log_folder_without_write_permission_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    (folder / "dqn").mkdir(parents=True)
    for path in (folder / "dqn", folder):
        path.chmod(0o555)
    code = (
        "import os, sys\nfrom dqn_zoo.runs.run import claim_run\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"  # root may write everywhere
        "try: claim_run(sys.argv[1], 'dqn', 'Pong')\n"
        "except ValueError as error: print(type(error).__name__, error)"
    )
    output, errors = python(code, str(folder)).communicate(timeout=30)
    assert errors == ""
    assert output.startswith("UserError no run folder can be made in")
    assert "Permission denied" in output
    assert "-f FOLDER" in output


def test_a_folder_in_which_nothing_was_trained_is_discarded(tmp_path: Path) -> None:
    run = claim_run(tmp_path, "dqn", "Pong")
    run.config_file.write_text("env: Pong\n")
    run.progress_file.write_text("steps,frames\n")
    with lock(run):
        pass
    assert discard_run(run)
    assert not run.path.exists()
    assert not discard_run(run)


@pytest.mark.parametrize("kept", ["model.safetensors", "best_model.safetensors", "progress.csv"])
def test_a_folder_with_something_trained_is_never_discarded(tmp_path: Path, kept: str) -> None:
    run = claim_run(tmp_path, "dqn", "Pong")
    (run.path / kept).write_text("steps\n1000\n")
    assert not discard_run(run)
    assert (run.path / kept).exists()


def test_a_folder_with_a_checkpoint_is_never_discarded(tmp_path: Path) -> None:
    run = claim_run(tmp_path, "dqn", "Pong")
    (run.checkpoints / "step_000001000").mkdir(parents=True)
    assert not discard_run(run)
    assert run.checkpoints.exists()


def test_a_locked_run_names_the_process_that_writes_it(tmp_path: Path) -> None:
    run = claim_run(tmp_path, "dqn", "Pong")
    with python(HOLD_LOCK, str(run.path)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"run Pong_1 is being written by process {holder.pid}"):
            lock(run).__enter__()
        holder.kill()
        holder.wait(timeout=30)
    with lock(run):  # a killed process leaves the file, never the lock
        assert json.loads((run.path / ".lock").read_text())["pid"] == os.getpid()
    with lock(run):
        pass


def test_a_run_is_found_by_folder_by_name_and_by_number(tmp_path: Path) -> None:
    make_run(tmp_path, "dqn", "Pong")
    second = make_run(tmp_path, "dqn", "Pong")
    other = make_run(tmp_path, "laptop", "Breakout")
    assert find_run("elsewhere", run=second.path) == second
    assert find_run("elsewhere", run=second.path, algo="dqn", exp_id=2) == second
    for flags in ({"algo": "laptop"}, {"exp_id": 1}):
        with pytest.raises(UserError, match="Pong_2 is another run than the flags beside it say"):
            find_run("elsewhere", run=second.path, **flags)
    assert find_run(tmp_path, run="Pong_2") == second
    assert find_run(tmp_path, run="dqn/Pong_2") == second
    assert find_run(tmp_path, game="Pong", exp_id=2) == second
    assert find_run(tmp_path, exp_id=1, algo="laptop") == other


def test_a_run_that_is_a_link_is_found_by_the_name_of_the_link(tmp_path: Path) -> None:
    run = make_run(tmp_path / "elsewhere", "dqn", "Pong")
    moved = run.path.rename(tmp_path / "scratch")
    (tmp_path / "logs" / "dqn").mkdir(parents=True)
    link = tmp_path / "logs" / "dqn" / "Pong_3"
    link.symlink_to(moved)
    logs = tmp_path / "logs"
    for found in (find_run(logs), find_run(logs, run="Pong_3"), find_run(logs, game="Pong")):
        assert found.path == link


def test_a_run_of_somebody_else_that_cannot_be_read_is_not_the_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = make_run(tmp_path, "dqn", "Pong", changed=4e8)
    other = make_run(tmp_path, "dqn", "Pong", changed=5e8)
    real = Path.stat

    def stat(path: Path, **options: object) -> os.stat_result:
        if other.path in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    assert find_run(tmp_path) == own


def test_nothing_named_is_the_run_that_changed_last(tmp_path: Path) -> None:
    first = make_run(tmp_path, "dqn", "Pong", changed=5e8)
    second = make_run(tmp_path, "dqn", "Pong", changed=4e8)
    third = make_run(tmp_path, "laptop", "Breakout", changed=3e8)
    starting = claim_run(tmp_path, "dqn", "Pong")
    starting.config_file.write_text("")
    assert find_run(tmp_path) == first
    assert find_run(tmp_path, algo="laptop", exp_id=0) == third
    second.progress_file.write_text("")
    os.utime(second.progress_file, (6e8, 6e8))
    third.results_file.write_text("{}")  # somebody watched it: no change
    assert find_run(tmp_path) == second
    assert find_run(tmp_path, game="Breakout") == third


def test_a_name_that_two_recipes_share_is_ambiguous(tmp_path: Path) -> None:
    make_run(tmp_path, "dqn", "Pong")
    expected = make_run(tmp_path, "laptop", "Pong")
    with pytest.raises(UserError, match=r"ambiguous: dqn/Pong_1, laptop/Pong_1; name one of them$"):
        find_run(tmp_path, run="Pong_1")
    assert find_run(tmp_path, run="Pong_1", algo="laptop") == expected


def test_an_unknown_run_gets_the_nearest_names(tmp_path: Path) -> None:
    make_run(tmp_path, "dqn", "Pong")
    make_run(tmp_path, "dqn", "SpaceInvaders")
    with pytest.raises(UserError, match=r"no run 'SpaceInvader_1' in .*nearest are dqn/SpaceInv"):
        find_run(tmp_path, run="SpaceInvader_1")
    with pytest.raises(UserError, match=r"no run Pong_5 in .*nearest are dqn/Pong_1"):
        find_run(tmp_path, game="Pong", exp_id=5)
    with pytest.raises(
        UserError, match=r"no run of Pong by c51 in .*; the nearest are dqn/Pong_1$"
    ):
        find_run(tmp_path, game="Pong", algo="c51")
    with pytest.raises(UserError, match=r"nearest are dqn/Pong_1"):
        find_run("elsewhere", run=tmp_path / "dqn" / "Pong_2")


@pytest.mark.parametrize(
    ("algo", "recipe"), [(None, ""), ("rainbow", " --algo rainbow"), ("pretrained", "")]
)
def test_a_game_without_runs_gets_the_command_that_trains_it(tmp_path: Path, algo, recipe) -> None:
    make_run(tmp_path, "dqn", "Pong")
    with pytest.raises(UserError) as caught:
        find_run(tmp_path, game="Tennis", algo=algo)
    start = f"start one with `dqn-train --env Tennis{recipe}`, or name another -f FOLDER"
    assert str(caught.value).endswith(f" in {tmp_path}; {start}")


def test_no_run_at_all_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"start one with `dqn-train --env Pong --algo laptop`"):
        find_run(tmp_path / "logs", game="Pong", algo="laptop")


def test_a_folder_that_is_no_run_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is empty, not a run folder"):
        find_run(tmp_path, run=tmp_path)
    (tmp_path / "photo.png").write_text("")
    with pytest.raises(
        UserError, match=r"not a run folder: config\.yml and manifest\.json missing"
    ):
        find_run(tmp_path, run=tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "x', '{"format": null}'])
def test_a_damaged_manifest_is_a_one_line_error(tmp_path: Path, content: str) -> None:
    run = make_run(tmp_path, "dqn", "Pong")
    run.manifest_file.write_text(content)
    with pytest.raises(UserError) as caught:
        find_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_run_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, "dqn", "Pong")
    run.manifest_file.write_text(json.dumps({"format": RUN_FORMAT + 1}))
    with pytest.raises(UserError, match=rf"run format {RUN_FORMAT + 1} .* up to {RUN_FORMAT}: up"):
        find_run(tmp_path, run="Pong_1")


def test_run_folders_need_no_heavy_import() -> None:
    code = (
        "import sys\n"
        "from dqn_zoo.runs import checkpoint, elsewhere, finding, going_back, manifest, run\n"
        "print({'torch', 'numpy', 'gymnasium', 'ale_py', 'cv2'} & set(sys.modules))"
    )
    output, _ = python(code).communicate(timeout=30)
    assert output.strip() == "set()"


def fill(run: Run) -> None:
    run.config_file.write_text("env: Pong\n")
    run.manifest_file.write_text(json.dumps({"format": RUN_FORMAT}))


def test_a_placed_run_appears_whole_under_the_next_number(tmp_path: Path) -> None:
    make_run(tmp_path, "dqn", "Pong")
    run = place_run(tmp_path, "dqn", "Pong", fill)
    assert run.path == tmp_path / "dqn" / "Pong_2"
    assert find_run(tmp_path, exp_id=2) == run
    assert sorted(path.name for path in (tmp_path / "dqn").iterdir()) == ["Pong_1", "Pong_2"]


@pytest.mark.skipif(os.name == "nt", reason="no fork")
def test_a_process_that_is_killed_while_it_places_a_run_leaves_none(tmp_path: Path) -> None:
    def die(run: Run) -> None:
        run.config_file.write_text("env: Pong\n")
        os._exit(9)  # as a kill: nothing is cleaned up

    child = os.fork()
    if child == 0:
        place_run(tmp_path, "dqn", "Pong", die)
    os.waitpid(child, 0)
    [left] = (tmp_path / "dqn").iterdir()
    with pytest.raises(UserError, match="there is no run at all"):
        find_run(tmp_path)
    for path in (left, *left.rglob("*")):
        os.utime(path, (1e9, 1e9))
    assert place_run(tmp_path, "dqn", "Pong", fill).name == "Pong_1"
    assert not left.exists()


def test_a_run_that_is_filled_for_hours_is_not_taken_for_a_left_one(tmp_path: Path) -> None:
    def fill_slowly(run: Run) -> None:
        fill(run)
        os.utime(run.path.parent, (1e9, 1e9))  # made long ago, written to now
        place_run(tmp_path, "dqn", "Pong", fill)

    assert place_run(tmp_path, "dqn", "Pong", fill_slowly).name == "Pong_2"


def test_a_start_that_fails_while_it_places_a_run_leaves_nothing(tmp_path: Path) -> None:
    def fail(run: Run) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        place_run(tmp_path, "dqn", "Pong", fail)
    assert list((tmp_path / "dqn").iterdir()) == []


def test_a_half_folder_is_not_the_latest_run(tmp_path: Path) -> None:
    whole = make_run(tmp_path, "dqn", "Pong")
    half = claim_run(tmp_path, "dqn", "Pong")
    half.config_file.write_text("env: Pong\n")
    half.model_file.write_text("newest")
    assert find_run(tmp_path) == whole
