"""Recorded updates: the bits of eager ones, no trace of recording, eager where anything fails."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load
from support import network_makers, tiny
from support.tape import TapeRecorder

from dqn_zoo.algorithms.replay_plan import MOST_AT_ONCE, uses_cuda_graph
from dqn_zoo.algorithms.replay_q import ReplayQ
from dqn_zoo.learning.cuda_graph import (
    CHECKED_REPETITIONS,
    MOST_RECORDINGS,
    TOLERANCE,
    WARM_UPS,
    CudaRecorder,
    RecordedUpdates,
    _difference,
)
from dqn_zoo.learning.learner import Learner
from dqn_zoo.learning.losses import build_loss
from dqn_zoo.learning.online_network import OptimizerSettings
from dqn_zoo.replay.memory import Batch
from dqn_zoo.settings.recipes import resolve
from dqn_zoo.system.signals import Stop
from dqn_zoo.training.invocation import TrainOptions
from dqn_zoo.training.starting import resume, train

ADAM = OptimizerSettings("adam", 1e-8, 10.0)
RATES = [2.0**-7, 3 * 2.0**-9, 2.0**-10, 5 * 2.0**-11]  # in float32 the same numbers
CHECK = CHECKED_REPETITIONS

# Where everything is random; and spectral norms, noise, bfloat16 copies, pixels.
CASES = {
    "huber": ({}, False),
    "c51": ({"noisy_sigma": 0.5}, False),
    "qrdqn": ({"dueling": True}, False),
    "iqn": ({"noisy_sigma": 0.5, "dueling": True}, False),
    "btr": ({}, True),
}


class Recorded:
    """A learner whose updates are recorded, as `ReplayQ` has one."""

    def __init__(self, learner, recorder):
        self._learner, self._recorded = learner, RecordedUpdates(learner, recorder)
        self.update, self.take_news = self._recorded.update, self._recorded.take_news

    @property
    def updates_made(self):
        return self._recorded.status

    def __getattr__(self, name):
        return getattr(self._learner, name)


def make_learner(
    case="iqn", recorder=None, *, seed=0, optimizer=ADAM, device="cpu"
) -> Learner | Recorded:
    options, bfloat16 = CASES[case]
    if case == "btr":
        config = tiny.small_config("iqn", "soft")
        network = network_makers.build(**network_makers.BTR, num_cosines=6, seed=seed)
    else:
        config = tiny.small_config(case, "double", **options)
        network = tiny.small_network(config, seed=seed)
    loss = build_loss(config)
    learner = Learner(network.to(device), loss, optimizer, seed=seed, bfloat16=bfloat16)
    return learner if recorder is None else Recorded(learner, recorder)


def behind_each_other(batches):
    return Batch(*map(torch.cat, zip(*batches, strict=True)))


def batch_for(case, number, device="cpu"):
    """Return a minibatch with weights between 0.5 and 1.5."""
    if case == "btr":
        batch = network_makers.random_batch(3, 4, 84, 84, seed=number)
    else:
        batch = tiny.random_batch(number)
    return batch._replace(**{name: value.to(device) for name, value in batch._asdict().items()})


def advance(learner, case, numbers, *, device="cpu"):
    """Update, act under noise and copy the target, as a run does; return all that came out."""
    outcomes = []
    for number in numbers:
        batch = batch_for(case, number, device)
        outcomes.append(learner.update(batch, RATES[number % len(RATES)]))
        if number % 3 == 0:
            outcomes.append(
                torch.from_numpy(learner.online.noisy_q_values(batch.observation.cpu().numpy()))
            )
        if number % 5 == 4:
            learner.sync_target()
    return outcomes


def assert_same(recorded, direct):
    for one, other in (
        (recorded.online.weights, direct.online.weights),
        (recorded.target, direct.target),
    ):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
        assert [module.training for module in one.modules()] == [
            m.training for m in other.modules()
        ]
    for name, kept in recorded.online.optimizer.kept.items():
        assert all(map(torch.equal, kept, direct.online.optimizer.kept[name])), name
    assert recorded.online.state() == direct.online.state()  # generator and sums of metrics


def assert_goes_like_a_direct_one(recorded, case, numbers, direct=None):
    direct = direct or make_learner(case)
    outcomes = [advance(learner, case, numbers) for learner in (recorded, direct)]
    for one, other in zip(*outcomes, strict=True):
        assert torch.equal(one, other)
    assert_same(recorded, direct)
    return direct


def checkpoint(learner):
    return learner.online.state(), {
        "online": load(network_makers.file_bytes(learner.online.weights)),
        "target": load(network_makers.file_bytes(learner.target)),
        "optimizer": learner.online.optimizer_bytes(),
    }


# --- The same numbers


@pytest.mark.parametrize("case", CASES)
def test_recorded_updates_have_the_bits_of_direct_ones(case):
    recorder = TapeRecorder()
    recorded = make_learner(case, recorder)
    repeated = 2 if case == "btr" else 12
    assert_goes_like_a_direct_one(recorded, case, range(WARM_UPS + 1 + repeated))
    assert (recorder.recordings, recorder.repetitions) == (1, CHECK + repeated)
    assert recorded.updates_made == "CUDA graph"


def test_warming_up_and_recording_leave_no_trace():
    recorder = TapeRecorder()
    recorded, direct = make_learner("iqn", recorder), make_learner("iqn")
    for number in range(WARM_UPS + 1):
        assert_goes_like_a_direct_one(recorded, "iqn", [number], direct)
    assert (recorder.recordings, recorder.repetitions) == (1, CHECK)


def test_the_user_is_told_once_what_the_updates_are_made_by():
    learner = make_learner("huber", TapeRecorder())
    advance(learner, "huber", range(WARM_UPS))
    assert (learner.updates_made, learner.take_news()) == ("eager", None)
    advance(learner, "huber", range(2))
    news = learner.take_news()
    assert news == "1 update at a time from a CUDA graph; checked, within 0 of eager ones"
    assert learner.take_news() is None


def test_any_number_of_updates_at_a_time_gives_the_same_bits_and_priorities_of_their_own():
    recorder = TapeRecorder()
    recorded, direct = make_learner("iqn", recorder), make_learner("iqn")
    counts = [2, 2, 3, 1, 3, 2, 2, MOST_AT_ONCE, 4]  # 4 would be a recording too many
    first = 0
    for count in counts:
        batches = [batch_for("iqn", first + number) for number in range(count)]
        first += count
        together = recorded.update(behind_each_other(batches), RATES[count % 4], count)
        apart = [direct.update(batch, RATES[count % 4]) for batch in batches]
        assert torch.equal(together, torch.cat(apart))
    assert_same(recorded, direct)
    assert recorder.recordings == MOST_RECORDINGS  # of 3, 1, 2 and 16
    assert recorded.online.take_metrics() == direct.online.take_metrics()


def test_updates_made_together_share_a_pass_through_the_target_network():
    learner, sizes = make_learner("huber"), []
    learner.target.torso.register_forward_pre_hook(lambda torso, inputs: sizes.append(len(*inputs)))
    learner.update(behind_each_other([batch_for("huber", n) for n in range(3)]), RATES[0], 3)
    assert sizes == [36]


def test_minibatches_of_another_size_are_not_squeezed_into_a_recording():
    recorder = TapeRecorder()
    recorded, direct = make_learner("huber", recorder), make_learner("huber")
    for size in [12] * (WARM_UPS + 2) + [1, 1]:
        batch = tiny.random_batch(7, size=size)
        assert torch.equal(*(each.update(batch, RATES[0]) for each in (recorded, direct)))
    assert recorder.recordings == 2
    assert_same(recorded, direct)


# --- Checkpoints


@pytest.mark.parametrize("case", ["iqn", "btr"])
def test_saved_between_repetitions_and_restored_it_goes_on_with_the_same_bits(case):
    whole, direct = make_learner(case, TapeRecorder()), make_learner(case)
    assert_goes_like_a_direct_one(whole, case, range(5), direct)
    recorder = TapeRecorder()
    resumed = make_learner(case, recorder, seed=3)
    state, files = checkpoint(whole)
    resumed.restore(state, **files)
    assert_goes_like_a_direct_one(resumed, case, range(5, 5 + WARM_UPS + 2), direct)
    assert recorder.repetitions == CHECK + 1


@pytest.mark.parametrize(("replaced", "recordings"), [(False, 1), (True, 2)])
def test_a_checkpoint_is_loaded_into_a_recording_unless_tensors_were_replaced(replaced, recordings):
    recorder = TapeRecorder()
    learner, direct = make_learner("iqn", recorder), make_learner("iqn")
    advance(direct, "iqn", range(2))
    state, files = checkpoint(direct)
    advance(learner, "iqn", range(WARM_UPS + 2))
    assert recorder.repetitions == CHECK + 1
    learner.restore(state, **files)
    if replaced:
        averages = learner.online.optimizer.kept["exp_avg"]
        averages[0] = averages[0].clone()
    assert_goes_like_a_direct_one(learner, "iqn", range(2, 2 + WARM_UPS + 3), direct)
    assert recorder.recordings == recordings


# --- Where a recording fails


@pytest.mark.parametrize(
    ("case", "broken_at"),
    [
        ("iqn", "aten::rand"),  # at once
        ("btr", "aten::adaptive_max_pool2d"),  # spectral norms are being followed
        ("btr", "aten::convolution_backward"),  # some bfloat16 copies have their gradients
        ("iqn", "aten::_fused_adam_"),  # everything is done but the step
    ],
)
def test_what_cannot_be_recorded_stays_eager_and_is_said_in_one_line(case, broken_at):
    recorder = TapeRecorder(broken_at=broken_at)
    recorded = make_learner(case, recorder)
    direct = assert_goes_like_a_direct_one(recorded, case, range(WARM_UPS + 1))
    reason = recorded.updates_made.removeprefix("eager: ")
    assert reason.startswith(f"RuntimeError: {broken_at}")
    assert reason.endswith("is not permitted while it is recorded at some place")
    assert recorded.take_news() == f"no CUDA graph, updates stay eager: {reason}"
    assert recorded.take_news() is None
    observation = batch_for(case, 1).observation.numpy()
    values = [learner.online.q_values(observation) for learner in (recorded, direct)]
    assert np.array_equal(*values)
    recorder.generator.manual_seed(99)  # may refuse to draw from now on
    assert_goes_like_a_direct_one(recorded, case, range(WARM_UPS + 1, WARM_UPS + 3), direct)
    assert recorder.recordings == 1


@pytest.mark.parametrize(
    ("forgets", "kind"),
    [
        (("aten::_fused_adam_",), "of the optimizer"),
        (("aten::rand", "aten::randn"), ""),  # noise and fractions of the recording for ever
        (("aten::_foreach_add_",), "step of the optimizer"),
        (("aten::add_",), "metrics"),
    ],
)
def test_a_recording_that_does_something_else_is_not_used(forgets, kind):
    recorder = TapeRecorder(forgets=forgets)
    recorded = make_learner("iqn", recorder)
    assert_goes_like_a_direct_one(recorded, "iqn", range(WARM_UPS + 4))
    assert (recorder.recordings, recorder.repetitions) == (1, CHECK)
    reason = recorded.updates_made.removeprefix("eager: ")
    assert kind in reason
    assert "changed otherwise than in eager updates" in reason
    assert recorded.take_news().endswith(reason)


def test_a_failure_after_a_recording_that_works_ends_that_one_too():
    recorder = TapeRecorder()
    recorded, direct = make_learner("iqn", recorder), make_learner("iqn")
    assert_goes_like_a_direct_one(recorded, "iqn", range(WARM_UPS + 2), direct)
    recorder._tape["broken_at"] = "aten::mm"
    batch = behind_each_other([batch_for("iqn", number) for number in (5, 6)])
    assert torch.equal(*(each.update(batch, 0.25, 2) for each in (recorded, direct)))
    assert recorded.updates_made.startswith("eager: RuntimeError")
    assert_goes_like_a_direct_one(recorded, "iqn", range(7, 10), direct)
    assert recorder.repetitions == CHECK + 1


def test_a_difference_is_a_share_of_the_change_that_was_expected():
    def difference(before, expected, found):
        tensors = ([torch.tensor(values)] for values in (before, expected, found))
        return _difference(*tensors)

    assert difference([1.0, 2.0], [4.0, 6.0], [4.0, 6.0]) == 0.0
    assert difference([1.0, 2.0], [4.0, 6.0], [1.0, 2.0]) == pytest.approx(1.0, rel=1e-4)
    assert difference([1.0, 2.0], [4.0, 6.0], [4.0, 7.5]) == pytest.approx(0.3, rel=1e-4)
    assert difference([1.0], [1.0], [1.0 + 2.0**-22]) < TOLERANCE < difference([1.0], [1.0], [1.1])
    assert difference([0.0], [0.0], [1e-9]) == math.inf
    assert difference([0.0], [1.0], [math.nan]) == math.inf
    assert difference([0], [2], [1]) == pytest.approx(0.5, rel=1e-4)


# --- Whole runs


def config_of(**changes):
    settings = {
        "n_timesteps": 150, "learning_starts": 96, "buffer_size": 120, "batch_size": 4, "n_envs": 3,
        "target_update_interval": 40, "log_interval": 40, "eval_freq": 0, "seed": 5,
        "num_threads": 1, "device": "cpu", "precision": "float32", "network": "small",
        "replay": "prioritized", "noisy_sigma": 0.5, "learning_rate": 2.0**-10,
    }  # fmt: skip
    return resolve(env="Breakout", overrides=settings | changes).config


def test_a_run_with_recorded_updates_ends_with_the_bits_of_an_eager_one(
    tmp_path, monkeypatch, capsys
):
    quiet = TrainOptions(progress=False)
    eager = train(config_of(), log_folder=tmp_path, options=quiet)
    assert "CUDA graph" not in capsys.readouterr().out
    monkeypatch.setattr("dqn_zoo.algorithms.replay_plan.uses_cuda_graph", lambda config: True)
    monkeypatch.setattr("dqn_zoo.algorithms.replay_plan.CudaRecorder", TapeRecorder)
    asked = itertools.count(1)  # once per vector step of 3
    with monkeypatch.context() as patch:
        patch.setattr(Stop, "reason", lambda stop: "SIGTERM" if next(asked) > 43 else None)
        halves = train(config_of(), log_folder=tmp_path, options=quiet)
    assert halves.steps == 129
    resume(halves.run, config_of(), options=quiet)
    assert halves.run.model_file.read_bytes() == eager.run.model_file.read_bytes()
    printed = capsys.readouterr().out
    assert printed.count("1 update at a time from a CUDA graph; checked, within 0 of eager") == 2
    manifests = [json.loads(each.run.manifest_file.read_text()) for each in (eager, halves)]
    made = [[entry["updates"] for entry in each["invocations"]] for each in manifests]
    assert made == [["eager"], ["CUDA graph", "CUDA graph"]]


def test_minibatches_gathered_together_leave_the_bits_of_a_run_as_they_are(tmp_path, monkeypatch):
    quiet = TrainOptions(progress=False)
    config = config_of(n_envs=5, train_freq=2)  # 2 or 3 updates after a vector step
    apart = train(config, log_folder=tmp_path, options=quiet)
    shares, real = [], Learner.update

    def update(learner, batch, learning_rate, num_updates):
        shares.append(num_updates)
        return real(learner, batch, learning_rate, num_updates)

    monkeypatch.setattr(Learner, "update", update)
    monkeypatch.setattr(ReplayQ, "_most_at_once", MOST_AT_ONCE)
    together = train(config, log_folder=tmp_path, options=quiet)
    assert together.run.model_file.read_bytes() == apart.run.model_file.read_bytes()
    assert {2, 3} <= set(shares)


def test_updates_are_recorded_on_a_gpu_unless_the_user_says_never():
    config = config_of()
    assert not uses_cuda_graph(config)
    assert uses_cuda_graph(config.model_copy(update={"device": "cuda"}))
    assert not uses_cuda_graph(config.model_copy(update={"device": "cuda", "cuda_graph": "never"}))


# --- On a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_a_cuda_graph_updates_as_eager_updates_do(case, optimizer):
    settings = OptimizerSettings(optimizer, 1e-4, 10.0)
    recorded, direct = (
        make_learner(case, recorder, optimizer=settings, device="cuda")
        for recorder in (CudaRecorder(), None)
    )
    for number in range(WARM_UPS + 6):
        # From the same state every time: what differs in rounding grows from update to update.
        state, files = checkpoint(recorded)
        direct.restore(state, **files)
        outcomes = [advance(each, case, [number], device="cuda") for each in (recorded, direct)]
        assert recorded.online.state()["generator"] == direct.online.state()["generator"]
        for one, other in zip(*outcomes, strict=True):
            torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)
    assert recorded.updates_made == "CUDA graph"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_recording_that_fails_on_a_gpu_leaves_eager_updates_that_work():
    class Reads(CudaRecorder):
        def record(self, work, generator):
            def reads():
                work()
                torch.ones(1, device="cuda").item()  # not permitted

            return super().record(reads, generator)

    learner = make_learner("iqn", Reads(), device="cuda")
    outcomes = advance(learner, "iqn", range(WARM_UPS + 4), device="cuda")
    assert learner.updates_made.startswith("eager: ")
    assert all(bool(torch.isfinite(outcome).all()) for outcome in outcomes)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
