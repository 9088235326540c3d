"""What dqn-train says before it begins: rules, network, machine, and how long it will take."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from dqn_zoo.errors import UserError
from dqn_zoo.system import shell

if TYPE_CHECKING:
    from dqn_zoo.cli.train_for import Fitted
    from dqn_zoo.settings.config import Config
    from dqn_zoo.settings.recipes import Resolved


def preview(
    resolved: "Resolved",
    config: "Config",
    time_limit_s: float | None = None,
    fitted: "Fitted | None" = None,
) -> Iterator[str]:
    """Yield what the run is about to do, and when it will probably end."""
    from dqn_zoo.training.preparation import remarks

    yield _rules(config)
    yield from (f"  note         {note}" for note in resolved.notes)
    yield from _training(config)
    yield from (f"  {kind:<12} {line}" for kind, line in remarks(resolved.config, config))
    yield from _duration(resolved, config, time_limit_s, fitted)


def hint_on_unfinished(log_folder: Path, config: "Config") -> Iterator[str]:
    """Yield a line if the latest run of this game and recipe waits for its resume."""
    from dqn_zoo.runs.finding import find_run
    from dqn_zoo.runs.manifest import has_finished, may_be_training, read_manifest

    try:
        run = find_run(log_folder, algo=config.algo, game=config.env)
        manifest = read_manifest(run)
        if may_be_training(run):
            return
        steps = run.checkpoint_steps()
    except UserError:
        return
    if steps and "origin" not in manifest and not has_finished(manifest):
        resume = shell.command("dqn-train", "--resume", run.path)
        yield f"  hint         {run.path} stopped at step {steps[-1]:,}; {resume} goes on with it"


def _rules(config: "Config") -> str:
    """Say which game is learned by which rules."""
    from dqn_zoo.settings.protocols import protocol_from_config

    protocol = protocol_from_config(config)
    chosen = [
        f"{key} {getattr(protocol, key)}, "
        for key in ("mode", "difficulty")
        if getattr(protocol, key) is not None
    ]
    return (
        f"{config.algo} on {config.env}, {''.join(chosen)}protocol {protocol.name}: sticky actions "
        f"{protocol.action_repeat_probability:g}, up to {protocol.noop_max} no-ops, a lost life "
        f"{'ends' if protocol.terminal_on_life_loss else 'does not end'} the bootstrap"
    )


def _training(config: "Config") -> Iterator[str]:
    """Yield how much is played and learned, and with what."""
    from dqn_zoo.algorithms.choice import algorithm_of
    from dqn_zoo.algorithms.exploration import epsilon_schedule
    from dqn_zoo.schedules import mean_duration, num_lasting
    from dqn_zoo.settings.protocols import FRAMES_PER_STEP

    epsilon = epsilon_schedule(config)
    zeta = config.exploration_zeta
    kept_up = f"; a random action for {mean_duration(zeta):,.1f} steps on average" if zeta else ""
    lasting = num_lasting(config.n_envs, config.exploration_zeta_share)
    if kept_up and lasting < config.n_envs:
        kept_up += f" in {lasting} of {config.n_envs} environments"
    last = f"{epsilon.finals[-1]:.2g}, each environment its own," if len(epsilon.finals) > 1 else ""
    yield (
        f"  steps        {config.n_timesteps:,} ({config.n_timesteps * FRAMES_PER_STEP:,} frames), "
        f"{config.n_envs} environment{'s' if config.n_envs > 1 else ''} at once"
    )
    yield f"  network      {', '.join(_pieces(config))}"
    yield (
        f"  exploration  epsilon {config.exploration_initial_eps:g} to "
        f"{config.exploration_final_eps:g} {last and f'... {last} '}over "
        f"{epsilon.horizon_steps:,} steps{kept_up}"
    )
    for name, line in algorithm_of(config).describe(config).items():
        yield f"  {name:<12} {line}"
    if config.averaged_weights > 0.0:
        yield (
            f"  average      of the weights over some {1 / (1 - config.averaged_weights):,.0f} "
            "updates: it is what plays in evaluations and films, and what is shared"
        )
    yield (
        f"  machine      {config.device}, {config.num_threads} thread"
        f"{'s' if config.num_threads > 1 else ''}, {config.precision}; seed {config.seed}"
    )


def _pieces(config: "Config") -> Iterator[str]:
    """Yield the pieces of the network."""
    width = f" x{config.network_width}" if config.network_width > 1 else ""
    yield f"{config.network}{width}"
    if config.network_pool is not None:
        yield f"pool {config.network_pool}"
    if config.layer_norm:
        yield "layer norm"
    if config.channel_norm:
        yield "channel norm"
    if config.spectral_norm:
        yield "spectral norm"
    if config.dueling:
        yield "dueling"
    if config.mean_expansion:
        yield "mean expansion"
    if config.noisy_sigma is not None:
        yield f"noisy {config.noisy_sigma:g}"


def _duration(
    resolved: "Resolved", config: "Config", time_limit_s: float | None, fitted: "Fitted | None"
) -> Iterator[str]:
    """Yield how long the run will take, and what could be done about it."""
    from dqn_zoo.training.preparation import Estimate, estimate
    from dqn_zoo.training.rates import about

    estimated = Estimate(fitted.seconds, fitted.seconds) if fitted else estimate(config)
    seconds, alone_s = estimated
    end = datetime.now() + timedelta(seconds=min(seconds, 1e10))  # datetime ends with the year 9999
    when = f"{end:%a %H:%M}" if seconds < 6 * 86_400 else f"{end:%Y-%m-%d}"
    evaluations = f", {'with' if fitted else 'beside'} evaluations" if config.eval_freq else ""
    yield f"  will take    about {about(seconds)}, until {when}{evaluations}"
    yield from fitted.lines if fitted else ()
    if estimated.busy_note is not None:
        threads = "; --num-threads 1 loses least to them" if config.num_threads > 1 else ""
        yield f"  busy         {estimated.busy_note}{threads}"
    yield from (f"  warning      {warning}" for warning in resolved.warnings)
    if config.device == "cpu" and not config.algo.startswith("laptop") and alone_s > 2 * 3_600:
        yield (
            "  hint         no GPU: the recipe laptop is made for CPUs, "
            + shell.command("dqn-train", "--env", config.env, "--algo", "laptop")
        )
    if time_limit_s is not None and time_limit_s < seconds:
        yield _hint_on_limit(time_limit_s)


def _hint_on_limit(limit_s: float) -> str:
    """Say that the schedules of the run are made for more than its time."""
    from dqn_zoo.cli.train_for import LEAST_S
    from dqn_zoo.training.rates import about

    hint = f"  hint         it will not be done in {about(limit_s)}: --resume does the rest"
    if limit_s < LEAST_S:
        return hint
    time = f"{limit_s / 60:g}m" if limit_s % 60 == 0 else f"{limit_s:g}s"
    return f"{hint}, or --for {time} instead of --time-limit makes the whole run fit"
