"""Emulators that the tests of a file hand on: to start one takes longer than most tests play.

A kept emulator plays what a new one plays (`tests/envs/test_kept.py`).
"""

from dataclasses import replace

import pytest

from dqn_zoo.envs.env_settings import EnvSettings
from dqn_zoo.envs.kept import KeptEmulators
from dqn_zoo.settings.config import Config

KEPT = KeptEmulators()


def hand_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whoever trains or plays by a config take kept emulators."""
    from_config = EnvSettings.from_config

    def keeping(config: Config) -> EnvSettings:
        return replace(from_config(config), kept=KEPT)

    monkeypatch.setattr(EnvSettings, "from_config", keeping)
