"""`dqn-push --space`: make a page on the Hub on which anybody watches an agent play."""

import argparse
import http.client
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dqn_zoo.cli.output import work_is_kept
from dqn_zoo.cli.play_session import find_asked_run, refuse_beside
from dqn_zoo.cli.repository import listing, target
from dqn_zoo.errors import UserError
from dqn_zoo.system.extras import need
from dqn_zoo.system.locks import hold
from dqn_zoo.system.processes import apart, ask_to_end

if TYPE_CHECKING:
    from dqn_zoo.runs.manifest import Origin
    from dqn_zoo.settings.config import Config

USES = {
    *("space", "hub", "env", "algo", "run", "exp_id", "folder", "weights", "kind"),
    *("organization", "repo_name", "private", "commit_message", "dry_run"),
}
START_S = 120.0
"""For the page of a Space to answer on this machine, PyTorch read from a cold disk included."""


def push_space(arguments: argparse.Namespace) -> int:
    """Make the folder of a Space, try it out here, and upload it, unless it is a dry run.

    Raises:
        UserError: for anything that the user can mend; nothing is uploaded then.
    """
    from dqn_zoo.sharing import hub
    from dqn_zoo.sharing.space import build_space, is_of_a_space

    refuse_beside(arguments, "--space", set(vars(arguments)) - USES, "plays no games for a card")
    need("watch", "--space")
    with tempfile.TemporaryDirectory(prefix="dqn-push-") as temporary:
        agent, config, origin = _agent(arguments, Path(temporary))
        repo_id, remote, stale = target(arguments, config, hub.SPACES, is_of_a_space)
        folder = arguments.folder / "spaces" / repo_id.split("/")[-1]
        folder.parent.mkdir(parents=True, exist_ok=True)
        with hold(folder.parent, what=f"a Space in {folder.parent}", otherwise="push later"):
            print(f"making {folder}", flush=True)
            files = build_space(folder, agent, config, repo_id=repo_id, origin=origin)
            print(*listing(files), sep="\n", flush=True)
            print(f"tried out at {_try_out(folder, files)}: the page is there; it was stopped")
            if arguments.dry_run:
                print(f"dry run: everything is in {folder}; nothing was uploaded")
                return 0
            uploaded = hub.upload(
                repo_id,
                files,
                message=arguments.commit_message or f"{config.algo} on {config.env}",
                private=arguments.private,
                before=remote,
                stale=[name for name in stale if name not in files],
            )
    work_is_kept()
    state = "pushed" if uploaded.is_new else "nothing is new"
    print(f"{state}: {uploaded.url} at commit {uploaded.commit}; the Hub builds it within minutes")
    return 0


def _agent(arguments: argparse.Namespace, temporary: Path) -> "tuple[Path, Config, Origin | None]":
    """Return a folder with config.json and weights, the settings, and where the agent is from."""
    if arguments.hub is not None:
        from dqn_zoo.sharing.pull import fetch

        whom = {"env", "algo", "run", "exp_id", "weights", "kind"}
        refuse_beside(arguments, "--hub", whom)
        fetched = fetch(arguments.hub, say=print)
        found = fetched.agent
        return found.weights.parent, found.description.config, {"repo": fetched.repo_id}

    from dqn_zoo.play.agent import build_agent
    from dqn_zoo.play.session import choose_weights
    from dqn_zoo.runs.manifest import read_manifest
    from dqn_zoo.sharing.agent_files import WEIGHTS, write_description
    from dqn_zoo.sharing.push import check_publishable, training_record

    run, config = find_asked_run(arguments)
    check_publishable(run, config)
    weights = choose_weights(run, arguments.weights or "default", arguments.kind)
    copy = temporary / WEIGHTS
    copy.write_bytes(weights.file.read_bytes())  # a run that trains replaces its own
    agent = build_agent(copy, config, device="cpu")
    write_description(
        temporary,
        config,
        files={WEIGHTS: copy},
        num_actions=agent.num_actions,
        training=training_record(run, weights.steps),
    )
    return temporary, config, read_manifest(run).get("origin")


def _try_out(folder: Path, files: Mapping[str, Path]) -> str:
    """Serve a Space here with the package that is in it, until its page was fetched once."""
    from dqn_zoo.sharing.space import AGENTS, SERVE
    from dqn_zoo.watching.serving import bind

    with bind("127.0.0.1", 0) as free:
        port: int = free.getsockname()[1]
    agents = sorted(f"{AGENTS}/{path.name}" for path in (folder / AGENTS).iterdir())
    where = ["--host", "127.0.0.1", "--port", str(port), "--agents", *agents]
    [wheel] = (path for name, path in files.items() if name.endswith(".whl"))
    with tempfile.TemporaryDirectory(prefix="dqn-push-") as installed:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(installed)
        command = [sys.executable, "-m", "dqn_zoo", "watch", *SERVE, *where]
        with _running(command, folder, {"PYTHONPATH": installed}) as process:
            _fetch(port, process)
    return f"http://127.0.0.1:{port}/"


@contextmanager
def _running(
    command: list[str], folder: Path, more: Mapping[str, str]
) -> "Iterator[subprocess.Popen[bytes]]":
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | more, stdout=log, stderr=log, **apart()
        )
        try:
            yield process
        except ConnectionError as error:
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines() or [str(error)]
            raise UserError(f"the page of {folder} does not start: {said[-1]}") from None
        finally:
            ask_to_end(process)
            process.wait()


def _fetch(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait for the page and the list of its agents.

    Raises:
        ConnectionError: it does not come.
    """
    deadline = time.monotonic() + START_S
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_S)
        try:
            for path in ("/", "/agents"):
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    raise ConnectionError(f"{path} answers with status {answer.status}")
            return
        except ConnectionRefusedError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        except (TimeoutError, http.client.HTTPException) as error:
            raise ConnectionError(f"{path} is not answered ({error!r})") from error
        finally:
            connection.close()
