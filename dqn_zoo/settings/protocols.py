"""The protocols: the rules a game is played by. A score means nothing without them."""

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from dqn_zoo.settings.games import SCORES, GameScores

if TYPE_CHECKING:
    from dqn_zoo.settings.config import Config

FRAMES_PER_SECOND = 60
"""Of the console."""

FRAMES_PER_STEP = 4
"""A step is one decision of the agent, which the emulator repeats for so many frames."""

RULES_OF_THE_CONFIG = (
    "noop_max", "action_repeat_probability", "terminal_on_life_loss", "max_frames", "eval_epsilon",
)  # fmt: skip
"""In which a run may depart from its protocol, beside mode and difficulty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """The rules a game is played by; a score means nothing without them.

    Attributes:
        name: "zoo", "machado" or "sb3".
        action_repeat_probability: sticky actions, the chance that the last one is repeated.
        noop_max: most no-op actions at a reset, in frames; 0: none.
        terminal_on_life_loss: a lost life ends the bootstrap in training; the game goes on.
        fire: FIRE is the first action of a game and after a lost life, where the game has FIRE.
        eval_epsilon: share of uniformly random actions in evaluation.
        frame_skip: frames per step.
        max_frames: a game is truncated after this many frames.
        mode: of the game, by ALE's number; None: the one it starts with.
        difficulty: likewise.
    """

    name: str
    action_repeat_probability: float
    noop_max: int
    terminal_on_life_loss: bool
    fire: bool
    eval_epsilon: float
    frame_skip: int = FRAMES_PER_STEP
    max_frames: int = 108_000
    mode: int | None = None
    difficulty: int | None = None

    @property
    def is_usual_game(self) -> bool:
        """Whether it is the game that people, random play and papers have scores of."""
        return self.mode is None and self.difficulty is None

    def as_json(self) -> dict[str, Any]:
        """Return the rules; a mode and a difficulty only where they were chosen, as before."""
        rules = asdict(self)
        unset = [key for key in ("mode", "difficulty") if rules[key] is None]
        return {key: value for key, value in rules.items() if key not in unset}


def protocol_from_config(config: "Config") -> Protocol:
    """Return the protocol of a run, with the departures that its settings ask for."""
    departures = {key: getattr(config, key) for key in (*RULES_OF_THE_CONFIG, "mode", "difficulty")}
    given = {key: value for key, value in departures.items() if value is not None}
    return replace(PROTOCOLS[config.protocol], **given)


def published_scores(game: str, protocol: Protocol) -> GameScores | None:
    """Return what random play and a human tester reach in a game; None where nobody has said."""
    return SCORES.get(game) if protocol.is_usual_game else None


def rules_in_words(protocol: Protocol) -> str:
    """Name a protocol, with what departs from it: `zoo`, or `zoo with noop_max 0`."""
    standard = asdict(PROTOCOLS[protocol.name])
    departures = [
        f"{key} {value}"
        for key, value in asdict(protocol).items()
        if key != "eval_epsilon" and value != standard[key]
    ]
    return protocol.name + (f" with {', '.join(departures)}" if departures else "")


# What Stable-Baselines3, CleanRL and the papers before 2018 play: NoFrameskip-v4 ids.
_ZOO = Protocol(
    name="zoo",
    action_repeat_probability=0.0,
    noop_max=30,
    terminal_on_life_loss=True,
    fire=True,
    eval_epsilon=0.01,
)

PROTOCOLS: dict[str, Protocol] = {
    "zoo": _ZOO,
    # Machado et al. 2018, "Revisiting the Arcade Learning Environment"; as Dopamine plays it.
    "machado": Protocol(
        name="machado",
        action_repeat_probability=0.25,
        noop_max=0,
        terminal_on_life_loss=False,
        fire=False,
        eval_epsilon=0.001,
    ),
    # Stable-Baselines3's wrappers exactly, for agents that come from there.
    "sb3": replace(_ZOO, name="sb3"),
}
