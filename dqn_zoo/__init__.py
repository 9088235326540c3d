"""Train, resume, evaluate and watch deep Q-learning agents on Atari."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dqn_zoo.envs.making import make_envs
    from dqn_zoo.errors import UserError
    from dqn_zoo.play.agent import Agent
    from dqn_zoo.play.evaluation import evaluate
    from dqn_zoo.settings.recipes import resolve
    from dqn_zoo.sharing.loading import load_agent
    from dqn_zoo.training.invocation import TrainOptions
    from dqn_zoo.training.starting import resume, train

__version__ = "0.1.0"
__all__ = [
    "Agent",
    "TrainOptions",
    "UserError",
    "evaluate",
    "load_agent",
    "make_envs",
    "resolve",
    "resume",
    "train",
]

_HOMES = {
    "Agent": "play.agent",
    "TrainOptions": "training.invocation",
    "UserError": "errors",
    "evaluate": "play.evaluation",
    "load_agent": "sharing.loading",
    "make_envs": "envs.making",
    "resolve": "settings.recipes",
    "resume": "training.starting",
    "train": "training.starting",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `--help` need not wait for PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dqn_zoo' has no attribute {name!r}")
    return getattr(import_module(f"dqn_zoo.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names; most are not here before they are used."""
    return sorted({name for name in globals() if name.startswith("__")} | {*__all__})
