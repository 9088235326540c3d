"""What a session of play says in words, and the file results.json."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import torch

from dqn_zoo.play.evaluation import Game
from dqn_zoo.play.session import Session
from dqn_zoo.play.statistics import Summary
from dqn_zoo.settings.games import COURSE_GAME, COURSE_GAMES, COURSE_PASS_MARK
from dqn_zoo.settings.protocols import FRAMES_PER_SECOND, published_scores, rules_in_words
from dqn_zoo.system.machine import describe_machine


def headline(session: Session) -> str:
    """Say in one line what is played."""
    steps = session.weights.steps
    trained = "" if steps is None else f" ({steps:,} steps of training)"
    games = (
        f"games of {session.config.env} until {session.max_steps:,} steps are played"
        if session.num_games is None
        else f"{_count(session.num_games)} of {session.config.env}"
    )
    at_once = f", {session.num_envs} at a time" if session.num_envs > 1 else ""
    rules = f"protocol {rules_in_words(session.protocol)}"
    return (
        f"{session.run.path}: {session.weights.name}{trained}, {rules}, "
        f"epsilon {session.protocol.eval_epsilon:g}, {games} from seed {session.seed}{at_once}, "
        f"on {session.device}"
    )


def game_line(session: Session, game: Game) -> str:
    """Return number, score, length in steps and seconds of a finished game."""
    of_all = "" if session.num_games is None else f" of {session.num_games}"
    seconds = game.length_steps * session.protocol.frame_skip / FRAMES_PER_SECOND
    truncated = "  cut off at the frame cap" if game.truncated else ""
    return (
        f"game {game.index + 1:>3}{of_all}  score {game.score:>8,.0f}  "
        f"{game.length_steps:>6,} steps  {seconds:>6.1f} s{truncated}"
    )


def summary_lines(session: Session, summary: Summary) -> list[str]:
    """Return the statistics in words, what they compare with, and the rules they were made by."""
    game, protocol = session.config.env, session.protocol
    course = "the result as the Hugging Face course counts it"
    verdict = None
    if protocol.is_usual_game:
        verdict = course_verdict(game, summary.mean_minus_std, summary.num_games)
    if verdict is not None:
        course += f"; {verdict}"
    interval = "needs two games" if summary.num_games == 1 else "too few games, all with one score"
    if summary.confidence_95 is not None:
        low, high = summary.confidence_95
        interval = f"{low:,.1f} to {high:,.1f}"
    rows = [
        ("played", f"{_count(summary.num_games)} of {game}"),
        ("mean", f"{summary.mean:,.1f}"),
        ("std", f"{summary.std:,.1f}"),
        ("mean - std", f"{summary.mean_minus_std:,.1f}   ({course})"),
        ("95 % interval", f"{interval}   (of the mean)"),
        ("lowest", f"{summary.minimum:,.0f}"),
        ("median", f"{summary.median:,.1f}"),
        ("highest", f"{summary.maximum:,.0f}"),
    ]
    published = published_scores(game, protocol)
    if published is not None:
        rows.append(("random play", f"{published.random:,.1f}"))
        rows.append(("human", f"{published.human:,.1f}"))
    rows.append(("protocol", rules_in_words(protocol)))
    rows.append(("epsilon", f"{protocol.eval_epsilon:g}"))
    return [f"  {name:<14} {value}" for name, value in rows]


def course_verdict(game: str, mean_minus_std: float, num_games: int) -> str | None:
    """Say what passes unit 3 of the course and, of games enough, what did; None of other games."""
    if game != COURSE_GAME:
        return None
    mark = f"{COURSE_PASS_MARK:g} in {COURSE_GAMES} games passes"
    if num_games < COURSE_GAMES:
        return mark
    return f"{mark}: {'passed' if mean_minus_std >= COURSE_PASS_MARK else 'not passed'}"


def results(session: Session, games: Sequence[Game], summary: Summary) -> dict[str, Any]:
    """Return all that results.json holds; the first five keys are RL-Zoo's."""
    config, protocol = session.config, session.protocol
    scores = published_scores(config.env, protocol)
    return {
        "mean_reward": summary.mean,
        "std_reward": summary.std,
        "is_deterministic": protocol.eval_epsilon == 0.0,
        "n_eval_episodes": summary.num_games,
        "eval_datetime": datetime.now(UTC).isoformat(timespec="seconds"),
        "mean_minus_std": summary.mean_minus_std,
        "confidence_95": summary.confidence_95,
        "min_reward": summary.minimum,
        "median_reward": summary.median,
        "max_reward": summary.maximum,
        "random_score": None if scores is None else scores.random,
        "human_score": None if scores is None else scores.human,
        "env": config.env,
        "algo": config.algo,
        "run": session.run.name,
        "weights": {
            "file": session.weights.file.relative_to(session.run.path).as_posix(),
            "name": session.weights.name,
            "steps": session.weights.steps,
            "sha256": session.weights.sha256,
        },
        "protocol": protocol.as_json(),
        "epsilon": protocol.eval_epsilon,
        "frame_stack": config.frame_stack,
        "crop": config.crop,
        "seed": session.seed,
        # Of as many games as were asked for, steps have left none out.
        "n_timesteps": None if len(games) == session.num_games else session.max_steps,
        "n_envs": session.num_envs,
        "backend": session.settings.choose_backend(),
        "device": session.device,
        "precision": config.precision,
        "num_threads": torch.get_num_threads(),
        "games": [asdict(game) for game in games],
        **describe_machine(),
    }


def _count(num_games: int) -> str:
    return "1 game" if num_games == 1 else f"{num_games} games"
