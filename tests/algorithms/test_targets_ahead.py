"""Targets computed an update ahead: against a plain loop, in checkpoints, and where they cannot."""

import threading
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from support.network_makers import file_bytes, same_tensors
from support.streams import Stream

from dqn_zoo.algorithms.replay_plan import describe, prepares_ahead, second_thread, updates_owed
from dqn_zoo.algorithms.replay_q import ReplayQ
from dqn_zoo.algorithms.saved_minibatch import READY
from dqn_zoo.settings.recipes import resolve
from dqn_zoo.system.beside import Beside, SecondThread
from dqn_zoo.training.preparation import complete

SMALL = {
    "n_timesteps": 400, "n_envs": 2, "learning_starts": 6, "train_freq": 2, "gradient_steps": 2,
    "target_update_interval": 12, "buffer_size": 40, "batch_size": 3, "network": "small",
    "num_quantiles": 5, "learning_rate": 1e-2, "seed": 3, "device": "cpu", "num_threads": 1,
    "precision": "float32",
}  # fmt: skip
NUM_ACTIONS = 18


def config_of(**changes):
    recipe = resolve(env="Breakout", algo="laptop").config
    return complete(recipe.model_copy(update=SMALL | changes))


class Game:
    """An algorithm and the made-up steps that it learns from."""

    def __init__(self, **changes):
        self.config = config_of(**changes)
        self.algorithm = ReplayQ.from_config(self.config, num_actions=NUM_ACTIONS)
        self.stream = Stream(2, np.random.default_rng(5))
        self.algorithm.start(self.stream.reset())

    def play(self, vector_steps, learn=None):
        for _ in range(vector_steps):
            (learn or self.algorithm.learn)()
            self.algorithm.observe(self.stream.step())
        return self

    @property
    def weights(self):
        return {name: value.clone() for name, value in self.algorithm.network.state_dict().items()}

    def files(self):
        files = dict(self.algorithm.files(None))
        return files | {"model.safetensors": file_bytes(self.algorithm.network)}

    def restored(self, **changes):
        """Return another game that goes on from here."""
        other = Game(**changes)
        other.stream = self.stream
        other.algorithm.restore(self.algorithm.state(), self.files().__getitem__)
        return other


@contextmanager
def followed_by(work):
    yield
    work()


def plain_loop(game, *, targets_of_now=False):
    """Return learning in plain order: no thread, and the next targets before each step.

    What IQN draws at random it draws for the step first.
    """
    algorithm, config = game.algorithm, game.config
    learner, ready, copies = algorithm.learner, [], [0]

    def learn():
        if algorithm.steps // config.target_update_interval > copies[0]:
            copies[0] += 1
            learner.sync_target()
        due = updates_owed(config, algorithm.steps) - algorithm.updates
        if due == 0:
            return
        algorithm.updates += due
        draw = algorithm.replay.draw(
            config.batch_size, algorithm._replay_draws, num_batches=due + (not ready)
        )
        for part in draw.split(config.batch_size):
            batch = algorithm.replay.gather(part)
            if not ready:
                ready.append(learner.prepare(batch))
            elif config.loss == "iqn":
                prepare = partial(lambda part: ready.append(learner.prepare(part)), batch)
                learner.step(ready.pop(), config.learning_rate, followed_by(prepare))
            elif targets_of_now:
                learner.step(ready.pop(), config.learning_rate)
                ready.append(learner.prepare(batch))
            else:
                ready.append(learner.prepare(batch))
                learner.step(ready.pop(0), config.learning_rate)

    return learn


@pytest.mark.parametrize("bootstrap", ["greedy", "double", "soft"])
@pytest.mark.parametrize("loss", ["huber", "qrdqn", "iqn"])
def test_the_second_thread_does_what_a_plain_loop_does(loss, bootstrap):
    settings = {"loss": loss, "bootstrap": bootstrap}
    ahead = Game(**settings).play(20)
    plain = Game(**settings)
    plain.play(20, plain_loop(plain))
    assert ahead.algorithm.updates == plain.algorithm.updates == 2 * (38 - 6) // 2
    assert same_tensors(ahead.weights, plain.weights)


def test_the_next_action_is_chosen_by_the_weights_of_an_update_before():
    ahead, decoy = Game().play(20), Game()
    decoy.play(20, plain_loop(decoy, targets_of_now=True))
    assert not same_tensors(ahead.weights, decoy.weights)


def test_without_looking_ahead_other_minibatches_are_learned_from():
    ahead, never = Game(bootstrap="greedy"), Game(bootstrap="greedy", targets_ahead="never")
    ahead.play(20), never.play(20)
    assert ahead.algorithm.updates == never.algorithm.updates
    assert not same_tensors(ahead.weights, never.weights)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_it_computes_in_a_thread_of_its_own_where_pytorch_has_one(num_threads, monkeypatch):
    game, threads = Game(num_threads=num_threads), set()
    real = game.algorithm.replay.gather
    monkeypatch.setattr(
        game.algorithm.replay,
        "gather",
        lambda draw: threads.add(threading.current_thread().name) or real(draw),
    )
    game.play(6)
    own = threading.current_thread().name
    assert threads == ({own, "beside_0"} if num_threads == 1 else {own})


