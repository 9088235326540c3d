"""Recipes as files: where they are, and what their blocks say about one game.

A recipe is a YAML file in RL-Zoo's form: an `atari:` block, then blocks per game, keyed by any
spelling of its name, that override single keys. A file without blocks counts as one `atari:` block;
such are a run's config.yml and the one that RL-Zoo keeps of a training.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from dqn_zoo.errors import UserError, short
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.games import GAMES, parse_game
from dqn_zoo.settings.rl_zoo_keys import RL_ZOO_KEYS, is_from_rl_zoo, translate, with_calls_marked
from dqn_zoo.settings.yaml_reader import Entry, read_entries
from dqn_zoo.system import shell

Layer = dict[str, Entry]

ATARI = "atari"
RECIPES_OF_DEVICES = {"cpu": "laptop", "cuda": "gpu", "mps": "laptop"}
"""What a run takes that names no recipe; RL-Zoo's values are `dqn`."""

LOCAL_FOLDER = Path("hyperparams")
_ARGS = "args.yml"


class Block(NamedTuple):
    """A block of a recipe.

    Attributes:
        key: as the file spells it.
        about: "atari", or a game's name.
        origin: file and line.
        entries: not yet translated or checked.
    """

    key: str
    about: str
    origin: str
    entries: Layer


