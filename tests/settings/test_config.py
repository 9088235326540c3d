import re
import typing
from pathlib import Path

import pytest

from dqn_zoo.errors import UserError
from dqn_zoo.settings.checks import NEEDS, check, warnings, without_effect
from dqn_zoo.settings.config import Config, accepted_values, build_config, initial_learning_rate
from dqn_zoo.settings.recipes import resolve
from dqn_zoo.settings.yaml_reader import parse_value


def sound(**changes):
    """A config without warnings, with the given changes."""
    base = {"n_timesteps": 2_000_000, "learning_starts": 10_000, "exploration_fraction": 0.1}
    return build_config(base | changes)


def test_a_float_that_is_whole_is_taken_for_a_whole_number():
    config = build_config({"n_timesteps": 1e7, "buffer_size": 2e5})
    assert (config.n_timesteps, config.buffer_size) == (10_000_000, 200_000)
    assert type(config.n_timesteps) is int


def test_a_whole_number_is_taken_for_a_float():
    assert build_config({"gamma": 1}).gamma == 1.0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("n_timesteps", True, "n_timesteps must be a whole number of at least 1, got true"),
        ("n_timesteps", 1.5, "n_timesteps must be a whole number of at least 1, got 1.5"),
        ("n_timesteps", "1e7", "n_timesteps must be a whole number of at least 1, got '1e7'"),
        ("n_timesteps", float("inf"), "n_timesteps must be a whole number of at least 1, got inf"),
        ("buffer_size", -5, "buffer_size must be a whole number of at least 1, got -5"),
        ("gamma", 1.01, "gamma must be a number from 0 to 1, got 1.01"),
        ("gamma", float("nan"), "gamma must be a number from 0 to 1, got nan"),
        ("gamma", False, "gamma must be a number from 0 to 1, got false"),
        ("max_grad_norm", 0, "max_grad_norm must be a number above 0, or null, got 0"),
        ("optimizer_eps", float("inf"), "optimizer_eps must be a number above 0, got inf"),
        ("dueling", "yes", "dueling must be true or false, got 'yes'"),
        ("dueling", 1, "dueling must be true or false, got 1"),
        ("bootstrap", True, "bootstrap must be one of greedy, double, soft, got true"),
        ("num_atoms", 1, "num_atoms must be a whole number from 2 to 10,000, got 1"),
        ("munchausen_clip", 0.5, "munchausen_clip must be a number of at most 0, got 0.5"),
        ("v_min", "low", "v_min must be a number, got 'low'"),
        ("noisy_sigma", -1, "noisy_sigma must be a number of at least 0, or null, got -1"),
        ("network_pool", 12, "network_pool must be a whole number from 1 to 11, or null, got 12"),
        ("priority_exponent", 1.5, "priority_exponent must be a number from 0 to 1, got 1.5"),
        ("protocol", "zo", "protocol must be one of zoo, machado, sb3, got 'zo'"),
        ("noop_max", -1, "noop_max must be a whole number from 0 to 1,000, or null, got -1"),
        ("seed", -1, "seed must be a whole number from 0 to 4,294,967,295, or null, got -1"),
        ("crop", [1, 2, 3], "crop must be a list of 4 numbers"),
        ("crop", [1, 2, 3, -4], "crop must be a list of 4 numbers"),
        ("learning_rate", "1e-4", "learning_rate must be a number above 0, or text like lin_1e-4"),
        ("learning_rate", "lin_x", "learning_rate must be a number above 0, or text like lin_1e-4"),
        (
            "learning_rate",
            "lin_-1",
            "learning_rate must be a number above 0, or text like lin_1e-4",
        ),
        ("learning_rate", float("nan"), "learning_rate must be a number above 0, or text like"),
        ("env", None, "env must be text, got null"),
        ("bufer_size", 5, "unknown key 'bufer_size'; did you mean buffer_size?"),
        ("zzz", 5, "unknown key 'zzz'; --print-config of dqn-train lists the keys"),
    ],
)
def test_a_value_that_is_not_accepted_names_key_range_and_value(key, value, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build_config({key: value})


def test_the_origin_of_a_bad_value_comes_first_in_the_message():
    with pytest.raises(UserError, match=re.escape("my.yml, line 3: gamma must be")):
        build_config({"n_envs": 2, "gamma": 2}, {"n_envs": "--n-envs", "gamma": "my.yml, line 3"})


def test_a_list_of_margins_becomes_a_tuple():
    assert build_config({"crop": [1, 2, 3, 4]}).crop == (1, 2, 3, 4)


def test_the_initial_learning_rate_is_that_of_the_schedule():
    assert initial_learning_rate(build_config({"learning_rate": "lin_3e-4"})) == 3e-4
    assert initial_learning_rate(build_config({"learning_rate": 0.25})) == 0.25


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_starts": 2_000_000}, "learning_starts must be below n_timesteps"),
        ({"batch_size": 65, "buffer_size": 64}, "batch_size must be at most buffer_size"),
        ({"learning_rate": "lin_0"}, "learning_rate must start above 0 and finite"),
        ({"learning_rate": "lin_1e999"}, "learning_rate must start above 0 and finite"),
        ({"protocol": "sb3", "backend": "vector"}, "protocol sb3 plays with the gymnasium backend"),
        ({"crop": [0, 0, 8, 8], "backend": "vector"}, "crop is served by the gymnasium backend"),
        ({"crop": [100, 110, 0, 0]}, "has to leave something of the 210 rows and 160 columns"),
        ({"crop": [0, 0, 80, 80]}, "has to leave something of the 210 rows and 160 columns"),
        (
            {"loss": "c51", "bootstrap": "soft"},
            "loss c51 does not go with bootstrap soft: Munchausen's update is defined for values",
        ),
        ({"loss": "c51", "v_min": 3, "v_max": 3}, "v_min must be below v_max, got 3 and 3"),
        ({"mean_expansion": True, "dueling": True}, "mean_expansion is for a plain head that"),
        ({"mean_expansion": True, "loss": "c51"}, "values or quantiles, got loss c51: leave one"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check(sound(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_starts": 1_999_999},
        {"batch_size": 64, "buffer_size": 64},
        {"protocol": "sb3", "backend": "gymnasium"},
        {"protocol": "sb3"},
        {"crop": [100, 109, 80, 79]},
        {"crop": [0, 0, 8, 8], "backend": "gymnasium"},
        {"loss": "c51", "bootstrap": "double"},
        {"loss": "iqn", "mean_expansion": True},
        {"loss": "iqn", "bootstrap": "soft", "v_min": 3, "v_max": 3},
        {
            "network": "impala",
            "network_width": 2,
            "network_pool": 6,
            "layer_norm": True,
            "spectral_norm": True,
        },
    ],
)
def test_settings_at_the_edge_of_a_contradiction_are_accepted(changes):
    check(sound(**changes))


def test_exploration_that_ends_before_learning_starts_is_a_warning():
    config = sound(n_timesteps=300_000, learning_starts=100_000, exploration_final_eps=0.02)
    [warning] = warnings(config)
    assert warning.startswith(
        "epsilon reaches 0.02 at step 30,000, before learning starts at step 100,000: "
    )
    assert warnings(sound(n_timesteps=300_000, learning_starts=29_999)) == []
    [warning] = warnings(sound(n_timesteps=300_000, learning_starts=30_000))
    assert "at step 30,000, when learning starts at step 30,000: " in warning


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"buffer_size": 9_999}, "buffer_size 9,999 is below learning_starts 10,000"),
        ({"learning_starts": 31}, "learning_starts 31 is below batch_size 32"),
        ({"exploration_initial_eps": 0.0}, "epsilon rises from 0 to 0.05"),
        (
            {"exploration_spread": 7.0},
            "exploration_spread 7 has no effect with 1 environment, which ends at epsilon 0.05",
        ),
        (
            {"exploration_zeta_share": 0.25},
            "random actions last one step: exploration_zeta is 0 and exploration_zeta_share 0.25; "
            "2 and 0.25 let them last in a quarter of the environments",
        ),
        (
            {"exploration_zeta": 2.0, "exploration_zeta_share": 0.0},
            "random actions last one step: exploration_zeta is 2 and exploration_zeta_share 0",
        ),
        (
            {"exploration_zeta": 2.0, "exploration_zeta_share": 0.6},
            "exploration_zeta_share 0.6 of n_envs 1 is all of them, rounded up: raise n_envs",
        ),
        (
            {"network": "impala", "spectral_norm": True, "he_init": True},
            "he_init does not reach the convolutions of spectral_norm",
        ),
        (
            {"exploration_zeta": 1.2},
            "exploration_zeta 1.2 keeps a random action up for 413 steps on average: 2 is usual, "
            "for 6",
        ),
        ({"target_update_interval": 1_990_001}, "target_update_interval 1,990,001 leaves no copy"),
        (
            {"exploration_initial_eps": 0.0, "exploration_final_eps": 0.0},
            "nothing explores: epsilon is 0 and there are no noisy layers",
        ),
        (
            {"network": "small", "network_pool": 6, "spectral_norm": True},
            "without effect here: network_pool (for network impala), spectral_norm (for network",
        ),
        ({"loss": "c51", "clip_reward": False}, "c51 takes every return beyond v_min -10"),
        ({"loss": "c51", "v_max": 2.5, "n_steps": 3}, "n_steps 3 rewards alone can leave c51's"),
        (
            {"loss": "qrdqn", "num_quantiles": 51, "num_cosines": 32, "priority_exponent": 0.6},
            "without effect here: priority_exponent (for replay prioritized), "
            "num_cosines (for loss iqn)",
        ),
    ],
)
def test_settings_that_make_little_sense_together_are_a_warning(changes, message):
    assert warnings(sound()) == []
    [warning] = warnings(sound(**changes))
    assert warning.startswith(message)


