"""What the agent sees: pixels and rewards of both backends against independent implementations."""

import sys
from dataclasses import replace
from typing import Any, Literal

import cv2
import gymnasium
import numpy as np
import pytest
from ale_py.env import AtariEnv
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from support.children import run_python
from support.emulators import KEPT

from dqn_zoo.envs.env_settings import EnvSettings, ReseedPlan
from dqn_zoo.envs.environments import Environments
from dqn_zoo.envs.making import make_envs
from dqn_zoo.envs.wrappers import RESTART_FRAME, Sb3Restarts
from dqn_zoo.errors import UserError
from dqn_zoo.settings.games import GAMES
from dqn_zoo.settings.protocols import PROTOCOLS

FIXED = replace(PROTOCOLS["zoo"], noop_max=0)  # nothing left to chance, FIRE on
SEED = 11


def build(game: str, num_envs: int = 1, **settings: Any) -> Environments:
    plan = ReseedPlan(lambda row, count: SEED + row, every_steps=10**9)
    return make_envs(game, num_envs, settings=EnvSettings(**{"kept": KEPT} | settings), reseed=plan)


def peer(game: str, max_frames: int = 108_000) -> gymnasium.Env[Any, Any]:
    """Return gymnasium's own preprocessing, which is independent of ours."""
    emulator = AtariEnv(
        GAMES[game],
        frameskip=1,
        repeat_action_probability=0.0,
        max_num_frames_per_episode=max_frames,
    )
    screens = AtariPreprocessing(emulator, noop_max=0)
    return FrameStackObservation(screens, 4, padding_type="zero")


@pytest.mark.parametrize(
    ("game", "num_steps", "max_frames"),
    [
        ("Breakout", 180, 108_000),
        ("Pong", 150, 480),  # its games are long, and have no lives
        ("SpaceInvaders", 230, 108_000),
        ("MsPacman", 210, 108_000),
    ],
)
def test_both_backends_show_what_gymnasium_shows_pixel_for_pixel(
    game: str, num_steps: int, max_frames: int
) -> None:
    oracle = peer(game, max_frames)
    protocol = replace(FIXED, max_frames=max_frames)
    first, _ = oracle.reset(seed=SEED)
    generator = np.random.default_rng(5)
    events = 0
    scores = np.zeros(3)
    with (
        build(game, protocol=protocol, backend="vector") as vector,
        build(game, protocol=protocol, backend="gymnasium") as single,
    ):
        np.testing.assert_array_equal(vector.reset(), first[None])
        np.testing.assert_array_equal(single.reset(), first[None])
        for _ in range(num_steps):
            action = generator.integers(0, vector.num_actions, 1)
            one, other = vector.step(action), single.step(action)
            for name, left, right in zip(one._fields, one, other, strict=True):
                np.testing.assert_array_equal(left, right, err_msg=name)
            seen, reward, terminated, truncated, _ = oracle.step(one.action[0])
            np.testing.assert_array_equal(one.next_observation[0], seen)
            assert (one.reward[0], one.terminated[0]) == (reward, terminated)
            assert one.truncated[0] == truncated
            if terminated or truncated:
                np.testing.assert_array_equal(one.observation[0], oracle.reset()[0])
            scores += (one.reward[0], other.reward[0], float(reward))
            events += int(one.restarted[0]) + int(one.life_lost[0])
    assert events >= 1
    assert scores[0] == scores[1] == scores[2] != 0


@pytest.mark.parametrize("cap_frames", [160, 161, 162, 163])
def test_a_game_cut_off_inside_a_step_looks_the_same_everywhere(cap_frames: int) -> None:
    protocol = replace(FIXED, max_frames=cap_frames, fire=False)
    oracle = peer("Asteroids", cap_frames)  # its objects flicker
    oracle.reset(seed=SEED)
    with (
        build("Asteroids", protocol=protocol, backend="vector") as vector,
        build("Asteroids", protocol=protocol, backend="gymnasium") as single,
    ):
        vector.reset(), single.reset()
        for action in np.random.default_rng(5).integers(0, vector.num_actions, (50, 1)):
            one, other = vector.step(action), single.step(action)
            seen, *_, truncated, _ = oracle.step(action[0])
            assert one.next_observation[0].tobytes() == seen.tobytes()
            assert other.next_observation[0].tobytes() == seen.tobytes()
            assert one.truncated[0] == other.truncated[0] == truncated
            if truncated:
                return
    pytest.fail("the game was not cut off")


