"""From recipes, files and flags to the settings of a run, and from settings to a file.

The layers, each over the one before:

    built-in defaults
    the recipe: its `atari:` block, then its block for the game; or, where weights are given and no
        recipe is named, the settings of the run that the weights come from
    the file given with -c: the same two blocks
    the protocol that the name of the environment implies (NoFrameskip-v4: zoo, ALE/...-v5: machado)
    the command line

They are merged as they were read, validated once, and only then converted: what RL-Zoo counts in
calls depends on n_envs, on which any layer may have the last word. Last, a run too short for its
recipe gets what fits its length: see `short_runs.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dqn_zoo.errors import UserError, short
from dqn_zoo.settings.checks import check, contradictions, warnings, without_effect
from dqn_zoo.settings.config import Config, build_config
from dqn_zoo.settings.games import parse_game
from dqn_zoo.settings.left_out import LeftOut
from dqn_zoo.settings.recipe_files import (
    ATARI,
    LOCAL_FOLDER,
    RECIPES_OF_DEVICES,
    Layer,
    RecipeFile,
    available_recipes,
    find_recipe,
    read_recipe,
    refuse_run_names,
)
from dqn_zoo.settings.rl_zoo_keys import SB3, framework_of, translate
from dqn_zoo.settings.short_runs import fitted
from dqn_zoo.settings.yaml_reader import BUILT_IN, Entry, as_yaml, read_entries

_DEVICES = {
    "cpu": "a machine without a GPU",
    "cuda": "a machine with a GPU",
    "mps": "a machine without a CUDA GPU",
}

CHOSEN_AT_START = ("seed", "device", "num_threads", "precision", "save_freq")
"""Settings that a run may leave open, and that its config.yml holds as they were chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The settings of a run and how they came about.

    Attributes:
        config: every setting.
        sources: where the value of each key came from, in words.
        notes: what was read, changed or left out on the way, one line each.
        warnings: blocks that perhaps were meant to be read, and settings that run but make little
            sense together, one line each.
        recipe_path: the recipe that was read; None: the settings are those of a run.
    """

    config: Config
    sources: dict[str, str]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    recipe_path: Path | None


class StartedFrom(NamedTuple):
    """What is known of the weights that a run is started from.

    Attributes:
        name: what messages call them.
        env: game that they were trained on; None: unknown.
        algo: their recipe; None: unknown.
        config: settings of their run; None: unknown.
    """

    name: str
    env: str | None = None
    algo: str | None = None
    config: Config | None = None


def resolve(
    *,
    env: str | None = None,
    algo: str | None = None,
    conf_file: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    flags: Mapping[str, str] | None = None,
    started_from: StartedFrom | None = None,
    device: str | None = None,
    may_shorten: bool = False,
) -> Resolved:
    """Merge everything that has a say in the settings of a run.

    Args:
        env: any spelling of a game that `parse_game` reads; None: the file's, else that of the
            given weights, else SpaceInvaders.
        algo: name of a recipe; None: the file's, else the settings of the run that the given
            weights come from, else what suits `device`.
        conf_file: YAML whose settings lie over the recipe's; RL-Zoo's own files work.
        overrides: the last word, by key, protocol included.
        flags: the flag that gave each override, to name it in errors and sources.
        started_from: weights that the run begins with.
        device: cpu, cuda or mps, where the run will learn; None: not known, and the recipe is dqn.
        may_shorten: make a run that would end before it learns fit its length, with a note; runs
            that are compared are refused instead.

    Raises:
        UserError: whatever is wrong, with the file, line and key, or the flag.
    """
    given = read_recipe(conf_file, name=str(conf_file), may_name_run=True) if conf_file else None
    source = started_from or StartedFrom("")
    env_entry = _named("env", env, given, source)
    if started_from is not None and env_entry.origin == BUILT_IN:
        raise UserError(f"{started_from.name} does not say which game it plays: add --env")
    name = parse_game(env_entry.value)
    algo_entry, notes = _recipe_name(algo, given, source, device)
    merged, recipe_path, recipe = _lowest_layers(algo_entry, source, given, name.game)
    of_a_run = dict(merged) if recipe is None else {}
    files = [file for file in (recipe, given) if file is not None]
    base = recipe.name if recipe is not None else source.name or str(conf_file)
    names = dict.fromkeys([base, *(file.name for file in files)])
    notes.append(f"settings: {', then '.join(names)}")
    if started_from is not None:
        where = "" if source.env in (None, name.game) else f", trained on {source.env}"
        notes.append(f"begins with the weights of {source.name}{where}")
    read = _merge(files, merged, recipe, algo=algo_entry.value, base=base, env=env_entry.value)
    notes += read.notes
    implied = Entry(name.implied_protocol, f"implied by {env_entry.value}")
    last, of_the_last = _last_layer(overrides or {}, flags or {}, implied, merged)
    notes += of_the_last
    merged |= last | {"env": Entry(name.game, env_entry.origin), "algo": algo_entry}

    config, conversions = _settled(merged)
    notes += conversions
    notes += [note for each in read.left_out for note in each.notes(config, merged)]
    sources = {key: entry.origin for key, entry in merged.items()}
    if may_shorten:
        config, shorter = fitted(config, [of_a_run, *read.layers, last], sources)
        notes += shorter
    _check_with_sources(config, sources)
    _refuse_idle_overrides(config, last)
    return Resolved(
        config=config,
        sources=sources,
        notes=tuple(notes),
        warnings=(*read.warnings, *warnings(config)),
        recipe_path=recipe_path,
    )


def format_config(resolved: Resolved) -> str:
    """Return the settings as YAML that -c takes and that gives the same settings again.

    A comment on every line says where the value came from.
    """
    lines = list(_lines(resolved.config))
    width = max(len(line) for _, line in lines)
    comments = {key: " ".join(source.split()) for key, source in resolved.sources.items()}
    commented = [f"  {line:<{width}}  # {comments[key]}" for key, line in lines]
    header = "# The settings of a run and where each came from; for: dqn-train -c FILE"
    return "\n".join([header, f"{ATARI}:", *commented]) + "\n"


def dump_config(config: Config) -> str:
    """Return the settings as a plain YAML mapping of every key; `load_config` reads it."""
    return "".join(f"{line}\n" for _, line in _lines(config))


def load_config(path: Path) -> Config:
    """Read what `dump_config` wrote.

    A key that a later version added takes its built-in default, which has to mean what the program
    did before the key existed.

    Raises:
        UserError: not readable, an unknown key, a value that is not accepted.
    """
    entries = read_entries(path, name=str(path))
    if "env" not in entries:  # every version has written it
        raise UserError(f"{path} does not say which game it is of: restore it from a backup")
    return settle(entries)


def settle(entries: Mapping[str, Entry]) -> Config:
    """Return the settings that a run has stored; see `load_config`.

    Raises:
        UserError: an unknown key, a value that is not accepted.
    """
    config, _ = _settled(entries)
    check(config)
    return config


def _settled(entries: Mapping[str, Entry]) -> tuple[Config, tuple[str, ...]]:
    """Validate what the layers came to, and convert what could not be before; note the latter."""
    config = build_config(
        {key: entry.value for key, entry in entries.items()},
        {key: entry.origin for key, entry in entries.items()},
    )
    converted: dict[str, object] = {}
    noted: list[str] = []
    for key, entry in entries.items():
        if entry.convert is not None:
            converted[key], notes = entry.convert(config)
            noted += [f"{entry.origin}: {note}" for note in notes]
    return config.model_copy(update=converted), tuple(noted)


def _recipe_name(
    algo: str | None, given: RecipeFile | None, source: StartedFrom, device: str | None
) -> tuple[Entry, list[str]]:
    """Return the recipe: the one that is named, else what suits the device, and a note of that."""
    entry = _named("algo", algo, given, source)
    if entry.origin != BUILT_IN or device is None or given is not None:
        return entry, []
    entry = Entry(RECIPES_OF_DEVICES[device], f"suits {_DEVICES[device]}")
    note = f"the recipe {entry.value} {entry.origin}; --algo takes another, dqn has RL-Zoo's values"
    return entry, [note]


def _lowest_layers(
    algo: Entry, source: StartedFrom, given: RecipeFile | None, game: str
) -> tuple[Layer, Path | None, RecipeFile | None]:
    """Return what lies below all files, and the recipe, which is the first of them.

    Where the recipe is that of a run whose weights are given, the run's settings stand for it. A
    config.yml of a run needs none: the run may be a variant of a sweep, or somebody else's.
    """
    layer = {key: Entry(field.default, BUILT_IN) for key, field in Config.model_fields.items()}
    if source.config is not None and algo.origin == source.name:
        return layer | _settings_of_run(source.name, source.config, game), None, None
    if given is not None and given.entry("algo") is algo and all(map(given.entry, layer)):
        return layer, None, None
    path = find_recipe(algo.value)
    return layer, path, read_recipe(path, name=_short_name(path))


class _Read(NamedTuple):
    """What files said, one after the other."""

    layers: list[Layer]
    notes: list[str]
    warnings: list[str]
    left_out: list[LeftOut]


def _merge(
    files: Sequence[RecipeFile],
    merged: Layer,
    recipe: RecipeFile | None,
    *,
    algo: str,
    base: str,
    env: str,
) -> _Read:
    """Lay what files set over `merged`, which is changed.

    `base` is what messages call the recipe, or the run whose settings stand for one.
    """
    read = _Read([], [], [], [])
    game = parse_game(env).game
    for file in files:
        layer, from_rl_zoo, notes, slips = file.layer(game, spelling=env)
        if from_rl_zoo:
            framework = framework_of(algo) or (SB3 if file is recipe else None)
            read.left_out.append(LeftOut(file.name, base, framework, layer, dict(merged)))
            layer = read.left_out[-1].filled() | layer
        merged |= layer
        read.layers.append(layer)
        read.notes.extend(notes)
        read.warnings.extend(slips)
    return read


def _settings_of_run(name: str, config: Config, game: str) -> Layer:
    """Return the settings of a run for another one; what each start chooses is the recipe's."""
    path = available_recipes().get(config.algo)
    recipe: Layer = {}
    if path is not None:
        recipe = read_recipe(path, name=_short_name(path)).layer(game, spelling=game).layer
    layer = {key: Entry(value, name) for key, value in config if key not in CHOSEN_AT_START}
    return layer | {key: recipe[key] for key in CHOSEN_AT_START if key in recipe}


