"""The plan of a sweep: which games, seeds and variants, as a file.

sweeps/first/
    plan.yml              what is compared, to be read and kept
    configs/dqn/Pong.yml  every setting of a variant on a game, as it was when the plan was made
    runs/dqn/Pong_1/      the run of seed 1, see run.py; results-last.json, results-best.json, and
                          results-online.json where the last and best weights are averaged
    logs/dqn/Pong_1.log   what that job printed

The settings are resolved once. So a job started next week, by another version, or on a machine
with another working folder, trains what its neighbours trained.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from dqn_zoo.errors import UserError, short
from dqn_zoo.play.weights import ONLINE
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.config import LARGEST_SEED, Config
from dqn_zoo.settings.games import SCORES, parse_game
from dqn_zoo.settings.recipes import Resolved, dump_config, load_config, resolve
from dqn_zoo.settings.yaml_reader import Entry, read_entries
from dqn_zoo.system import shell
from dqn_zoo.system.files import is_portable, replace_file
from dqn_zoo.system.locks import LOCK_NAME

PLAN_FILE = "plan.yml"
CONFIGS = "configs"
DEFAULT_EPISODES = 30

WhichWeights = Literal["last", "best", "online"]
WEIGHTS: tuple[WhichWeights, ...] = get_args(WhichWeights)

GAME_SETS: dict[str, tuple[str, ...]] = {
    # Aitchison et al. (2023), https://arxiv.org/abs/2210.02019: few games that predict all 57.
    "atari-3": ("BattleZone", "NameThisGame", "Phoenix"),
    "atari-5": ("BattleZone", "DoubleDunk", "NameThisGame", "Phoenix", "Qbert"),
    "atari-57": tuple(SCORES),
}

_KEYS = ("games", "seeds", "episodes", "settings", "variants")


@dataclass(frozen=True, slots=True)
class Variant:
    """One of what is compared.

    Attributes:
        name: by which tables and folders call it.
        algo: its recipe.
        settings: its own, over those of the recipe.
    """

    name: str
    algo: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Job:
    """One run of the plan."""

    variant: str
    game: str
    seed: int

    @property
    def name(self) -> str:
        """Name on the command line, and below `runs/` and `logs/`: `dqn/Pong_1`."""
        return f"{self.variant}/{self.game}_{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a sweep compares.

    Attributes:
        games: as they were named; a spelling may imply a protocol.
        seeds: of the runs, each at least 1.
        variants: what is compared.
        settings: of all variants; a variant's own win.
        episodes: full games played by every run at its end.
    """

    games: tuple[str, ...]
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...]
    settings: Mapping[str, Any]
    episodes: int = DEFAULT_EPISODES

    def jobs(self, seeds: int | None = None) -> list[Job]:
        """Return a job per seed, game and variant; every first seed comes before a second one.

        `seeds` limits them to the first so many seeds: the settings of all others are the same.
        """
        return [
            Job(variant.name, parse_game(game).game, seed)
            for seed in self.seeds[:seeds]
            for game in self.games
            for variant in self.variants
        ]

    def resolved(self) -> Iterator[tuple[Variant, Resolved]]:
        """Yield the settings of every variant on every game, the seed left open.

        Raises:
            UserError: a recipe, a setting or a combination that is not accepted.
        """
        for variant in self.variants:
            settings = {**self.settings, **variant.settings}
            flags = dict.fromkeys(settings, f"variant {variant.name}")
            for game in self.games:
                found = resolve(env=game, algo=variant.algo, overrides=settings, flags=flags)
                config = found.config.model_copy(update={"algo": variant.name})
                yield variant, replace(found, config=config)


def make_plan(
    *,
    games: Sequence[str],
    num_seeds: int,
    variants: Sequence[Variant],
    settings: Mapping[str, Any],
    episodes: int = DEFAULT_EPISODES,
) -> Plan:
    """Return a plan; its recipes and settings are looked at by `Sweep.new`.

    Games may be in any spelling, or names of `GAME_SETS`; the seeds are 1, 2, ...

    Raises:
        UserError: nothing to compare, something twice, an unknown game.
    """
    expanded = [game for name in games for game in GAME_SETS.get(name.lower(), (name,))]
    plan = Plan(
        games=tuple(expanded),
        seeds=tuple(range(1, num_seeds + 1)),
        variants=tuple(variants),
        settings=dict(settings),
        episodes=episodes,
    )
    _check(plan)
    return plan


