"""Trackers for real: Trackio on this machine and Weights & Biases offline, read back."""

import json
import os
import shutil
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dqn_zoo.cli.train import main
from dqn_zoo.errors import UserError
from dqn_zoo.play.film import check_film
from dqn_zoo.runs import trackers
from dqn_zoo.runs.manifest import Tracking, read_manifest
from dqn_zoo.runs.run import Run
from dqn_zoo.runs.trackers import TRACKERS, TrackedLog, TrackTo, tracking_of
from dqn_zoo.settings.recipes import load_config, resolve
from dqn_zoo.training import duties
from dqn_zoo.training.invocation import TrainOptions
from dqn_zoo.training.starting import resume, train

SMALL = {
    "n_timesteps": 120, "learning_starts": 40, "buffer_size": 100, "batch_size": 4,
    "log_interval": 20, "eval_freq": 60, "eval_episodes": 1, "seed": 5, "num_threads": 1,
    "device": "cpu", "network": "small",
}  # fmt: skip

Points = dict[str, dict[int, float]]
"""Values by step, by tag."""


@pytest.fixture(scope="module")
def apart(tmp_path_factory) -> Iterator[Path]:
    """Keep trackers, which read their folders when imported, out of the user's; no key is found."""
    folder = tmp_path_factory.mktemp("trackers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(folder / "trackio"))
        patch.setenv("NETRC", str(folder / "netrc"))
        patch.setenv("WANDB_CONFIG_DIR", str(folder))
        patch.setenv("WANDB_CACHE_DIR", str(folder))
        for name in ("WANDB_API_KEY", "WANDB_MODE", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
            patch.delenv(name, raising=False)
        patch.setattr(duties, "FILM_S", 0.2)
        yield folder


def run_in_two_parts(folder: Path, track: TrackTo | None) -> Run:
    options = TrainOptions(progress=False, track=track)
    run = train(resolve(env="Breakout", overrides=SMALL).config, log_folder=folder, options=options)
    more = TrainOptions(progress=False, until_steps=180)
    return resume(run.run, load_config(run.run.config_file), options=more).run


@pytest.fixture(scope="module")
def untracked(apart, tmp_path_factory) -> Run:
    return run_in_two_parts(tmp_path_factory.mktemp("untracked"), None)


def tensorboard_points(run: Run) -> Points:
    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in tags}


def wandb_records(run: Run) -> Iterator[Any]:
    """Yield what the processes of a run wrote: LevelDB's log format, in blocks of 32,768 bytes."""
    from wandb.proto import wandb_internal_pb2

    for file in sorted(run.path.glob("wandb/offline-run-*/*.wandb")):
        data, place, record = file.read_bytes(), 7, b""
        while place + 7 <= len(data):
            left = 32_768 - place % 32_768
            if left < 7:
                place += left
                continue
            length, part = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
            record += data[place + 7 : place + 7 + length]
            place += 7 + length
            if part in (1, 4):  # whole, or the last part
                yield wandb_internal_pb2.Record.FromString(record)
                record = b""


def stored_by_wandb(run: Run, tracking: Tracking) -> tuple[Points, dict[str, Any], list[Path]]:
    points: Points = defaultdict(dict)
    settings: dict[str, Any] = {}
    for record in wandb_records(run):
        if record.HasField("run"):
            assert record.run.run_id == tracking["id"]
            assert record.run.display_name == tracking["name"]
            assert (record.run.project, list(record.run.tags)) == ("atari", ["a", "b"])
            settings |= {each.key: json.loads(each.value_json) for each in record.run.config.update}
        cells = {
            "/".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in record.history.item
        }
        for tag in cells.keys() - {"global_step"}:
            if not tag.startswith(("_", "eval/film")):
                points[tag][cells["global_step"]] = cells[tag]
    return points, settings, sorted(run.path.glob("wandb/offline-run-*/files/media/**/*.mp4"))


def stored_by_trackio(run: Run, tracking: Tracking) -> tuple[Points, dict[str, Any], list[Path]]:
    from trackio.sqlite_storage import SQLiteStorage

    assert SQLiteStorage.get_runs("atari") == [tracking["name"]]
    points: Points = defaultdict(dict)
    for row in SQLiteStorage.get_logs("atari", tracking["name"]):
        for tag in row.keys() - {"step", "timestamp", "eval/film"}:
            points[tag][row["step"]] = row[tag]
    settings = SQLiteStorage.get_run_config("atari", tracking["name"])
    assert settings is not None
    assert settings["tags"] == ["a", "b"]
    films = Path(os.environ["TRACKIO_DIR"]).glob("media/atari/**/*.mp4")
    return points, settings, sorted(films)


@pytest.mark.trackers
@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracked_run_is_stored_whole_and_trains_as_if_it_were_not(
    tracker, apart, untracked, tmp_path, capsys
):
    pytest.importorskip(tracker, reason="needs the extra of its name")
    run = run_in_two_parts(tmp_path, TrackTo(tracker, project="atari", tags=["a", "b"]))
    tracking = read_manifest(run)["tracking"]
    read_back = {"wandb": stored_by_wandb, "trackio": stored_by_trackio}[tracker]
    points, settings, films = read_back(run, tracking)
    # What was logged before and after the resume: what TensorBoard has, which keeps 32 bits.
    expected = tensorboard_points(run)
    assert set(expected["train/n_updates"]) == set(range(20, 181, 20))
    assert set(points) == set(expected)
    assert set(expected["eval/mean_reward"]) == {60, 120, 180}
    for tag, curve in expected.items():
        assert points[tag] == pytest.approx(curve, rel=1e-6), tag
    config = load_config(run.config_file)
    assert settings["learning_rate"] == config.learning_rate
    assert settings["machine"]["versions"] == read_manifest(run)["versions"]
    assert settings["machine"]["num_threads"] == 1
    # The first evaluation is the best so far.
    assert films
    check_film(films[0])
    said = capsys.readouterr().out
    assert said.count(f"tracked by {tracker}: ") == 2  # the resume says it, too
    assert "Trackio project" not in said  # ... and a tracker nothing
    for weights in ("model_file", "best_model_file"):
        assert getattr(run, weights).read_bytes() == getattr(untracked, weights).read_bytes()


def tracking_to(tracker: str, project: str = "atari") -> Tracking:
    return {
        "tracker": tracker, "project": project, "entity": None, "group": None, "tags": [],
        "name": "name", "id": "id1",
    }  # fmt: skip


@pytest.mark.trackers
def test_a_tracker_that_fails_says_so_once_and_is_switched_off(apart, tmp_path):
    pytest.importorskip("wandb", reason="needs the extra wandb")
    said: list[str] = []
    log = TrackedLog(tracking_to("wandb"), {}, folder=tmp_path, say=said.append)
    assert log.is_on
    for process in psutil.Process().children(recursive=True):
        if process.name().startswith("wandb"):
            process.kill()
    deadline = time.monotonic() + 30
    while log.is_on:
        log.scalars(1, {"a": 1.0})
        assert time.monotonic() < deadline
    log.scalars(2, {"a": 2.0})
    log.film(3, "b", tmp_path / "missing.mp4")
    log.close()
    [started, ended] = said
    assert started.startswith("tracked by wandb: offline; `wandb sync ")
    assert ended.startswith("wandb is switched off, the run goes on: ")
    assert not log.is_on


@pytest.mark.trackers
def test_a_tracker_that_cannot_start_does_not_stop_a_run(apart, tmp_path):
    pytest.importorskip("wandb", reason="needs the extra wandb")
    said: list[str] = []
    log = TrackedLog(tracking_to("wandb", "a/b"), {}, folder=tmp_path, say=said.append)
    log.scalars(1, {"a": 1.0})
    log.close()
    [line] = said
    assert line.startswith("wandb is switched off, the run goes on: ")
    assert "\n" not in line


@pytest.mark.trackers
def test_the_processes_of_a_tracker_that_hangs_are_ended(apart, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs the extra wandb")
    said: list[str] = []
    log = TrackedLog(tracking_to("wandb"), {}, folder=tmp_path, say=said.append)
    here = psutil.Process().children(recursive=True)
    processes = [each for each in here if each.name().startswith("wandb")]
    for process in processes:
        process.suspend()
    monkeypatch.setattr(trackers, "END_S", 0.2)
    log.close()
    assert said[1] == "wandb is switched off, the run goes on: it has not answered in 0.2 s"
    assert processes
    assert psutil.wait_procs(processes, 30)[1] == []


@pytest.fixture
def slow_trackio(monkeypatch) -> SimpleNamespace:
    """A Trackio that hangs in what is named until it is let go; a run waits a moment for it."""
    package: Any = SimpleNamespace(
        hangs_in="", goes_on=threading.Event(), logged=[], finished=threading.Event()
    )

    def step(name: str) -> None:
        print("said by a tracker")
        if package.hangs_in == name:
            assert package.goes_on.wait(30)

    def log(values: dict[str, float], step_: int) -> None:
        step("log")
        package.logged.append((step_, values))

    def init(*_: object, **__: object) -> SimpleNamespace:
        step("init")
        return SimpleNamespace(log=lambda values, step: log(values, step))

    def finish() -> None:
        step("finish")
        package.finished.set()

    package.init, package.finish = init, finish
    monkeypatch.setitem(sys.modules, "trackio", package)
    for name in ("BEGIN_S", "TAKE_S", "END_S"):
        monkeypatch.setattr(trackers, name, 0.1)
    yield package
    package.goes_on.set()


def test_a_run_does_not_wait_for_a_tracker_that_begins_late(slow_trackio, tmp_path, capsys):
    slow_trackio.hangs_in = "init"
    log = TrackedLog(tracking_to("trackio"), {}, folder=tmp_path, say=print)
    log.scalars(1, {"a": 1.0})
    assert not log.is_on
    slow_trackio.goes_on.set()
    deadline = time.monotonic() + 30
    while not log.is_on:
        log.scalars(2, {"a": 2.0})
        assert time.monotonic() < deadline
    log.scalars(3, {"a": 3.0})
    log.close()
    late, tracked = capsys.readouterr().out.splitlines()
    assert late == "trackio has not begun in 0.1 s: the run goes on, untracked until it does"
    assert tracked.startswith("tracked by trackio: ")
    assert slow_trackio.logged == [(2, {"a": 2.0}), (3, {"a": 3.0})]


@pytest.mark.parametrize("hangs_in", ["log", "finish"])
def test_a_tracker_that_hangs_is_left_behind(slow_trackio, tmp_path, capsys, hangs_in):
    slow_trackio.hangs_in = hangs_in
    log = TrackedLog(tracking_to("trackio"), {}, folder=tmp_path, say=print)
    log.scalars(1, {"a": 1.0})
    log.scalars(2, {"a": 2.0})
    log.close()
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "trackio is switched off, the run goes on: it has not answered in 0.1 s"
    assert len(slow_trackio.logged) == (2 if hangs_in == "finish" else 0)


def test_a_tracker_that_begins_behind_the_end_of_a_run_is_finished(slow_trackio, tmp_path, capsys):
    slow_trackio.hangs_in = "init"
    log = TrackedLog(tracking_to("trackio"), {}, folder=tmp_path, say=print)
    log.scalars(1, {"a": 1.0})
    log.close()
    _, said = capsys.readouterr().out.splitlines()
    assert said == "trackio has not begun: nothing of this run is there"
    assert not slow_trackio.finished.is_set()
    slow_trackio.goes_on.set()
    assert slow_trackio.finished.wait(30)
    assert slow_trackio.logged == []


def test_what_a_tracker_prints_when_it_fails_is_not_shown(slow_trackio, tmp_path, capsys):
    log = TrackedLog(tracking_to("trackio"), {}, folder=tmp_path, say=print)
    slow_trackio.logged = None
    log.scalars(1, {"a": 1.0})
    assert slow_trackio.finished.is_set()
    _, failed = capsys.readouterr().out.splitlines()
    assert failed.startswith("trackio is switched off, the run goes on: 'NoneType' object")


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_missing_package_is_said_before_anything_is_made(tracker, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, tracker, None)
    assert main(["--track", tracker, "--env", "Breakout"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"error: --track {tracker} needs {tracker}: pip install '.[{tracker}]' in a clone, or pip "
        f"install {tracker}\n"
    )
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="needs"):
        train(resolve().config, log_folder="logs", options=TrainOptions(track=TrackTo(tracker)))
    assert list(tmp_path.iterdir()) == []


def test_no_module_is_imported_that_is_no_tracker(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "module_of_somebody.py").write_text("raise SystemExit")
    said: list[str] = []
    tracking: Any = tracking_to("trackio") | {"tracker": "module_of_somebody"}
    assert not TrackedLog(tracking, {}, folder=tmp_path, say=said.append).is_on
    assert said[0].endswith("--track module_of_somebody: expected one of wandb, trackio")


@pytest.mark.parametrize("project", ["a\nb", "x" * 201])
def test_a_name_that_a_manifest_cannot_hold_is_refused(project):
    with pytest.raises(UserError, match=r"--track: names are one line of at most 200.*; project"):
        tracking_of(TrackTo("trackio", project=project), env="Pong", algo="dqn", seed=1)


def test_the_command_that_shows_a_run_can_be_pasted(tmp_path):
    trackio = SimpleNamespace(init=lambda *_, **__: None)
    _, where = TRACKERS["trackio"](trackio, tracking_to("trackio", "my runs"), {}, tmp_path)
    assert "`trackio show --project 'my runs'`" in where


def test_a_resume_goes_on_where_its_tracker_is_missing(untracked, tmp_path, monkeypatch, capsys):
    run = Run(shutil.copytree(untracked.path, tmp_path / "dqn" / untracked.name))
    manifest = read_manifest(run) | {"tracking": tracking_to("trackio")}
    run.manifest_file.write_text(json.dumps(manifest))
    monkeypatch.setitem(sys.modules, "trackio", None)
    more = TrainOptions(progress=False, until_steps=200)
    assert resume(run, load_config(run.config_file), options=more).steps == 200
    said = capsys.readouterr().out
    assert said.count("trackio is switched off, the run goes on: ") == 1
    assert read_manifest(run)["tracking"] == tracking_to("trackio")
