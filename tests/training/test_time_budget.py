"""A run for the time that there is: what is chosen, what it costs to find out, what is refused."""

import argparse
import math
import re
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from dqn_zoo.cli import train_for
from dqn_zoo.cli.train import main
from dqn_zoo.cli.train_for import _changed, _expected_lines, _is_as_measured
from dqn_zoo.errors import UserError
from dqn_zoo.settings.expectations import EXPECTATIONS
from dqn_zoo.settings.recipes import format_config, load_config, resolve
from dqn_zoo.settings.short_runs import of_length
from dqn_zoo.system.stopwatch import Stopwatch
from dqn_zoo.training import measuring, time_budget
from dqn_zoo.training.measuring import measure
from dqn_zoo.training.preparation import complete
from dqn_zoo.training.time_budget import (
    LaterGames,
    Speed,
    duration,
    fit,
    readable,
    summary,
    too_short,
)

PONG = complete(resolve(env="Pong", algo="laptop", overrides={"device": "cpu"}).config)
# 840,000 steps: 10,000 of random play, epsilon falls in 59,640, 16 evaluations of 10 games
SPEED = Speed(
    start=3.0, random_step=1e-3, learning_step=4e-3, evaluation_start=0.5, evaluation_step=5e-4,
    game_steps=1_000, save=2.0, save_step=1e-5,
)  # fmt: skip
TINY = [
    "--set=n_envs=1", "--set=network=small", "--set=learning_starts=60", "--set=buffer_size=5000",
    "--set=batch_size=4", "--set=max_frames=400", "--eval-episodes=1", "--num-threads=1",
    "--device=cpu", "--seed=3", "--no-progress",
]  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "asked", "expected"),
    [
        (691_200, (), {"n_timesteps": 691_200, "exploration_fraction": 0.08628,
                       "eval_freq": 43_200}),
        (1_680_000, (), {"n_timesteps": 1_680_000, "exploration_fraction": 0.0355,
                         "eval_freq": 105_000}),
        # A tenth at random, a quarter for epsilon, ten copies, twenty rows.
        (16_000, (), {"n_timesteps": 16_000, "learning_starts": 1_600,
                      "exploration_fraction": 0.25, "target_update_interval": 1_440,
                      "log_interval": 800, "eval_freq": 1_000}),
        (16_000, ("learning_starts", "exploration_fraction", "eval_freq", "log_interval",
                  "target_update_interval"), {"n_timesteps": 16_000}),
    ],
)  # fmt: skip
def test_a_run_of_another_length_keeps_the_steps_of_its_exploration(steps, asked, expected):
    assert of_length(PONG, steps, evaluations=16, asked=asked) == expected


def test_without_a_memory_only_epsilon_and_evaluations_follow():
    pqn = complete(resolve(env="Pong", algo="pqn-laptop").config)
    assert of_length(pqn, 900_000, evaluations=9, asked=()) == {
        "n_timesteps": 900_000,
        "exploration_fraction": 0.1667,
    }


def test_the_steps_fill_what_start_evaluations_and_checkpoints_leave_of_the_time():
    # 1,000 - 30 - 1 - 20 = 949 s = 3 + 10,000 x 0.001 + (n - 10,000) x 0.004
    #   + 0.5 + 16 x 10 x 1,000 x 0.0005 + (2 + 3) x 2 + n x 0.00001: n = 220,822
    changes = fit(PONG, SPEED, 1_000, spent_s=20)
    assert changes == {
        "n_timesteps": 220_800,  # 16 x 13,801, rounded down to 16 x 13,800
        "exploration_fraction": 0.25,
        "eval_freq": 13_800,
    }
    takes = duration(PONG.model_copy(update=changes), SPEED)
    assert takes == pytest.approx((3, 10, 843.2, 80.5, 12.208))
    said = summary(PONG.model_copy(update=changes), SPEED, takes, 1_000)
    assert said == (
        "17 min are about 220,800 steps here: 250 a second, 1,000 before it learns; "
        "16 evaluations take 1 min, saving 12 s"
    )


