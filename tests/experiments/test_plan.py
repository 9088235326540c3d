"""The plan of a sweep: what it expands to, what it refuses, and that it means the same later."""

import json

import pytest

from dqn_zoo.errors import UserError
from dqn_zoo.experiments.plan import (
    GAME_SETS,
    Job,
    Plan,
    Sweep,
    Variant,
    dump_plan,
    make_plan,
    read_plan,
)
from dqn_zoo.settings.games import SCORES
from dqn_zoo.settings.recipes import resolve

DQN = Variant("dqn", "dqn", {})
GREEDY = Variant("greedy", "laptop", {"bootstrap": "greedy"})


def plan_of(**changes) -> Plan:
    values = {"games": ["pong", "Breakout"], "num_seeds": 2, "variants": [DQN], "settings": {}}
    return make_plan(**(values | changes))


def test_a_plan_has_a_job_for_every_seed_game_and_variant_and_first_seeds_first():
    names = [job.name for job in plan_of(variants=[DQN, GREEDY]).jobs()]
    assert names == [
        "dqn/Pong_1", "greedy/Pong_1", "dqn/Breakout_1", "greedy/Breakout_1",
        "dqn/Pong_2", "greedy/Pong_2", "dqn/Breakout_2", "greedy/Breakout_2",
    ]  # fmt: skip


def test_sets_of_games_are_those_of_the_literature():
    assert len(GAME_SETS["atari-57"]) == 57
    assert set(GAME_SETS["atari-3"]) < set(GAME_SETS["atari-5"]) < set(SCORES)
    assert plan_of(games=["Atari-5", "Pong"]).games == (*GAME_SETS["atari-5"], "Pong")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"games": ["Pong", "ALE/Pong-v5"]}, "game Pong is in the plan twice; leave one out"),
        ({"games": ["atari-3", "phoenix"]}, "game Phoenix is in the plan twice; leave one out"),
        ({"games": []}, "a plan needs at least one game"),
        ({"games": ["Pogn"]}, "unknown game 'Pogn'"),
        ({"num_seeds": 0}, "a plan needs at least one seed"),
        ({"variants": [DQN, DQN]}, "variant dqn is in the plan twice; leave one out"),
        ({"variants": []}, "a plan needs at least one variant"),
        ({"variants": [Variant("a/b", "dqn", {})]}, "variant 'a/b' becomes the name of a folder"),
        ({"variants": [Variant("..", "dqn", {})]}, "variant '..' becomes the name of a folder"),
        ({"variants": [Variant("x", "dqm", {})]}, "unknown algorithm 'dqm': did you mean dqn?"),
        ({"settings": {"gama": 1}}, "variant dqn: unknown key 'gama'; did you mean gamma?"),
        ({"settings": {"seed": 3}}, "the seeds of a plan are its own: leave the setting seed out"),
        ({"episodes": 0}, "episodes must be a whole number of at least 1, got 0"),
        (
            {"settings": {"n_timesteps": 100}},
            "learning_starts",
        ),
    ],
)
def test_a_plan_that_cannot_run_is_refused_before_anything_starts(changes, message, tmp_path):
    folder = tmp_path / "sweep"
    with pytest.raises(UserError) as raised:
        Sweep.new(folder, plan_of(**changes), {})
    assert message in str(raised.value)
    assert not folder.exists()


def test_a_plan_read_again_is_the_same(tmp_path):
    plan = plan_of(
        games=["ALE/Pong-v5", "Breakout"],
        variants=[DQN, GREEDY, Variant("1.5", "dqn", {"crop": [0, 4, 0, 0]})],
        settings={"learning_rate": "lin_1e-4", "n_timesteps": 200_000, "clip_reward": False},
        episodes=7,
    )
    file = tmp_path / "plan.yml"
    file.write_text(dump_plan(plan))
    assert read_plan(file) == plan


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("games: [Pong]\nseeds: [1]\n", "is no plan of dqn-bench: variants missing"),
        ("games: Pong\nseeds: [1]\nvariants: {dqn: }\n", "line 1: expected a list, got 'Pong'"),
        ("games: [Pong]\nseeds: [a]\nvariants: {dqn: }\n", "line 2: expected a list"),
        ("games: [Pong]\nseeds: [0]\nvariants: {dqn: }\n", "whole numbers from 1 to 4,294,967,295"),
        ("games: [Pong]\nseeds: [4294967296]\nvariants: {dqn: }\n", "got 4294967296"),
        ("games: [Pong]\nseeds: [true]\nvariants: {dqn: }\n", "seeds of a plan are whole numbers"),
        ("games: [Pong]\nseeds: [1]\nepisodes: true\nvariants: {dqn: }\n", "episodes must be"),
        ("games: [Pong]\nseeds: [1]\nvariants: dqn\n", "line 3: expected 'name: ...' lines"),
        ("games: [Pong]\nseeds: [1]\nvariants: {dqn: 3}\n", "expected settings like {algo: dqn}"),
        ("game: [Pong]\n", "line 1: expected one of the keys games, seeds"),
    ],
)
def test_a_damaged_plan_names_its_line(tmp_path, text, message):
    file = tmp_path / "plan.yml"
    file.write_text(text)
    with pytest.raises(UserError) as raised:
        read_plan(file)
    assert message in str(raised.value)


