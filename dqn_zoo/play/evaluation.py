"""Full games with raw scores: how good an agent is, and how well that is known.

Games are allotted before play: of W threads, thread w plays games w, w + W, w + 2W, ..., and of its
N environments, environment i plays the games i, i + N, i + 2N, ... of these. Taking the first games
to finish instead would favour short ones. Whatever chance decides in a game comes from that game's
own seed, so it does not matter beside which others it is played.
"""

import contextlib
import queue
import threading
from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dqn_zoo.envs.env_settings import EnvSettings, ReseedPlan
from dqn_zoo.envs.environments import Environments, EnvStep
from dqn_zoo.envs.making import make_envs
from dqn_zoo.errors import UserError
from dqn_zoo.schedules import epsilon_greedy
from dqn_zoo.seeding import STREAMS
from dqn_zoo.system.machine import usable_cores

QValues = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

ENVS_PER_CORE = 8
"""Enough that a network has a batch to work on; more would gain little and start slowly."""

PROGRESS_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    """One finished game.

    Attributes:
        index: its place among the games of the evaluation, from 0.
        seed: of the emulator and of the exploration; `seeds=[seed]` plays this game again.
        score: sum of the raw rewards.
        length_steps: decisions of the agent; no-ops before the first one are not counted.
        truncated: ended by the cap on frames, not by the game.
    """

    index: int
    seed: int
    score: float
    length_steps: int
    truncated: bool


class RunningGame:
    """A game under way, with the random numbers of its exploration.

    Attributes:
        index: its place among the games of the evaluation, from 0.
        seed: of the emulator and of the exploration.
        score: sum of the raw rewards so far.
        length_steps: decisions of the agent so far.
    """

    def __init__(self, index: int, seed: int) -> None:
        self.index = index
        self.seed = seed
        self.score = 0.0
        self.length_steps = 0
        self.generator = np.random.default_rng(np.random.SeedSequence(seed))

    def end(self, *, truncated: bool) -> Game:
        """Return the game as it ended."""
        return Game(
            index=self.index,
            seed=self.seed,
            score=self.score,
            length_steps=self.length_steps,
            truncated=truncated,
        )


class Turn(NamedTuple):
    """What one step of all environments brought.

    Attributes:
        games: the game this step belonged to, by environment; a finished quota has no entry.
        finished: those that this step ended.
        observation: uint8 [num_envs, stack, 84, 84], what the agent saw before it.
        step: what the environments answered.
    """

    games: dict[int, RunningGame]
    finished: list[Game]
    observation: NDArray[np.uint8]
    step: EnvStep


_Reports = queue.SimpleQueue[Game | BaseException]
"""Games as they end, or what ended a thread."""


