"""Steps and states are those of PyTorch's classes, which nothing here needs to import."""

import io
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load as load_tensors

from dqn_zoo.learning.optimizers import OPTIMIZERS, read_pickled

EPSILON = 1e-3
CLASSES = {
    "adam": lambda weights: torch.optim.Adam(weights, eps=EPSILON, fused=True),
    "radam": lambda weights: torch.optim.RAdam(weights, eps=EPSILON),
    "rmsprop": lambda weights: torch.optim.RMSprop(weights, alpha=0.95, eps=EPSILON),
}


def make_weights():
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3, 2, 2), (5, 4), (5,)]
    weights = [torch.randn(shape, generator=generator) for shape in shapes]
    weights[0] = weights[0].contiguous(memory_format=torch.channels_last)
    return [weight.requires_grad_() for weight in weights]


def give_gradients(weights, seed):
    generator = torch.Generator().manual_seed(seed)
    for weight in weights:
        weight.grad = torch.empty_like(weight)
        weight.grad.copy_(torch.randn(weight.shape, generator=generator))


def step_side_by_side(ours, our_weights, theirs, their_weights, seeds):
    for seed in seeds:
        give_gradients(our_weights, seed)
        give_gradients(their_weights, seed)
        rate = 0.1 / (1 + seed)
        ours.step(rate)
        for group in theirs.param_groups:
            group["lr"] = rate
        theirs.step()
    assert all(map(torch.equal, our_weights, their_weights))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # The first averages, corrected for their start at zero, are g and g squared.
        ("adam", 1.0 - 0.1 * 0.5 / (0.5 + EPSILON)),
        # Not corrected: the root of 0.05 * 0.5 ** 2.
        ("rmsprop", 1.0 - 0.1 * 0.5 / (0.111803399 + EPSILON)),
    ],
)
def test_the_first_step_by_hand(name, expected):
    weight = torch.ones(1, requires_grad=True)
    weight.grad = torch.tensor([0.5])
    OPTIMIZERS[name]([weight], EPSILON).step(0.1)
    assert weight.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_steps_and_states_have_the_bits_of_the_class(name):
    our_weights, their_weights = make_weights(), make_weights()
    ours, theirs = OPTIMIZERS[name](our_weights, EPSILON), CLASSES[name](their_weights)
    step_side_by_side(ours, our_weights, theirs, their_weights, range(5))
    assert not any(map(torch.equal, our_weights, make_weights()))
    own, other = ours.state(), theirs.state_dict()["state"]
    assert own.keys() == {f"{index}.{key}" for index, kept in other.items() for key in kept}
    for index, kept in other.items():
        assert all(torch.equal(own[f"{index}.{key}"], value) for key, value in kept.items())


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.parametrize("num_steps", [0, 3])
def test_a_state_that_the_class_has_saved_is_continued(name, num_steps):
    their_weights = make_weights()
    theirs = CLASSES[name](their_weights)
    for seed in range(num_steps):
        give_gradients(their_weights, seed)
        theirs.step()
    state = theirs.state_dict()
    state["param_groups"][0] |= {"capturable": True, "lr": torch.tensor(0.5)}  # as on a GPU
    our_weights = [weight.detach().clone().requires_grad_() for weight in their_weights]
    ours = OPTIMIZERS[name](our_weights, EPSILON)
    saved = io.BytesIO()
    torch.save(state, saved)
    ours.restore(load_tensors(read_pickled(saved.getvalue())))
    theirs.param_groups[0]["capturable"] = False
    step_side_by_side(ours, our_weights, theirs, their_weights, range(3, 6))


def test_a_weight_without_gradient_is_not_passed_over():
    weights = make_weights()
    give_gradients(weights, 0)
    weights[1].grad = None
    with pytest.raises(AssertionError, match="without gradient"):
        OPTIMIZERS["adam"](weights, EPSILON).step(0.1)


def test_training_does_not_import_the_compiler(tmp_path):
    arguments = [
        *("--env", "Pong", "-n", "14", "-f", str(tmp_path), "--no-progress", "--num-threads", "1"),
        *("--set=learning_starts=10", "--set=buffer_size=100", "--set=batch_size=2"),
        *("--set=n_envs=1", "--set=max_frames=100", "--eval-freq=7", "--eval-episodes=1"),
    ]
    program = (
        "import sys\n"
        "from dqn_zoo.cli.train import main\n"
        f"assert main({arguments}) == 0\n"
        "assert 'torch' in sys.modules\n"
        "assert 'torch._dynamo' not in sys.modules, 'it takes a second or more'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
