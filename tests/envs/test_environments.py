"""The contract of `Environments`, on the real emulator and both backends."""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from support.emulators import KEPT

from dqn_zoo.envs.backend import BackendStep
from dqn_zoo.envs.env_settings import EnvSettings, ReseedPlan
from dqn_zoo.envs.environments import Environments, EnvStep
from dqn_zoo.envs.making import make_envs
from dqn_zoo.errors import UserError
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.games import parse_game
from dqn_zoo.settings.protocols import PROTOCOLS

BACKENDS: tuple[Literal["vector", "gymnasium"], ...] = ("vector", "gymnasium")


@pytest.fixture(params=BACKENDS)
def build(request: pytest.FixtureRequest) -> Any:
    """Return a function that builds environments on one backend and closes them in the end."""
    opened = []

    def build_environments(
        game: str = "Breakout",
        num_envs: int = 2,
        protocol: str = "zoo",
        frame_stack: int = 4,
        seed: int = 7,
        reseed: ReseedPlan | None = None,
        **changes: Any,
    ) -> Environments:
        settings = EnvSettings(
            protocol=replace(PROTOCOLS[protocol], **changes),
            backend=request.param,
            frame_stack=frame_stack,
            kept=KEPT,
        )
        opened.append(make_envs(game, num_envs, settings=settings, seed=seed, reseed=reseed))
        return opened[-1]

    yield build_environments
    for environments in opened:
        environments.close()


Build = Callable[..., Environments]


def random_steps(environments: Environments, num_steps: int, seed: int = 0) -> Iterator[EnvStep]:
    generator = np.random.default_rng(seed)
    shape = (num_steps, environments.num_envs)
    for actions in generator.integers(0, environments.num_actions, shape):
        yield environments.step(actions)


def play(environments: Environments, num_steps: int, seed: int = 0) -> list[EnvStep]:
    return list(random_steps(environments, num_steps, seed))


def fill(environments: Environments, action: int) -> np.ndarray:
    return np.full(environments.num_envs, action)


def assert_same_steps(left: list[EnvStep], right: list[EnvStep]) -> None:
    for number, (one, other) in enumerate(zip(left, right, strict=True)):
        for name, first, second in zip(EnvStep._fields, one, other, strict=True):
            assert first.tobytes() == second.tobytes(), f"{name} differs at step {number}"


# Shapes and stacks


def test_a_step_has_the_promised_shapes_and_types(build: Build) -> None:
    environments = build(num_envs=3, frame_stack=2)
    assert environments.reset().shape == (3, 2, 84, 84)
    step = environments.step(np.array([0, 1, 2], dtype=np.int32))
    dtypes = {name: str(value.dtype) for name, value in step._asdict().items()}
    assert dtypes == {
        "observation": "uint8",
        "next_observation": "uint8",
        "action": "int64",
        "reward": "float32",
        "terminated": "bool",
        "truncated": "bool",
        "life_lost": "bool",
        "restarted": "bool",
    }
    assert step.observation.shape == step.next_observation.shape == (3, 2, 84, 84)
    assert {value.shape for value in step[2:]} == {(3,)}
    assert (environments.game, environments.rom) == ("Breakout", "breakout")
    assert environments.action_meanings == ("NOOP", "FIRE", "RIGHT", "LEFT")
    assert (environments.num_envs, environments.num_actions) == (3, 4)


def test_a_game_starts_with_one_frame_after_zeros(build: Build) -> None:
    observation = build(num_envs=1).reset()
    assert not observation[:, :3].any()
    assert observation[:, 3].any(axis=(1, 2)).all()


def test_next_observation_is_the_true_successor_in_every_row_of_every_step(build: Build) -> None:
    environments = build()
    previous = environments.reset()
    ends = 0
    for step in play(environments, 260):
        np.testing.assert_array_equal(step.next_observation[:, :3], previous[:, 1:])
        going_on = ~step.restarted
        np.testing.assert_array_equal(step.observation[going_on], step.next_observation[going_on])
        np.testing.assert_array_equal(step.restarted, step.terminated | step.truncated)
        assert not step.observation[step.restarted, :3].any()
        assert step.observation[step.restarted, 3].any(axis=(1, 2)).all()
        ends += int(step.restarted.sum())
        previous = step.observation
    assert ends >= 2


