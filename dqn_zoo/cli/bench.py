"""dqn-bench: many games, seeds and variants from one plan, and what they say together."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dqn_zoo.cli.arguments import (
    Parser,
    add_number,
    add_set,
    command,
    flag_of,
    flag_value,
    parse_setting,
    parse_whole_number,
    parsed_by,
    settings_of,
)
from dqn_zoo.cli.output import work_is_kept
from dqn_zoo.cli.play_session import print_warning
from dqn_zoo.errors import UserError
from dqn_zoo.system.files import replace_file, writing

if TYPE_CHECKING:
    from dqn_zoo.experiments.plan import Plan, Sweep, Variant
    from dqn_zoo.experiments.references import Reference
    from dqn_zoo.experiments.sweep import Launch

_PLAN_FLAGS = ("algos", "games", "seeds", "variant", "n_timesteps", "set", "episodes")

_EPILOG = """\
  dqn-bench --algos laptop,laptop-qrdqn --games pong,boxing --seeds 2 -n 2e5 -f sweeps/first
  dqn-bench -f sweeps/first                 # continue with what is left, or show the table
  dqn-bench --reference rl-zoo              # your own runs in logs, beside RL-Zoo's scores
  dqn-bench --variant greedy=laptop,bootstrap=greedy --algos laptop --games pong --dry-run -f two

A plan is made once and kept in FOLDER/plan.yml; see docs/experiments.md.
"""


def build_parser() -> Parser:
    """Return the parser of dqn-bench."""
    parser = Parser(
        "dqn-bench", "Train every variant on every game with every seed, and compare them.", _EPILOG
    )
    _add_plan(parser.add_argument_group("the plan"))
    _add_running(parser.add_argument_group("how it is run"))
    output = parser.add_argument_group("output")
    output.add_argument("--table", action="store_true", help="show the table so far, run nothing")
    output.add_argument(
        "--reference",
        action="append",
        default=(),
        metavar="NAME",
        help="published scores to show alongside: rl-zoo, dopamine, dopamine-impala, or "
        "Dopamine's after fewer steps, dopamine-750k, -1m, -1250k and -1500k",
    )
    return parser


@command
@parsed_by(build_parser)
def main(arguments: argparse.Namespace) -> int:
    """Run dqn-bench and return its exit code: 0, 1 where a job failed, 2 for a user's mistake."""
    from dqn_zoo.experiments.own_runs import own_runs_as_markdown
    from dqn_zoo.experiments.plan import PLAN_FILE, Sweep
    from dqn_zoo.experiments.references import find_reference

    _refuse_clashes(arguments)
    references = [find_reference(name) for name in arguments.reference]
    has_no_plan = not (arguments.folder / PLAN_FILE).is_file()
    if references and has_no_plan and arguments.given <= {"reference", "table", "folder"}:
        print(own_runs_as_markdown(arguments.folder, references, print_warning), end="")
        return 0
    if arguments.job is not None:
        return _run_one(Sweep.open(arguments.folder), arguments)
    if arguments.table:
        _report(Sweep.open(arguments.folder), references)
        return 0
    sweep = _sweep(arguments)
    launch, at_once = _launcher(sweep, arguments)
    if arguments.dry_run:
        for job in sweep.plan.jobs():
            print(f"{sweep.command} --job {job.name}")
        if sweep.unwritten is not None:
            print("nothing is written: with --plan-only in place of --dry-run these commands work")
        return 0
    _write(sweep)
    if arguments.plan_only:
        print(f"written; run it: {sweep.command}, or with --job 1 and so on")
        return 0
    return _run_all(sweep, launch, at_once, references)


