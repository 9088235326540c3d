"""An agent as it is published: a few files, and the proof that they are what they say.

    config.json         what rebuilds the agent, how it was trained, size and SHA-256 of every file
    model.safetensors   the weights
    results.json        every game it was judged by

These three are all that is ever read. The others are for people and for the pages of the Hub.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple

from pydantic import Field, with_config
from safetensors import SafetensorError, safe_open
from typing_extensions import TypedDict

from dqn_zoo.errors import UserError, short
from dqn_zoo.play.results_file import read_results
from dqn_zoo.runs.manifest import Training
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.games import GAMES
from dqn_zoo.settings.recipes import settle
from dqn_zoo.settings.yaml_reader import Entry
from dqn_zoo.system.documents import AS_WRITTEN, Count, DocumentError, checked, read_document
from dqn_zoo.system.files import digest, is_portable

FORMAT = 1
"""Version of the layout above; a program refuses files of a newer one."""

LIBRARY = "dqn-zoo"
CONFIG, WEIGHTS, RESULTS = "config.json", "model.safetensors", "results.json"
CARD, FILM, CURVE, SETTINGS = "README.md", "replay.mp4", "learning_curve.png", "config.yml"

LARGEST_BYTES = {CONFIG: 2**20, WEIGHTS: 2**28, RESULTS: 2**24}
"""Of the files that are read; a file that claims to be larger is not even downloaded."""

HARMLESS = {
    ".bib", ".csv", ".gif", ".jpeg", ".jpg", ".json", ".log", ".md", ".mp4", ".pdf", ".png",
    ".safetensors", ".svg", ".txt", ".webm", ".yaml", ".yml",
}  # fmt: skip
"""Endings that no program runs on loading; a repository with any other is refused."""

_KEYS = {"format", "library", "config", "num_actions", "training", "files", "sha256"}
_DTYPES = ("F32", "F16", "BF16")


@with_config(AS_WRITTEN | {"extra": "forbid"})
class FileEntry(TypedDict):
    """What config.json says of another file."""

    size: Count
    sha256: Annotated[str, Field(max_length=64)]


@with_config(AS_WRITTEN)
class _Head(TypedDict):
    """The part of config.json that every version has."""

    format: int
    library: str


class _Document(_Head):
    """config.json."""

    config: dict[str, Any]
    num_actions: Annotated[int, Field(ge=1, le=18)]
    training: Training
    files: dict[str, FileEntry]
    sha256: str


class AgentFiles(NamedTuple):
    """A published agent on this computer, checked.

    Attributes:
        description: content of config.json.
        weights: file of the weights.
        results: file of the games it was judged by.
    """

    description: "Description"
    weights: Path
    results: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What config.json says.

    Attributes:
        config: every setting of the training.
        num_actions: of the game.
        training: how it was trained: steps, seconds, seed, device, machine, versions.
        files: size in bytes and SHA-256 of every file but the card, by name.
    """

    config: Config
    num_actions: int
    training: Training
    files: dict[str, FileEntry]


def is_recipe_name(name: str) -> bool:
    """Return whether a name of a recipe can be a part of a path on any computer."""
    return name.isascii() and is_portable(name)


def check_names(config: Config, where: str) -> None:
    """Refuse what would lead out of the log folder: both names become a part of a path.

    Raises:
        UserError: the game or the recipe has such a name; `where` is the file that says so.
    """
    if config.env not in GAMES or not is_recipe_name(config.algo):
        raise UserError(
            f"{where} names the game {short(config.env)} and the recipe {short(config.algo)}: "
            "not loaded"
        )


