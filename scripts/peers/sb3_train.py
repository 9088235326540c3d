"""Train Stable-Baselines3's DQN with RL-Zoo's values until the time is up.

Writes model.zip and progress.csv, whose columns are those of a run of dqn_zoo: steps, time_s,
return_mean. The horizon is the million steps of the Hugging Face course. The time counts from the
end of the imports.
"""

import argparse
import csv
import time
from pathlib import Path

import ale_py
import gymnasium
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecFrameStack

LOG_INTERVAL = 1_000  # steps
HORIZON = 1_000_000  # steps


class LogUntil(BaseCallback):
    """Writes a row every so many steps and ends the training when the time is up."""

    def __init__(self, file: Path, seconds: float) -> None:
        super().__init__()
        self._rows = [("steps", "time_s", "return_mean")]
        self._file, self._seconds = file, seconds
        self._started = time.monotonic()

    def _on_step(self) -> bool:
        passed = time.monotonic() - self._started
        is_over = passed >= self._seconds
        if self.num_timesteps % LOG_INTERVAL == 0 or is_over:
            returns = [episode["r"] for episode in self.model.ep_info_buffer]
            self._rows.append((self.num_timesteps, round(passed, 3), safe_mean(returns)))
            with self._file.open("w", newline="") as file:
                csv.writer(file).writerows(self._rows)
        return not is_over


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--env", default="SpaceInvadersNoFrameskip-v4")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    until = LogUntil(arguments.output / "progress.csv", 60 * arguments.minutes)
    torch.set_num_threads(arguments.num_threads)
    gymnasium.register_envs(ale_py)
    envs = VecFrameStack(make_atari_env(arguments.env, n_envs=1, seed=arguments.seed), 4)
    model = DQN(
        "CnnPolicy",
        envs,
        buffer_size=100_000,
        learning_rate=1e-4,
        batch_size=32,
        learning_starts=100_000,
        target_update_interval=1_000,
        train_freq=4,
        gradient_steps=1,
        exploration_fraction=0.1,
        exploration_final_eps=0.01,
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
        seed=arguments.seed,
        device="cpu",
    )
    model.learn(HORIZON, until)
    model.save(arguments.output / "model.zip")


if __name__ == "__main__":
    main()