def read_plan(file: Path) -> Plan:
    """Read a plan; its recipes and settings are looked at by `Sweep.new`.

    Raises:
        UserError: not readable, or no plan; with the line.
    """
    entries = read_entries(file, name=str(file))
    unknown = [entries[key].origin for key in entries if key not in _KEYS]
    if unknown:
        raise UserError(f"{unknown[0]}: expected one of the keys {', '.join(_KEYS)}")
    missing = [key for key in ("games", "seeds", "variants") if key not in entries]
    if missing:
        raise UserError(f"{file} is no plan of dqn-bench: {' and '.join(missing)} missing")
    variants = []
    for name, entry in _mapping(entries["variants"]).items():
        settings = _plain(entry)
        algo = settings.pop("algo", name)
        variants.append(Variant(name, str(algo), settings))
    common = _mapping(entries["settings"]) if "settings" in entries else {}
    plan = Plan(
        games=tuple(map(str, _list(entries["games"]))),
        seeds=tuple(_list(entries["seeds"], kind=int)),
        variants=tuple(variants),
        settings={key: entry.value for key, entry in common.items()},
        episodes=entries["episodes"].value if "episodes" in entries else DEFAULT_EPISODES,
    )
    _check(plan)
    return plan


def dump_plan(plan: Plan) -> str:
    """Return a plan as YAML that `read_plan` reads."""
    variants = (
        f"  {json.dumps(variant.name)}: {json.dumps({'algo': variant.algo, **variant.settings})}"
        for variant in plan.variants
    )
    return "\n".join(
        [
            "# What dqn-bench compares; what each key means: docs/experiments.md",
            f"games: {json.dumps(plan.games)}",
            f"seeds: {json.dumps(plan.seeds)}",
            f"episodes: {plan.episodes}",
            f"settings: {json.dumps(dict(plan.settings))}",
            "variants:",
            *variants,
            "",
        ]
    )


@dataclass(frozen=True, slots=True)
class Sweep:
    """A folder with a plan and what became of it.

    Attributes:
        folder: of the sweep.
        plan: what is compared.
        unwritten: settings by variant and game, as long as they are not in the folder yet.
        notes: on these, one line each, as `Resolved` has them; of several games the same one once.
        warnings: likewise.
    """

    folder: Path
    plan: Plan
    unwritten: Mapping[tuple[str, str], Config] | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def new(cls, folder: Path, plan: Plan, machine: Mapping[str, Any]) -> "Sweep":
        """Return a sweep that is not written yet.

        `folder` is empty, missing, or left by a start that was killed before it had a plan;
        `machine` is for what plan and recipes leave open, which is 0 there.

        Raises:
            UserError: the folder holds something, or a recipe or setting is not accepted.
        """
        allowed = {folder / CONFIGS, folder / LOCK_NAME}
        if folder.exists() and not (folder.is_dir() and set(folder.iterdir()) <= allowed):
            raise UserError(f"{folder} is not empty and holds no plan: name another with -f")
        unwritten = {}
        notes: dict[str, None] = {}
        warnings: dict[str, None] = {}
        for variant, found in plan.resolved():
            config, given = found.config, plan.settings.keys() | variant.settings.keys()
            open_keys = (key for key in machine.keys() - given if not getattr(config, key))
            update = {key: machine[key] for key in open_keys}
            unwritten[variant.name, config.env] = config.model_copy(update=update)
            notes |= dict.fromkeys(found.notes)
            warnings |= dict.fromkeys(found.warnings)
        return cls(folder, plan, unwritten, tuple(notes), tuple(warnings))

    @classmethod
    def open(cls, folder: Path) -> "Sweep":
        """Return the sweep in a folder.

        Raises:
            UserError: there is none.
        """
        if not (folder / PLAN_FILE).is_file():
            is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
            place = folder if is_free else Path("sweeps", "first")
            raise UserError(
                f"{folder} holds no plan: start one with "
                + shell.command(
                    "dqn-bench", "--algos", "dqn", "--games", "SpaceInvaders", "-f", place
                )
            )
        return cls(folder, read_plan(folder / PLAN_FILE))

    def write(self) -> None:
        """Write the plan and the settings of every variant on every game, where they are new.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            for (variant, game), config in (self.unwritten or {}).items():
                file = self._config_file(variant, game)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(dump_config(config), encoding="utf-8")
            if self.unwritten is not None:  # comes last: with it the folder is complete
                replace_file(self.folder / PLAN_FILE, dump_plan(self.plan).encode())
        except OSError as error:
            raise UserError(
                f"{error.filename or self.folder} cannot be written ({error.strerror}): name a "
                "folder that you can write with -f"
            ) from error

    def config(self, job: Job) -> Config:
        """Return the settings of a job.

        Raises:
            UserError: its file is missing or damaged.
        """
        if self.unwritten is not None:
            config = self.unwritten[job.variant, job.game]
        else:
            config = load_config(self._config_file(job.variant, job.game))
        return config.model_copy(update={"seed": job.seed})

    def configs(self) -> dict[tuple[str, str], Config]:
        """Return the settings of every variant on every game, with the first seed.

        Raises:
            UserError: as `config`.
        """
        return {(job.variant, job.game): self.config(job) for job in self.plan.jobs(seeds=1)}

    def run(self, job: Job) -> Run:
        """Return the run of a job, whether it exists or not."""
        return Run(self.runs / job.variant / f"{job.game}_{job.seed}")

    @property
    def command(self) -> str:
        """What goes on with the sweep, as a shell takes it."""
        return shell.command("dqn-bench", "-f", self.folder)

    @property
    def runs(self) -> Path:
        """Folder of the runs, fit for the -f of the other commands."""
        return self.folder / "runs"

    def log_file(self, job: Job) -> Path:
        """Return the file of what a job prints."""
        return self.folder / "logs" / f"{job.name}.log"

    def results_file(self, job: Job, which: WhichWeights) -> Path:
        """Return the file of a job's games with its `last`, `best` or last `online` weights."""
        return self.run(job).path / f"results-{which}.json"

    def is_done(self, job: Job) -> bool:
        """Return whether a job was trained to its end and its games were played."""
        return all(self.results_file(job, which).exists() for which in self.weights(job))

    def weights(self, job: Job) -> tuple[WhichWeights, ...]:
        """Return which weights of a trained job play: of one that averages, the online ones too."""
        files = (self.run(job).online_model_file, self.results_file(job, "online"))
        averages = any(file.exists() for file in files)  # weights may be removed to save space
        return tuple(which for which in WEIGHTS if which != ONLINE or averages)

    def _config_file(self, variant: str, game: str) -> Path:
        return self.folder / CONFIGS / variant / f"{game}.yml"

    def find_job(self, name: str) -> Job:
        """Return the job of a name, or of its number in the plan, from 1.

        Raises:
            UserError: there is none.
        """
        jobs = self.plan.jobs()
        if name.isdecimal() and 1 <= int(name) <= len(jobs):
            return jobs[int(name) - 1]
        found = [job for job in jobs if job.name == name]
        if not found:
            raise UserError(
                f"{self.folder} has no job {short(name)}: they are numbered 1 to {len(jobs)} and "
                f"named like {jobs[0].name}"
            )
        return found[0]


