"""The loop: exact counts, phases that do not disturb each other, stops, full disks."""

import contextlib
import csv
import errno
import itertools
import json
import math
import shutil
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load
from support.children import run_python
from support.emulators import KEPT

from dqn_zoo.algorithms.replay_plan import (
    describe,
    replay_shape,
    updates_owed,
    with_mean_train_freq,
)
from dqn_zoo.algorithms.replay_q import ReplayQ
from dqn_zoo.cli.train import main
from dqn_zoo.envs import making
from dqn_zoo.errors import UserError
from dqn_zoo.learning.online_network import NOTHING
from dqn_zoo.learning.optimizers import OPTIMIZERS
from dqn_zoo.play.evaluation import evaluation_seeds
from dqn_zoo.replay.frame_files import compressed_frames
from dqn_zoo.runs import checkpoint
from dqn_zoo.runs.checkpoint import Checkpoint, newest_checkpoint, write_checkpoint
from dqn_zoo.runs.metrics import RunLog
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.config import Config, build_config
from dqn_zoo.settings.recipes import load_config, resolve
from dqn_zoo.sharing.push import training_record
from dqn_zoo.system import machine
from dqn_zoo.system.machine import usable_cores
from dqn_zoo.system.signals import Ended, Stop, ends_at_once, stop_requests
from dqn_zoo.training import duties, preparation
from dqn_zoo.training.backup import NoBackup
from dqn_zoo.training.display import Heading, make_display
from dqn_zoo.training.duties import Duties
from dqn_zoo.training.invocation import TrainOptions, prepare_process
from dqn_zoo.training.preparation import complete, estimate
from dqn_zoo.training.snapshot import restore
from dqn_zoo.training.starting import resume, train
from dqn_zoo.training.trainer import Trainer

QUIET = TrainOptions(progress=False)
SMALL = {
    "n_timesteps": 240,
    "learning_starts": 96,
    "buffer_size": 200,
    "batch_size": 4,
    "target_update_interval": 40,
    "log_interval": 40,
    "eval_freq": 0,
    "seed": 5,
    "num_threads": 1,
    "device": "cpu",
    "network": "small",
}


def config_of(**changes):
    return resolve(env="Breakout", overrides=SMALL | changes).config


@pytest.fixture(scope="module")
def master(tmp_path_factory) -> Run:
    """A run of `config_of()`, trained to its end."""
    return train(config_of(), log_folder=tmp_path_factory.mktemp("master"), options=QUIET).run


@pytest.fixture
def finished(master, tmp_path) -> Run:
    """The same run in a folder of its own, so that it can be resumed and spoiled."""
    return Run(shutil.copytree(master.path, tmp_path / "dqn" / master.path.name))


