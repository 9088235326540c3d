"""Hyperparameter search: Optuna chooses, jobs of `sweep.py` train, evaluations say what to stop.

tuning/pong/
    study.journal         every trial, as Optuna keeps it
    trials/0007/          a sweep of one run: see plan.py
    finals/, best.yml     see tuning_finals.py
"""

import contextlib
import itertools
import math
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dqn_zoo.errors import UserError, without_password
from dqn_zoo.experiments.plan import PLAN_FILE, Job, Plan, Sweep, Variant
from dqn_zoo.experiments.search import SearchSpace
from dqn_zoo.experiments.sweep import Launch, may_try_again, why_it_ended
from dqn_zoo.runs.learning_curve import columns
from dqn_zoo.runs.logfiles import EventLog
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.yaml_reader import as_yaml
from dqn_zoo.system.extras import need
from dqn_zoo.system.locks import LockedError, hold
from dqn_zoo.system.signals import Ended, Stop, stop_requests

if TYPE_CHECKING:
    import optuna

JOURNAL = "study.journal"
POLL_S = 0.5
TRIAL = "trial"  # the one variant of a trial's sweep
SPACE, GOAL, RECIPE = "search space", "goal", "recipe"  # attributes of a study
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
        """Return the plan of some settings, by name; a run's last evaluation is at its end."""
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

    def recipe(self) -> str:
        """Return what recipe and settings come to, as far as they depart from the defaults."""
        [(_, found)] = self.plan({TRIAL: {}}, seeds=(1,), episodes=1).resolved()
        defaults = Config()
        own = {key: value for key, value in found.config if value != getattr(defaults, key)}
        return "".join(f"{key}: {as_yaml(value)}\n" for key, value in own.items())


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
    """Return the study of a folder, or of a database that several machines share, new or as left.

    The sampler of a study that goes on draws anew, and so does that of each machine that shares
    one.

    Raises:
        UserError: Optuna is missing, the storage cannot be used, or the study is of something else.
    """
    need("tune", "dqn-tune")
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # of a failed trial it prints a traceback
    _check_space(space, goal)
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
        reason = without_password(" ".join(str(error).split()))[:160]
        place = without_password(str(storage or folder))
        raise UserError(f"the study in {place} cannot be opened: {reason}") from None
    _hold_to(study, folder, goal, space)
    num_trials = len(study.get_trials(deepcopy=False))
    shift = num_trials if storage is None else secrets.randbits(31)
    study.sampler = {
        "tpe": optuna.samplers.TPESampler,
        "random": optuna.samplers.RandomSampler,
    }[sampler](seed=(seed + shift) % 2**32)
    study.pruner = _pruner(pruner, goal)
    return study


def _hold_to(study: "optuna.Study", folder: Path, goal: Goal, space: SearchSpace) -> None:
    """Note in a new study what it is of, and compare one that goes on with it.

    Raises:
        UserError: it is of something else.
    """
    for key, value in ((SPACE, space.fingerprint()), (GOAL, goal.fingerprint())):
        known = study.user_attrs.get(key)
        if known is None:
            study.set_user_attr(key, value)
        elif known != value:
            raise UserError(
                f"{folder} holds a study of another {key}: name another folder with -f, or give "
                f"the flags that it began with ({known})"
            )
    recipe = goal.recipe()
    known = study.user_attrs.get(RECIPE, recipe)
    if known != recipe:
        changed = sorted(set(known.splitlines()) ^ set(recipe.splitlines()))
        raise UserError(
            f"the recipe {goal.algo} is another than when {folder} began ({', '.join(changed)}): "
            "name another folder with -f, or put it back"
        )
    study.set_user_attr(RECIPE, recipe)


def _check_space(space: SearchSpace, goal: Goal) -> None:
    """Draw a few trials and look at their settings, before any is trained.

    Raises:
        UserError: not one of them can run.
    """
    import optuna

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    reason = None
    for _ in range(10):
        plan = goal.plan({TRIAL: space.draw(study.ask())}, seeds=(1,), episodes=1)
        try:
            list(plan.resolved())
        except UserError as error:
            reason = error
        else:
            return
    raise UserError(f"none of 10 trials drawn from {space.name} can run: {reason}; see --search")


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
    """Make trials until the study has as many that ended, those included that failed.

    Trials that were cut off go on from their last checkpoint, before new ones are made; those of
    another process that is at work are left alone. Ctrl-C and other signals that end a program
    cut trials off, and let their jobs save first.

    Raises:
        Ended: after the trials were cut off by a signal.
        UserError: the folder holds trials of another study.
    """
    for trial in _unfinished(study):
        _take_up(study, folder, trial)
    missing = num_trials - _num_ended(study)
    if missing <= 0:
        return

    with stop_requests(None) as stop:

        def objective(trial: "optuna.Trial") -> float:
            number = trial.user_attrs.get(GOES_ON_WITH, trial.number)
            try:
                with _held_trial(folder, number) as place:
                    sweep = _trial_sweep(place, goal, space.draw(trial), machine)
                    return _train_trial(trial, sweep, launch, stop)
            except CutOffError:
                trial.set_user_attr(CUT_OFF, True)
                study.stop()
                raise
            except (TrialError, LockedError) as error:
                trial.set_user_attr(FAILURE, str(error))
                raise

        def on_end(study: "optuna.Study", trial: "optuna.trial.FrozenTrial") -> None:
            on_trial(trial)
            if _num_ended(study) >= num_trials:  # other machines make trials, too
                study.stop()

        study.optimize(
            objective,
            n_trials=missing,
            n_jobs=num_jobs,
            catch=(TrialError, LockedError),
            callbacks=[on_end],
        )
        reason = stop.reason()
        if reason is not None and reason != "time_limit":  # it has none
            raise Ended(reason)


