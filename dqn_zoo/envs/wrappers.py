"""One game for the gymnasium backend: the emulator, and small wrappers around it.

    AtariEnv -> [TrueSpeed] -> [FrameTap] -> [RandomNoops] -> SkipAndResize -> [Sb3Restarts]
    every frame, uint8 [210, 160] grey or [210, 160, 3] RGB |  every step, uint8 [84, 84]

Stacking is left to the backend. `SkipAndResize` gives the pixels of gymnasium's
`AtariPreprocessing`; it is our own because cropping and SB3's order happen in the middle of it.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
import numpy.typing as npt
from ale_py.env import AtariEnv

from dqn_zoo.envs.backend import NOOP, SCREEN_SIZE
from dqn_zoo.errors import UserError
from dqn_zoo.settings.protocols import FRAMES_PER_SECOND, Protocol
from dqn_zoo.settings.screen import Crop, crop_window
from dqn_zoo.system.opencv import import_cv2

Screen = npt.NDArray[np.uint8]
Game = gymnasium.Env[Screen, int]
GameWrapper = gymnasium.Wrapper[Screen, int, Screen, int]
StepResult = tuple[Screen, float, bool, bool, dict[str, Any]]

RESTART_FRAME = "restart_frame"
"""Key of `info`: the frame a new stack begins with although the game goes on."""

RESET_REWARD = "reset_reward"
"""Key of `info` after a reset: what the no-ops scored."""


def make_game(
    rom: str,
    *,
    protocol: Protocol,
    crop: Crop | None = None,
    on_frame: Callable[[Screen], None] | None = None,
    render_mode: Literal["human"] | None = None,
) -> Game:
    """Build one game whose observations are single frames, uint8 [84, 84].

    Args:
        rom: name of the game in ale-py's snake_case.
        protocol: frame skip, no-ops, sticky actions, frame cap, mode and difficulty; `sb3` also
            chooses SB3's wrappers.
        crop: rows and columns cut off before the resize: top, bottom, left, right.
        on_frame: called with every emulator frame, RGB uint8 [210, 160, 3].
        render_mode: "human" opens a window and slows the game down to true speed.
    """
    is_sb3 = protocol.name == "sb3"
    game: Game = AtariEnv(
        rom,
        obs_type="rgb" if is_sb3 else "grayscale",
        frameskip=1,
        repeat_action_probability=protocol.action_repeat_probability,
        full_action_space=False,
        max_num_frames_per_episode=protocol.max_frames,
        mode=protocol.mode,
        difficulty=protocol.difficulty,
        render_mode=render_mode,
    )
    if render_mode is not None:
        game = TrueSpeed(game)
    if on_frame is not None:
        game = FrameTap(game, on_frame)
    action_meanings = game.get_wrapper_attr("get_action_meanings")()
    if action_meanings[NOOP] == "NOOP" and protocol.noop_max > 0:
        # The vector emulator draws from 0 .. noop_max, SB3 from 1 .. noop_max.
        game = RandomNoops(game, least=int(is_sb3), most=protocol.noop_max)
    game = SkipAndResize(game, protocol.frame_skip, crop=crop, sb3_order=is_sb3)
    if is_sb3:
        opening = sb3_opening(action_meanings, protocol)
        game = Sb3Restarts(game, opening, restart_on_life_loss=protocol.terminal_on_life_loss)
    return game


class TrueSpeed(GameWrapper):
    """Slows a game down to the speed of the console, which the emulator does not do everywhere."""

    def __init__(self, env: Game) -> None:
        super().__init__(env)
        self._next_frame_at = 0.0

    def step(self, action: int) -> StepResult:
        """Step, not before the next frame is due; lost time is not made up for."""
        now = time.monotonic()
        time.sleep(max(self._next_frame_at - now, 0.0))
        self._next_frame_at = max(self._next_frame_at, now) + 1 / FRAMES_PER_SECOND
        screen, reward, terminated, truncated, info = self.env.step(action)
        return screen, float(reward), terminated, truncated, info


class FrameTap(GameWrapper):
    """Shows every emulator frame to a function."""

    def __init__(self, env: Game, on_frame: Callable[[Screen], None]) -> None:
        super().__init__(env)
        self._on_frame = on_frame

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Screen, dict[str, Any]]:
        """Reset, and show the first screen."""
        result = self.env.reset(seed=seed, options=options)
        self._show()
        return result

    def step(self, action: int) -> StepResult:
        """Step, and show the screen."""
        screen, reward, terminated, truncated, info = self.env.step(action)
        self._show()
        return screen, float(reward), terminated, truncated, info

    def _show(self) -> None:
        self._on_frame(self.get_wrapper_attr("ale").getScreenRGB())


class RandomNoops(GameWrapper):
    """Begins every game with a random number of no-ops, one frame each (Mnih et al., 2015)."""

    def __init__(self, env: Game, least: int, most: int) -> None:
        super().__init__(env)
        self._least = least
        self._most = most

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Screen, dict[str, Any]]:
        """Reset and play the no-ops; a game that they end starts over, without a new seed."""
        screen, info = self.env.reset(seed=seed, options=options)
        score = 0.0
        for _ in range(self.np_random.integers(self._least, self._most + 1)):
            screen, reward, terminated, truncated, info = self.env.step(NOOP)
            score += float(reward)
            if terminated or truncated:
                screen, info = self.env.reset()
                score = 0.0
        return screen, {**info, RESET_REWARD: score}


class SkipAndResize(GameWrapper):
    """Repeats an action, keeps the brighter pixels of the last two screens, 84x84 and grey.

    A game that ends inside a step gives the picture of the step before once more; with the step's
    third frame over it, where that was still played.

    Args:
        env: gives screens, uint8 [210, 160] or [210, 160, 3], one emulator frame per step.
        frame_skip: emulator frames in one step.
        crop: rows and columns cut off before the resize: top, bottom, left, right.
        sb3_order: screens are RGB, and grey comes after the maximum, as in SB3.
    """

    def __init__(self, env: Game, frame_skip: int, *, crop: Crop | None, sb3_order: bool) -> None:
        super().__init__(env)
        shape = env.observation_space.shape
        assert shape is not None
        self._cv2 = import_cv2()
        self._frame_skip = frame_skip
        self._window = crop_window(crop, height=shape[0], width=shape[1])
        self._sb3_order = sb3_order
        self._last_two = np.zeros((2, *shape), dtype=np.uint8)  # newest first
        self.observation_space = gymnasium.spaces.Box(0, 255, (SCREEN_SIZE, SCREEN_SIZE), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Screen, dict[str, Any]]:
        """Reset; the first frame of a game is a single screen."""
        screen, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._last_two[:] = 0  # nothing from before a seed may show
        if not self._sb3_order:  # SB3 keeps the old ones
            self._last_two[0] = screen
            self._last_two[1] = 0
        return self._resize(screen), info

    def step(self, action: int) -> StepResult:
        """Play `frame_skip` emulator frames, fewer where the game ends."""
        score = 0.0
        for frames_left in reversed(range(self._frame_skip)):
            screen, reward, terminated, truncated, info = self.env.step(action)
            score += float(reward)
            ended = terminated or truncated
            # SB3 also takes the screen on which the game ended; ALE and gymnasium do not.
            if frames_left < 2 and (self._sb3_order or not ended):
                self._last_two[frames_left] = screen
            if ended:
                break
        brightest = self._last_two.max(axis=0)
        if not self._sb3_order:
            self._last_two[0] = brightest
        return self._resize(brightest), score, terminated, truncated, info

    def _resize(self, screen: Screen) -> Screen:
        if self._sb3_order:
            screen = self._cv2.cvtColor(screen, self._cv2.COLOR_RGB2GRAY)
        resized: Screen = self._cv2.resize(
            screen[self._window], (SCREEN_SIZE, SCREEN_SIZE), interpolation=self._cv2.INTER_AREA
        )
        return resized


class Sb3Restarts(GameWrapper):
    """Starts games, and goes on after a lost life, as SB3's EpisodicLifeEnv and FireResetEnv do.

    A game begins with `opening`. After a lost life come one no-op and `opening`, and
    `info[RESTART_FRAME]` is the frame after them. None of these is a step of the agent; what they
    score is added to the next step, so that the rewards sum to the score of the game.

    Deviation: where a restart ends the game, SB3 goes on in the next one without a word; here the
    step that lost the life reports the end.
    """

    def __init__(self, env: Game, opening: Sequence[int], *, restart_on_life_loss: bool) -> None:
        super().__init__(env)
        self._opening = tuple(opening)
        self._restart_on_life_loss = restart_on_life_loss
        self._lives = 0
        self._unreported_score = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Screen, dict[str, Any]]:
        """Reset and play the opening; should that end the game, the next one begins without it."""
        frame, info = self._begin(seed)
        if self._opening:
            frame, terminated, truncated, info = self._play(self._opening)
            if terminated or truncated:
                frame, info = self._begin(seed=None)
        return frame, info

    def step(self, action: int) -> StepResult:
        """Step, and restart where a life was lost."""
        frame, reward, terminated, truncated, info = self.env.step(action)
        score = self._unreported_score + float(reward)
        self._unreported_score = 0.0
        if self._lost_life(info) and not (terminated or truncated):
            restart_frame, terminated, truncated, info = self._play((NOOP, *self._opening))
            if terminated or truncated:
                score += self._unreported_score
            else:
                info = {**info, RESTART_FRAME: restart_frame}
        return frame, score, terminated, truncated, info

    def _begin(self, seed: int | None) -> tuple[Screen, dict[str, Any]]:
        frame, info = self.env.reset(seed=seed)
        self._lives = info["lives"]
        self._unreported_score = info.get(RESET_REWARD, 0.0)
        return frame, info

    def _play(self, actions: Sequence[int]) -> tuple[Screen, bool, bool, dict[str, Any]]:
        """Play actions that are no steps of the agent, until the game ends."""
        for action in actions:
            frame, reward, terminated, truncated, info = self.env.step(action)
            self._unreported_score += float(reward)
            lost_life = self._lost_life(info)
            if terminated or truncated:
                break
            if lost_life and action != NOOP:
                # SB3 answers with one no-op, and still hands out the frame from before it.
                _, terminated, truncated, info = self._play((NOOP,))
        return frame, terminated, truncated, info

    def _lost_life(self, info: dict[str, Any]) -> bool:
        """Note the lives; with none left, SB3 waits for the end of the game."""
        lost = 0 < info["lives"] < self._lives
        self._lives = info["lives"]
        return self._restart_on_life_loss and lost


def sb3_opening(action_meanings: Sequence[str], protocol: Protocol) -> tuple[int, ...]:
    """Return what SB3's FireResetEnv presses: FIRE, then action 2, in games that have FIRE.

    Raises:
        UserError: a game without NOOP, which SB3's wrappers refuse as well.
    """
    if action_meanings[NOOP] != "NOOP":
        raise UserError(f"protocol sb3 needs a game with NOOP, and this one has {action_meanings}")
    if not protocol.fire or "FIRE" not in action_meanings:
        return ()
    return (action_meanings.index("FIRE"), 2)
