"""Small networks, heads and learners for the tests of networks and heads."""

import torch
from safetensors.torch import save
from torch import Tensor, nn

from dqn_zoo.learning import value_learning
from dqn_zoo.learning.bootstraps import DoubleBootstrap
from dqn_zoo.learning.learner import Learner
from dqn_zoo.learning.losses import LOSSES, Loss, TDLoss
from dqn_zoo.learning.online_network import OptimizerSettings
from dqn_zoo.networks.heads import HeadSettings, build_head
from dqn_zoo.networks.network import NetworkSettings, QNetwork, build_network
from dqn_zoo.replay.memory import Batch

KINDS = ("huber", "c51", "qrdqn", "iqn")
NUM_OUTPUTS = {"huber": 1, "squared": 1, "c51": 3, "qrdqn": 5, "iqn": 1}  # of `tiny_head`
TD = TDLoss(bootstrap=DoubleBootstrap(), penalty=value_learning.squared)
ADAM = OptimizerSettings("adam", 1e-8, 10.0)
BTR = {
    "torso": "impala", "pool_size": 6, "spectral_norm": True, "loss": "iqn", "dueling": True,
    "noisy_sigma": 0.5,
}  # fmt: skip


def network_settings(torso: str = "small", *, loss: str = "huber", **options) -> NetworkSettings:
    """Sort options by whether they belong to the torso, to the head or to both."""
    names = {"frame_stack", "width", "pool_size", "layer_norm", "spectral_norm"}
    of_torso = {name: value for name, value in options.items() if name in names}
    of_head = {n: value for n, value in options.items() if n not in names or n == "layer_norm"}
    head = HeadSettings(kind=LOSSES[loss].head, **of_head)
    return NetworkSettings(torso=torso, head=head, **{"frame_stack": 4} | of_torso)


def build(torso: str = "small", *, num_actions: int = 6, seed: int = 0, **options) -> QNetwork:
    return build_network(network_settings(torso, **options), num_actions=num_actions, seed=seed)


def tiny_head(loss: str, *, seed: int = 0, **options) -> nn.Module:
    """Build a head for 6 features and 3 actions; every size is a different number."""
    settings = HeadSettings(
        kind=LOSSES[loss].head, num_atoms=3, v_min=-2.0, v_max=4.0, num_quantiles=5,
        num_acting_quantiles=4, num_cosines=7, **options,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_head(settings, feature_size=6, hidden_size=16, num_actions=3).eval()


def tiny_network(loss: str = "huber", **options) -> QNetwork:
    """Return a network for frames [batch, 1, 2, 3] whose features are its six pixels."""
    return QNetwork(nn.Flatten(), tiny_head(loss, **options)).eval()


def make_learner(
    network: QNetwork, loss: Loss = TD, *, seed: int = 0, bfloat16: bool = False
) -> Learner:
    return Learner(network, loss, ADAM, seed=seed, bfloat16=bfloat16)


def random_frames(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def random_features(batch_size: int = 4) -> Tensor:
    return torch.randn(batch_size, 6, generator=torch.Generator().manual_seed(9))


def file_bytes(network: nn.Module) -> bytes:
    """Return the weights as a safetensors file, which takes contiguous tensors only."""
    return save({name: value.contiguous() for name, value in network.state_dict().items()})


def random_batch(*shape: int, seed: int = 1) -> Batch:
    size = shape[0]
    return Batch(
        observation=random_frames(*shape, seed=seed),
        action=torch.arange(size) % 3,
        reward=torch.linspace(-1.0, 2.0, size),
        discount=torch.full((size,), 0.9),
        next_observation=random_frames(*shape, seed=seed + 1),
        weight=torch.linspace(0.5, 1.0, size),
        rows=torch.arange(size),
    )


def scramble_norms(module: nn.Module) -> None:
    """Make scales and shifts of norms differ; the initial ones and zeros would hide them."""
    norms = [m for m in module.modules() if isinstance(m, (nn.GroupNorm, nn.LayerNorm))]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 2.0, generator=generator)
            norm.bias.uniform_(-1.0, 1.0, generator=generator)


def same_tensors(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def set_outputs(stream: nn.Module, outputs: list) -> None:
    """Let a stream give the same outputs whatever it sees."""
    with torch.no_grad():
        stream.output.weight.zero_()
        stream.output.bias.copy_(torch.tensor(outputs).flatten())
