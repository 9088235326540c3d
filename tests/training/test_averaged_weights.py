"""A run that averages its weights: what it learns, judges, keeps and lets others play."""

import contextlib
import shutil

import numpy as np
import pytest
import torch
from support.run_makers import make_run, weights_of

from dqn_zoo import load_agent
from dqn_zoo.algorithms.parallel_q import ParallelQ
from dqn_zoo.algorithms.replay_q import ReplayQ
from dqn_zoo.cli import enjoy, export_sb3
from dqn_zoo.errors import UserError
from dqn_zoo.learning.averaged import EVERY_UPDATES, ONLINE_FILE
from dqn_zoo.networks.network import weights_on_cpu
from dqn_zoo.play.evaluation import evaluate
from dqn_zoo.play.following import Follower
from dqn_zoo.play.session import choose_weights, weights_of_file
from dqn_zoo.play.weights import weights_note
from dqn_zoo.runs.going_back import older_checkpoint, set_aside
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.recipes import load_config, resolve
from dqn_zoo.sharing.agent_files import (
    CONFIG,
    RESULTS,
    WEIGHTS,
    check_agent,
    read_description,
    write_description,
)
from dqn_zoo.sharing.pull import unpack
from dqn_zoo.sharing.verify import _claimed_weights
from dqn_zoo.system.signals import Stop
from dqn_zoo.training.invocation import TrainOptions
from dqn_zoo.training.loop import training_loop
from dqn_zoo.training.preparation import network_sizes
from dqn_zoo.training.starting import resume, train
from dqn_zoo.training.trainer import Trainer

OBSERVATION = np.random.default_rng(0).integers(0, 256, (2, 4, 84, 84), np.uint8)
QUIET = TrainOptions(progress=False)
DECAY = 0.9
COMMON = {
    "n_timesteps": 150, "n_envs": 2, "eval_freq": 140, "eval_episodes": 1, "max_frames": 80,
    "seed": 5, "num_threads": 1, "device": "cpu", "network": "small", "learning_rate": 0.01,
    "save_freq": 80, "precision": "float32",
}  # fmt: skip
REPLAY = {"learning_starts": 50, "buffer_size": 200, "batch_size": 4, "gradient_steps": 3}
PARALLEL = {"rollout_steps": 12, "num_minibatches": 6}
SETTINGS = {"dqn": COMMON | REPLAY, "pqn-laptop": COMMON | PARALLEL}


def config_of(algo: str = "dqn", decay: float = DECAY, **changes) -> Config:
    overrides = SETTINGS[algo] | {"averaged_weights": decay} | changes
    return resolve(env="Breakout", algo=algo, overrides=overrides).config


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    """A run with an evaluation at 140 and checkpoints at 80 and 150."""
    return train(config_of(), log_folder=tmp_path_factory.mktemp("whole"), options=QUIET).run


@pytest.fixture
def run(whole, tmp_path) -> Run:
    return Run(shutil.copytree(whole.path, tmp_path / "dqn" / whole.path.name))


class NoDuties:
    def perform(self):
        pass

    def note_games(self, games):
        pass


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def trained(config: Config, on_learned=lambda algorithm: None) -> ReplayQ | ParallelQ:
    """Return the algorithm at the end of a run without duties."""
    with contextlib.closing(Trainer(config)) as trainer:
        trainer.start()
        algorithm, learn = trainer.algorithm, trainer.algorithm.learn

        def learn_and_tell():
            learn()
            on_learned(algorithm)

        algorithm.learn = learn_and_tell
        training_loop(trainer, NoDuties(), Stop(None), until_steps=config.n_timesteps)
        algorithm.learn()
    return algorithm


@pytest.mark.parametrize("algo", list(SETTINGS))
def test_the_weights_that_learn_know_nothing_of_their_average(algo):
    averages, plain = (trained(config_of(algo, decay)) for decay in (DECAY, 0.0))
    learned = weights_on_cpu(plain.network)
    assert averages.updates == plain.updates > 4 * EVERY_UPDATES
    assert same(weights_on_cpu(averages.played.online.weights), learned)
    assert not same(weights_on_cpu(averages.network), learned)


