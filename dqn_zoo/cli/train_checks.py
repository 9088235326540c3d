"""Which flags of dqn-train go together, and where a run of theirs is tracked."""

import argparse
from typing import TYPE_CHECKING

from dqn_zoo.cli.arguments import flag_of
from dqn_zoo.errors import UserError

if TYPE_CHECKING:
    from dqn_zoo.runs.trackers import TrackTo


def check_flags(arguments: argparse.Namespace) -> None:
    """Refuse flags that say nothing beside the others: a resumed run keeps its settings.

    Raises:
        UserError: such a flag was given.
    """
    given = {flag_of(dest) for dest in arguments.given}
    if arguments.no_browser and not arguments.watch:
        raise UserError("--no-browser goes with --watch, which serves a page beside the run")
    if arguments.hub_backup == "none" and "--hub-backup-every" in given:
        raise UserError("--hub-backup none ends the backup: leave --hub-backup-every out")
    if "--resume" not in given:
        if "--hub-backup-every" in given and "--hub-backup" not in given:
            raise UserError("--hub-backup-every says how often: say where to with --hub-backup")
        if "--exp-id" in given:
            raise UserError("--exp-id chooses the run of --resume; a new run takes the next number")
        return
    if "--for" in given:
        raise UserError(
            "--for chooses the length of a new run; a resumed one keeps its own, and --time-limit "
            "saves and stops it"
        )
    choosing = sorted(given & {"--env", "--algo", "--exp-id"})
    if choosing and arguments.resume.startswith("hf://"):
        raise UserError(
            f"{choosing[0]} chooses among runs, {arguments.resume} is one: leave it out"
        )
    refused = sorted(given - {"--resume"} - _WITH_RESUME)
    if refused:
        raise UserError(
            f"{refused[0]} cannot go with --resume, which keeps the settings of the run; "
            f"only {', '.join(sorted(_WITH_RESUME))} can; -i starts a new run from given weights"
        )


def track_to(arguments: argparse.Namespace) -> "TrackTo | None":
    """Return where a new run is to be tracked, its package imported; None: nowhere.

    Raises:
        UserError: the package is missing, or a flag means nothing here.
    """
    of_tracking = {"project": "project_name", "entity": "entity", "group": "group", "tags": "tags"}
    given = {key: f"wandb_{name}" for key, name in of_tracking.items()}
    given = {key: dest for key, dest in given.items() if dest in arguments.given}
    if arguments.track is None:
        if given:
            flag = flag_of(next(iter(given.values())))
            raise UserError(f"{flag} is of a tracked run: add --track or --track trackio")
        return None
    if arguments.track == "trackio" and "entity" in given:
        raise UserError(
            "--wandb-entity: Trackio has no entities; TRACKIO_SPACE_ID=USER/SPACE in the "
            "environment sends a run to a Space"
        )
    from dqn_zoo.runs.trackers import TrackTo, import_tracker

    import_tracker(arguments.track)
    return TrackTo(
        arguments.track, **{key: getattr(arguments, dest) for key, dest in given.items()}
    )


_WITH_RESUME = {
    "--n-timesteps", "--time-limit", "--progress", "--profile", "--watch", "--no-browser",
    "--device", "--num-threads", "--cuda-graph", "--log-folder", "--hub-backup",
    "--hub-backup-every", "--env", "--algo", "--exp-id",
}  # fmt: skip
