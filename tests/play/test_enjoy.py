"""dqn-enjoy, end to end on the real emulator: what it plays, what it writes, what it refuses."""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.children import Child
from support.network_makers import file_bytes
from support.run_makers import BREAKOUT_ACTIONS, make_run, weights_of

from dqn_zoo import load_agent
from dqn_zoo.cli.enjoy import build_parser, main
from dqn_zoo.cli.refused_flags import REFUSED_ENJOY
from dqn_zoo.envs.env_settings import EnvSettings
from dqn_zoo.learning.losses import network_settings
from dqn_zoo.networks.network import build_network
from dqn_zoo.play.agent import Agent, build_agent
from dqn_zoo.play.evaluation import enjoy_seeds, evaluate
from dqn_zoo.play.results import results, summary_lines
from dqn_zoo.play.session import Session, read_weights, watch
from dqn_zoo.play.statistics import summarize
from dqn_zoo.play.window import sdl_settings
from dqn_zoo.runs.checkpoint import write_checkpoint
from dqn_zoo.runs.manifest import end_invocation
from dqn_zoo.runs.run import Run, lock
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.sharing.card import write_card
from dqn_zoo.system.files import replace_file

ENJOY = [sys.executable, "-m", "dqn_zoo.cli.enjoy"]

# The options of RL-Zoo's enjoy.py, each with a value where it takes one.
RL_ZOO_FLAGS = {
    "--env": "Breakout",
    "-f": "logs",
    "--folder": "logs",
    "--algo": "dqn",
    "-n": "1000",
    "--n-timesteps": "1000",
    "--num-threads": "-1",
    "--n-envs": "1",
    "--exp-id": "0",
    "--verbose": "1",
    "--no-render": None,
    "--deterministic": None,
    "--device": "auto",
    "--load-best": None,
    "--load-checkpoint": "1000",
    "--load-last-checkpoint": None,
    "--stochastic": None,
    "--norm-reward": None,
    "--seed": "0",
    "--reward-log": "rewards",
    "--gym-packages": "ale_py",
    "--env-kwargs": "difficulty:1",
    "--custom-objects": None,
    "-P": None,
    "--progress": None,
}


def play(*flags: str) -> int:
    return main([*flags, "--num-threads", "1"])


def small_run(logs: Path, **rules: Any) -> Run:
    return make_run(logs, network="small", **rules)


def small_weights(seed: int, steps: int, num_actions: int = BREAKOUT_ACTIONS) -> bytes:
    return weights_of(seed, steps, Config(network="small"), num_actions)


def finish(run: Run) -> None:
    run.model_file.write_bytes(small_weights(seed=1, steps=3_000))
    run.best_model_file.write_bytes(small_weights(seed=2, steps=2_000))
    for step in (1_000, 2_500):
        write_checkpoint(run.checkpoints, step, [("model.safetensors", small_weights(step, step))])


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, without a display."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    return tmp_path / "logs"


def session_of(run: Run, *, has_window: bool = False) -> Session:
    return Session(
        run=run,
        weights=read_weights(run.best_model_file, "best model"),
        config=load_config(run.config_file),
        seed=0,
        num_games=2,
        max_steps=None,
        num_envs=1,
        num_threads=1,
        device="cpu",
        has_window=has_window,
        is_filmed=False,
    )


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = small_run(tmp_path_factory.mktemp("master"), max_frames=200)
    finish(run)
    return run


@pytest.fixture
def run(logs: Path, finished_run: Run) -> Run:
    return Run(shutil.copytree(finished_run.path, logs / "dqn" / "Breakout_1"))


def results_of(run: Run) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(run.results_file.read_text())
    return content


