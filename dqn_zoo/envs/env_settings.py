"""How games are played and seen, and when environments are seeded."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from dqn_zoo.errors import UserError
from dqn_zoo.seeding import stream_seed
from dqn_zoo.settings.protocols import PROTOCOLS, Protocol, protocol_from_config
from dqn_zoo.settings.screen import Crop

if TYPE_CHECKING:
    from dqn_zoo.envs.kept import KeptEmulators
    from dqn_zoo.settings.config import Config


@dataclass(frozen=True, kw_only=True)
class EnvSettings:
    """How games are played and seen.

    Attributes:
        protocol: no-ops, sticky actions, FIRE, frame skip, frame cap, mode and difficulty.
        backend: "auto" takes the vector backend wherever it can serve.
        frame_stack: frames in one observation.
        crop: rows and columns cut off before the resize: top, bottom, left, right.
        on_frame: called with (environment, RGB uint8 [210, 160, 3]) for every emulator frame, also
            for no-ops; a few games have more rows.
        render_mode: "human" shows environment 0 in a window, at true speed.
        kept: where the emulators come from and, when the environments are closed, return to; these
            are to be reset with seeds. Default, and where somebody watches: new ones, which nobody
            has later.
    """

    protocol: Protocol = PROTOCOLS["zoo"]
    backend: Literal["auto", "vector", "gymnasium"] = "auto"
    frame_stack: int = 4
    crop: Crop | None = None
    on_frame: Callable[[int, npt.NDArray[np.uint8]], None] | None = None
    render_mode: Literal["human"] | None = None
    kept: "KeptEmulators | None" = field(default=None, compare=False)

    @classmethod
    def from_config(cls, config: "Config") -> "EnvSettings":
        """Return what the settings of a run say about its environments."""
        return cls(
            protocol=protocol_from_config(config),
            backend=config.backend,
            frame_stack=config.frame_stack,
            crop=config.crop,
        )

    def choose_backend(self) -> Literal["vector", "gymnasium"]:
        """Return the backend that serves these settings.

        Raises:
            UserError: the vector backend is asked for what it cannot do.
        """
        only_gymnasium = {
            "crop": self.crop is not None,
            "on_frame": self.on_frame is not None,
            "render_mode": self.render_mode is not None,
            "protocol sb3": self.protocol.name == "sb3",
            "mode": self.protocol.mode is not None,
            "difficulty": self.protocol.difficulty is not None,
        }
        wanted = ", ".join(name for name, is_wanted in only_gymnasium.items() if is_wanted)
        if self.backend == "vector" and wanted:
            raise UserError(
                f"backend vector cannot serve {wanted}: set backend to auto, or do without"
            )
        return "gymnasium" if self.backend == "gymnasium" or wanted else "vector"

    def fingerprint(self) -> dict[str, Any]:
        """Return, as JSON, all that decides what a seed and a list of actions lead to."""
        protocol = self.protocol.as_json()
        del protocol["eval_epsilon"]  # of other games
        return {
            "backend": self.choose_backend(),
            "frame_stack": self.frame_stack,
            "crop": None if self.crop is None else list(self.crop),
            "protocol": protocol,
        }


@dataclass(frozen=True)
class ReseedPlan:
    """When environments are seeded, and with what.

    Exact resume rests on it: the state of a game is its seed and the actions since, so seeds have
    to come often enough for the replay of those actions to be short.

    Attributes:
        seed_of: (environment, how often it was seeded before) -> seed, 0 <= seed < 2**31; None: no
            seed, its own generator goes on.
        every_steps: an environment is seeded at its first game end after so many of its own steps
            since it was last seeded; 0: at every game end.
    """

    seed_of: Callable[[int, int], int | None]
    every_steps: int

    @classmethod
    def for_training(cls, seed: int, every_steps: int = 20_000) -> "ReseedPlan":
        """Return the plan of a training run; replaying 20,000 steps takes under a minute."""
        return cls(lambda row, count: stream_seed(seed, "environments", row, count), every_steps)
