"""The search: spaces, trials that go on, pruning, finals on other seeds."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.hparams import table_of
from support.jobs import InThisProcess

from dqn_zoo.cli.tune import main
from dqn_zoo.errors import UserError
from dqn_zoo.experiments.plan import Job, Sweep
from dqn_zoo.experiments.search import Range, find_space, read_space
from dqn_zoo.experiments.summary import Cell, RunScore, Summary
from dqn_zoo.experiments.sweep import MOST_RETRIES
from dqn_zoo.experiments.tuning import (
    FAILURE,
    TRIAL,
    Goal,
    open_study,
    optimize,
    value_of,
)
from dqn_zoo.experiments.tuning_finals import best_trials, train_flags, write_best
from dqn_zoo.settings.recipes import resolve
from dqn_zoo.system.locks import hold

TINY = {
    "learning_starts": 100, "buffer_size": 500, "batch_size": 4, "network": "small",
    "max_frames": 200, "eval_episodes": 1, "log_interval": 100, "device": "cpu", "save_freq": 100,
    "num_threads": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Look at jobs without a rest: those of most tests are done when they are launched."""
    for module in ("tuning", "sweep"):
        monkeypatch.setattr(f"dqn_zoo.experiments.{module}.POLL_S", 0.0)


# --- Spaces


def space_of(tmp_path: Path, text: str):
    file = tmp_path / "space.yml"
    file.write_text(text)
    return read_space(file)


def test_the_packaged_space_is_valid_in_all_of_its_ends(tmp_path):
    space = read_space(find_space("atari"))
    for key, each in space.ranges.items():
        for value in each.values:
            resolve(env="Pong", algo="laptop", overrides={key: value})


def test_a_space_draws_what_it_says(tmp_path):
    space = space_of(
        tmp_path,
        "gamma: {uniform: [0.9, 1]}\nlearning_rate: {log: [1e-5, 1e-3]}\n"
        "n_steps: {whole: [1, 5]}\nbatch_size: {choices: [16, null]}\n",
    )
    drawn = []

    class Trial:
        def suggest_categorical(self, name, choices):
            drawn.append((name, choices))

        def suggest_float(self, name, low, high, *, log):
            drawn.append((name, low, high, log))

        def suggest_int(self, name, low, high):
            drawn.append((name, low, high))

    space.draw(Trial())
    assert drawn == [
        ("gamma", 0.9, 1, False),
        ("learning_rate", 1e-5, 1e-3, True),
        ("n_steps", 1, 5),
        ("batch_size", [16, None]),
    ]
    assert space.ranges["n_steps"] == Range("whole", (1, 5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "searches nothing"),
        ("gama: {choices: [1]}", "line 1: cannot search 'gama'; did you mean gamma?"),
        ("seed: {choices: [1]}", "line 1: cannot search 'seed'; it is not for search"),
        ("eval_freq: {choices: [0]}", "line 1: cannot search 'eval_freq'; it is not for search"),
        ("gamma: 0.9", "line 1: expected gamma: {choices: [..]}, or uniform"),
        ("gamma: {between: [0, 1]}", "line 1: expected gamma: {choices: [..]}, or uniform"),
        ("gamma: {uniform: [0.9]}", "line 1: uniform takes two numbers"),
        ("n_steps: {whole: [1, 2.5]}", "line 1: whole takes two numbers"),
        ("gamma: {uniform: [1, 0.9]}", "expected the lower number first, got [1, 0.9]"),
        ("learning_rate: {log: [0, 1]}", "expected the lower number first, above 0, got [0, 1]"),
    ],
)
def test_a_space_that_is_none_names_its_line(tmp_path, text, message):
    with pytest.raises(UserError) as raised:
        space_of(tmp_path, text)
    assert message in str(raised.value)


def test_an_unknown_space_names_those_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hyperparams" / "search").mkdir(parents=True)
    (tmp_path / "hyperparams" / "search" / "mine.yml").write_text("gamma: {choices: [1]}\n")
    assert find_space("mine") == Path("hyperparams/search/mine.yml")
    with pytest.raises(UserError, match="unknown search space 'atary': did you mean atari"):
        find_space("atary")


# --- Studies