def write_description(
    folder: Path,
    config: Config,
    *,
    files: Mapping[str, Path],
    num_actions: int,
    training: Mapping[str, Any],
) -> None:
    """Write config.json, which lists the files but for the card: that one people change."""
    content = {
        "format": FORMAT,
        "library": LIBRARY,
        "config": config.model_dump(mode="json"),
        "num_actions": num_actions,
        "training": dict(training),
        "files": {
            name: {"size": file.stat().st_size, "sha256": digest(file)}
            for name, file in sorted(files.items())
        },
    }
    content["sha256"] = _own_digest(content)
    (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_listing(files: Mapping[str, int | None], *, where: str) -> None:
    """Refuse a repository before anything of it is downloaded.

    Args:
        files: size in bytes by path, as the Hub lists them; None where it does not say it.
        where: what to call the repository in messages.

    Raises:
        UserError: a path that leads elsewhere, a file of a kind that can run code, a file that is
            missing, too large, or of unknown size.
    """
    for name in sorted(files):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            raise UserError(
                f"{where} lists the path {short(name)}, which leads elsewhere: not loaded"
            )
        is_events = path.name.startswith("events.out.tfevents.")
        is_plain = path.suffix.lower() in HARMLESS or path.name in (".gitattributes", "LICENSE")
        if not (is_plain or is_events):
            raise UserError(
                f"{where} holds {short(name)}, which is no file of an agent of {LIBRARY} and may "
                "run code in whoever loads it: not loaded"
            )
    for name, largest in LARGEST_BYTES.items():
        if name not in files:
            raise UserError(
                f"{where} has no {name}: expected {', '.join(LARGEST_BYTES)}, which dqn-push "
                "writes; agents of Stable-Baselines3 are taken by dqn-import"
            )
        check_size(name, files[name], largest, where=where)


def check_size(name: str, size: int | None, largest: int, *, where: str) -> None:
    """Refuse a file by its size in bytes before it is downloaded.

    Raises:
        UserError: it is larger than what is read, or nobody knows how large.
    """
    if size is None:
        raise UserError(f"{where}: the Hub does not say how large {name} is: not loaded")
    if size > largest:
        raise UserError(
            f"{where}: {name} has {size:,} bytes, more than the {largest:,} that are read: "
            "not loaded"
        )


def read_description(path: Path) -> Description:
    """Read config.json; nothing of it is believed before it is checked.

    Raises:
        UserError: not what `write_description` writes, changed since, or of a newer version.
    """
    try:
        content = read_document(path, dict[str, Any], most_bytes=LARGEST_BYTES[CONFIG])
        head = checked(content, _Head, str(path))
    except DocumentError as error:
        raise DocumentError(f"{error}: does not describe an agent of {LIBRARY}") from error
    if head["library"] != LIBRARY:
        raise UserError(f"{path} does not describe an agent of {LIBRARY}: not loaded")
    if head["format"] > FORMAT:
        raise UserError(
            f"{path} has format {head['format']} and this version reads up to {FORMAT}: "
            "update dqn_zoo"
        )
    if content.keys() != _KEYS:
        different = ", ".join(sorted(content.keys() ^ _KEYS))
        raise UserError(f"{path} has other keys than it should ({different[:200]}): not loaded")
    if _own_digest(content) != content["sha256"]:
        raise UserError(f"{path} was changed after it was written (SHA-256 differs): not loaded")
    found = checked(content, _Document, str(path))
    return Description(
        config=settle({key: Entry(value, str(path)) for key, value in found["config"].items()}),
        num_actions=found["num_actions"],
        training=found["training"],
        files=found["files"],
    )


def check_file(description: Description, name: str, path: Path) -> None:
    """Compare a file with what config.json says about it.

    Raises:
        UserError: it is not mentioned there, or has another size or content.
    """
    entry = description.files.get(name)
    if entry is None:
        raise UserError(f"{CONFIG} says nothing of {name}: not loaded")
    size = path.stat().st_size
    if size != entry["size"]:
        raise UserError(f"{path} has {size:,} bytes, {entry['size']:,} were pushed: not loaded")
    if digest(path) != entry["sha256"]:
        raise UserError(f"{path} was changed after it was pushed (SHA-256 differs): not loaded")


def check_agent(description: Description, *, weights: Path, results: Path) -> AgentFiles:
    """Check the two files that config.json describes.

    Raises:
        UserError: one was changed since, or is not what it should be.
    """
    for name, path in ((RESULTS, results), (WEIGHTS, weights)):
        check_file(description, name, path)
    check_weights(description, weights)
    read_results(results)
    return AgentFiles(description, weights, results)


def check_weights(description: Description, path: Path) -> None:
    """Compare names, shapes and types in a weights file with the network, before it is loaded.

    Raises:
        UserError: not safetensors, not the weights of that network, or not finite.
    """
    from dqn_zoo.play.agent import check_shapes  # with PyTorch
    from dqn_zoo.play.weights import parse_weights
    from dqn_zoo.runs.checkpoint import DamagedError

    try:
        with safe_open(path, framework="numpy") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            dtypes = {name: part.get_dtype() for name, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error
    for name, dtype in dtypes.items():
        if dtype not in _DTYPES:
            raise UserError(f"{path}: {name} is {dtype}, expected one of {', '.join(_DTYPES)}")
    found = check_shapes(path, shapes, description.config)
    if found != description.num_actions:
        raise UserError(
            f"{path} decides among {found} actions, {CONFIG} says {description.num_actions}"
        )
    try:
        parse_weights(path.read_bytes())
    except DamagedError as error:
        raise UserError(f"{path} is damaged ({error}): not loaded") from error


def read_agent(folder: Path) -> tuple[Description, Path]:
    """Return what config.json of a folder says, and the weights beside it, checked.

    Raises:
        UserError: one of them is not what it should be.
    """
    description, weights = read_description(folder / CONFIG), folder / WEIGHTS
    check_file(description, WEIGHTS, weights)
    check_weights(description, weights)
    return description, weights


def _own_digest(content: Mapping[str, Any]) -> str:
    signed = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(signed, sort_keys=True).encode()).hexdigest()
