"""Agents of every recipe load from their run folder alone."""

import numpy as np
import pytest
from support.network_makers import file_bytes

from dqn_zoo import load_agent
from dqn_zoo.algorithms.replay_plan import build_learner
from dqn_zoo.errors import UserError
from dqn_zoo.learning.losses import network_settings
from dqn_zoo.networks.network import QNetwork, build_network
from dqn_zoo.play.weights import weights_bytes
from dqn_zoo.runs.manifest import Setup, write_manifest
from dqn_zoo.runs.run import Run, claim_run
from dqn_zoo.settings import recipe_files
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.recipes import dump_config, resolve

ACTIONS = 5
OBSERVATION = np.random.default_rng(0).integers(0, 256, (3, 4, 84, 84), np.uint8)


def make_run(folder, config: Config, weights: bytes) -> Run:
    run = claim_run(folder, config.algo, game=config.env)
    run.config_file.write_text(dump_config(config))
    run.model_file.write_bytes(weights)
    setup = Setup(device="cpu", num_threads=1, evaluation_threads=2, precision="float32")
    write_manifest(run, setup, command=["dqn-train"], seed=3, protocol={}, until_steps=1)
    return run


def network_of(config: Config) -> QNetwork:
    return build_network(network_settings(config), num_actions=ACTIONS, seed=7)


@pytest.mark.parametrize("algo", sorted(recipe_files.available_recipes()))
def test_an_agent_of_every_recipe_plays_as_its_learner_did(algo, tmp_path):
    config = resolve(
        algo=algo, env="Pong", overrides={"seed": 3, "device": "cpu", "precision": "float32"}
    ).config
    learner = build_learner(config, num_actions=ACTIONS)
    learner.online.noisy_q_values(OBSERVATION)  # leaves noise behind, which is none of the agent's
    weights = weights_bytes(learner.online.weights.state_dict(), {"steps": 1})
    agent = load_agent(make_run(tmp_path, config, weights).path)
    assert agent.num_actions == ACTIONS
    np.testing.assert_array_equal(agent.q_values(OBSERVATION), learner.online.q_values(OBSERVATION))
    np.testing.assert_array_equal(agent.q_values(OBSERVATION), agent.q_values(OBSERVATION))
    assert len(np.unique(agent.q_values(OBSERVATION))) == 3 * ACTIONS


@pytest.mark.parametrize(
    ("of_weights", "of_run"),
    [
        (Config(), Config(dueling=True)),
        (Config(), Config(noisy_sigma=0.5)),
        (Config(loss="c51"), Config(loss="c51", num_atoms=21)),
        (Config(), Config(network="small")),
        (Config(loss="iqn"), Config(loss="huber")),
    ],
)
def test_weights_of_another_network_are_refused(of_weights, of_run, tmp_path):
    weights = file_bytes(network_of(of_weights))
    with pytest.raises(UserError, match="does not"):
        load_agent(make_run(tmp_path, of_run, weights).path)


@pytest.mark.parametrize("loss", ["huber", "c51", "qrdqn", "iqn"])
def test_an_outlook_has_the_distribution_that_the_values_are_the_means_of(loss, tmp_path):
    config = Config(env="Pong", loss=loss, network="small")
    agent = load_agent(make_run(tmp_path, config, file_bytes(network_of(config))).path)
    outlook = agent.outlook(OBSERVATION[1])
    np.testing.assert_array_equal(outlook.q_values, agent.q_values(OBSERVATION[1]))
    means = outlook.q_values
    if loss == "c51":
        means = outlook.probabilities @ np.linspace(config.v_min, config.v_max, config.num_atoms)
    elif loss != "huber":
        means = outlook.quantiles.mean(axis=1)
    np.testing.assert_allclose(means, outlook.q_values, rtol=1e-4, atol=1e-6)
    assert (outlook.probabilities is not None) == (loss == "c51")
    assert (outlook.quantiles is not None) == (loss in ("qrdqn", "iqn"))
