"""Let Dopamine's own code take a few updates, and print what came of them.

    python dopamine_updates.py CLONE > ../../tests/learning/dopamine_updates.json

CLONE is a clone of github.com/google/dopamine; jax, flax and optax have to be installed, no more:
of Dopamine only the functions of an update are run. tests/learning/test_dopamine_updates.py takes
the same updates from the same weights, on the same minibatches.
"""

import argparse
import ast
import functools
import itertools
import json
import subprocess
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax

AGENTS = "dopamine/jax/agents"
LOSSES = "dopamine/jax/losses.py"
NUM_UPDATES, COPY_EVERY, NUM_ROWS = 12, 5, 8
NUM_PIXELS, HIDDEN, NUM_ACTIONS, NUM_OUTPUTS = 6, 16, 3, 5
RATE, EPSILON, DISCOUNT, KAPPA, V_MAX = 0.01, 3.125e-4, 0.9, 1.0, 2.0

Output = namedtuple("Output", ["q_values", "logits", "probabilities"])


def first_weights(num_outputs: int) -> list[dict[str, Any]]:
    """Return the [outputs, inputs] and [outputs] of three dense layers, in few digits."""
    draw = np.random.default_rng(num_outputs)
    sizes = [NUM_PIXELS, HIDDEN, HIDDEN, num_outputs]
    return [
        {
            "weight": draw.uniform(-1.0, 1.0, (outputs, inputs)).round(2).tolist(),
            "bias": draw.uniform(-0.1, 0.1, outputs).round(3).tolist(),
        }
        for inputs, outputs in itertools.pairwise(sizes)
    ]


def minibatches() -> list[dict[str, Any]]:
    """Return transitions whose errors lie on both sides of the Huber loss's knee."""
    draw = np.random.default_rng(0)
    return [
        {
            "observation": draw.integers(0, 256, (NUM_ROWS, NUM_PIXELS)).tolist(),
            "action": draw.integers(0, NUM_ACTIONS, NUM_ROWS).tolist(),
            "reward": draw.uniform(-3.0, 3.0, NUM_ROWS).round(2).tolist(),
            "terminal": (draw.random(NUM_ROWS) < 0.25).astype(int).tolist(),
            "next_observation": draw.integers(0, 256, (NUM_ROWS, NUM_PIXELS)).tolist(),
        }
        for _ in range(NUM_UPDATES)
    ]


class Network(flax.linen.Module):
    """Three dense layers, and what Dopamine's agents read of a network."""

    num_outputs: int

    @flax.linen.compact
    def __call__(self, state: Any, support: Any = None) -> Output:
        """Return the output of one row; probabilities count where there is a support."""
        hidden = state.astype(jnp.float32) / 255.0
        for _ in range(2):
            hidden = flax.linen.relu(flax.linen.Dense(HIDDEN)(hidden))
        outputs = flax.linen.Dense(NUM_ACTIONS * self.num_outputs)(hidden)
        logits = outputs.reshape(NUM_ACTIONS, self.num_outputs)
        probabilities = flax.linen.softmax(logits)
        values = logits if support is None else support * probabilities
        mean = jnp.mean if support is None else jnp.sum
        return Output(mean(values, axis=1), logits, probabilities)


def functions(source: str, *names: str, **given: Any) -> SimpleNamespace:
    """Run some of the functions of a file, without what it imports for other ones."""
    wanted = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name in names
    ]
    assert {node.name for node in wanted} == set(names), names
    space = {"functools": functools, "jax": jax, "jnp": jnp, "optax": optax} | given
    for node in wanted:
        # The text, since a function of the same text is what the clone runs.
        text = ast.get_source_segment(source, node)
        decorators = [f"@{ast.get_source_segment(source, item)}" for item in node.decorator_list]
        exec("\n".join([*decorators, str(text)]), space)
    return SimpleNamespace(**{name: space[name] for name in names})


def updates(name: str, code: SimpleNamespace, batches: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the first weights, the losses of every update, and the biases at the end."""
    num_outputs = 1 if name == "huber" else NUM_OUTPUTS
    network = Network(num_outputs)
    layers = first_weights(NUM_ACTIONS * num_outputs)
    parameters: Any = {
        "params": {
            f"Dense_{index}": {
                "kernel": jnp.asarray(layer["weight"]).T,
                "bias": jnp.asarray(layer["bias"]),
            }
            for index, layer in enumerate(layers)
        }
    }
    optimizer = optax.adam(RATE, eps=EPSILON)
    state, target, losses = optimizer.init(parameters), parameters, []
    for update, columns in enumerate(batches):
        if update % COPY_EVERY == 0:
            target = parameters
        batch = {key: jnp.asarray(column) for key, column in columns.items()}
        start = (network, parameters, target, optimizer, state, batch["observation"],
                 batch["action"], batch["next_observation"], batch["reward"],
                 batch["terminal"])  # fmt: skip
        match name:
            case "huber":  # the mean alone is given
                state, parameters, loss = code.train(*start, DISCOUNT, "huber")
            case "c51":
                ones, support = jnp.ones(NUM_ROWS), jnp.linspace(-V_MAX, V_MAX, NUM_OUTPUTS)
                state, parameters, loss, _ = code.train(*start, ones, support, DISCOUNT)
            case "qrdqn":
                state, parameters, loss, _ = code.train(*start, KAPPA, NUM_OUTPUTS, DISCOUNT)
        losses.append(np.asarray(loss).tolist())
    biases = [np.asarray(layer["bias"]).tolist() for layer in parameters["params"].values()]
    return {"first_weights": layers, "losses": losses, "last_biases": biases}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clone", type=Path)
    clone = parser.parse_args().clone

    def git(*arguments: str) -> str:
        return subprocess.check_output(["git", "-C", clone, *arguments], text=True)

    def source(path: str) -> str:
        return git("show", f"HEAD:{path}")

    losses = functions(
        source(LOSSES), "huber_loss", "mse_loss", "softmax_cross_entropy_loss_with_logits",
        nn=flax.linen,
    )  # fmt: skip
    code = {
        "huber": functions(
            source(f"{AGENTS}/dqn/dqn_agent.py"), "train", "target_q", losses=losses
        ),
        "c51": functions(
            source(f"{AGENTS}/rainbow/rainbow_agent.py"),
            "train", "target_distribution", "project_distribution", losses=losses,
        ),
        "qrdqn": functions(
            source(f"{AGENTS}/quantile/quantile_agent.py"), "train", "target_distribution"
        ),
    }  # fmt: skip
    batches = minibatches()
    print(
        json.dumps(
            {
                "commit": git("rev-parse", "HEAD").strip(),
                "versions": {module.__name__: module.__version__ for module in (jax, flax, optax)},
                "rate": RATE,
                "epsilon": EPSILON,
                "discount": DISCOUNT,
                "kappa": KAPPA,
                "v_max": V_MAX,
                "num_outputs": NUM_OUTPUTS,
                "copy_every": COPY_EVERY,
                "minibatches": batches,
                **{name: updates(name, its, batches) for name, its in code.items()},
            }
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