class TrialError(Exception):
    """A trial whose job failed; the study goes on without it."""


class CutOffError(TrialError):
    """A trial that was asked to stop before its end."""


def _pruner(name: PrunerName, goal: Goal) -> "optuna.pruners.BasePruner":
    import optuna

    warmup = goal.budget_steps * 3 // 10  # before that, evaluations are of untrained networks
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=warmup, reduction_factor=3)
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=warmup)
    return optuna.pruners.NopPruner()


@contextlib.contextmanager
def _held_trial(folder: Path, number: int) -> Iterator[Path]:
    """Be the only process that drives a trial; give its folder.

    Raises:
        LockedError: another process drives it.
    """
    place = folder / "trials" / f"{number:04d}"
    place.mkdir(parents=True, exist_ok=True)
    with hold(place, what=f"trial {number}", otherwise="name another folder with -f"):
        yield place


def _trial_sweep(
    place: Path, goal: Goal, settings: Mapping[str, Any], machine: Mapping[str, Any]
) -> Sweep:
    """Return the sweep of one run that a trial is: new, or that of a trial it goes on with."""
    plan = goal.plan({TRIAL: settings}, seeds=(1,), episodes=1)
    if not (place / PLAN_FILE).is_file():
        try:
            Sweep.new(place, plan, machine).write()
        except UserError as error:  # a combination that cannot run is a trial that failed
            raise TrialError(str(error)) from error
    sweep = Sweep.open(place)
    if sweep.plan != plan:
        raise UserError(
            f"{place} is a trial of another study: remove {place.parent}, or name another folder "
            "with -f"
        )
    return sweep


def _train_trial(trial: Any, sweep: Sweep, launch: Launch, stop: Stop) -> float:
    """Train a trial, report its evaluations, stop it where it is hopeless; return its value."""
    import optuna

    [job] = sweep.plan.jobs()
    had, reported, deaths, is_hopeless = len(_evaluations(sweep, job)), 0, 0, False
    handle = launch(sweep, job)
    try:
        while True:
            if stop.reason() is not None:
                raise CutOffError("cut off")
            code = handle.poll()
            means = _evaluations(sweep, job)
            for step, mean in itertools.islice(means.items(), reported, None):
                trial.report(mean, step)
                reported += 1
                # Asked at each step, for each is compared with others of that step. What it had
                # when it was cut off was judged then.
                is_hopeless |= trial.should_prune() and reported > had
            if code is not None:
                deaths += 1
                if code == 0 or not may_try_again(code, deaths):
                    break
                handle = launch(sweep, job)  # it was killed: it goes on from its checkpoint
                continue
            if is_hopeless:
                raise optuna.TrialPruned
            time.sleep(POLL_S)
    finally:
        handle.terminate()
        handle.wait()
    if code != 0:
        raise TrialError(why_it_ended(sweep, job, code))
    if not means:
        raise TrialError(f"no evaluation is in {sweep.run(job).evaluations_file}")
    value = value_of(list(means.values()))
    with contextlib.closing(EventLog(sweep.run(job).tensorboard, warn=print)) as events:
        events.scalars(sweep.config(job).n_timesteps, {"score/trial": value})
    return value


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
    rows = zip(steps, means, strict=True)
    return {int(step): mean for step, mean in rows if math.isfinite(step + mean)}


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


def _num_ended(study: "optuna.Study") -> int:
    """Return how many trials will not go on, whether they were trained, stopped, or failed."""
    from optuna.trial import TrialState

    return sum(
        trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or FAILURE in trial.user_attrs
        for trial in study.get_trials(deepcopy=False)
    )


def _take_up(study: "optuna.Study", folder: Path, trial: "optuna.trial.FrozenTrial") -> None:
    """Let a new trial go on with one that was cut off.

    One that another process drives is left alone, and so is one whose folder is not here: it is on
    another machine, or was cut off before it had one.
    """
    from optuna.trial import TrialState

    number = _folder_number(trial)
    if not (folder / "trials" / f"{number:04d}" / PLAN_FILE).is_file():
        return
    with contextlib.suppress(LockedError), _held_trial(folder, number):
        study.enqueue_trial(trial.params, user_attrs={GOES_ON_WITH: number})
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
