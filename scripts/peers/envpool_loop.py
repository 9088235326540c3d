"""DQN in one plain loop over EnvPool, for a measured span: float32, nothing overlaps.

The algorithm as published (Mnih et al., 2015), with the least that PyTorch and NumPy need for it.
"""

import envpool
import numpy as np
import torch
from span import Span, parse_arguments
from torch import nn

BATCH_SIZE = 32
STEPS_PER_UPDATE = 4
STEPS_PER_TARGET_COPY = 1_000
GAMMA = 0.99
EPSILON = 0.01
OBSERVATION = (4, 84, 84)


class Memory:
    """The last transitions, with both observations; oldest overwritten first."""

    def __init__(self, capacity: int) -> None:
        self._observation = np.zeros((capacity, *OBSERVATION), np.uint8)
        self._next_observation = np.zeros((capacity, *OBSERVATION), np.uint8)
        self._action = np.zeros(capacity, np.int64)
        self._reward = np.zeros(capacity, np.float32)
        self._discount = np.zeros(capacity, np.float32)
        self._added = 0

    @property
    def _columns(self) -> tuple[np.ndarray, ...]:
        return (
            self._observation,
            self._action,
            self._reward,
            self._discount,
            self._next_observation,
        )

    def add(self, *transitions: np.ndarray) -> None:
        """Write transitions: the columns in their order, each with one row per transition."""
        capacity, number = len(self._action), len(transitions[0])
        rows = np.arange(self._added, self._added + number) % capacity
        for column, values in zip(self._columns, transitions, strict=True):
            column[rows] = values
        self._added += number

    def sample(self, generator: np.random.Generator) -> list[torch.Tensor]:
        """Draw a minibatch with replacement: the columns in their order."""
        rows = generator.integers(min(self._added, len(self._action)), size=BATCH_SIZE)
        return [torch.from_numpy(column[rows]) for column in self._columns]


class QNetwork(nn.Module):
    """The network of Mnih et al. (2015)."""

    def __init__(self, num_actions: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4, 32, 8, stride=4), nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2), nn.ReLU(),
            nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(3_136, 512), nn.ReLU(),
            nn.Linear(512, num_actions),
        )  # fmt: skip

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Return action values [batch, num_actions] of uint8 [batch, 4, 84, 84]."""
        return self.layers(observation.float() / 255.0)


class Learner:
    """Online and target network, and their updates."""

    def __init__(self, num_actions: int) -> None:
        self.online, self._target = QNetwork(num_actions), QNetwork(num_actions)
        self._optimizer = torch.optim.Adam(self.online.parameters(), lr=1e-4)
        self.copy()

    def copy(self) -> None:
        """Copy the online network to the target network."""
        self._target.load_state_dict(self.online.state_dict())

    def greedy_actions(self, observation: np.ndarray) -> np.ndarray:
        """Return the best action for each observation."""
        with torch.no_grad():
            return self.online(torch.from_numpy(observation)).argmax(1).numpy()

    def update(self, minibatch: list[torch.Tensor]) -> None:
        """Do one gradient step."""
        observation, action, reward, discount, next_observation = minibatch
        with torch.no_grad():
            target = reward + discount * self._target(next_observation).amax(1)
        value = self.online(observation).gather(1, action[:, None]).squeeze(1)
        loss = nn.functional.smooth_l1_loss(value, target)
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.online.parameters(), 10.0)
        self._optimizer.step()


def main() -> None:
    arguments = parse_arguments()
    num_envs = arguments.num_envs
    torch.set_num_threads(arguments.num_threads)
    generator = np.random.default_rng(1)
    envs = envpool.make_gymnasium(
        "SpaceInvaders-v5",
        num_envs=num_envs,
        num_threads=min(num_envs, arguments.num_threads),
        episodic_life=True,
        reward_clip=True,
        seed=1,
    )
    num_actions = envs.action_space.n
    learner = Learner(num_actions)
    memory = Memory(arguments.buffer_size)
    span = Span(arguments.learning_starts + arguments.warm_up, arguments.seconds)
    steps = updates = copies = 0
    observation, _ = envs.reset()
    in_game = np.ones(num_envs, np.bool_)
    while not span.is_over(steps):
        explores = generator.random(num_envs) < EPSILON
        action = generator.integers(num_actions, size=num_envs)
        if steps >= arguments.learning_starts:
            action = np.where(explores, action, learner.greedy_actions(observation))
        next_observation, reward, terminated, truncated, _ = envs.step(action.astype(np.int32))
        # After the end of a game a step only starts the next one; that is no transition.
        discount = np.where(terminated, 0.0, GAMMA)
        transitions = (observation, action, reward, discount, next_observation)
        memory.add(*(column[in_game] for column in transitions))
        in_game = ~(terminated | truncated)
        observation = next_observation
        steps += num_envs
        while updates < (steps - arguments.learning_starts) // STEPS_PER_UPDATE:
            learner.update(memory.sample(generator))
            updates += 1
        if steps // STEPS_PER_TARGET_COPY > copies:
            learner.copy()
            copies += 1


if __name__ == "__main__":
    main()