def test_the_number_of_emulator_threads_changes_nothing() -> None:
    def digest(num_threads: int) -> list[bytes]:
        settings = EnvSettings(protocol=PROTOCOLS["machado"])
        with make_envs("Breakout", 3, settings=settings, num_threads=num_threads) as environments:
            environments.reset()
            actions = np.random.default_rng(0).integers(0, 4, (60, 3))
            return [environments.step(action).observation.tobytes() for action in actions]

    assert digest(1) == digest(2)


def test_cropping_cuts_the_screen_before_it_is_resized() -> None:
    top, bottom, left, right = 34, 16, 8, 24
    emulator = AtariEnv("pong", obs_type="grayscale", frameskip=1, repeat_action_probability=0.0)
    screen, _ = emulator.reset(seed=SEED)

    def by_hand(full: np.ndarray) -> np.ndarray:
        kept = np.ascontiguousarray(full[34:194, 8:136])
        return cv2.resize(kept, (84, 84), interpolation=cv2.INTER_AREA)

    settings: dict[str, Any] = {"protocol": FIXED, "crop": (top, bottom, left, right)}
    with build("Pong", **settings) as environments:
        np.testing.assert_array_equal(environments.reset()[0, 3], by_hand(screen))
        for _ in range(100):
            step = environments.step(np.array([3]))
            screens = [emulator.step(int(step.action[0]))[0] for _ in range(4)]
            brightest = np.maximum(screens[2], screens[3])
            np.testing.assert_array_equal(step.observation[0, 3], by_hand(brightest))


# Windows and frames


def test_on_frame_sees_every_emulator_frame_of_every_environment() -> None:
    frames: dict[int, list[np.ndarray]] = {0: [], 1: []}
    protocol = replace(PROTOCOLS["zoo"], noop_max=1)
    with build(
        "Breakout", 2, protocol=protocol, on_frame=lambda row, frame: frames[row].append(frame)
    ) as environments:
        environments.reset()
        openings = [len(frames[row]) for row in range(2)]  # the first screen and the no-ops
        assert set(openings) <= {1, 2}
        for _ in range(7):
            environments.step(np.array([2, 3]))
    for row, opening in enumerate(openings):
        assert len(frames[row]) == opening + 7 * 4
        assert {(frame.shape, str(frame.dtype)) for frame in frames[row]} == {
            ((210, 160, 3), "uint8")
        }
    assert frames[0][-1].tobytes() != frames[1][-1].tobytes()
    assert frames[0][1].tobytes() != frames[0][-1].tobytes()


def test_watching_does_not_change_the_game() -> None:
    protocol = PROTOCOLS["machado"]
    digests = []
    for watching in ({"backend": "gymnasium"}, {"on_frame": lambda row, frame: None}):
        with build("Breakout", protocol=protocol, **watching) as environments:
            environments.reset()
            steps = [environments.step(np.array([number % 4])) for number in range(60)]
            digests.append([step.observation.tobytes() for step in steps])
    assert digests[0] == digests[1]


def test_a_window_opens_and_the_game_runs_at_true_speed() -> None:
    code = (
        "import time, numpy\n"
        "from dqn_zoo.envs.env_settings import EnvSettings\n"
        "from dqn_zoo.envs.making import make_envs\n"
        "settings = EnvSettings(render_mode='human')\n"
        "with make_envs('Breakout', 2, settings=settings) as environments:\n"
        "    environments.reset()\n"
        "    start = time.monotonic()\n"
        "    for _ in range(15):\n"
        "        environments.step(numpy.array([0, 1]))\n"
        "    print(time.monotonic() - start)\n"
    )
    no_screen = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
    took_s = float(run_python(code, environment=no_screen).splitlines()[-1])
    assert took_s > 0.9  # 60 frames at 60 Hz


def test_the_emulator_prints_no_banner(capfd: pytest.CaptureFixture[str]) -> None:
    for backend in ("vector", "gymnasium"):
        with build("Pong", backend=backend, kept=None) as environments:
            environments.reset()
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


