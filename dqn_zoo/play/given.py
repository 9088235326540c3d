"""Weights that a new run is started from, and what is known of the run that they come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dqn_zoo.errors import UserError
from dqn_zoo.learning.losses import LOSSES
from dqn_zoo.play.agent import check_shapes
from dqn_zoo.play.weights import find_weights, load_weights, weights_note
from dqn_zoo.runs.finding import find_run
from dqn_zoo.runs.manifest import read_manifest
from dqn_zoo.runs.run import Run, is_checkpoint
from dqn_zoo.settings.checks import without_effect
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.recipes import StartedFrom, load_config
from dqn_zoo.settings.yaml_reader import as_yaml
from dqn_zoo.system import shell

MOST_LETTERS = 200  # of a word in a manifest


@dataclass(frozen=True, slots=True)
class Given:
    """Weights that a run is started from.

    Attributes:
        file: that holds them.
        source: what they say of themselves: the settings of their run, else what their header has.
    """

    file: Path
    source: StartedFrom


def find_given(path: Path, log_folder: Path) -> Given:
    """Find weights, and the run that they come from.

    Args:
        path: a run, by folder or name; a checkpoint; or a file of weights, in a run or on its own.
        log_folder: folder of all runs, for a name.

    Raises:
        UserError: there are no such weights, or their run cannot be read.
    """
    if path.is_file() or path.suffix in (".safetensors", ".zip"):
        return _given_file(path)
    if path.is_dir() and is_checkpoint(path):
        return _given_file(path / Run(path).model_file.name)
    run = find_run(log_folder, run=str(path))
    return _given_by(run, find_weights(run, "best"))


def name_of(given: Given) -> str:
    """Say whose weights they are, without where they lie: a repository, a run, or a file."""
    if given.source.config is None:
        return given.file.name[:MOST_LETTERS]
    run = Run(Path(given.source.name).absolute())
    origin: Mapping[str, object] = read_manifest(run).get("origin") or {}
    name = f"{run.path.parent.name}/{run.path.name}"
    if "repo" in origin:
        name = f"{origin['repo']}@{str(origin.get('commit'))[:8]}"
    return f"{name}, {given.file.name}"[:MOST_LETTERS]


def load_given(given: Given, config: Config) -> tuple[dict[str, Tensor], int]:
    """Read the weights for a run with these settings; return them and the number of actions.

    Raises:
        UserError: they cannot be read, or are not the weights of such a network.
    """
    check_fit(given, config)
    weights = load_weights(given.file)
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    return weights, check_shapes(given.file, shapes, config)


def check_fit(given: Given, config: Config, origins: Mapping[str, str] | None = None) -> None:
    """Compare the network of a run with that of the run that the weights come from.

    Raises:
        UserError: a setting on which the meaning of the weights hangs is another.
    """
    source = given.source.config
    if source is None:  # shapes are all that tells
        return
    theirs, ours = _network(source), _network(config)
    for key, value in theirs.items():
        if ours.get(key, value) != value:
            said, needed = as_yaml(getattr(config, key)), as_yaml(getattr(source, key))
            origin = f" ({origins[key]})" if origins else ""
            raise UserError(
                f"{key} {said}{origin} does not fit the weights of {given.source.name}, whose "
                f"network has {key} {needed}: leave that and --algo out to take the run's own"
            )


def _network(config: Config) -> dict[str, object]:
    """Return the settings that the shapes and the meaning of weights hang on."""
    idle = without_effect(config)
    settings = {key: getattr(config, key) for key in NETWORK_KEYS if key not in idle}
    settings["loss"] = LOSSES[config.loss].head  # several losses share a head
    settings["noisy_sigma"] = config.noisy_sigma is None
    if config.loss == "qrdqn":  # IQN draws as many as it likes
        settings["num_quantiles"] = config.num_quantiles
    return settings


def _given_file(file: Path) -> Given:
    """Return weights by their file: in a run, in a checkpoint of one, or on their own."""
    if not file.is_file():
        raise UserError(f"{file} does not exist; expected a run folder or weights")
    if file.suffix == ".zip":
        raise UserError(
            f"{file} is no file of weights: {shell.command('dqn-import', file)} makes a run of an "
            "agent of Stable-Baselines3; give that"
        )
    folder = file.absolute().parent
    run = Run(folder.parent.parent if is_checkpoint(folder) else file.parent)
    if run.config_file.is_file():
        return _given_by(run, file)
    note = weights_note(file)
    return Given(file, StartedFrom(str(file), env=note.get("env"), algo=note.get("algo")))


def _given_by(run: Run, file: Path) -> Given:
    config = load_config(run.config_file)
    return Given(file, StartedFrom(str(run.path), env=config.env, algo=config.algo, config=config))


NETWORK_KEYS = (
    "network", "frame_stack", "network_width", "network_pool", "layer_norm", "channel_norm",
    "spectral_norm", "dueling", "mean_expansion", "num_atoms", "v_min", "v_max", "num_cosines",
)  # fmt: skip