def test_games_that_get_longer_from_some_step_on_cost_more_from_there():
    later = LaterGames(3_000, from_steps=200_000)
    longer = fit(PONG, SPEED, 1_000, spent_s=20, later=later)
    # Of 15 s each, 6 are a tenth of the time: 949 - 23 - 90.5 s, as above: n = 218,329
    assert longer["n_timesteps"] == 6 * 36_300
    takes = duration(PONG.model_copy(update=longer), SPEED, later)
    assert takes.evaluations == pytest.approx(90.5)
    # 200,000 steps would take 785 s without any evaluation; 658 are left.
    assert fit(PONG, SPEED, 700, spent_s=20, later=later) == fit(PONG, SPEED, 700, spent_s=20)


def test_updates_that_get_more_frequent_cost_what_each_half_has_of_them():
    # Of 300,000 steps 10,000 are random, 140,000 have an update every 8 and 150,000 every 2:
    # 92,500 updates, where the mean rate of 5 in 16 steps would make 90,625.
    changes = {"n_timesteps": 300_000, "train_freq": 8, "train_freq_later": 2}
    takes = duration(PONG.model_copy(update=changes), SPEED)
    assert takes.learning == pytest.approx(290_000 * 0.004 * 92_500 / 90_625)


def test_a_longer_time_than_the_recipe_means_makes_a_longer_run():
    changes = fit(PONG, SPEED, 8 * 3_600, spent_s=20)
    steps = changes["n_timesteps"]
    assert steps > 5_000_000
    assert changes["exploration_fraction"] * steps == pytest.approx(59_640, rel=0.001)
    assert steps == 16 * changes["eval_freq"]
    assert set(changes) == {"n_timesteps", "exploration_fraction", "eval_freq"}


@pytest.mark.parametrize("save_freq", [None, 50_000])
def test_on_a_gpu_checkpoints_are_counted_as_the_shorter_run_makes_them(save_freq, monkeypatch):
    monkeypatch.setattr("dqn_zoo.system.machine.choose_device", lambda _: "cuda")
    monkeypatch.setattr("dqn_zoo.training.preparation.check_memory", lambda _: None)
    monkeypatch.setattr(measuring, "measure", lambda *_: SPEED)
    resolved = resolve(env="Pong", overrides={"n_timesteps": 4_000_000, "save_freq": save_freq})
    flags = argparse.Namespace(**{"for": 1_800.0}, time_limit=None)
    fitted = train_for.fit_to_time(resolved, flags, {}, Stopwatch())
    run = complete(fitted.resolved.config)
    # Left open it is 100,000 of so many steps, and 400,000 of the recipe's.
    assert (run.save_freq, run.n_timesteps > 300_000) == (save_freq or 100_000, True)
    assert fitted.seconds == pytest.approx(duration(run, SPEED).seconds)


def test_what_was_asked_for_stays():
    asked = ("eval_freq", "exploration_fraction", "learning_starts")
    changes = fit(PONG, SPEED, 1_000, spent_s=20, asked=asked)
    assert changes == {"n_timesteps": 235_000}  # 4 evaluations, of every 50,000: n = 235,785


def test_evaluations_take_a_tenth_of_a_short_time():
    slow = SPEED._replace(evaluation_step=5e-3)  # 50 s each
    config = PONG.model_copy(update=fit(PONG, slow, 1_800, spent_s=20))
    assert config.n_timesteps // config.eval_freq == 3
    assert config.n_timesteps % config.eval_freq == 0


@pytest.mark.parametrize(
    ("number", "rounded"), [(217_952, 217_000), (13_684, 13_600), (999, 999), (7, 7), (0, 1)]
)
def test_numbers_of_steps_can_be_read(number, rounded):
    assert readable(number) == rounded


def test_too_short_a_time_says_how_much_is_enough():
    with pytest.raises(UserError, match=r"--for 40s is too short .* the least is --for 1m30s$"):
        fit(PONG, SPEED, 40, spent_s=25)
    assert fit(PONG, SPEED, 90, spent_s=25)["n_timesteps"] > 1_000
    assert too_short(600, 4).endswith("--for 10m30s")


