"""Imports point one way: from room to room in one order, and never around a circle."""

import ast
import functools
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import dqn_zoo

PACKAGE = Path(dqn_zoo.__file__).parent

# A room may import those above it. Files at the top of the package import none.
ROOMS = (
    "system",
    "settings",
    "envs",
    "replay",
    "networks",
    "learning",
    "algorithms",
    "runs",
    "play",
    "training",
    "sharing",
    "exchange",
    "experiments",
    "watching",
    "cli",
)
# These stand side by side: each could be left out without the next.
STRANGERS = {"exchange": {"sharing"}, "experiments": {"sharing", "exchange"}}


@functools.cache
def modules() -> dict[str, Path]:
    """Return the files of the package by name, such as `replay.memory`."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in PACKAGE.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }


@functools.cache
def imports_of(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, `TYPE_CHECKING` ones left out."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    known, found = modules(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dqn_zoo"):
            module = str(node.module).removeprefix("dqn_zoo").removeprefix(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".removeprefix(".")
                found.add(inner if inner in known else module)
    return found - {""}


def room_of(module: str) -> str:
    return module.split(".")[0] if "." in module else ""


def test_every_room_has_its_place_and_says_what_lives_there():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ROOMS)
    for room in ROOMS:
        assert ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())), room


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_a_room_imports_only_rooms_above_it(room):
    above = set(ROOMS[: ROOMS.index(room)]) if room else set()
    allowed = {"", room} | above - STRANGERS.get(room, set())
    wrong = [
        f"{name} imports {other}"
        for name, path in modules().items()
        if room_of(name) == room
        for other in imports_of(path)
        if room_of(other) not in allowed
    ]
    assert wrong == []


def test_no_two_modules_import_each_other_on_whatever_way():
    graph = {name: imports_of(path) - {name} for name, path in modules().items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_config_knows_nothing_of_the_project_but_its_errors():
    assert imports_of(PACKAGE / "settings" / "config.py") <= {"errors"}


def test_the_names_of_variants_in_the_config_are_those_that_exist():
    from typing import get_args

    from dqn_zoo.learning.losses import BOOTSTRAPS, LOSSES
    from dqn_zoo.learning.optimizers import OPTIMIZERS
    from dqn_zoo.networks.network import TORSOS
    from dqn_zoo.replay.samplers import SAMPLERS
    from dqn_zoo.settings.config import Config
    from dqn_zoo.settings.protocols import PROTOCOLS

    for key, variants in {
        "protocol": PROTOCOLS,
        "network": TORSOS,
        "loss": LOSSES,
        "bootstrap": BOOTSTRAPS,
        "replay": SAMPLERS,
        "optimizer": OPTIMIZERS,
    }.items():
        assert set(get_args(Config.model_fields[key].annotation)) == set(variants), key
