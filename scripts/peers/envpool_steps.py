"""Step EnvPool's Space Invaders with random actions for so many seconds."""

import envpool
import numpy as np
from span import Span, parse_arguments


def main() -> None:
    arguments = parse_arguments()
    num_envs = arguments.num_envs
    envs = envpool.make_gymnasium(
        "SpaceInvaders-v5", num_envs=num_envs, num_threads=arguments.num_threads, seed=1
    )
    generator = np.random.default_rng(1)
    span = Span(arguments.warm_up, arguments.seconds)
    envs.reset()
    steps = 0
    while not span.is_over(steps):
        envs.step(generator.integers(envs.action_space.n, size=num_envs, dtype=np.int32))
        steps += num_envs


if __name__ == "__main__":
    main()