def test_noisy_networks_explore_without_epsilon():
    quiet = {"exploration_initial_eps": 0.0, "exploration_final_eps": 0.0}
    assert warnings(sound(**quiet, noisy_sigma=0.5)) == []


def test_keys_of_parts_that_are_not_there_are_without_effect():
    parallel = without_effect(Config(algorithm="parallel", network="impala"))
    listed = {key for keys in NEEDS.values() for key in keys}
    assert listed == set(without_effect(Config())) | set(parallel) <= Config.model_fields.keys()
    assert parallel["buffer_size"] == parallel["compiled_torso"] == "algorithm replay"
    everything = Config(network="impala", replay="prioritized", bootstrap="soft", loss="iqn")
    of_pqn = ["rollout_steps", "td_lambda", "num_epochs", "num_minibatches", "channel_norm"]
    assert list(without_effect(everything)) == [*of_pqn, "num_atoms", "v_min", "v_max"]


def test_every_key_says_what_it_accepts_and_what_it_means():
    for key, field in Config.model_fields.items():
        assert accepted_values(key)
        assert field.description


def test_the_protocols_of_the_config_are_those_that_exist():
    from dqn_zoo.settings.protocols import PROTOCOLS

    assert set(typing.get_args(Config.model_fields["protocol"].annotation)) == PROTOCOLS.keys()


def test_the_table_in_the_docs_is_that_of_the_settings():
    docs = Path(__file__).parents[2] / "docs" / "hyperparameters.md"
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in docs.read_text().splitlines()
        if line.startswith("| `") and line.count("|") == 6
    ]
    recipe = resolve().config
    for row, (key, field) in zip(rows, Config.model_fields.items(), strict=True):
        name, accepted, default, in_recipe, meaning = row
        assert (name, accepted, meaning) == (f"`{key}`", accepted_values(key), field.description)
        assert build_config({key: parse_value(default.replace(",", ""))}) == Config()
        assert parse_value(in_recipe.replace(",", "")) == getattr(recipe, key)
