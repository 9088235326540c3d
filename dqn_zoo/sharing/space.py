"""A Space of the Hub on which anybody watches an agent play: its folder, complete in itself.

    README.md            what the Hub reads of it: sdk, port, title
    Dockerfile           installs the wheel and serves the page
    dqn_zoo_...whl       this package, as it made the Space
    agents/NAME/         config.json and model.safetensors

Docker is not needed to make one; `dqn-push` serves the folder with the wheel that is in it.
"""

import base64
import hashlib
import importlib.metadata
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

import dqn_zoo
from dqn_zoo.errors import UserError
from dqn_zoo.runs.manifest import Origin
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.recipe_files import packaged_folder
from dqn_zoo.sharing.agent_files import CARD, CONFIG, WEIGHTS

DISTRIBUTION = "dqn-zoo-atari"
AGENTS, DOCKERFILE = "agents", "Dockerfile"
PORT = 7860
"""On which the Hub looks for the page of a Space."""

SUFFIXES = {".css", ".csv", ".html", ".js", ".json", ".py", ".safetensors", ".svg", ".txt", ".yml"}
"""Of the files that a wheel of this package has."""

SERVE = ("--visitors", "4", "--no-browser")
"""Flags of `dqn-watch`; behind them come host and port."""

_CARD = """---
title: {title}
emoji: \U0001f579
colorFrom: green
colorTo: gray
sdk: docker
app_port: {port}
{license}pinned: false
tags:
- deep-reinforcement-learning
- atari
- dqn-zoo
{models}---

# {title}

An agent of {game} plays, trained by deep Q-learning ({algo}), and shows what it sees and expects.
Take its joystick, rewind, and let it play on from there. Each visitor has a game of their own.

Made by `dqn-push --space` of dqn_zoo {version}, whose wheel is in this repository.
"""

_DOCKERFILE = """# Serves the agents of this folder to visitors; made by `dqn-push --space`.
FROM python:3.13-slim-trixie
RUN apt-get update \\
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0t64 \\
    && rm -rf /var/lib/apt/lists/* \\
    && useradd --create-home --uid 1000 visited
WORKDIR /home/visited/app
COPY {wheel} .
RUN pip install --no-cache-dir "torch=={torch}+cpu" "./{wheel}[watch]" \\
    --extra-index-url https://download.pytorch.org/whl/cpu
COPY agents agents
USER visited
# The Hub says in SPACE_HOST by which name the page is asked for.
CMD {serve} --allow-host "$SPACE_HOST" --agents agents/*
"""


def build_space(
    folder: Path, agent: Path, config: Config, *, repo_id: str, origin: Origin | None
) -> dict[str, Path]:
    """Make the folder of a Space anew, and return its files by their paths in the repository.

    `agent` is a folder with config.json and weights, `origin` where they are from; None: from here.

    Raises:
        UserError: nothing can be written.
    """
    name = f"{config.algo}-{config.env}"
    source = (origin or {}).get("repo")
    try:
        if folder.exists():
            shutil.rmtree(folder)
        place = folder / AGENTS / name
        place.mkdir(parents=True)
        for file in (CONFIG, WEIGHTS):
            shutil.copyfile(agent / file, place / file)
        wheel = build_wheel(folder)
        words = {
            "title": repo_id.split("/")[-1],
            "game": config.env,
            "algo": config.algo,
            "version": dqn_zoo.__version__,
            "port": PORT,
            "license": "license: mit\n" if origin is None else "",  # a stranger's has its own
            "models": f"models:\n- {source}\n" if source else "",
            "wheel": wheel.name,
            "torch": importlib.metadata.version("torch").partition("+")[0],
            # As the container finds it, whatever it is called here.
            "serve": " ".join(["dqn-watch", *SERVE, "--host", "0.0.0.0", "--port", str(PORT)]),
        }
        (folder / CARD).write_text(_CARD.format(**words), encoding="utf-8")
        (folder / DOCKERFILE).write_text(_DOCKERFILE.format(**words), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be written ({error.strerror}): make room"
        ) from error
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in files}


def is_of_a_space(name: str) -> bool:
    """Return whether `build_space` makes a file of this path."""
    return (
        name in (CARD, DOCKERFILE)
        or name.startswith(f"{AGENTS}/")
        or (name.startswith("dqn_zoo_") and name.endswith(".whl"))
    )


def build_wheel(folder: Path) -> Path:
    """Write this package as a wheel, from its files as they are installed.

    Raises:
        UserError: the package is here without what pip knows of it.
    """
    # A checkout that is the working folder has an egg-info, which is not what pip knows.
    known = importlib.metadata.distributions(name=DISTRIBUTION)
    distribution = next((each for each in known if _about(each, "METADATA")), None)
    if distribution is None:
        raise UserError(
            f"{DISTRIBUTION} is not installed here, and a Space needs what pip knows of it: "
            "pip install -e . in the clone"
        )
    stem = f"{DISTRIBUTION.replace('-', '_')}-{distribution.version}"
    about = f"{stem}.dist-info"
    wheel = folder / f"{stem}-py3-none-any.whl"
    rows = []
    with zipfile.ZipFile(wheel, "w") as archive:

        def write(name: str, content: bytes) -> None:
            info = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))  # the same bytes at any time
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)

        for name, content in _contents(distribution, about):
            write(name, content)
            sha256 = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
            rows.append(f"{name},sha256={sha256.decode()},{len(content)}\n")
        record = f"{about}/RECORD"
        write(record, "".join([*rows, f"{record},,\n"]).encode())
    return wheel


def _contents(
    distribution: importlib.metadata.Distribution, about: str
) -> Iterator[tuple[str, bytes]]:
    """Yield the files of the wheel by name: code, data, recipes, and what pip is to know."""
    package = Path(str(resources.files(dqn_zoo)))
    for path in _files(package, ("hyperparams",)):
        yield f"dqn_zoo/{path.relative_to(package).as_posix()}", path.read_bytes()
    recipes = packaged_folder()
    for path in _files(recipes):
        yield f"dqn_zoo/hyperparams/{path.relative_to(recipes).as_posix()}", path.read_bytes()
    for name in ("METADATA", "entry_points.txt", "licenses/LICENSE"):
        if content := _about(distribution, name):
            yield f"{about}/{name}", content
    tag = "Wheel-Version: 1.0\nGenerator: dqn_zoo\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    yield f"{about}/WHEEL", tag.encode()


def _about(distribution: importlib.metadata.Distribution, name: str) -> bytes:
    """Return a file of what pip knows; nothing where it is missing."""
    read = distribution.read_text  # which is UTF-8 everywhere
    return (read(name) or "").encode()


def _files(folder: Path, leave_out: Sequence[str] = ()) -> Iterator[Path]:
    """Yield what belongs to the package: not what an editor or a person has put beside it."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        is_hidden = any(part.startswith((".", "__pycache__")) for part in parts)
        is_ours = path.suffix in SUFFIXES or path.name == "py.typed"
        if path.is_file() and is_ours and not is_hidden and parts[0] not in leave_out:
            yield path