def test_arrays_of_a_step_are_not_overwritten_by_later_steps(build: Build) -> None:
    environments = build(num_envs=1)
    environments.reset()
    [step] = play(environments, 1)
    before = step.observation.copy()
    play(environments, 5)
    np.testing.assert_array_equal(step.observation, before)


# Ends of lives and games


def test_a_breakout_game_loses_four_lives_and_then_ends(build: Build) -> None:
    environments = build(num_envs=1)
    environments.reset()
    lives_lost = []
    count = 0
    for step in play(environments, 480):
        assert not (step.life_lost & step.terminated).any()
        count += int(step.life_lost[0])
        if step.terminated[0]:
            lives_lost.append(count)
            count = 0
    assert len(lives_lost) >= 2
    assert set(lives_lost) == {4}


def test_the_frame_cap_truncates_without_terminating(build: Build) -> None:
    environments = build(max_frames=60, noop_max=0)
    environments.reset()
    steps = play(environments, 45)
    truncated = [number for number, step in enumerate(steps, start=1) if step.truncated.all()]
    assert truncated == [15, 30, 45]
    assert not any(step.terminated.any() or step.life_lost.any() for step in steps)
    assert all(step.restarted.all() for step in steps if step.truncated.any())


def test_rewards_are_raw(build: Build) -> None:
    environments = build("SpaceInvaders", 1)
    environments.reset()
    rewards = {float(reward) for step in play(environments, 130) for reward in step.reward}
    assert rewards >= {0.0, 5.0, 10.0}


def test_noops_are_drawn_from_zero_up_to_noop_max(build: Build) -> None:
    environments = build("Freeway", 1, frame_stack=1, noop_max=0, frame_skip=1)
    frames = [environments.reset()]
    frames += [environments.step(fill(environments, 0)).observation for _ in range(4)]
    first_frames = {frame.tobytes(): number for number, frame in enumerate(frames)}
    assert len(first_frames) == 5

    environments = build("Freeway", 1, frame_stack=1, noop_max=3, max_frames=8)
    drawn = [first_frames[environments.reset().tobytes()]]
    for _ in range(70):
        step = environments.step(fill(environments, 0))
        if step.restarted[0]:
            drawn.append(first_frames[step.observation.tobytes()])
    assert set(drawn) == {0, 1, 2, 3}


# FIRE


def test_fire_opens_every_game_and_follows_every_lost_life(build: Build) -> None:
    environments = build(noop_max=0)
    environments.reset()
    fire_is_due = np.ones(2, dtype=bool)
    lives_lost = games_over = 0
    for _ in range(280):
        sent = fill(environments, 3)
        step = environments.step(sent)
        np.testing.assert_array_equal(step.action, np.where(fire_is_due, 1, 3))
        np.testing.assert_array_equal(sent, 3)
        fire_is_due = step.life_lost | step.restarted
        lives_lost += int(step.life_lost.sum())
        games_over += int(step.terminated.sum())
    assert lives_lost >= 8
    assert games_over >= 2


def test_without_the_rule_or_without_the_button_the_sent_action_is_executed(build: Build) -> None:
    for game, protocol in (("Breakout", "machado"), ("MsPacman", "zoo")):
        environments = build(game, 1, protocol=protocol)
        environments.reset()
        for step in [environments.step(fill(environments, 2)) for _ in range(20)]:
            np.testing.assert_array_equal(step.action, [2])


# Seeds


def test_equal_seeds_play_equal_games(build: Build) -> None:
    one, other = (build(action_repeat_probability=0.25, seed=3) for _ in range(2))
    assert one.reset().tobytes() == other.reset().tobytes()
    assert_same_steps(play(one, 140), play(other, 140))


def test_other_seeds_and_other_rows_play_other_games(build: Build) -> None:
    one, other = (build("SpaceInvaders", protocol="machado", seed=seed) for seed in (3, 4))
    one.reset(), other.reset()
    actions = np.random.default_rng(0).integers(0, 6, 60)
    ends = [[e.step(fill(e, a)) for a in actions][-1].observation for e in (one, other)]
    frames = {row.tobytes() for observation in ends for row in observation}
    assert len(frames) == 4