def test_without_opencv_the_error_names_the_system_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r"apt-get install libgl1.*opencv-python-headless"):
        build("Pong", backend="gymnasium", kept=None)
    with build("Pong", backend="vector", kept=None) as environments:
        environments.reset()


@pytest.mark.parametrize("backend", ["vector", "gymnasium"])
def test_a_game_without_noop_can_be_played(backend: Literal["vector", "gymnasium"]) -> None:
    with build("Backgammon", backend=backend) as environments:
        assert "NOOP" not in environments.action_meanings
        environments.reset()
        assert environments.step(np.array([2])).action[0] == 0  # FIRE comes first here
        state = environments.state()
    with build("Backgammon", backend=backend) as environments:
        environments.restore(state)


# The protocol sb3


class NaiveSb3:
    """SB3's AtariWrapper and VecFrameStack in one flat class, as their documentation tells it.

    Its layers are spelled out as methods: `raw_reset` (no-ops), `skip` (four frames, maximum),
    `lives_step` and `lives_reset` (episodic life), `fire_reset`.
    """

    def __init__(self, game: str) -> None:
        self.emulator = AtariEnv(GAMES[game], frameskip=1, repeat_action_probability=0.0)
        self.has_fire = "FIRE" in self.emulator.get_action_meanings()
        self.newest_two = [np.zeros((210, 160, 3), np.uint8)] * 2
        self.lives = 0
        self.game_over = True
        self.score = 0.0
        self.stack = np.zeros((4, 84, 84), np.uint8)

    def start(self, seed: int | None) -> np.ndarray:
        self.stack[:] = 0
        return self.push(self.fire_reset(seed))

    def act(self, action: int) -> tuple[np.ndarray, bool]:
        """Return the successor stack and whether SB3's episode ended."""
        screen, done = self.lives_step(action)
        return self.push(screen), done

    def push(self, screen: np.ndarray) -> np.ndarray:
        grey = cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY)
        self.stack = np.roll(self.stack, -1, axis=0)
        self.stack[-1] = cv2.resize(grey, (84, 84), interpolation=cv2.INTER_AREA)
        return self.stack.copy()

    def raw_step(self, action: int) -> tuple[np.ndarray, bool]:
        screen, reward, terminated, truncated, _ = self.emulator.step(action)
        self.score += reward
        return screen, terminated or truncated

    def raw_reset(self, seed: int | None) -> np.ndarray:
        screen, _ = self.emulator.reset(seed=seed)
        for _ in range(self.emulator.np_random.integers(1, 31)):
            screen, done = self.raw_step(0)
            assert not done
        return screen

    def skip(self, action: int) -> tuple[np.ndarray, bool]:
        for frame in range(4):
            screen, done = self.raw_step(action)
            if frame >= 2:
                self.newest_two[frame - 2] = screen
            if done:
                break
        return np.maximum(*self.newest_two), done

    def lives_step(self, action: int) -> tuple[np.ndarray, bool]:
        screen, self.game_over = self.skip(action)
        lives = self.emulator.ale.lives()
        lost, self.lives = 0 < lives < self.lives, lives
        return screen, self.game_over or lost

    def lives_reset(self, seed: int | None) -> np.ndarray:
        screen = self.raw_reset(seed) if self.game_over else self.skip(0)[0]
        self.lives = self.emulator.ale.lives()
        return screen

    def fire_reset(self, seed: int | None) -> np.ndarray:
        screen = self.lives_reset(seed)
        if self.has_fire:
            for action in (1, 2):
                screen, done = self.lives_step(action)
                if done:
                    self.lives_reset(None)
        return screen


