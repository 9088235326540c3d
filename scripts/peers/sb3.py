"""DQN of Stable-Baselines3 on Space Invaders, as RL-Zoo runs it, for a measured span."""

import ale_py
import gymnasium
import torch
from span import Span, parse_arguments
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack


class UntilOver(BaseCallback):
    """Ends the training with the span."""

    def __init__(self, span: Span) -> None:
        super().__init__()
        self._span = span

    def _on_step(self) -> bool:
        return not self._span.is_over(self.num_timesteps)


def main() -> None:
    arguments = parse_arguments()
    num_envs = arguments.num_envs
    torch.set_num_threads(arguments.num_threads)
    gymnasium.register_envs(ale_py)
    envs = VecFrameStack(make_atari_env("SpaceInvadersNoFrameskip-v4", n_envs=num_envs, seed=1), 4)
    # Their train_freq counts calls, each a step of every environment.
    one_update_every_4_steps = (
        {"train_freq": 4, "gradient_steps": 1}
        if num_envs == 1
        else {"train_freq": 1, "gradient_steps": num_envs // 4}
    )
    model = DQN(
        "CnnPolicy",
        envs,
        buffer_size=arguments.buffer_size,
        learning_rate=1e-4,
        batch_size=32,
        learning_starts=arguments.learning_starts,
        target_update_interval=1_000,
        exploration_initial_eps=0.01,
        exploration_final_eps=0.01,
        device=arguments.device,
        **one_update_every_4_steps,
    )
    span = Span(arguments.learning_starts + arguments.warm_up, arguments.seconds)
    model.learn(10**9, callback=UntilOver(span))


if __name__ == "__main__":
    main()