def test_an_environment_is_seeded_at_its_first_game_end_after_every_steps(build: Build) -> None:
    for every_steps, expected in ((20, [20, 40]), (21, [30])):  # games of 10 steps
        asked: list[tuple[int, int]] = []

        def seed_of(row: int, count: int, asked: list[tuple[int, int]] = asked) -> int:
            asked.append((row, count))
            return 10 * row + count

        plan = ReseedPlan(seed_of, every_steps)
        environments = build(reseed=plan, noop_max=0, max_frames=40)
        environments.reset()
        seeded_at = []
        for number, step in enumerate(random_steps(environments, 45), start=1):
            rows = environments.state()["environments"]
            if {row["steps"] for row in rows} == {0}:
                assert step.restarted.all()
                assert [row["seeded_times"] for row in rows] == [len(seeded_at) + 1] * 2
                seeded_at.append(number)
        assert seeded_at == expected
        assert set(asked) == {(row, count) for row in (0, 1) for count in range(len(expected) + 1)}


def test_with_every_steps_zero_each_game_is_decided_by_its_own_seed(build: Build) -> None:
    def plan(first: int) -> ReseedPlan:
        return ReseedPlan(lambda row, count: 100 * (first + count) + row, every_steps=0)

    changes = {"num_envs": 1, "noop_max": 0, "max_frames": 80, "action_repeat_probability": 0.25}
    environments = build("SpaceInvaders", reseed=plan(0), **changes)
    environments.reset()
    for _ in range(40):  # two games of 20 steps
        step = environments.step(fill(environments, 2))
    assert environments.state()["environments"][0]["seeded_times"] == 2
    later = build("SpaceInvaders", reseed=plan(2), **changes)
    np.testing.assert_array_equal(step.observation, later.reset())
    steps = [[e.step(fill(e, 2)) for _ in range(30)] for e in (environments, later)]
    assert_same_steps(*steps)


def test_a_plan_with_impossible_seeds_is_refused(build: Build) -> None:
    for seed in (-1, 2**31):
        environments = build(num_envs=1, reseed=ReseedPlan(lambda row, count, s=seed: s, 5))
        with pytest.raises(ValueError, match="0 <= seed"):
            environments.reset()


# Guards: every one of these would hang, crash or corrupt the emulator


def test_a_wrong_action_is_refused_and_play_goes_on(build: Build) -> None:
    environments = build()
    environments.reset()
    wrong: list[tuple[Any, str]] = [
        (np.array([0, 4]), "0 .. 3"),
        (np.array([-1, 0]), "0 .. 3"),
        (np.array([0]), "shape"),
        (np.array([[0, 1]]), "shape"),
        (np.array([0.0, 1.0]), "integers"),
        (np.array([True, False]), "integers"),
        ([0, 1], "integers"),
    ]
    for action, message in wrong:
        with pytest.raises(ValueError, match=message):
            environments.send(action)
    environments.step(np.array([0, 3]))


def test_calls_out_of_order_are_refused_and_the_right_one_still_works(build: Build) -> None:
    environments = build(num_envs=1)
    action = np.array([3])

    def refused(*calls: Callable[[], Any]) -> None:
        for call in calls:
            with pytest.raises(RuntimeError, match="cannot"):
                call()

    def send() -> None:
        environments.send(action)

    refused(send, environments.recv, environments.state)
    environments.reset()
    refused(environments.recv, environments.reset)
    state = environments.state()
    refused(lambda: environments.restore(state))
    environments.send(action)
    refused(send, environments.reset, environments.state, lambda: environments.restore(state))
    environments.recv()
    environments.step(action)


def test_closing_twice_is_fine_and_playing_after_it_is_not(build: Build) -> None:
    with build(num_envs=1) as environments:
        environments.reset()
        environments.send(np.array([3]))  # closing with a step on its way must not hang
    environments.close()
    with pytest.raises(RuntimeError, match="closed"):
        environments.recv()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_step_in_a_forked_child_is_refused(build: Build) -> None:
    environments = build(num_envs=1)
    environments.reset()
    child = os.fork()
    if child == 0:
        try:
            environments.send(np.array([3]))
        except RuntimeError:
            os._exit(42)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42


