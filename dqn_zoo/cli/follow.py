"""`dqn-enjoy --follow`: games of a run while it trains, with newer weights as they come."""

import argparse
import contextlib
from dataclasses import replace

from dqn_zoo.cli.play_session import find_asked_run, make_session, refuse_beside

MOST_FOLLOWED = 100_000
"""Games of --follow: weeks at the speed of the console."""

_NOT_FOLLOWED = {
    *("hub", "pretrained", "weights", "kind", "n_timesteps", "n_envs"),
    *("record", "record_seconds", "minari", "output", "progress"),
}


def follow(arguments: argparse.Namespace, has_window: bool) -> int:
    """Play the newest weights of a run until it has ended and its last weights have played.

    Nothing is written: games of changing weights are no sample of any.
    """
    refuse_beside(
        arguments, "--follow", _NOT_FOLLOWED, because="plays the newest weights of a run here"
    )
    run, config = find_asked_run(arguments)

    from dqn_zoo.play.following import Follower
    from dqn_zoo.play.results import game_line, headline
    from dqn_zoo.play.session import watch
    from dqn_zoo.system.machine import choose_device

    def say_wait() -> None:
        print(f"{run.path} has no weights yet: waiting for the first", flush=True)

    follower = Follower(run, config, device=choose_device(arguments.device), on_wait=say_wait)
    session = make_session(
        arguments,
        run,
        config,
        num_games=arguments.episodes or MOST_FOLLOWED,
        weights=follower.weights,
        has_window=has_window,
    )
    session = replace(session, num_envs=1)
    told = session if arguments.episodes else replace(session, num_games=None)
    print(headline(replace(session, num_games=1)), flush=True)
    was_training = follower.is_training
    if not was_training:
        print("nobody trains it now: its last weights play one game", flush=True)
    steps = follower.weights.steps
    with contextlib.closing(watch(session, follower.q_values)) as turns:
        for turn in turns:
            if follower.weights.steps != steps:
                steps = follower.weights.steps
                print(f"newer weights: {steps or 0:,} steps of training", flush=True)
            for game in turn.finished:
                mixed = "  (newer weights came during it)" if follower.switched else ""
                print(f"{game_line(told, game)}{mixed}", flush=True)
                if game.index + 1 == session.num_games:
                    print(f"ended: {session.num_games} games were played")
                    return 0
                comes = follower.is_training if has_window else follower.wait_for_newer()
                if not (comes or follower.switched):
                    if was_training:
                        print(f"ended: nobody trains {run.path} any more; its last weights played")
                    return 0
                follower.begin_game()
    return 0
