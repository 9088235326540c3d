import ast
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from support.offers import parser_of

import dqn_zoo
from dqn_zoo.cli import enjoy
from dqn_zoo.cli.arguments import command, parse_duration, parse_setting, parse_whole_number
from dqn_zoo.cli.refused_flags import REFUSED_ENJOY, REFUSED_TRAIN, REFUSED_TUNE
from dqn_zoo.cli.train_arguments import (
    LATEST,
    build_parser,
    overrides_from,
)
from dqn_zoo.cli.train_checks import check_flags, track_to
from dqn_zoo.errors import UserError
from dqn_zoo.runs.trackers import TrackTo
from dqn_zoo.settings.config import Config, accepted_values, build_config
from dqn_zoo.settings.recipes import dump_config, resolve

# Every flag of rl-baselines3-zoo's train and enjoy, as its argument parsers spell them.
RL_ZOO_TRAIN = """
--algo --env -tb --tensorboard-log -i --trained-agent --truncate-last-trajectory -n --n-timesteps
--num-threads --log-interval --eval-freq --optimization-log-path --eval-episodes --n-eval-envs
--save-freq --save-replay-buffer -f --log-folder --seed --vec-env --device --n-trials
--max-total-trials -optimize --optimize-hyperparameters --no-optim-plots --n-jobs --sampler --pruner
--n-startup-trials --n-evaluations --storage --study-name --trial-id --verbose --gym-packages
--env-kwargs --eval-env-kwargs -params --hyperparams -conf --conf-file -uuid --uuid --track
--wandb-project-name --wandb-entity --wandb-group -P --progress -tags --wandb-tags
"""
RL_ZOO_ENJOY = """
--env -f --folder --algo -n --n-timesteps --num-threads --n-envs --exp-id --verbose --no-render
--deterministic --device --load-best --load-checkpoint --load-last-checkpoint --stochastic
--norm-reward --seed --reward-log --gym-packages --env-kwargs --custom-objects -P --progress
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Work in an empty folder, so that the packaged recipes are the ones that are read."""
    monkeypatch.chdir(tmp_path)


def parse(*arguments):
    return build_parser().parse_args(arguments)


def error_of(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


# --- RL-Zoo's flags ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "flags", "refused"),
    [
        (build_parser, RL_ZOO_TRAIN, REFUSED_TRAIN),
        (enjoy.build_parser, RL_ZOO_ENJOY, REFUSED_ENJOY),
    ],
)
def test_every_flag_of_rl_zoo_is_honoured_or_refused_with_its_substitute(build, flags, refused):
    parser = build()
    known = {flag for action in parser._actions for flag in action.option_strings}
    for flag in flags.split():
        assert flag in known
        if flag in refused:
            for given in ([flag], [flag, "1"], [flag, "a:1", "b:2"]):
                assert error_of(parser.parse_args, given) == f"{flag}: {refused[flag]}"
    assert refused.keys() - flags.split() <= {"--optimize", "--yaml-file"}


@pytest.mark.parametrize(("command", "flags"), [("train", RL_ZOO_TRAIN), ("enjoy", RL_ZOO_ENJOY)])
def test_the_page_for_users_of_rl_zoo_lists_every_flag(command, flags):
    page = (Path(__file__).parents[2] / "docs" / "from-rl-zoo.md").read_text()
    [section] = re.findall(rf"^## `{command}`$(.*?)^## ", page, re.DOTALL | re.MULTILINE)
    rows = re.findall(r"^\| (.*?) \| (.*?) \|$", section, re.MULTILINE)
    listed = {flag for row, _ in rows for flag in re.findall(r"`(--?[\w-]+)`", row)}
    assert listed - {"-c", "--yaml-file"} == set(flags.split())
    assert all(answer.strip() for _, answer in rows)


