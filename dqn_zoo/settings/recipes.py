"""From recipes, files and flags to the settings of a run, and from settings to a file.

The layers, each over the one before:

    built-in defaults
    the recipe: its `atari:` block, then its block for the game
    the file given with -c: the same two blocks
    the protocol that the name of the environment implies (NoFrameskip-v4: zoo, ALE/...-v5: machado)
    the command line

They are merged as they were read, validated once, and only then converted: what RL-Zoo counts in
calls depends on n_envs, on which any layer may have the last word. Last, a run too short for its
recipe gets what fits its length: see `short_runs.py`.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dqn_zoo.errors import UserError
from dqn_zoo.settings.checks import check, contradictions, warnings, without_effect
from dqn_zoo.settings.config import Config, build_config
from dqn_zoo.settings.games import parse_game
from dqn_zoo.settings.recipe_files import (
    ATARI,
    LOCAL_FOLDER,
    Layer,
    RecipeFile,
    find_recipe,
    read_recipe,
    refuse_run_names,
)
from dqn_zoo.settings.rl_zoo_keys import count_in_steps, translate
from dqn_zoo.settings.short_runs import ends_before_it_learns, shortened
from dqn_zoo.settings.yaml_reader import Entry, parse_value, read_entries

BUILT_IN = "built-in default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The settings of a run and how they came about.

    Attributes:
        config: every setting.
        sources: where the value of each key came from, in words.
        notes: what was read, changed or left out on the way, one line each.
        warnings: settings that run but make little sense together, one line each.
        recipe_path: the recipe that was read.
    """

    config: Config
    sources: dict[str, str]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    recipe_path: Path


