"""Games as Minari data sets, read back by Minari."""

import contextlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from support.run_makers import make_run, weights_of

from dqn_zoo.cli.enjoy import main
from dqn_zoo.exchange import minari_games
from dqn_zoo.exchange.minari_games import MinariGames
from dqn_zoo.play.evaluation import Turn, enjoy_seeds, play
from dqn_zoo.play.session import Session, choose_weights
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.sharing.loading import load_agent

NAME = "breakout/dqn-v0"


@pytest.fixture
def run(tmp_path) -> Run:
    run = make_run(tmp_path / "logs", network="small", max_frames=400)
    run.model_file.write_bytes(weights_of(3, 100, load_config(run.config_file)))
    return run


@pytest.mark.minari
def test_games_are_kept_as_the_agent_played_them(run, tmp_path, monkeypatch, capsys):
    minari = pytest.importorskip("minari", reason="needs the extra minari")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setattr(minari_games, "CHUNK_STEPS", 32)  # games of several, and not of whole ones
    flags = ["--run", str(run.path), "--episodes", "3", "--epsilon", "0.2", "--no-render"]
    assert main([*flags, "--minari", NAME]) == 0
    said = capsys.readouterr().out
    results = json.loads(max(run.path.glob("**/results*.json")).read_text())
    games = minari.load_dataset(NAME)
    assert games.total_episodes == 3
    agent, config = load_agent(run.path), load_config(run.config_file)
    with contextlib.closing(turns_of(run, num_games=3)) as turns:
        for episode, seed, result in zip(games, enjoy_seeds(0, 3), results["games"], strict=True):
            number = result["length_steps"]
            assert episode.observations.shape == (number + 1, 4, 84, 84)
            assert episode.observations.dtype == np.uint8
            for step in range(number):  # played again
                turn = next(turns)
                assert np.array_equal(episode.observations[step], turn.observation[0])
                assert episode.actions[step] == turn.step.action[0]
                assert episode.rewards[step] == turn.step.reward[0]
                assert episode.infos["life_lost"][step + 1] == turn.step.life_lost[0]
            assert np.array_equal(episode.observations[number], turn.step.next_observation[0])
            ends = [bool(flag) for flag in episode.terminations | episode.truncations]
            assert ends == [False] * (number - 1) + [True]
            assert episode.truncations[-1] == result["truncated"]
            assert episode.rewards.sum() == result["score"]
            greedy = agent.q_values(episode.observations[:-1]).argmax(axis=1)
            assert (greedy == episode.actions).mean() > 0.5
            [notes] = games.storage.get_episode_metadata([episode.id])
            assert (notes["seed"], notes["score"]) == (seed, result["score"])
            assert notes["total_steps"] == number
    about = games.storage.metadata
    assert about["env"] == "Breakout"
    assert about["protocol"]["name"] == config.protocol
    assert (about["epsilon"], about["learned_from"]) == (0.2, "the sign of the reward")
    assert about["weights_sha256"] == results["weights"]["sha256"]
    size = sum(file.stat().st_size for file in Path(NAME).rglob("*.*")) / 1e6
    assert f"data set: 3 games, {games.total_steps:,} steps, {size:.1f} MB; next: minari." in said
    # A tenth of the pixels at most: neighbours share three of four frames.
    assert size < 0.1 * games.total_steps * 4 * 84 * 84 / 1e6
    # Nothing is overwritten.
    assert main([*flags, "--minari", NAME]) == 2
    assert f"error: --minari {NAME} exists: " in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["breakout", "logs"]


def session_of(run: Run, num_games: int) -> Session:
    config = load_config(run.config_file).model_copy(update={"eval_epsilon": 0.2})
    return Session(
        run=run, weights=choose_weights(run, "default"), config=config, seed=0,
        num_games=num_games, max_steps=None, num_envs=1, num_threads=1, device="cpu",
        has_window=False, is_filmed=False,
    )  # fmt: skip


def turns_of(run: Run, num_games: int):
    session = session_of(run, num_games)
    return play(
        load_agent(run.path).q_values, game="Breakout", settings=session.settings,
        seeds=session.seeds(),
    )  # fmt: skip


@pytest.mark.minari
def test_a_game_that_was_interrupted_is_left_out(run, tmp_path, monkeypatch):
    minari = pytest.importorskip("minari", reason="needs the extra minari")
    monkeypatch.setattr(minari_games, "CHUNK_STEPS", 8)
    for game, folder in ((0, tmp_path / "dropped"), (1, tmp_path / "kept")):
        kept = MinariGames(folder, session_of(run, 2), num_actions=4)
        with contextlib.closing(turns_of(run, num_games=2)) as turns:
            for turn in turns:
                kept.take(turn)
                [running] = turn.games.values()
                if (running.index, running.length_steps) == (game, 20):
                    break
        assert not folder.exists()
        assert kept.close() == folder.exists() == (game == 1)
    games = minari.MinariDataset(tmp_path / "kept" / "data")
    assert games.total_episodes == 1
    [episode] = games
    assert games.total_steps == len(episode.actions) == kept.num_steps
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "logs"]


@pytest.mark.minari
def test_a_disk_that_gets_full_costs_no_game_before(run, tmp_path, monkeypatch, capsys):
    minari = pytest.importorskip("minari", reason="needs the extra minari")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(minari_games, "CHUNK_STEPS", 8)
    take = MinariGames.take

    def take_and_fill(games: MinariGames, turn: Turn) -> None:
        take(games, turn)
        if games.num_games == 1:
            monkeypatch.setattr(minari_games, "SPARE_BYTES", 2**62)

    monkeypatch.setattr(MinariGames, "take", take_and_fill)
    assert main(["--run", str(run.path), "--episodes", "3", "--no-render", "--minari", NAME]) == 0
    captured = capsys.readouterr()
    said = "dqn-v0 cannot be written (the disk is nearly full): it ends with game 1"
    assert captured.err.count(said) == 1
    assert "data set: 1 game, " in captured.out
    assert "results: " in captured.out
    offered = captured.out.rpartition("next: ")[2]
    assert eval(offered, {"minari": minari}).total_episodes == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--minari", "a b"], "--minari a b: Minari takes letters"),
        (["--minari", "x", "--n-envs", "2"], "--minari plays one game at a time: leave"),
        (["--minari", "x", "--follow"], "--follow plays the newest weights of a"),
    ],
)  # fmt: skip
def test_a_data_set_that_cannot_be_is_refused(run, monkeypatch, capsys, flags, message):
    for name in ("minari", "h5py"):
        monkeypatch.setitem(sys.modules, name, sys)
    assert main(["--run", str(run.path), "--no-render", *flags]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_without_minari_it_says_what_to_install(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "minari", None)
    folder = tmp_path / "x"
    assert main(["--run", str(run.path), "--no-render", "--minari", str(folder)]) == 2
    assert "error: --minari needs minari: pip install" in capsys.readouterr().err
    assert not folder.exists()
