"""Flags of RL-Zoo that are not here, and what takes their place."""

import argparse
from collections.abc import Mapping
from typing import Any

from dqn_zoo.errors import UserError


class _Refuse(argparse.Action):
    """A flag of RL-Zoo that does not exist here; its `const` says what does."""

    def __call__(self, parser: object, namespace: object, values: object, flag: Any = None) -> None:
        raise UserError(f"{flag}: {self.const}")


def add_refused_flags(parser: argparse.ArgumentParser, refused: Mapping[str, str]) -> None:
    """Add flags that are refused with a sentence, hidden from --help."""
    for flag, sentence in refused.items():
        parser.add_argument(
            flag,
            action=_Refuse,
            nargs="?",
            const=sentence,
            default=argparse.SUPPRESS,
            dest="refused",
            help=argparse.SUPPRESS,
        )


_NO_TUNING = "dqn-train trains; dqn-tune searches hyperparameters"

_NO_PACKAGES = "all games come with ale-py, which is imported already; leave the flag out"

REFUSED_TRAIN: dict[str, str] = {
    "--truncate-last-trajectory": "it belongs to HER, which is not here; -i starts from weights, "
    "--resume continues exactly",
    "--n-eval-envs": "an evaluation chooses how many environments it uses; --eval-episodes sets "
    "how many games it plays, allotted beforehand",
    "--optimization-log-path": _NO_TUNING,
    "--save-replay-buffer": "every checkpoint holds the whole replay memory; --save-freq sets how "
    "often one is written",
    "--vec-env": "--backend vector|gymnasium and --n-envs take its place",
    "-optimize": _NO_TUNING,
    "--optimize": _NO_TUNING,
    "--optimize-hyperparameters": _NO_TUNING,
    "--n-trials": _NO_TUNING,
    "--max-total-trials": _NO_TUNING,
    "--n-jobs": _NO_TUNING,
    "--sampler": _NO_TUNING,
    "--pruner": _NO_TUNING,
    "--n-startup-trials": _NO_TUNING,
    "--n-evaluations": _NO_TUNING,
    "--storage": _NO_TUNING,
    "--study-name": _NO_TUNING,
    "--trial-id": _NO_TUNING,
    "--no-optim-plots": _NO_TUNING,
    "--verbose": "the live display is on in a terminal; --no-progress prints plain lines instead",
    "--gym-packages": _NO_PACKAGES,
    "--eval-env-kwargs": "evaluation plays the protocol of the run; what can differ is epsilon: "
    "--set eval_epsilon=0.05",
    "--yaml-file": "it is called -c/--conf-file",
    "-uuid": "run folders are claimed one at a time, so that two starts never share one; "
    "leave the flag out",
    "--uuid": "run folders are claimed one at a time, so that two starts never share one; "
    "leave the flag out",
}

REFUSED_TUNE: dict[str, str] = {
    "-optimize": "dqn-tune does nothing else: leave the flag out",
    "--optimize-hyperparameters": "dqn-tune does nothing else: leave the flag out",
    "-n": "--budget-steps sets the steps of every trial",
    "--n-timesteps": "--budget-steps sets the steps of every trial",
    "--max-total-trials": "--n-trials counts all trials of a study, those of earlier starts, too",
    "--n-startup-trials": "the sampler decides how many trials it draws at random first",
    "--n-evaluations": "every trial is evaluated equally often; --top finals measure the best",
    "--study-name": "a study is a folder: -f FOLDER",
    "--trial-id": "best.yml in the folder of the study holds the settings of the best",
    "--optimization-log-path": "-f FOLDER holds the runs of all trials",
    "--no-optim-plots": "the pictures are files in the folder of the study; leave the flag out",
}

REFUSED_ENJOY: dict[str, str] = {
    "--verbose": "every game is printed as it ends; leave the flag out",
    "--norm-reward": "rewards are never normalized here: scores are the game's own",
    "--reward-log": "results.json holds the score of every game",
    "--gym-packages": _NO_PACKAGES,
    "--custom-objects": "weights are safetensors, which hold no objects; leave the flag out",
}

REFUSED_PUSH: dict[str, str] = {
    "-n": "--episodes sets how many games are played, --record-seconds how long the film is",
    "--n-timesteps": "--episodes sets how many games are played, --record-seconds how long the "
    "film is",
    "--verbose": REFUSED_ENJOY["--verbose"],
    "--gym-packages": _NO_PACKAGES,
    "--token": "a token on the command line can be seen by others: set HF_TOKEN, or log in with "
    "`hf auth login`",
}
