"""The loss that docs/algorithms.md adds works as it stands there."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.tiny import (
    CLOSE,
    HARD_VALUES,
    chain_config,
    distance_after_learning,
    random_batch,
    small_network,
)

from dqn_zoo.learning import losses
from dqn_zoo.learning.learner import Learner
from dqn_zoo.learning.losses import GreedyBootstrap, Loss
from dqn_zoo.learning.online_network import OptimizerSettings
from dqn_zoo.networks.heads import HeadSettings, build_head
from dqn_zoo.networks.shapes import count_actions
from dqn_zoo.settings.config import Config

DOCS = Path(__file__).parents[2] / "docs" / "algorithms.md"


@pytest.fixture
def example():
    """Run the example in the namespace of losses.py, as if it were written there."""
    code = re.search(r"## Adding a member.*?```python\n(.*?)```", DOCS.read_text(), re.DOTALL)[1]
    assert sum(bool(line.strip()) for line in code.splitlines()) < 40
    namespace = vars(losses) | {"LOSSES": dict(losses.LOSSES)}
    exec(code, namespace)
    return SimpleNamespace(**namespace)


def hl_gauss_config(bootstrap: str = "greedy") -> Config:
    """Return C51's settings on the chain; the new loss has the same head."""
    return chain_config("c51", bootstrap)


def learner_of(loss: Loss) -> Learner:
    network = small_network(hl_gauss_config(), gain=1.0)
    optimizer = OptimizerSettings("adam", 1e-5, 10.0)
    return Learner(network, loss, optimizer, seed=0, bfloat16=False)


@pytest.mark.parametrize("bootstrap", ["greedy", "double"])
def test_the_loss_of_the_docs_solves_the_chain(example, bootstrap):
    loss = example.LOSSES["hl_gauss"].from_config(Config(bootstrap=bootstrap))
    assert distance_after_learning(loss, hl_gauss_config(), HARD_VALUES) < CLOSE


def test_an_agent_with_the_loss_of_the_docs_loads_from_its_weights(example):
    settings = HeadSettings(kind=example.LOSSES["hl_gauss"].head, num_atoms=31)
    head = build_head(settings, feature_size=8, hidden_size=16, num_actions=6)
    shapes = {f"head.{name}": value.shape for name, value in head.state_dict().items()}
    assert count_actions(settings, shapes) == 6


def test_the_histogram_of_the_docs_has_the_mean_of_its_target(example):
    """On terminal rows the target is the reward, so the best prediction's mean is known."""
    batch = random_batch()
    batch = batch._replace(
        reward=batch.reward.clamp(-0.5, 1.5), discount=torch.zeros_like(batch.discount)
    )
    learner = learner_of(example.GaussianHistogramLoss(bootstrap=GreedyBootstrap()))
    for _ in range(800):
        learner.update(batch, 1e-2)
    values = learner.online.weights.q_values(batch.observation)
    predicted = values[torch.arange(len(batch.action)), batch.action]
    assert torch.allclose(predicted, batch.reward, atol=0.03)
