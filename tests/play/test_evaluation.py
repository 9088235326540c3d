"""Evaluation: fair allotment, reproducible games, and statistics against hand-computed numbers."""

import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.emulators import KEPT

from dqn_zoo.envs.backend import KEEP_GENERATOR, Counts, Mask, Observations, Seeds
from dqn_zoo.envs.env_settings import EnvSettings, ReseedPlan
from dqn_zoo.envs.making import make_envs
from dqn_zoo.envs.vector_backend import VectorBackend
from dqn_zoo.errors import UserError
from dqn_zoo.play.evaluation import (
    Game,
    enjoy_seeds,
    evaluate,
    evaluation_seeds,
    play,
)
from dqn_zoo.settings.protocols import PROTOCOLS

QValues = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

GAME = "SpaceInvaders"
NUM_ACTIONS = 6


def settings(epsilon: float, **departures: Any) -> EnvSettings:
    backend = departures.pop("backend", "auto")
    protocol = replace(PROTOCOLS["zoo"], eval_epsilon=epsilon, **departures)
    return EnvSettings(protocol=protocol, backend=backend, kept=KEPT)


WEIGHTS = np.random.default_rng(7).integers(-50, 50, size=(4 * 21 * 21, NUM_ACTIONS))


def seeing(observation: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Values that depend on the pixels of a row, in integers: the same in every batch."""
    rows = observation[:, :, ::4, ::4].reshape(len(observation), -1).astype(np.int64)
    return (rows @ WEIGHTS % 1009).astype(np.float32)


def always(action: int, num_actions: int = NUM_ACTIONS) -> QValues:
    def q_values(observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        values = np.zeros((len(observation), num_actions), np.float32)
        values[:, action] = 1.0
        return values

    return q_values


def without_place(game: Game) -> Game:
    return replace(game, index=0)


def test_games_do_not_depend_on_how_many_are_played_at_once() -> None:
    short = settings(0.5, max_frames=400)
    seeds = enjoy_seeds(3, 3)
    alone = evaluate(seeing, game=GAME, settings=short, seeds=seeds, num_envs=1)
    for num_envs, num_threads in ((2, 1), (9, 0), (3, 2), (2, 9)):
        together = evaluate(
            seeing,
            game=GAME,
            settings=short,
            seeds=seeds,
            num_envs=num_envs,
            num_threads=num_threads,
        )
        assert together == alone
    assert [game.index for game in alone] == [0, 1, 2]
    assert [game.seed for game in alone] == list(seeds)
    assert len({(game.score, game.length_steps) for game in alone}) > 1


@pytest.mark.parametrize("backend", ["vector", "gymnasium"])
def test_a_recorded_seed_plays_its_game_again(backend: str) -> None:
    sticky = settings(0.5, backend=backend, action_repeat_probability=0.25, max_frames=480)
    games = evaluate(seeing, game=GAME, settings=sticky, seeds=enjoy_seeds(0, 3), num_envs=2)
    for game in games:
        (again,) = evaluate(seeing, game=GAME, settings=sticky, seeds=[game.seed])
        assert again == without_place(game)
    assert len({game.score for game in games}) > 1


def test_an_environment_with_short_games_plays_no_more_games_than_the_others() -> None:
    random_play: dict[str, Any] = {"game": "Breakout", "settings": settings(1.0)}
    agent = always(0, num_actions=4)
    games = evaluate(agent, **random_play, seeds=evaluation_seeds(3, 0, 4), num_envs=2)
    by_length = sorted(games, key=lambda game: game.length_steps)
    short, long = by_length[:2], by_length[-2:]
    seeds = [game.seed for pair in zip(short, long, strict=True) for game in pair]
    turns = list(play(agent, **random_play, seeds=seeds, num_envs=2))
    played = [{turn.games[row].index for turn in turns if row in turn.games} for row in (0, 1)]
    assert played == [{0, 2}, {1, 3}]
    # There was time for another short game, and it was not played.
    idle_steps = sum(0 not in turn.games for turn in turns)
    assert idle_steps > short[0].length_steps
    finished = [game for turn in turns for game in turn.finished]
    assert {game.seed: game.length_steps for game in finished} == {
        game.seed: game.length_steps for game in (*short, *long)
    }


def test_observations_of_finished_environments_are_not_valued() -> None:
    batch_sizes: list[int] = []

    def q_values(observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch_sizes.append(len(observation))
        return always(0, num_actions=4)(observation)

    games = evaluate(
        q_values,
        game="Breakout",
        settings=settings(1.0),
        seeds=enjoy_seeds(5, 3),
        num_envs=3,
        num_threads=1,
    )
    assert batch_sizes == sorted(batch_sizes, reverse=True)
    assert sum(batch_sizes) == sum(game.length_steps for game in games)
    assert batch_sizes[0] == 3
    assert batch_sizes[-1] == 1


def test_kept_emulators_play_the_same_games_and_each_is_loaded_once_per_game(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeded: list[int] = []
    reset = VectorBackend.reset

    def watched(backend: VectorBackend, rows: Mask, seeds: Seeds) -> tuple[Observations, Counts]:
        seeded.extend(seed for seed in seeds[rows].tolist() if seed != KEEP_GENERATOR)
        return reset(backend, rows, seeds)

    monkeypatch.setattr(VectorBackend, "reset", watched)
    short = settings(0.5, max_frames=200)
    evaluations = [enjoy_seeds(number, 3) for number in range(2)]
    kept = [
        evaluate(seeing, game=GAME, settings=short, seeds=seeds, num_envs=2, num_threads=1)
        for seeds in evaluations
    ]
    assert sorted(seeded) == sorted(seed for seeds in evaluations for seed in seeds)
    fresh = replace(short, kept=None)
    new = [evaluate(seeing, game=GAME, settings=fresh, seeds=seeds) for seeds in evaluations]
    assert kept == new


def test_epsilon_zero_always_takes_the_best_action() -> None:
    greedy = settings(0.0, max_frames=320)
    seed = enjoy_seeds(11, 1)[0]
    (game,) = evaluate(seeing, game=GAME, settings=greedy, seeds=[seed])

    score, length_steps = 0.0, 0
    plan = ReseedPlan(seed_of=lambda environment, count: seed, every_steps=0)
    with make_envs(GAME, settings=greedy, reseed=plan) as environments:
        observation = environments.reset()
        while True:
            step = environments.step(seeing(observation).argmax(axis=1))
            observation = step.observation
            score, length_steps = score + float(step.reward[0]), length_steps + 1
            if step.terminated[0] or step.truncated[0]:
                break
    assert (game.score, game.length_steps) == (score, length_steps)


def test_epsilon_one_never_listens_to_the_agent() -> None:
    chance = settings(1.0, max_frames=320)
    seeds = enjoy_seeds(2, 2)
    one, other = (
        evaluate(always(action), game=GAME, settings=chance, seeds=seeds) for action in (1, 4)
    )
    assert one == other
    certain = settings(0.0, max_frames=320)
    one, other = (
        evaluate(always(action), game=GAME, settings=certain, seeds=seeds) for action in (1, 4)
    )
    assert one != other


def test_exploration_differs_from_game_to_game() -> None:
    # The emulator has nothing to draw here, so only exploration can tell the games apart.
    bare = settings(1.0, noop_max=0, max_frames=400)
    games = evaluate(always(0), game=GAME, settings=bare, seeds=enjoy_seeds(0, 4), num_envs=2)
    assert len({game.score for game in games}) > 1


@pytest.mark.parametrize("backend", ["vector", "gymnasium"])
def test_a_lost_life_does_not_end_a_game(backend: str) -> None:
    noop = settings(0.0, backend=backend)  # zoo: FIRE serves the ball, and nobody moves the bat
    seeds = enjoy_seeds(0, 1)
    (game,) = evaluate(always(0, num_actions=4), game="Breakout", settings=noop, seeds=seeds)
    plan = ReseedPlan(seed_of=lambda environment, count: seeds[0], every_steps=0)
    with make_envs("Breakout", settings=noop, reseed=plan) as environments:
        environments.reset()
        steps = [environments.step(np.zeros(1, np.int64)) for _ in range(game.length_steps)]
    assert sum(bool(step.life_lost[0]) for step in steps) == 4
    assert [bool(step.terminated[0]) for step in steps].index(True) == game.length_steps - 1
    assert game.score == sum(float(step.reward[0]) for step in steps)
    assert not game.truncated


def test_a_game_that_meets_the_frame_cap_is_marked_as_truncated() -> None:
    capped = settings(1.0, max_frames=200, noop_max=0)
    (game,) = evaluate(always(0), game=GAME, settings=capped, seeds=enjoy_seeds(0, 1))
    assert game.truncated
    assert abs(game.length_steps - 200 / 4) <= 1


def test_scores_are_raw() -> None:
    games = evaluate(
        always(1), game=GAME, settings=settings(0.5, max_frames=800), seeds=enjoy_seeds(0, 2)
    )
    assert all(game.score % 5 == 0 and game.score >= 5 for game in games)  # invaders: 5 to 30 each


def test_every_game_is_reported_as_it_ends() -> None:
    heard: list[Game] = []
    short = settings(1.0, max_frames=240)
    games = evaluate(
        always(0),
        game=GAME,
        settings=short,
        seeds=enjoy_seeds(8, 3),
        num_envs=3,
        on_game=heard.append,
    )
    assert sorted(heard, key=lambda game: game.index) == games


def evaluate_in_two_threads(q_values: QValues, **callbacks: Any) -> list[Game]:
    short = settings(0.5, max_frames=200)
    return evaluate(
        q_values,
        game=GAME,
        settings=short,
        seeds=enjoy_seeds(8, 5),
        num_envs=4,
        num_threads=2,
        **callbacks,
    )


def test_each_thread_plays_its_own_share_with_one_thread_of_pytorch() -> None:
    seen: dict[int, list[tuple[int, int]]] = {}

    def q_values(observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        torch.zeros(1)  # PyTorch reads the number of threads when it is first used
        threads = torch.get_num_threads()
        seen.setdefault(threading.get_ident(), []).append((len(observation), threads))
        return always(0)(observation)

    games = evaluate_in_two_threads(q_values)
    assert [game.index for game in games] == list(range(5))
    assert [game.seed for game in games] == list(enjoy_seeds(8, 5))
    assert len(seen) == 2
    assert threading.get_ident() not in seen
    assert {threads for calls in seen.values() for _, threads in calls} == {1}
    assert all(calls[0][0] == 2 for calls in seen.values())  # four environments
    # Games 0, 2 and 4, or 1 and 3.
    steps = {sum(size for size, _ in calls) for calls in seen.values()}
    lengths = [game.length_steps for game in games]
    assert steps == {sum(lengths[first::2]) for first in range(2)}


def test_callbacks_run_in_the_calling_thread_and_steps_are_counted() -> None:
    callers: set[int] = set()
    progress: list[int] = []

    def on_progress(steps_played: int) -> None:
        callers.add(threading.get_ident())
        progress.append(steps_played)

    games = evaluate_in_two_threads(
        always(0), on_game=lambda _: callers.add(threading.get_ident()), on_progress=on_progress
    )
    assert callers == {threading.get_ident()}
    assert progress == sorted(progress)
    assert progress[-1] == sum(game.length_steps for game in games)


class StopError(Exception):
    pass


def test_a_callback_that_raises_ends_every_thread() -> None:
    before = threading.active_count()

    def on_progress(steps_played: int) -> None:
        if steps_played > 0:
            raise StopError

    with pytest.raises(StopError):
        evaluate_in_two_threads(always(0), on_progress=on_progress)
    assert threading.active_count() == before


def test_what_is_raised_in_a_thread_reaches_the_caller() -> None:
    before = threading.active_count()

    def q_values(observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise StopError

    with pytest.raises(StopError):
        evaluate_in_two_threads(q_values)
    assert threading.active_count() == before


def test_the_caller_computes_with_as_many_threads_as_before() -> None:
    own = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        evaluate_in_two_threads(always(0))
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as pool:
            later = pool.submit(lambda: (torch.ones(2) + 1, torch.get_num_threads())[1])
            assert later.result() == 3
    finally:
        torch.set_num_threads(own)


def test_after_max_steps_games_are_finished_and_none_begins() -> None:
    capped = settings(1.0, max_frames=160, noop_max=0)
    seeds = enjoy_seeds(0, 40)
    turns = list(
        play(always(0), game=GAME, settings=capped, seeds=seeds, num_envs=2, max_steps=200)
    )
    finished = [game for turn in turns for game in turn.finished]
    # About 40 steps a game: two, then two more at 80 and 160 steps, and none after 240.
    assert len(finished) == 6
    assert all(game.truncated for game in finished)
    assert turns[-1].finished


def test_an_agent_of_another_game_is_refused() -> None:
    with pytest.raises(UserError, match="SpaceInvaders has 6 actions"):
        evaluate(always(0, num_actions=4), game=GAME, settings=settings(0.0), seeds=[1])


def test_no_seeds_and_no_environments_are_refused() -> None:
    with pytest.raises(UserError):
        evaluate(always(0), game=GAME, settings=settings(0.0), seeds=[])
    with pytest.raises(UserError):
        evaluate(always(0), game=GAME, settings=settings(0.0), seeds=[1], num_envs=0)


def test_games_that_chose_a_model_never_judge_it() -> None:
    choosing = {seed for number in range(50) for seed in evaluation_seeds(0, number, 30)}
    judging = set(enjoy_seeds(0, 1000))
    assert max(choosing) < 2**30 <= min(judging)
    assert max(judging) < 2**31
    assert len(choosing) > 1490  # a chance collision would be a surprise
    assert len(judging) > 990


def test_the_seed_of_a_game_depends_on_its_index_and_not_on_their_number() -> None:
    assert evaluation_seeds(5, 2, 10)[:3] == evaluation_seeds(5, 2, 3)
    assert enjoy_seeds(5, 10)[:3] == enjoy_seeds(5, 3)
    assert evaluation_seeds(5, 2, 3) != evaluation_seeds(5, 3, 3)
    assert evaluation_seeds(5, 2, 3) != evaluation_seeds(6, 2, 3)


def test_seeds_of_more_games_than_are_played_take_little_memory() -> None:
    tracemalloc.start()
    try:
        seeds = enjoy_seeds(5, 100_000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 20 * len(seeds)  # a list of as many numbers takes 40 for each
    assert {type(seed) for seed in seeds[-9:]} == {int}  # as JSON takes them
