"""One job of a sweep, in a process of its own: train, or go on, then play the games."""

import contextlib
import json
import sys
import time
from dataclasses import replace

import torch

from dqn_zoo.experiments.plan import Job, Sweep, WhichWeights
from dqn_zoo.experiments.summary import read_score
from dqn_zoo.play.agent import build_agent
from dqn_zoo.play.evaluation import ENVS_PER_CORE, Game
from dqn_zoo.play.results import results
from dqn_zoo.play.session import Session, check_unchanged, choose_weights, play_session
from dqn_zoo.play.statistics import summarize
from dqn_zoo.play.weights import ONLINE
from dqn_zoo.runs.logfiles import EventLog
from dqn_zoo.runs.manifest import has_finished, read_manifest
from dqn_zoo.runs.run import discard_run, lock
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.settings.yaml_reader import as_yaml
from dqn_zoo.system.files import replace_file
from dqn_zoo.system.locks import LockedError
from dqn_zoo.system.machine import choose_device, default_num_threads, usable_cores
from dqn_zoo.training.invocation import EXIT_CODES, Outcome, TrainOptions
from dqn_zoo.training.starting import resume, train

PATIENCE_S = 120.0  # a process that was asked to end may still be saving


def run_job(sweep: Sweep, job: Job) -> int:
    """Bring a job to its end and return an exit code: 0 when it is done, or why it stopped.

    Whatever was done before, by any process on any machine that sees the folder, is not done again.

    Raises:
        UserError: for what another start would not mend.
    """
    if sweep.is_done(job):
        return 0
    outcome = _train(sweep, job)
    events = EventLog(sweep.run(job).tensorboard, warn=print)
    with contextlib.closing(events):
        events.hparams(_compared(sweep, job))
        if outcome is not None and outcome.reason != "finished":
            return EXIT_CODES[outcome.reason]
        for which in sweep.weights(job):
            if not sweep.results_file(job, which).exists():
                _play(sweep, job, which)
        scores = read_score(sweep, job).by_weights()
        steps = sweep.config(job).n_timesteps
        events.scalars(steps, {f"score/{which}": score for which, score in scores.items()})
    return 0


def _compared(sweep: Sweep, job: Job) -> dict[str, bool | float | str]:
    """Return what tells a job from the others: variant, game, seed, settings that are compared."""
    variants = sweep.plan.variants
    configs = [sweep.config(replace(job, variant=each.name)).model_dump() for each in variants]
    own = sweep.config(job).model_dump()
    keys = {key for key in own if any(config[key] != own[key] for config in configs)}
    keys |= {key for variant in variants for key in variant.settings}
    settings = {key: own[key] for key in own if key in keys - {"env", "algo", "seed"}}
    return {
        "variant": job.variant,
        "game": job.game,
        "seed": job.seed,
        **{
            key: value if isinstance(value, int | float) else as_yaml(value)
            for key, value in settings.items()
        },
    }


def _train(sweep: Sweep, job: Job) -> Outcome | None:
    """Start the run of a job or go on with it; None: it was trained to its end before."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return _start_or_resume(sweep, job)
        except LockedError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.5)


def _start_or_resume(sweep: Sweep, job: Job) -> Outcome | None:
    run, options = sweep.run(job), TrainOptions(progress=False, command=tuple(sys.argv))
    if run.manifest_file.exists():
        if has_finished(read_manifest(run)):
            return None
        return resume(run, load_config(run.config_file), options=options)
    if run.path.exists():  # a start was killed before its first file, unless it is under way
        with lock(run):
            pass
        discard_run(run)
    return train(sweep.config(job), log_folder=sweep.runs, exp_id=job.seed, options=options)


def _play(sweep: Sweep, job: Job, which: WhichWeights) -> None:
    """Play full games with weights of a job, and keep their scores."""
    run, file = sweep.run(job), sweep.results_file(job, which)
    if which == "best" and not run.best_model_file.exists():  # no evaluation: the last are the best
        replace_file(file, sweep.results_file(job, "last").read_bytes())
        return
    config = load_config(run.config_file)
    device = choose_device(config.device)
    num_threads = config.num_threads or default_num_threads(device, usable_cores())
    torch.set_num_threads(num_threads)
    session = Session(
        run=run,
        weights=choose_weights(
            run, "best" if which == "best" else "last", ONLINE if which == ONLINE else None
        ),
        config=config,
        seed=0,
        num_games=sweep.plan.episodes,
        num_envs=min(sweep.plan.episodes, ENVS_PER_CORE * usable_cores()),
        num_threads=num_threads,
        device=device,
    )
    agent = build_agent(session.weights.file, config, device=device)
    check_unchanged(session.weights)
    games: list[Game] = []
    print(f"playing {sweep.plan.episodes} games with the {session.weights.name}", flush=True)
    play_session(session, agent.q_values, on_game=games.append, on_progress=lambda _: None)
    games.sort(key=lambda game: game.index)
    content = results(session, games, summarize([game.score for game in games]))
    replace_file(file, json.dumps(content, indent=2).encode())