def test_the_average_is_that_of_a_slow_twin():
    looks = []

    def look(algorithm):  # 3 updates at a time: the count passes a multiple of 8 or it does not
        if algorithm.updates // EVERY_UPDATES > len(looks):
            looks.append(weights_on_cpu(algorithm.played.online.weights))

    average = weights_on_cpu(trained(config_of(), look).network)
    shares = [DECAY ** (EVERY_UPDATES * age) for age in range(len(looks))][::-1]
    assert len(looks) == 9
    for name, value in average.items():
        expected = sum(share * one[name] for share, one in zip(shares, looks, strict=True))
        torch.testing.assert_close(value, expected / sum(shares), rtol=1e-4, atol=1e-6)


def test_evaluations_judge_the_average_and_so_it_is_the_best_model(tmp_path, monkeypatch):
    played = []

    def spy(q_values, **settings):
        played.append(q_values(OBSERVATION))
        return evaluate(q_values, **settings)

    monkeypatch.setattr("dqn_zoo.training.trainer.evaluate", spy)
    run = train(config_of(), log_folder=tmp_path, options=QUIET).run
    [values] = played
    assert (values == load_agent(run.path).q_values(OBSERVATION)).all()
    assert not (values == load_agent(run.path, "last").q_values(OBSERVATION)).all()
    note = weights_note(run.best_model_file)
    assert (note["weights"], note["steps"]) == ("averaged", 140)


@pytest.mark.parametrize(("eval_freq", "judged"), [(112, False), (140, True)])
def test_the_first_weights_are_never_the_best_model(tmp_path, eval_freq, judged):
    """The average takes them until the eighth update; see `EVERY_UPDATES`."""
    config = config_of(
        learning_starts=96, gradient_steps=1, eval_freq=eval_freq, n_timesteps=eval_freq
    )
    run = train(config, log_folder=tmp_path, options=QUIET).run
    assert run.best_model_file.exists() == judged


def test_averaging_is_neither_begun_nor_ended_by_a_resume(run):
    config = load_config(run.config_file)
    for decay in (0.0, 0.99):
        changed = config.model_copy(update={"averaged_weights": decay})
        with pytest.raises(UserError, match=f"averaged_weights is {decay} now and was 0.9 when"):
            resume(run, changed, options=TrainOptions(progress=False, until_steps=300))


@pytest.mark.parametrize(
    ("choice", "kind", "file", "name"),
    [
        ("default", None, "best_model.safetensors", "averaged best model"),
        ("default", "averaged", "best_model.safetensors", "averaged best model"),
        ("default", "online", ONLINE_FILE, "online last model"),
        ("last", None, "model.safetensors", "averaged last model"),
        ("last", "online", ONLINE_FILE, "online last model"),
        (80, None, "step_000000080/model.safetensors", "averaged checkpoint of step 80"),
        (80, "online", f"step_000000080/{ONLINE_FILE}", "online checkpoint of step 80"),
        ("last_checkpoint", "online", f"000150/{ONLINE_FILE}", "online checkpoint of step 150"),
    ],
)
def test_last_best_averaged_and_online_weights_can_be_played(run, choice, kind, file, name):
    weights = choose_weights(run, choice, kind)
    assert weights.file.as_posix().endswith(file)
    assert weights.name == name
    if isinstance(choice, str) and "checkpoint" not in choice:
        assert weights_of_file(run, weights.file) == weights
        assert _claimed_weights(run, weights.sha256) == weights.file


def test_an_agent_of_either_kind_is_loaded(run):
    def values(which, kind=None):
        return load_agent(run.path, which, weights=kind).q_values(OBSERVATION).tolist()

    assert values("last") == values("last", "averaged") != values("last", "online")
    assert values("last", "online") == values("best", "online"), "no evaluation chose among them"
    assert values(80) == values(80, "averaged") != values(80, "online")


def test_a_run_is_followed_by_its_average(run):
    follower = Follower(run, load_config(run.config_file), device="cpu", on_wait=lambda: None)
    assert follower.weights.name == "averaged newest weights"


