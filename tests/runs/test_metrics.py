"""Logs on real files: rollback, full disks, TensorBoard read back by TensorBoard."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from dqn_zoo.runs import metrics
from dqn_zoo.runs.logfiles import CsvLog, EventLog
from dqn_zoo.runs.metrics import EpisodeStatistics, FinishedEpisode, RunLog
from dqn_zoo.runs.run import Run

ROOT = Path(__file__).parents[2]


class Outcome(NamedTuple):
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    life_lost: np.ndarray


def outcome(
    reward: list[float], *, over: int | None = None, cut: int | None = None, life: int | None = None
) -> Outcome:
    envs = np.arange(len(reward))
    flags = [envs == -1 if env is None else envs == env for env in (over, cut, life)]
    return Outcome(np.array(reward, np.float32), *flags)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Warnings(list[str]):
    """Collects the lines that a log warns with."""

    __call__ = list.append


class Clock:
    """A clock that a test moves."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def full_disk(code: str, *arguments: object) -> list[str]:
    """Run code whose files may not grow beyond the bytes given to `limit`; returns its lines."""
    prelude = (
        "import resource, signal, sys\nfrom pathlib import Path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "def limit(size): resource.setrlimit(resource.RLIMIT_FSIZE, (size, -1))\n"
    )
    command = [sys.executable, "-c", prelude + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == "", done.stderr
    assert done.returncode == 0
    return done.stdout.splitlines()


posix = pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")


def test_the_score_of_a_game_goes_on_after_a_lost_life() -> None:
    statistics = EpisodeStatistics(num_envs=2)
    assert statistics.add(outcome([5, 100])) == []
    assert statistics.add(outcome([7, 200], life=0)) == []
    assert statistics.add(outcome([11, 400], over=0)) == [FinishedEpisode(0, 23.0, 3)]
    assert statistics.add(outcome([13, 800], cut=1)) == [FinishedEpisode(1, 1500.0, 4)]
    assert statistics.add(outcome([17, 0], over=0)) == [FinishedEpisode(0, 30.0, 2)]
    assert statistics.episodes == 3
    assert statistics.return_mean == (23 + 1500 + 30) / 3
    assert statistics.length_mean == (3 + 4 + 2) / 3


def test_the_mean_is_over_the_last_games_and_nan_before_the_first() -> None:
    statistics = EpisodeStatistics(num_envs=1, window=2)
    assert math.isnan(statistics.return_mean)
    assert math.isnan(statistics.length_mean)
    for score in (1000.0, 3.0, 5.0):
        statistics.add(outcome([score], over=0))
    assert statistics.return_mean == 4.0
    assert statistics.episodes == 3


def test_statistics_restored_from_json_go_on_exactly() -> None:
    generator = np.random.default_rng(3)
    undisturbed, resumed = EpisodeStatistics(3, window=5), EpisodeStatistics(3, window=5)
    for count in range(60):
        step = outcome(list(generator.normal(size=3)), over=count % 7, cut=(count + 2) % 11)
        expected = undisturbed.add(step)
        assert resumed.add(step) == expected
        restored = EpisodeStatistics(3, window=5)
        restored.restore(json.loads(json.dumps(resumed.state())))
        resumed = restored
        assert resumed.state() == undisturbed.state()
    assert resumed.return_mean == undisturbed.return_mean
    assert resumed.episodes > 10


def test_equal_numbers_give_equal_text_and_no_number_gives_none(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "a.csv", ["a", "b", "c", "d", "e", "f"], warn=pytest.fail)
    log.append({"a": 0.1, "b": np.float64(0.1), "c": np.float32(0.5), "d": np.int64(7), "e": True})
    log.append({"f": math.nan, "a": None, "b": 1e-7, "c": 2, "d": np.bool_(False), "e": math.inf})
    log.close()
    assert log.path.read_text() == "a,b,c,d,e,f\n0.1,0.1,0.5,7,True,\n,1e-07,2,False,inf,\n"


def test_every_row_is_in_the_file_at_once(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "a.csv", ["a"], warn=pytest.fail)
    for count in range(3):
        log.append({"a": count})
        assert len(log.path.read_text().splitlines()) == count + 2
        assert log.offset == log.path.stat().st_size
    log.close()


def test_a_rollback_forgets_what_came_after_it(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "a.csv", ["a", "b"], warn=pytest.fail)
    log.append({"a": 1, "b": 2})
    offset = log.offset
    log.append({"a": 3, "b": 4})
    log.close()
    resumed = CsvLog(tmp_path / "a.csv", ["a", "b"], warn=pytest.fail)
    resumed.rollback(offset)
    resumed.append({"a": 5, "b": 6})
    assert resumed.path.read_text() == "a,b\n1,2\n5,6\n"
    resumed.rollback(0)
    resumed.append({"a": 7, "b": 8})
    resumed.close()
    assert resumed.path.read_text() == "a,b\n7,8\n"


def test_a_torn_last_line_and_a_foreign_offset_leave_whole_lines(tmp_path: Path) -> None:
    path, warnings = tmp_path / "a.csv", Warnings()
    path.write_text("a,b\n1,2\n30,40\n5")
    log = CsvLog(path, ["a", "b"], warn=warnings)
    assert log.offset == len("a,b\n1,2\n30,40\n")
    log.append({"a": 7, "b": 8})
    assert path.read_text() == "a,b\n1,2\n30,40\n7,8\n"
    log.rollback(len("a,b\n1,2\n30"))
    assert path.read_text() == "a,b\n1,2\n"
    assert warnings == []
    log.rollback(1000)
    log.close()
    assert path.read_text() == "a,b\n1,2\n"
    assert warnings == ["a.csv has lost rows: 8 of 1000 bytes are left"]


def test_a_file_keeps_the_columns_of_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("b,old\n1,2\n")
    log = CsvLog(path, ["a", "b"], warn=pytest.fail)
    log.append({"a": 3, "b": 4})
    log.close()
    assert path.read_text() == "b,old\n1,2\n4,\n"


@posix
def test_a_full_disk_warns_once_leaves_no_torn_line_and_loses_nothing(tmp_path: Path) -> None:
    lines = full_disk(
        """
from dqn_zoo.runs.logfiles import CsvLog
now = 0.0
log = CsvLog(Path(sys.argv[1]), ["number"], warn=print, clock=lambda: now)
log.append({"number": 11111})
limit(16)                        # 13 bytes are written: the next line would end at 19
log.append({"number": 22222})
print(repr(log.path.read_text()), log.offset)
log.append({"number": 33333})
limit(-1)
now = 59.0
log.append({"number": 44444})    # not yet tried again
print(repr(log.path.read_text()))
now = 61.0
log.append({"number": 55555})
print(repr(log.path.read_text()), log.offset == log.path.stat().st_size)
log.close()
""",
        tmp_path / "a.csv",
    )
    assert lines == [
        f"{tmp_path / 'a.csv'} cannot be written (No space left on device): "
        "the run goes on and tries again every minute",
        "'number\\n11111\\n' 13",
        "'number\\n11111\\n'",
        "a.csv is written again; 0 rows were lost",
        "'number\\n11111\\n22222\\n33333\\n44444\\n55555\\n' True",
    ]


@posix
def test_rows_that_waited_are_part_of_the_next_checkpoint(tmp_path: Path) -> None:
    lines = full_disk(
        """
from dqn_zoo.runs.logfiles import CsvLog
log = CsvLog(Path(sys.argv[1]), ["number"], warn=lambda text: None, clock=lambda: 0.0)
log.append({"number": 11111})
limit(13)
log.append({"number": 22222})    # waits for a minute
limit(-1)
log.sync()
offset = log.offset
log.close()
again = CsvLog(Path(sys.argv[1]), ["number"], warn=print, clock=lambda: 0.0)
again.append({"number": 33333})
again.rollback(offset)
again.close()
print(repr(again.path.read_text()))
""",
        tmp_path / "a.csv",
    )
    assert lines == [repr("number\n11111\n22222\n")]


@posix
def test_a_disk_that_is_full_from_the_start_still_gets_the_header(tmp_path: Path) -> None:
    lines = full_disk(
        """
from dqn_zoo.runs.logfiles import CsvLog
now = 0.0
limit(0)
log = CsvLog(Path(sys.argv[1]), ["number"], warn=lambda text: None, clock=lambda: now)
log.append({"number": 11111})
log.rollback(0)
log.append({"number": 22222})
limit(-1)
now = 61.0
log.append({"number": 33333})
log.close()
print(repr(log.path.read_text()))
""",
        tmp_path / "a.csv",
    )
    assert lines == ["'number\\n22222\\n33333\\n'"]


def test_rows_beyond_the_limit_are_counted_as_lost(tmp_path: Path) -> None:
    folder, warnings, clock = tmp_path / "missing", Warnings(), Clock()
    log = CsvLog(folder / "a.csv", ["a"], warn=warnings, clock=clock)
    log.PENDING_LIMIT_BYTES = 4
    for count in range(5):
        log.append({"a": count})
    folder.mkdir()
    clock.seconds = 60.0
    log.append({"a": 9})
    log.append({"a": 8})
    log.close()
    assert log.path.read_text() == "a\n0\n1\n8\n"
    assert len(warnings) == 2
    assert warnings[1] == "a.csv is written again; 4 rows were lost"


def make_log(folder: Path) -> RunLog:
    folder.mkdir(exist_ok=True)
    return RunLog(Run(folder), tensorboard_folder=folder / "tensorboard", warn=pytest.fail)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    events = event_accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_a_run_log_writes_each_value_into_its_own_column_and_tag(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    progress = {name: float(count) for count, name in enumerate(metrics.PROGRESS_COLUMNS, 11)}
    evaluation = {name: count for count, name in enumerate(metrics.EVALUATION_COLUMNS, 31)}
    log.progress(progress)
    log.episode(FinishedEpisode(env=2, score=345.0, length_steps=678), steps=9000, seconds=1.5)
    log.evaluation(evaluation)
    log.close()
    assert rows(tmp_path / "progress.csv") == [{key: str(cell) for key, cell in progress.items()}]
    assert rows(tmp_path / "evaluations.csv") == [
        {key: str(cell) for key, cell in evaluation.items()}
    ]
    assert rows(tmp_path / "episodes.csv") == [
        {"steps": "9000", "env": "2", "return": "345.0", "length_steps": "678", "seconds": "1.5"}
    ]
    expected = {
        metric.tag: [(step, float(row[metric.name]))]
        for table, row, step in (
            (metrics.PROGRESS, progress, 11),
            (metrics.EVALUATIONS, evaluation, 31),
        )
        for metric in table
        if metric.tag
    }
    assert scalars(tmp_path / "tensorboard") == expected
    assert expected["rollout/ep_rew_mean"] != expected["eval/mean_reward"]


def test_a_resumed_run_log_equals_the_undisturbed_one(tmp_path: Path) -> None:
    def write(log: RunLog, steps: int) -> None:
        log.progress({"steps": steps, "loss": steps / 7, "return_mean": math.nan})
        log.episode(FinishedEpisode(1, steps + 3.0, 5), steps=steps, seconds=steps / 3)
        log.evaluation({"steps": steps, "mean": steps / 9})

    undisturbed = make_log(tmp_path / "undisturbed")
    killed = make_log(tmp_path / "killed")
    for steps in (1000, 2000, 3000, 4000):
        write(undisturbed, steps)
    for steps in (1000, 2000):
        write(killed, steps)
    offsets = json.loads(json.dumps(killed.offsets()))
    for steps in (3000, 4000, 5000):
        write(killed, steps)
    killed.close()
    resumed = make_log(tmp_path / "killed")
    resumed.rollback(offsets, 2000)
    for steps in (3000, 4000):
        write(resumed, steps)
    for log in (undisturbed, resumed):
        log.close()
    for name in ("progress.csv", "episodes.csv", "evaluations.csv"):
        expected = (tmp_path / "undisturbed" / name).read_bytes()
        assert (tmp_path / "killed" / name).read_bytes() == expected
        assert len(expected.splitlines()) == 5
    points = scalars(tmp_path / "killed" / "tensorboard")
    assert [step for step, _ in points["train/loss"]] == [1000, 2000, 3000, 4000]
    assert points == scalars(tmp_path / "undisturbed" / "tensorboard")


def test_starting_again_from_step_0_empties_every_log(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    log.progress({"steps": 1000, "loss": 1.0})
    log.close()
    again = make_log(tmp_path)
    again.rollback({}, 0)
    again.progress({"steps": 500, "loss": 2.0})
    again.close()
    assert [row["steps"] for row in rows(tmp_path / "progress.csv")] == ["500"]
    assert scalars(tmp_path / "tensorboard") == {"train/loss": [(500, 2.0)]}


@posix
def test_a_full_disk_switches_tensorboard_off_with_one_warning(tmp_path: Path) -> None:
    lines = full_disk(
        """
from dqn_zoo.runs.metrics import RunLog
from dqn_zoo.runs.run import Run
folder = Path(sys.argv[1])
log = RunLog(Run(folder), tensorboard_folder=folder / "tensorboard", warn=print)
log.progress({"steps": 1000, "loss": 1.0})
limit(250)
for steps in range(2000, 9000, 1000):
    log.progress({"steps": steps, "loss": 1.0})
log.offsets()
log.close()
print("done")
""",
        tmp_path,
    )
    assert lines[-1] == "done"
    assert len([line for line in lines if line.startswith("TensorBoard is switched off")]) == 1
    assert len(lines) <= 3
    content = (tmp_path / "progress.csv").read_text()
    assert content.endswith("\n")
    assert scalars(tmp_path / "tensorboard")["train/loss"][0] == (1000, 1.0)


def test_a_folder_that_tensorboard_cannot_use_never_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    warnings = Warnings()
    log = EventLog(tmp_path / "file", warn=warnings)
    log.scalars(1, {"train/loss": 1.0})
    log.scalars(2, {"train/loss": 1.0})
    log.close()
    assert len(warnings) == 1


def test_a_column_that_does_not_exist_is_our_own_mistake(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    with pytest.raises(AssertionError, match="speling"):
        log.progress({"steps": 1, "speling": 2})
    log.close()


def test_the_documentation_explains_every_column_and_tag() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    for metric in (*metrics.PROGRESS, *metrics.EPISODES, *metrics.EVALUATIONS):
        assert f"| `{metric.name}` |" in text
        assert metric.tag is None or f"`{metric.tag}`" in text
    for column in metrics.TIMING_COLUMNS:
        assert f"`{column}`" in text.split("## Which columns repeat")[1]
