"""Agents that come with the package: how they get there, and how dqn-enjoy offers them."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import ship_agent
from safetensors.numpy import load_file
from support.run_makers import make_run, weights_of

from dqn_zoo import load_agent
from dqn_zoo.cli import push
from dqn_zoo.cli.enjoy import main
from dqn_zoo.errors import UserError
from dqn_zoo.play.weights import weights_note
from dqn_zoo.runs.finding import find_run
from dqn_zoo.runs.manifest import read_manifest
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.sharing import pretrained
from dqn_zoo.sharing.agent_files import CONFIG, WEIGHTS
from dqn_zoo.sharing.pretrained import list_pretrained, unpack_pretrained

PLAY = ["--num-threads", "1", "--no-render", "--episodes", "2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Run:
    run = make_run(tmp_path_factory.mktemp("trained"), network="small", max_frames=500)
    run.model_file.write_bytes(weights_of(1, 3_000, load_config(run.config_file)))
    return run


@pytest.fixture(scope="module")
def shipped(trained, tmp_path_factory) -> Path:
    """A package with one agent, put there by the script."""
    folder = tmp_path_factory.mktemp("package")
    argv, sys.argv = sys.argv, ["ship_agent", str(trained.path), "--to", str(folder)]
    sys.argv += ["--episodes", "3"]
    try:
        assert ship_agent.main() == 0
    finally:
        sys.argv = argv
    return folder


@pytest.fixture
def package(shipped, monkeypatch) -> Path:
    monkeypatch.setattr(pretrained, "PRETRAINED", shipped)
    return shipped


def test_weights_are_halved_and_the_score_is_that_of_the_halved_ones(package, trained):
    folder = package / "Breakout"
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "model.safetensors", "results.json"}  # fmt: skip
    halved, whole = load_file(folder / "model.safetensors"), load_file(trained.model_file)
    for name, value in whole.items():
        assert halved[name].dtype == np.float16
        np.testing.assert_allclose(halved[name], value, atol=1e-4, rtol=1e-3)
    results = json.loads((folder / "results.json").read_text())
    described = json.loads((folder / "config.json").read_text())
    assert results["weights"]["sha256"] == described["files"]["model.safetensors"]["sha256"]
    assert results["n_eval_episodes"] == 3
    [agent] = list_pretrained()
    score = f"{results['mean_reward']:.2f} +/- {results['std_reward']:.2f}"
    assert agent[1:] == ("Breakout", "dqn", 3_000, score, 3, "zoo, epsilon 0.01")


def test_the_curve_of_a_training_is_thinned_up_to_its_last_row(tmp_path):
    run, curve = Run(tmp_path / "dqn" / "Breakout_1"), tmp_path / "curve.csv"
    run.path.mkdir(parents=True)
    rows = [f"{step},{'' if step == 1 else step / 3}" for step in range(1, 252)]
    run.progress_file.write_text("\n".join(["steps,return_mean", *rows]) + "\n")
    ship_agent.write_curve(run, curve)
    lines = curve.read_text().splitlines()  # of 250 known means every third
    assert (lines[0], lines[1], lines[-1]) == ("steps,return_mean", "2,0.67", "251,83.67")
    assert len(lines) == 1 + 84
    run.progress_file.unlink()
    ship_agent.write_curve(run, curve)
    assert not curve.exists()


def test_without_a_run_the_agent_of_the_package_plays_and_says_what_it_is(
    package, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    logs = Path("logs")
    assert main(["--env", "Breakout", *PLAY]) == 0
    printed = capsys.readouterr().out
    assert f"no run of Breakout in {logs}: an agent that comes with dqn_zoo, recipe dqn" in printed
    assert "in 3 games, protocol zoo, epsilon 0.01" in printed
    assert "played         2 games of Breakout" in printed
    run = find_run(logs)
    assert read_manifest(run)["origin"]["pretrained"] == "Breakout"
    assert main(["--env", "Breakout", "-f", str(logs), *PLAY]) == 0
    assert "comes with dqn_zoo" not in capsys.readouterr().out
    assert main(["--env", "Breakout", "--pretrained", "-f", str(logs), *PLAY]) == 0
    assert "an agent that comes with dqn_zoo" in capsys.readouterr().out
    assert [path.name for path in (logs / "pretrained").iterdir()] == ["Breakout_1"]
    assert not (logs / "dqn").exists()  # the number 1 there is for the user's own


ZIP = "dqn/BreakoutNoFrameskip-v4_1/BreakoutNoFrameskip-v4.zip"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["-f", "log"], "no run of Breakout in log; there is no such folder, did you mean logs?"),
        (["-f", "logs/dqn"], "that holds the runs of one recipe, the folder above it is meant"),
        (["-f", "logs/dqn/Pong_1"], "that is a run itself: give it with --run logs/dqn/Pong_1"),
        (["-f", "deep"], "in deep; the runs are below it: -f deep/logs"),
        (["-f", "zoo"], f"an agent of Stable-Baselines3 is there: dqn-import zoo/{ZIP} takes it"),
        (["-f", "logs"], "no run of Breakout in logs; start one with"),
        (["--algo", "c51"], "no run of Breakout by c51 in logs"),
        (["--run", "Breakout_3"], "no run 'Breakout_3' in logs"),
        (["-f", "zoo", "--pretrained"], "zoo holds something else, and the agent gets a folder"),
        (["-f", "logs/dqn", "--pretrained"], "logs/dqn holds something else"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_place_that_was_named_is_not_replaced_by_the_package(
    package, tmp_path, monkeypatch, capsys, flags, said
):
    monkeypatch.chdir(tmp_path)
    make_run(Path("logs"), "Pong")
    make_run(Path("deep/logs"), "Pong")
    file = Path("zoo", ZIP)
    file.parent.mkdir(parents=True)
    file.touch()
    before = sorted(Path().rglob("*"))
    assert main(["--env", "Breakout", *flags, *PLAY]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line
    if "--pretrained" not in flags:
        folder = " -f FOLDER" if flags[0] == "-f" and flags[1] not in ("log", "logs") else ""
        assert f"; dqn-enjoy --env Breakout --pretrained{folder} plays the agent" in line
    assert sorted(Path().rglob("*")) == before


def test_an_agent_of_another_library_in_the_usual_place_is_not_passed_over(
    package, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    make_run(Path("logs"), "Pong")
    file = Path("logs", ZIP)
    file.parent.mkdir(parents=True)
    file.touch()
    assert main(["--env", "Breakout", *PLAY]) == 2
    assert f"dqn-import {file} takes it" in capsys.readouterr().err
    assert [path.name for path in Path("logs").iterdir()] == ["dqn"]
    assert find_run(Path("logs")).name == "Pong_1"  # RL-Zoo's folder is no run of ours


def test_an_agent_of_the_package_is_not_pushed_as_ones_own(package, tmp_path, capsys):
    [agent] = list_pretrained()
    run = unpack_pretrained(agent, log_folder=tmp_path, command=["dqn-enjoy"])
    for flags in (["--env", "Breakout"], ["--run", str(run.path)]):
        assert push.main([*flags, "--dry-run", "-f", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert f"{run.path} came with dqn_zoo, it is not yours to publish: train an" in error
    assert not (run.path / "hub").exists()


def test_an_agent_that_was_watched_does_not_become_the_latest_run(package, tmp_path):
    own = make_run(tmp_path)
    [agent] = list_pretrained()
    fetched = unpack_pretrained(agent, log_folder=tmp_path, command=["dqn-enjoy"])
    os.utime(own.manifest_file, (0, 0))
    assert find_run(tmp_path).path == find_run(tmp_path, game="Breakout").path == own.path
    assert find_run(tmp_path, run="Breakout_1").path == own.path
    assert find_run(tmp_path, run="pretrained/Breakout_1").path == fetched.path


def test_it_is_an_agent_like_any_other(package, tmp_path):
    [agent] = list_pretrained()
    run = unpack_pretrained(agent, log_folder=tmp_path, command=["dqn-enjoy"])
    observation = np.random.default_rng(1).integers(0, 256, (2, 4, 84, 84), dtype=np.uint8)
    assert load_agent(run.path).q_values(observation).shape == (2, 4)


def test_the_list_names_score_recipe_and_protocol(package, capsys):
    assert main(["--list"]) == 0
    header, row, source, last = capsys.readouterr().out.splitlines()
    [agent] = list_pretrained()
    assert header.split() == ["game", "recipe", "steps", "score", "games", "random", "human",
                              "RL-Zoo", "protocol"]  # fmt: skip
    assert row.split() == ["Breakout", "dqn", "3,000", *agent.score.split(), "3", "1.7", "30.5",
                           "358.3", "zoo,", "epsilon", "0.01"]  # fmt: skip
    assert source == "RL-Zoo: its DQN after 10,000,000 steps, protocol zoo"
    assert last == "watch one: dqn-enjoy --pretrained --env GAME"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--env", "Pong", "--pretrained"],
            "no agent for Pong comes with dqn_zoo; there are: Brea",
        ),
        (["--env", "Pong"], "; dqn_zoo has agents of its own for: Breakout"),
        (["--env", "Breakout", "--algo", "c51"], "no run of Breakout by c51 in "),
        (["--pretrained"], "--pretrained needs --env GAME"),
        (["--env", "Breakout", "--pretrained", "--algo", "dqn"], "leave out --algo"),
        (["--hub", "ann/dqn", "--pretrained"], "leave out --pretrained"),
    ],
)
def test_what_is_not_there_is_one_line(package, tmp_path, capsys, flags, said):
    assert main([*flags, "-f", str(tmp_path / "logs"), *PLAY]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "logs").exists()


def test_a_damaged_installation_is_refused_and_nothing_is_left(
    shipped, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "package" / "Breakout"
    folder.mkdir(parents=True)
    for path in (shipped / "Breakout").iterdir():
        content = bytearray(path.read_bytes())
        if path.name == "model.safetensors":
            content[-1] ^= 1
        (folder / path.name).write_bytes(content)
    monkeypatch.setattr(pretrained, "PRETRAINED", folder.parent)
    monkeypatch.chdir(tmp_path)
    assert main(["--env", "Breakout", *PLAY]) == 2
    assert "SHA-256 differs" in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


# --- The real ones


def test_the_agents_of_this_package_are_small_whole_and_well_measured(tmp_path):
    agents = list_pretrained()
    assert "SpaceInvaders" in [agent.game for agent in agents]
    for agent in agents:
        assert agent.folder.name == agent.game
        assert agent.num_games >= 100
        assert sum(path.stat().st_size for path in agent.folder.iterdir()) <= 4 * 2**20
        run = unpack_pretrained(agent, log_folder=tmp_path, command=["dqn-enjoy"])
        observation = np.zeros((1, 4, 84, 84), np.uint8)
        assert np.isfinite(load_agent(run.path).q_values(observation)).all()


def test_an_agent_of_the_package_is_loaded_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("pretrained/Breakout", Path("pretrained/breakout")):
        agent = load_agent(name)
        assert (agent.config.env, agent.num_actions) == ("Breakout", 4)
    assert not list(tmp_path.iterdir())
    with pytest.raises(
        UserError, match=r"no agent for Tennis comes with dqn_zoo; there are: [A-Z]"
    ):
        load_agent("pretrained/Tennis")
    with pytest.raises(UserError, match="did you mean Pong"):
        load_agent("pretrained/Pon")
    with pytest.raises(UserError, match="holds one set of weights"):
        load_agent("pretrained/Pong", which="last")


def test_agents_whose_weights_are_averaged_say_so():
    for agent in list_pretrained():
        decay = json.loads((agent.folder / CONFIG).read_text())["config"].get("averaged_weights", 0)
        kind = weights_note(agent.folder / WEIGHTS).get("weights")
        assert (kind == "averaged") == (decay > 0), agent.game