def test_environments_are_unusable_after_a_call_that_failed_half_way() -> None:
    def fail_later(row: int, frame: np.ndarray) -> None:
        frames.append(row)
        if len(frames) > 50:
            raise OSError("the disk is full")

    frames: list[int] = []
    with make_envs("Breakout", settings=EnvSettings(on_frame=fail_later)) as environments:
        environments.reset()
        with pytest.raises(OSError, match="full"):
            play(environments, 40)
        with pytest.raises(RuntimeError, match="half-way"):
            environments.recv()


# Exact resume


def saved(environments: Environments) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(json.dumps(environments.state()))
    return loaded


@pytest.mark.parametrize(("num_envs", "stop_after"), [(1, 0), (1, 263), (2, 235)])
def test_restored_environments_go_on_bit_for_bit(
    build: Build, num_envs: int, stop_after: int
) -> None:
    options: dict[str, Any] = {
        "num_envs": num_envs,
        "action_repeat_probability": 0.25,
        "reseed": ReseedPlan.for_training(5, every_steps=90),
    }
    original = build(**options)
    observation = original.reset()
    for step in play(original, stop_after):
        observation = step.observation
    state = saved(original)
    expected = play(original, 240, seed=1)
    assert sum(int(step.terminated.sum()) for step in expected) >= num_envs
    seeded_times = [entry["seeded_times"] for entry in state["environments"]]
    if stop_after:
        assert min(seeded_times) >= 1
        assert max(entry["steps"] for entry in state["environments"]) > 30

    progress: list[tuple[int, int]] = []
    restored = build(**options)
    again = restored.restore(state, lambda done, total: progress.append((done, total)))
    assert again.tobytes() == observation.tobytes()
    assert progress[-1] == (max(entry["steps"] for entry in state["environments"]),) * 2
    assert saved(restored) == state
    assert_same_steps(play(restored, 240, seed=1), expected)
    later = [entry["seeded_times"] for entry in saved(restored)["environments"]]
    assert all(after > before for before, after in zip(seeded_times, later, strict=True))


def test_a_restored_run_can_be_saved_and_restored_again(build: Build) -> None:
    options: dict[str, Any] = {"protocol": "machado", "num_envs": 1}
    original = build(**options)
    original.reset()
    play(original, 60)
    second = build(**options)
    second.restore(saved(original))
    play(original, 60, seed=1), play(second, 60, seed=1)
    third = build(**options)
    third.restore(saved(second))
    assert_same_steps(play(third, 60, seed=2), play(original, 60, seed=2))


def test_saving_changes_nothing(build: Build) -> None:
    saving, silent = build(num_envs=1), build(num_envs=1)
    saving.reset(), silent.reset()
    for number in range(120):
        saving.state()
        assert_same_steps(play(saving, 1, seed=number), play(silent, 1, seed=number))


def test_a_changed_action_is_noticed(build: Build) -> None:
    from dqn_zoo.envs.exact_resume import _pack, _unpack

    environments = build("SpaceInvaders", 1)
    environments.reset()
    play(environments, 50)
    state = saved(environments)
    [entry] = state["environments"]
    actions = _unpack(entry["actions"], entry["steps"]).copy()
    for late in range(40, 50):
        actions[late] = (actions[late] + 3) % environments.num_actions
    entry["actions"] = _pack(actions)
    with pytest.raises(UserError, match="differ"):
        build("SpaceInvaders", 1).restore(state)


def test_a_damaged_state_is_refused_before_it_reaches_the_emulator(build: Build) -> None:
    from dqn_zoo.envs.exact_resume import _pack

    environments = build()
    environments.reset()
    play(environments, 5)
    state = saved(environments)
    out_of_range = _pack(np.array([0, 1, 2, 3, 4], dtype=np.uint8))
    too_short = _pack(np.array([0, 1, 2, 3], dtype=np.uint8))
    fresh = build()
    for actions in (out_of_range, too_short, "!", "AAAA"):
        state["environments"][1]["actions"] = actions
        with pytest.raises(ValueError, match="damaged"):
            fresh.restore(state)
    fresh.reset()


def test_a_state_of_other_environments_is_refused(build: Build) -> None:
    environments = build(num_envs=1, seed=1)
    environments.reset()
    state = saved(environments)
    changes: list[dict[str, Any]] = [
        {"num_envs": 2},
        {"game": "Pong"},
        {"noop_max": 29},
        {"frame_stack": 3},
    ]
    for change in changes:
        other = build(**{"num_envs": 1, **change})
        with pytest.raises(UserError, match="resume with the settings"):
            other.restore(state)
    other, same = build(num_envs=1, seed=2), build(num_envs=1, seed=2)
    state["environments"][0]["seeded_times"] = 3
    with pytest.raises(UserError, match="other seeds"):
        other.restore(state)
    assert np.array_equal(other.reset(), same.reset())  # a refusal leaves no trace


