"""Which settings of a run may change between a checkpoint and its resume.

A checkpoint holds what was computed with the settings of its run. What those counted, stored or
shaped cannot be reinterpreted; everything else may change, and then the bits do.
"""

from collections.abc import Mapping
from typing import Any

from dqn_zoo.errors import UserError
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.yaml_reader import as_yaml

WITHOUT_EFFECT = {"save_freq", "cuda_graph", "compiled_torso"}
"""On the bits of a run, or, on a GPU, named there anyway."""

NAMED_BY_THE_MANIFEST = {"device", "num_threads", "precision"}

MAY_CHANGE = {
    "algo", "batch_size", "bootstrap", "eval_episodes", "eval_epsilon", "exploration_final_eps",
    "exploration_fraction", "exploration_initial_eps", "exploration_spread", "exploration_zeta",
    "exploration_zeta_share", "huber_kappa", "learning_rate", "max_grad_norm", "munchausen_alpha",
    "munchausen_clip",
    "munchausen_temperature", "n_timesteps", "num_acting_quantiles", "num_target_quantiles",
    "optimizer_eps", "priority_weight_final", "priority_weight_initial", "targets_ahead",
    "td_lambda",
}  # fmt: skip


def changed_settings(before: Mapping[str, Any] | None, config: Config) -> list[str]:
    """Return what differs from the settings of a checkpoint, as in `gamma: 0.99 before, 0.9 now`.

    `before` is None of checkpoints from before the settings were kept.

    Raises:
        UserError: one of them must not differ.
    """
    if before is None:
        return []
    now = config.model_dump(mode="json")
    # A key that a later version added meant its default.
    then = Config().model_dump(mode="json") | dict(before)
    differing = [key for key in now if now[key] != then[key] and key not in WITHOUT_EFFECT]
    # Where the middle of a run is, its updates were counted by.
    counted = set() if config.train_freq_later is None else {"n_timesteps"}
    for key in differing:
        if key not in MAY_CHANGE - counted | NAMED_BY_THE_MANIFEST:
            raise UserError(
                f"{key} is {as_yaml(now[key])} now and was {as_yaml(then[key])} when the "
                f"checkpoint was made, which cannot go on with another: set {key}: "
                f"{as_yaml(then[key])} in config.yml again, or start a new run"
            )
    named = [key for key in differing if key not in NAMED_BY_THE_MANIFEST]
    return [f"{key}: {then[key]} before, {now[key]} now" for key in named]
