"""What dqn-bench says of a plan before days are spent on it: what it compares and what it takes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dqn_zoo.experiments.job_needs import Needs
from dqn_zoo.experiments.plan import Sweep, Variant
from dqn_zoo.experiments.summary import conditions_of, differences
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.protocols import protocol_from_config, rules_in_words
from dqn_zoo.training.rates import about


def print_preview(
    sweep: Sweep,
    configs: Mapping[tuple[str, str], Config],
    needs: Mapping[tuple[str, str], Needs],
    where: str,
    at_a_time: int | None,
) -> None:
    """Print the plan and its cost; `at_a_time` is None where somebody else decides."""
    plan = sweep.plan
    # As the table will say it, before anything is computed for it.
    differing = differences({place: conditions_of(config) for place, config in configs.items()})
    left = [job for job in plan.jobs() if not sweep.is_done(job)]
    of_left = [needs[job.variant, job.game] for job in left]
    core_hours = sum(need.seconds * need.cores for need in of_left) / 3_600
    lines = [
        f"{len(plan.jobs())} jobs in {sweep.folder}, {len(plan.jobs()) - len(left)} of them done",
        *(f"  note         {note}" for note in sweep.notes),
        *(f"  warning      {warning}" for warning in (*sweep.warnings, *differing)),
        f"  games        {', '.join(plan.games)}",
        f"  seeds        {', '.join(map(str, plan.seeds))}",
        f"  at the end   {plan.episodes} full games with each of the last, best and online weights "
        "that a run has",
    ]
    for variant in plan.variants:
        places = [place for place in configs if place[0] == variant.name]
        lines += _variant_lines(
            variant, [configs[place] for place in places], [needs[place] for place in places]
        )
    lines.append(f"  where        {where}")
    seconds = sum(need.seconds for need in of_left)
    takes = "" if at_a_time is None else f", about {about(seconds / at_a_time)} from now"
    lines.append(f"  will take    about {core_hours:,.1f} core-hours{takes}, beside evaluations")
    print("\n".join(lines), flush=True)


def _variant_lines(
    variant: Variant, configs: Sequence[Config], needs: Sequence[Needs]
) -> list[str]:
    """Say what a variant is, and what its jobs take: from the least of its games to the most."""
    cores = max(need.cores for need in needs)
    own = ", ".join(f"{key}={value}" for key, value in variant.settings.items())
    takes = [
        " or ".join(sorted({rules_in_words(protocol_from_config(each)) for each in configs})),
        f"{_span((each.n_timesteps for each in configs), '{:,}'.format)} steps",
        f"{_span((need.memory_bytes for need in needs), lambda b: f'{b / 1e9:.1f}')} GB",
        f"{cores} thread{'s' if cores > 1 else ''}",
        *(["1 GPU"] if any(need.gpus for need in needs) else []),
        f"about {_span((need.seconds for need in needs), about)} a run",
    ]
    head = f"{variant.algo}{f' with {own}' if own else ''}"
    note = max(needs, key=lambda need: need.seconds).busy_note
    return [
        f"  {variant.name:<12} {head}: protocol {', '.join(takes)}",
        *([] if note is None else [f"  {'':<12} {note}"]),
    ]


def _span(values: Iterable[float], text: Callable[[Any], str]) -> str:
    """Write the least and the greatest of some numbers, once where they read alike."""
    ordered = sorted(values)
    return " to ".join(dict.fromkeys((text(ordered[0]), text(ordered[-1]))))