# Settings


def test_auto_takes_the_vector_backend_unless_it_cannot_serve() -> None:
    def ignore(row: int, frame: np.ndarray) -> None:
        pass

    needs_gymnasium: list[dict[str, Any]] = [
        {"crop": (10, 0, 0, 0)},
        {"on_frame": ignore},
        {"render_mode": "human"},
        {"protocol": PROTOCOLS["sb3"]},
    ]
    assert EnvSettings().choose_backend() == "vector"
    assert EnvSettings(backend="gymnasium").choose_backend() == "gymnasium"
    for wanted in needs_gymnasium:
        assert EnvSettings(**wanted).choose_backend() == "gymnasium"
        with pytest.raises(UserError, match="backend vector cannot serve"):
            make_envs("Breakout", settings=EnvSettings(backend="vector", **wanted))


def test_settings_come_from_the_config() -> None:
    config = Config(
        protocol="machado",
        noop_max=11,
        backend="gymnasium",
        frame_stack=3,
        crop=(1, 2, 3, 4),
    )
    assert EnvSettings.from_config(config) == EnvSettings(
        protocol=replace(PROTOCOLS["machado"], noop_max=11),
        backend="gymnasium",
        frame_stack=3,
        crop=(1, 2, 3, 4),
    )


def test_the_name_of_the_game_implies_the_protocol() -> None:
    for name, protocol in (
        ("Breakout", "zoo"),
        ("ALE/Breakout-v5", "machado"),
        ("BreakoutNoFrameskip-v4", "zoo"),
    ):
        with make_envs(name) as environments:
            assert environments.settings.protocol == PROTOCOLS[protocol]


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_envs": 0},
        {"num_threads": -1},
        {"settings": EnvSettings(frame_stack=0)},
        {"settings": EnvSettings(crop=(100, 110, 0, 0))},
        {"settings": EnvSettings(crop=(0, 0, -1, 0))},
    ],
)
def test_impossible_settings_are_user_errors(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        make_envs("Breakout", **arguments)


def test_the_examples_in_the_documentation_run() -> None:
    text = (Path(__file__).parents[2] / "docs" / "environments.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "environments.md", "exec"), {})


class Scripted:
    """A game of three lives: lives, and whether it is over and cut off, after each step."""

    action_meanings = ("NOOP",)

    def __init__(self, *steps: tuple[int, bool, bool]) -> None:
        self.steps = iter(steps)

    def reset(self, rows, seeds):
        return np.zeros((1, 4, 84, 84), np.uint8), np.array([3])

    def send(self, actions):
        pass

    def recv(self):
        frames, no = np.zeros((1, 4, 84, 84), np.uint8), np.array([False])
        lives, over, cut_off = (np.array([value]) for value in next(self.steps))
        return BackendStep(frames, frames, np.zeros(1, np.float32), over, cut_off, no, lives)


def play_scripted(protocol: str, *steps: tuple[int, bool, bool]) -> list[EnvStep]:
    settings = EnvSettings(protocol=PROTOCOLS[protocol])
    plan = ReseedPlan(lambda row, count: 1, every_steps=5)
    environments = Environments(
        Scripted(*steps), parse_game("Pong"), num_envs=1, settings=settings, reseed=plan
    )
    environments.reset()
    return [environments.step(np.array([0])) for _ in steps]


def test_a_game_that_is_over_at_the_cap_is_not_cut_off():
    [step] = play_scripted("zoo", (0, True, True))
    assert (step.terminated[0], step.truncated[0]) == (True, False)


@pytest.mark.parametrize(
    ("protocol", "lost"), [("zoo", [True, True, False]), ("sb3", [True, False, False])]
)
def test_the_last_life_is_lost_at_once_but_for_sb3_when_the_game_ends(protocol, lost):
    steps = play_scripted(protocol, (2, False, False), (0, False, False), (0, True, False))
    assert [bool(step.life_lost[0]) for step in steps] == lost
