"""Write what docs/results.md shows of all games: the table, and a small curve for each.

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

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURE, CURVE = DOCS / "results.md", DOCS / "games.png", "curve.csv"
BEGIN, END = "<!-- scripts/games_table.py writes from here -->", "<!-- to here -->"
HEADS = (
    "game", "steps", "minutes", "score in 100 games", "human = 1", "random", "human",
    "RL-Zoo's DQN, 10,000,000 steps", "Dopamine's QR-DQN, 1,000,000 steps, sticky actions",
)  # fmt: skip
ZOO, DOPAMINE = find_reference("rl-zoo"), find_reference("dopamine-1m")


def main() -> int:
    agents = list_pretrained()
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(agents)}{END}{after}")
    draw(agents, PICTURE)
    print(f"{len(agents)} games: {PAGE}, {PICTURE}")
    return 0


def table(agents: Sequence[Pretrained]) -> str:
    """Return a row for each agent, as Markdown: RL-Zoo's games first."""
    lines = [markdown_row(*HEADS), markdown_row(*["---"] * len(HEADS))]
    ordered = sorted(agents, key=lambda agent: agent.game not in ZOO.agents["dqn"])
    return "\n".join(lines + [markdown_row(*_cells(agent)) for agent in ordered]) + "\n"


def _cells(agent: Pretrained) -> tuple[str, ...]:
    game, published = agent.game, SCORES[agent.game]
    results = json.loads((agent.folder / RESULTS).read_text())
    training = json.loads((agent.folder / CONFIG).read_text())["training"]
    mean, theirs = results["mean_reward"], ZOO.agents["dqn"].get(game)
    normalized = human_normalized_score(game, mean)
    score = f"{mean:,.1f} +/- {results['std_reward']:,.1f}"
    return (
        game,
        f"{agent.steps:,}",
        f"{training['seconds'] / 60:.0f}",
        f"**{score}**" if theirs is not None and mean >= theirs else score,
        "-" if normalized is None else f"{normalized:.2f}",
        f"{published.random:,.1f}",
        f"{published.human:,.1f}",
        ZOO.text("dqn", game),
        DOPAMINE.text("qrdqn", game),
    )


def draw(agents: Sequence[Pretrained], picture: Path) -> None:
    """Draw the returns of each training that has them, with random play, a human and RL-Zoo."""
    curves = [agent for agent in agents if (agent.folder / CURVE).exists()]
    if not curves:
        return
    across = min(4, len(curves))
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