def test_the_config_says_where_the_length_comes_from():
    resolved = resolve(env="Pong", algo="laptop")
    printed = format_config(_changed(resolved, {"n_timesteps": 9_000}, 2_700))
    assert re.search(
        r"^  n_timesteps: 9000 +# for 45 min here; 840,000 in .*laptop\.yml, line \d+$",
        printed,
        re.MULTILINE,
    )
    # What no longer holds is not warned of, and what now does is.
    said = _changed(resolved, {"n_timesteps": 12_000}, 60).warnings
    assert any("most of the run is random play" in line for line in said)


def test_what_to_expect_is_what_was_measured_and_the_docs_have_its_numbers():
    docs = Path(__file__).parents[2] / "docs"
    pages = [docs / "results.md", *(docs / "notebook").glob("*.md")]
    measured = "".join(page.read_text() for page in pages)
    for (algo, game), expected in EXPECTATIONS.items():
        numbers = re.findall(r"[\d.,]*\d", expected.reached.partition(" in ")[0])
        for number in [*numbers, f"{expected.steps:,}", f"{expected.reached_after:,}"]:
            whole = rf"(?<![\d.,]){re.escape(number)}(?![\d,]|\.\d)"
            assert re.search(whole, measured), (algo, game, number)
    expected = EXPECTATIONS["laptop", "Pong"]
    assert list(_expected_lines(expected, "laptop", 60_000, 590.0)) == [
        "  warning      Pong takes off after some 100,000 steps of laptop; 60,000 are likely too "
        "few: --for 10m would reach it"
    ]
    assert list(_expected_lines(expected, "laptop", 200_000, None)) == [
        "  expect       Pong takes off after some 100,000 steps of laptop, which reached 19.3 and "
        "19.5 in 100 games after 840,000"
    ]


def test_what_was_measured_is_expected_of_the_recipe_as_it_is_packaged_alone():
    def is_expected(**overrides):
        return _is_as_measured(resolve(env="Pong", algo="laptop", overrides=overrides))

    assert is_expected()
    assert is_expected(seed=3, eval_freq=0, num_threads=1)
    assert not is_expected(layer_norm=False)
    assert not is_expected(averaged_weights=0.9995)