def _check(plan: Plan) -> None:
    for name, values in (
        ("game", [parse_game(game).game for game in plan.games]),
        ("seed", plan.seeds),
        ("variant", [variant.name for variant in plan.variants]),
    ):
        if not values:
            raise UserError(f"a plan needs at least one {name}")
        twice, count = Counter(values).most_common(1)[0]
        if count > 1:
            raise UserError(f"{name} {str(twice)[:60]} is in the plan twice; leave one out")
    for seed in plan.seeds:
        if type(seed) is not int or not 1 <= seed <= LARGEST_SEED:
            raise UserError(
                f"seeds of a plan are whole numbers from 1 to {LARGEST_SEED:,}, got {short(seed)}"
            )
    if type(plan.episodes) is not int or plan.episodes < 1:
        raise UserError(
            f"episodes must be a whole number of at least 1, got {short(plan.episodes)}"
        )
    for variant in plan.variants:
        if not is_portable(variant.name):
            raise UserError(
                f"variant {short(variant.name)} becomes the name of a folder: use letters, digits, "
                "'-', '_' and '.'"
            )
        if "seed" in {*variant.settings, *plan.settings}:
            raise UserError("the seeds of a plan are its own: leave the setting seed out")


def _mapping(entry: Entry) -> dict[str, Entry]:
    if not isinstance(entry.value, dict):
        raise UserError(f"{entry.origin}: expected 'name: ...' lines, got {short(entry.value)}")
    return entry.value


def _plain(entry: Entry) -> dict[str, Any]:
    if not isinstance(entry.value, dict | None):
        raise UserError(
            f"{entry.origin}: expected settings like {{algo: dqn}}, got {short(entry.value)}"
        )
    return dict(entry.value or {})


def _list(entry: Entry, kind: type = object) -> list[Any]:
    if not isinstance(entry.value, list) or not all(isinstance(x, kind) for x in entry.value):
        raise UserError(f"{entry.origin}: expected a list, got {short(entry.value)}")
    return entry.value
