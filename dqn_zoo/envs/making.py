"""Environments from a name and settings: which backend serves them, and how it is built."""

from functools import partial

from dqn_zoo.envs.backend import Backend
from dqn_zoo.envs.env_settings import EnvSettings, ReseedPlan
from dqn_zoo.envs.environments import Environments
from dqn_zoo.errors import UserError
from dqn_zoo.settings.game_modes import check_mode
from dqn_zoo.settings.games import parse_game
from dqn_zoo.settings.protocols import PROTOCOLS
from dqn_zoo.system.machine import usable_cores


def make_envs(
    game: str,
    num_envs: int = 1,
    *,
    settings: EnvSettings | None = None,
    seed: int = 0,
    reseed: ReseedPlan | None = None,
    num_threads: int = 0,
) -> Environments:
    """Build environments; they have to be reset or restored before anything else.

    Args:
        game: any name that `parse_game` takes.
        num_envs: environments stepped together.
        settings: default: the protocol that the name implies, else `zoo`.
        seed: of the default plan.
        reseed: default: `ReseedPlan.for_training(seed)`.
        num_threads: of the emulator (vector backend), they change the speed and nothing else; 0:
            one per environment, up to the number of cores.

    Raises:
        UserError: an unknown game, a mode that it does not have, settings that do not go together,
            or a build of ale-py without the vector environment.
    """
    name = parse_game(game)
    if settings is None:
        settings = EnvSettings(protocol=PROTOCOLS[name.implied_protocol or "zoo"])
    if num_envs < 1 or num_threads < 0 or settings.frame_stack < 1:
        raise UserError(
            "num_envs and frame_stack start at 1 and num_threads at 0; "
            f"got {num_envs}, {settings.frame_stack} and {num_threads}"
        )
    check_mode(name.game, settings.protocol.mode, settings.protocol.difficulty)
    build = partial(_make_backend, name.rom, num_envs, settings, num_threads)
    is_watched = settings.on_frame is not None or settings.render_mode is not None
    kept = None if is_watched else settings.kept  # a window is closed, a film comes to its end
    backend = build() if kept is None else kept.lend(build.args, build)
    plan = ReseedPlan.for_training(seed) if reseed is None else reseed
    return Environments(backend, name, num_envs=num_envs, settings=settings, reseed=plan)


def _make_backend(rom: str, num_envs: int, settings: EnvSettings, num_threads: int) -> Backend:
    """The backend that serves the settings; the other one is not imported."""
    if settings.choose_backend() == "vector":
        try:
            from dqn_zoo.envs.vector_backend import VectorBackend
        except ImportError as error:
            raise UserError(
                f"this build of ale-py has no vector environment ({error}); use "
                "--backend gymnasium, or install ale-py from a wheel"
            ) from error

        return VectorBackend(
            rom,
            num_envs,
            protocol=settings.protocol,
            frame_stack=settings.frame_stack,
            num_threads=num_threads or min(usable_cores(), num_envs),
        )
    from dqn_zoo.envs.gymnasium_backend import GymnasiumBackend

    return GymnasiumBackend(
        rom,
        num_envs,
        protocol=settings.protocol,
        frame_stack=settings.frame_stack,
        crop=settings.crop,
        on_frame=settings.on_frame,
        render_mode=settings.render_mode,
    )
