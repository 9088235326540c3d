"""Runs beside the GPUs that students get; what the machine answers is put in place of a GPU."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from dqn_zoo.cli.train import main
from dqn_zoo.errors import UserError
from dqn_zoo.replay.samplers import PrioritizedSampler
from dqn_zoo.schedules import LinearSchedule
from dqn_zoo.settings.config import Config, build_config
from dqn_zoo.settings.recipes import resolve
from dqn_zoo.system import devices, machine
from dqn_zoo.training.preparation import (
    check_memory,
    complete,
    host_memory_bytes,
    memory_parts,
    remarks,
)
from dqn_zoo.training.trainer import Trainer

GB = 10**9


@pytest.fixture
def t4(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Answer as Colab does: a T4 of 16 GB, two cores, 12 GB of memory."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (7, 5))
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (int(14.7 * GB), int(15.8 * GB)))
    monkeypatch.setattr(machine, "memory_available_bytes", lambda: int(11.5 * GB))
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    return monkeypatch


def settled(**overrides: object) -> tuple[Config, Config]:
    asked = resolve(env="SpaceInvaders", device="cuda", overrides=overrides).config
    return asked, complete(asked)


def test_the_recipe_for_gpus_fits_a_t4_and_computes_in_float32_with_a_note(
    t4: pytest.MonkeyPatch,
) -> None:
    asked, config = settled()
    assert (config.algo, config.device, config.precision) == ("gpu", "cuda", "float32")
    assert config.num_threads == 1  # the other core is the emulators'
    check_memory(config)
    lack = "this GPU has no bfloat16 units (they come with compute capability 8.0)"
    memory = ("memory", "10.4 GB on the GPU, 2.3 GB beside it")
    assert list(remarks(asked, config)) == [memory, ("note", f"float32: {lack}")]
    forced = settled(precision="bfloat16")
    assert forced[1].precision == "bfloat16"
    warning = f"precision bfloat16: {lack}, so float32 is faster"
    assert list(remarks(*forced)) == [memory, ("warning", warning)]
    assert list(remarks(*settled(precision="float32"))) == [memory]
    t4.setattr("torch.cuda.get_device_capability", lambda: (8, 0))
    assert settled()[1].precision == "bfloat16"
    assert list(remarks(*settled())) == [memory]


@pytest.mark.parametrize(
    ("settings", "waiting"),
    [
        ({"n_envs": 4}, 0),
        ({"n_envs": 6}, 1),
        ({"n_envs": 8, "gradient_steps": 3}, 5),
        ({"n_envs": 8, "train_freq_later": 2}, 3),
        ({"n_envs": 64}, 15),
        ({"n_envs": 128}, 15),
    ],
)
def test_minibatches_that_go_through_the_target_network_together_are_counted(
    t4: pytest.MonkeyPatch, settings: dict[str, object], waiting: int
) -> None:
    dqn = resolve(env="Pong", algo="dqn", overrides={"batch_size": 50, "train_freq": 4}).config
    one = complete(dqn.model_copy(update={"device": "cuda"}))
    config = one.model_copy(update=settings)
    more = memory_parts(config)["batch_size"] - memory_parts(one)["batch_size"]
    # Two observations; one as floats, and 32 maps of 20 x 20 that are computed from it.
    assert more == waiting * 50 * (2 * 28_224 + 4 * (28_224 + 12_800))
    alone = config.model_copy(update={"device": "cpu"})
    assert memory_parts(alone)["batch_size"] == memory_parts(one)["batch_size"]


@pytest.mark.parametrize(
    ("gpu", "host", "refused"),
    [
        (10.4, 11.5, None),
        (7.6, 11.5, r"buffer_size needs 10.4 GB and 7.6 GB is free on the GPU; the largest that"),
        (14.7, 2.0, r"buffer_size needs 2.3 GB and 2.0 GB is free beside the GPU; not even"),
        (14.7, 2.2, r"buffer_size needs 2.3 GB and 2.2 GB is free beside the GPU; the largest"),
    ],
)
def test_the_memory_of_the_gpu_and_that_beside_it_are_both_checked(
    t4: pytest.MonkeyPatch, gpu: float, host: float, refused: str | None
) -> None:
    t4.setattr("torch.cuda.mem_get_info", lambda: (int(gpu * GB), int(15.8 * GB)))
    t4.setattr(machine, "memory_available_bytes", lambda: int(host * GB))
    config = settled()[1]
    if refused is None:
        check_memory(config)
        return
    with pytest.raises(UserError, match=refused) as error:
        check_memory(config)
    words = str(error.value).rsplit("--set buffer_size=", 1)
    if len(words) == 2:  # what it names fits
        check_memory(settled(buffer_size=int(words[1]))[1])


def test_a_rollout_lies_beside_the_gpu_and_counts_where_it_lies(t4: pytest.MonkeyPatch) -> None:
    sizes = {}
    for steps in (32, 320):
        config = build_config({"algorithm": "parallel", "n_envs": 128, "rollout_steps": steps})
        config = config.model_copy(update={"num_minibatches": steps})
        for device in ("cuda", "cpu"):
            sizes[steps, device] = host_memory_bytes(
                complete(config.model_copy(update={"device": device}))
            )
    rollouts = 288 * 128 * (4 * 84 * 84)
    for device in ("cuda", "cpu"):
        assert sizes[320, device] - sizes[32, device] == pytest.approx(rollouts, rel=0.01)


def test_an_apple_gpu_has_to_be_there_and_is_never_chosen_by_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert main(["--device", "mps", "--env", "Pong"]) == 2
    error = capsys.readouterr().err
    assert "--device mps: PyTorch finds no Apple GPU here; use --device cpu" in error
    assert error.count("\n") == 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert machine.choose_device("auto") == "cpu"
    asked = resolve(env="Pong", device="mps", overrides={"device": "mps"}).config
    config = complete(asked)
    assert (config.algo, config.device, config.precision) == ("laptop", "mps", "float32")
    assert [kind for kind, _ in remarks(asked, config)] == ["warning"]
    with pytest.raises(UserError, match="bfloat16 is not for Apple's GPU"):
        complete(asked.model_copy(update={"precision": "bfloat16"}))


def test_an_apple_gpu_takes_what_metal_and_the_machine_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.mps.recommended_max_memory", lambda: 11 * GB)
    monkeypatch.setattr("torch.mps.driver_allocated_memory", lambda: 1 * GB)
    for free, available in ((12, 10), (3, 3)):
        monkeypatch.setattr(machine, "memory_available_bytes", lambda free=free: free * GB)
        assert machine.gpu_memory_available_bytes("mps") == available * GB


class _NoFloat64(TorchFunctionMode):
    """Refuses to make what Apple's GPU does not have."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            of_numpy = func is torch.from_numpy  # lies on the CPU yet
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64 and not of_numpy:
                raise TypeError(f"{func} makes float64, which an Apple GPU does not have")
        return result