@pytest.mark.parametrize(
    ("build", "arguments", "expected"),
    [
        (build_parser, ["--log-interval", "-2"], "--log-interval: rows are always written"),
        (build_parser, ["--device", "cuda:1"], "--device: one GPU is used.*CUDA_VISIBLE_DEVICES=1"),
        (enjoy.build_parser, ["--device", "cuda:1"], "--device: .*and say --device cuda"),
        (enjoy.build_parser, ["--exp-id", "-1"], "--exp-id: .*--run RUN names any"),
    ],
)
def test_values_of_rl_zoo_that_are_not_ours_are_answered(build, arguments, expected):
    assert re.match(expected, error_of(build().parse_args, arguments))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--wandb-project-name", "x"], "--wandb-project-name is of a tracked run: add --track"),
        (["-tags", "a", "b"], "--wandb-tags is of a tracked run: add --track"),
        (["--track", "trackio", "--wandb-entity", "x"], "--wandb-entity: Trackio has no entities"),
        (["--track", "comet"], "--track: invalid choice: 'comet'"),
    ],
)
def test_flags_of_tracking_that_mean_nothing_are_refused(arguments, expected):
    def read():
        return track_to(parse(*arguments))

    assert error_of(read).startswith(expected)


def test_a_bare_track_is_wandb_with_the_names_of_rl_zoo(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", ModuleType("wandb"))
    assert track_to(parse()) is None
    assert track_to(parse("--track")) == TrackTo("wandb", project="dqn-zoo")
    given = ["--wandb-project-name", "p", "--wandb-entity", "e", "--wandb-group", "g"]
    expected = TrackTo("wandb", project="p", entity="e", group="g", tags=["s", "t"])
    for tags in ("-tags", "--wandb-tags"):
        assert track_to(parse("--track", *given, tags, "s", "t")) == expected
    assert error_of(check_flags, parse("--resume", "x", "--track")).startswith("--track can")


def test_the_first_gpu_may_be_called_by_its_number():
    assert parse("--device", "cuda:0").device == "cuda"
    assert enjoy.build_parser().parse_args(["--device", "cuda:0"]).device == "cuda"


def test_arguments_of_the_emulator_are_the_settings_they_mean():
    overrides = overrides_from(
        parse("--env-kwargs", "repeat_action_probability:0.1", "frameskip=1")
    )
    config = resolve(overrides=overrides.values, flags=overrides.flags).config
    assert config.action_repeat_probability == 0.1
    overrides = overrides_from(parse("--env-kwargs", "frameskip:2"))
    message = error_of(partial(resolve, overrides=overrides.values, flags=overrides.flags))
    assert message.startswith("--env-kwargs: frameskip cannot be set: a step is 4 frames")


def test_what_dqn_train_sends_to_dqn_tune_is_answered_there():
    parser = parser_of("dqn-tune")
    known = {flag for action in parser._actions for flag in action.option_strings}
    sent = {flag for flag, text in REFUSED_TRAIN.items() if "dqn-tune" in text} - {"--optimize"}
    assert sent <= known
    for flag, text in REFUSED_TUNE.items():
        assert error_of(parser.parse_args, [flag, "1"]) == f"{flag}: {text}"


def test_what_is_refused_stays_out_of_the_help():
    shown = build_parser().format_help()
    assert not [flag for flag in REFUSED_TRAIN if re.search(rf"(^|\s){flag}\b", shown)]


def test_the_substitutes_that_are_named_are_real():
    parser = build_parser()
    known = {flag for action in parser._actions for flag in action.option_strings}
    for sentence in REFUSED_TRAIN.values():
        assert set(re.findall(r"(?<!\w)--[\w-]+", sentence)) <= known - REFUSED_TRAIN.keys()
        for setting in re.findall(r"--set (\w+=\S+?)(?:,|$)", sentence):
            build_config(dict([parse_setting(setting)]))


@pytest.mark.parametrize(
    ("flag", "key", "expected"),
    [
        ("--eval-freq", "eval_freq", 0),
        ("--save-freq", "save_freq", 0),
        ("--seed", "seed", None),
        ("--n-timesteps", "n_timesteps", 10_000_000),
        ("--num-threads", "num_threads", 0),
        ("--log-interval", "log_interval", 1_000),
    ],
)
def test_minus_one_means_what_it_means_in_rl_zoo(flag, key, expected):
    overrides = overrides_from(parse(flag, "-1"))
    assert getattr(resolve(overrides=overrides.values).config, key) == expected


@pytest.mark.parametrize("flag", ["--eval-episodes", "--n-envs"])
def test_minus_one_is_refused_where_it_has_no_meaning(flag):
    overrides = overrides_from(parse(flag, "-1"))
    message = error_of(build_config, overrides.values, overrides.flags)
    assert message.startswith(f"{flag}: ")
    [key] = overrides.values
    assert message.endswith(f"{key} must be {accepted_values(key)}, got -1")


# --- Values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1000000", 1_000_000),
        ("1_000_000", 1_000_000),
        ("1e6", 1_000_000),
        ("1.5e6", 1_500_000),
        ("2.50e1", 25),
        ("3.0", 3),
        ("0", 0),
        ("-1", -1),
    ],
)
def test_whole_numbers_are_read_in_every_usual_spelling(text, number):
    assert parse_whole_number(text) == number


