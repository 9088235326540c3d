"""Write the table of all games and their curves for docs/results.md, and the README's best rows.

    python scripts/games_table.py

The rows are the agents in dqn_zoo/pretrained; whoever puts one there with ship_agent.py runs this
behind it. A test holds the table against the agents.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from dqn_zoo.experiments.references import find_reference
from dqn_zoo.experiments.summary import markdown_row
from dqn_zoo.runs.learning_curve import columns, new_figure
from dqn_zoo.settings.games import SCORES, human_normalized_score
from dqn_zoo.sharing.agent_files import CONFIG, RESULTS
from dqn_zoo.sharing.pretrained import Pretrained, list_pretrained

ROOT = Path(__file__).parents[1]
README, PAGE, PICTURE = (
    ROOT / "README.md",
    ROOT / "docs" / "results.md",
    ROOT / "docs" / "games.png",
)
CURVE = "curve.csv"
BEGIN, END = "<!-- scripts/games_table.py writes from here -->", "<!-- to here -->"
HEADS = (
    "game", "steps", "minutes", "score in 100 games", "human = 1", "random", "human",
    "RL-Zoo's DQN, 10,000,000 steps", "Dopamine's QR-DQN at those steps, sticky actions",
)  # fmt: skip
BEST_HEADS, NUM_BEST = (*HEADS[:1], *HEADS[2:4], *HEADS[5:8]), 5
ZOO = find_reference("rl-zoo")
DOPAMINE = [find_reference(f"dopamine-{steps}") for steps in ("750k", "1m", "1250k", "1500k")]
WINDOW = 250_000
"""Steps whose training games Dopamine's figures are means of."""


def main() -> int:
    agents = list_pretrained()
    write(PAGE, table(agents))
    write(README, best_table(agents))
    draw(agents, PICTURE)
    print(f"{len(agents)} games: {PAGE}, {README}, {PICTURE}")
    return 0


def write(page: Path, text: str) -> None:
    """Replace what lies between the two marks of a page."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}{END}{after}")


def table(agents: Sequence[Pretrained]) -> str:
    """Return a row for each agent, as Markdown: RL-Zoo's games first."""
    return _markdown(sorted(agents, key=lambda agent: _share(agent) is None), HEADS)


def best_table(agents: Sequence[Pretrained]) -> str:
    """Return the rows whose scores come closest to RL-Zoo's agents, or go furthest beyond.

    Without the games that RL-Zoo's agent plays like chance: Asteroids.
    """
    learned = [agent for agent in agents if _rl_zoo_has_learned(agent.game)]
    shares = [(share, agent) for agent in learned if (share := _share(agent)) is not None]
    ordered = [agent for _, agent in sorted(shares, key=lambda pair: -pair[0])]
    return _markdown(ordered[:NUM_BEST], BEST_HEADS)


def _markdown(agents: Sequence[Pretrained], heads: Sequence[str]) -> str:
    lines = [markdown_row(*heads), markdown_row(*["---"] * len(heads))]
    for agent in agents:
        cells = _cells(agent)
        lines.append(markdown_row(*(cells[head] for head in heads)))
    return "\n".join(lines) + "\n"


def _results(agent: Pretrained) -> dict[str, float]:
    results: dict[str, float] = json.loads((agent.folder / RESULTS).read_text())
    return results


def _share(agent: Pretrained) -> float | None:
    """Return how far an agent has come from random play to RL-Zoo's agent, which is at 1."""
    theirs, random = ZOO.agents["dqn"].get(agent.game), SCORES[agent.game].random
    if theirs is None:
        return None
    return (_results(agent)["mean_reward"] - random) / (theirs - random)


def _rl_zoo_has_learned(game: str) -> bool:
    """Return whether its agent has come a hundredth of the way from random play to a human."""
    theirs = ZOO.agents["dqn"].get(game)
    normalized = None if theirs is None else human_normalized_score(game, theirs)
    return normalized is not None and normalized > 0.01


def _cells(agent: Pretrained) -> dict[str, str]:
    game, published, results = agent.game, SCORES[agent.game], _results(agent)
    training = json.loads((agent.folder / CONFIG).read_text())["training"]
    mean, share = results["mean_reward"], _share(agent)
    normalized = human_normalized_score(game, mean)
    score = f"{mean:,.1f} +/- {results['std_reward']:,.1f}"
    cells = (
        game,
        f"{agent.steps:,}",
        f"{training['seconds'] / 60:.0f}",
        f"**{score}**" if share is not None and share >= 1 else score,
        "-" if normalized is None else f"{normalized:.2f}",
        f"{published.random:,.1f}",
        f"{published.human:,.1f}",
        ZOO.text("dqn", game),
        _dopamine(game, agent.steps),
    )
    return dict(zip(HEADS, cells, strict=True))


def _dopamine(game: str, steps: int) -> str:
    """Return what QR-DQN's training games gave while it had as many steps."""
    for reference in DOPAMINE:
        if reference.steps - WINDOW < steps <= reference.steps:
            return reference.text("qrdqn", game)
    return "-"


def draw(agents: Sequence[Pretrained], picture: Path) -> None:
    """Draw the returns of each training that has them, with random play, a human and RL-Zoo."""
    curves = [agent for agent in agents if (agent.folder / CURVE).exists()]
    if not curves:
        return
    across = min((4, 3), key=lambda number: -len(curves) % number)  # few empty places at the end
    across = min(across, len(curves))
    down = -(-len(curves) // across)
    figure = new_figure(2.8 * across, 2.1 * down)
    for place, agent in enumerate(curves, 1):
        axes = figure.add_subplot(down, across, place)
        steps, means = columns(agent.folder / CURVE, "steps", "return_mean")
        axes.plot([step / 1000 for step in steps], means, color="tab:blue", label="training")
        published, theirs = SCORES[agent.game], ZOO.agents["dqn"].get(agent.game)
        lines = {
            "random play": (published.random, "0.6", ":"),
            "human": (published.human, "0.3", "--"),
        }
        if theirs is not None:
            lines["RL-Zoo's DQN"] = (theirs, "tab:orange", "-")
        for label, (score, color, style) in lines.items():
            axes.axhline(score, color=color, linestyle=style, linewidth=1, label=label)
        axes.set_title(agent.game, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.set_xlabel("thousands of steps", fontsize=7)
        shown = [*means, published.random, *([] if theirs is None else [theirs])]
        margin = 0.05 * (max(shown) - min(shown))  # a human far above is not in the picture
        axes.set_ylim(min(shown) - margin, max(shown) + margin)
    named = {str(line.get_label()): line for axes in figure.axes for line in axes.get_lines()}
    figure.legend(
        named.values(),
        named.keys(),
        loc="outside lower center",
        ncols=4 if across > 2 else 2,
        fontsize=8,
    )
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