def advance(trainer: Trainer, steps: int) -> None:
    """Train on for so many steps, without duties."""
    algorithm = trainer.algorithm
    goal = algorithm.steps + steps
    while algorithm.steps < goal:
        trainer.envs.send(algorithm.act(trainer.observation))
        algorithm.learn()
        step = trainer.envs.recv()
        algorithm.observe(step)
        trainer.observation = step.observation


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("n_envs", [1, 3, 6])
@pytest.mark.parametrize(
    ("train_freq", "later", "gradient_steps", "expected"),
    [
        (4, None, 1, 144 // 4),
        (5, None, 2, 144 // 5 * 2),
        (16, None, 3, 144 // 16 * 3),
        (5, 3, 2, (24 // 5 + 120 // 3) * 2),  # to the middle at 120, and from there
    ],
)
def test_any_number_of_environments_makes_the_same_updates(
    n_envs, train_freq, later, gradient_steps, expected
):
    changes = {"train_freq": train_freq, "train_freq_later": later, "n_envs": n_envs}
    trainer = Trainer(complete(config_of(**changes, gradient_steps=gradient_steps)))
    made = []

    def step(minibatch, learning_rate, beside=NOTHING):
        """Count; what is due is the question, and updates are slow."""
        with beside:
            made.append(learning_rate)
        return torch.ones(len(minibatch.action))

    trainer.algorithm.learner.step = step
    trainer.start()
    advance(trainer, 240)
    trainer.algorithm.learn()
    trainer.close()
    assert len(made) == expected


def test_from_the_middle_on_updates_come_as_often_as_is_said():
    changes = {"learning_starts": 103, "n_timesteps": 1_000, "train_freq": 8, "batch_size": 2}
    config = config_of(**changes, train_freq_later=4)
    # 397 steps to the middle are 49 rounds, and 5 steps that are too few; then one every 4 steps.
    owed = {103: 0, 110: 0, 111: 1, 495: 49, 500: 49, 503: 49, 504: 50, 507: 50, 1_000: 174}
    assert {steps: updates_owed(config, steps) for steps in owed} == owed
    assert updates_owed(config, 1_400) == 274, "a run that goes on stays with the later ones"
    assert updates_owed(config_of(**changes, train_freq_later=8), 1_000) == 49 + 62
    late = config_of(**changes | {"learning_starts": 600}, train_freq_later=4)
    assert updates_owed(late, 1_000) == 100, "it begins to learn behind the middle"
    assert describe(config)["learning"] == (
        "174 updates of 2, from step 103, every 8 steps and every 4 from step 500"
        ", targets one ahead"
    )


@pytest.mark.parametrize(
    ("early", "later", "gradient_steps", "expected"),
    [(8, 4, 1, (16, 3)), (8, 4, 5, (16, 15)), (3, 1, 1, (3, 2)), (4, 4, 2, (4, 2))],
)
def test_the_speed_of_both_halves_is_measured_at_once(early, later, gradient_steps, expected):
    changes = {"train_freq": early, "train_freq_later": later, "gradient_steps": gradient_steps}
    mean = with_mean_train_freq(config_of(**changes))
    assert (mean.train_freq, mean.gradient_steps, mean.train_freq_later) == (*expected, None)
    plain = config_of(train_freq=early)
    assert with_mean_train_freq(plain) == plain


def test_no_update_is_lost_while_the_memory_is_still_empty():
    trainer = Trainer(complete(config_of(learning_starts=0, n_steps=5, train_freq=1)))
    trainer.start()
    made = []
    for _ in range(6):
        advance(trainer, 1)
        made.append(trainer.algorithm.updates)
    trainer.close()
    assert made == [0, 0, 0, 0, 0, 5]


def test_the_weights_do_not_move_before_learning_starts(tmp_path):
    config = config_of(n_timesteps=100, learning_starts=97, exploration_fraction=1.0)
    fresh = Trainer(complete(config))
    fresh.close()
    outcome = train(config, log_folder=tmp_path, options=QUIET)
    trained = outcome.run.model_file.read_bytes()
    fresh.algorithm.steps = 100
    assert trained == fresh.weights_bytes()


def test_evaluations_share_their_emulators_and_change_nothing_in_the_training(
    tmp_path, monkeypatch
):
    KEPT.close()
    built, make_backend = [], making._make_backend
    monkeypatch.setattr(
        making, "_make_backend", lambda *how: built.append(how) or make_backend(*how)
    )
    short = config_of(n_timesteps=140, max_frames=200)
    evaluated = short.model_copy(update={"eval_freq": 70, "eval_episodes": 1})
    frequent = train(evaluated, log_folder=tmp_path, options=QUIET)
    assert len(built) == 2, "the emulators that train, and those that play both evaluations"
    never = train(short, log_folder=tmp_path, options=QUIET)
    assert len(rows(frequent.run.evaluations_file)) == 2
    assert rows(never.run.evaluations_file) == []
    assert frequent.run.model_file.read_bytes() == never.run.model_file.read_bytes()
    assert frequent.run.best_model_file.exists()
    assert not never.run.best_model_file.exists()


def test_a_minute_in_and_a_minute_of_learning_in_there_is_a_checkpoint_that_changes_no_bit(
    tmp_path, monkeypatch
):
    saved = []

    def note(folder, step, files, **options):
        saved.append(step)
        return write_checkpoint(folder, step, files, **options)

    monkeypatch.setattr("dqn_zoo.training.duties.write_checkpoint", note)
    config = config_of(n_timesteps=140, save_freq=120)
    late = train(config, log_folder=tmp_path, options=QUIET)
    assert saved == [120, 140]
    saved.clear()
    monkeypatch.setattr("dqn_zoo.training.duties.EARLY_S", 0.0)
    early = train(config, log_folder=tmp_path, options=QUIET)
    first, learned, *others = saved
    assert (first < 96 < learned <= 104, others) == (True, [120, 140])
    assert early.run.model_file.read_bytes() == late.run.model_file.read_bytes()
    newest = [run.checkpoint(140) for run in (early.run, late.run)]
    for name in ("rows.z", "target.safetensors", "optimizer.safetensors"):
        assert len({(checkpoint / name).read_bytes() for checkpoint in newest}) == 1
    saved.clear()
    train(config.model_copy(update={"save_freq": 0}), log_folder=tmp_path, options=QUIET)
    assert saved == [140]


def test_the_best_model_is_the_one_of_the_best_evaluation(tmp_path):
    outcome = train(
        config_of(
            n_timesteps=150, learning_starts=50, eval_freq=30, eval_episodes=1, max_frames=240,
            learning_rate=0.01, seed=8,
        ),
        log_folder=tmp_path,
        options=QUIET,
    )  # fmt: skip
    evaluations = rows(outcome.run.evaluations_file)
    means = [float(row["mean"]) for row in evaluations]
    marked = [int(row["steps"]) for row in evaluations if row["is_best"] in ("True", "1")]
    best = marked[-1]
    assert marked[0] == 60, "no evaluation before learning starts, at step 50, can be the best"
    assert best == int(evaluations[means.index(max(means[1:]), 1)]["steps"])
    assert best not in (60, 150), "neither the first nor the last"
    header = outcome.run.best_model_file.read_bytes()[:400]
    assert f'\\"steps\\": {best}'.encode() in header


def test_progress_rows_count_steps_frames_updates_and_epsilon(tmp_path):
    outcome = train(
        config_of(exploration_fraction=0.5, exploration_final_eps=0.1),
        log_folder=tmp_path,
        options=QUIET,
    )
    table = rows(outcome.run.progress_file)
    assert [int(row["steps"]) for row in table] == [40, 80, 120, 160, 200, 240]
    assert [int(row["frames"]) for row in table] == [160, 320, 480, 640, 800, 960]
    # The updates of a step are made during the next one.
    assert [int(row["updates"]) for row in table] == [0, 0, 5, 15, 25, 35]
    assert [float(row["epsilon"]) for row in table] == [1.0, 1.0, 0.1, 0.1, 0.1, 0.1]
    assert [row["loss"] != "" for row in table] == [False, False, True, True, True, True]


def test_starting_from_given_weights_starts_at_step_0_with_those_weights(tmp_path, finished):
    second = train(
        config_of(n_timesteps=100, learning_starts=99, exploration_fraction=1.0),
        log_folder=tmp_path,
        trained_agent=finished.path,
        options=QUIET,
    )
    assert second.run.path.name == "Breakout_2"
    tail = 1_000_000  # bytes of weights, behind the header with the step
    assert second.run.model_file.read_bytes()[-tail:] == finished.model_file.read_bytes()[-tail:]


def forget_the_end(run):
    """Make a run look as if it had been killed: no invocation says how it ended."""
    manifest = json.loads(run.manifest_file.read_text())
    manifest["invocations"][-1] |= {"ended": None, "end_reason": None, "end_step": None}
    run.manifest_file.write_text(json.dumps(manifest))


def test_a_kill_between_the_last_checkpoint_and_the_last_weights_can_be_resumed(finished):
    weights = finished.model_file.read_bytes()
    forget_the_end(finished)
    finished.model_file.unlink()
    again = resume(finished, load_config(finished.config_file), options=QUIET)
    assert again.reason == "finished"
    assert finished.model_file.read_bytes() == weights


def test_a_signal_while_a_resume_replays_ends_it_at_once_and_leaves_the_run_as_it_was(
    finished, monkeypatch, capsys
):
    run, config = finished, load_config(finished.config_file)
    longer = replace(QUIET, until_steps=280)
    manifest = run.manifest_file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("dqn_zoo.system.signals.Stop.reason", lambda stop: "SIGHUP")
        with pytest.raises(Ended, match="SIGHUP"):
            resume(run, config, options=longer)
    assert f"stopped before {run.path} went on; it is as it was" in capsys.readouterr().out
    assert run.manifest_file.read_bytes() == manifest
    monkeypatch.setattr("dqn_zoo.training.invocation.REPLAY_LINE_S", 0.0)
    assert resume(run, config, options=longer).steps == 280
    assert "replayed 240 of 240\n" in capsys.readouterr().out


@pytest.mark.parametrize("read", ["state.json", "model.safetensors", "frames_00000.z"])
def test_a_signal_while_a_checkpoint_is_read_ends_a_resume_before_the_next_file(
    finished, monkeypatch, capsys, read
):
    """`state.json` is read before the run's manifest is touched, and then once more."""
    before = finished.manifest_file.stat().st_mtime_ns
    names = []

    def read_and_signal(checkpoint, name):
        names.append(name)
        if name == read:
            signal.raise_signal(signal.SIGINT)
        return read_file(checkpoint, name)

    read_file = Checkpoint.read
    monkeypatch.setattr(Checkpoint, "read", read_and_signal)
    with pytest.raises(Ended, match="SIGINT"):
        resume(finished, load_config(finished.config_file), options=replace(QUIET, until_steps=280))
    assert names[-1] == read
    printed = capsys.readouterr().out
    assert f"stopped before {finished.path} went on; it is as it was" in printed
    assert "replaying" not in printed
    if read == "state.json":
        assert finished.manifest_file.stat().st_mtime_ns == before


def test_a_stop_during_the_last_evaluation_leaves_it_to_the_resume(tmp_path, monkeypatch):
    config = config_of(n_timesteps=120, eval_freq=120, eval_episodes=1, max_frames=200)
    whole = train(config, log_folder=tmp_path, options=QUIET)
    asked = 0

    def stop_when_asked_late(self):
        nonlocal asked
        asked += 1
        return "SIGTERM" if asked > 122 else None  # once per step, then in the evaluation

    monkeypatch.setattr("dqn_zoo.system.signals.Stop.reason", stop_when_asked_late)
    stopped = train(config, log_folder=tmp_path, options=QUIET)
    monkeypatch.undo()
    assert (stopped.steps, stopped.reason) == (120, "SIGTERM")
    assert rows(stopped.run.evaluations_file) == []
    again = resume(stopped.run, config, options=QUIET)
    assert again.reason == "finished"
    assert len(rows(stopped.run.evaluations_file)) == 1
    for name in ("model.safetensors", "best_model.safetensors"):
        assert (stopped.run.path / name).read_bytes() == (whole.run.path / name).read_bytes()


def test_a_larger_n_is_remembered_and_a_smaller_one_refused(finished, monkeypatch):
    config = load_config(finished.config_file)
    with pytest.raises(UserError, match="only a larger -n"):
        resume(finished, config, options=TrainOptions(until_steps=100, progress=False))
    with pytest.raises(UserError, match="give a larger -n"):
        resume(finished, config, options=QUIET)

    def resume_for_a_while(**options):
        asked = itertools.count(1)  # once per step, twice in a replay
        over = lambda stop: "time_limit" if next(asked) > 30 else None  # noqa: E731
        monkeypatch.setattr(Stop, "reason", over)
        return resume(finished, config, options=replace(QUIET, **options))

    stopped = resume_for_a_while(until_steps=100_000)
    assert stopped.reason == "time_limit"
    again = resume_for_a_while()
    assert again.reason == "time_limit"
    assert again.steps > stopped.steps > 240


def test_where_the_rate_has_fallen_to_0_a_new_run_from_the_weights_is_advised(
    tmp_path, monkeypatch, capsys
):
    config = config_of(n_timesteps=120, learning_rate="lin_1e-4")
    run = train(config, log_folder=tmp_path, options=QUIET).run
    with pytest.raises(UserError, match=r"learning rate is 0; .* from its weights: dqn-train -i"):
        resume(run, config, options=QUIET)
    monkeypatch.setattr(Stop, "reason", lambda stop: "time_limit")
    resume(run, config, options=replace(QUIET, until_steps=240))
    [note] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    assert note.startswith("note: lin_1e-4 is 0 from step 120 on, where nothing more is learned; ")
    assert note.endswith(f": dqn-train -i {run.path}")


def test_a_resume_in_bfloat16_on_a_cpu_without_it_says_what_helps(tmp_path, monkeypatch, capsys):
    config = config_of(n_timesteps=120, precision="bfloat16", learning_starts=100)
    run = train(config, log_folder=tmp_path, options=QUIET).run
    monkeypatch.setattr(Stop, "reason", lambda stop: "time_limit")
    for has_it in (True, False):
        monkeypatch.setattr(preparation.machine, "supports_bfloat16", lambda _, has=has_it: has)
        capsys.readouterr()
        resume(run, load_config(run.config_file), options=replace(QUIET, until_steps=240))
        warning = (
            "warning: precision bfloat16: this CPU has no bfloat16 instructions, so float32 is "
            "faster: set precision: float32 in config.yml\n"
        )
        assert (warning in capsys.readouterr().out) is not has_it


def test_checkpoints_that_were_removed_during_a_run_are_written_anew(finished):
    config = load_config(finished.config_file)
    trainer = Trainer(complete(config))
    checkpoint, _ = newest_checkpoint(finished.checkpoints)
    restore(trainer, checkpoint)
    log = RunLog(finished, tensorboard_folder=None, warn=print)
    display = make_display(False, Heading(name="run", n_timesteps=240))
    keeper = Duties(
        trainer,
        finished,
        log,
        display,
        Stop(None),
        previous=checkpoint,
        backup=NoBackup(),
        resume_flags={},
    )
    shutil.rmtree(finished.checkpoints)
    trainer.algorithm.steps += 1
    keeper.save_at_the_end()
    trainer.close()
    log.close()
    verified, _ = newest_checkpoint(finished.checkpoints)
    assert verified.step == 241


def test_given_weights_survive_a_kill_before_the_first_periodic_checkpoint(tmp_path, finished):
    config = config_of(n_timesteps=120, learning_starts=100, max_frames=200)
    whole = train(config, log_folder=tmp_path, trained_agent=finished.path, options=QUIET)
    killed = train(config, log_folder=tmp_path, trained_agent=finished.path, options=QUIET)
    file = finished.best_model_file if finished.best_model_file.exists() else finished.model_file
    told = training_record(whole.run, 240)["begins_with"]
    assert told == f"{finished.path.parent.name}/{finished.path.name}, {file.name}"
    forget_the_end(killed.run)
    shutil.rmtree(killed.run.checkpoints)
    killed.run.model_file.unlink()
    again = resume(killed.run, load_config(killed.run.config_file), options=QUIET)
    assert again.steps == 120
    assert killed.run.model_file.read_bytes() == whole.run.model_file.read_bytes()


def test_weights_of_another_game_are_refused_and_leave_no_folder(tmp_path, finished):
    pong = resolve(env="Pong", overrides=SMALL).config
    with pytest.raises(UserError, match="weights decide among 4 actions and Pong has 6: give the"):
        train(pong, log_folder=tmp_path, trained_agent=finished.path, options=QUIET)
    assert [path.name for path in (tmp_path / "dqn").iterdir()] == ["Breakout_1"]


def test_a_run_that_diverges_is_stopped_with_a_hint(tmp_path):
    config = config_of(learning_rate=1e30, loss="squared", train_freq=1)
    with pytest.raises(UserError, match=r"diverged.*lower learning_rate"):
        train(config, log_folder=tmp_path, options=QUIET)


def test_cuda_without_a_gpu_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(UserError, match="--device cpu"):
        complete(config_of(device="cuda"))


@pytest.mark.parametrize("multiplies", [True, False])
def test_what_is_left_open_is_settled_before_the_start(multiplies, monkeypatch):
    monkeypatch.setattr("dqn_zoo.system.machine.choose_device", lambda asked: "cpu")
    monkeypatch.setattr("dqn_zoo.system.machine.supports_bfloat16", lambda device: multiplies)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    config = complete(config_of(seed=None, num_threads=0, device="auto", precision="auto"))
    assert config.seed is not None
    assert config.num_threads == 3
    assert config.device == "cpu"
    assert config.precision == ("bfloat16" if multiplies else "float32")
    assert config.save_freq == 100_000
    assert complete(config_of(seed=None)).seed != config.seed


def test_what_fades_in_the_optimizer_ends_at_0_and_no_weight_feels_it():
    config = complete(config_of())
    faded, weight = torch.tensor([1e-40, 1e-3]), torch.tensor([0.5, 0.5], requires_grad=True)
    optimizer = OPTIMIZERS["adam"]([weight], 1e-8)
    optimizer.kept["exp_avg"][0].copy_(faded)
    weight.grad = torch.zeros(2)
    prepare_process(config)
    optimizer.step(1e-4)
    average = optimizer.kept["exp_avg"][0].view(torch.int32)  # bits: a comparison would flush, too
    assert (average == 0).tolist() == [True, False]
    assert (weight == 0.5).tolist() == [True, False]


FADED_THROUGH_A_RUN = """
import os, sys, torch
from dqn_zoo.cli import train
from dqn_zoo.training import measuring, starting, threads

def look(*_, **__):
    faded = torch.full((1_000_000,), 70_000, dtype=torch.int32).view(torch.float32) * 0.5
    print("threads", torch.get_num_threads(), "kept", int(faded.view(torch.int32).count_nonzero()))
    raise KeyboardInterrupt

os.environ.pop("OMP_NUM_THREADS")
torch.set_num_threads(2)  # as PyTorch begins on two cores
starting.training_loop = measuring._measured = look
threads.chosen = max  # of the numbers that were tried
threads.SPAN_S = 0.0  # each of them once
train.main(sys.argv[1:])
"""


@pytest.mark.skipif(usable_cores() < 2, reason="one core tries no second thread")
@pytest.mark.parametrize("threads", [[], ["--num-threads", "2"]], ids=["tried", "given"])
@pytest.mark.parametrize("begins", ["new", "from-weights", "for-a-time"])
def test_nothing_fades_in_any_thread_however_a_run_begins(begins, threads, master, tmp_path):
    """PyTorch's threads keep to what held when the first parallel work started them."""
    flags = {
        "new": ["-n", 400, "--n-envs", 1],
        "from-weights": ["-n", 400, "-i", master.path],
        "for-a-time": ["--for", "30s", "--algo", "laptop"],
    }[begins]
    flags += ["--env", "Breakout", "-f", tmp_path, "--device", "cpu", "--no-progress"]
    printed = run_python(FADED_THROUGH_A_RUN, *flags, *threads)
    assert "threads 2 kept 0" in printed


@pytest.mark.parametrize(
    ("n_timesteps", "device", "save_freq"),
    [
        (50_000_000, "cpu", 100_000),
        (600_000, "cuda", 100_000),
        (4_000_000, "cuda", 400_000),
        (50_000_000, "cuda", 1_000_000),
    ],
)
def test_checkpoints_are_rarer_where_steps_are_fast_and_the_run_is_long(
    n_timesteps, device, save_freq, monkeypatch
):
    monkeypatch.setattr("dqn_zoo.system.machine.choose_device", lambda _: device)
    assert complete(config_of(n_timesteps=n_timesteps, save_freq=None)).save_freq == save_freq


def test_memory_is_kept_free_for_what_lies_beside_the_replay(monkeypatch):
    config = complete(config_of(buffer_size=1_000_000))
    needed = preparation.memory_bytes(config)
    assert needed > replay_shape(config).num_bytes + preparation.BESIDE_BYTES["cpu"]
    for free, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(machine, "memory_available_bytes", lambda free=free: free)
        with (
            contextlib.nullcontext()
            if fits
            else pytest.raises(UserError, match="buffer_size needs 7")
        ):
            preparation.check_memory(config)


def test_waiting_for_the_second_thread_is_no_sign_of_other_programs(monkeypatch):
    computed, waited = 0.0, 0.0

    def estimate_seconds(config, timer):
        """Wait where there is a second thread, and compute where there is none."""
        waits = config.targets_ahead == "auto"

        def work():
            nonlocal computed, waited
            computed += 0.001 if waits else 0.003
            waited += 0.009 * waits

        return 1_000 * timer(work)

    clocks = {"perf_counter": lambda: computed + waited, "thread_time": lambda: computed}
    monkeypatch.setattr(preparation, "time", SimpleNamespace(**clocks))
    monkeypatch.setattr(ReplayQ, "estimate_seconds", estimate_seconds)
    ahead = complete(config_of(num_threads=1))
    assert ahead.targets_ahead == "auto"
    found = estimate(ahead)
    assert found.seconds > 10.0
    assert found.busy_factor < 1.4
    waiting = ahead.model_copy(update={"num_threads": 2})  # these wait only if others compute
    assert estimate(waiting).busy_factor > 3.0


def test_the_estimate_grows_with_the_run():
    short, long = (
        estimate(complete(config_of(n_timesteps=steps))).seconds for steps in (1_000, 1_000_000)
    )
    assert long > 50 * short > 0


def test_the_estimate_says_how_much_of_it_is_due_to_other_programs(monkeypatch):
    computed, waited = 0.0, 0.0

    def work():
        nonlocal computed, waited
        computed += 0.02
        waited += 0.06 * (torch.get_num_threads() > 1)

    clocks = {"perf_counter": lambda: computed + waited, "thread_time": lambda: computed}
    monkeypatch.setattr(preparation, "time", SimpleNamespace(**clocks))
    monkeypatch.setattr(ReplayQ, "estimate_seconds", lambda config, timer: 1_000 * timer(work))
    config = complete(config_of(num_threads=2, device="cpu"))
    emulator_s = config.n_timesteps * preparation.NOMINAL_EMULATOR_S
    emulator_s += config.n_envs * preparation.NOMINAL_START_S
    busy = estimate(config)
    assert busy == pytest.approx((80 + emulator_s, 20 + emulator_s))
    assert busy.busy_factor == pytest.approx(4, rel=0.02)
    alone = estimate(config.model_copy(update={"num_threads": 1}))
    assert alone == pytest.approx((20 + emulator_s, 20 + emulator_s))
    assert busy.busy_note == (
        "other programs slow this down at least 4.0 times; alone on the machine it would take "
        "about 20 s"
    )
    assert alone.busy_note is None


WAITING = """
import time
from dqn_zoo.system import signals
signals.ONE_PRESS_S = 0.0
with signals.stop_requests(None) as stop:
    print("ready", flush=True)
    while stop.reason() is None:
        time.sleep(0.01)
    print(stop.reason(), flush=True)
    time.sleep(60)
"""


def test_the_second_interrupt_quits_at_once():
    process = subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "SIGINT\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    process.stdout.close()


def test_a_full_disk_costs_a_checkpoint_and_the_one_before_survives(tmp_path, capsys):
    resource = pytest.importorskip("resource")  # not on Windows
    config = config_of(n_timesteps=120, save_freq=40)
    run = train(config, log_folder=tmp_path, options=QUIET).run
    before = {path: path.read_bytes() for path in run.checkpoints.rglob("*.*")}
    command = ["--resume", str(run.path), "--no-progress", "-n", "160"]
    capsys.readouterr()

    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, unlimited[1]))
    try:
        assert main(command) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    printed, errors = capsys.readouterr()
    assert "the one at step 120 is untouched" in printed
    assert "could not be written" in errors
    assert "Traceback" not in errors
    assert {path: path.read_bytes() for path in run.checkpoints.rglob("*.*")} == before
    assert main(command) == 0
    assert "resumed" in capsys.readouterr().out
    assert [row["steps"] for row in rows(run.progress_file)][-1] == "160"


@pytest.mark.parametrize("eval_freq", [0, 240])
def test_a_run_that_diverged_is_neither_saved_nor_evaluated(tmp_path, monkeypatch, eval_freq):
    config = config_of(  # no row notices it
        log_interval=10_000, save_freq=120, n_timesteps=300, eval_freq=eval_freq
    )
    real = ReplayQ.learn

    def learn(algorithm):
        before = algorithm.updates
        real(algorithm)
        if algorithm.steps > 200 and algorithm.updates > before:
            algorithm.learner.online._sums[0] = math.nan

    monkeypatch.setattr(ReplayQ, "learn", learn)
    with pytest.raises(UserError, match="training has diverged; start again with a lower"):
        train(config, log_folder=tmp_path, options=QUIET)
    [folder] = (tmp_path / "dqn").iterdir()
    assert [path.name for path in (folder / "checkpoints").glob("step_*[0-9]")] == [
        "step_000000120"
    ]
    assert not (folder / "best_model.safetensors").exists()


def test_a_run_that_diverges_in_its_last_updates_is_not_called_finished(tmp_path):
    config = config_of(
        n_timesteps=104, learning_starts=100, gradient_steps=4, learning_rate=1e38, save_freq=0
    )
    with pytest.raises(UserError, match="training has diverged"):
        train(config, log_folder=tmp_path, options=QUIET)
    [folder] = (tmp_path / "dqn").iterdir()
    weights = load((folder / "model.safetensors").read_bytes())
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())


@pytest.mark.parametrize("is_saved_again", [True, False])
def test_best_weights_that_could_not_be_written_are_written_later(
    tmp_path, monkeypatch, is_saved_again
):
    real, failures = duties.replace_file, []

    def replace_file(path, content):
        if path.name == "best_model.safetensors" and not failures:
            failures.append(path)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    monkeypatch.setattr(duties, "replace_file", replace_file)
    config = config_of(
        n_timesteps=120, eval_freq=120, eval_episodes=1, max_frames=200,
        save_freq=30 if is_saved_again else 0,
    )  # fmt: skip
    outcome = train(config, log_folder=tmp_path, options=QUIET)
    assert failures
    [*_, newest] = sorted(outcome.run.checkpoints.glob("step_*[0-9]"))
    assert outcome.run.best_model_file.read_bytes() == (newest / "best.safetensors").read_bytes()


def test_after_a_failed_save_the_next_one_links_what_did_not_change(tmp_path, monkeypatch):
    real, failures = checkpoint.write_file, []

    def write(path, content):
        if "step_000000180" in str(path) and path.name == "rows.z":
            failures.append(path)
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, content)

    monkeypatch.setattr(checkpoint, "write_file", write)
    monkeypatch.setattr("dqn_zoo.replay.frame_files.CHUNK_FRAMES", 16)
    config = config_of(n_timesteps=240, eval_freq=0, save_freq=60, buffer_size=1_000)
    outcome = train(config, log_folder=tmp_path, options=QUIET)
    assert failures
    first = outcome.run.checkpoint(240) / "frames_00000.z"
    assert first.stat().st_nlink > 1  # with the checkpoint of step 120


def test_few_frames_are_under_way_to_a_slow_disk_and_none_after_a_failure(monkeypatch):
    trainer = Trainer(complete(config_of(buffer_size=1_000)))
    trainer.start()
    monkeypatch.setattr("dqn_zoo.replay.frame_files.CHUNK_FRAMES", 4)
    advance(trainer, 96)  # 24 chunks
    compressed = []
    real = zlib.compress
    monkeypatch.setattr(
        "dqn_zoo.replay.frame_files.zlib.compress",
        lambda content, level: compressed.append(None) or real(content, level),
    )
    files = compressed_frames(trainer.algorithm.replay.frames, 0)
    next(files)
    time.sleep(0.2)
    files.close()
    assert 0 < len(compressed) <= min(usable_cores(), 8) + 1


STARTING = """
from dqn_zoo.envs import vector_backend
from dqn_zoo.system.signals import ends_at_once, stop_requests
with stop_requests(None) as stop:
    with ends_at_once():
        print("ready", flush=True)
        vector_backend.AtariVectorEnv("pong", 2_000, num_threads=1)
print("not heard")
"""


def test_sigterm_is_heard_while_emulators_start():
    command = [sys.executable, "-c", STARTING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=20)
    assert (process.returncode, rest) == (-signal.SIGTERM, "")


def test_after_the_start_a_signal_is_a_flag_again():
    with stop_requests(None) as stop:
        with ends_at_once():
            pass
        signal.raise_signal(signal.SIGTERM)
        assert stop.reason() == "SIGTERM"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"buffer_size": 10**7}, "buffer_size needs 7.* GB .* the largest that fits is"),
        ({"batch_size": 10**5}, "batch_size needs .* GB .* the largest that fits is"),
        ({"n_envs": 4_096, "buffer_size": 100}, "n_envs needs .* GB .* the largest that fits is"),
        ({"network": "impala", "network_width": 64}, "network needs .* choose a smaller network"),
        ({"loss": "c51", "num_atoms": 10_000}, "batch_size needs .* GB .* not even the smallest"),
        ({"loss": "iqn", "num_quantiles": 10_000}, "batch_size needs .* GB"),
    ],
)
def test_everything_that_takes_memory_is_counted(settings, said, monkeypatch):
    monkeypatch.setattr(machine, "memory_available_bytes", lambda: 4 * 10**9)
    config = {"buffer_size": 200_000, "n_timesteps": 10**6} | settings
    with pytest.raises(UserError, match=said):
        preparation.check_memory(complete(build_config(config)))