@pytest.mark.parametrize("text", ["1.5", "1e-6", "1,000", "ten", "", "1e", "nan", "0x10", "1.25e1"])
def test_what_is_no_whole_number_is_refused(text):
    assert "expected a whole number such as 1000000" in error_of(parse_whole_number, text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90m", 5400.0),
        ("1h30m", 5400.0),
        ("1h30m15s", 5415.0),
        ("45s", 45.0),
        ("3600", 3600.0),
        ("1.5h", 5400.0),
        ("2d", 172_800.0),
        ("5min", 300.0),
        ("1H", 3600.0),
    ],
)
def test_durations_are_read_in_every_usual_spelling(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "0m", "-5m", "30m1h", "soon", "1:30", "1h30", "2d12", "5 weeks"]
)
def test_what_is_no_duration_is_refused(text):
    assert "expected a time above 0 such as 90m" in error_of(parse_duration, text)


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("learning_rate=1e-4", ("learning_rate", 1e-4)),
        ("learning_rate:lin_1e-4", ("learning_rate", "lin_1e-4")),
        ("crop=[0, 0, 8, 8]", ("crop", [0, 0, 8, 8])),
        ("dueling: true", ("dueling", True)),
        ("eval_epsilon=null", ("eval_epsilon", None)),
        ("algo:'x'", ("algo", "x")),
        ("policy_kwargs:dict(a=1)", ("policy_kwargs", "dict(a=1)")),
    ],
)
def test_settings_are_read_with_an_equals_sign_or_a_colon(text, setting):
    assert parse_setting(text) == setting


@pytest.mark.parametrize("text", ["gamma", "gamma=", "=1", "", "gam ma=1"])
def test_what_is_no_setting_is_refused(text):
    assert "expected key=value or key:value" in error_of(parse_setting, text)


def test_a_setting_that_is_no_yaml_is_refused():
    assert "is not a value in YAML" in error_of(parse_setting, "crop=[1, 2")


# --- From flags to settings --------------------------------------------------------------------


def test_flags_become_settings_that_remember_their_flag():
    given = (
        "-n 2e6 --protocol sb3 --n-envs 3 --seed 4 --device cpu --num-threads 5 --log-interval 6 "
        "--eval-freq 7 --eval-episodes 8 --save-freq 9 --backend gymnasium --precision bfloat16 "
        "--cuda-graph never "
        "-params gamma:0.5 batch_size=10 --set n_steps=11 --set train_freq:12"
    )
    arguments = parse(*given.split())
    overrides = overrides_from(arguments)
    assert overrides.values == {
        "n_timesteps": 2_000_000,
        "protocol": "sb3",
        "n_envs": 3,
        "seed": 4,
        "device": "cpu",
        "num_threads": 5,
        "log_interval": 6,
        "eval_freq": 7,
        "eval_episodes": 8,
        "save_freq": 9,
        "backend": "gymnasium",
        "precision": "bfloat16",
        "cuda_graph": "never",
        "gamma": 0.5,
        "batch_size": 10,
        "n_steps": 11,
        "train_freq": 12,
    }
    assert overrides.flags["n_timesteps"] == "--n-timesteps"
    assert overrides.flags["gamma"] == "--hyperparams gamma"
    assert overrides.flags["n_steps"] == "--set n_steps"
    config = resolve(overrides=overrides.values, flags=overrides.flags).config
    assert {key: getattr(config, key) for key in overrides.values} == overrides.values


def test_a_mistake_in_a_setting_names_the_flag_and_the_nearest_key():
    overrides = overrides_from(parse("--set", "gama=0.5"))
    message = error_of(lambda: resolve(overrides=overrides.values, flags=overrides.flags))
    assert message == "--set gama: unknown key 'gama'; did you mean gamma?"


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ("-n 5 --set n_timesteps=6", "--n-timesteps and --set n_timesteps"),
        ("-params gamma:1 --set gamma=0.5", "--hyperparams gamma and --set gamma"),
        ("--set gamma=1 --set gamma=1", "--set gamma and --set gamma"),
    ],
)
def test_a_key_given_twice_is_refused(arguments, flags):
    assert f"is given twice, by {flags}; keep one" in error_of(
        overrides_from, parse(*arguments.split())
    )


