"""What runs of some recipes came to: what to expect of one of another length.

Only what was measured is here: protocol zoo, the runs of docs/results.md and docs/notebook/.
"""

from typing import NamedTuple


class Expectation(NamedTuple):
    """What was seen of a game with a recipe.

    Attributes:
        event: what the recipe does after `steps`, as in "Pong takes off".
        steps: fewer are likely too few.
        reached: the score at the end.
        reached_after: steps of the whole run.
        game_steps: mean length of that agent's games, in decisions; None: not measured.
    """

    event: str
    steps: int
    reached: str
    reached_after: int
    game_steps: int | None


EXPECTATIONS = {
    ("laptop", "Pong"): Expectation(
        "Pong takes off", 100_000, "19.3 and 19.5 in 100 games", 840_000, 2_278
    ),
    ("laptop", "SpaceInvaders"): Expectation(
        "Space Invaders passes a mean - std of 200 for good",
        600_000,
        "586.7, 640.5 and 565.0 in 100 games",
        1_000_000,
        987,
    ),
    ("laptop", "Boxing"): Expectation(
        "Boxing passes 50", 400_000, "90.5 in 100 games", 742_304, 591
    ),
    ("laptop", "Breakout"): Expectation(
        "Breakout passes 30", 350_000, "52.6 in 100 games", 900_000, 1_086
    ),
    ("laptop", "Freeway"): Expectation(
        "Freeway crosses 20 times", 115_000, "30.1 and 28.8 in 30 games", 300_000, 2_045
    ),
    ("laptop", "Qbert"): Expectation(
        "Qbert passes 1,000", 120_000, "3,614.2 and 2,906.7 in 30 games", 300_000, 799
    ),
    ("laptop", "MsPacman"): Expectation(
        "MsPacman passes 900", 46_000, "1,413.0 and 1,168.0 in 30 games", 300_000, 779
    ),
    ("laptop", "Seaquest"): Expectation(
        "Seaquest passes 300", 94_000, "897.3 and 694.7 in 30 games", 300_000, 1_657
    ),
    ("pqn-laptop", "Pong"): Expectation(
        "Pong takes off", 500_000, "9.6 in 100 games", 1_221_344, None
    ),
}
"""By recipe and game."""

STANDS_WITH = {
    "seed", "device", "num_threads", "precision", "targets_ahead", "cuda_graph", "compiled_torso",
    "eval_freq", "eval_episodes", "eval_epsilon", "log_interval", "save_freq",
}  # fmt: skip
"""Settings that may be others than the recipe's: what was seen of it holds nevertheless."""