@pytest.mark.parametrize(
    "key", ["noop_max", "num_threads", "n_envs", "network_width", "num_atoms", "num_cosines"]
)
def test_settings_have_upper_bounds(key):
    with pytest.raises(UserError, match=rf"{key} must be a whole number from \d to [\d,]+"):
        build_config({key: 10**6})


def test_every_whole_number_has_an_upper_bound():
    for key, field in Config.model_fields.items():
        if "int" in str(field.annotation):
            with pytest.raises(UserError, match=f"{key} must be "):
                build_config({key: 10**20})


def test_weights_games_and_evaluations_are_those_of_the_seed(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "dqn_zoo.training.trainer.evaluate", lambda *_, seeds, **__: asked.append(seeds)
    )
    seen = []
    for seed in (5, 6):
        with contextlib.closing(
            Trainer(complete(config_of(seed=seed, eval_episodes=2)))
        ) as trainer:
            trainer.start()
            weights = next(trainer.algorithm.network.parameters()).detach().clone()
            seen.append((weights, trainer.envs.state()["environments"][0]["seed"]))
            trainer.evaluate(3, on_progress=lambda _: None)
    (first, one), (second, other) = seen
    assert not torch.equal(first, second)
    assert one != other
    assert asked == [evaluation_seeds(5, 3, 2), evaluation_seeds(6, 3, 2)]
