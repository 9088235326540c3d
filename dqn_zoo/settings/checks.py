"""Settings that do not go together: what cannot run, and what is probably not meant."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from dqn_zoo.errors import UserError
from dqn_zoo.settings.config import Config, initial_learning_rate
from dqn_zoo.settings.game_modes import check_mode
from dqn_zoo.settings.screen import Crop, crop_window

# Settings of parts that are not always there: the key that chooses a part, and the values of it
# that these settings belong to.
NEEDS: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {
    ("algorithm", ("parallel",)): ("rollout_steps", "td_lambda", "num_epochs", "num_minibatches"),
    ("network", ("nature", "small")): ("channel_norm",),
    ("network", ("impala",)): ("network_width", "network_pool", "spectral_norm", "compiled_torso"),
    ("replay", ("prioritized",)): (
        "priority_exponent", "priority_weight_initial", "priority_weight_final", "priority_floor",
    ),
    ("bootstrap", ("soft",)): ("munchausen_alpha", "munchausen_temperature", "munchausen_clip"),
    ("loss", ("c51",)): ("num_atoms", "v_min", "v_max"),
    ("loss", ("iqn",)): ("num_target_quantiles", "num_acting_quantiles", "num_cosines"),
    ("loss", ("qrdqn", "iqn")): ("num_quantiles", "huber_kappa"),
    ("algorithm", ("replay",)): (
        "learning_starts", "train_freq", "train_freq_later", "gradient_steps",
        "target_update_interval", "buffer_size", "batch_size", "replay", "n_steps", "bootstrap",
        "loss", "noisy_sigma", "targets_ahead", "cuda_graph", "compiled_torso",
    ),
}  # fmt: skip


def without_effect(config: Config) -> dict[str, str]:
    """Return the keys of parts that this config does not use, each with what would use it."""
    return {
        key: f"{chooser} {' or '.join(values)}"
        for (chooser, values), keys in NEEDS.items()
        if getattr(config, chooser) not in values
        for key in keys
    }


class Finding(NamedTuple):
    """Settings that do not go together: the keys involved and what is wrong with them."""

    keys: tuple[str, ...]
    text: str


def contradictions(config: Config) -> Iterator[Finding]:
    """Yield the combinations that cannot run."""
    idle = without_effect(config)
    yield from _memory_contradictions(config, idle)
    if not 0.0 < initial_learning_rate(config) < float("inf"):
        yield Finding(
            ("learning_rate",),
            f"learning_rate must start above 0 and finite, got {config.learning_rate}",
        )
    if config.backend == "vector" and config.protocol == "sb3":
        yield Finding(
            ("backend", "protocol"),
            "protocol sb3 plays with the gymnasium backend, got backend vector; "
            "set backend to auto or gymnasium",
        )
    yield from _mode_contradictions(config)
    if config.crop is not None:
        yield from _crop_contradictions(config, config.crop)
    yield from _distribution_contradictions(config)
    if "loss" in idle and config.loss not in ("huber", "squared"):
        yield Finding(
            ("algorithm", "loss"),
            f"algorithm {config.algorithm} learns values, got loss {config.loss}: leave loss out",
        )
    if "noisy_sigma" in idle and config.noisy_sigma is not None:
        yield Finding(
            ("algorithm", "noisy_sigma"),
            f"algorithm {config.algorithm} explores by epsilon alone: leave noisy_sigma out",
        )
    if config.mean_expansion and (config.dueling or config.loss == "c51"):
        key, other = ("dueling", "dueling true") if config.dueling else ("loss", "loss c51")
        yield Finding(
            ("mean_expansion", key),
            f"mean_expansion is for a plain head that learns values or quantiles, got {other}: "
            "leave one of the two out",
        )
    transitions = config.rollout_steps * config.n_envs
    if "num_minibatches" not in idle and transitions % config.num_minibatches:
        yield Finding(
            ("rollout_steps", "n_envs", "num_minibatches"),
            f"num_minibatches must divide the {transitions:,} steps of a rollout (rollout_steps x "
            f"n_envs), got {config.num_minibatches}",
        )


def _memory_contradictions(config: Config, idle: Mapping[str, str]) -> Iterator[Finding]:
    if "learning_starts" not in idle and config.learning_starts >= config.n_timesteps:
        yield Finding(
            ("learning_starts", "n_timesteps"),
            f"learning_starts must be below n_timesteps, got {config.learning_starts:,} of "
            f"{config.n_timesteps:,} steps: the run would end before it learns; lower "
            "learning_starts or raise n_timesteps",
        )
    if "batch_size" not in idle and config.batch_size > config.buffer_size:
        yield Finding(
            ("batch_size", "buffer_size"),
            f"batch_size must be at most buffer_size, got {config.batch_size:,} of "
            f"{config.buffer_size:,} transitions; raise buffer_size",
        )


def check(config: Config) -> None:
    """Refuse settings that contradict each other.

    Raises:
        UserError: the first contradiction.
    """
    for finding in contradictions(config):
        raise UserError(finding.text)


def warnings(config: Config) -> list[str]:
    """Return one line for each combination that runs but is probably not meant."""
    return list(_doubts(config))


def _doubts(config: Config) -> Iterator[str]:
    exploration_end = int(config.exploration_fraction * config.n_timesteps)
    falls = config.exploration_final_eps < config.exploration_initial_eps
    idle = without_effect(config)
    if "learning_starts" not in idle and falls and exploration_end <= config.learning_starts:
        when = "before" if exploration_end < config.learning_starts else "when"
        yield (
            f"epsilon reaches {config.exploration_final_eps:g} at step {exploration_end:,}, {when} "
            f"learning starts at step {config.learning_starts:,}: the whole fall is spent on "
            "random play; raise exploration_fraction or lower learning_starts"
        )
    if config.exploration_final_eps > config.exploration_initial_eps:
        yield (
            f"epsilon rises from {config.exploration_initial_eps:g} to "
            f"{config.exploration_final_eps:g}: exploration_initial_eps is usually the larger"
        )
    if config.exploration_final_eps == 0.0 and not falls and not config.noisy_sigma:
        yield (
            "nothing explores: epsilon is 0 and there are no noisy layers; raise "
            "exploration_initial_eps or set noisy_sigma to 0.5"
        )
    if config.exploration_spread > 0.0 and config.n_envs == 1:
        yield (
            f"exploration_spread {config.exploration_spread:g} has no effect with 1 environment, "
            f"which ends at epsilon {config.exploration_final_eps:g}: raise n_envs"
        )
    yield from _doubts_about_durations(config)
    if config.he_init and config.spectral_norm and "spectral_norm" not in idle:
        yield (
            "he_init does not reach the convolutions of spectral_norm, which keep PyTorch's first "
            "weights: leave one of the two out"
        )
    if "learning_starts" not in idle:
        yield from _doubts_about_replay(config)
    rollout = config.rollout_steps * config.n_envs
    if "rollout_steps" not in idle and rollout > config.n_timesteps:
        yield (
            f"the run ends before its first update at step {rollout:,} (rollout_steps x n_envs): "
            "raise n_timesteps or lower n_envs"
        )
    if config.loss == "c51":
        yield from _support_doubts(config)
    yield from _unused(config)


def _doubts_about_durations(config: Config) -> Iterator[str]:
    zeta, share = config.exploration_zeta, config.exploration_zeta_share
    if (zeta == 0.0) != (share == 0.0) and share < 1.0:
        yield (
            f"random actions last one step: exploration_zeta is {zeta:g} and "
            f"exploration_zeta_share {share:g}; 2 and 0.25 let them last in a quarter of the "
            "environments"
        )
    if zeta == 0.0 or share == 0.0:
        return
    # With numpy, which the shell's completion does without.
    from dqn_zoo.schedules import mean_duration, num_lasting

    if share < 1.0 and num_lasting(config.n_envs, share) == config.n_envs:
        yield (
            f"exploration_zeta_share {share:g} of n_envs {config.n_envs} is all of them, rounded "
            "up: raise n_envs"
        )
    if (steps := mean_duration(zeta)) > 100.0:
        yield (
            f"exploration_zeta {zeta:g} keeps a random action up for {steps:,.0f} steps on "
            f"average: 2 is usual, for {mean_duration(2.0):.0f}"
        )


def _doubts_about_replay(config: Config) -> Iterator[str]:
    if 2 * config.learning_starts > config.n_timesteps:
        yield (
            f"learning starts at step {config.learning_starts:,} of {config.n_timesteps:,}: most "
            "of the run is random play; lower learning_starts or raise n_timesteps"
        )
    if config.buffer_size < config.learning_starts:
        yield (
            f"buffer_size {config.buffer_size:,} is below learning_starts "
            f"{config.learning_starts:,}: the first transitions are overwritten before any update"
        )
    if config.learning_starts < config.batch_size:
        yield (
            f"learning_starts {config.learning_starts:,} is below batch_size "
            f"{config.batch_size:,}: the first updates repeat a few transitions"
        )
    if config.learning_starts + config.target_update_interval > config.n_timesteps:
        yield (
            f"target_update_interval {config.target_update_interval:,} leaves no copy to the "
            f"target network between learning_starts {config.learning_starts:,} and the end of "
            f"the run at step {config.n_timesteps:,}"
        )


def _mode_contradictions(config: Config) -> Iterator[Finding]:
    keys = [key for key in ("mode", "difficulty") if getattr(config, key) is not None]
    if not keys:
        return
    try:
        check_mode(config.env, config.mode, config.difficulty)
    except UserError as error:
        yield Finding((*keys,), str(error))
    if config.backend == "vector":
        yield Finding(
            ("backend", *keys),
            f"{' and '.join(keys)} can be set with the gymnasium backend, got backend vector; "
            "set backend to auto or gymnasium",
        )


def _crop_contradictions(config: Config, crop: Crop) -> Iterator[Finding]:
    try:
        crop_window(crop)
    except UserError as error:
        yield Finding(("crop",), str(error))
    if config.backend == "vector":
        yield Finding(
            ("backend", "crop"),
            "crop is served by the gymnasium backend, got backend vector; "
            "set backend to auto or gymnasium",
        )


def _distribution_contradictions(config: Config) -> Iterator[Finding]:
    if config.loss != "c51":
        return
    if config.bootstrap == "soft":
        yield Finding(
            ("loss", "bootstrap"),
            "loss c51 does not go with bootstrap soft: Munchausen's update is defined for values "
            "and quantiles, not for the probabilities of fixed returns; set loss to iqn, qrdqn, "
            "squared or huber, or bootstrap to greedy or double",
        )
    if config.v_min >= config.v_max:
        yield Finding(
            ("v_min", "v_max"),
            f"v_min must be below v_max, got {config.v_min:g} and {config.v_max:g}",
        )


def _support_doubts(config: Config) -> Iterator[str]:
    """Doubt a support that cannot hold the returns; what lies beyond counts as its end."""
    if not config.clip_reward:
        yield (
            f"c51 takes every return beyond v_min {config.v_min:g} and v_max {config.v_max:g} for "
            "these, and clip_reward is false: make them hold the game's returns"
        )
    elif config.n_steps > min(config.v_max, -config.v_min):
        yield (
            f"n_steps {config.n_steps} rewards alone can leave c51's returns, v_min "
            f"{config.v_min:g} to v_max {config.v_max:g}: widen them or lower n_steps"
        )


def _unused(config: Config) -> Iterator[str]:
    """Name what was set for a part that is not there."""
    unused = [
        f"{key} (for {part})"
        for key, part in without_effect(config).items()
        if getattr(config, key) != Config.model_fields[key].default
    ]
    if unused:
        yield f"without effect here: {', '.join(unused)}"
