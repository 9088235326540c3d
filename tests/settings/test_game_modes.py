"""Modes and difficulties: held to the game's own list, played, resumed, and said by scores."""

from pathlib import Path

import numpy as np
import pytest
from ale_py import ALEInterface, LoggerMode, roms

from dqn_zoo.cli.commands import main as commands
from dqn_zoo.cli.train import main as train
from dqn_zoo.envs.env_settings import EnvSettings
from dqn_zoo.envs.making import make_envs
from dqn_zoo.errors import UserError
from dqn_zoo.play.results_file import read_results, rules_of
from dqn_zoo.runs.finding import find_run
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.game_modes import _numbers, _switches, check_mode
from dqn_zoo.settings.games import GAMES
from dqn_zoo.settings.protocols import PROTOCOLS, Protocol, protocol_from_config, rules_in_words

FEW = ["Breakout", "Backgammon", "VideoCube", "Asteroids", "Enduro"]


def check_table(games: list[str]) -> None:
    ALEInterface.setLoggerMode(LoggerMode.Error)
    for game in games:
        ale = ALEInterface()
        ale.loadROM(roms.get_rom_path(GAMES[game]))
        modes, difficulties = (list(_numbers(known)) for known in _switches(game))
        assert modes == sorted(ale.getAvailableModes()), game
        assert difficulties == sorted(ale.getAvailableDifficulties()), game


def test_the_table_is_the_emulators_own():
    check_table(FEW)


@pytest.mark.slow
def test_the_table_is_the_emulators_own_in_every_game():
    check_table(list(GAMES))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["mode=33"], "SpaceInvaders has no mode 33: expected 0-15, or null for the one"),
        (["mode=3", "difficulty=2"], "SpaceInvaders has no difficulty 2: expected 0-1, or null"),
        (["mode=3", "backend=vector"], "mode can be set with the gymnasium backend, got"),
        (["mode=-1"], "mode must be a whole number of at least 0, or null, got -1"),
        (["difficulty=hard"], "a whole number of at least 0, or null, got 'hard'"),
    ],
)
def test_what_the_game_does_not_have_is_one_line(settings, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train(["--env", "SpaceInvaders", "--set", *settings]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not any(tmp_path.iterdir())


def test_environments_check_it_too():
    rules = Protocol(**(PROTOCOLS["zoo"].as_json() | {"mode": 1}))
    with pytest.raises(UserError, match="Enduro has no mode 1: expected 0, or null"):
        make_envs("Enduro", settings=EnvSettings(protocol=rules))
    with pytest.raises(UserError, match="backend vector cannot serve mode"):
        make_envs("Pong", settings=EnvSettings(protocol=rules, backend="vector"))
    check_mode("Enduro", 0, 0)


def screens(mode: int | None, difficulty: int | None, *, seed: int = 1) -> list[np.ndarray]:
    """Play Breakout to the second game with actions of its own, all environments alike."""
    config = Config(
        env="Breakout", mode=mode, difficulty=difficulty, backend="gymnasium", noop_max=0,
        max_frames=240,
    )  # fmt: skip
    generator = np.random.default_rng(0)
    with make_envs("Breakout", settings=EnvSettings.from_config(config), seed=seed) as environments:
        seen = [environments.reset()]
        for action in generator.integers(0, environments.num_actions, 80):
            seen.append(environments.step(np.array([action])).observation)
    return seen


def test_another_mode_is_another_game_also_after_the_first_and_the_default_has_equal_bits():
    usual = screens(None, None)
    assert all((one == other).all() for one, other in zip(usual, screens(0, 0), strict=True))
    changed = screens(12, None)  # catch: the ball sticks to the paddle
    harder = screens(None, 1)  # a smaller paddle
    for other in (changed, harder):
        assert any((one != two).any() for one, two in zip(usual[:60], other[:60], strict=True))
        assert any((one != two).any() for one, two in zip(usual[64:], other[64:], strict=True))


def test_a_game_in_another_mode_is_resumed_exactly_and_only_by_the_same_rules():
    config = Config(env="SpaceInvaders", mode=3, difficulty=1, max_frames=200)
    actions = np.random.default_rng(0).integers(0, 6, (90, 1))
    settings = EnvSettings.from_config(config)
    assert settings.choose_backend() == "gymnasium"
    with make_envs("SpaceInvaders", settings=settings, seed=1) as environments:
        environments.reset()
        for action in actions[:70]:
            environments.step(action)
        state = environments.state()
        undisturbed = [environments.step(action).observation for action in actions[70:]]
    with make_envs("SpaceInvaders", settings=settings, seed=1) as environments:
        environments.restore(state)
        resumed = [environments.step(action).observation for action in actions[70:]]
    assert all((one == two).all() for one, two in zip(undisturbed, resumed, strict=True))
    other = EnvSettings.from_config(config.model_copy(update={"mode": 4}))
    with (
        make_envs("SpaceInvaders", settings=other, seed=1) as environments,
        pytest.raises(ValueError, match="protocol"),
    ):
        environments.restore(state)


def test_rules_that_were_written_before_are_the_same_rules():
    rules = protocol_from_config(Config())
    assert "mode" not in rules.as_json()
    assert Protocol(**rules.as_json()) == rules
    assert rules_in_words(rules) == "zoo"
    changed = protocol_from_config(Config(mode=3, difficulty=1))
    assert rules_in_words(changed) == "zoo with mode 3, difficulty 1"
    assert Protocol(**changed.as_json()) == changed != rules


def test_a_run_its_score_and_its_card_name_the_mode(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = ["mode=3", "difficulty=1", "learning_starts=30", "buffer_size=60", "batch_size=4"]
    settings += ["network=small", "max_frames=160", "eval_freq=0", "exploration_fraction=1"]
    machine = ["--num-threads", "1", "--no-progress"]
    assert commands(["train", "--algo", "dqn", "-n", "60", *machine, "--set", *settings]) == 0
    assert "on SpaceInvaders, mode 3, difficulty 1, protocol zoo" in capsys.readouterr().out
    run = find_run("logs")
    play = ["--episodes", "2", "--num-threads", "1", "--no-render"]
    film = ["--record", "--record-seconds", "1"]
    assert commands(["enjoy", *play, *film]) == 0
    said = capsys.readouterr().out
    assert "protocol zoo with max_frames 160, mode 3, difficulty 1" in said
    assert "human" not in said
    assert "passes" not in said
    assert [path.name.split("SpaceInvaders-")[1] for path in (run.path / "videos").iterdir()] == [
        "zoo-mode-3-difficulty-1-seed-0.mp4"
    ]
    rules = rules_of(read_results(run.results_file), where="results")
    assert (rules.mode, rules.difficulty) == (3, 1)
    assert commands(["push", *play, "--dry-run"]) == 0
    capsys.readouterr()
    [card] = (run.path / "hub").rglob("README.md")
    assert "protocol: zoo with max_frames 160, mode 3, difficulty 1" in card.read_text()
    assert "unit 3" not in card.read_text()
    assert commands(["verify", str(run.path), "--episodes", "2", "--num-threads", "1"]) in (0, 1)
    assert "mode 3, difficulty 1" in capsys.readouterr().out
    usual = ["--env-kwargs", "mode:null", "difficulty:null"]
    assert commands(["enjoy", *play, *usual]) == 0
    said = capsys.readouterr().out
    assert "protocol zoo with max_frames 160," in said
    assert "results.json keeps what the run is known by" in said
    assert commands(["enjoy", *play, "--env-kwargs", "mode:99"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --env-kwargs: SpaceInvaders has no mode 99: expected 0-15")
    assert not list(Path().glob("*.mp4"))
