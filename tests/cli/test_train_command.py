"""What bad input gets: one line that says what was expected, exit code 2, nothing half made."""

import contextlib
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load as load_tensors
from support.children import Child
from support.run_makers import make_run, weights_of

from dqn_zoo.cli.preview import preview
from dqn_zoo.cli.train import _report, main
from dqn_zoo.errors import UserError
from dqn_zoo.play.given import Given, check_fit
from dqn_zoo.play.weights import weights_bytes
from dqn_zoo.runs.manifest import Setup, append_invocation
from dqn_zoo.runs.run import RUN_FORMAT, Run
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.recipes import StartedFrom, load_config, resolve
from dqn_zoo.sharing.pretrained import find_pretrained, unpack_pretrained
from dqn_zoo.training.invocation import Outcome
from dqn_zoo.training.preparation import Estimate, complete

SMALL = [
    "--set=n_timesteps=120",
    "--set=learning_starts=60",
    "--set=buffer_size=100",
    "--set=batch_size=4",
    "--set=exploration_fraction=1",
    "--set=eval_freq=0",
    "--num-threads=1",
    "--no-progress",
]


@pytest.fixture
def call(tmp_path, monkeypatch, capfd):
    """Return a function that runs dqn-train in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


BAD_YAML = "atari:\n  gamma: [0.9\n"
TWICE = "atari:\n  gamma: 0.9\n  gamma: 0.95\n"
UNKNOWN_KEY = "atari:\n  gamma: 0.9\n  learning_rat: 0.1\n"
NAN = "atari:\n  gamma: .nan\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--env", "SpaceInvader"], "did you mean SpaceInvaders"),
        (["--env", "Chess"], "Chess"),
        (["--algo", "dqnn"], "did you mean dqn"),
        (["--set", "learning_rat=0.1"], "learning_rate"),
        (["--set", "gamma=2"], "gamma"),
        (["--set", "gamma=nan"], "gamma"),
        (["--set", "buffer_size=-5"], "buffer_size"),
        (["--set", "dueling=maybe"], "dueling"),
        (["--set", "batch_size"], "key=value"),
        (["-n", "0"], "n_timesteps"),
        (["-n", "many"], "whole number"),
        (["-n", "100", "--set", "learning_starts=100"], "learning_starts"),
        (["--set", "buffer_size=1e12"], "the largest that fits"),
        (["--device", "tpu"], "cuda"),
        (["--time-limit", "soon"], "90m"),
        (["--evalfreq", "5"], "did you mean --eval-freq"),
        (["--optimize"], "dqn-tune searches hyperparameters"),
        (["-c", "missing.yml"], "missing.yml"),
        (["-c", "bad.yml"], "bad.yml"),
        (["-c", "twice.yml"], "twice.yml"),
        (["-c", "unknown.yml"], "line 3"),
        (["-c", "nan.yml"], "line 2"),
        (["--resume", "logs/dqn/SpaceInvaders_7"], "SpaceInvaders_7"),
        (["--resume", "empty"], "is empty"),
        (["--resume", "newer"], "update dqn_zoo"),
        (["--resume", "newer", "--set", "gamma=0.5"], "keeps the settings"),
        (["-i", "nothing.safetensors"], "does not exist"),
        (["-i", "agent.zip"], "dqn-import agent.zip makes a run of an agent of Stable-Baselines3"),
        (["-i", "SpaceInvaders_1"], "no run 'SpaceInvaders_1' in logs"),
        (["-f", "file-not-folder", "--set", "n_envs=1"], "-f FOLDER"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_exit_code_2_and_no_run_folder(call, tmp_path, arguments, expected):
    for name, text in {
        "bad.yml": BAD_YAML,
        "twice.yml": TWICE,
        "unknown.yml": UNKNOWN_KEY,
        "nan.yml": NAN,
        "file-not-folder": "",
        "agent.zip": "",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "empty").mkdir()
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "config.yml").write_text("env: Pong\n")
    (tmp_path / "newer" / "manifest.json").write_text(json.dumps({"format": RUN_FORMAT + 1}))
    code, _, error = call(*arguments)
    assert code == 2, error
    assert len(error.strip().splitlines()) == 1, error
    assert expected in error
    assert not (tmp_path / "logs").exists()


def make_pong_run(folder: Path):
    """Leave a run of Pong with a network of its own, its weights and a checkpoint."""
    settings = {"network": "small", "loss": "c51", "v_max": 5.0, "seed": 5, "gamma": 0.9}
    run = make_run(folder, "Pong", "dqn", **settings)
    weights = weights_of(1, 100, load_config(run.config_file), num_actions=6)
    run.model_file.write_bytes(weights)
    run.checkpoint(100).mkdir(parents=True)
    (run.checkpoint(100) / run.model_file.name).write_bytes(weights)
    return run


@pytest.mark.parametrize(
    "weights",
    [
        "Pong_1",
        "dqn/Pong_1",
        "logs/dqn/Pong_1",
        "logs/dqn/Pong_1/model.safetensors",
        "logs/dqn/Pong_1/checkpoints/step_000000100",
        "logs/dqn/Pong_1/checkpoints/step_000000100/model.safetensors",
    ],
)
def test_a_run_from_given_weights_has_the_settings_of_theirs(call, tmp_path, weights):
    make_pong_run(tmp_path / "logs")
    code, output, error = call("-i", weights, "--set", "gamma=0.95", "--print-config")
    assert code == 0, error
    said = dict(re.findall(r"^  (\w+): (\S+)", output, re.MULTILINE))
    expected = {"env": "Pong", "network": "small", "loss": "c51", "v_max": "5.0", "gamma": "0.95"}
    assert {key: said[key] for key in expected} == expected
    assert said["seed"] == "null"  # every start draws its own


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--algo", "dqn"], "network nature (packaged dqn.yml, line 44) does not fit the weights"),
        (["--set", "frame_stack=2"], "frame_stack 2 (--set frame_stack) does not fit the weights"),
        (["--set", "num_atoms=21"], "whose network has num_atoms 51: leave that and --algo out"),
        (["--set", "v_max=10"], "whose network has v_max 5.0"),
        (["--set", "dueling=true"], "whose network has dueling false"),
        (["--set", "noisy_sigma=0.5"], "whose network has noisy_sigma null"),
        (["-c", "qrdqn.yml"], "loss qrdqn (qrdqn.yml, line 2) does not fit the weights of logs"),
        (["--env", "Breakout", *SMALL], "decide among 6 actions and Breakout has 4"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_what_is_given_beside_weights_has_to_fit_them(call, tmp_path, arguments, expected):
    run = make_pong_run(tmp_path / "logs")
    (tmp_path / "qrdqn.yml").write_text("atari:\n  loss: qrdqn\n  num_quantiles: 51\n")
    code, _, error = call("-i", "Pong_1", *arguments)
    assert (code, len(error.splitlines())) == (2, 1), error
    assert expected in error
    assert list(run.path.parent.iterdir()) == [run.path]


def test_weights_of_a_head_with_another_meaning_do_not_fit_although_their_shapes_do():
    given = Given(Path("model.safetensors"), StartedFrom("logs/dqn/Pong_1", config=Config()))
    check_fit(given, Config())
    with pytest.raises(
        UserError, match=r"^mean_expansion true does not fit .* mean_expansion fals"
    ):
        check_fit(given, Config(mean_expansion=True))


def test_weights_without_a_run_know_their_game_from_their_header_or_are_told_it(call, tmp_path):
    weights = weights_of(1, 100, num_actions=6)
    (tmp_path / "nobodys.safetensors").write_bytes(weights)
    code, _, error = call("-i", "nobodys.safetensors", "--print-config")
    assert (code, error) == (
        2, "error: nobodys.safetensors does not say which game it plays: add --env\n"
    )  # fmt: skip
    assert call("-i", "nobodys.safetensors", "--env", "Pong", "--print-config")[0] == 0
    about = {"env": "Pong", "algo": "dqn", "steps": 100}
    (tmp_path / "a.safetensors").write_bytes(weights_bytes(load_tensors(weights), about))
    code, output, _ = call("-i", "a.safetensors", "--print-config")
    assert (code, "env: Pong " in output) == (0, True)


def test_weights_may_start_another_game_of_as_many_actions_where_it_is_asked_for(call, tmp_path):
    make_pong_run(tmp_path / "logs")
    code, output, error = call("-i", "Pong_1", "--env", "SpaceInvaders", *SMALL)
    assert code == 0, error
    assert "note         begins with the weights of logs/dqn/Pong_1, trained on Pong" in output
    assert "finished logs/dqn/SpaceInvaders_1" in output


def test_what_a_resume_of_a_packaged_agent_advises_works(call, tmp_path):
    run = unpack_pretrained(find_pretrained("Pong"), log_folder=Path("logs"), command=["test"])
    code, _, error = call("--resume", str(run.path))
    assert code == 2
    advice = shlex.split(error[error.index("dqn-train -i") :])
    code, output, error = call(*advice[1:], *SMALL, "--set=n_envs=1")
    assert code == 0, error
    assert "laptop on Pong" in output
    assert "network      small, layer norm" in output
    assert (tmp_path / "logs/laptop/Pong_1/initial_model.safetensors").exists()


def test_a_machine_without_opencvs_libraries_is_told_what_to_install(call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    code, _, error = call("--env", "Pong", *SMALL)
    assert code == 2
    assert "error: OpenCV does not load here" in error
    assert "apt-get install libgl1 libglib2.0-0" in error
    assert not (tmp_path / "logs").exists()


def test_the_preview_says_what_will_happen_and_the_end_what_to_do_next(call):
    extra = ["--n-envs", "2", "--set", "exploration_spread=1", "--set", "averaged_weights=0.95"]
    extra += ["--set", "exploration_zeta=2", "exploration_zeta_share=0.5"]
    code, output, _ = call("--env", "pong", "--algo", "dqn", "--seed", "3", *extra, *SMALL)
    assert code == 0
    for expected in (
        "dqn on Pong, protocol zoo",
        "epsilon 1 to 0.01 ... 0.0001, each environment its own, over 120 steps; a random action "
        "for 6.0 steps on average in 1 of 2 environments",
        "average      of the weights over some 20 updates",
        "120 (480 frames)",
        "15 updates of 4, from step 60",
        "will take",
        "seed 3",
        "loss huber, bootstrap greedy, n = 1",
        "finished logs/dqn/Pong_1 at step 120",
        "dqn-enjoy --run logs/dqn/Pong_1",
    ):
        assert expected in output
    assert "where the time went" not in output
    assert "beside evaluations" not in output  # there are none
    small = [flag for flag in SMALL if "eval_freq" not in flag]
    evaluated = ["--eval-freq=120", "--eval-episodes=1", "--set=max_frames=200"]
    assert "beside evaluations" in call("--env", "pong", "--n-envs=1", *small, *evaluated)[1]


def profile_in(output: str) -> tuple[dict[str, float], float]:
    """Return the rows of the table that --profile prints, and its total."""
    table = output.split("where the time went:\n")[1]
    seconds = {
        name: float(spent) for name, spent in re.findall(r"^  (.+?) +([\d.]+) s .*%$", table, re.M)
    }
    return seconds, seconds.pop("total")


def test_the_profile_adds_up_to_the_wall_clock_of_the_command_also_of_a_resumed_run(call):
    settings = [flag for flag in SMALL if "n_timesteps" not in flag and "eval_freq" not in flag]
    logged = ["--eval-freq", "60", "--eval-episodes", "1", "--log-interval", "20"]
    first = [
        "--env",
        "Pong",
        "--algo",
        "dqn",
        "-n",
        "120",
        "--set=max_frames=200",
        *logged,
        *settings,
    ]
    for arguments, restores in ((first, False), (["--resume", "-n", "240", "--no-progress"], True)):
        began = time.perf_counter()
        code, output, error = call(*arguments, "--profile")
        wall_clock = time.perf_counter() - began
        assert code == 0, error
        seconds, total = profile_in(output)
        assert ("restoring" in seconds) is restores
        assert "sampling" in seconds  # a few milliseconds
        assert min(seconds[name] for name in ("acting", "update", "evaluation")) > 0
        assert sum(seconds.values()) == pytest.approx(total, abs=0.1)
        assert total == pytest.approx(wall_clock, rel=0.05, abs=0.5)
    run = json.loads(Path("logs/dqn/Pong_1/manifest.json").read_text())
    recorded = run["invocations"][-1]["seconds"]
    assert recorded == pytest.approx(seconds, abs=0.05)


@pytest.mark.parametrize(("n_timesteps", "hints"), [(20_000_000, True), (120, False)])
def test_a_long_run_without_a_gpu_is_pointed_to_the_recipe_for_it(n_timesteps, hints):
    changes = {"n_timesteps": n_timesteps, "learning_starts": 60, "device": "cpu"}
    resolved = resolve(env="Pong", overrides=changes)
    shown = "\n".join(preview(resolved, complete(resolved.config)))
    assert ("dqn-train --env Pong --algo laptop" in shown) is hints


@pytest.mark.parametrize(
    ("limit_s", "hint"),
    [
        (None, None),
        (1e9, None),
        (45.0, "not be done in 45 s: --resume does the rest, or --for 45s instead of --time-limit"),
        (1_800.0, "not be done in 30 min: --resume does the rest, or --for 30m instead"),
        (20.0, "not be done in 20 s: --resume does the rest\n"),
    ],
)
def test_a_time_limit_that_cuts_the_schedules_off_is_told_with_what_does_not(
    limit_s, hint, monkeypatch
):
    monkeypatch.setattr("dqn_zoo.training.preparation.estimate", lambda _: Estimate(1e5, 1e5))
    changes = {"n_timesteps": 20_000_000, "learning_starts": 60, "device": "cpu"}
    resolved = resolve(env="Pong", overrides=changes)
    shown = "\n".join([*preview(resolved, complete(resolved.config), limit_s), ""])
    assert ("it will not be done" in shown) is (hint is not None)
    assert (hint or "") in shown


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_busy_machine_is_told_with_what_helps(num_threads, monkeypatch):
    monkeypatch.setattr("dqn_zoo.training.preparation.estimate", lambda _: Estimate(60.0, 20.0))
    resolved = resolve(env="Pong", overrides={"device": "cpu", "num_threads": num_threads})
    shown = "\n".join(preview(resolved, complete(resolved.config)))
    assert "  busy         other programs slow this down at least 3.0 times" in shown
    assert ("about 20 s; --num-threads 1 loses least to them" in shown) is (num_threads > 1)


def test_a_stop_says_what_was_saved_and_how_to_watch_it(tmp_path, capsys):
    run = make_run(tmp_path, network="small")
    assert _report(Outcome(run, 0, "SIGINT"), (), {}) == 130
    assert capsys.readouterr().out.splitlines() == [
        f"stopped {run.path} at step 0 (SIGINT), with nothing to save yet",
        f"resume it: dqn-train --resume {run.path}",
    ]
    run.checkpoint(50).mkdir(parents=True)
    run.model_file.write_bytes(b"weights")
    _report(Outcome(run, 50, "SIGINT"), (), {"--device": "cpu", "--num-threads": "1"})
    assert capsys.readouterr().out.splitlines() == [
        f"stopped {run.path} at step 50 (SIGINT), saved",
        f"resume it: dqn-train --resume {run.path} --device cpu --num-threads 1",
        f"watch it: dqn-enjoy --run {run.path}",
    ]


def test_a_run_that_is_stopped_before_its_first_step_leaves_nothing_half_made(tmp_path, capsys):
    flags = ["--env=Breakout", "--algo=dqn", "--set=network=small", "--seed=3", "--num-threads=1"]
    flags += ["--set=n_timesteps=20", "--set=buffer_size=100", "--set=eval_freq=0"]
    assert main([*flags, "--no-progress", "--time-limit=0.001s", "-f", str(tmp_path)]) == 75
    run = Run(tmp_path / "dqn" / "Breakout_1")
    stopped = f"stopped {run.path} at step 0 (time_limit), with nothing to save yet"
    assert stopped in capsys.readouterr().out.splitlines()
    assert run.checkpoint_steps() == []
    left = {path.name for path in run.path.rglob("*") if path.is_file()}
    logs = {"progress.csv", "episodes.csv", "evaluations.csv"}
    begun = {"config.yml", "manifest.json", ".lock", *logs}
    assert {name for name in left if not name.startswith("events.")} == begun
    assert main(["--resume", str(run.path), "--no-progress"]) == 0
    assert run.checkpoint_steps() == [20]


def test_print_config_is_a_file_that_gives_the_same_config(call, tmp_path):
    code, printed, _ = call("--algo", "double-dqn", "--print-config", "--set", "gamma=0.97")
    assert code == 0
    assert "gamma: 0.97" in printed
    (tmp_path / "mine.yml").write_text(printed)
    code, again, _ = call("-c", "mine.yml", "--print-config")
    assert code == 0

    def values(text: str) -> list[str]:
        return [line.split("#")[0].rstrip() for line in text.splitlines()]

    assert values(again) == values(printed)
    assert not (tmp_path / "logs").exists()


def test_a_run_that_is_being_written_cannot_be_resumed(tmp_path):
    folder = ["-f", str(tmp_path)]
    long = [flag for flag in SMALL if "n_timesteps" not in flag] + ["-n", "1e6"]
    writer = Child("dqn_zoo.cli.train", ["--env", "Pong", "--algo", "dqn", *folder, *long])
    run = tmp_path / "dqn" / "Pong_1"
    deadline = time.monotonic() + 60
    while not (run / "progress.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        second = Child("dqn_zoo.cli.train", ["--resume", str(run)])
        said = second.wait(60)
    finally:
        writer.send_signal(signal.SIGTERM)
        writer.wait(60)
    assert second.returncode == 2
    assert f"process {writer.pid}" in said
    assert writer.returncode == 143


def test_help_answers_in_under_half_a_second_without_pytorch():
    arguments = [sys.executable, "-X", "importtime", "-m", "dqn_zoo.cli.train", "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "numpy", "gymnasium", "ale_py", "cv2", "matplotlib"}
    assert "--n-timesteps" in done.stdout


def test_the_page_beside_a_resume_shows_the_log_folder_from_wherever_it_is_asked(
    tmp_path, monkeypatch
):
    run, folders = make_run(tmp_path / "logs", "Breakout"), []

    def end(*_, **__):
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def page(_):
        yield folders.append

    monkeypatch.setitem(_report.__globals__, "_page", page)  # of the module that main is of
    monkeypatch.setattr("dqn_zoo.training.starting.resume", end)
    monkeypatch.chdir(run.path)
    assert main(["--resume", "."]) == 130
    assert folders == [tmp_path / "logs"]


def test_a_manifest_without_versions_goes_on(tmp_path):
    run = make_run(tmp_path)
    manifest = json.loads(run.manifest_file.read_text()) | {"versions": None}
    run.manifest_file.write_text(json.dumps(manifest))
    setup = Setup(device="cpu", num_threads=1, evaluation_threads=2, precision="float32")
    changes = append_invocation(
        run, setup, command=(), resumed_from_step=0, until_steps=1, settings=[]
    )
    assert "torch: None before" in "".join(changes)