def test_the_flags_that_were_given_are_known_even_at_their_default():
    assert parse().given == frozenset()
    given = parse("-f", "logs", "--no-progress", "--seed", "0", "--resume")
    assert given.given == {"log_folder", "progress", "seed", "resume"}
    assert given.resume == LATEST


def test_defaults_hold_where_nothing_was_given():
    arguments = parse()
    assert str(arguments.log_folder) == "logs"
    assert arguments.print_config is False
    assert (arguments.resume, arguments.progress, arguments.env) == (None, None, None)
    assert overrides_from(arguments) == ({}, {})


@pytest.mark.parametrize("spelling", ["-c", "-conf", "--conf-file"])
def test_the_conf_file_has_all_the_spellings_in_use(spelling):
    assert str(parse(spelling, "my.yml").conf_file) == "my.yml"


@pytest.mark.parametrize("spelling", ["-params", "--hyperparams", "--hyperparameters"])
def test_hyperparameters_have_all_the_spellings_in_use(spelling):
    assert parse(spelling, "a:1", "b:2").hyperparams == [("a", 1), ("b", 2)]


# --- Resuming ----------------------------------------------------------------------------------


def test_resume_goes_with_what_cannot_change_the_run():
    flags = "--resume x -n 5 --time-limit 1h --no-progress --device cpu --num-threads 2 -f y"
    flags += " --env Pong --algo dqn --exp-id 3"
    check_flags(parse(*flags.split()))
    check_flags(parse("--resume"))


@pytest.mark.parametrize(
    "flags",
    [
        "--seed 1",
        "--set gamma=1",
        "-c x.yml",
        "-i x",
        "-tb x",
        "--print-config",
        "--eval-freq 0",
        "--protocol zoo",
    ],
)
def test_resume_refuses_what_would_change_the_run(flags):
    message = error_of(check_flags, parse("--resume", "x", *flags.split()))
    assert "cannot go with --resume, which keeps the settings of the run" in message
    check_flags(parse(*flags.split()))


def test_a_run_number_without_resume_is_refused():
    assert "--exp-id chooses the run of --resume" in error_of(check_flags, parse("--exp-id", "1"))


# --- Streams that nobody reads -----------------------------------------------------------------


def shell(command):
    line = f"exec {sys.executable} -m dqn_zoo.cli.{command}"
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["enjoy --list", "train --env Pong --algo dqn --print-config"])
def test_a_closed_stdout_is_no_error(command):
    ended = shell(f"{command} >&-")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_mistake_keeps_its_exit_code_with_every_stream_closed():
    ended = shell("train --env NoSuchGame --algo dqn >&- 2>&-")
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", "")


def test_a_reader_who_leaves_does_not_make_a_success_of_it():
    unread, pipe = os.pipe()
    os.close(unread)
    flags = ["--env", "Pong", "--algo", "dqn", "--print-config"]
    command = [sys.executable, "-m", "dqn_zoo.cli.train", *flags]
    with open(pipe, "wb") as stdout:
        ended = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_a_reader_who_leaves_is_not_taken_for_a_file_that_cannot_be_written():
    wrong = []
    for file in Path(dqn_zoo.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            types = [each.type for each in getattr(node, "handlers", ()) if each.type]
            caught = " ".join(map(ast.unparse, types))
            if "OSError" in caught and "BrokenPipeError" not in caught:
                calls = [part for line in node.body for part in ast.walk(line)]
                prints = [call for call in calls if getattr(call, "id", None) == "print"]
                wrong += [f"{file.name}:{call.lineno}" for call in prints]
    assert wrong == []


# --- Errors and help ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--n-timestep 5", "unknown flag --n-timestep; did you mean --n-timesteps?"),
        ("--resme=x", "unknown flag --resme; did you mean --resume?"),
        ("--zzz", "unknown flag --zzz; see --help"),
        (
            "--learning-rate 1e-4",
            "unknown flag --learning-rate; did you mean --set learning_rate",
        ),
        ("--gamma=0.9", "unknown flag --gamma; did you mean --set gamma=0.9?"),
        (".", "unexpected argument '.': did you mean --resume .?"),
        ("Pong", "unexpected argument 'Pong'"),
        ("x" * 300, "unexpected argument"),
        ("-n", "-n/--n-timesteps: expected one argument"),
        ("-n 1.5", "-n/--n-timesteps: expected a whole number such as 1000000"),
        ("--time-limit never", "--time-limit: expected a time above 0"),
        ("--device tpu", "--device: invalid choice: 'tpu'"),
        ("--set gamma", "--set: expected key=value or key:value, got 'gamma'"),
    ],
)
def test_a_wrong_flag_is_one_line_that_says_what_was_expected(arguments, message):
    assert error_of(build_parser().parse_args, arguments.split()).startswith(message)