def _named(key: str, argument: str | None, file: RecipeFile | None, source: StartedFrom) -> Entry:
    """Return env or algo: the command line's, the -c file's, the weights', else the default."""
    if argument is not None:
        return Entry(argument, f"--{key}")
    from_file = file.entry(key) if file else None
    if from_file is not None:
        if not isinstance(from_file.value, str):
            raise UserError(f"{from_file.origin}: {key} must be text, got {short(from_file.value)}")
        return from_file
    if getattr(source, key) is not None:
        return Entry(getattr(source, key), source.name)
    return Entry(Config.model_fields[key].default, BUILT_IN)


def _short_name(recipe_path: Path) -> str:
    """Name a recipe in messages: a local one by its path, a packaged one as such."""
    local = recipe_path.parent == LOCAL_FOLDER
    return recipe_path.as_posix() if local else f"packaged {recipe_path.name}"


def _last_layer(
    overrides: Mapping[str, object], flags: Mapping[str, str], protocol: Entry, below: Layer
) -> tuple[Layer, list[str]]:
    """Return what the command line sets, RL-Zoo's keys translated, and the notes of that.

    Where it names no protocol it sets the one that the name of the game implies, if any.
    """
    layer = {key: Entry(value, flags.get(key, "override")) for key, value in overrides.items()}
    refuse_run_names(layer)
    entries, no_effect = translate(layer)
    notes = [f"no effect here: {'; '.join(no_effect)}"] if no_effect else []
    if "protocol" in entries or protocol.value is None:
        return entries, notes
    before = below["protocol"]
    if protocol.value != before.value:
        notes.append(
            f"protocol {protocol.value}, {protocol.origin}, in place of {before.value} "
            f"({before.origin}); --protocol decides"
        )
    return entries | {"protocol": protocol}, notes


def _check_with_sources(config: Config, sources: Mapping[str, str]) -> None:
    for finding in contradictions(config):
        origins = "; ".join(f"{key}: {sources[key]}" for key in finding.keys)
        raise UserError(f"{finding.text} ({origins})")


def _refuse_idle_overrides(config: Config, overrides: Layer) -> None:
    """Refuse what the command line sets for a part that is not there; from a recipe it may stay."""
    for key, part in without_effect(config).items():
        if key in overrides:
            raise UserError(
                f"{overrides[key].origin}: {key} has no effect here, it belongs to {part}; set "
                f"{part.replace(' ', '=', 1).split(' or ')[0]} too, or leave {key} out"
            )


def _lines(config: Config) -> Iterator[tuple[str, str]]:
    for key, value in config:
        yield key, f"{key}: {as_yaml(value)}"
