"""Imports point one way: a stop on the way of a transition knows only the stops before it."""

import ast
from pathlib import Path

import pytest

import dqn_zoo

PACKAGE = Path(dqn_zoo.__file__).parent

# The stops in their order; files on one line belong to one stop and may know each other.
STOPS = [
    ["backends", "backend_vector", "backend_gymnasium", "atari_wrappers", "action_log",
     "env_settings", "envs"],
    ["transitions"],
    ["sampling"],
    ["replay"],
    ["heads"],
    ["networks"],
    ["precision"],
    ["value_learning"],
    ["bootstraps"],
    ["losses"],
    ["cuda_graph", "optimizers"],
    ["learner"],
    ["agent"],
    ["checkpoint"],
    ["evaluation", "video", "results", "enjoy"],
    ["trainer", "preparation", "housekeeping", "training"],
]  # fmt: skip
BESIDE = [
    ["errors"],
    [
        "yaml_reader",
        "seeding",
        "exploration",
        "locking",
        "runs",
        "rates",
        "stopwatch",
        "uploads",
        "score_statistics",
        "html_page",
    ],
    ["config"],
    ["config_checks"],
    ["games", "rl_zoo_keys", "recipe_files", "recipes"],
    ["machine", "manifest", "logfiles", "metrics", "display", "stopping", "learning_curve"],
]


def imports_of(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, `TYPE_CHECKING` ones left out."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "dqn_zoo":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dqn_zoo."):
            found.add(str(node.module).removeprefix("dqn_zoo."))
    return found


def ranks() -> dict[str, int]:
    return {name: rank for rank, names in enumerate(BESIDE + STOPS) for name in names}


def test_every_module_has_a_place():
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert modules == set(ranks())


def test_no_module_imports_a_later_one():
    rank = ranks()
    wrong = [
        f"{path.stem} imports {name}"
        for path in PACKAGE.glob("*.py")
        if path.stem != "__init__"
        for name in imports_of(path)
        if name in rank and rank[name] > rank[path.stem]
    ]
    assert wrong == []


# What each folder beside the line may import of the folders; everything may import the flat files.
FOLDERS = {
    "": set(),
    "exchange": set(),
    "sharing": set(),
    "experiments": set(),
    "cli": {"exchange", "experiments", "sharing"},
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_are_imported_by_nothing_below_them(folder):
    allowed = FOLDERS[folder] | {folder}
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in (PACKAGE / folder).glob("*.py")
        if path != PACKAGE / "__init__.py"
        for name in imports_of(path)
        if "." in name and name.split(".")[0] not in allowed
    ]
    assert wrong == []


def test_every_folder_has_its_place():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(FOLDERS) - {""}


def test_config_knows_nothing_of_the_project_but_its_errors():
    assert imports_of(PACKAGE / "config.py") <= {"errors"}


def test_the_names_of_variants_in_the_config_are_those_that_exist():
    from typing import get_args

    from dqn_zoo.bootstraps import BOOTSTRAPS
    from dqn_zoo.config import Config
    from dqn_zoo.games import PROTOCOLS
    from dqn_zoo.heads import HEADS
    from dqn_zoo.losses import LOSSES
    from dqn_zoo.networks import TORSOS
    from dqn_zoo.optimizers import OPTIMIZERS
    from dqn_zoo.sampling import SAMPLERS

    for key, variants in {
        "protocol": PROTOCOLS,
        "network": TORSOS,
        "loss": LOSSES,
        "bootstrap": BOOTSTRAPS,
        "replay": SAMPLERS,
        "optimizer": OPTIMIZERS,
    }.items():
        assert set(get_args(Config.model_fields[key].annotation)) == set(variants), key
    assert set(HEADS) == set(LOSSES)
