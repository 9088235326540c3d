"""Recipes as files: where they are, and what their blocks say about one game.

A recipe is a YAML file in RL-Zoo's form: an `atari:` block, then blocks per game, keyed by any
spelling of its name, that override single keys. A file without blocks counts as one `atari:` block.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from dqn_zoo.errors import UserError
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.games import GAMES, parse_game
from dqn_zoo.settings.rl_zoo_keys import is_from_rl_zoo, translate, with_calls_marked
from dqn_zoo.settings.yaml_reader import Entry, read_entries

Layer = dict[str, Entry]

ATARI = "atari"
LOCAL_FOLDER = Path("hyperparams")


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """A recipe as read: entries by block, the block "atari" or a game's name.

    Attributes:
        name: what messages call the file.
        blocks: entries, not yet translated or checked.
        others: blocks of environments that are no Atari games.
    """

    name: str
    blocks: dict[str, Layer]
    others: tuple[str, ...]

    def layer(self, game: str) -> tuple[Layer, tuple[str, ...]]:
        """Return what the file sets for `game`, its block over `atari`, and notes for the user.

        Keys are ours; values are as they were read.

        Raises:
            UserError: no block applies, or a key of RL-Zoo's cannot be had here.
        """
        applicable = [self.blocks[block] for block in (ATARI, game) if block in self.blocks]
        if not applicable:
            found = ", ".join([*self.blocks, *self.others]) or "an empty file"
            raise UserError(f"{self.name}: expected a block 'atari:' or '{game}:', got {found}")
        layer: Layer = {}
        no_effect: list[str] = []
        for block in applicable:
            entries, without_effect = translate(block)
            layer |= entries
            no_effect += without_effect
        if self.others:
            no_effect.append("blocks of other environments: " + ", ".join(self.others))
        notes = [f"{self.name}: no effect here: {'; '.join(no_effect)}"] if no_effect else []
        return with_calls_marked(layer) if self.is_from_rl_zoo(game) else layer, tuple(notes)

    def is_from_rl_zoo(self, game: str) -> bool:
        """Return whether what applies to `game` was written for RL-Zoo."""
        return any(is_from_rl_zoo(self.blocks.get(block, {})) for block in (ATARI, game))


def find_recipe(algo: str) -> Path:
    """Return the file of a recipe: hyperparams/ALGO.yml of the working folder, else the packaged.

    Raises:
        UserError: no such recipe, with the nearest name and the list.
    """
    recipes = available_recipes()
    if algo in recipes:
        return recipes[algo]
    near = get_close_matches(algo, recipes, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    if algo.endswith((".yml", ".yaml")) or "/" in algo:
        hint = "a file is given with -c; "
    raise UserError(f"unknown algorithm {algo!r}: {hint}there are {', '.join(sorted(recipes))}")


def available_recipes() -> dict[str, Path]:
    """Return the recipes by name; those of the working folder hide packaged ones."""
    folders = (packaged_folder(), LOCAL_FOLDER)
    files = (path for folder in folders for path in sorted(folder.glob("*.yml")))
    # Editors leave locks and copies: .#dqn.yml, ._dqn.yml.
    return {path.stem: path for path in files if path.is_file() and path.name[0] != "."}


def describe_recipe(path: Path) -> str:
    """Return what the first line of a recipe, a comment, says about it."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        line = file.readline().strip()
    return line.removeprefix("#").strip() if line.startswith("#") else ""


def packaged_folder() -> Path:
    """Return the folder of the packaged recipes: in the package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "hyperparams"
    return installed if installed.is_dir() else package.parent / "hyperparams"


def read_recipe(path: Path, *, name: str, may_name_run: bool = False) -> RecipeFile:
    """Read a recipe and sort its blocks.

    Args:
        path: the file.
        name: what to call it in messages.
        may_name_run: its `atari:` block may set env and algo, as files of --print-config do.

    Raises:
        UserError: not readable, a setting outside of a block, two blocks for one game.
    """
    if path.suffix == ".py":
        raise UserError(f"{name}: expected a YAML file; a Python file would have to be run")
    entries = read_entries(path, name=name)
    if not any(isinstance(entry.value, dict) for entry in entries.values()):
        flat = any(key in Config.model_fields for key in entries)
        entries = {ATARI: Entry(entries, f"{name}, line 1")} if flat else entries
    blocks: dict[str, Layer] = {}
    others = []
    for key, entry in entries.items():
        value, origin = entry.value, entry.origin
        if key in Config.model_fields or not isinstance(value, dict | None):
            raise UserError(
                f"{origin}: {key} stands outside of a block: put it under 'atari:' or a game"
            )
        block = _block_name(key, origin)
        if block is None:
            others.append(key)
            continue
        if block in blocks:
            raise UserError(f"{origin}: {key} is the second block for {block}; keep one")
        blocks[block] = value or {}
        if not (may_name_run and block == ATARI):
            refuse_run_names(blocks[block])
    return RecipeFile(name, blocks, tuple(others))


def refuse_run_names(layer: Layer) -> None:
    """Refuse env and algo where they come too late: the blocks were chosen by them.

    Raises:
        UserError: one of them is set.
    """
    for key in ("env", "algo"):
        if key in layer:
            raise UserError(f"{layer[key].origin}: {key} cannot be set here; --{key} sets it")


def _block_name(key: str, origin: str) -> str | None:
    """Return "atari", a game's name, or None for an environment that is no Atari game."""
    if key == ATARI:
        return key
    try:
        return parse_game(key).game
    except UserError:
        bare = re.sub(r"^ALE/|(NoFrameskip|Deterministic)?(-v\d+)?$", "", key)
        near = _nearest_block(bare, [ATARI, *GAMES])
        if near is not None:
            raise UserError(f"{origin}: unknown block {key!r}; did you mean {near}?") from None
        return None


def _nearest_block(key: str, names: Iterable[str]) -> str | None:
    """Return a name so near that `key` is a slip, not another environment (CartPole, Acrobot)."""
    folded = {name.lower(): name for name in names}
    near = get_close_matches(key.lower().replace("_", ""), folded, n=1, cutoff=0.8)
    return folded[near[0]] if near else None