def test_it_plays_prints_and_writes_everything_in_a_process_of_its_own(run: Run) -> None:
    command = [
        *ENJOY,
        "--num-threads",
        "1",
        "--env",
        "BreakoutNoFrameskip-v4",
        "--episodes",
        "3",
        "--epsilon",
        "0.5",
    ]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=run.path.parents[2]
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    said, headless, *games = ended.stdout.splitlines()
    assert said == (
        "logs/dqn/Breakout_1: best model (2,000 steps of training), protocol zoo with "
        "max_frames 200, epsilon 0.5, 3 games of Breakout from seed 0, 3 at a time, on cpu"
    )
    assert "headless" in headless
    assert sorted(line.split("score")[0].split() for line in games[:3]) == [
        ["game", str(number), "of", "3"] for number in (1, 2, 3)
    ]
    written = results_of(run)
    scores = [game["score"] for game in written["games"]]
    summary = summarize(scores)
    assert f"mean           {summary.mean:,.1f}" in ended.stdout
    assert f"mean - std     {summary.mean_minus_std:,.1f}" in ended.stdout
    assert summary.confidence_95 is not None
    assert f"95 % interval  {summary.confidence_95[0]:,.1f} to" in ended.stdout
    assert "random play    1.7" in ended.stdout
    assert "human          30.5" in ended.stdout
    assert ended.stdout.endswith("results: logs/dqn/Breakout_1/results.json\n")

    assert written["mean_reward"] == summary.mean
    assert written["std_reward"] == summary.std
    assert written["mean_minus_std"] == summary.mean_minus_std
    assert written["confidence_95"] == list(summary.confidence_95)
    assert written["n_eval_episodes"] == 3
    assert written["is_deterministic"] is False
    assert written["eval_datetime"].startswith("20")
    assert [game["seed"] for game in written["games"]] == list(enjoy_seeds(0, 3))
    assert written["protocol"]["noop_max"] == 30
    assert (written["epsilon"], written["seed"], written["env"]) == (0.5, 0, "Breakout")
    assert (written["n_envs"], written["backend"]) == (3, "vector")
    assert written["versions"]["ale-py"]
    assert written["weights"] == {
        "file": "best_model.safetensors",
        "name": "best model",
        "steps": 2_000,
        "sha256": hashlib.sha256(run.best_model_file.read_bytes()).hexdigest(),
    }
    assert not list(run.path.glob("*.tmp"))


def test_the_games_are_those_of_the_library(run: Run) -> None:
    assert play("--episodes", "2", "--seed", "5", "--epsilon", "0.3", "--n-envs", "1") == 0
    agent = load_agent(run.path, "best")
    protocol = agent.config.model_copy(update={"eval_epsilon": 0.3})
    games = evaluate(
        agent.q_values,
        game="Breakout",
        settings=EnvSettings.from_config(protocol),
        seeds=enjoy_seeds(5, 2),
    )
    written = results_of(run)["games"]
    assert [(game["score"], game["length_steps"]) for game in written] == [
        (game.score, game.length_steps) for game in games
    ]