@pytest.mark.parametrize(
    ("game", "num_steps", "games_at_least"),
    [
        ("Breakout", 140, 1),
        ("SpaceInvaders", 530, 1),
        ("MsPacman", 350, 1),
        ("Qbert", 450, 1),
        ("Skiing", 60, 0),
    ],
)  # Skiing scores in every frame, no-ops included
def test_protocol_sb3_sees_and_scores_what_sb3_does(
    game: str, num_steps: int, games_at_least: int
) -> None:
    naive = NaiveSb3(game)
    score, restarts, games = 0.0, 0, 0
    generator = np.random.default_rng(3)
    with build(game, protocol=PROTOCOLS["sb3"]) as environments:
        assert environments.reset()[0].tobytes() == naive.start(SEED).tobytes()
        for _ in range(num_steps):
            action = generator.integers(0, environments.num_actions, 1)
            step = environments.step(action)
            seen, done = naive.act(int(action[0]))
            np.testing.assert_array_equal(step.next_observation[0], seen)
            assert step.action[0] == action[0]
            assert step.restarted[0] == done
            assert step.terminated[0] == (done and naive.game_over)
            assert step.life_lost[0] == (done and not naive.game_over)
            score += float(step.reward[0])
            assert score == naive.score
            if step.terminated[0]:
                score, naive.score, games = 0.0, 0.0, games + 1
            if done:
                restarts += 1
                seen = naive.start(None)
            np.testing.assert_array_equal(step.observation[0], seen)
    assert games >= games_at_least
    assert restarts >= 3 * games_at_least


class ScriptedLives(gymnasium.Env[np.ndarray, int]):
    """An emulator that loses lives on schedule, and ends its game with the script."""

    def __init__(self, lives: list[int]) -> None:
        self.lives = lives
        self.actions: list[int] = []

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros((84, 84), np.uint8), {"lives": self.lives[0]}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.actions.append(action)
        now = len(self.actions)
        over = now == len(self.lives) - 1
        return np.full((84, 84), now, np.uint8), 10.0**now, over, False, {"lives": self.lives[now]}


def test_a_life_lost_inside_a_restart_is_answered_by_one_noop_as_in_sb3() -> None:
    emulator = ScriptedLives([5, 5, 5, 4, 4, 3, 3, 2, 2, 2, 0])
    game = Sb3Restarts(emulator, (1, 2), restart_on_life_loss=True)
    game.reset()
    _, reward, _, _, info = game.step(3)
    assert emulator.actions == [1, 2, 3, 0, 1, 0, 2, 0]
    assert reward == 10 + 100 + 1_000  # the opening and the step
    assert info[RESTART_FRAME][0, 0] == 7  # of action 2, not of the no-op after it
    assert game.step(3)[1] == 10**4 + 10**5 + 10**6 + 10**7 + 10**8 + 10**9


def test_a_restart_that_ends_the_game_is_reported_by_the_step_that_lost_the_life() -> None:
    game = Sb3Restarts(ScriptedLives([3, 3, 3, 2, 2, 0]), (1, 2), restart_on_life_loss=True)
    game.reset()
    frame, reward, terminated, truncated, info = game.step(3)
    assert (terminated, truncated) == (True, False)
    assert RESTART_FRAME not in info
    assert frame[0, 0] == 3
    assert reward == 10 + 100 + 1_000 + 10_000 + 100_000


def test_protocol_sb3_plays_on_without_a_restart_where_life_loss_does_not_count() -> None:
    protocol = replace(PROTOCOLS["sb3"], terminal_on_life_loss=False)
    with build("Breakout", protocol=protocol) as environments:
        environments.reset()
        steps = [environments.step(np.array([number % 4])) for number in range(100)]
    assert any(step.life_lost[0] for step in steps)
    assert not any(step.restarted[0] and not step.terminated[0] for step in steps)


def test_protocol_sb3_survives_a_cap_that_ends_games_inside_an_opening() -> None:
    for cap_frames, num_steps in ((3, 6), (40, 20)):
        protocol = replace(PROTOCOLS["sb3"], max_frames=cap_frames)
        with build("Breakout", protocol=protocol) as environments:
            environments.reset()
            steps = [environments.step(np.array([3])) for _ in range(num_steps)]
        assert any(step.truncated[0] for step in steps)


def test_protocol_sb3_refuses_games_without_noop() -> None:
    with pytest.raises(UserError, match="NOOP"):
        build("Backgammon", protocol=PROTOCOLS["sb3"])


# Every game


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_game_can_be_built_and_played() -> None:
    for game in GAMES:
        with make_envs(game) as environments:
            assert environments.reset().shape == (1, 4, 84, 84)
            for number in range(20):
                step = environments.step(np.array([number]) % environments.num_actions)
            assert step.observation.any(), game
