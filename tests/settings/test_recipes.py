import re
import shutil
from collections import OrderedDict
from pathlib import Path

import pytest
import yaml

from dqn_zoo.errors import UserError
from dqn_zoo.settings import recipe_files
from dqn_zoo.settings.checks import check, without_effect
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.recipes import (
    StartedFrom,
    dump_config,
    format_config,
    load_config,
    resolve,
)
from dqn_zoo.settings.rl_zoo_keys import parse_dict_text
from dqn_zoo.settings.yaml_reader import Entry, parse_value, read_entries

# The keys, values and spellings of rl-baselines3-zoo's hyperparams/dqn.yml.
RL_ZOO_DQN = """
atari:
  env_wrapper:
    - stable_baselines3.common.atari_wrappers.AtariWrapper
  frame_stack: 4
  policy: 'CnnPolicy'
  n_timesteps: !!float 1e7
  buffer_size: 100000
  learning_rate: !!float 1e-4
  batch_size: 32
  learning_starts: 100000
  target_update_interval: 1000
  train_freq: 4
  gradient_steps: 1
  exploration_fraction: 0.1
  exploration_final_eps: 0.01
  # If True, you need to deactivate handle_timeout_termination
  # in the replay_buffer_kwargs
  optimize_memory_usage: False

CartPole-v1:
  n_timesteps: !!float 5e4
  policy: 'MlpPolicy'
  learning_rate: !!float 2.3e-3
  batch_size: 64
  buffer_size: 100000
  learning_starts: 1000
  gamma: 0.99
  target_update_interval: 10
  train_freq: 256
  gradient_steps: 128
  exploration_fraction: 0.16
  exploration_final_eps: 0.04
  policy_kwargs: "dict(net_arch=[256, 256])"

MountainCar-v0:
  n_timesteps: !!float 1.2e5
  policy: 'MlpPolicy'
  gamma: 0.98
  policy_kwargs: "dict(net_arch=[256, 256])"

LunarLander-v3:
  n_timesteps: !!float 1e5
  policy: 'MlpPolicy'
  gradient_steps: -1

Acrobot-v1:
  n_timesteps: !!float 1e5
  policy: 'MlpPolicy'
  gradient_steps: -1

default:
  n_timesteps: !!float 1e6
  policy: 'MlpPolicy'
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Work in an empty folder, so that the packaged recipes are the ones that are read."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(text, name="my.yml"):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def with_settings(lines, **arguments):
    """Resolve with a -c file whose atari block has the given lines."""
    block = "atari:\n" + "".join(f"  {line}\n" for line in lines.splitlines())
    return resolve(conf_file=written(block), **arguments)


def error_of(call, *arguments, **options):
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- Merging -----------------------------------------------------------------------------------


def test_the_command_line_speaks_rl_zoos_language_too():
    flag = "--hyperparams policy_kwargs"
    overrides = {"loss": "qrdqn", "tau": 1, "policy_kwargs": "dict(n_quantiles=9)"}
    resolved = resolve(overrides=overrides, flags={"policy_kwargs": flag})
    assert resolved.config.num_quantiles == 9
    assert resolved.sources["num_quantiles"] == flag
    assert any(note.startswith("no effect here: tau (") for note in resolved.notes)
    message = error_of(resolve, overrides={"tau": 0.5}, flags={"tau": "--hyperparams tau"})
    assert message.startswith("--hyperparams tau: the target network is copied whole")


@pytest.mark.parametrize("swap", [False, True])
def test_two_keys_for_one_setting_are_refused_in_a_file_and_on_the_command_line(swap):
    overrides = {"policy_kwargs": "dict(n_quantiles=9)", "num_quantiles": 7, "loss": "qrdqn"}
    lines = ["policy_kwargs: dict(n_quantiles=9)", "num_quantiles: 7", "loss: qrdqn"]
    if swap:
        overrides, lines = dict(reversed(overrides.items())), lines[::-1]
    flags = {key: f"--set {key}" for key in overrides}
    message = error_of(resolve, overrides=overrides, flags=flags)
    assert "it sets num_quantiles, as --set " in message
    message = error_of(with_settings, "\n".join(lines))
    assert "it sets num_quantiles, as my.yml, line " in message


def test_each_layer_overrides_the_one_before_and_is_named_as_the_source():
    written(
        "atari:\n  gamma: 0.1\n  n_steps: 11\n  batch_size: 12\n  train_freq: 13\n  n_envs: 14\n"
        "Pong:\n  n_steps: 21\n  batch_size: 22\n  train_freq: 23\n  n_envs: 24\n",
        "hyperparams/dqn.yml",
    )
    conf = written(
        "atari:\n  batch_size: 32\n  train_freq: 33\n  n_envs: 34\n"
        "PongNoFrameskip-v4:\n  train_freq: 43\n  n_envs: 44\n"
    )
    resolved = resolve(
        env="pong", conf_file=conf, overrides={"n_envs": 54}, flags={"n_envs": "--n-envs"}
    )
    found = {
        key: (getattr(resolved.config, key), resolved.sources[key])
        for key in ("max_grad_norm", "gamma", "n_steps", "batch_size", "train_freq", "n_envs")
    }
    assert found == {
        "max_grad_norm": (10.0, "built-in default"),
        "gamma": (0.1, "hyperparams/dqn.yml, line 2"),
        "n_steps": (21, "hyperparams/dqn.yml, line 8"),
        "batch_size": (32, "my.yml, line 2"),
        "train_freq": (43, "my.yml, line 6"),
        "n_envs": (54, "--n-envs"),
    }


def test_the_block_of_another_game_has_no_say():
    resolved = resolve(env="Pong", conf_file=written("atari: {gamma: 0.5}\nBreakout: {gamma: 0.6}"))
    assert resolved.config.gamma == 0.5


def test_a_game_block_alone_is_enough_for_its_game_and_refused_for_another():
    conf = written("ALE/Pong-v5:\n  gamma: 0.5\n")
    assert resolve(env="Pong", conf_file=conf).config.gamma == 0.5
    message = error_of(resolve, env="Breakout", conf_file=conf)
    assert message == "my.yml: expected a block 'atari:' or 'Breakout:', got ALE/Pong-v5"


@pytest.mark.parametrize(
    ("env", "file_says", "flag", "expected"),
    [
        ("Pong", None, None, "zoo"),
        ("Pong", "machado", None, "machado"),
        ("PongNoFrameskip-v4", "machado", None, "zoo"),
        ("ALE/Pong-v5", "zoo", None, "machado"),
        ("ALE/Pong-v5", None, "sb3", "sb3"),
        ("Pong", "machado", "sb3", "sb3"),
    ],
)
def test_the_protocol_is_the_flags_else_the_names_else_the_files(env, file_says, flag, expected):
    overrides = {"protocol": flag} if flag else {}
    if file_says:
        resolved = with_settings(f"protocol: {file_says}", env=env, overrides=overrides)
    else:
        resolved = resolve(env=env, overrides=overrides)
    assert resolved.config.protocol == expected


def test_a_protocol_that_the_name_implies_against_the_file_is_announced():
    resolved = with_settings("protocol: sb3", env="ALE/Pong-v5")
    assert any(
        "protocol machado, implied by ALE/Pong-v5, in place of sb3 (my.yml, line 2)" in note
        for note in resolved.notes
    )
    assert resolved.sources["protocol"] == "implied by ALE/Pong-v5"


def test_a_recipe_in_the_working_folder_wins_and_the_notes_say_which_was_read():
    packaged = resolve()
    assert packaged.recipe_path == recipe_files.packaged_folder() / "dqn.yml"
    assert packaged.notes == ("settings: packaged dqn.yml",)
    written("atari:\n  gamma: 0.123\n", "hyperparams/dqn.yml")
    local = resolve()
    assert local.config.gamma == 0.123
    assert local.recipe_path == Path("hyperparams/dqn.yml")
    assert local.notes == ("settings: hyperparams/dqn.yml",)


def test_a_recipe_of_the_working_folder_may_have_a_new_name():
    written("atari:\n  gamma: 0.123\n", "hyperparams/mine.yml")
    resolved = resolve(algo="mine")
    assert (resolved.config.algo, resolved.config.gamma) == ("mine", 0.123)


@pytest.mark.parametrize(
    ("algo", "message"),
    [
        ("dnq", "did you mean dqn?"),
        ("doubledqn", "did you mean double-dqn?"),
        ("ppo", "unknown algorithm 'ppo': there are btr, c51, double-dqn, dqn,"),
        ("my.yml", "a file is given with -c"),
        ("../dqn", "a file is given with -c"),
    ],
)
def test_an_unknown_algorithm_gets_the_nearest_and_the_list(algo, message):
    assert message in error_of(resolve, algo=algo)


def test_the_packaged_recipes_are_found_in_an_installed_package_too(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "dqn_zoo"
    shutil.copytree(recipe_files.packaged_folder(), package / "hyperparams")
    monkeypatch.setattr(recipe_files, "__file__", str(package / "settings" / "recipe_files.py"))
    assert recipe_files.packaged_folder() == package / "hyperparams"
    assert resolve(algo="laptop").recipe_path.parent == package / "hyperparams"


def test_what_editors_leave_beside_recipes_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hyperparams").mkdir()
    (tmp_path / "hyperparams" / ".#mine.yml").symlink_to("ann@laptop.123")
    (tmp_path / "hyperparams" / "._mine.yml").write_bytes(b"\0\5\x16\7")
    (tmp_path / "hyperparams" / "folder.yml").mkdir()
    (tmp_path / "hyperparams" / "mine.yml").write_bytes("# größer\n".encode("latin-1"))
    found = recipe_files.available_recipes()
    assert set(found) == {*ALGOS, "mine"}
    assert recipe_files.describe_recipe(found["mine"]).startswith("gr")


def test_settings_that_contradict_each_other_name_both_sources():
    message = error_of(resolve, overrides={"batch_size": 200_000}, flags={"batch_size": "--set"})
    assert "batch_size must be at most buffer_size, got 200,000 of 100,000" in message
    assert re.search(r"batch_size: --set; buffer_size: packaged dqn.yml, line \d+", message)


@pytest.mark.parametrize("steps", [1, 50, 500, 20_000])
@pytest.mark.parametrize("algo", sorted(recipe_files.available_recipes()))
def test_a_run_too_short_for_its_recipe_learns_explores_and_is_measured(algo, steps):
    usual = resolve(algo=algo).config
    resolved = resolve(algo=algo, overrides={"n_timesteps": steps}, may_shorten=True)
    config = resolved.config
    if usual.learning_starts < steps or usual.algorithm == "parallel":
        assert config == usual.model_copy(update={"n_timesteps": steps})
        return
    assert config.learning_starts <= steps // 2
    assert 0 < config.target_update_interval <= max(1, steps // 10)
    assert config.eval_freq == min(steps, usual.eval_freq)
    assert 0 < config.log_interval <= max(1, steps // 20)
    if usual.exploration_fraction and steps >= 50:
        assert config.exploration_fraction * steps > config.learning_starts
    scaled = {key for key, value in usual if getattr(config, key) != value} - {"n_timesteps"}
    [note] = [note for note in resolved.notes if note.startswith("a short run")]
    for key in scaled:
        assert f"{key} {getattr(config, key):,} instead of {getattr(usual, key):,}" in note
        assert resolved.sources[key].startswith(f"for {steps:,} steps; ")
    if steps > 2 * config.batch_size:
        assert resolved.warnings == ()


def test_a_short_run_keeps_what_was_asked_for():
    asked = {"n_timesteps": 500, "target_update_interval": 300, "eval_freq": 0}
    resolved = resolve(overrides=asked, may_shorten=True)
    assert resolved.config.learning_starts == 32
    assert resolved.config.target_update_interval == 300
    assert resolved.config.eval_freq == 0
    message = error_of(resolve, overrides=asked | {"learning_starts": 500}, may_shorten=True)
    assert "learning_starts must be below n_timesteps" in message


def test_what_stands_beside_the_length_in_a_file_is_asked_for_and_what_it_lies_over_is_not():
    conf = written("atari:\n  n_timesteps: 500\n  learning_starts: 700\n")
    assert "learning_starts must be below" in error_of(resolve, conf_file=conf, may_shorten=True)
    conf = written("atari:\n  n_timesteps: 10_000\n  learning_starts: 1000\n  log_interval: 50\n")
    config = resolve(conf_file=conf, overrides={"n_timesteps": 800}, may_shorten=True).config
    assert (config.learning_starts, config.log_interval) == (80, 40)


def test_a_short_run_from_weights_keeps_the_proportions_of_their_run():
    run = resolve(env="Pong", algo="laptop").config  # 10,000 of 840,000 steps are random play
    source = StartedFrom("logs/laptop/Pong_1", env="Pong", algo="laptop", config=run)
    resolved = resolve(started_from=source, overrides={"n_timesteps": 5_000}, may_shorten=True)
    assert resolved.config.learning_starts == 60
    assert "a short run of settings for 840,000 steps" in " ".join(resolved.notes)


def test_the_settings_of_a_run_need_no_recipe_but_a_slip_in_a_name_is_one(tmp_path):
    run = resolve(algo="laptop").config.model_copy(update={"algo": "greedy", "seed": 4})
    conf = tmp_path / "config.yml"
    conf.write_text(dump_config(run))
    resolved = resolve(conf_file=conf)
    assert resolved.config == run
    assert f"settings: {conf}" in resolved.notes
    lines = conf.read_text().splitlines()
    conf.write_text("\n".join(line for line in lines if not line.startswith("gamma:")))
    assert "unknown algorithm 'greedy'" in error_of(resolve, conf_file=conf)


def test_a_run_too_short_for_its_exploration_is_warned_about():
    assert resolve().warnings == ()
    [warning] = resolve(overrides={"n_timesteps": 300_000}).warnings
    assert "epsilon reaches 0.01 at step 30,000" in warning


def test_env_and_algo_come_from_the_command_line_else_from_the_file():
    conf = written("atari:\n  env: Pong\n  algo: laptop\n")
    from_file = resolve(conf_file=conf)
    assert (from_file.config.env, from_file.config.algo) == ("Pong", "laptop")
    assert from_file.config.n_envs == 8
    given = resolve(env="breakout", algo="double-dqn", conf_file=conf)
    assert (given.config.env, given.config.algo) == ("Breakout", "double-dqn")
    neither = resolve()
    assert (neither.config.env, neither.config.algo) == ("SpaceInvaders", "dqn")


def test_env_and_algo_are_refused_where_they_come_too_late():
    conf = written("atari: {gamma: 0.5}\nPong:\n  algo: laptop\n")
    assert error_of(resolve, env="Pong", conf_file=conf) == (
        "my.yml, line 3: algo cannot be set here; --algo sets it"
    )
    written("atari: {env: Pong}\n", "hyperparams/other.yml")
    assert "--env sets it" in error_of(resolve, algo="other")
    message = error_of(resolve, overrides={"env": "Pong"}, flags={"env": "--set env"})
    assert message == "--set env: env cannot be set here; --env sets it"


# --- Round trips -------------------------------------------------------------------------------


def test_printed_settings_give_the_same_settings_again():
    first = with_settings(
        "crop: [1, 2, 3, 4]\nlearning_rate: lin_3e-4\noptimizer_eps: 1.5e-9\nseed: 7",
        env="ALE/MsPacman-v5",
        algo="double-dqn",
        overrides={"n_timesteps": 3e6, "eval_epsilon": 0.05},
        flags={"n_timesteps": "--n-timesteps"},
    )
    printed = format_config(first)
    again = resolve(conf_file=written(printed, "printed.yml"))
    assert again.config == first.config
    assert first.config.protocol == "machado"


def test_printed_settings_say_where_each_value_came_from():
    printed = format_config(
        resolve(env="Pong", overrides={"gamma": 0.5}, flags={"gamma": "--set gamma"})
    )
    assert re.search(r"^  gamma: 0.5 +# --set gamma$", printed, re.MULTILINE)
    assert re.search(r"^  env: Pong +# --env$", printed, re.MULTILINE)
    assert re.search(r"^  batch_size: 32 +# packaged dqn.yml, line \d+$", printed, re.MULTILINE)
    assert re.search(r"^  algo: dqn +# built-in default$", printed, re.MULTILINE)
    assert len(re.findall(r"^  \w+: ", printed, re.MULTILINE)) == len(Config.model_fields)


def test_the_config_of_a_run_is_read_back_exactly_and_serves_as_a_conf_file():
    config = resolve(env="Pong", algo="laptop", overrides={"learning_rate": "lin_2e-4"}).config
    path = written(dump_config(config), "config.yml")
    assert load_config(path) == config
    assert resolve(conf_file=path).config == config
    assert resolve(env="Breakout", conf_file=path).config.env == "Breakout"


def test_small_numbers_are_written_so_that_yaml_1_1_reads_them_too():
    import yaml

    config = Config(optimizer_eps=1e-8, learning_rate=1.5e-5)
    plain = yaml.safe_load(dump_config(config))
    assert (plain["optimizer_eps"], plain["learning_rate"]) == (1e-8, 1.5e-5)


def test_the_config_of_a_run_has_no_unknown_key_and_a_missing_one_means_the_default():
    text = dump_config(Config(gamma=0.5, n_steps=3))
    without = text.replace("gamma: 0.5\n", "")
    assert load_config(written(without, "config.yml")) == Config(n_steps=3)
    extra = text + "gama: 0.99\n"
    assert "unknown key 'gama'; did you mean gamma?" in error_of(
        load_config, written(extra, "config.yml")
    )
    twice = text + "gamma: 0.98\n"
    assert "gamma is given twice" in error_of(load_config, written(twice, "config.yml"))
    contradictory = text.replace("learning_starts: 100000", "learning_starts: 10000000")
    assert "must be below n_timesteps" in error_of(
        load_config, written(contradictory, "config.yml")
    )


# --- YAML --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1e7", 1e7),
        ("!!float 1e7", 1e7),
        ("1_000_000", 1_000_000),
        ("010", 10),
        ("-3", -3),
        ("true", True),
        ("False", False),
        ("on", "on"),
        ("no", "no"),
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("null", None),
        ("~", None),
        ("'1'", "1"),
        ("lin_1e-4", "lin_1e-4"),
        ("[0, 1e1, a]", [0, 10.0, "a"]),
    ],
)
def test_scalars_are_read_as_in_yaml_1_2(text, value):
    read = parse_value(text)
    assert read == value
    assert type(read) is type(value)


def test_a_whole_number_in_scientific_notation_is_a_whole_number():
    config = with_settings("n_timesteps: 1e7\nbuffer_size: !!float 2e5").config
    assert (config.n_timesteps, config.buffer_size) == (10_000_000, 200_000)
    assert type(config.n_timesteps) is int


def test_anchors_aliases_and_merge_keys_work():
    conf = written(
        "atari: &base\n  gamma: 0.5\n  n_steps: 2\nPong:\n  <<: *base\n  n_steps: 3\n"
        "Breakout: *base\n"
    )
    pong, breakout = resolve(env="Pong", conf_file=conf), resolve(env="Breakout", conf_file=conf)
    assert (pong.config.gamma, pong.config.n_steps, breakout.config.n_steps) == (0.5, 3, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "atari:\n  gamma: 0.5\n  n_envs: 2\n  gamma: 0.6\n",
            "line 4: gamma is given twice, first in line 2",
        ),
        ("atari: {gamma: 0.5}\natari: {gamma: 0.6}\n", "line 2: atari is given twice"),
        ("atari:\n  gamma: 0.5\n bad: [", "my.yml, line 3: "),
        ("atari:\n\tgamma: 0.5\n", "my.yml, line 2: found character '\\t'"),
        ("atari:\n  gamma: a: b\n", "my.yml, line 2: mapping values are not allowed here"),
        ("- gamma\n", "my.yml, line 1: expected 'key: value' lines, got a list"),
        ("just text", "my.yml, line 1: expected 'key: value' lines, got 'just text'"),
        ("", "my.yml: expected a block 'atari:' or 'SpaceInvaders:', got an empty file"),
        ("atari: 3\n", "line 1: atari stands outside of a block"),
        ("atari:\n  gamma: 0.5\nn_envs: 2\n", "my.yml, line 3: n_envs stands outside of a block"),
        ("atari:\n  1: 2\n", "my.yml, line 2: expected a key that is text, got '1'"),
        ("a: 1\n---\nb: 2\n", "expected a single document in the stream, but found another"),
        ("atari: &a\n  gamma: [*a]\n", "an alias stands for itself"),
        ("atari:\n  gamma: !!float abc\n", "my.yml, line 2: 'abc' is no float"),
        ("atari:\n  gamma: !!python/name:os.system x\n", "line 2: the tag !!python/name:os.system"),
        ("atari:\n  gamma: .nan\n", "my.yml, line 2: gamma must be a number from 0 to 1, got nan"),
        ("atari:\n\n  gamma: 2\n", "my.yml, line 3: gamma must be a number from 0 to 1, got 2"),
        ("atari:\n  dueling: yes\n", "my.yml, line 2: dueling must be true or false, got 'yes'"),
        ("atari:\n  batch_sise: 8\n", "line 2: unknown key 'batch_sise'; did you mean batch_size?"),
        ("SpaceInvader: {gamma: 0.5}\n", "did you mean SpaceInvaders?"),
        ("atary: {gamma: 0.5}\n", "my.yml, line 1: unknown block 'atary'; did you mean atari?"),
    ],
)
def test_a_faulty_file_is_an_error_with_file_line_and_key(text, message):
    assert message in error_of(resolve, conf_file=written(text))


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        (
            "BZ-Tetris-v0: {gamma: 0.6}",
            "line 2: unknown block 'BZ-Tetris-v0'; did you mean Tetris",
        ),
        ("SpaceInvader: {gamma: 0.6}", "line 2: unknown block 'SpaceInvader'; did you mean Space"),
        ("_atari: &a {gamma: 0.6}", None),
        ("Pong: {gamma: 0.6}\npong: {gamma: 0.7}", None),
        ("Pong: {env: Pong}", None),
    ],
)
def test_a_block_that_is_not_in_question_does_not_refuse_a_file(text, warned):
    resolved = resolve(env="Breakout", conf_file=written(f"atari: {{gamma: 0.5}}\n{text}\n"))
    assert resolved.config.gamma == 0.5
    assert [(warned or "") in line for line in resolved.warnings] == [True] * bool(warned)


def test_of_two_blocks_for_a_game_the_one_spelled_as_asked_is_read():
    conf = written("PongNoFrameskip-v4: {gamma: 0.5}\nALE/Pong-v5: {gamma: 0.6}\n")
    for env, gamma, other in (
        ("ALE/Pong-v5", 0.6, "line 1: PongNoFrameskip-v4 is not read"),
        ("PongNoFrameskip-v4", 0.5, "line 2: ALE/Pong-v5 is not read"),
    ):
        resolved = resolve(env=env, conf_file=conf)
        assert resolved.config.gamma == gamma
        (line,) = resolved.warnings
        assert other in line
    error = error_of(resolve, env="Pong", conf_file=conf)
    assert "my.yml, line 2: ALE/Pong-v5 is the second block for Pong: keep one" in error


def test_a_file_that_cannot_be_read_is_an_error_that_says_why(tmp_path):
    assert error_of(resolve, conf_file=Path("no.yml")) == "no file no.yml: expected a YAML file"
    Path("bytes.yml").write_bytes(b"\xff\xfe\x00")
    assert "is not a text file" in error_of(resolve, conf_file=Path("bytes.yml"))
    assert "cannot be read" in error_of(resolve, conf_file=tmp_path)
    assert "a Python file would have to be run" in error_of(resolve, conf_file=Path("conf.py"))


def test_a_file_nested_absurdly_deep_is_an_error_and_no_crash():
    conf = written("atari: " + "[" * 5000)
    assert "nested too deeply" in error_of(resolve, conf_file=conf)


def test_every_value_knows_its_line():
    entries = read_entries(written("\natari:\n  gamma: 1\n\n  n_envs: 2\n"), name="here.yml")
    assert entries["atari"].origin == "here.yml, line 2"
    assert entries["atari"].value["n_envs"] == Entry(2, "here.yml, line 5")


# --- RL-Zoo's files ----------------------------------------------------------------------------


def test_rl_zoos_own_dqn_file_works_unchanged_and_gives_our_dqn():
    resolved = resolve(env="SpaceInvadersNoFrameskip-v4", conf_file=written(RL_ZOO_DQN, "dqn.yml"))
    assert resolved.config == resolve(env="SpaceInvadersNoFrameskip-v4").config
    assert resolved.sources["learning_rate"] == "dqn.yml, line 9"
    [note] = [note for note in resolved.notes if "no effect" in note]
    for expected in ("policy (", "optimize_memory_usage (", "env_wrapper (", "CartPole-v1"):
        assert expected in note
    assert note.endswith("CartPole-v1, MountainCar-v0, LunarLander-v3, Acrobot-v1, default")


def test_what_rl_zoo_keeps_of_a_training_gives_its_settings_and_its_game(tmp_path, monkeypatch):
    folder = tmp_path / "logs" / "qrdqn" / "PongNoFrameskip-v4_1" / "PongNoFrameskip-v4"
    folder.mkdir(parents=True)
    wrapper = ["stable_baselines3.common.atari_wrappers.AtariWrapper"]
    settings = {"policy": "CnnPolicy", "env_wrapper": wrapper, "frame_stack": 4, "n_timesteps": 1e7}
    settings |= {"normalize": False, "policy_kwargs": {"n_quantiles": 50}}
    (folder / "config.yml").write_text(yaml.dump(OrderedDict(settings)))
    by_folder = resolve(conf_file=folder / "config.yml").config
    assert (by_folder.env, by_folder.algo, by_folder.protocol) == ("Pong", "dqn", "zoo")
    said = {"algo": "qrdqn", "env": "BreakoutNoFrameskip-v4", "seed": 3, "wandb_tags": []}
    said["env_kwargs"] = OrderedDict(repeat_action_probability=0.1)
    (folder / "args.yml").write_text(yaml.dump(OrderedDict(said)))
    config = resolve(conf_file=folder / "config.yml").config
    assert (config.env, config.algo, config.loss) == ("Breakout", "qrdqn", "qrdqn")
    assert (config.num_quantiles, config.action_repeat_probability) == (50, 0.1)
    assert resolve(env="Pong", conf_file=folder / "config.yml").config.env == "Pong"
    message = error_of(resolve, conf_file=folder / "args.yml")
    assert message.endswith(
        f"-c {folder}/config.yml takes the settings that it used, and the game with them"
    )
    message = error_of(resolve, conf_file=folder.parent)
    assert message.endswith(f"is a folder: its settings are in {folder}/config.yml")
    monkeypatch.chdir(folder)
    assert error_of(resolve, conf_file=Path(".")).endswith("its settings are in config.yml")


def test_a_file_beside_somebody_elses_args_does_not_read_them():
    Path("args.yml").write_text("env: [not, for, us]")
    conf = written("policy: CnnPolicy\ngamma: 0.9\n", "mine.yml")
    assert resolve(conf_file=conf).config.gamma == 0.9


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("max_grad_norm: 7\nexploration_initial_eps: 0.9", {"max_grad_norm": 7.0}),
        ("learning_rate: lin_3e-4", {"learning_rate": "lin_3e-4"}),
        ("train_freq: [5, 'step']", {"train_freq": 5}),
        ("tau: 1.0", {}),
        ("normalize: false", {}),
        ("replay_buffer_kwargs: dict(handle_timeout_termination=False)", {}),
        ("policy_kwargs: dict(optimizer_kwargs=dict(eps=1.5e-4))", {"optimizer_eps": 1.5e-4}),
        ("env_kwargs: {repeat_action_probability: 0.2}", {"action_repeat_probability": 0.2}),
        ("env_kwargs: {max_num_frames_per_episode: 500}", {"max_frames": 500}),
        ("env_kwargs: dict(frameskip=1, full_action_space=False)", {}),
        ("callback: null", {}),
        (
            "env_wrapper: {stable_baselines3.common.atari_wrappers.AtariWrapper: {noop_max: 7, "
            "frame_skip: 4, screen_size: 84, terminal_on_life_loss: false, clip_reward: false, "
            "action_repeat_probability: 0.3}}",
            {
                "noop_max": 7,
                "terminal_on_life_loss": False,
                "clip_reward": False,
                "action_repeat_probability": 0.3,
            },
        ),
        (
            "env_wrapper: [stable_baselines3.common.atari_wrappers.AtariWrapper: "
            '"dict(noop_max=8)"]',
            {"noop_max": 8},
        ),
    ],
)
def test_keys_of_rl_zoo_that_exist_here_are_mapped(lines, expected):
    config = with_settings(lines).config
    assert {key: getattr(config, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tau: 0.005", "my.yml, line 2: tau: the target network is copied whole"),
        ("tau: true", "tau: the target network is copied whole"),
        ("train_freq: [1, episode]", "train_freq: train_freq counts steps here, got the unit"),
        ("gradient_steps: -1", "gradient_steps: -1 (as many updates as steps) does not exist here"),
        ("gradient_steps: 0", "gradient_steps must be a whole number of at least 1, got 0"),
        ("normalize: true", "normalize: running normalization does not exist here"),
        ("normalize: dict(norm_obs=True)", "normalize: running normalization does not exist here"),
        ("policy: MlpPolicy", "policy: network sets the torso here"),
        ("policy_kwargs: dict(net_arch=[64])", "policy_kwargs: only n_quantiles and the eps"),
        ("policy_kwargs: dict(a=__import__('os'))", "nothing is evaluated here"),
        ("replay_buffer_kwargs: {n_sampled_goal: 4}", "only handle_timeout_termination is known"),
        ("replay_buffer_class: HerReplayBuffer", "replay_buffer_class: there is one replay memory"),
        ("vec_env_wrapper: x.VecThing", "wrappers of vectorized environments do not exist here"),
        ("callback: x.Callback", "callback: callbacks do not exist here"),
        ("env_wrapper: gymnasium.wrappers.RescaleAction", "AtariWrapper is known, got 'gymnasium."),
        ("env_kwargs: {full_action_space: true}", "full_action_space cannot be set"),
        (
            "env_wrapper: {stable_baselines3.common.atari_wrappers.AtariWrapper: {frame_skip: 2}}",
            "frame_skip is always 4 here, got 2",
        ),
        (
            "env_wrapper: {stable_baselines3.common.atari_wrappers.AtariWrapper: "
            "{screen_size: 42}}",
            "screen_size is always 84 here, got 42",
        ),
        (
            "env_wrapper: {stable_baselines3.common.atari_wrappers.AtariWrapper: {noop: 1}}",
            "AtariWrapper takes no argument 'noop'",
        ),
    ],
)
def test_keys_of_rl_zoo_that_do_not_exist_here_are_refused_with_the_reason(line, message):
    assert message in error_of(with_settings, line)


def test_rl_zoos_train_freq_is_turned_from_calls_into_steps_and_the_note_says_so():
    resolved = with_settings("policy: CnnPolicy\nn_envs: 8\ntrain_freq: 4")
    assert resolved.config.train_freq == 32
    assert any(
        "my.yml, line 4: train_freq 4 counts calls of 8 environments in RL-Zoo" in note
        and "train_freq 32" in note
        for note in resolved.notes
    )
    assert with_settings("policy: CnnPolicy\nn_envs: 8").config.train_freq == 32


def test_train_freq_stays_where_it_counts_steps_already():
    assert with_settings("n_envs: 8\ntrain_freq: 4").config.train_freq == 4
    assert with_settings("policy: CnnPolicy\ntrain_freq: 4").config.train_freq == 4
    flags = with_settings("policy: CnnPolicy\nn_envs: 8", overrides={"train_freq": 4})
    assert flags.config.train_freq == 4


@pytest.mark.parametrize("lines", ["n_envs: 8\ntrain_freq: 4", "n_envs: 8", "train_freq: 4"])
@pytest.mark.parametrize(("n_envs", "train_freq"), [(1, 4), (2, 8), (8, 32)])
def test_the_last_word_on_n_envs_turns_rl_zoos_calls_into_steps(lines, n_envs, train_freq):
    resolved = with_settings(f"policy: CnnPolicy\n{lines}", overrides={"n_envs": n_envs})
    assert (resolved.config.n_envs, resolved.config.train_freq) == (n_envs, train_freq)
    conversions = [note for note in resolved.notes if "counts calls of" in note]
    assert len(conversions) == (n_envs > 1)
    assert all(f"of {n_envs} environments" in note for note in conversions)


def test_a_later_files_train_freq_counts_steps_and_its_n_envs_converts_rl_zoos():
    written("atari:\n  policy: CnnPolicy\n  n_envs: 8\n  train_freq: 4\n", "hyperparams/zoo.yml")
    assert resolve(algo="zoo").config.train_freq == 32
    assert with_settings("n_envs: 2", algo="zoo").config.train_freq == 8
    assert with_settings("train_freq: 5", algo="zoo").config.train_freq == 5


RL_ZOO_QRDQN = """
atari:
  env_wrapper:
    - stable_baselines3.common.atari_wrappers.AtariWrapper
  frame_stack: 4
  policy: 'CnnPolicy'
  n_timesteps: !!float 1e7
  optimize_memory_usage: True
