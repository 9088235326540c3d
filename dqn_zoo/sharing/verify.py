"""Does a score hold? That of a card: the same games by the same rules, with fresh seeds.

A person's: the very game, because a person cannot play as many as one asks for, but every action
is kept.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dqn_zoo.envs.env_settings import EnvSettings, ReseedPlan
from dqn_zoo.envs.making import make_envs
from dqn_zoo.errors import UserError
from dqn_zoo.play.by_hand import HumanGame, Played, actions_of, rules_of
from dqn_zoo.play.evaluation import Game, RunningGame, enjoy_seeds
from dqn_zoo.play.measurements import FEWEST_GAMES
from dqn_zoo.play.results_file import read_results, sample_of
from dqn_zoo.play.statistics import Sample, Summary, welch_interval
from dqn_zoo.play.weights import last_weights
from dqn_zoo.runs.manifest import read_manifest
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.game_modes import check_mode
from dqn_zoo.settings.protocols import RULES_OF_THE_CONFIG, protocol_from_config
from dqn_zoo.system import shell
from dqn_zoo.system.documents import DocumentError
from dqn_zoo.system.files import digest


class Claim(NamedTuple):
    """A score that somebody reported, and the rules it was made by.

    Attributes:
        sample: number, mean and deviation of the games.
        config: the settings of the run under those rules.
        weights: file of the weights that made it.
        seed: of the games; None where it was not reported.
        card: the score on the card where it is another; None where it agrees or is unknown.
    """

    sample: Sample
    config: Config
    weights: Path
    seed: int | None
    card: str | None


class Verdict(NamedTuple):
    """What playing again says about a claim.

    Attributes:
        difference: mean now minus mean claimed.
        interval: Welch's 95 % interval of that difference.
        is_told: it is known from games enough, or the card says another thing than its results.
        holds: the interval contains 0, and the card says what its own results say.
    """

    difference: float
    interval: tuple[float, float]
    is_told: bool
    holds: bool


def read_claim(run: Run, config: Config) -> Claim:
    """Return the score that came with a run, or that its last `dqn-enjoy` measured.

    Raises:
        UserError: there is none, it needs two games, or it was made with other weights or rules
            than can be played now.
    """
    origin = read_manifest(run).get("origin") or {}
    content = origin.get("results") or _own_results(run)
    sample = sample_of(content, where=str(run.path))
    if sample.num_games < 2:
        raise UserError(f"the score of {run.path} is of one game; a comparison needs two")
    on_card, score = origin.get("score"), f"{sample.mean:.2f} +/- {sample.std:.2f}"
    return Claim(
        sample=sample,
        config=_as_claimed(config, content, run.path),
        weights=_claimed_weights(run, (content.get("weights") or {}).get("sha256")),
        seed=seed if isinstance(seed := content.get("seed"), int) else None,
        card=on_card if on_card not in (None, score) else None,
    )


def judge(claim: Claim, played: Summary) -> Verdict:
    """Compare what was played now with what was claimed."""
    now = Sample(played.num_games, played.mean, played.std)
    interval = welch_interval(now, claim.sample)
    agrees = interval[0] <= 0.0 <= interval[1] and claim.card is None
    # Of few games the interval is so wide that it contains nearly anything.
    is_told = not agrees or min(now.num_games, claim.sample.num_games) >= FEWEST_GAMES
    return Verdict(now.mean - claim.sample.mean, interval, is_told, agrees and is_told)


def verdict_lines(claim: Claim, played: Summary, verdict: Verdict) -> list[str]:
    """Return the comparison in words."""
    sample = claim.sample
    seed = "" if claim.seed is None else f", seed {claim.seed}"
    low, high = verdict.interval
    lines = [
        f"claimed     {sample.mean:,.2f} +/- {sample.std:,.2f} in {sample.num_games} games{seed}",
        f"now         {played.mean:,.2f} +/- {played.std:,.2f} in {played.num_games} games",
        f"difference  {verdict.difference:+,.2f}",
        f"interval    {low:+,.1f} to {high:+,.1f} (Welch, 95 %, of the difference)",
    ]
    if claim.card is not None:
        lines.append(f"the card says {claim.card}, which is not what its own results.json says")
    if not verdict.is_told:
        few = min(played.num_games, sample.num_games)
        lines.append(
            f"too few games to say: the interval contains 0, and of {few} games it contains nearly "
            f"anything; it takes {FEWEST_GAMES} on both sides"
        )
        return lines
    lines.append(
        "the score holds: the interval contains 0"
        if verdict.holds
        else "the score does not hold"
        + ("" if claim.card is not None else ": the interval does not contain 0")
    )
    return lines


def holds_by_hand(game: HumanGame, whose: Played, *, where: str) -> bool:
    """Let the emulator play a game again; return whether its score follows from its actions.

    Raises:
        UserError: it cannot be played here, or has an action that the game does not have.
    """
    again = _play_again(game, whose, where=where)
    claimed = (whose["score"], whose["length_steps"], whose["truncated"])
    return again is not None and (again.score, again.length_steps, again.truncated) == claimed


def _own_results(run: Run) -> dict[str, Any]:
    if not run.results_file.exists():
        raise UserError(
            f"{run.path} has no {run.results_file.name} to verify: "
            f"{shell.command('dqn-enjoy', '--run', run.path)} makes one"
        )
    return dict(read_results(run.results_file))


def _play_again(game: HumanGame, whose: Played, *, where: str) -> Game | None:
    """Return the game that actions lead to; None if it does not end with the last of them."""
    (seed,) = enjoy_seeds(game["seed"], 1)
    settings = EnvSettings(protocol=rules_of(game, where=where), backend="gymnasium")
    actions = actions_of(whose)
    plan = ReseedPlan(lambda _row, _count: seed, every_steps=0)
    with make_envs(game["env"], settings=settings, reseed=plan) as environments:
        if max(actions, default=0) >= environments.num_actions:
            raise DocumentError(
                f"{where} has an action {max(actions)}, and {game['env']} only "
                f"{environments.num_actions} of them"
            )
        environments.reset()
        running = RunningGame(0, seed)
        for action in actions:
            step = environments.step(np.array([action]))
            running.score += float(step.reward[0])
            running.length_steps += 1
            if step.terminated[0] or step.truncated[0]:
                is_last = running.length_steps == len(actions)
                return running.end(truncated=bool(step.truncated[0])) if is_last else None
    return None


def _claimed_weights(run: Run, sha256: str | None) -> Path:
    """Return the weights of that content; without one, those that dqn-enjoy takes.

    Raises:
        UserError: the run has other weights now.
    """
    for path in (run.best_model_file, *last_weights(run)):
        if path.exists() and sha256 in (None, digest(path)):
            return path
    raise UserError(
        f"the score of {run.path} is for weights that it no longer has: "
        f"{shell.command('dqn-enjoy', '--run', run.path)} measures those that it has"
    )


def _as_claimed(config: Config, results: Mapping[str, Any], where: Path) -> Config:
    """Return the settings with the rules of a result; a result without any was made by the run's.

    Of huggingface_sb3's results `is_deterministic` is all that is known of the rules.

    Raises:
        UserError: rules that do not exist here.
    """
    rules = results.get("protocol")
    if rules is None:
        always_best = results.get("is_deterministic") is True
        return config.model_copy(update={"eval_epsilon": 0.0}) if always_best else config
    try:
        changes = {"protocol": rules["name"]} | {key: rules[key] for key in RULES_OF_THE_CONFIG}
        changes |= {key: rules.get(key) for key in ("mode", "difficulty")}
        claimed = Config.model_validate(config.model_dump() | changes)
        same = protocol_from_config(claimed).as_json() == rules
        check_mode(claimed.env, claimed.mode, claimed.difficulty)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where} names no rules that can be played: {error}") from error
    if not same:
        raise UserError(f"{where} names rules that cannot be played here: {rules}")
    return claimed
