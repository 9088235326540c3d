"""Hyperparameter search: Optuna chooses, jobs of `sweep.py` train, evaluations say what to stop.

tuning/pong/
    study.journal         every trial, as Optuna keeps it
    trials/0007/          a sweep of one run: see plan.py
    finals/               a sweep of the best trials and the recipe, on seeds of their own
    best.yml              the winner, for dqn-train -c
"""

import contextlib
import itertools
import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dqn_zoo.checkpoint import replace_file
from dqn_zoo.errors import UserError
from dqn_zoo.experiments.plan import (
    DEFAULT_EPISODES,
    PLAN_FILE,
    Job,
    Plan,
    Sweep,
    Variant,
)
from dqn_zoo.experiments.search import SearchSpace
from dqn_zoo.experiments.summary import Summary
from dqn_zoo.experiments.sweep import Launch, last_line
from dqn_zoo.learning_curve import columns
from dqn_zoo.recipes import resolve
from dqn_zoo.runs import LockedError, Run, lock
from dqn_zoo.stopping import Stop, stop_requests

if TYPE_CHECKING:
    import optuna

JOURNAL = "study.journal"
POLL_S = 0.5
PATIENCE_S = 20.0  # a job whose driver was killed saves before it ends
TRIAL = "trial"  # the one variant of a trial's sweep
SPACE, GOAL = "search space", "goal"  # attributes of a study
GOES_ON_WITH, CUT_OFF, FAILURE = "goes on with", "cut off", "failure"  # attributes of a trial