def test_a_trial_is_worth_the_mean_of_the_last_third_of_its_evaluations():
    assert value_of([100.0, 0.0, 0.0, 3.0, 4.0, 5.0]) == 4.5
    assert value_of([7.0]) == 7.0


class Scripted:
    """A job that has made its evaluations already; its score depends on its settings."""

    def __init__(self, sweep: Sweep, job: Job, score, *, steps_each: int = 100) -> None:
        self.is_terminated = False
        run = sweep.run(job)
        run.path.mkdir(parents=True, exist_ok=True)
        mean = score(sweep.config(job))
        rows = "".join(f"{steps_each * (place + 1)},{mean}\n" for place in range(10))
        run.evaluations_file.write_text("steps,mean\n" + rows)

    def poll(self) -> int:
        return 0

    def terminate(self) -> None:
        self.is_terminated = True

    def wait(self) -> int:
        return 0


GOAL = Goal(game="Pong", algo="dqn", settings=TINY, budget_steps=1_000)


def study_in(folder: Path, space, **changes):
    pytest.importorskip("optuna")
    values = {"sampler": "tpe", "pruner": "none", "seed": 3}
    return open_study(folder, GOAL, space, **(values | changes))


def run_trials(study, folder: Path, space, number: int, score, num_jobs: int = 1) -> list:
    seen = []
    optimize(
        study, folder, GOAL, space, lambda sweep, job: Scripted(sweep, job, score),
        num_trials=number, num_jobs=num_jobs, machine={}, on_trial=seen.append,
    )  # fmt: skip
    return seen


@pytest.mark.tune
def test_the_search_finds_what_is_better_and_is_the_same_for_a_seed(tmp_path):
    space = space_of(tmp_path, "learning_rate: {log: [1e-6, 1e-2]}\ngamma: {choices: [0.9, 0.99]}")
    score = lambda config: -abs(config.learning_rate - 1e-3) - (config.gamma < 0.95)  # noqa: E731
    tried = []
    for name in ("one", "two"):
        study = study_in(tmp_path / name, space)
        trials = run_trials(study, tmp_path / name, space, 25, score)
        assert len(trials) == 25
        tried.append([trial.params for trial in trials])
    assert tried[0] == tried[1]
    best = best_trials(study)[0]
    assert best.params["gamma"] == 0.99
    assert 2e-4 < best.params["learning_rate"] < 5e-3


@pytest.mark.tune
def test_a_study_goes_on_to_the_number_of_trials_and_draws_anew(tmp_path):
    space = space_of(tmp_path, "learning_rate: {log: [1e-6, 1e-2]}")
    first = run_trials(study_in(tmp_path, space, sampler="random"), tmp_path, space, 3, lambda _: 1)
    study = study_in(tmp_path, space, sampler="random")
    second = run_trials(study, tmp_path, space, 5, lambda _: 1)
    assert (len(first), len(second)) == (3, 2)
    rates = [trial.params["learning_rate"] for trial in (*first, *second)]
    assert len(set(rates)) == 5
    assert run_trials(study_in(tmp_path, space), tmp_path, space, 5, lambda _: 1) == []


@pytest.mark.tune
def test_tensorboard_has_a_table_of_settings_against_the_values_of_trials(tmp_path):
    space = space_of(tmp_path, "gamma: {uniform: [0.9, 0.99]}")
    settings = TINY | {"max_frames": 100, "learning_starts": 40, "log_interval": 20}
    goal = Goal(game="Pong", algo="dqn", settings=settings, budget_steps=60, num_evaluations=2)
    study = open_study(tmp_path / "study", goal, space, sampler="random", pruner="none", seed=3)
    trials = []
    optimize(
        study, tmp_path / "study", goal, space, InThisProcess,
        num_trials=2, num_jobs=1, machine={}, on_trial=trials.append,
    )  # fmt: skip
    table = table_of(tmp_path / "study")
    assert len(table) == 2
    for trial in trials:
        row = {"game": "Pong", "gamma": trial.params["gamma"], "seed": 1.0, "variant": "trial"}
        assert table[tuple(row.items())]["score/trial"] == pytest.approx(trial.value)


