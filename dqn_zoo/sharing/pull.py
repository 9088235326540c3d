"""From the Hub to a run folder: pinned to a commit, checked before anything of it is loaded."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from dqn_zoo.errors import UserError
from dqn_zoo.play.results_file import read_results
from dqn_zoo.runs.elsewhere import takes_foreign
from dqn_zoo.runs.manifest import read_manifest, write_origin_manifest
from dqn_zoo.runs.run import Run, place_run
from dqn_zoo.settings.games import parse_game
from dqn_zoo.settings.protocols import protocol_from_config
from dqn_zoo.settings.recipes import dump_config
from dqn_zoo.sharing import hub
from dqn_zoo.sharing.agent_files import (
    CONFIG,
    LARGEST_BYTES,
    RESULTS,
    WEIGHTS,
    AgentFiles,
    Description,
    check_agent,
    check_file,
    check_listing,
    check_names,
    check_size,
    read_description,
)
from dqn_zoo.sharing.card import read_score
from dqn_zoo.system import shell

Say = Callable[[str], None]

LARGEST_ZIP_BYTES = 2**28
_ZIP_NOT_A_MODEL = "train_eval_metrics.zip"


class Fetched(NamedTuple):
    """A published agent in the cache.

    Attributes:
        repo_id: `owner/name`.
        commit: that it is pinned to.
        agent: its files, checked.
        claim: the score on the card, as "622.50 +/- 201.56"; None where unknown.
    """

    repo_id: str
    commit: str
    agent: AgentFiles
    claim: str | None


class FetchedZip(NamedTuple):
    """A model of Stable-Baselines3 in the cache, not opened.

    Attributes:
        file: the zip.
        game: that the repository is about; None where it does not say.
        origin: where it came from, for the manifest.
    """

    file: Path
    game: str | None
    origin: dict[str, Any]


def pull(repo: str, *, log_folder: Path, command: Sequence[str]) -> Run:
    """Make a run folder from `USER/REPO@REVISION`; what was pulled before is found again.

    Raises:
        UserError: the Hub does not have it, or it is not what it should be; then nothing is left.
    """
    fetched = fetch(repo, say=print)
    origin = {"repo": fetched.repo_id, "commit": fetched.commit}
    run = unpacked_before(fetched.agent, origin, log_folder)
    if run is not None:
        print(f"{run.path} is that commit already")
        return run
    run = unpack(fetched.agent, origin, score=fetched.claim, log_folder=log_folder, command=command)
    print(f"pulled into {run.path}")
    return run


def fetch(repo: str, *, say: Say = lambda _: None) -> Fetched:
    """Download an agent into the cache and check it; offline, take the copy that is there.

    `say` takes a line for the user: the commit.

    Raises:
        UserError: as `pull`; what was refused is removed from the cache.
    """
    takes_it = takes_foreign(Path(repo))
    if takes_it is not None:
        raise UserError(f"{repo} is a local path, not a repository of the Hub: {takes_it} takes it")
    name = hub.parse_repo(repo)
    try:
        remote = hub.look_up(*name)
    except hub.UnreachableError as error:
        return _fetch_cached(name, error, say)
    if remote is None:
        raise UserError(
            f"the Hub has no repository {name.repo_id} that you may see: check the name, or log in "
            "with `hf auth login` if it is private"
        )
    if WEIGHTS not in remote.files and _zips(remote):
        takes_it = shell.command("dqn-import", repo)
        raise UserError(f"{name.repo_id} holds an agent of Stable-Baselines3: {takes_it} takes it")
    check_listing(remote.files, where=name.repo_id)
    say(f"{remote.repo_id} at commit {remote.commit}")
    fetched = _checked(remote.repo_id, remote.commit, remote, from_cache=False)
    hub.remember_branch(fetched.agent.weights, name.revision)
    return fetched


def fetch_sb3(repo: str) -> FetchedZip:
    """Download the zip of a repository of RL-Zoo or Stable-Baselines3, and its results.

    Raises:
        UserError: there is none, there are several, or it is too large; or its results are damaged,
            then both are removed from the cache.
    """
    name = hub.parse_repo(repo)
    remote = hub.look_up(*name)
    if remote is None:
        raise UserError(f"the Hub has no repository {name.repo_id} that you may see")
    zips = _zips(remote)
    if len(zips) != 1:
        found = ", ".join(zips) or "none"
        raise UserError(
            f"{name.repo_id} should hold one zip of Stable-Baselines3, found {found}: "
            "see its page, or try dqn-pull"
        )
    check_size(zips[0], remote.files[zips[0]], LARGEST_ZIP_BYTES, where=name.repo_id)
    origin: dict[str, Any] = {"repo": remote.repo_id, "commit": remote.commit, "file": zips[0]}
    size = remote.files.get(RESULTS)
    with forgotten_if_refused(remote.commit):
        file = hub.download(remote.repo_id, zips[0], remote.commit)
        if size is not None and 0 < size <= LARGEST_BYTES[RESULTS]:
            origin["results"] = read_results(hub.download(remote.repo_id, RESULTS, remote.commit))
            origin["score"] = _claim(remote)
    return FetchedZip(file, _tagged_game(remote.card), origin)


@contextmanager
def forgotten_if_refused(commit: str) -> Iterator[None]:
    """Remove a commit from the cache where a UserError says that it is not what it should be.

    Raises:
        UserError: the one of the block.
    """
    try:
        yield
    except hub.UnreachableError:  # what has arrived need not come again
        raise
    except UserError:
        hub.forget(commit)
        raise


def unpack(
    agent: AgentFiles,
    origin: Mapping[str, Any],
    *,
    score: str | None,
    log_folder: Path,
    command: Sequence[str],
    group: str | None = None,
) -> Run:
    """Make a run folder; `group` is its folder in the log folder, None: that of the recipe.

    `origin` is where the agent came from, as in `{"repo": "user/name", "commit": "..."}`, and
    `score` what its card claims, as "622.50 +/- 201.56".

    Raises:
        UserError: it cannot be written; then nothing is left.
    """
    config, training = agent.description.config, agent.description.training

    def fill(run: Run) -> None:
        run.config_file.write_text(dump_config(config), encoding="utf-8")
        shutil.copyfile(agent.weights, run.model_file)
        shutil.copyfile(agent.results, run.results_file)
        write_origin_manifest(
            run,
            command=command,
            seed=config.seed,
            protocol=protocol_from_config(config).as_json(),
            steps=training.get("steps"),
            origin={
                "weights": agent.description.files[WEIGHTS]["sha256"],
                **origin,
                "score": score,
                "training": training,
                "results": read_results(agent.results),
            },
        )

    return place_run(log_folder, group or config.algo, config.env, fill)


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


def _zips(remote: hub.Remote) -> list[str]:
    """Return the files that may be models of Stable-Baselines3."""
    return [path for path in remote.files if path.endswith(".zip") and path != _ZIP_NOT_A_MODEL]


def _fetch_cached(name: hub.RepoName, reason: hub.UnreachableError, say: Say) -> Fetched:
    """Take what the last download left, at the commit it was pinned to."""
    try:
        config_file = hub.download(name.repo_id, CONFIG, name.revision or hub.MAIN, from_cache=True)
    except UserError:
        raise UserError(f"{reason}; there is no copy of {name.repo_id} in the cache") from reason
    commit = config_file.parent.name  # .../snapshots/COMMIT/config.json
    say(f"{name.repo_id} at commit {commit}, from the cache: {reason}")
    return _checked(name.repo_id, commit, None, from_cache=True)


def _checked(repo_id: str, commit: str, remote: hub.Remote | None, *, from_cache: bool) -> Fetched:
    with forgotten_if_refused(commit):
        description = read_description(hub.download(repo_id, CONFIG, commit, from_cache=from_cache))
        check_names(description.config, CONFIG)
        if remote is not None:
            _check_sizes(remote, description)
        files = {
            name: hub.download(repo_id, name, commit, from_cache=from_cache)
            for name in (RESULTS, WEIGHTS)
        }
        agent = check_agent(description, weights=files[WEIGHTS], results=files[RESULTS])
    return Fetched(repo_id, commit, agent, _claim(remote))


def _check_sizes(remote: hub.Remote, description: Description) -> None:
    """Compare what the Hub lists with what config.json says, before the large file is downloaded.

    Raises:
        UserError: they differ.
    """
    for name in (RESULTS, WEIGHTS):
        said = description.files.get(name)
        size = None if said is None else said["size"]
        listed = remote.files[name]
        if listed != size:
            raise UserError(
                f"{remote.repo_id}: {name} has {listed:,} bytes, {CONFIG} says {size}: not loaded"
            )


def _claim(remote: hub.Remote | None) -> str | None:
    score = None if remote is None else read_score(remote.card)
    return None if score is None else f"{score.mean:.2f} +/- {score.std:.2f}"


def _tagged_game(card: Mapping[str, Any]) -> str | None:
    """Return the game whose environment id a card carries as a tag."""
    tags = card.get("tags")
    for tag in tags if isinstance(tags, list) else []:
        try:
            if isinstance(tag, str) and tag.endswith(("-v0", "-v4", "-v5")):
                return parse_game(tag).game
        except UserError:
            continue
    return None