SamplerName = Literal["tpe", "random"]
PrunerName = Literal["halving", "median", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is tuned.

    Attributes:
        game: as it was named.
        algo: the recipe that is the point of departure.
        settings: of every trial.
        budget_steps: of every trial.
        num_evaluations: in every trial; each is a chance to stop it.
    """

    game: str
    algo: str
    settings: Mapping[str, Any]
    budget_steps: int
    num_evaluations: int = 10

    def plan(
        self, variants: Mapping[str, Mapping[str, Any]], *, seeds: tuple[int, ...], episodes: int
    ) -> Plan:
        """Return the plan of some settings, each by a name; a run's last evaluation is at its end.

        Args:
            variants: settings by name.
            seeds: of each.
            episodes: full games that every run plays at its end.
        """
        common = {
            "n_timesteps": self.budget_steps,
            "eval_freq": self.budget_steps // self.num_evaluations,
            **self.settings,
        }
        return Plan(
            games=(self.game,),
            seeds=seeds,
            variants=tuple(Variant(name, self.algo, own) for name, own in variants.items()),
            settings=common,
            episodes=episodes,
        )

    def fingerprint(self) -> str:
        """Return what must be equal for trials to be compared, as text."""
        return f"{self.algo} on {self.game}, {self.budget_steps} steps, {dict(self.settings)}"


def open_study(
    folder: Path,
    goal: Goal,
    space: SearchSpace,
    *,
    sampler: SamplerName,
    pruner: PrunerName,
    seed: int,
    storage: str | None = None,
) -> "optuna.Study":
    """Return the study of a folder, new or as it was left.

    Args:
        folder: of the study.
        goal: what is tuned.
        space: what is tried.
        sampler: how settings are chosen.
        pruner: how trials are stopped early.
        seed: of the sampler; a study that goes on draws anew.
        storage: URL of a database that several machines share; None: a journal in the folder.

    Raises:
        UserError: Optuna is missing, the storage cannot be used, or the study is of something else.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise UserError("dqn-tune needs Optuna: pip install 'dqn-zoo-atari[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # of a failed trial it prints a traceback
    name = str(folder.resolve().name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        kept: Any = storage
        if storage is None:
            journal = JournalFileBackend(str(folder / JOURNAL))
            kept = optuna.storages.JournalStorage(journal)
        study = optuna.create_study(
            storage=kept, study_name=name, direction="maximize", load_if_exists=True
        )
    except Exception as error:  # each database has its own
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"the study in {storage or folder} cannot be opened: {reason}") from error
    for key, value in ((SPACE, space.fingerprint()), (GOAL, goal.fingerprint())):
        known = study.user_attrs.get(key)
        if known is None:
            study.set_user_attr(key, value)
        elif known != value:
            raise UserError(
                f"{folder} holds a study of another {key}: name another folder with -f, or give "
                f"the flags that it began with ({known})"
            )
    num_trials = len(study.get_trials(deepcopy=False))
    study.sampler = {
        "tpe": optuna.samplers.TPESampler,
        "random": optuna.samplers.RandomSampler,
    }[sampler](seed=seed + num_trials)
    study.pruner = _pruner(pruner, goal)
    return study


def optimize(
    study: "optuna.Study",
    folder: Path,
    goal: Goal,
    space: SearchSpace,
    launch: Launch,
    *,
    num_trials: int,
    num_jobs: int,
    machine: Mapping[str, Any],
    on_trial: Callable[["optuna.trial.FrozenTrial"], None],
) -> None:
    """Make trials until the study has as many that ended.

    Trials that were cut off go on from their last checkpoint, before new ones are made. SIGINT and
    SIGTERM cut trials off, and let their jobs save first.

    Args:
        study: see `open_study`.
        folder: of the study.
        goal: what is tuned.
        space: what is tried.
        launch: starts a job.
        num_trials: that the study shall have in the end.
        num_jobs: trials at once.
        machine: settings that this machine decides, like threads.
        on_trial: told of every trial as it ends.

    Raises:
        KeyboardInterrupt: after the trials were cut off, on SIGINT or SIGTERM.
    """
    from optuna.trial import TrialState

    for trial in _unfinished(study):
        _take_up(study, folder, trial)
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    missing = num_trials - len(study.get_trials(deepcopy=False, states=ended))
    if missing <= 0:
        return

    with stop_requests(None) as stop:

        def objective(trial: "optuna.Trial") -> float:
            try:
                sweep = _trial_sweep(folder, trial, goal, space, machine)
                return _train_trial(trial, sweep, launch, stop)
            except CutOffError:
                trial.set_user_attr(CUT_OFF, True)
                study.stop()
                raise
            except TrialError as error:
                trial.set_user_attr(FAILURE, str(error))
                raise

        study.optimize(
            objective,
            n_trials=missing,
            n_jobs=num_jobs,
            catch=(TrialError,),
            callbacks=[lambda _, trial: on_trial(trial)],
        )
        if stop.reason() is not None:
            raise KeyboardInterrupt


class TrialError(Exception):
    """A trial whose job failed; the study goes on without it."""


class CutOffError(TrialError):
    """A trial that was asked to stop before its end."""


def finals(
    study: "optuna.Study",
    folder: Path,
    goal: Goal,
    *,
    num_best: int,
    num_seeds: int,
    machine: Mapping[str, Any],
) -> Sweep:
    """Return the sweep of the best trials and of the recipe itself, on seeds no trial had.

    The best of many noisy trials owes a part of its score to luck, which other seeds do not repeat.

    Args:
        study: with at least one complete trial.
        folder: of the study.
        goal: what is tuned.
        num_best: trials that are run again.
        num_seeds: of each.
        machine: settings that this machine decides, like threads.

    Raises:
        UserError: no trial is complete, or the folder holds finals of others.
    """
    place = folder / "finals"
    trials = best_trials(study)[:num_best]
    if not trials:
        raise UserError(f"{folder} has no complete trial: raise --n-trials, or use --pruner none")
    variants = {"recipe": {}, **{f"trial-{each.number}": dict(each.params) for each in trials}}
    seeds = tuple(range(2, 2 + num_seeds))  # trials have seed 1
    plan = goal.plan(variants, seeds=seeds, episodes=DEFAULT_EPISODES)
    if not (place / PLAN_FILE).is_file():
        Sweep.new(place, plan, machine).write()
    sweep = Sweep.open(place)
    if sweep.plan != plan:
        raise UserError(
            f"{place} holds finals of other trials or seeds; remove it, and the same command runs "
            "those of now"
        )
    return sweep


def best_trials(study: "optuna.Study") -> "list[optuna.trial.FrozenTrial]":
    """Return the complete trials, the best first."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(trials, key=lambda trial: trial.value or 0.0, reverse=True)


def write_best(folder: Path, goal: Goal, sweep: Sweep, summary: Summary) -> tuple[str, Path]:
    """Write the settings of the variant with the best mean over its seeds, for dqn-train -c.

    Returns:
        The name of the variant, and the file.
    """
    [game] = {job.game for job in sweep.plan.jobs()}
    means = {
        name: float(games[game].scores("last").mean())
        for name, games in summary.cells.items()
        if games[game].runs
    }
    winner = max(means, key=lambda name: means[name])
    own = next(each.settings for each in sweep.plan.variants if each.name == winner)
    recipe = resolve(env=goal.game, algo=goal.algo, overrides={**goal.settings, **own})
    lines = [
        f"# {winner} of dqn-tune: {means[winner]:.1f} after {goal.budget_steps:,} steps, mean of "
        f"{len(sweep.plan.seeds)} seeds; the recipe {goal.algo}: {means['recipe']:.1f}.",
        f"# dqn-train --env {game} --algo {goal.algo} -c {folder / 'best.yml'}",
        "atari:",
        *(f"  {key}: {_yaml(getattr(recipe.config, key))}" for key in {**goal.settings, **own}),
    ]
    file = folder / "best.yml"
    replace_file(file, ("\n".join(lines) + "\n").encode())
    return winner, file


def draw_study(study: "optuna.Study", folder: Path) -> list[Path]:
    """Draw history, importances and parallel coordinates; return the pictures that could be made.

    Importances need trials that differ in their value.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as pictures

    drawn = []
    for name, draw in (
        ("history", pictures.plot_optimization_history),
        ("importances", pictures.plot_param_importances),
        ("parallel-coordinates", pictures.plot_parallel_coordinate),
    ):
        with (
            contextlib.suppress(ValueError, RuntimeError, ZeroDivisionError),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # Optuna calls its pictures experimental
            draw(study)
            pyplot.gcf().set_size_inches(10, 5)
            pyplot.gcf().savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
            drawn.append(folder / f"{name}.png")
        pyplot.close("all")
    return drawn


def _pruner(name: PrunerName, goal: Goal) -> "optuna.pruners.BasePruner":
    import optuna

    warmup = goal.budget_steps * 3 // 10  # before that, evaluations are of untrained networks
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=warmup, reduction_factor=3)
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=warmup)
    return optuna.pruners.NopPruner()


def _trial_sweep(
    folder: Path, trial: Any, goal: Goal, space: SearchSpace, machine: Mapping[str, Any]
) -> Sweep:
    """Return the sweep of one run that a trial is: new, or that of a trial it goes on with."""
    settings = space.draw(trial)
    number = trial.user_attrs.get(GOES_ON_WITH, trial.number)
    place = folder / "trials" / f"{number:04d}"
    if not (place / PLAN_FILE).is_file():
        try:
            Sweep.new(place, goal.plan({TRIAL: settings}, seeds=(1,), episodes=1), machine).write()
        except UserError as error:  # a combination that cannot run is a trial that failed
            raise TrialError(str(error)) from error
    return Sweep.open(place)


def _train_trial(trial: Any, sweep: Sweep, launch: Launch, stop: Stop) -> float:
    """Train a trial, report its evaluations, stop it where it is hopeless; return its value."""
    import optuna

    [job] = sweep.plan.jobs()
    handle, reported = launch(sweep, job), 0
    try:
        while True:
            if stop.reason() is not None:
                raise CutOffError("cut off")
            code = handle.poll()
            means = _evaluations(sweep, job)
            for step, mean in itertools.islice(means.items(), reported, None):
                trial.report(mean, step)
                reported += 1
            if code is not None:
                break
            if trial.should_prune():
                raise optuna.TrialPruned
            time.sleep(POLL_S)
    finally:
        handle.terminate()
        handle.wait()
    if code != 0:
        raise TrialError(last_line(sweep.log_file(job)) or f"exit code {code}")
    return value_of(list(means.values()))


def value_of(means: list[float]) -> float:
    """Return what a trial is worth: the mean of the last third of its evaluations.

    One network may be lucky; several in a row are what a run reaches.
    """
    return float(np.mean(means[-max(1, len(means) // 3) :]))


def _evaluations(sweep: Sweep, job: Job) -> dict[int, float]:
    """Return the mean scores of the evaluations so far, by step."""
    file = sweep.run(job).evaluations_file
    if not file.exists():
        return {}
    steps, means = columns(file, "steps", "mean")
    return dict(zip(map(int, steps), means, strict=True))


def _unfinished(study: "optuna.Study") -> "list[optuna.trial.FrozenTrial]":
    """Return the trials that were cut off or seem to run, and that no other goes on with."""
    from optuna.trial import TrialState

    latest = {_folder_number(trial): trial for trial in study.get_trials(deepcopy=False)}
    return [
        trial
        for trial in latest.values()
        if trial.state == TrialState.RUNNING
        or (trial.state == TrialState.FAIL and CUT_OFF in trial.user_attrs)
    ]


def _folder_number(trial: "optuna.trial.FrozenTrial") -> int:
    """Return the number of the trial that began what this one goes on with."""
    number: int = trial.user_attrs.get(GOES_ON_WITH, trial.number)
    return number


def _take_up(study: "optuna.Study", folder: Path, trial: "optuna.trial.FrozenTrial") -> None:
    """Let a new trial go on with one that was cut off; one that runs elsewhere is left alone."""
    from optuna.trial import TrialState

    number = _folder_number(trial)
    place = folder / "trials" / f"{number:04d}"
    if (place / PLAN_FILE).is_file():
        sweep = Sweep.open(place)
        [job] = sweep.plan.jobs()
        if _is_held(sweep.run(job)):
            return
    study.enqueue_trial(trial.params, user_attrs={GOES_ON_WITH: number})
    if trial.state == TrialState.RUNNING:
        study.tell(trial.number, state=TrialState.FAIL)


def _is_held(run: Run) -> bool:
    """Return whether another process goes on with a run, and not just saves it before it ends."""
    deadline = time.monotonic() + PATIENCE_S
    while run.path.exists():
        try:
            with lock(run):
                return False
        except LockedError:
            if time.monotonic() >= deadline:
                return True
            time.sleep(POLL_S)
    return False


def _yaml(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