@pytest.mark.tune
def test_hopeless_trials_are_stopped_and_their_jobs_with_them(tmp_path):
    space = space_of(tmp_path, "gamma: {uniform: [0.0, 1.0]}")
    study = study_in(tmp_path, space, pruner="median", sampler="random")
    jobs = []

    def launch(sweep, job):
        jobs.append(Scripted(sweep, job, lambda config: -len(jobs)))
        jobs[-1].poll = lambda: None if len(jobs) > 4 else 0  # from the fifth on they never end
        return jobs[-1]

    optimize(
        study, tmp_path, GOAL, space, launch,
        num_trials=6, num_jobs=1, machine={}, on_trial=lambda _: None,
    )  # fmt: skip
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE"] * 4 + ["PRUNED"] * 2
    assert jobs[-1].is_terminated


@pytest.mark.tune
def test_a_job_that_is_killed_is_tried_again_and_the_reason_is_what_killed_it(tmp_path):
    space = space_of(tmp_path, "gamma: {choices: [0.5, 0.9]}")
    study, started = study_in(tmp_path, space), []

    def launch(sweep, job):
        scripted = Scripted(sweep, job, lambda _: 1)
        started.append(len(study.trials))
        if len(study.trials) == 2 or started.count(1) == 1:  # all of the second, once the first
            scripted.poll = lambda: -9
        return scripted

    optimize(
        study, tmp_path, GOAL, space, launch,
        num_trials=2, num_jobs=1, machine={}, on_trial=lambda _: None,
    )  # fmt: skip
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL"]
    assert started == [1, 1] + [2] * (MOST_RETRIES + 1)
    assert study.trials[1].user_attrs[FAILURE].startswith("killed by SIGKILL; its output: ")


@pytest.mark.tune
def test_a_job_that_fails_is_a_trial_that_failed(tmp_path):
    space = space_of(tmp_path, "gamma: {choices: [0.5, 0.9]}")
    study = study_in(tmp_path, space)

    def launch(sweep, job):
        scripted = Scripted(sweep, job, lambda _: 1)
        if len(study.trials) == 1:
            scripted.poll = lambda: 2
        return scripted

    seen = []
    for _ in range(2):
        optimize(
            study, tmp_path, GOAL, space, launch,
            num_trials=2, num_jobs=1, machine={}, on_trial=seen.append,
        )  # fmt: skip
    assert seen[0].user_attrs == {FAILURE: "exit code 2"}
    # It counts: the same command goes on to the finals, and makes no trial in its place.
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]


@pytest.mark.tune
@pytest.mark.parametrize("is_held", [True, False])
def test_a_trial_that_another_process_drives_is_left_alone(tmp_path, is_held):
    space = space_of(tmp_path, "gamma: {uniform: [0.5, 0.9]}")
    study = study_in(tmp_path, space)
    gamma = space.draw(study.ask())["gamma"]
    place = tmp_path / "trials" / "0000"
    Sweep.new(place, GOAL.plan({TRIAL: {"gamma": gamma}}, seeds=(1,), episodes=1), {}).write()
    other = hold(place, what="trial 0", otherwise="") if is_held else contextlib.nullcontext()
    with other:
        run_trials(study, tmp_path, space, 1, lambda _: 1)
    states = [each.state.name for each in study.trials]
    assert states == (["RUNNING", "COMPLETE"] if is_held else ["FAIL", "COMPLETE"])
    assert (study.trials[1].params["gamma"] == gamma) != is_held


@pytest.mark.tune
def test_trials_of_another_study_are_not_taken_for_ones_of_this(tmp_path):
    space = space_of(tmp_path, "gamma: {uniform: [0.5, 0.9]}")
    run_trials(study_in(tmp_path, space), tmp_path, space, 1, lambda _: 1)
    (tmp_path / "study.journal").unlink()
    study = study_in(tmp_path, space, seed=4)
    with pytest.raises(UserError, match=r"0000 is a trial of another study: remove .*trials, or"):
        run_trials(study, tmp_path, space, 1, lambda _: 1)