"""


@pytest.mark.parametrize("where", ["qrdqn.yml", "hyperparams/qrdqn.yml"])
def test_what_rl_zoos_qrdqn_file_leaves_out_is_sb3_contribs_default(where):
    conf = None if "/" in where else written(RL_ZOO_QRDQN, where)
    conf or written(RL_ZOO_QRDQN, where)
    resolved = resolve(algo="qrdqn", env="Pong", conf_file=conf)
    expected = {
        "protocol": "zoo", "n_envs": 1, "frame_stack": 4, "n_timesteps": 10_000_000,
        "learning_starts": 100, "train_freq": 4, "target_update_interval": 10_000,
        "buffer_size": 1_000_000, "batch_size": 32, "replay": "uniform", "n_steps": 1,
        "loss": "qrdqn", "num_quantiles": 200, "learning_rate": 5e-5, "optimizer_eps": 3.125e-4,
        "max_grad_norm": None, "exploration_fraction": 0.005, "exploration_final_eps": 0.01,
    }  # fmt: skip
    assert {key: getattr(resolved.config, key) for key in expected} == expected
    assert resolved.sources["n_steps"] == f"{where} leaves it out, default of sb3-contrib"
    notes = [note for note in resolved.notes if "what it leaves out" in note]
    assert notes == [
        "qrdqn.yml: what it leaves out is sb3-contrib's default, not packaged qrdqn.yml's value: "
        "protocol zoo (not machado), learning_starts 100 (not 20000), target_update_interval 10000 "
        "(not 8000), replay uniform (not prioritized), n_steps 1 (not 3)"
    ] * (conf is not None)


def test_what_a_file_for_rl_zoos_dqn_leaves_out_is_stable_baselines3s_default():
    config = with_settings("policy: CnnPolicy\nframe_stack: 4\ngamma: 0.9").config
    ours = resolve(overrides={"buffer_size": 1_000_000, "gamma": 0.9}).config
    theirs = {"learning_starts": 100, "target_update_interval": 10_000}
    assert config == ours.model_copy(update=theirs | {"exploration_final_eps": 0.05})
    assert with_settings("policy: CnnPolicy").config.frame_stack == 1  # RL-Zoo stacks none


def test_a_recipe_that_rl_zoo_does_not_have_keeps_its_values_and_a_line_lists_them():
    lines = "policy: CnnPolicy\nframe_stack: 4\nn_steps: 5\nlearning_starts: 7"
    resolved = with_settings(lines, algo="per-dqn", overrides={"gamma": 0.9})
    recipe = resolve(algo="per-dqn", overrides={"gamma": 0.9}).config
    assert resolved.config == recipe.model_copy(update={"n_steps": 5, "learning_starts": 7})
    [note] = [note for note in resolved.notes if "what it leaves out" in note]
    assert note.startswith(
        "my.yml: what it leaves out is packaged per-dqn.yml's value, not Stable-Baselines3's "
        "default: "
    )
    listed = set(re.findall(r"(\w+) \S+ \(not", note))
    expected = {"replay", "bootstrap", "buffer_size", "learning_rate", "target_update_interval"}
    assert expected <= listed
    assert not listed & {"n_steps", "learning_starts", "gamma", "frame_stack", "batch_size"}


def test_sb3_contribs_epsilon_of_the_optimizer_follows_the_last_word_on_the_batch():
    conf = written(RL_ZOO_QRDQN, "qrdqn.yml")
    overrides = {"batch_size": 64, "n_envs": 8}
    config = resolve(algo="qrdqn", conf_file=conf, overrides=overrides).config
    assert (config.optimizer_eps, config.train_freq) == (0.01 / 64, 32)
    overrides["optimizer_eps"] = 1e-3
    config = resolve(algo="qrdqn", conf_file=conf, overrides=overrides).config
    assert config.optimizer_eps == 1e-3


def test_dict_text_is_read_as_literals():
    assert parse_dict_text("dict(a=1, b=dict(c=[2, 'x'], d=None), e=-3.5)") == {
        "a": 1,
        "b": {"c": [2, "x"], "d": None},
        "e": -3.5,
    }
    assert parse_dict_text("{'a': (1, 2)}") == {"a": (1, 2)}


@pytest.mark.parametrize(
    "text",
    [
        "dict(a=open('x'))",
        "dict(**{'a': 1})",
        "dict([('a', 1)])",
        "list(a=1)",
        "dict(a=b)",
        "a.dict(a=1)",
        "dict(a=1",
        "1",
        "dict(a=" + "(" * 500,
        "",
    ],
)
def test_dict_text_that_is_no_literal_is_refused(text):
    assert "nothing is evaluated here" in error_of(parse_dict_text, text)


# --- The packaged recipes ----------------------------------------------------------------------


def recipe_text(name):
    return (recipe_files.packaged_folder() / f"{name}.yml").read_text()


ALGOS = sorted(recipe_files.available_recipes())
LAPTOP = (
    "laptop",
    "laptop-qrdqn",
    "pqn-laptop",
)  # set what they change, and leave the rest to the defaults
COMPLETE = [name for name in ALGOS if name not in LAPTOP]


def blocks_of(name):
    entries = read_entries(recipe_files.packaged_folder() / f"{name}.yml", name=name)
    return {game: entry.value for game, entry in entries.items()}


def settings_of(name):
    return blocks_of(name)["atari"]


def test_the_recipes_are_those_that_were_promised():
    assert set(ALGOS) == {
        "dqn", "double-dqn", "dueling-dqn", "per-dqn", "dqn-adam", "c51", "qrdqn", "iqn",
        "rainbow", "rainbow-lite", "munchausen-dqn", "munchausen-iqn", "iqn-impala", "btr",
        "laptop", "laptop-qrdqn", "gpu", "pqn", "pqn-laptop",
    }  # fmt: skip


def test_without_a_name_the_recipe_suits_the_machine(tmp_path):
    file = tmp_path / "dqn.yml"
    file.write_text("atari: {gamma: 0.98}\n")
    for device, algo in (("cpu", "laptop"), ("cuda", "gpu"), (None, "dqn")):
        assert resolve(device=device).config.algo == algo
        assert resolve(device=device, conf_file=file).config.algo == "dqn"
        assert resolve(device=device, algo="c51").config.algo == "c51"
    note, *_ = resolve(device="cuda").notes
    assert note.startswith("the recipe gpu suits a machine with a GPU; --algo takes another")


def test_a_gpu_gets_iqn_impala_by_the_rules_of_the_course():
    ours, published = (resolve(algo=algo).config.model_dump() for algo in ("gpu", "iqn-impala"))
    assert ours == published | {"algo": "gpu", "protocol": "zoo"}


@pytest.mark.parametrize("algo", ALGOS)
def test_every_recipe_loads_without_warnings_and_survives_writing_and_reading(algo, tmp_path):
    resolved = resolve(algo=algo, env="Pong")
    assert resolved.warnings == ()
    check(resolved.config)
    file = tmp_path / "config.yml"
    file.write_text(dump_config(resolved.config))
    assert load_config(file) == resolved.config


@pytest.mark.parametrize("algo", COMPLETE)
def test_every_recipe_sets_every_key_that_has_an_effect_in_it_and_no_other(algo):
    expected = set(Config.model_fields) - {"env", "algo"}
    expected -= set(without_effect(resolve(algo=algo).config))
    left_off = {  # in most recipes
        "algorithm", "channel_norm", "he_init", "averaged_weights", "exploration_spread",
        "exploration_zeta", "exploration_zeta_share", "train_freq_later", "mean_expansion",
    }  # fmt: skip
    assert set(settings_of(algo)) | (left_off & expected) == expected


@pytest.mark.parametrize("algo", ALGOS)
def test_every_recipe_introduces_itself_and_comments_every_key(algo):
    text = recipe_text(algo)
    introduction = recipe_files.describe_recipe(recipe_files.packaged_folder() / f"{algo}.yml")
    assert 20 < len(introduction) <= 95
    header = text.partition("\natari:")[0]
    assert "steps" in header
    settings = [line for line in text.splitlines() if re.match(r"  \w+:", line)]
    assert len(settings) == sum(len(block) for block in blocks_of(algo).values())
    assert algo in LAPTOP or all(" # " in line for line in settings)


def test_double_dqn_is_dqn_with_another_bootstrap_and_no_other_change():
    double = resolve(algo="double-dqn").config
    assert double.bootstrap == "double"
    assert double.model_copy(update={"algo": "dqn", "bootstrap": "greedy"}) == resolve().config


@pytest.mark.parametrize(
    ("algo", "pieces"),
    [
        ("dueling-dqn", {"dueling": True, "bootstrap": "double", "loss": "huber"}),
        ("per-dqn", {"replay": "prioritized", "bootstrap": "double", "priority_exponent": 0.6}),
        ("dqn-adam", {"loss": "squared", "learning_rate": 6.25e-5, "optimizer_eps": 1.5e-4}),
        ("c51", {"loss": "c51", "num_atoms": 51, "v_min": -10.0, "v_max": 10.0, "n_steps": 1}),
        ("qrdqn", {"loss": "qrdqn", "num_quantiles": 200, "n_steps": 3, "replay": "prioritized"}),
        ("iqn", {"loss": "iqn", "num_quantiles": 64, "num_acting_quantiles": 32, "n_steps": 3}),
        (
            "rainbow",
            {"loss": "c51", "bootstrap": "double", "dueling": True, "noisy_sigma": 0.5,
             "replay": "prioritized", "n_steps": 3, "exploration_initial_eps": 0.0},
        ),
        ("rainbow-lite", {"loss": "c51", "n_steps": 3, "replay": "prioritized", "dueling": False}),
        ("munchausen-dqn", {"bootstrap": "soft", "munchausen_temperature": 0.03, "n_steps": 1}),
        ("munchausen-iqn", {"bootstrap": "soft", "loss": "iqn", "munchausen_alpha": 0.9}),
        (
            "iqn-impala",
            {"loss": "iqn", "network": "impala", "network_pool": 6, "batch_size": 256},
        ),
        (
            "btr",
            {"loss": "iqn", "bootstrap": "soft", "network": "impala", "network_width": 2,
             "spectral_norm": True, "dueling": True, "noisy_sigma": 0.5, "replay": "prioritized",
             "n_steps": 3, "gamma": 0.997},
        ),
    ],
)  # fmt: skip
def test_a_recipe_is_made_of_the_pieces_of_its_paper(algo, pieces):
    config = resolve(algo=algo).config
    assert {key: getattr(config, key) for key in pieces} == pieces


@pytest.mark.parametrize("algo", COMPLETE)
def test_the_header_of_a_recipe_says_the_steps_it_is_made_for(algo):
    header = " ".join(recipe_text(algo).partition("\natari:")[0].replace("#", " ").split())
    config = resolve(algo=algo).config
    assert algo in ("dqn", "double-dqn") or f"{config.n_timesteps:,} steps" in header
    assert f"protocol {config.protocol}" in header or config.protocol == "zoo"


def test_a_flag_for_a_part_that_is_not_there_is_refused_and_a_recipe_may_have_it():
    assert (
        "--set num_atoms: num_atoms has no effect here, it belongs to loss c51; set "
        in error_of(resolve, overrides={"num_atoms": 51}, flags={"num_atoms": "--set num_atoms"})
    )
    assert resolve(overrides={"num_atoms": 21, "loss": "c51"}).config.num_atoms == 21
    resolved = resolve(algo="btr", overrides={"network": "nature"})
    [warning] = resolved.warnings
    assert warning == (
        "without effect here: network_width (for network impala), network_pool (for network "
        "impala), spectral_norm (for network impala)"
    )


def test_double_q_of_the_former_zoo_is_a_bootstrap():
    assert with_settings("double_q: true").config.bootstrap == "double"
    assert with_settings("double_q: false", algo="double-dqn").config.bootstrap == "greedy"
    message = error_of(with_settings, "double_q: 1")
    assert message == "my.yml, line 2: double_q: must be true or false, got 1"


def test_the_settings_of_a_run_are_in_our_keys_alone():
    file = written("env: Pong\nalgo: dqn\ndouble_q: true\n", "config.yml")
    assert "config.yml, line 3: unknown key 'double_q'" in error_of(load_config, file)


@pytest.mark.parametrize(("algo", "bootstrap"), [("laptop", "greedy"), ("laptop-qrdqn", "double")])
def test_the_recipes_for_laptops_are_made_of_these_pieces_without_warnings(algo, bootstrap):
    pieces = {"loss": "qrdqn", "num_quantiles": 51, "bootstrap": bootstrap, "network": "small"}
    resolved = resolve(algo=algo, env="Qbert")
    assert resolved.warnings == ()
    assert pieces.items() <= resolved.config.model_dump().items()
    for game in ("SpaceInvaders", "Pong", "Boxing", "Breakout", "Freeway", "Qbert"):
        config = resolve(algo=algo, env=game).config
        assert config.exploration_fraction * config.n_timesteps == pytest.approx(60_000, rel=0.01)


def test_laptop_has_values_of_its_own_for_five_games():
    other = resolve(algo="laptop", env="Qbert").config
    assert (other.layer_norm, other.bootstrap, other.averaged_weights) == (True, "greedy", 0.9995)
    assert (other.exploration_zeta, other.learning_rate) == (0, "lin_4e-4")

    def own(game: str) -> dict[str, object]:
        config = resolve(algo="laptop", env=game).config
        return {
            key: value for key, value in config if value != getattr(other, key) and key != "env"
        }

    assert own("MsPacman") == {}
    assert own("Freeway") == {"exploration_zeta": 2.0, "exploration_zeta_share": 0.25}
    half = {"learning_rate": "lin_2e-4", "bootstrap": "double", "averaged_weights": 0}
    pong = {"n_timesteps": 840_000, "exploration_fraction": 0.071, "gamma": 0.98}
    assert own("Pong") == half | pong
    boxing = {"n_timesteps": 1_000_000, "exploration_fraction": 0.06, "layer_norm": False}
    assert own("Boxing") == half | boxing
    assert own("Breakout") == own("Boxing") | {
        "n_timesteps": 900_000,
        "exploration_fraction": 0.067,
    }
    assert own("SpaceInvaders") == own("Boxing") | {
        "learning_rate": "lin_5e-4",
        "train_freq": 8,
        "batch_size": 16,
        "target_update_interval": 4_000,
        "buffer_size": 500_000,
        "eval_freq": 100_000,
    }
