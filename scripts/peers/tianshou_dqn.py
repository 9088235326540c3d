"""DQN of Tianshou on Space Invaders for a measured span.

The environments are EnvPool's, which Tianshou prefers where it is installed. Its trainer searches
the whole replay memory for NaN after every collection; without `--trainer` the same collector and
the same update are called in a plain loop, which is the faster way to use Tianshou.
"""

import envpool
import torch
from span import Span, parse_arguments
from tianshou.algorithm import DQN
from tianshou.algorithm.algorithm_base import policy_within_training_step
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, CollectStats, VectorReplayBuffer
from tianshou.env.atari.atari_network import DQNet, ScaledObsInputActionReprNet
from tianshou.trainer import OffPolicyTrainerParams


class SpanIsOver(Exception):  # noqa: N818, it is no error
    """Leaves Tianshou's trainer, which has no other way out without evaluations."""


def main() -> None:
    arguments = parse_arguments()
    num_envs = arguments.num_envs
    torch.set_num_threads(arguments.num_threads)
    # What make_atari_env builds for training; it also builds a single environment, and that fails
    # with NumPy from 2.4 on.
    envs = envpool.make_gymnasium(
        "SpaceInvaders-v5",
        num_envs=num_envs,
        num_threads=min(num_envs, arguments.num_threads),
        episodic_life=True,
        reward_clip=True,
        stack_num=4,
        seed=1,
    )
    network = DQNet(c=4, h=84, w=84, action_shape=int(envs.action_space.n))
    policy = DiscreteQLearningPolicy(
        model=ScaledObsInputActionReprNet(network),
        action_space=envs.action_space,
        observation_space=envs.observation_space,
        eps_training=0.01,
    )
    algorithm = DQN(
        policy=policy,
        optim=AdamOptimizerFactory(lr=1e-4),
        gamma=0.99,
        target_update_freq=250,  # updates: 1,000 steps
        is_double=False,
        huber_loss_delta=1.0,
    )
    buffer = VectorReplayBuffer(
        arguments.buffer_size,
        buffer_num=num_envs,
        ignore_obs_next=True,
        save_only_last_obs=True,
        stack_num=4,
    )
    collector = Collector[CollectStats](algorithm, envs, buffer, exploration_noise=True)
    collector.reset()
    collector.collect(n_step=arguments.learning_starts // num_envs * num_envs, random=True)
    span = Span(arguments.warm_up, arguments.seconds)

    def stop_when_over(_: int, steps: int) -> None:
        if span.is_over(steps):
            raise SpanIsOver

    try:
        if arguments.trainer:
            parameters = OffPolicyTrainerParams(
                training_collector=collector,
                max_epochs=1,
                epoch_num_steps=10**9,
                collection_step_num_env_steps=num_envs,
                update_step_num_gradient_steps_per_sample=0.25,
                batch_size=32,
                training_fn=stop_when_over,
                show_progress=False,
                verbose=False,
            )
            algorithm.run_training(parameters)
        steps = 0
        with policy_within_training_step(policy):
            while True:
                stop_when_over(0, steps)
                steps += collector.collect(n_step=num_envs).n_collected_steps
                for _ in range(num_envs // 4):
                    algorithm.update(buffer=buffer, sample_size=32)
    except SpanIsOver:
        pass


if __name__ == "__main__":
    main()
