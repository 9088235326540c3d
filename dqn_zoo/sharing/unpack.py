"""From the files of a published agent to a run folder like any other."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dqn_zoo.errors import UserError
from dqn_zoo.runs.manifest import read_manifest, write_origin_manifest
from dqn_zoo.runs.run import Run, claim_run
from dqn_zoo.settings.games import protocol_from_config
from dqn_zoo.settings.recipes import dump_config
from dqn_zoo.sharing.agent_files import WEIGHTS, AgentFiles, check_file, read_results


def unpack(
    agent: AgentFiles,
    origin: Mapping[str, Any],
    *,
    score: str | None,
    log_folder: Path,
    command: Sequence[str],
    group: str | None = None,
) -> Run:
    """Make a run folder.

    Args:
        agent: its files.
        origin: where it came from, as in `{"repo": "user/name", "commit": "..."}`.
        score: that its card claims, as "622.50 +/- 201.56".
        log_folder: folder of all runs.
        command: the command line, for the manifest.
        group: folder in it; None: that of the recipe.

    Raises:
        UserError: it cannot be written; then nothing is left.
    """
    config = agent.description.config
    run = claim_run(log_folder, group or config.algo, config.env)
    try:
        run.config_file.write_text(dump_config(config), encoding="utf-8")
        shutil.copyfile(agent.weights, run.model_file)
        shutil.copyfile(agent.results, run.results_file)
        training = agent.description.training
        write_origin_manifest(
            run,
            command=command,
            seed=config.seed,
            protocol=asdict(protocol_from_config(config)),
            steps=_count(training.get("steps")),
            origin={
                **origin,
                "score": score,
                "training": training,
                "results": read_results(agent.results),
            },
        )
    except BaseException as error:
        shutil.rmtree(run.path, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"{run.path} cannot be written ({error.strerror})") from error
        raise
    return run


def unpacked_before(
    agent: AgentFiles, origin: Mapping[str, Any], log_folder: Path, group: str | None = None
) -> Run | None:
    """Return the run folder that `unpack` made of the same agent.

    Raises:
        UserError: its weights were changed since.
    """
    config = agent.description.config
    for path in sorted((log_folder / (group or config.algo)).glob(f"{config.env}_*")):
        run = Run(path)
        try:
            found = read_manifest(run).get("origin", {})
        except UserError:
            continue
        same = {key: found.get(key) for key in origin} == dict(origin)
        if same and run.model_file.exists():
            check_file(agent.description, WEIGHTS, run.model_file)
            return run
    return None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