@pytest.mark.parametrize("vector_steps", [2, 9, 15])  # none is ready; some; the ring has gone round
def test_a_resume_goes_on_to_the_same_bits(vector_steps):
    undisturbed = Game().play(24)
    saved = Game().play(vector_steps)
    assert (READY in saved.files()) == (vector_steps > 2)
    resumed = saved.restored().play(24 - vector_steps)
    assert same_tensors(resumed.weights, undisturbed.weights)
    assert resumed.algorithm.state() == undisturbed.algorithm.state()


def test_a_checkpoint_goes_on_without_and_one_from_without_goes_on_ahead():
    left = Game().play(9).restored(targets_ahead="never").play(3)
    assert READY not in left.files()
    taken = Game(targets_ahead="never").play(9)
    state = taken.algorithm.state()
    del state["ready"]  # as earlier versions wrote it
    other = Game()
    other.stream = taken.stream
    other.algorithm.restore(state, taken.files().__getitem__)
    assert READY in other.play(1).files()


def ready_file(game, **columns):
    from dqn_zoo.algorithms.saved_minibatch import minibatch_bytes

    return minibatch_bytes(game.algorithm._ready._replace(**columns))


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"action": torch.tensor([0, 18, 1])}, "ready.z: 'action' contradicts"),
        ({"action": torch.tensor([0, -1, 1])}, "ready.z: 'action' contradicts"),
        ({"weight": torch.tensor([1.0, 2.0, 1.0])}, "ready.z: 'weight' contradicts"),
        ({"targets": torch.full((3, 5), torch.nan)}, "ready.z: 'targets' contradicts"),
        ({"targets": torch.zeros(3, 4)}, "ready.z is of another frame_stack, or not what"),
        ({"targets": torch.zeros(3, 5).double()}, "ready.z is of another frame_stack, or not"),
        ({"targets": torch.zeros(3, 5000)}, "ready.z unpacks to more than the"),
        ({"observation": torch.zeros(3, 3, 84, 84, dtype=torch.uint8)}, "ready.z is of another"),
    ],
)
def test_a_minibatch_that_was_changed_is_refused(columns, problem):
    game, other = Game().play(9), Game()
    files = game.files() | {READY: ready_file(game, **columns)}
    with pytest.raises(ValueError, match=problem):
        other.algorithm.restore(game.algorithm.state(), files.__getitem__)


@pytest.mark.parametrize("shape", [[41, 5], [3, 6], [3], [3, 5, 1], [-3, 5]])
def test_a_state_whose_minibatch_cannot_be_is_refused(shape):
    game, other = Game().play(9), Game()
    state = game.algorithm.state() | {"ready": shape}
    with pytest.raises(ValueError, match="ready"):
        other.algorithm.restore(state, game.files().__getitem__)


def test_a_minibatch_without_rows_is_refused():
    game, other = Game().play(9), Game()
    state = game.algorithm.state() | {"ready": [0, 5]}
    nothing = {name: column[:0] for name, column in game.algorithm._ready._asdict().items()}
    files = game.files() | {READY: ready_file(game, **nothing)}
    with pytest.raises(ValueError, match="ready: 0 contradicts"):
        other.algorithm.restore(state, files.__getitem__)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"targets_ahead": "never"}, False),
        ({"replay": "prioritized"}, False),
        ({"noisy_sigma": 0.5}, False),
        ({"network": "impala", "spectral_norm": True}, False),
        ({"loss": "iqn"}, True),
    ],
)
def test_where_targets_are_computed_ahead(changes, expected):
    config = config_of(**changes)
    assert prepares_ahead(config) is expected
    assert ("targets one ahead" in describe(config)["learning"]) is expected
    assert (second_thread(config) is not None) is expected
    assert not prepares_ahead(config.model_copy(update={"device": "cuda"}))


def test_what_fails_in_the_second_thread_fails_in_the_first(monkeypatch):
    game = Game().play(6)
    monkeypatch.setattr(game.algorithm.replay, "gather", lambda draw: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        game.play(1)


def test_pytorch_has_one_thread_beside_and_as_many_as_before_here():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        work = Beside(torch.get_num_threads, SecondThread())
        with work:
            assert torch.get_num_threads() == 2
        assert work.result() == 1
    finally:
        torch.set_num_threads(before)


def test_work_is_done_where_the_with_is_left_and_not_after_a_failure():
    done = []
    work = Beside(lambda: done.append("work"), None)
    with work:
        done.append("enclosed")
    assert done == ["enclosed", "work"]
    with pytest.raises(ZeroDivisionError), Beside(lambda: done.append("never"), None):
        _ = 1 / 0
    assert done == ["enclosed", "work"]