@pytest.mark.tune
def test_machines_that_share_a_database_draw_apart_and_make_no_trial_too_many(tmp_path):
    space = space_of(tmp_path, "gamma: {uniform: [0.5, 0.9]}")
    url = f"sqlite:///{tmp_path / 'study.db'}"
    (tmp_path / "study").mkdir()
    studies = [study_in(tmp_path / "study", space, storage=url) for _ in range(2)]
    here, there = (tmp_path / name for name in ("here", "there"))
    seen = []

    def launch(sweep, job):
        if not seen:  # in the middle of the first trial here the other makes two
            seen.append(None)
            run_trials(studies[1], there, space, 2, lambda _: 1)
        return Scripted(sweep, job, lambda _: 1)

    optimize(
        studies[0], here, GOAL, space, launch,
        num_trials=3, num_jobs=1, machine={}, on_trial=lambda _: None,
    )  # fmt: skip
    trials = studies[0].trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert len({trial.params["gamma"] for trial in trials}) == 3


@pytest.mark.tune
@pytest.mark.parametrize(("steps_each", "third"), [(100, "PRUNED"), (20, "COMPLETE")])
def test_halving_stops_what_falls_behind_once_it_had_three_tenths_of_the_steps(
    tmp_path, steps_each, third
):
    space = space_of(tmp_path, "gamma: {uniform: [0.5, 0.9]}")
    study = study_in(tmp_path, space, pruner="halving", sampler="random")
    scores = iter([0.0, 5.0, 1.0, 9.0])

    def launch(sweep, job):
        polled = iter([None, 0])
        scripted = Scripted(sweep, job, lambda _: next(scores), steps_each=steps_each)
        scripted.poll = lambda: next(polled)
        return scripted

    optimize(
        study, tmp_path, GOAL, space, launch,
        num_trials=4, num_jobs=1, machine={}, on_trial=lambda _: None,
    )  # fmt: skip
    assert [trial.state.name for trial in study.trials] == [
        "COMPLETE",
        "COMPLETE",
        third,
        "COMPLETE",
    ]


@pytest.mark.tune
def test_a_trial_that_goes_on_is_compared_by_what_it_had_at_the_same_step(tmp_path):
    """Its means rise from 1 to 10; it was cut off behind eight of ten."""
    space = space_of(tmp_path, "gamma: {uniform: [0.5, 0.9]}")
    study = study_in(tmp_path, space, pruner="halving", sampler="random")
    gamma = space.draw(study.ask())["gamma"]
    place = tmp_path / "trials" / "0000"
    Sweep.new(place, GOAL.plan({TRIAL: {"gamma": gamma}}, seeds=(1,), episodes=1), {}).write()

    class Rising(Scripted):
        def __init__(self, sweep, job):
            self.rows, self.file = 0, sweep.run(job).evaluations_file
            sweep.run(job).path.mkdir(parents=True, exist_ok=True)
            if sweep.folder == place:
                self.rows = 8
            self.write()

        def write(self):
            rows = "".join(f"{100 * (each + 1)},{each + 1}\n" for each in range(self.rows))
            self.file.write_text("steps,mean\n" + rows)

        def poll(self):
            self.rows += 1
            self.write()
            return 0 if self.rows == 10 else None

    Rising(Sweep.open(place), Sweep.open(place).plan.jobs()[0])
    optimize(
        study, tmp_path, GOAL, space, Rising,
        num_trials=4, num_jobs=1, machine={}, on_trial=lambda _: None,
    )  # fmt: skip
    ended = study.trials[1:]
    assert [trial.state.name for trial in ended] == ["COMPLETE"] * 4
    assert {trial.system_attrs["completed_rung_0"] for trial in ended} == {3.0}


@pytest.mark.tune
def test_a_study_of_something_else_is_refused(tmp_path, capsys):
    space = space_of(tmp_path, "gamma: {choices: [0.5, 0.9]}")
    study_in(tmp_path / "study", space)
    other = space_of(tmp_path, "gamma: {choices: [0.5, 0.99]}")
    with pytest.raises(UserError, match="holds a study of another search space: name another"):
        study_in(tmp_path / "study", other)
    with pytest.raises(UserError, match="holds a study of another goal"):
        open_study(
            tmp_path / "study",
            Goal(game="Pong", algo="dqn", settings=TINY, budget_steps=2_000),
            space, sampler="tpe", pruner="none", seed=0,
        )  # fmt: skip
    (tmp_path / "study" / "study.journal").write_bytes(b"\x00 not a journal\n")
    with pytest.raises(UserError, match="cannot be opened"):
        study_in(tmp_path / "study", space)


