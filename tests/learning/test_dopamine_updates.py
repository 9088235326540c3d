"""Updates beside Dopamine's own: equal weights and minibatches give equal losses and steps.

dopamine_updates.json is what scripts/peers/dopamine_updates.py printed: there Dopamine's functions
computed the losses, the gradients and the targets, and optax took the steps.
"""

import json
from pathlib import Path

import pytest
import torch
from support.tiny import small_config
from torch import nn

from dqn_zoo.learning.learner import Learner
from dqn_zoo.learning.losses import build_loss, network_settings
from dqn_zoo.learning.online_network import OptimizerSettings
from dqn_zoo.networks.heads import build_head
from dqn_zoo.networks.network import QNetwork
from dqn_zoo.replay.memory import Batch

THEIRS = json.loads(Path(__file__).with_name("dopamine_updates.json").read_text())


def learner_with_their_weights(loss_name: str) -> Learner:
    config = small_config(
        loss_name,
        huber_kappa=THEIRS["kappa"],
        num_quantiles=THEIRS["num_outputs"],
        num_atoms=THEIRS["num_outputs"],
        v_min=-THEIRS["v_max"],
        v_max=THEIRS["v_max"],
    )
    layers = THEIRS[loss_name]["first_weights"]
    torso = nn.Sequential(nn.Flatten(), nn.Linear(6, 16), nn.ReLU())
    head = build_head(network_settings(config).head, feature_size=16, hidden_size=16, num_actions=3)
    network = QNetwork(torso, head).eval()
    parameters = [torch.tensor(layer[kind]) for layer in layers for kind in ("weight", "bias")]
    for mine, theirs in zip(network.parameters(), parameters, strict=True):
        mine.data.copy_(theirs)
    optimizer = OptimizerSettings("adam", THEIRS["epsilon"], None)
    return Learner(network, build_loss(config), optimizer, seed=0, bfloat16=False)


def their_minibatch(columns: dict[str, list]) -> Batch:
    rows = len(columns["action"])
    observation, next_observation = (
        torch.tensor(columns[key], dtype=torch.uint8).view(rows, 1, 2, 3)
        for key in ("observation", "next_observation")
    )
    return Batch(
        observation=observation,
        action=torch.tensor(columns["action"]),
        reward=torch.tensor(columns["reward"]),
        discount=THEIRS["discount"] * (1.0 - torch.tensor(columns["terminal"]).float()),
        next_observation=next_observation,
        weight=torch.ones(rows),
        rows=torch.arange(rows),
    )


@pytest.mark.parametrize("loss_name", ["huber", "c51", "qrdqn"])
def test_updates_equal_those_of_dopamine(loss_name):
    learner, theirs = learner_with_their_weights(loss_name), THEIRS[loss_name]
    for update, columns in enumerate(THEIRS["minibatches"]):
        if update % THEIRS["copy_every"] == 0:
            learner.sync_target()
        priorities = learner.update(their_minibatch(columns), THEIRS["rate"])
        losses = torch.tensor(theirs["losses"][update])
        mean_loss = learner.online.take_metrics()["loss"]
        assert mean_loss == pytest.approx(losses.mean().item(), rel=1e-4)
        if loss_name == "qrdqn":  # the others' priorities are not their losses
            torch.testing.assert_close(priorities, losses, rtol=1e-4, atol=1e-6)
    biases = [value for name, value in learner.online.weights.named_parameters() if "bias" in name]
    for mine, last in zip(biases, theirs["last_biases"], strict=True):
        torch.testing.assert_close(mine.data, torch.tensor(last), rtol=1e-4, atol=1e-6)