def test_a_hand_written_plan_needs_only_names(tmp_path):
    file = tmp_path / "plan.yml"
    file.write_text("games: [pong]\nseeds: [3, 1]\nvariants:\n  dqn:\n  per: {algo: per-dqn}\n")
    plan = read_plan(file)
    assert plan.variants == (DQN, Variant("per", "per-dqn", {}))
    assert plan.jobs()[0] == Job("dqn", "Pong", 3)


def test_the_settings_of_a_job_are_those_of_the_day_of_the_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipes = tmp_path / "hyperparams"
    recipes.mkdir()
    (recipes / "mine.yml").write_text("atari:\n  gamma: 0.5\nPong:\n  gamma: 0.25\n")
    plan = plan_of(variants=[Variant("mine", "mine", {"n_steps": 2}), DQN], settings={"n_envs": 3})
    folder = tmp_path / "sweep"
    Sweep.new(folder, plan, {"num_threads": 1}).write()
    (recipes / "mine.yml").unlink()
    sweep = Sweep.open(folder)
    job = Job("mine", "Pong", 2)
    config = sweep.config(job)
    assert (config.gamma, config.n_steps, config.n_envs, config.num_threads) == (0.25, 2, 3, 1)
    assert (config.algo, config.env, config.seed) == ("mine", "Pong", 2)
    assert sweep.config(Job("mine", "Breakout", 1)).gamma == 0.5
    expected = resolve(env="Pong", algo="dqn", overrides={"n_envs": 3, "num_threads": 1, "seed": 1})
    assert sweep.config(Job("dqn", "Pong", 1)) == expected.config
    assert sweep.run(job).path == folder / "runs" / "mine" / "Pong_2"


def test_a_variants_own_settings_win_and_so_do_those_of_the_plan_over_the_machine(tmp_path):
    variants = [DQN, Variant("fast", "dqn", {"n_envs": 8})]
    settings = {"n_envs": 2, "num_threads": 5}
    sweep = Sweep.new(tmp_path, plan_of(variants=variants, settings=settings), {"num_threads": 1})
    assert [sweep.config(Job(name, "Pong", 1)).n_envs for name in ("dqn", "fast")] == [2, 8]
    assert sweep.config(Job("dqn", "Pong", 1)).num_threads == 5


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(UserError, match="is not empty and holds no plan: name another with -f"):
        Sweep.new(tmp_path, plan_of(), {})
    with pytest.raises(UserError, match="holds no plan: start one with dqn-bench --algos"):
        Sweep.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_nothing_is_written_before_the_sweep_is(tmp_path):
    folder = tmp_path / "sweep"
    sweep = Sweep.new(folder, plan_of(), {})
    assert not folder.exists()
    sweep.write()
    assert json.loads((folder / "plan.yml").read_text().splitlines()[1].split(": ", 1)[1]) == [
        "pong",
        "Breakout",
    ]


def test_a_job_is_found_by_name_and_by_number(tmp_path):
    sweep = Sweep.new(tmp_path / "sweep", plan_of(), {})
    assert sweep.find_job("2") == sweep.find_job("dqn/Breakout_1") == Job("dqn", "Breakout", 1)
    for name in ("0", "5", "dqn/Breakout_3"):
        with pytest.raises(UserError, match=f"no job '{name}': they are numbered 1 to 4 and named"):
            sweep.find_job(name)


def test_what_is_warned_of_before_a_run_is_said_of_a_sweep_once(tmp_path):
    plan = plan_of(settings={"n_timesteps": 1_000_000})
    sweep = Sweep.new(tmp_path / "sweep", plan, {})
    [warning] = sweep.warnings
    assert "epsilon" in warning
    assert len(sweep.notes) == len(set(sweep.notes))
    sweep = Sweep.new(tmp_path / "sweep", plan_of(games=["ALE/Pong-v5"]), {})
    assert any("protocol machado, implied by ALE/Pong-v5" in note for note in sweep.notes)


def test_threads_that_a_recipe_names_are_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hyperparams").mkdir()
    (tmp_path / "hyperparams" / "mine.yml").write_text("atari: {num_threads: 4}\n")
    variants = [DQN, Variant("mine", "mine", {}), Variant("own", "mine", {"num_threads": 2})]
    plan = plan_of(games=["Pong"], variants=variants)
    sweep = Sweep.new(tmp_path / "sweep", plan, {"num_threads": 1})
    threads = {job.variant: sweep.config(job).num_threads for job in plan.jobs()}
    assert threads == {"dqn": 1, "mine": 4, "own": 2}
