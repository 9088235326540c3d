"""dqn-train: start a run or resume one."""

import argparse
import contextlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dqn_zoo.cli.arguments import command, flag_of
from dqn_zoo.cli.output import work_is_kept
from dqn_zoo.cli.play_session import print_warning
from dqn_zoo.cli.preview import hint_on_unfinished, preview
from dqn_zoo.cli.train_arguments import build_parser, overrides_from
from dqn_zoo.cli.train_backup import backup_of, sends_the_end
from dqn_zoo.cli.train_checks import check_flags, track_to
from dqn_zoo.system import shell
from dqn_zoo.system.extras import need
from dqn_zoo.system.stopwatch import Stopwatch, profile_lines

if TYPE_CHECKING:
    from dqn_zoo.cli.train_for import Fitted
    from dqn_zoo.runs.run import Run
    from dqn_zoo.settings.config import Config
    from dqn_zoo.settings.recipes import Resolved
    from dqn_zoo.training.backup import Backup
    from dqn_zoo.training.invocation import Outcome, TrainOptions


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run dqn-train and return its exit code; `training.invocation.EXIT_CODES` lists them."""
    stopwatch = Stopwatch()
    warnings.showwarning = print_warning
    flags = build_parser().parse_args(arguments)
    if flags.list_algos:
        return _list_algos()
    check_flags(flags)
    with _page(flags) as begin_page:
        choose = _new_run if flags.resume is None else _resumed_run
        start = choose(flags, stopwatch, begin_page)
        outcome = None if start is None else start()
    if outcome is None:
        return 0
    profile = profile_lines(stopwatch.seconds()) if flags.profile else ()
    return _report(outcome, profile, _resume_flags(flags))


# PyTorch takes a second to import, so it comes after everything that can be refused without it.


def _resumed_run(
    flags: argparse.Namespace, stopwatch: Stopwatch, begin_page: Callable[[Path], None]
) -> "Callable[[], Outcome] | None":
    """Return what goes on with a run; None: only its backup was left to do, and is done."""
    run, config, from_step = _run_to_resume(flags)
    backup = backup_of(flags, run)
    if from_step is None and sends_the_end(flags, run, backup):
        return None
    from dqn_zoo.training.starting import resume

    begin_page(run.path.absolute().parent.parent)
    options = _options(flags, stopwatch, backup)
    return partial(resume, run, config, from_step=from_step, options=options, stopwatch=stopwatch)


def _new_run(
    flags: argparse.Namespace, stopwatch: Stopwatch, begin_page: Callable[[Path], None]
) -> "Callable[[], Outcome] | None":
    """Return what begins a run; None: its settings were to be printed, and are."""
    resolved, fitted = _resolve(flags), None
    backup = None if flags.print_config else backup_of(flags, None)
    track = None if flags.print_config else track_to(flags)
    if "for" in flags.given or not flags.print_config:
        resolved = _with_threads(resolved)
    if "for" in flags.given:
        from dqn_zoo.cli.train_for import fit_to_time

        fitted = fit_to_time(resolved, flags, overrides_from(flags).flags, stopwatch)
        resolved = fitted.resolved
    if flags.print_config:
        from dqn_zoo.settings.recipes import format_config

        print(format_config(resolved), end="")
        return None
    from dqn_zoo.training.starting import train

    return partial(
        train,
        resolved.config,
        log_folder=flags.log_folder,
        trained_agent=flags.trained_agent,  # looked at in _resolve
        options=replace(_options(flags, stopwatch, backup), track=track),
        announce=partial(_announce, resolved, flags, fitted=fitted, begin_page=begin_page),
        stopwatch=stopwatch,
    )


@contextlib.contextmanager
def _page(flags: argparse.Namespace) -> Iterator[Callable[[Path], None]]:
    """Yield what begins a page beside the run, which ends behind the block; without one, nothing.

    Raises:
        UserError: the extra is missing.
    """
    if not flags.watch:
        yield lambda log_folder: None
        return
    from dqn_zoo.cli.watch import open_page
    from dqn_zoo.watching.beside import page_beside

    with contextlib.ExitStack() as ending:
        need("watch", "--watch")
        begin = ending.enter_context(page_beside(print_warning))

        def begin_page(log_folder: Path) -> None:
            address = begin(log_folder)
            print(f"watch it at {address}", flush=True)
            open_page(address, asked=not flags.no_browser)

        yield begin_page


def _list_algos() -> int:
    """Print every recipe with its first line."""
    from dqn_zoo.settings.recipe_files import available_recipes, describe_recipe

    recipes = sorted(available_recipes().items())
    width = max(len(name) for name, _ in recipes)
    for name, path in recipes:
        print(f"{name:<{width}}  {describe_recipe(path)}".rstrip())
    return 0


def _resolve(arguments: argparse.Namespace) -> "Resolved":
    """Merge recipe or the run that the weights come from, file and flags."""
    from dqn_zoo.settings.recipes import resolve

    overrides = overrides_from(arguments)
    given = None
    if arguments.trained_agent is not None:
        from dqn_zoo.play.given import check_fit, find_given

        given = find_given(arguments.trained_agent, arguments.log_folder)
    resolved = resolve(
        env=arguments.env,
        algo=arguments.algo,
        conf_file=arguments.conf_file,
        overrides=overrides.values,
        flags=overrides.flags,
        started_from=None if given is None else given.source,
        device=_device(overrides.values) if arguments.algo is None else None,
        may_shorten=True,
    )
    if given is not None:
        check_fit(given, resolved.config, resolved.sources)
    return resolved


def _device(overrides: Mapping[str, object]) -> str:
    """Return where the run will learn, as far as the command line says."""
    asked = overrides.get("device")
    if asked in ("cpu", "mps"):
        return str(asked)
    from dqn_zoo.system.machine import choose_device

    return choose_device("auto")


def _with_threads(resolved: "Resolved") -> "Resolved":
    """Try out how many threads suit the run, where nobody asked for a number."""
    from dqn_zoo.system.machine import flush_denormals
    from dqn_zoo.training.preparation import complete
    from dqn_zoo.training.threads import try_threads

    flush_denormals()  # whatever is tried, here or for --for, may start PyTorch's threads
    if resolved.config.num_threads > 0:
        return resolved
    trial = try_threads(complete(resolved.config))
    if trial.note is None:
        return resolved
    return replace(
        resolved,
        config=resolved.config.model_copy(update={"num_threads": trial.num_threads}),
        sources=resolved.sources | {"num_threads": "tried just now"},
        notes=(*resolved.notes, trial.note),
    )


def _announce(
    resolved: "Resolved",
    flags: argparse.Namespace,
    config: "Config",
    *,
    fitted: "Fitted | None",
    begin_page: Callable[[Path], None],
) -> None:
    """Say what the run is about to do, and what was begun before it."""
    for line in preview(resolved, config, flags.time_limit, fitted):
        print(line, flush=True)  # the start of the emulators may be ended where it stands
    for line in hint_on_unfinished(flags.log_folder, config):
        print(line, flush=True)
    begin_page(flags.log_folder)


def _run_to_resume(arguments: argparse.Namespace) -> "tuple[Run, Config, int | None]":
    """Find a run, its own settings but for those that may change, and the step to go back to."""
    from dqn_zoo.runs.finding import find_run
    from dqn_zoo.runs.going_back import split_checkpoint
    from dqn_zoo.settings.config import build_config
    from dqn_zoo.settings.games import parse_game
    from dqn_zoo.settings.recipes import load_config
    from dqn_zoo.settings.short_runs import default_save_freq
    from dqn_zoo.system.machine import choose_device, flush_denormals

    asked, from_step = split_checkpoint(arguments.resume)
    if asked.startswith("hf://"):
        from dqn_zoo.sharing.backup_fetch import fetch_run

        flush_denormals()
        goes_further = arguments.n_timesteps is not None
        asked = str(
            fetch_run(asked, log_folder=arguments.log_folder, may_be_finished=goes_further).path
        )
    run = find_run(
        arguments.log_folder,
        run=asked or None,
        algo=arguments.algo,
        game=None if arguments.env is None else parse_game(arguments.env).game,
        exp_id=arguments.exp_id,
    )
    config = load_config(run.config_file)
    changes, flags = overrides_from(arguments)
    changes.pop("n_timesteps", None)  # where this part of the run ends, see _options
    if "device" in changes and choose_device(str(changes["device"])) != config.device:
        # Chosen anew where the device chose: another one asks for others.
        changes.setdefault("num_threads", 0)
        if config.save_freq == default_save_freq(config.n_timesteps, config.device):
            changes["save_freq"] = None
    return run, build_config(config.model_dump() | changes, flags), from_step


def _options(
    arguments: argparse.Namespace, stopwatch: Stopwatch, backup: "Backup | None"
) -> "TrainOptions":
    from dqn_zoo.training.backup import NoBackup
    from dqn_zoo.training.invocation import TrainOptions

    time_limit_s = arguments.time_limit
    if "for" in arguments.given:  # counts from the command's start
        time_limit_s = max(getattr(arguments, "for") - sum(stopwatch.seconds().values()), 0.0)
    return TrainOptions(
        until_steps=arguments.n_timesteps if arguments.resume is not None else None,
        time_limit_s=time_limit_s,
        progress=arguments.progress,
        tensorboard_folder=arguments.tensorboard_log,
        command=(Path(sys.argv[0]).name, *sys.argv[1:]),
        backup=backup or NoBackup(),
        resume_flags=_resume_flags(arguments),
    )


def _resume_flags(arguments: argparse.Namespace) -> dict[str, str]:
    """Return what a resume set for itself: the run's settings do not hold it."""
    if arguments.resume is None:
        return {}
    given = [dest for dest in ("device", "num_threads", "cuda_graph") if dest in arguments.given]
    return {flag_of(dest): str(getattr(arguments, dest)) for dest in given}


def _report(outcome: "Outcome", profile: Iterable[str], resume_flags: Mapping[str, str]) -> int:
    """Say where the time went, where the run stands and what to do next; return the exit code."""
    from dqn_zoo.runs.run import resume_with
    from dqn_zoo.system.signals import leave_closed_terminal
    from dqn_zoo.training.invocation import EXIT_CODES

    path = outcome.run.path
    leave_closed_terminal()  # a run that was disowned outlives it
    work_is_kept()
    with contextlib.suppress(BrokenPipeError):  # the run is over, whoever reads this or not
        for line in profile:
            print(line)
        if outcome.reason == "finished":
            print(f"finished {path} at step {outcome.steps:,}")
            print("watch it: " + shell.command("dqn-enjoy", "--run", path))
        else:
            saved = "saved" if outcome.run.checkpoint_steps() else "with nothing to save yet"
            print(f"stopped {path} at step {outcome.steps:,} ({outcome.reason}), {saved}")
            print("resume it: " + resume_with(path, resume_flags))
            if outcome.run.model_file.exists():
                print("watch it: " + shell.command("dqn-enjoy", "--run", path))
    return EXIT_CODES[outcome.reason]


if __name__ == "__main__":
    sys.exit(main())