def test_a_kind_that_is_not_there_is_refused_in_one_line(run, tmp_path, capsys):
    plain = make_run(tmp_path / "plain", network="small")
    plain.model_file.write_bytes(weights_of(1, 3_000, load_config(plain.config_file)))
    assert choose_weights(plain, "default", "online").name == "last model"
    run.online_model_file.unlink()  # as after a pull
    for main, flags, said in (
        (enjoy.main, ["--run", str(plain.path), "--weights", "averaged"], "no averaged weights"),
        (export_sb3.main, [str(plain.path), "--weights", "averaged"], "no averaged weights"),
        (enjoy.main, ["--run", str(run.path), "--weights", "online"], "averaged weights only"),
        (
            enjoy.main,
            ["--run", str(run.path), "--weights", "online", "--load-best"],
            "chose among averaged weights: --load-last and",
        ),
        (enjoy.main, ["--run", str(run.path), "--weights", "online", "--follow"], "out --weights"),
    ):
        assert main(flags) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert said in line


def test_damaged_online_weights_come_back_from_the_checkpoint(run):
    # As of a run that was killed: after the last checkpoint an ended one makes its last updates.
    intact = (run.checkpoint(150) / ONLINE_FILE).read_bytes()
    run.online_model_file.write_bytes(intact[:-9] + bytes(9))
    with pytest.warns(UserWarning, match=rf"{ONLINE_FILE} was damaged .* again as in checkpoints"):
        load_agent(run.path, "last", weights="online")
    assert run.online_model_file.read_bytes() == intact


def test_a_downloaded_agent_says_which_weights_it_holds(run, tmp_path):
    (tmp_path / "hub").mkdir()
    files = {name: tmp_path / "hub" / name for name in (WEIGHTS, RESULTS)}
    shutil.copy(run.best_model_file, files[WEIGHTS])
    files[RESULTS].write_text('{"mean_reward": 1.0, "std_reward": 0.0, "n_eval_episodes": 2}')
    config = load_config(run.config_file)
    write_description(tmp_path / "hub", config, files=files, num_actions=4, training={"steps": 140})
    described = read_description(tmp_path / "hub" / CONFIG)
    assert described.config.averaged_weights == DECAY
    agent = check_agent(described, weights=files[WEIGHTS], results=files[RESULTS])
    pulled = unpack(agent, {"repo": "a/b"}, score=None, log_folder=tmp_path, command=["dqn-pull"])
    assert choose_weights(pulled, "default").name == "averaged last model"
    values = [load_agent(each.path).q_values(OBSERVATION).tolist() for each in (pulled, run)]
    assert values[0] == values[1]
    with pytest.raises(UserError, match="averaged weights only"):
        choose_weights(pulled, "default", "online")


@pytest.mark.parametrize("was_killed", [False, True])
def test_a_run_that_goes_back_has_both_kinds_of_then(run, was_killed):
    newest = run.online_model_file.read_bytes()
    if was_killed:  # once what came later was put aside
        set_aside(run, older_checkpoint(run, 80))
    soon = TrainOptions(progress=False, time_limit_s=0.01)
    resume(run, load_config(run.config_file), from_step=80, options=soon)
    assert (run.path / "set_aside" / "1" / f"old_{ONLINE_FILE}").read_bytes() == newest
    assert run.checkpoint_steps() == [80]
    for file in (run.model_file, run.online_model_file):
        assert file.read_bytes() == (run.checkpoint(80) / file.name).read_bytes()


def test_the_file_says_which_weights_it_holds_where_there_are_two_kinds(run, tmp_path):
    assert run.online_model_file.name == ONLINE_FILE
    assert weights_note(run.model_file)["weights"] == "averaged"
    assert weights_note(run.online_model_file)["weights"] == "online"
    with contextlib.closing(Trainer(config_of(decay=0.0))) as trainer:
        trainer.write_weights(Run(tmp_path))
    assert not Run(tmp_path).online_model_file.exists()
    note = weights_note(Run(tmp_path).model_file)
    assert note.keys() == {"env", "algo", "protocol", "steps", "sha256"}


def test_the_average_takes_the_memory_of_one_more_network():
    with_, without = (network_sizes(config_of(decay=decay))[0] for decay in (DECAY, 0.0))
    assert with_ == without * 6 // 5


def test_given_weights_play_before_the_first_update():
    with contextlib.closing(Trainer(config_of())) as trainer:
        weights = {n: w + 1.0 for n, w in weights_on_cpu(trainer.algorithm.network).items()}
        trainer.take_weights(weights, trainer.envs.num_actions)
        assert same(weights_on_cpu(trainer.algorithm.network), weights)