def test_a_run_is_found_from_another_folder_and_never_through_the_network(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    output = elsewhere / "new" / "scores.json"
    assert play("--run", str(run.path), "--episodes", "1", "--output", str(output)) == 0
    assert json.loads(output.read_text())["run"] == "Breakout_1"
    assert not run.results_file.exists()


@pytest.mark.parametrize(
    ("flags", "file", "steps"),
    [
        ([], "best_model.safetensors", 2_000),
        (["--load-best"], "best_model.safetensors", 2_000),
        (["--load-last"], "model.safetensors", 3_000),
        (["--load-last-checkpoint"], "checkpoints/step_000002500/model.safetensors", 2_500),
        (["--load-checkpoint", "1000"], "checkpoints/step_000001000/model.safetensors", 1_000),
    ],
)
def test_the_weights_that_are_asked_for_are_played(
    run: Run, flags: list[str], file: str, steps: int
) -> None:
    assert play("--episodes", "1", *flags) == 0
    weights = results_of(run)["weights"]
    assert (weights["file"], weights["steps"]) == (file, steps)
    assert weights["sha256"] == hashlib.sha256((run.path / file).read_bytes()).hexdigest()


def test_without_a_best_model_the_final_one_is_played(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run.best_model_file.unlink()
    assert play("--episodes", "1") == 0
    assert "last model (3,000 steps" in capsys.readouterr().out
    assert play("--episodes", "1", "--load-best") == 2
    said = "has no best model: no evaluation was made since it began to learn; --load-last plays"
    assert said in capsys.readouterr().err


def test_the_latest_run_is_played_unless_another_is_named(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, run in enumerate((small_run(logs), small_run(logs))):
        run.best_model_file.write_bytes(small_weights(seed=2, steps=2_000))
        os.utime(run.manifest_file, (1_000 + number, 1_000 + number))
    for flags, name in (
        (["--algo", "dqn", "-f", "logs"], "Breakout_2"),
        (["--exp-id", "1"], "Breakout_1"),
        (["--run", "Breakout_1"], "Breakout_1"),
    ):
        assert play(*flags, "--episodes", "1") == 0
        assert f"/{name}: best model" in capsys.readouterr().out


def test_the_protocol_is_the_command_lines_else_the_runs_own(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_run(logs, protocol="zoo", noop_max=7)
    run.model_file.write_bytes(small_weights(seed=1, steps=3_000))
    # The name of the environment implies machado, but the run comes first.
    assert play("--env", "ALE/Breakout-v5", "--episodes", "1") == 0
    assert "protocol zoo with noop_max 7, epsilon 0.01" in capsys.readouterr().out
    assert results_of(run)["protocol"]["action_repeat_probability"] == 0.0
    assert play("--protocol", "machado", "--epsilon", "1", "--episodes", "1") == 0
    said = capsys.readouterr().out
    assert "protocol machado with noop_max 7, epsilon 1" in said
    assert said.endswith("epsilon-1.json; results.json keeps what the run is known by\n")
    assert results_of(run)["protocol"]["action_repeat_probability"] == 0.0
    [beside] = (run.path / "results").iterdir()
    assert beside.name.endswith("-machado-with-noop_max-7-epsilon-1.json")
    assert json.loads(beside.read_text())["protocol"]["action_repeat_probability"] == 0.25


@pytest.mark.parametrize(
    ("flags", "epsilon"),
    [
        (["--stochastic"], 0.05),
        (["--deterministic"], 0.0),
        (["--epsilon", "0.25"], 0.25),
    ],
)
def test_epsilon_is_the_command_lines_else_the_runs_own(
    logs: Path, flags: list[str], epsilon: float
) -> None:
    run = small_run(logs, eval_epsilon=0.05, max_frames=200)
    run.model_file.write_bytes(small_weights(seed=1, steps=3_000))
    assert play("--episodes", "1", *flags) == 0
    written = results_of(run)
    assert written["epsilon"] == written["protocol"]["eval_epsilon"] == epsilon
    assert written["is_deterministic"] is (epsilon == 0.0)


def test_the_length_of_a_film_that_nobody_asked_for_is_refused(run: Run, capsys) -> None:
    assert play("--episodes", "1", "--record-seconds", "5") == 2
    assert "--record-seconds is for a film: add --record" in capsys.readouterr().err


def test_after_n_steps_no_game_begins_and_none_is_cut(run: Run) -> None:
    assert play("-n", "80", "--epsilon", "1") == 0
    written = results_of(run)
    lengths = [game["length_steps"] for game in written["games"]]
    assert sum(lengths[:-1]) < 80 <= sum(lengths)
    assert (written["n_timesteps"], written["n_envs"]) == (80, 1)
    assert len(lengths) == 2
    assert play("-n", "80", "--epsilon", "1", "--episodes", "1", "--output", "one.json") == 0
    assert json.loads(Path("one.json").read_text())["n_eval_episodes"] == 1


def test_a_film_is_recorded_into_the_run_folder_and_needs_no_window(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISPLAY", ":987")  # nobody answers there
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    assert play("--episodes", "3", "--epsilon", "1", "--record", "--record-seconds", "2") == 0
    film = run.path / "videos" / "best-model-Breakout-zoo-seed-0.mp4"
    assert film.stat().st_size > 10_000
    said = capsys.readouterr().out
    assert said.endswith(f"film: logs/dqn/Breakout_1/videos/{film.name} (2.0 s)\n")
    assert "headless" not in said
    written = results_of(run)
    assert (written["n_envs"], written["backend"]) == (1, "gymnasium")
    assert written["n_eval_episodes"] == 3  # the games went on


def test_a_film_gets_the_name_that_is_asked_for(run: Run, tmp_path: Path) -> None:
    film = tmp_path / "films" / "mine.mp4"
    options = ["--episodes", "2", "--n-envs", "2", "--epsilon", "1", "--record-seconds", "1"]
    assert play(*options, "--record", str(film)) == 0
    assert [file.name for file in film.parent.iterdir()] == ["mine.mp4"]
    assert play(*options, "--record", str(film.parent)) == 0
    assert len(list(film.parent.iterdir())) == 2


def test_an_encoder_that_fails_does_not_cost_the_evaluation(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", sys.executable)
    assert play("--episodes", "1", "--record") == 0
    told = capsys.readouterr()
    assert re.fullmatch(r"warning: no film in \S+, the encoder failed: .+\n", told.err)
    assert "film:" not in told.out
    assert results_of(run)["n_eval_episodes"] == 1


def test_weights_that_a_training_replaces_meanwhile_play_under_no_name(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build_late(file: Path, *arguments: Any, **more: Any) -> Agent:
        file.write_bytes(run.model_file.read_bytes())
        return build_agent(file, *arguments, **more)

    monkeypatch.setattr("dqn_zoo.play.agent.build_agent", build_late)
    assert play("--load-best", "--episodes", "1") == 2
    assert "best_model.safetensors was replaced while it was read" in capsys.readouterr().err
    assert not run.results_file.exists()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens, one after the other, while `dqn-enjoy --follow` waits."""
    happens: list[Callable[[], object]] = []
    waits = SimpleNamespace(sleep=lambda _: happens.pop(0)())  # others sleep, too
    monkeypatch.setattr("dqn_zoo.play.following.time", waits)
    return happens


def test_follow_waits_for_weights_and_takes_newer_ones_until_the_run_has_ended(
    logs: Path, world: list[Callable[[], object]], capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_run(logs, max_frames=200)

    def write(steps: int) -> None:
        replace_file(run.model_file, small_weights(steps, steps))

    def end() -> None:
        write(3_000)
        end_invocation(run, "finished", step=3_000, seconds={}, updates="eager")

    world += [lambda: None, lambda: write(1_000), lambda: None, lambda: write(2_000), end]
    with lock(run):
        assert play("--follow", "--epsilon", "1") == 0
    assert world == []
    waiting, first, *told = capsys.readouterr().out.splitlines()
    assert waiting == "logs/dqn/Breakout_1 has no weights yet: waiting for the first"
    assert "newest weights (1,000 steps of training)" in first
    assert [line.partition("  score")[0] for line in told] == [
        "game   1",
        "newer weights: 2,000 steps of training",
        "game   2",
        "newer weights: 3,000 steps of training",
        "game   3",
        "ended: nobody trains logs/dqn/Breakout_1 any more; its last weights played",
    ]
    assert not run.results_file.exists()


def test_without_weights_it_says_whether_to_wait_or_to_train_on(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(logs)
    with lock(run):
        assert play("--no-render") == 2
    assert "dqn-enjoy --follow --run logs/dqn/Breakout_1 waits" in capsys.readouterr().err
    end_invocation(run, "SIGTERM", step=7, seconds={}, updates="eager")
    for flags in ([], ["--follow"]):
        assert play("--no-render", *flags) == 2
        assert "dqn-train --resume logs/dqn/Breakout_1" in capsys.readouterr().err


def test_follow_plays_what_is_trained_here_and_writes_nothing(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags in (["--load-best"], ["--record"], ["--pretrained"], ["--output", "x"]):
        assert play("--follow", *flags) == 2
        assert "--follow plays the newest weights of a run here" in capsys.readouterr().err
    end_invocation(run, "finished", step=3_000, seconds={}, updates="eager")
    assert play("--follow", "--epsilon", "1") == 0
    *_, alone, game = capsys.readouterr().out.splitlines()
    assert alone == "nobody trains it now: its last weights play one game"
    assert game.startswith("game   1  score")


def test_a_progress_bar_is_shown_on_request(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the output for a terminal
    assert play("--episodes", "1", "-P", "--no-render") == 0
    said = capsys.readouterr().out
    assert "1 of 1 games" in said
    assert "headless" not in said
    assert play("--episodes", "1", "--no-progress") == 0
    said = capsys.readouterr().out
    assert "1 of 1 games" not in said
    assert "headless" in said


def test_ctrl_c_reports_the_finished_games_and_writes_no_results(run: Run) -> None:
    child = Child(
        "dqn_zoo.cli.enjoy",
        [
            *("-f", str(run.path.parents[1]), "--episodes", "500", "--epsilon", "1"),
            *("--num-threads", "1", "--record", "--record-seconds", "5"),
        ],
    )
    deadline = time.monotonic() + 60
    while "game   2" not in child.output():
        assert time.monotonic() < deadline, child.output()
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    output = child.wait(60)
    assert child.returncode == 130
    assert "Traceback" not in output
    lines = output.splitlines()
    # An interrupt while a line is being written may write it twice.
    finished = len({line for line in lines if line.startswith("game")})
    assert f"  played         {finished} games of Breakout" in lines
    assert any(line.startswith("interrupted: ") for line in lines)
    assert not run.results_file.exists()
    assert len(list((run.path / "videos").glob("best-model-*.mp4"))) == 1
    assert not list((run.path / "videos").glob("*unfinished*"))


def test_fewer_games_do_not_replace_more_of_the_same_weights_by_the_same_rules(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--epsilon", "1", "--no-render", "--n-envs", "1"]

    def number_kept(*flags: str) -> int:
        assert play(*flags) == 0
        number: int = results_of(run)["n_eval_episodes"]
        return number

    assert number_kept(*short, "--episodes", "2") == 2
    assert number_kept(*short, "--episodes", "1") == 2
    assert f"{run.results_file.name} keeps its 2 games" in capsys.readouterr().out
    elsewhere = tmp_path / "one.json"
    assert number_kept(*short, "--episodes", "1", "--output", str(elsewhere)) == 2
    assert json.loads(elsewhere.read_text())["n_eval_episodes"] == 1
    assert number_kept(*short, "--episodes", "2", "--seed", "9") == 2
    assert results_of(run)["seed"] == 9  # as many are the newer ones
    assert number_kept(*short, "--episodes", "1", "--load-last") == 2  # kept beside it
    assert number_kept("--epsilon", "0.01", "--no-render", "--episodes", "1", "--load-last") == 1
    assert "results.json\n" in capsys.readouterr().out  # by the run's own rules
    run.results_file.write_text("[]")
    assert number_kept(*short, "--episodes", "1") == 2  # which were kept beside it


def break_weights(run: Run) -> None:
    run.best_model_file.write_bytes(run.best_model_file.read_bytes()[:-1_000])


def other_network(run: Run) -> None:
    settings = network_settings(Config(frame_stack=2))
    network = build_network(settings, num_actions=4, seed=0)
    run.best_model_file.write_bytes(file_bytes(network))


def other_game(run: Run) -> None:
    run.best_model_file.write_bytes(small_weights(1, 1, num_actions=6))


def flip_a_bit(run: Run) -> None:
    file = run.checkpoints / "step_000001000" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def only_checkpoints(run: Run) -> None:
    run.model_file.unlink()
    run.best_model_file.unlink()


def no_weights(run: Run) -> None:
    only_checkpoints(run)
    for file in sorted(run.checkpoints.glob("*/*")):
        file.unlink()
    for folder in [*run.checkpoints.iterdir(), run.checkpoints]:
        folder.rmdir()


def nothing(run: Run) -> None:
    pass


def blocked_output(run: Run) -> None:
    run.results_file.mkdir()


NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")


@pytest.mark.parametrize(
    ("flags", "spoil", "message"),
    [
        (["--env", "Brakout"], nothing, r"did you mean Breakout"),
        (["--env", "Tennis"], nothing, r"no run of Tennis in logs"),
        (["--env", "Pong", "--run", "logs/dqn/Breakout_1"], nothing, r"was trained on Breakout"),
        (["--run", "Breakout_7"], nothing, r"no run 'Breakout_7' in logs"),
        (["--exp-id", "7"], nothing, r"_7 in logs"),
        (["-f", "nowhere"], nothing, r"in nowhere.*start one with .dqn-train"),
        (["--algo", "rainbow"], nothing, r"rainbow"),
        (["--load-checkpoint", "1500"], nothing, r"no checkpoint at step 1500; it has 1000, 2500"),
        (["--load-checkpoint", "1000"], flip_a_bit, r"step_000001000 is damaged .*SHA-256"),
        (["--load-best", "--load-last"], nothing, r"not allowed with argument"),
        (["--deterministic", "--epsilon", "0.1"], nothing, r"not allowed with argument"),
        ([], break_weights, r"best_model\.safetensors is damaged \(no readable safetensors file"),
        ([], other_network, r"does not fit the network of its run"),
        (["--n-envs", "1"], other_game, r"Breakout has 4 actions"),
        (
            [],
            only_checkpoints,
            r"no finished model yet: --load-last-checkpoint plays that of step 2,500",
        ),
        ([], no_weights, r"has no weights yet"),
        (["--load-last-checkpoint"], no_weights, r"no checkpoint that can be read"),
        (["--episodes", "0"], nothing, r"--episodes: expected a whole number of at least 1"),
        (["-n", "0"], nothing, r"--n-timesteps: expected a whole number of at least 1"),
        (["-n", "1e9"], nothing, r"--n-timesteps: expected a whole number of at most 10,000,000"),
        (["--n-envs", "0"], nothing, r"--n-envs: expected a whole number of at least 1"),
        (["--epsilon", "1.5"], nothing, r"--epsilon: expected a number from 0 to 1"),
        (["--epsilon", "nan"], nothing, r"--epsilon: expected a number from 0 to 1"),
        (["--seed", "-1"], nothing, r"--seed: expected a whole number of at least 0"),
        (["--protocol", "atari"], nothing, r"invalid choice: 'atari'"),
        (["--render"], nothing, r"--render needs a display"),
        (["--record", "film.avi"], nothing, r"films are mp4"),
        (
            ["--record", "logs/dqn/Breakout_1/config.yml/a.mp4"],
            nothing,
            r"a\.mp4 cannot be written .*: name a file .* with --record FILE",
        ),
        ([], blocked_output, r"results cannot be written to .*results\.json"),
        (["--output", "logs/dqn/Breakout_1/config.yml/r.json"], nothing, r"--output FILE"),
        (["--episode", "3"], nothing, r"unknown flag --episode; did you mean --episodes"),
        (["--verbose", "1"], nothing, r"--verbose: every game is printed"),
        pytest.param(["--device", "cuda"], nothing, r"finds no CUDA device", marks=NO_CUDA),
    ],
)
def test_a_mistake_gets_one_line_and_code_2(
    run: Run,
    flags: list[str],
    spoil: Callable[[Run], None],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(run)
    assert main(flags) == 2
    told = capsys.readouterr().err
    assert re.search(message, told)
    assert re.fullmatch(r"error: .+\n", told)
    assert not (run.path / "videos").exists()


def test_a_display_that_does_not_answer_gets_one_line_and_no_word_of_the_missing_sound_card(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISPLAY", ":987")
    for name in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):  # set and removed: put back in the end
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    assert main(["--episodes", "1"]) == 2
    assert re.fullmatch(
        r"error: no window can be opened .*no display answers at DISPLAY=:987.*use --no-render.*\n",
        capfd.readouterr().err,
    )


def test_sdl_is_told_where_nothing_can_be_seen_or_heard(tmp_path: Path) -> None:
    def told(**environ: str) -> dict[str, str]:
        return sdl_settings(environ, platform="linux", sound_cards=tmp_path)

    silent = {"SDL_AUDIODRIVER": "dummy"}
    visible = {"SDL_VIDEODRIVER": "x11,wayland"}
    assert told() == visible | silent
    assert told(SDL_VIDEODRIVER="offscreen") == silent
    assert told(PULSE_SERVER="unix:/x") == visible
    (tmp_path / "card0").mkdir()
    assert told() == visible
    assert sdl_settings({}, platform="darwin") == {}


def test_a_window_shows_the_game_at_the_speed_of_the_console(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("SDL_AUDIODRIVER", "dummy")
    agent = load_agent(run.path)
    turns = watch(session_of(run, has_window=True), agent.q_values)
    next(turns)  # opens the window
    began = time.monotonic()
    for _ in range(15):
        next(turns)
    turns.close()
    assert 0.9 <= time.monotonic() - began <= 10.0  # 15 steps are a second


def test_every_flag_of_rl_zoo_is_honoured_or_refused_with_a_substitute(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag, value in RL_ZOO_FLAGS.items():
        given = [flag] if value is None else [flag, value]
        if flag in REFUSED_ENJOY:
            assert main(given) == 2
            assert REFUSED_ENJOY[flag] in capsys.readouterr().err
        else:
            assert build_parser().parse_args(given).given


def test_help_and_bad_flags_need_none_of_the_heavy_packages() -> None:
    code = (
        "import sys\n"
        "from dqn_zoo.cli.enjoy import main\n"
        "assert main(['--epsilon', '7']) == 2\n"
        "heavy = {'torch', 'numpy', 'gymnasium', 'ale_py', 'cv2', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "main(['--help'])\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--record-seconds" in ended.stdout


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ([220.0, 240.0] * 5, "200 in 10 games passes: passed"),
        ([190.0, 290.0] * 5, "200 in 10 games passes: not passed"),
        ([220.0, 240.0], "200 in 10 games passes"),
    ],
)
def test_the_course_is_passed_by_mean_minus_standard_deviation(
    run: Run, scores: list[float], verdict: str
) -> None:
    session = session_of(run)
    lines = summary_lines(session, summarize(scores))
    assert not any("passes" in line for line in lines)  # Breakout is no game of the course
    session = replace(session, config=Config(env="SpaceInvaders"))
    (line,) = (line for line in summary_lines(session, summarize(scores)) if "passes" in line)
    assert line.startswith("  mean - std")
    assert line.endswith(f"{verdict})")
    content = results(session, [], summarize(scores))
    card = write_card("ann/a", session.config, content, {}, has_film=False, has_curve=False)
    assert f"** (unit 3: {verdict})." in card
    assert "| hardware | unknown |" in card
    assert "None" not in card
