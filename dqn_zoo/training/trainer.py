"""Everything a run is made of, in memory."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from dqn_zoo.algorithms.choice import algorithm_of
from dqn_zoo.envs.env_settings import EnvSettings
from dqn_zoo.envs.kept import KeptEmulators
from dqn_zoo.envs.making import make_envs
from dqn_zoo.errors import UserError
from dqn_zoo.networks.network import weights_on_cpu
from dqn_zoo.play.evaluation import ENVS_PER_CORE, Game, evaluate, evaluation_seeds
from dqn_zoo.play.weights import AVERAGED, ONLINE, Kind, weights_bytes
from dqn_zoo.runs.metrics import EpisodeStatistics
from dqn_zoo.runs.run import Run
from dqn_zoo.seeding import stream_seed
from dqn_zoo.settings.config import Config
from dqn_zoo.system.files import replace_file
from dqn_zoo.system.machine import default_num_threads, usable_cores
from dqn_zoo.system.stopwatch import Stopwatch


@dataclass
class Best:
    """The best evaluation so far and the weights that played it."""

    score: float | None = None
    steps: int = 0
    weights: dict[str, torch.Tensor] = field(default_factory=dict)


def evaluation_threads(device: str) -> int:
    """Return how many threads play the games of an evaluation on this machine."""
    return default_num_threads(device, usable_cores())


class Trainer:
    """A run in memory: environments, algorithm, statistics and what was done so far.

    Its settings are complete: seed, device, threads and precision are chosen.

    Attributes:
        observation: uint8 [num_envs, stack, 84, 84], to act on next.
        log_rows: rows of progress.csv so far.
        evaluations: evaluations so far; what is due follows from the number of steps alone, and is
            compared with these.
        evaluation_settings: of their environments, whose emulators wait from one to the next.
        elapsed_before_s: seconds of the run before `began`.
        began: when this process began it or went on with it, as `time.monotonic` tells.
    """

    observation: NDArray[np.uint8]

    def __init__(self, config: Config, stopwatch: Stopwatch | None = None) -> None:
        assert config.seed is not None, "the seed is drawn before the run is built"
        self.config = config
        self.best = Best()
        self.log_rows = 0
        self.evaluations = 0
        self.stopwatch = stopwatch or Stopwatch()
        self.elapsed_before_s = 0.0
        self.began = time.monotonic()
        self._kept = KeptEmulators()
        settings = EnvSettings.from_config(config)
        self.evaluation_settings = replace(settings, kept=self._kept)
        self.envs = make_envs(
            config.env,
            config.n_envs,
            settings=settings,
            seed=stream_seed(config.seed, "environments"),
        )
        self.algorithm = algorithm_of(config).from_config(
            config, num_actions=self.envs.num_actions, stopwatch=self.stopwatch
        )
        self.statistics = EpisodeStatistics(config.n_envs)

    @property
    def elapsed_s(self) -> float:
        """Seconds of wall-clock time of the run so far, summed over resumes."""
        return self.elapsed_before_s + time.monotonic() - self.began

    def close(self) -> None:
        """Close the emulators."""
        self.envs.close()
        self._kept.close()

    def take_weights(self, weights: dict[str, torch.Tensor], num_actions: int) -> None:
        """Start from given weights, of a network like the run's; counters and schedules stay at 0.

        Raises:
            UserError: if they decide among another number of actions.
        """
        if num_actions != self.envs.num_actions:
            raise UserError(
                f"the given weights decide among {num_actions} actions and {self.config.env} has "
                f"{self.envs.num_actions}: give the game that they were trained on, or no --env"
            )
        self.algorithm.take_weights(weights)

    def start(self) -> None:
        """Reset the environments; the run begins at step 0."""
        self.observation = self.envs.reset()
        self.algorithm.start(self.observation)

    def evaluate(
        self,
        number: int,
        *,
        on_progress: Callable[[int], None],
        on_game: Callable[[Game], None] | None = None,
    ) -> list[Game]:
        """Play the games of an evaluation, as `evaluation.evaluate` does; they are its number's."""
        config, cores = self.config, usable_cores()
        assert config.seed is not None
        return evaluate(
            self.algorithm.q_values,
            game=config.env,
            settings=self.evaluation_settings,
            seeds=evaluation_seeds(config.seed, number, config.eval_episodes),
            num_envs=ENVS_PER_CORE * cores,
            num_threads=evaluation_threads(config.device),
            on_game=on_game,
            on_progress=on_progress,
        )

    def note_best(self, score: float) -> None:
        """Keep the weights of now as the best."""
        self.best = Best(score, self.algorithm.steps, weights_on_cpu(self.algorithm.network))

    def best_bytes(self) -> bytes:
        """Return the best weights as safetensors, with what they are in the header."""
        return self._weights_bytes(self.best.weights, self.best.steps, AVERAGED)

    def weights_bytes(self) -> bytes:
        """Return the weights of now as safetensors, with what they are in the header."""
        weights = weights_on_cpu(self.algorithm.network)
        return self._weights_bytes(weights, self.algorithm.steps, AVERAGED)

    def online_bytes(self) -> bytes:
        """Return the weights that learn, where `weights_bytes` is the average of them."""
        weights = weights_on_cpu(self.algorithm.played.online.weights)
        return self._weights_bytes(weights, self.algorithm.steps, ONLINE)

    def write_weights(self, run: Run) -> None:
        """Write the weights of now into the folder of a run."""
        replace_file(run.model_file, self.weights_bytes())
        if self.algorithm.played.is_averaged:
            replace_file(run.online_model_file, self.online_bytes())

    def _weights_bytes(self, weights: dict[str, torch.Tensor], steps: int, kind: Kind) -> bytes:
        config = self.config
        about = {"env": config.env, "algo": config.algo, "protocol": config.protocol}
        kinds = {"weights": kind} if self.algorithm.played.is_averaged else {}
        return weights_bytes(weights, about | {"steps": steps} | kinds)