@pytest.fixture
def without_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the CPU be a device without float64."""
    for module in ("learning.online_network", "replay.sum_tree", "replay.samplers"):
        monkeypatch.setattr(f"dqn_zoo.{module}.most_exact", lambda _: torch.float32)
    monkeypatch.setattr(devices, "most_exact", lambda _: torch.float32)
    with _NoFloat64():
        yield


@pytest.mark.parametrize(
    "settings",
    [
        {"replay": "uniform", "optimizer": "rmsprop"},
        {"replay": "prioritized", "n_steps": 3, "noisy_sigma": 0.5, "dueling": True},
        {"loss": "iqn", "num_quantiles": 4, "num_target_quantiles": 4, "num_cosines": 8},
        {"loss": "c51", "num_atoms": 11, "max_grad_norm": 0.1},
        {"algorithm": "parallel", "rollout_steps": 8, "num_minibatches": 2, "layer_norm": True},
    ],
    ids=["uniform", "prioritized", "iqn", "c51", "parallel"],
)
def test_a_run_makes_no_float64_where_the_device_has_none(
    settings: dict[str, object], without_float64: None
) -> None:
    small = {
        "env": "Breakout", "n_envs": 2, "learning_starts": 8, "buffer_size": 100, "batch_size": 4,
        "n_timesteps": 40, "target_update_interval": 8, "network": "small", "seed": 5,
        "num_threads": 1, "device": "cpu",
    }  # fmt: skip
    trainer = Trainer(complete(build_config(small | settings)))
    trainer.start()
    algorithm = trainer.algorithm
    for _ in range(18):
        trainer.envs.send(algorithm.act(trainer.observation))
        algorithm.learn()
        step = trainer.envs.recv()
        algorithm.observe(step)
        trainer.observation = step.observation
    assert algorithm.updates > 0
    assert np.isfinite(algorithm.take_metrics()["loss"])
    trainer.close()


def test_priorities_of_a_device_without_float64_go_on_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def sampler() -> PrioritizedSampler:
        beta = LinearSchedule(0.4, 1.0, 100)
        return PrioritizedSampler(20, torch.device("cpu"), exponent=0.6, beta=beta, floor=1e-6)

    with monkeypatch.context() as patch:
        for module in ("sum_tree", "samplers"):
            patch.setattr(f"dqn_zoo.replay.{module}.most_exact", lambda _: torch.float32)
        apple = sampler()
    apple.add(torch.arange(5))
    apple.update(torch.arange(5), torch.tensor([0.5, 2.0, 0.25, 1.0, 3.0]))
    saved = apple.columns(5)
    assert saved["priority"].dtype == torch.float64
    other = sampler()
    other.restore(apple.state(), saved)
    assert torch.equal(other.columns(5)["priority"], saved["priority"])
    draws = [
        each.draw(range(5), 64, np.random.default_rng(3), step=0).rows for each in (apple, other)
    ]
    assert torch.equal(*draws)


def test_only_an_apple_gpu_has_no_float64() -> None:
    kinds = {name: devices.most_exact(torch.device(name)) for name in ("cpu", "cuda", "mps")}
    assert kinds == {"cpu": torch.float64, "cuda": torch.float64, "mps": torch.float32}