def _add_plan(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--algos", type=_names, metavar="A,B", help="recipes to compare")
    group.add_argument(
        "--variant",
        type=flag_value(_variant),
        action="append",
        default=(),
        metavar="NAME=ALGO[,KEY=VALUE...]",
        help="a recipe with settings of its own; may be repeated",
    )
    group.add_argument(
        "--games", type=_names, metavar="A,B", help="games, or atari-3, atari-5, atari-57"
    )
    add_number(group, "--seeds", least=1, help="runs with seeds 1 to N (default: 3)")
    group.add_argument(
        "-n",
        "--n-timesteps",
        type=flag_value(parse_whole_number),
        metavar="N",
        help="steps of every run (default: the recipe's)",
    )
    add_set(group, "single settings of all variants; may be repeated")
    add_number(
        group,
        "--episodes",
        least=1,
        help="full games that every run plays at its end (default: 30)",
    )
    group.add_argument(
        "--plan", type=Path, metavar="FILE", help="a plan written by hand, instead of these flags"
    )
    group.add_argument(
        "-f",
        "--folder",
        type=Path,
        default=Path("logs"),
        metavar="FOLDER",
        help="folder of the sweep; one that holds a plan is continued (default with --reference "
        "alone: logs)",
    )


def _add_running(group: argparse._ArgumentGroup) -> None:
    add_number(group, "--jobs", least=1, help="jobs at once (default: what cores and memory allow)")
    group.add_argument(
        "--ray", metavar="ADDRESS", help="run the jobs on a Ray cluster: its address, or auto"
    )
    group.add_argument(
        "--dry-run", action="store_true", help="show plan, cost and commands, and stop"
    )
    group.add_argument(
        "--plan-only", action="store_true", help="write the plan, run nothing (for SLURM)"
    )
    group.add_argument(
        "--job", metavar="JOB", help="run only this job, by name or number (for SLURM)"
    )
    group.add_argument("--tethered", action="store_true", help=argparse.SUPPRESS)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _variant(text: str) -> "Variant":
    """Read NAME=ALGO,KEY=VALUE,...; a value may be a list, [0, 0, 8, 8]."""
    from dqn_zoo.experiments.plan import Variant

    name, _, rest = text.partition("=")
    algo, *settings = re.split(r",(?![^\[]*\])", rest)
    if not name.strip() or not algo.strip():
        raise UserError(f"expected NAME=ALGO[,KEY=VALUE...], got {text!r}")
    own = dict(map(parse_setting, settings))
    if len(own) < len(settings):
        raise UserError(f"variant {name.strip()} names a key twice; keep one")
    return Variant(name.strip(), algo.strip(), own)


def _refuse_clashes(arguments: argparse.Namespace) -> None:
    """Refuse flags that others would ignore, and a sweep among the runs."""
    if "folder" not in arguments.given and not arguments.given <= {"reference", "table"}:
        raise UserError("a sweep has a folder of its own: name it, such as -f sweeps/first")
    clashes = {
        "job": arguments.given - {"job", "folder", "tethered"},
        "table": arguments.given - {"table", "folder", "reference"},
        "reference": arguments.given & {"dry_run", "plan_only"},  # which show no scores
        "dry_run": arguments.given & {"plan_only"},
    }
    for flag, clash in clashes.items():
        if flag in arguments.given and clash:
            raise UserError(f"{flag_of(flag)} cannot go with {flag_of(min(clash))}: leave one out")


def _sweep(arguments: argparse.Namespace) -> "Sweep":
    """Return the sweep to work off: the one in the folder, or a new one of the flags' plan."""
    from dqn_zoo.experiments.job_needs import machine_settings
    from dqn_zoo.experiments.plan import PLAN_FILE, Sweep

    plan = _plan(arguments)
    if plan is None or (arguments.folder / PLAN_FILE).is_file():
        sweep = Sweep.open(arguments.folder)
        if plan not in (None, sweep.plan):
            raise UserError(
                f"{arguments.folder} holds another plan: continue it with {sweep.command}, or name "
                "another folder with -f"
            )
        return sweep
    machine = machine_settings(arguments.jobs or len(plan.jobs()))
    return Sweep.new(arguments.folder, plan, machine)


def _plan(arguments: argparse.Namespace) -> "Plan | None":
    """Return the plan that the flags describe; None where they describe none."""
    from dqn_zoo.experiments.plan import DEFAULT_EPISODES, Variant, make_plan, read_plan

    given = [key for key in _PLAN_FLAGS if key in arguments.given]
    if arguments.plan is not None:
        if given:
            raise UserError(f"--plan holds the whole plan: leave out {flag_of(given[0])}")
        return read_plan(arguments.plan)
    if not given:
        return None

    variants = [Variant(algo, algo, {}) for algo in arguments.algos or ()]
    variants += arguments.variant
    if not variants:
        raise UserError("a plan needs --algos or --variant, such as --algos dqn,double-dqn")
    if not arguments.games:
        raise UserError("a plan needs --games, such as --games pong,breakout or --games atari-5")
    settings = settings_of(arguments)
    if arguments.n_timesteps is not None:
        if "n_timesteps" in settings:
            raise UserError("n_timesteps is given twice, by -n and --set; keep one")
        settings["n_timesteps"] = arguments.n_timesteps
    return make_plan(
        games=arguments.games,
        num_seeds=arguments.seeds or 3,
        variants=variants,
        settings=settings,
        episodes=arguments.episodes or DEFAULT_EPISODES,
    )


def _run_one(sweep: "Sweep", arguments: argparse.Namespace) -> int:
    from dqn_zoo.experiments.job import run_job
    from dqn_zoo.system.processes import end_with_parent

    if arguments.tethered:
        end_with_parent()
    return run_job(sweep, sweep.find_job(arguments.job))


def _launcher(sweep: "Sweep", arguments: argparse.Namespace) -> "tuple[Launch, int]":
    """Say what will be run and how long it takes; return what starts jobs, and how many at once."""
    from dqn_zoo.cli.bench_preview import print_preview
    from dqn_zoo.experiments.job_needs import jobs_at_once, needs_of_jobs, side_by_side
    from dqn_zoo.experiments.sweep import JobProcess

    configs = sweep.configs()
    needs = needs_of_jobs(configs)
    left = [needs[job.variant, job.game] for job in sweep.plan.jobs() if not sweep.is_done(job)]
    if arguments.ray is None:
        has_work = left and not arguments.plan_only
        at_once = jobs_at_once(left, arguments.jobs, num_left=len(left)) if has_work else 1
        at_a_time = side_by_side(left, at_once) if left else 1
        print_preview(sweep, configs, needs, f"{at_once} at once on this machine", at_a_time)
        return JobProcess, at_once
    from dqn_zoo.experiments.cluster import Cluster

    cluster = Cluster(arguments.ray)
    print_preview(sweep, configs, needs, f"on the Ray cluster {arguments.ray}", arguments.jobs)
    at_once = arguments.jobs or len(sweep.plan.jobs())
    return (lambda sweep, job: cluster.launch(sweep, job, needs[job.variant, job.game])), at_once


def _write(sweep: "Sweep") -> None:
    """Write a new plan; of two starts at once one does."""
    from dqn_zoo.experiments.sweep import hold_sweep

    if sweep.unwritten is None:
        return
    with writing(sweep.folder, "name another with -f"):
        sweep.folder.mkdir(parents=True, exist_ok=True)
    with hold_sweep(sweep):
        sweep.write()


def _run_all(
    sweep: "Sweep", launch: "Launch", at_once: int, references: "Sequence[Reference]"
) -> int:
    from rich.console import Console

    from dqn_zoo.experiments.board import Board
    from dqn_zoo.experiments.sweep import work_off

    try:
        with Board(Console()) as board:
            statuses = work_off(sweep, launch, at_once, board.show)
    except KeyboardInterrupt:
        print(f"stopped, every job has saved; continue it: {sweep.command}")
        raise
    work_is_kept()
    _report(sweep, references)
    failed = [job.name for job, status in statuses.items() if status.state == "failed"]
    if failed:
        print(
            f"{len(failed)} of {len(statuses)} jobs failed; their output is in "
            f"{sweep.folder / 'logs'}; {sweep.command} retries them",
            file=sys.stderr,
        )
    return 1 if failed else 0


def _report(sweep: "Sweep", references: "Sequence[Reference]") -> None:
    """Print the table and keep it in the folder, for people and for programs."""
    from dqn_zoo.experiments.plots import draw_aggregates
    from dqn_zoo.experiments.summary import as_json, as_markdown, summarize_sweep

    summary = summarize_sweep(sweep)
    table = as_markdown(summary, references)
    print(table, end="")
    try:
        replace_file(sweep.folder / "results.md", table.encode())
        results = json.dumps(as_json(summary), indent=2)
        replace_file(sweep.folder / "results.json", results.encode())
        picture = sweep.folder / "aggregates.png"
        is_drawn = draw_aggregates(summary, picture)
    except OSError as error:
        raise UserError(
            f"the table above could not be kept in {sweep.folder}: {error.strerror}"
        ) from error
    if is_drawn:
        print(f"picture: {picture}")


if __name__ == "__main__":
    sys.exit(main())