class FileLayer(NamedTuple):
    """What a recipe sets for a game.

    Attributes:
        layer: ours, by key.
        from_rl_zoo: what applies was written for RL-Zoo.
        notes: for the user, a line each.
        warnings: as well.
    """

    layer: Layer
    from_rl_zoo: bool
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """A recipe as read.

    Attributes:
        name: what messages call the file.
        blocks: for all Atari games, or for one.
        others: blocks of environments that are no Atari games.
        slips: what is wrong with the names of other blocks.
        may_name_run: its `atari:` block may set env and algo.
    """

    name: str
    blocks: tuple[Block, ...]
    others: tuple[str, ...]
    slips: tuple[str, ...]
    may_name_run: bool

    def entry(self, key: str) -> Entry | None:
        """Return what the `atari:` block says of a key."""
        return next((block.entries.get(key) for block in self.blocks if block.about == ATARI), None)

    def layer(self, game: str, *, spelling: str) -> FileLayer:
        """Return what the file sets for `game`, its block over `atari`.

        Keys are ours; values are as they were read. Of several blocks for the game the one is read
        that has the spelling which the user has for it.

        Raises:
            UserError: no block applies, or several, or a key of RL-Zoo's cannot be had here.
        """
        applicable = self._applicable(game, spelling)
        layer: Layer = {}
        no_effect: list[str] = []
        for block in applicable:
            if not (self.may_name_run and block.about == ATARI):
                refuse_run_names(block.entries)
            entries, without_effect = translate(block.entries)
            layer |= entries
            no_effect += without_effect
        if self.others:
            no_effect.append("blocks of other environments: " + ", ".join(self.others))
        notes = [f"{self.name}: no effect here: {'; '.join(no_effect)}"] if no_effect else []
        from_rl_zoo = any(is_from_rl_zoo(block.entries) for block in applicable)
        if from_rl_zoo:
            layer = with_calls_marked(layer)
        unread = [
            f"{block.origin}: {block.key} is not read, but the block that spells {game} as you do"
            for block in self.blocks
            if block.about == game and block not in applicable
        ]
        return FileLayer(layer, from_rl_zoo, tuple(notes), (*self.slips, *unread))

    def _applicable(self, game: str, spelling: str) -> list[Block]:
        of_all = [block for block in self.blocks if block.about == ATARI]
        of_game = [block for block in self.blocks if block.about == game]
        if len(of_game) > 1:
            second = of_game[1]
            of_game = [block for block in of_game if block.key == spelling]
            if not of_game:
                raise UserError(
                    f"{second.origin}: {second.key} is the second block for {game}: keep one, or "
                    "call the game as one of them does"
                )
        if not of_all and not of_game:
            found = ", ".join([*(block.key for block in self.blocks), *self.others])
            expected = f"{self.name}: expected a block 'atari:' or '{game}:', got "
            raise UserError(self.slips[0] if self.slips else expected + (found or "an empty file"))
        return of_all + of_game


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
    raise UserError(
        f"unknown algorithm {short(algo)}: {hint}there are {', '.join(sorted(recipes))}"
    )


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

    With `may_name_run` its `atari:` block may set env and algo, as files of --print-config do.

    Raises:
        UserError: not readable, or a setting outside of a block.
    """
    _refuse_what_is_no_recipe(path, name)
    entries = read_entries(path, name=name)
    if _is_flat(entries):
        plain = {key: entry._replace(value=_plain(entry.value)) for key, entry in entries.items()}
        if may_name_run and is_from_rl_zoo(plain) and path.name == "config.yml":
            plain = _said_at_start(path) | plain
        entries = {ATARI: Entry(plain, f"{name}, line 1")}
    blocks, unknown = [], []
    for key, entry in entries.items():
        value, origin = entry.value, entry.origin
        if key in Config.model_fields or not isinstance(value, dict | None):
            raise UserError(
                f"{origin}: {key} stands outside of a block: put it under 'atari:' or a game"
            )
        about = _block_about(key)
        if about is None:
            unknown.append((key, origin))
        else:
            blocks.append(Block(key, about, origin, value or {}))
    others, slips = [], []
    for key, origin in unknown:
        near = _nearest_block(key)
        if near is None or any(block.about == near for block in blocks):
            others.append(key)
        else:
            slips.append(f"{origin}: unknown block {short(key)}; did you mean {near}?")
    return RecipeFile(name, tuple(blocks), tuple(others), tuple(slips), may_name_run)


def refuse_run_names(layer: Layer) -> None:
    """Refuse env and algo where they come too late: the blocks were chosen by them.

    Raises:
        UserError: one of them is set.
    """
    for key in ("env", "algo"):
        if key in layer:
            raise UserError(f"{layer[key].origin}: {key} cannot be set here; --{key} sets it")


def _refuse_what_is_no_recipe(path: Path, name: str) -> None:
    if path.suffix == ".py":
        raise UserError(f"{name}: expected a YAML file; a Python file would have to be run")
    if path.suffix == ".zip":
        raise UserError(
            f"{name} holds weights, not settings: {shell.command('dqn-import', path)} makes a run "
            "of an agent of Stable-Baselines3, whose config.yml is such a file"
        )
    settings = path.parent / "config.yml"
    if path.name == _ARGS and settings.is_file():
        raise UserError(
            f"{name} is what RL-Zoo was started with: -c {shell.quoted(settings)} takes the "
            "settings that it used, and the game with them"
        )
    inside = sorted([*path.glob("config.yml"), *path.glob("*/config.yml")])
    if inside:
        raise UserError(f"{name} is a folder: its settings are in {shell.quoted(inside[0])}")


def _is_flat(entries: Mapping[str, Entry]) -> bool:
    """Return whether a file holds settings, and no blocks of them."""
    mappings = {key for key, entry in entries.items() if isinstance(entry.value, dict)}
    return mappings <= RL_ZOO_KEYS and any(key in Config.model_fields for key in entries)


def _plain(value: Any) -> Any:
    """Return a value without the lines of what is in it."""
    return {key: entry.value for key, entry in value.items()} if isinstance(value, dict) else value


def _said_at_start(path: Path) -> Layer:
    """Return what RL-Zoo keeps of its command line beside the settings of a training.

    Files of RL-Zoo that lie elsewhere have other names, and folders that are called otherwise.
    """
    file = path.with_name(_ARGS)
    if not file.is_file():
        folder = path.absolute().parent.name
        is_game = _block_about(folder) not in (ATARI, None)
        return {"env": Entry(folder, "the name of its folder")} if is_game else {}
    said = read_entries(file, name=str(file))
    return {
        key: said[key]._replace(value=_plain(said[key].value))
        for key in ("env", "algo", "env_kwargs")
        if key in said and said[key].value is not None
    }


def _block_about(key: str) -> str | None:
    """Return "atari", a game's name, or None for what is neither."""
    if key == ATARI:
        return key
    try:
        return parse_game(key).game
    except UserError:
        return None


def _nearest_block(key: str) -> str | None:
    """Return a name so near that `key` is a slip, not another environment (CartPole, Acrobot)."""
    bare = re.sub(r"^ALE[/-]|(NoFrameskip|Deterministic)?(-v\d+)?$", "", key)
    folded = {name.lower(): name for name in (ATARI, *GAMES)}
    near = get_close_matches(bare.lower().replace("_", ""), folded, n=1, cutoff=0.8)
    return folded[near[0]] if near else None
