"""Published scores to put beside one's own; the numbers and their sources are in references.yml."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dqn_zoo.errors import UserError
from dqn_zoo.settings.yaml_reader import read_entries

FILE = Path(__file__).with_name("references.yml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Scores that somebody published.

    Attributes:
        name: by which it is asked for.
        source: where the figures are from.
        protocol: the rules, as this project names them.
        steps: of training.
        what: which runs and games the figures are means of.
        agents: mean raw score by agent and game.
    """

    name: str
    source: str
    protocol: str
    steps: int
    what: str
    agents: Mapping[str, Mapping[str, float]]

    def text(self, agent: str, game: str) -> str:
        """Return the score of an agent in a game, as a cell of a table."""
        score = self.agents[agent].get(game)
        return "-" if score is None else f"{score:,.1f}"

    @property
    def footnote(self) -> str:
        """Say whose figures these are and how they came about."""
        return (
            f"{self.name}: protocol {self.protocol}, {self.steps:,} steps, {self.what}; "
            f"{self.source}"
        )


def find_reference(name: str) -> Reference:
    """Return the published scores of a name.

    Raises:
        UserError: there are none, with the names there are.
    """
    entries = read_entries(FILE, name=FILE.name)
    if name not in entries:
        raise UserError(f"no published scores are called {name!r}: there are {', '.join(entries)}")
    return Reference(name=name, **{key: entry.value for key, entry in entries[name].value.items()})