@pytest.mark.parametrize("algo", ["dqn", "pqn-laptop"])
def test_the_real_parts_are_measured(algo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = {
        "n_envs": 2, "network": "small", "learning_starts": 100, "buffer_size": 200,
        "batch_size": 4, "rollout_steps": 4, "max_frames": 400, "eval_episodes": 2,
        "num_threads": 1, "device": "cpu",
    }  # fmt: skip
    if algo == "pqn-laptop":
        for key in ("learning_starts", "buffer_size", "batch_size"):
            del changes[key]
    else:
        del changes["rollout_steps"]
    monkeypatch.setattr(measuring, "LEARNING_SHARE", 0.005)  # of time enough for a busy machine
    speed = measure(complete(resolve(env="Breakout", algo=algo, overrides=changes).config), 40.0)
    assert all(math.isfinite(value) and value >= 0 for value in speed)
    assert 0 < speed.learning_step < 0.1
    assert speed.game_steps <= 100  # max_frames ends them
    if algo == "dqn":
        assert 0 < speed.random_step < 2 * speed.learning_step  # measured, on a busy machine
        assert speed.random_step != speed.learning_step
    else:  # PQN learns from its first step on: there is one speed
        assert speed.random_step == speed.learning_step
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seen", ["while it learns", "in one game alone"])
def test_games_that_outlast_the_evaluation_that_is_watched_are_seen_whole(seen, monkeypatch):
    changes = {
        "n_envs": 2, "network": "small", "learning_starts": 100, "buffer_size": 200,
        "batch_size": 4, "train_freq": 40, "max_frames": 2_000, "eval_episodes": 4,
        "num_threads": 1, "device": "cpu",
    }  # fmt: skip
    monkeypatch.setattr(measuring, "LEARNING_SHARE", 0.001)
    if seen == "while it learns":
        monkeypatch.setattr(measuring, "FIRST_PERIODS", 30)  # of 20 steps in each environment
        monkeypatch.setattr(measuring, "ONE_GAME", 0.0)
    else:
        monkeypatch.setattr(measuring, "ONE_GAME", 1_000.0)
    monkeypatch.setattr(measuring, "LATER_GAMES", 1.0)
    # Freeway lasts 2,048 steps, whoever plays, and is cut off after 500.
    speed = measure(complete(resolve(env="Freeway", overrides=changes).config), 200.0)
    assert 490 <= speed.game_steps <= 500


@pytest.mark.parametrize(
    ("trained", "evaluated", "later"),
    [(math.nan, 200.0, 300.0), (240.0, 200.0, 360.0), (100.0, 200.0, 300.0), (350.0, 1.0, 500.0)],
)
def test_later_games_get_as_long_as_the_protocol_lets_them(trained, evaluated, later):
    config = resolve(env="Freeway", overrides={"max_frames": 2_000}).config
    assert measuring._later_game_steps(config, trained, evaluated) == later


@pytest.fixture
def call(tmp_path, monkeypatch, capfd):
    """Return a function that runs dqn-train in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_for, "LEAST_S", 1.0)

    def run(*arguments):
        code = main(arguments)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_run_for_some_seconds_is_the_run_of_its_config(call, monkeypatch):
    monkeypatch.setattr(time_budget, "MARGIN", 0.9)  # a short run, and no time limit in sight
    monkeypatch.setattr(time_budget, "MARGIN_S", 0.0)
    monkeypatch.setattr(time_budget, "MOST_STEPS", 600)  # whatever it would do in 18 s, busy or not
    monkeypatch.setattr(time_budget, "LEAST_STEPS_SHARE", 0.0)
    monkeypatch.setattr(time_budget, "MOST_EVALUATION", 0.01)
    monkeypatch.setattr(measuring, "LEARNING_SHARE", 0.002)
    code, output, error = call("--env", "Pong", "--algo", "dqn", "--for", "180s", *TINY)
    assert code == 0, error
    assert error.startswith("measuring the speed for 1 s or a little more")
    run = Path("logs/dqn/Pong_1")
    config = load_config(run / "config.yml")
    assert f"3 min are about {config.n_timesteps:,} steps here: " in output
    assert f"finished {run} at step {config.n_timesteps:,}" in output
    assert config.n_timesteps % config.eval_freq == 0
    code, _, error = call("-c", str(run / "config.yml"), "-f", "again", "--no-progress")
    assert code == 0, error
    ours, again = (load_file(Path(f) / "dqn/Pong_1/model.safetensors") for f in ("logs", "again"))
    assert all(ours[name].equal(again[name]) for name in ours)


def test_a_signal_while_the_speed_is_measured_ends_at_once_and_leaves_nothing(call, monkeypatch):
    go_on, calls = measuring._go_on, []

    def interrupted(trainer, steps):
        calls.append(steps)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return go_on(trainer, steps)

    monkeypatch.setattr(measuring, "_go_on", interrupted)
    code, output, _ = call("--env", "Pong", "--algo", "dqn", "--for", "1h", *TINY)
    assert (code, output, len(calls)) == (143, "", 3)
    assert not Path("logs").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--for 0.5s", "error: --for 0.5s is too short to measure the speed and learn: the least"),
        ("--for 0", "error: --for: expected a time above 0 such as 90m"),
        ("--for nonsense", "error: --for: expected a time above 0 such as 90m"),
        ("--for 45m -n 1000", "error: --for chooses n_timesteps, and --n-timesteps sets it"),
        ("--for 45m --set n_timesteps=9", "error: --for chooses n_timesteps, and --set n_timest"),
        ("--for 45m --time-limit 1h", "error: --for ends the run in time by itself"),
        ("--for 45m --resume", "error: --for chooses the length of a new run; a resumed one"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(call, arguments, expected):
    code, _, error = call("--env", "Pong", *arguments.split())
    assert (code, len(error.splitlines())) == (2, 1), error
    assert error.startswith(expected)
    assert not Path("logs").exists()
