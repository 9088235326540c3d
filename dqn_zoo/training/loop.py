"""The training loop: where to begin reading."""

from dqn_zoo.system.signals import Stop
from dqn_zoo.training.duties import Duties
from dqn_zoo.training.trainer import Trainer


def training_loop(trainer: Trainer, duties: Duties, stop: Stop, *, until_steps: int) -> None:
    """Act, send, learn, receive, observe, until the run has made its steps or is asked to stop.

    The emulators compute while the algorithm learns. Between two passes nothing is in flight; that
    is when everything else happens.

        trainer.observation    uint8 [num_envs, stack, 84, 84]   what the emulators show now
        actions                int64 [num_envs]
        step                   EnvStep: what they show next, raw rewards, which games ended

    What learning means is the algorithm's affair: `algorithms/replay_q.py` copies the target
    network, draws minibatches from its memory and updates the online network.
    """
    envs, algorithm, section = trainer.envs, trainer.algorithm, trainer.stopwatch.section
    while True:
        duties.perform()
        if algorithm.steps >= until_steps or stop.reason() is not None:
            break
        actions = algorithm.act(trainer.observation)
        with section("sending to the emulator"):
            envs.send(actions)
        algorithm.learn()
        with section("waiting for the emulator"):
            step = envs.recv()
        algorithm.observe(step)
        duties.note_games(trainer.statistics.add(step))
        trainer.observation = step.observation
