"""A user's computer that talks to the stand-in Hub: a home, a token, and the real commands."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from support.children import Child
from support.hub_standin import HubStandin

DEADLINE_S = 110.0


class Ended(NamedTuple):
    """A command that has ended: its exit code and all that it printed."""

    code: int
    output: str

    @property
    def last_line(self) -> str:
        """The error, if there is one."""
        return self.output.splitlines()[-1]


@dataclass
class Computer:
    """Where commands run, each in a process of its own, with the real client of the Hub.

    Attributes:
        home: holds the cache and the runs.
        hub: what they talk to; None: nothing listens there.
        token: in HF_TOKEN.
    """

    home: Path
    hub: HubStandin | None
    token: str = ""

    @property
    def logs(self) -> Path:
        """The folder of the runs."""
        return self.home / "logs"

    @property
    def cache(self) -> Path:
        """The cache of the Hub's client."""
        return self.home / "huggingface" / "hub"

    def cached_files(self) -> set[str]:
        """Return the names of all files of all commits in the cache."""
        snapshots = self.cache.glob("models--*/snapshots/*/**/*")
        return {path.name for path in snapshots if path.is_file()}

    def environment(self) -> dict[str, str]:
        """Return the variables that the Hub's client reads when it is imported."""
        return {
            "HF_ENDPOINT": "http://127.0.0.1:9" if self.hub is None else self.hub.url,
            "HF_HOME": str(self.home / "huggingface"),
            "HF_TOKEN": self.token,
            "HF_TOKEN_PATH": str(self.home / "token"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "",
        }

    def start(self, command: str, *arguments: str, **environment: str) -> Child:
        """Start `dqn-COMMAND` with the runs of this computer."""
        return Child(
            f"dqn_zoo.cli.{command}",
            [*arguments, "-f", str(self.logs)],
            self.environment() | environment,
        )

    def run(self, command: str, *arguments: str, **environment: str) -> Ended:
        """Run `dqn-COMMAND` and wait for it."""
        child = self.start(command, *arguments, **environment)
        output = child.wait(DEADLINE_S)
        assert child.returncode is not None
        return Ended(child.returncode, output)
