"""Shapes of networks, without the memory that their numbers would take."""

import subprocess
import sys

import pytest
import torch

from dqn_zoo.learning.losses import network_settings
from dqn_zoo.networks.network import build_network
from dqn_zoo.networks.shapes import network_of_shapes
from dqn_zoo.settings.recipe_files import available_recipes
from dqn_zoo.settings.recipes import resolve


@pytest.mark.parametrize("algo", sorted(available_recipes()))
def test_the_shapes_are_those_of_the_network(algo):
    settings = network_settings(resolve(algo=algo).config)
    state = torch.get_rng_state()
    shapes = network_of_shapes(settings, num_actions=6).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    network = build_network(settings, num_actions=6, seed=0).state_dict()
    assert {name: (value.shape, value.dtype) for name, value in shapes.items()} == {
        name: (value.shape, value.dtype) for name, value in network.items()
    }


def test_a_large_network_takes_no_memory_and_one_beyond_all_tensors_is_refused():
    resource = pytest.importorskip("resource")  # not on Windows
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    settings = network_settings(resolve(algo="dqn").config)
    network = network_of_shapes(settings, num_actions=10**6)  # its last layer alone has 2 GB
    assert network.head.layers.stream.output.weight.shape == (10**6, 512)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB
    with pytest.raises(RuntimeError):
        network_of_shapes(settings, num_actions=10**13)
    with pytest.raises(TypeError):
        network_of_shapes(settings, num_actions=10**20)


def test_the_compiler_is_not_imported_for_the_shapes_of_a_usual_network():
    code = (
        "import sys; from dqn_zoo.settings.recipes import resolve\n"
        "from dqn_zoo.learning.losses import network_settings\n"
        "from dqn_zoo.networks.shapes import network_of_shapes\n"
        "network_of_shapes(network_settings(resolve(algo='laptop').config), num_actions=6)\n"
        "assert not {'torch._dynamo', 'sympy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