def evaluate(
    q_values: QValues,
    *,
    game: str,
    settings: EnvSettings,
    seeds: Sequence[int],
    num_envs: int = 1,
    num_threads: int = 0,
    on_game: Callable[[Game], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[Game]:
    """Play one full game per seed, in several threads, and return them in the order of the seeds.

    Emulators and PyTorch let go of the interpreter while they compute, so threads keep all cores
    busy. Neither `num_envs` nor `num_threads` decides anything but the speed, as long as `q_values`
    gives a row the same numbers in every batch.

    Args:
        q_values: float32 [batch, num_actions] for uint8 [batch, stack, 84, 84]; called by several
            threads at once, each with a batch of its environments that have a game to play.
        game: name of the game.
        settings: of the environments; actions are epsilon-greedy with `protocol.eval_epsilon`.
        seeds: one per game, each below 2**31; see `evaluation_seeds` and `enjoy_seeds`.
        num_envs: games played at once, shared out among the threads.
        num_threads: threads that play, never more than environments; the emulators of each have its
            share of the cores. PyTorch computes with one thread in each; in the calling thread, and
            in those that start later, with as many as before. 0: as many as PyTorch computes with
            now.
        on_game: called in the calling thread with every game as it ends.
        on_progress: called in the calling thread, several times a second, with the steps played so
            far, summed over environments.

    Raises:
        UserError: if `q_values` and the game differ in the number of actions.
        Exception: whatever `q_values` or a callback raises; by then all threads have ended.
    """
    num_envs = min(num_envs, len(seeds))
    num_threads = min(num_threads or torch.get_num_threads(), num_envs)
    if num_threads < 1:
        raise UserError("an evaluation needs at least one seed, one environment and one thread")
    shares = []
    for thread in range(num_threads):
        indices = range(thread, len(seeds), num_threads)
        turns = play(
            q_values,
            game=game,
            settings=settings,
            seeds=[seeds[index] for index in indices],
            num_envs=len(range(thread, num_envs, num_threads)),
            num_threads=max(1, usable_cores() // num_threads),
        )
        shares.append(_Share(turns, indices))
    games: list[Game] = []
    with _in_threads(shares) as reports:
        while True:
            if on_progress is not None:
                on_progress(sum(share.steps_played for share in shares))
            if len(games) == len(seeds):
                break
            try:
                report = reports.get(timeout=PROGRESS_INTERVAL_S)
            except queue.Empty:
                continue
            if isinstance(report, BaseException):
                raise report
            games.append(report)
            if on_game is not None:
                on_game(report)
    return sorted(games, key=lambda finished: finished.index)


def play(
    q_values: QValues,
    *,
    game: str,
    settings: EnvSettings,
    seeds: Sequence[int],
    num_envs: int = 1,
    num_threads: int = 0,
    max_steps: int | None = None,
) -> Generator[Turn, None, None]:
    """Play in the calling thread and yield after every step; closing the generator ends the play.

    Args:
        q_values: as in `evaluate`, but called in this thread; batch is `num_envs` and shrinks as
            environments finish their quota.
        game: name of the game.
        settings: of the environments.
        seeds: one per game.
        num_envs: games played at once.
        num_threads: of the emulator; 0 lets it choose.
        max_steps: once so many steps are played, summed over environments, no further game begins;
            those under way are finished, because cutting them would favour short games.
    """
    num_envs = min(num_envs, len(seeds))

    def seed_of(environment: int, count: int) -> int | None:
        index = environment + count * num_envs
        return seeds[index] if index < len(seeds) else None  # beyond the quota nobody looks

    environments = make_envs(
        game,
        num_envs,
        settings=settings,
        reseed=ReseedPlan(seed_of=seed_of, every_steps=0),
        num_threads=num_threads,
    )
    epsilon = settings.protocol.eval_epsilon
    with environments:
        observation = environments.reset()
        playing = {row: RunningGame(row, seeds[row]) for row in range(num_envs)}
        steps_played = 0
        while playing:
            step = environments.step(
                _actions(q_values, observation, playing, epsilon, environments)
            )
            steps_played += len(playing)
            for row, running in playing.items():
                running.score += float(step.reward[row])
                running.length_steps += 1
            turn = Turn(dict(playing), [], observation, step)
            observation = step.observation
            for row in np.flatnonzero(step.terminated | step.truncated).tolist():
                if row not in playing:
                    continue
                running = playing.pop(row)
                turn.finished.append(running.end(truncated=bool(step.truncated[row])))
                index = running.index + num_envs
                if index < len(seeds) and (max_steps is None or steps_played < max_steps):
                    playing[row] = RunningGame(index, seeds[index])
            yield turn


def evaluation_seeds(run_seed: int, evaluation_number: int, num_games: int) -> list[int]:
    """Return the seeds of an evaluation during training, in [0, 2**30).

    The seed of a game depends on its index, not on how many games there are.
    """
    seeds: list[int] = _seeds(num_games, run_seed, evaluation_number).tolist()
    return seeds


def enjoy_seeds(seed: int, num_games: int) -> "array[int]":
    """Return the seeds of an evaluation after training, in [2**30, 2**31).

    The best model was chosen by its scores on `evaluation_seeds`; the two ranges have no seed in
    common, so that no game that chose a model is used again to judge it. An array, because millions
    may be asked for of which few are played.
    """
    return array("I", (2**30 + _seeds(num_games, seed)).tobytes())


class _Share:
    """The games of one thread: what plays them, and their places among those of the evaluation."""

    def __init__(self, turns: Generator[Turn, None, None], indices: Sequence[int]) -> None:
        self.steps_played = 0
        self._turns = turns
        self._indices = indices

    def play(self, reports: _Reports, ending: threading.Event) -> None:
        """Play until all is played, or until asked to end, and report what comes of it."""
        try:
            with contextlib.closing(self._turns):
                for turn in self._turns:
                    self.steps_played += len(turn.games)
                    for game in turn.finished:
                        reports.put(replace(game, index=self._indices[game.index]))
                    if ending.is_set():
                        return
        except BaseException as error:  # nobody would see it in this thread
            reports.put(error)


@contextlib.contextmanager
def _in_threads(shares: Sequence[_Share]) -> Iterator[_Reports]:
    """Play each share in a thread, PyTorch with one thread in it; at the end wait for them all.

    What `set_num_threads` is given holds in the thread that calls it, and in every thread that
    first asks or computes afterwards. So each thread asks before it sets its number, and the
    calling thread sets its own again once all have.
    """
    reports: _Reports = queue.SimpleQueue()
    ending = threading.Event()
    has_set = threading.Semaphore(0)
    own_threads = torch.get_num_threads()

    def start(share: _Share) -> None:
        torch.get_num_threads()
        torch.set_num_threads(1)
        has_set.release()
        share.play(reports, ending)

    with ThreadPoolExecutor(len(shares)) as pool:
        try:
            for share in shares:
                pool.submit(start, share)
            for _ in shares:
                has_set.acquire()
            torch.set_num_threads(own_threads)
            yield reports
        finally:
            ending.set()


def _actions(
    q_values: QValues,
    observation: NDArray[np.uint8],
    playing: dict[int, RunningGame],
    epsilon: float,
    environments: Environments,
) -> NDArray[np.int64]:
    """Choose epsilon-greedily where a game is played; the other environments get action 0."""
    values = q_values(observation[list(playing)])
    if values.shape != (len(playing), environments.num_actions):
        raise UserError(
            f"{environments.game} has {environments.num_actions} actions, but for "
            f"{len(playing)} observations the agent gave values of shape {list(values.shape)}: "
            "use an agent trained on this game"
        )
    actions = np.zeros(environments.num_envs, dtype=np.int64)
    for row, running, row_values in zip(playing, playing.values(), values, strict=True):
        actions[row] = epsilon_greedy(row_values[None], epsilon, running.generator)[0]
    return actions


def _seeds(num_games: int, seed: int, *key: int) -> NDArray[np.uint32]:
    """Return the first `num_games` words of the stream `evaluation` of `seed`, below 2**30."""
    spawn_key = (STREAMS.index("evaluation"), *key)
    words = np.random.SeedSequence(seed, spawn_key=spawn_key).generate_state(num_games, np.uint32)
    return words >> np.uint32(2)
