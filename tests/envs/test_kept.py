"""Emulators that are kept play what new ones play, and no others are kept."""

import gc
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import pytest

from dqn_zoo.envs import making
from dqn_zoo.envs.env_settings import EnvSettings, ReseedPlan
from dqn_zoo.envs.kept import KeptEmulators
from dqn_zoo.envs.making import make_envs
from dqn_zoo.settings.protocols import PROTOCOLS


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many emulators each new backend has."""
    sizes: list[int] = []
    make_backend = making._make_backend

    def watched(rom: str, num_envs: int, *arguments: Any) -> Any:
        sizes.append(num_envs)
        return make_backend(rom, num_envs, *arguments)

    monkeypatch.setattr(making, "_make_backend", watched)
    return sizes


def settings_that_keep(protocol: str = "zoo", **departures: Any) -> EnvSettings:
    rules = replace(PROTOCOLS[protocol], **departures)
    return EnvSettings(protocol=rules, kept=KeptEmulators())


def games(settings: EnvSettings, seed: int, steps: int, num_envs: int = 2) -> list[bytes]:
    """Play for some steps and return all that was seen."""
    plan = ReseedPlan(lambda row, count: seed + 100 * row + count, every_steps=0)
    with make_envs("MsPacman", num_envs, settings=settings, reseed=plan) as environments:
        seen = [environments.reset().tobytes()]
        for action in np.random.default_rng(seed).integers(0, 9, (steps, num_envs)):
            seen += [value.tobytes() for value in environments.step(action)]
    return seen


@pytest.mark.parametrize(
    ("settings", "seeds", "steps"),
    [
        (settings_that_keep(action_repeat_probability=0.25, max_frames=400), (3, 4), 130),
        # No-ops that leave the first step a frame or two.
        (settings_that_keep("sb3", max_frames=24), (5, 6, 3), 2),
    ],
    ids=["vector", "gymnasium"],
)
def test_kept_emulators_play_what_new_ones_play(
    settings: EnvSettings, seeds: tuple[int, ...], steps: int, built: list[int]
) -> None:
    kept = [games(settings, seed, steps, num_envs=1) for seed in seeds]
    assert built == [1]
    new = [games(replace(settings, kept=None), seed, steps, num_envs=1) for seed in seeds]
    assert built == [1] * (1 + len(seeds))
    assert kept == new
    assert settings.kept is not None
    settings.kept.close()


def test_only_emulators_of_the_same_kind_are_used_again(built: list[int]) -> None:
    settings = settings_that_keep()
    make_envs("Pong", settings=settings).close()
    make_envs("Pong", settings=replace(settings, frame_stack=2)).close()
    make_envs("Pong", 2, settings=settings).close()
    make_envs("Boxing", settings=settings).close()
    assert built == [1, 1, 2, 1]
    together = [make_envs("Pong", settings=settings) for _ in range(2)]
    assert built == [1, 1, 2, 1, 1]
    for environments in together:
        environments.close()


def test_emulators_with_a_step_on_its_way_are_not_kept(built: list[int]) -> None:
    settings = settings_that_keep()
    with make_envs("Pong", settings=settings) as environments:
        environments.reset()
        environments.send(np.array([0]))
    make_envs("Pong", settings=settings).close()
    assert built == [1, 1]


def test_emulators_of_a_call_that_failed_are_not_kept(
    built: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no memory")

    settings = settings_that_keep()
    with make_envs("Pong", settings=settings) as environments, monkeypatch.context() as patch:
        patch.setattr("dqn_zoo.envs.vector_backend.VectorBackend.reset", fail)
        with pytest.raises(OSError, match="memory"):
            environments.reset()
    make_envs("Pong", settings=settings).close()
    assert built == [1, 1]


def test_emulators_that_somebody_watches_are_not_kept(built: list[int]) -> None:
    settings = replace(settings_that_keep(), on_frame=lambda row, frame: None)
    for _ in range(2):
        make_envs("Pong", settings=settings).close()
    assert built == [1, 1]


def test_closing_frees_what_waits() -> None:
    gc.collect()  # what other tests left
    before = psutil.Process().num_threads()
    settings = settings_that_keep()
    make_envs("Pong", settings=settings).close()
    assert psutil.Process().num_threads() == before + 1
    assert settings.kept is not None
    settings.kept.close()
    assert psutil.Process().num_threads() == before
