"""`dqn-enjoy --pretrained` and `--list`: the agents that come with dqn_zoo."""

import argparse
import sys
from typing import TYPE_CHECKING

from dqn_zoo.cli.play_session import refuse_beside
from dqn_zoo.errors import UserError
from dqn_zoo.runs.finding import NoRunError
from dqn_zoo.system import shell

if TYPE_CHECKING:
    from dqn_zoo.runs.run import Run


def packaged_agent(arguments: argparse.Namespace, *, instead_of: NoRunError | None = None) -> "Run":
    """Return the run folder of an agent that comes with dqn_zoo, after saying what it is.

    Without --pretrained it stands in for a run that was not found: `instead_of` says which.

    Raises:
        NoRunError: it may not stand in for that run, or there is none of the game.
        UserError: there is none of the game, or its folder cannot be made.
    """
    if instead_of is None:
        refuse_beside(arguments, "--pretrained", {"algo", "run", "exp_id"})
    elif arguments.env is None:
        raise instead_of
    from dqn_zoo.runs.elsewhere import foreign_agents, may_take_runs
    from dqn_zoo.settings.games import parse_game
    from dqn_zoo.sharing.pretrained import find_pretrained, list_pretrained, unpack_pretrained

    if arguments.env is None:
        raise UserError(
            f"--pretrained needs --env GAME; {shell.command('dqn-enjoy', '--list')} shows which "
            "there are"
        )
    game = parse_game(arguments.env).game
    agent = find_pretrained(game)
    if agent is None:
        known = ", ".join(each.game for each in list_pretrained()) or "none"
        if instead_of is not None:
            raise NoRunError(f"{instead_of}; dqn_zoo has agents of its own for: {known}")
        raise UserError(f"no agent for {game} comes with dqn_zoo; there are: {known}")
    folder = arguments.folder
    if instead_of is not None:
        is_named = {"run", "algo", "exp_id", "folder"} & arguments.given
        if is_named or not may_take_runs(folder) or any(foreign_agents(folder, game)):
            elsewhere = [] if may_take_runs(folder) else ["-f", "FOLDER"]
            packaged = shell.command("dqn-enjoy", "--env", game, "--pretrained", *elsewhere)
            raise NoRunError(f"{instead_of}; {packaged} plays the agent that comes with dqn_zoo")
    if not may_take_runs(folder):
        raise UserError(
            f"{folder} holds something else, and the agent gets a folder among your runs: name "
            "that of your runs, or a new one, with -f FOLDER"
        )
    why = "" if instead_of is None else f"no run of {game} in {arguments.folder}: "
    print(
        f"{why}an agent that comes with dqn_zoo, recipe {agent.recipe}, {agent.steps:,} steps: "
        f"{agent.score} in {agent.num_games} games, protocol {agent.rules}"
    )
    return unpack_pretrained(agent, log_folder=arguments.folder, command=sys.argv)


def list_packaged() -> int:
    """Print the agents that come with dqn_zoo."""
    from rich.console import Console
    from rich.table import Table

    from dqn_zoo.experiments.references import find_reference
    from dqn_zoo.settings.games import SCORES
    from dqn_zoo.sharing.pretrained import list_pretrained

    rl_zoo = find_reference("rl-zoo")
    table = Table("game", "recipe", box=None, pad_edge=False)
    for name in ("steps", "score", "games", "random", "human", "RL-Zoo"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("protocol", no_wrap=True)
    for agent in list_pretrained():
        known = SCORES[agent.game]
        row = (f"{agent.steps:,}", agent.score, str(agent.num_games))
        others = (f"{known.random:,.1f}", f"{known.human:,.1f}", rl_zoo.text("dqn", agent.game))
        table.add_row(agent.game, agent.recipe, *row, *others, agent.rules)
    Console(highlight=False, width=None if sys.stdout.isatty() else 130).print(table)
    print(f"RL-Zoo: its DQN after {rl_zoo.steps:,} steps, protocol {rl_zoo.protocol}")
    print("watch one: " + shell.command("dqn-enjoy", "--pretrained", "--env", "GAME"))
    return 0