def test_a_users_mistake_is_one_line_on_stderr_and_exit_code_2(capsys):
    @command
    def main(arguments):
        raise UserError("first\n  second")

    assert main() == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "error: first second\n")


def test_a_file_that_cannot_be_used_is_a_users_mistake(tmp_path, capsys):
    assert command(lambda _: (tmp_path / "missing").read_bytes())() == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'missing'}: No such file or directory\n"


def test_what_a_message_quotes_is_not_obeyed_by_the_terminal(capsys):
    @command
    def main(arguments):
        raise UserError("the file says \x1b]0;x\x07 größer")

    assert main() == 2
    assert capsys.readouterr().err == "error: the file says \\x1b]0;x\\x07 größer\n"


def test_the_exit_code_is_that_of_the_command_and_130_after_ctrl_c():
    @command
    def interrupted(arguments):
        raise KeyboardInterrupt

    assert command(lambda arguments: None)() == 0
    assert command(lambda arguments: arguments)(3) == 3
    assert interrupted() == 130


def test_a_bug_of_ours_keeps_its_traceback():
    @command
    def buggy(arguments):
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        buggy()


def test_the_help_shows_every_default_as_it_is_or_that_it_is_the_recipes():
    config, of_recipes = resolve().config, set()
    for action in build_parser()._actions:
        if action.help == "==SUPPRESS==" or action.dest == "help":
            continue
        if action.help.endswith(", and stop"):
            continue
        default = re.search(r"\(default: ([^)]*)\)", action.help)
        assert default, f"{action.option_strings} shows no default"
        if default[1] == "the recipe's":
            of_recipes.add(action.dest)
            continue
        if action.dest not in Config.model_fields or getattr(config, action.dest) is None:
            continue
        value = getattr(config, action.dest)
        shown = f"{value:,}" if isinstance(value, int) else value
        assert shown in re.split(r",? |; ", default[1])
    assert (
        {"n_timesteps", "n_envs", "precision", "eval_freq"}
        <= of_recipes
        <= Config.model_fields.keys()
    )


def test_the_examples_in_the_docs_work():
    docs = (Path(__file__).parents[2] / "docs" / "hyperparameters.md").read_text()
    [example] = re.findall(r"```yaml\n(.*?)```", docs, re.DOTALL)
    Path("mine.yml").write_text(example)
    earlier = Path("logs/dqn/Pong_1/config.yml")
    earlier.parent.mkdir(parents=True)
    earlier.write_text(dump_config(resolve(env="Pong", conf_file=Path("mine.yml")).config))
    commands = re.findall(r"^(?:\$ )?dqn-train (--env .*?)(?: +#.*)?$", docs, re.MULTILINE)
    assert len(commands) == 5
    for line in [*commands, "--env MsPacman -c mine.yml"]:
        arguments = parse(*line.split())
        overrides = overrides_from(arguments)
        resolve(
            env=arguments.env,
            algo=arguments.algo,
            conf_file=arguments.conf_file,
            overrides=overrides.values,
            flags=overrides.flags,
        )


def test_the_choices_of_flags_are_those_of_the_settings():
    schema = Config.model_json_schema()["properties"]
    for action in build_parser()._actions:
        if action.dest in schema:
            assert list(action.choices or ()) == schema[action.dest].get("enum", [])


def test_the_parser_is_there_without_the_heavy_imports():
    code = (
        "import sys; from dqn_zoo.cli.train_arguments import build_parser; "
        "build_parser().format_help(); "
        "print([m for m in ('torch', 'numpy', 'gymnasium', 'ale_py', 'cv2', 'yaml') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_recipes_and_games_are_read_without_the_heavy_imports():
    code = (
        "import sys, dqn_zoo.settings.recipes as r; r.resolve(); "
        "print([m for m in ('torch', 'numpy', 'gymnasium', 'ale_py', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