def resolve(
    *,
    env: str | None = None,
    algo: str | None = None,
    conf_file: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    flags: Mapping[str, str] | None = None,
    may_shorten: bool = False,
) -> Resolved:
    """Merge everything that has a say in the settings of a run.

    Args:
        env: any spelling of a game that `parse_game` reads; None: the file's, else SpaceInvaders.
        algo: name of a recipe; None: the file's, else dqn.
        conf_file: YAML whose settings lie over the recipe's; RL-Zoo's own files work.
        overrides: the last word, by key, protocol included.
        flags: the flag that gave each override, to name it in errors and sources.
        may_shorten: make a run that would end before it learns fit its length, with a note; runs
            that are compared are refused instead.

    Raises:
        UserError: whatever is wrong, with the file, line and key, or the flag.
    """
    given = read_recipe(conf_file, name=str(conf_file), may_name_run=True) if conf_file else None
    env_entry = _named("env", env, given)
    algo_entry = _named("algo", algo, given)
    name = parse_game(env_entry.value)
    recipe_path = find_recipe(algo_entry.value)
    recipe = read_recipe(recipe_path, name=_short_name(recipe_path))

    merged = {key: Entry(field.default, BUILT_IN) for key, field in Config.model_fields.items()}
    files = [recipe, given] if given else [recipe]
    notes = ["settings: " + ", then ".join(file.name for file in files)]
    layers: list[Layer] = []
    for file in files:
        layer, file_notes = file.layer(name.game)
        layers.append(layer)
        merged |= layer
        notes += file_notes
    last, no_effect = _override_layer(overrides or {}, flags or {})
    notes += no_effect
    if "protocol" not in last and name.implied_protocol is not None:
        implied = Entry(name.implied_protocol, f"implied by {env_entry.value}")
        notes += _protocol_notes(merged["protocol"], implied)
        last["protocol"] = implied
    merged |= last
    merged |= {"env": Entry(name.game, env_entry.origin), "algo": algo_entry}

    config, conversions = _settled(merged)
    notes += conversions
    sources = {key: entry.origin for key, entry in merged.items()}
    if may_shorten:
        config, shorter = _fitted(config, [*layers, last], sources)
        notes += shorter
    _check_with_sources(config, sources)
    _refuse_idle_overrides(config, last)
    return Resolved(
        config=config,
        sources=sources,
        notes=tuple(notes),
        warnings=tuple(warnings(config)),
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


def as_yaml(value: object) -> str:
    """Write a plain value: JSON is YAML; plain words need no quotes."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value):
        return value if parse_value(value) == value else json.dumps(value)
    text = json.dumps(value)
    # Readers of YAML 1.1 take 1e-08 for text and 1.0e-08 for a number.
    return re.sub(r"^(-?\d+)e", r"\1.0e", text) if isinstance(value, float) else text


def load_config(path: Path) -> Config:
    """Read what `dump_config` wrote.

    A key that a later version added takes its built-in default, which has to mean what the program
    did before the key existed.

    Raises:
        UserError: not readable, an unknown key, a value that is not accepted.
    """
    return settle(read_entries(path, name=str(path)))


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
    train_freq = entries.get("train_freq")
    if train_freq is None or not train_freq.counts_calls:
        return config, ()
    steps, notes = count_in_steps(config.train_freq, config.n_envs)
    noted = tuple(f"{train_freq.origin}: {note}" for note in notes)
    return config.model_copy(update={"train_freq": steps}), noted


def _fitted(
    config: Config, layers: Sequence[Layer], sources: dict[str, str]
) -> tuple[Config, list[str]]:
    """Make a run that would end before it learns short instead; keep `sources` true, and note it.

    What was set together with `n_timesteps`, or over it, is what somebody asked for.
    """
    usual_steps: object = None
    steps: object = Config.model_fields["n_timesteps"].default
    asked: set[str] = set()
    for layer in layers:
        if "n_timesteps" in layer:
            usual_steps, steps, asked = steps, layer["n_timesteps"].value, set()
        asked |= layer.keys()
    if "learning_starts" in asked or not ends_before_it_learns(config):
        return config, []
    usual = int(usual_steps) if isinstance(usual_steps, int | float) else config.n_timesteps
    changes = shortened(config, usual_steps=usual, asked=asked)
    told = []
    for key, value in changes.items():
        old = getattr(config, key)
        told.append(f"{key} {value:,} instead of {old:,}")
        sources[key] = f"for {config.n_timesteps:,} steps; {old:,} in {sources[key]}"
    note = f"a short run of settings for {usual:,} steps: {', '.join(told)}; --set decides"
    return config.model_copy(update=changes), [note]


def _named(key: str, argument: str | None, file: RecipeFile | None) -> Entry:
    """Return env or algo: the command line's, else the -c file's, else the built-in default."""
    if argument is not None:
        return Entry(argument, f"--{key}")
    from_file = file.blocks.get(ATARI, {}).get(key) if file else None
    if from_file is not None:
        if not isinstance(from_file.value, str):
            raise UserError(f"{from_file.origin}: {key} must be text, got {from_file.value!r}")
        return from_file
    return Entry(Config.model_fields[key].default, BUILT_IN)


def _short_name(recipe_path: Path) -> str:
    """Name a recipe in messages: a local one by its path, a packaged one as such."""
    local = recipe_path.parent == LOCAL_FOLDER
    return recipe_path.as_posix() if local else f"packaged {recipe_path.name}"


def _override_layer(
    overrides: Mapping[str, object], flags: Mapping[str, str]
) -> tuple[Layer, list[str]]:
    """Return what the command line sets, RL-Zoo's keys translated, and the notes of that."""
    layer = {key: Entry(value, flags.get(key, "override")) for key, value in overrides.items()}
    refuse_run_names(layer)
    entries, no_effect = translate(layer)
    return entries, [f"no effect here: {'; '.join(no_effect)}"] if no_effect else []


def _protocol_notes(before: Entry, implied: Entry) -> list[str]:
    if implied.value == before.value:
        return []
    return [
        f"protocol {implied.value}, {implied.origin}, in place of {before.value} "
        f"({before.origin}); --protocol decides"
    ]


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
