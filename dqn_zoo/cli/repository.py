"""Where a push goes, and what it brings."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dqn_zoo.errors import UserError

if TYPE_CHECKING:
    from dqn_zoo.settings.config import Config
    from dqn_zoo.sharing.hub import Remote

_NOBODY = "USER"


def target(
    arguments: argparse.Namespace, config: "Config", kind: str, is_ours: Callable[[str], bool]
) -> "tuple[str, Remote | None, list[str]]":
    """Return the repository, what it holds, and which files of ours lie there.

    Whatever the Hub would refuse after the games is found out before them. `kind` stands before the
    name: `spaces/`, or nothing.
    """
    from dqn_zoo.sharing import hub
    from dqn_zoo.sharing.push import check_remote, repo_name

    name = arguments.repo_name or repo_name(config)
    hub.parse_repo(f"{arguments.organization or _NOBODY}/{name}")
    if arguments.dry_run:
        return f"{kind}{arguments.organization or _NOBODY}/{name}", None, []
    owner = hub.choose_owner(hub.read_account(), arguments.organization, name)
    repo_id = f"{kind}{owner}/{name}"
    remote = hub.look_up_branch(repo_id, arguments.revision)
    if remote is not None and arguments.private and not remote.private:
        raise UserError(
            f"{hub.page(repo_id)} is public already, and --private makes only new repositories "
            "private: make it private on its page, or push under another --repo-name"
        )
    is_main = arguments.revision in (None, hub.MAIN)
    return repo_id, remote, check_remote(remote, repo_id, is_ours, is_main=is_main)


def listing(files: Mapping[str, Path]) -> list[str]:
    """Say what is published, and how large it is."""
    sizes = {name: path.stat().st_size for name, path in files.items()}
    rows = [f"  {size:>12,}  {name}" for name, size in sizes.items()]
    return [f"{len(files)} files, {sum(sizes.values()):,} bytes:", *rows]