@pytest.mark.tune
def test_a_space_of_which_nothing_can_run_is_refused_before_the_first_trial(tmp_path):
    folder = tmp_path / "study"
    goal = Goal(game="Pong", algo="pqn-laptop", settings={}, budget_steps=100_000)
    space = read_space(find_space("atari"))
    with pytest.raises(UserError, match="none of 10 trials drawn from atari can run: variant"):
        open_study(folder, goal, space, sampler="tpe", pruner="none", seed=3)
    assert not folder.exists()


@pytest.mark.tune
def test_a_study_is_not_gone_on_with_by_another_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("hyperparams").mkdir()
    recipe = Path("hyperparams", "mine.yml")
    recipe.write_text("atari: {gamma: 0.9}\n")
    space = space_of(tmp_path, "optimizer_eps: {log: [1e-8, 1e-3]}")
    goal = Goal(game="Pong", algo="mine", settings={}, budget_steps=200_000)

    def opened():
        return open_study(Path("study"), goal, space, sampler="tpe", pruner="none", seed=3)

    opened()
    recipe.write_text("atari: {gamma: 0.9, network: nature}\n")  # which it was
    opened()
    recipe.write_text("atari: {gamma: 0.95}\n")
    message = r"the recipe mine is another than when study began \(gamma: 0.9, gamma: 0.95\)"
    with pytest.raises(UserError, match=message):
        opened()


# --- The winner


def test_the_winner_is_written_in_our_keys_whatever_the_search_spoke(tmp_path):
    settings = {**TINY, "policy_kwargs": "dict(optimizer_kwargs=dict(eps=1.5e-4))", "tau": 1}
    goal = Goal(game="ALE/Pong-v5", algo="dqn", settings=settings, budget_steps=1_000)
    plan = goal.plan({"recipe": {}, "trial-7": {"gamma": 0.5}}, seeds=(2,), episodes=1)
    scores = {"recipe": 1.0, "trial-7": 2.0}
    cells = {
        name: {"Pong": Cell(runs={2: RunScore(last=score, best=score)}, planned=1)}
        for name, score in scores.items()
    }
    summary = Summary(cells=cells, aggregates={}, profiles={}, improvement={}, incomplete={})
    assert (
        write_best(tmp_path, goal, Sweep.new(tmp_path / "finals", plan, {}), summary) == "trial-7"
    )
    written = tmp_path / "best.yml"
    assert "mean of 1 seeds; the recipe dqn: 1.0" in written.read_text()
    assert f"# dqn-train --env ALE/Pong-v5 --algo dqn -c {written}\n" in written.read_text()
    overrides = {"n_timesteps": 1_000}
    again = resolve(env=goal.game, algo=goal.algo, conf_file=written, overrides=overrides)
    assert again.config.optimizer_eps == 1.5e-4
    own = {"gamma", "optimizer_eps", *TINY}
    assert {key for key, source in again.sources.items() if source.startswith(str(written))} == own


def test_the_steps_of_a_trial_are_set_in_one_place(tmp_path, capsys):
    assert main(["--env", "Pong", "--set", "n_timesteps=5", "-f", str(tmp_path)]) == 2
    message = "error: --set n_timesteps: --budget-steps sets the steps of every trial\n"
    assert capsys.readouterr().err == message
    assert main(["--env", "Pong", "--set", "seed=5", "-f", str(tmp_path)]) == 2
    assert "--set seed: every trial has seed 1" in capsys.readouterr().err
    assert main(["--env", "Pong", "--top", "0", "--seeds", "5", "-f", str(tmp_path)]) == 2
    assert "--seeds are those of the finals, and --top 0 has none" in capsys.readouterr().err


# --- The command


def flags_of(folder: Path, space: Path) -> list[str]:
    settings = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    return [
        *("--env", "Pong", "--algo", "dqn", "--budget-steps", "600", "--n-trials", "2"),
        *("--search", str(space), "--pruner", "none", "--top", "1", "--seeds", "1"),
        *("-f", str(folder), *settings, "--set", "eval_freq=200"),
    ]


@pytest.mark.tune
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("how", "num_jobs", "code"),
    [
        pytest.param(signal.SIGKILL, 1, -signal.SIGKILL, id="killed"),
        pytest.param(
            signal.SIGINT, 2, 130, id="Ctrl-C, two trials at once", marks=pytest.mark.slow
        ),
    ],
)
def test_a_study_that_was_stopped_goes_on_where_its_trials_were(
    tmp_path, capsys, monkeypatch, how, num_jobs, code
):
    pytest.importorskip("optuna")
    monkeypatch.setattr("dqn_zoo.experiments.tuning_finals.DEFAULT_EPISODES", 2)
    space = tmp_path / "space.yml"
    space.write_text("learning_rate: {log: [1e-6, 1e-2]}\n")
    folder = tmp_path / "study"
    flags = [*flags_of(folder, space), "--n-jobs", str(num_jobs)]
    command = [sys.executable, "-m", "dqn_zoo.cli.tune", *flags]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    second = folder / "trials" / "0001" / "runs" / "trial" / "Pong_1"
    deadline = time.monotonic() + 200  # 10 s alone, much more on a loaded machine
    while not list((second / "checkpoints").glob("step_*[0-9]")):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(driver.pid, how)
    printed, error = driver.communicate(timeout=60)
    assert driver.returncode == code
    assert error == ""
    assert printed.count("cut off and saved") == (num_jobs if code == 130 else 0)
    monkeypatch.setattr("dqn_zoo.experiments.sweep.JobProcess", InThisProcess)
    assert main(flags) == 0
    printed = capsys.readouterr().out
    assert "trial 2: " in printed  # goes on with trial 1
    manifest = json.loads((second / "manifest.json").read_text())
    assert [entry["resumed_from_step"] is None for entry in manifest["invocations"]] == [
        True,
        False,
    ]
    assert sorted(path.name for path in (folder / "trials").iterdir()) == ["0000", "0001"]
    with hold(folder / "finals", what="the finals", otherwise="wait"):
        assert main(flags) == 0  # of another machine that shares the study
    assert "another process runs the finals" in capsys.readouterr().out
    best = folder / "best.yml"
    assert f"dqn-train --env Pong --algo dqn -c {best}" in printed
    config = resolve(env="Pong", algo="dqn", conf_file=best).config
    assert config.buffer_size == 500
    assert "finals in" in printed
    assert "| `recipe` |" in printed
    assert (folder / "history.png").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--search", "atary"], "unknown search space 'atary'"),
        (["--algo", "dqm"], "unknown algorithm 'dqm'"),
        (["--set", "gamma=0.9"], "--set gamma: the search space has it, too"),
        (["--set", "eval_freq=0"], "--set eval_freq=0: a trial is judged by its evaluations"),
        (["--set", "eval_freq=1e9"], "one every 1 to 100,000 steps"),
        (["--n-trials", "0"], "--n-trials"),
        (["--budget-steps", "5"], "learning_starts"),
    ],
)
def test_a_search_that_cannot_be_meant_starts_nothing(
    tmp_path, capsys, monkeypatch, flags, message
):
    monkeypatch.chdir(tmp_path)
    assert main([*flags, "-f", "study"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_winners_command_keeps_the_spelling_that_implies_a_protocol():
    goal = Goal(game="ALE/Pong-v5", algo="dqn", settings={}, budget_steps=1_000)
    flags = train_flags(goal, Path("my tuning"))
    assert flags == ["--env", "ALE/Pong-v5", "--algo", "dqn", "-c", "my tuning/best.yml"]


def test_a_dry_run_shows_the_cost_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--env", "Pong", "--n-trials", "7", "--dry-run"]) == 0
    assert "7 trials of 100,000 steps, 1 at once: about" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.tune
@pytest.mark.parametrize("url", ["mysql://ann:s3cret@db/x", "nothing://ann:s3cret@db/x", "ann:x@y"])
def test_a_storage_that_cannot_be_opened_keeps_its_password(url, tmp_path):
    space = space_of(tmp_path, "gamma: {uniform: [0.5, 0.9]}")
    with pytest.raises(UserError, match="cannot be opened") as caught:
        study_in(tmp_path, space, storage=url)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None  # which would be printed with a traceback
